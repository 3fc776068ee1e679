"""Databases for tests: `database_url` runs a test on SQLite and on PostgreSQL, each time with a new, migrated, empty
database.

PostgreSQL is a cluster of our own in a temporary folder, on a free port of 127.0.0.1, ended by process id. Durability
is off, since nothing of it outlives the run; tests that kill the gateway still see what it committed, because the
server lives on.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Server, find_program, free_port, give, leave_out, service_user

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "deadlock_timeout": "200ms",
    # A server on a machine in another time zone must make no difference.
    "timezone": "Asia/Kathmandu",
}


def _folders() -> list[str]:
    """Debian's folders of PostgreSQL programs, newest version first; they are not on the PATH."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    return [str(path) for path in sorted(versions, key=lambda path: float(path.parent.name), reverse=True)]


class Postgres:
    """A running cluster; `create` makes databases in it. Superuser `postgres`, no password, loopback only."""

    def __init__(self, folder: Path) -> None:
        self._initdb, self._postgres, self._psql = (
            find_program(name, *_folders()) for name in ("initdb", "postgres", "psql")
        )
        if not (self._initdb and self._postgres and self._psql):
            leave_out("PostgreSQL", "postgresql")
        self.folder = folder
        self._names = itertools.count(1)
        self._make_cluster()
        self.start()

    def _make_cluster(self) -> None:
        user = service_user()
        give(self.folder, user=user)
        assert self._initdb is not None
        initdb = Server(
            [
                self._initdb,
                "-D",
                str(self.folder / "data"),
                "-U",
                "postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
            self.folder / "initdb.log",
            user=user,
        )
        if initdb.process.wait(60) != 0:
            raise RuntimeError(f"initdb failed:\n{initdb.tail()}")

    def start(self) -> None:
        assert self._postgres is not None
        for attempt in range(3):
            self.port = free_port()
            options = [argument for name, value in _SETTINGS.items() for argument in ("-c", f"{name}={value}")]
            # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients.
            self._server = Server(
                [self._postgres, "-D", str(self.folder / "data"), "-p", str(self.port), *options],
                self.folder / "postgres.log",
                user=service_user(),
                stop_signal=signal.SIGINT,
            )
            try:
                self._server.wait_until(lambda: self._query("postgres", "SELECT 1", check=False))
            except RuntimeError:
                if attempt == 2 or "Address already in use" not in self._server.tail():
                    raise
            else:
                return

    def stop(self) -> None:
        self._server.stop()

    def _query(self, database: str, sql: str, *, check: bool = True) -> bool:
        assert self._psql is not None
        done = subprocess.run(
            [self._psql, "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql, self.url(database)],
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{sql}: {done.stderr}")
        return done.returncode == 0

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, *, template: str | None = None) -> str:
        """A new database, empty or a copy of `template`; returns its name."""
        name = f"test_{next(self._names)}"
        self._query("postgres", f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return name

    def drop(self, name: str) -> None:
        """Forgets a database, also while connections to it are open (a killed process leaves some for a moment)."""
        self._query("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def migrate(url: str) -> None:
    """Brings the database to the newest schema, as `mailgate migrate` does. Runs beside whatever event loop the caller
    has.
    """
    from mailgate.store.migrate import upgrade

    failures: list[BaseException] = []

    def run() -> None:
        try:
            result = upgrade(url)
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of the test run's own."""
    folder = Path(tempfile.mkdtemp(prefix="mailgate-postgres-"))
    try:
        cluster = Postgres(folder)
        yield cluster
        cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _postgres_template(postgres: Postgres) -> str:
    name = postgres.create()
    migrate(postgres.url(name))
    return name


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite-template") / "mailgate.db"
    migrate(f"sqlite:///{path}")
    leftovers = [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]
    assert not any(leftover.exists() and leftover.stat().st_size for leftover in leftovers), (
        "the migration left an open connection"
    )
    return path


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """A new, migrated, empty SQLite database."""
    path = tmp_path / "mailgate.db"
    shutil.copyfile(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgresql_url(postgres: Postgres, _postgres_template: str) -> Iterator[str]:
    """A new, migrated, empty PostgreSQL database. Use it in tests marked `postgresql`."""
    name = postgres.create(template=_postgres_template)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The test runs twice: on a new SQLite database and on a new PostgreSQL one, both migrated and empty."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """As `database_url`, but without any table: for the tests of the migrations themselves."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'mailgate.db'}"
        return
    cluster: Postgres = request.getfixturevalue("postgres")
    name = cluster.create()
    yield cluster.url(name)
    cluster.drop(name)
