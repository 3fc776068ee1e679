"""Databases for tests: `database_url` runs a test on SQLite and on PostgreSQL, each time with a migrated, empty
database.

PostgreSQL is a cluster of our own in a temporary folder, on a free port of 127.0.0.1, ended by process id. Durability
is off, since nothing of it outlives the run; tests that kill the gateway still see what it committed, because the
server lives on. Its migrated databases are emptied and lent again: making and dropping one takes longer than most tests
do.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
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
DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "shared_buffers": "128MB",
}
"""As PostgreSQL comes: what a measurement needs that is to say something."""


_END_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_USED = """
SELECT format('%I', relname), format('DELETE FROM %I', relname) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
  AND pg_relation_size(oid) > 0
"""
_FIRST_NUMBERS = "SELECT setval(format('%I', sequencename)::regclass, start_value, false) FROM pg_sequences"
_SHAPE = """
SELECT md5(string_agg(line, chr(10) ORDER BY line)) FROM (
  SELECT concat_ws(' ', c.oid, relname, relkind, attnum, attname, atttypid, atttypmod, attnotnull, attisdropped) AS line
    FROM pg_class c LEFT JOIN pg_attribute ON attrelid = c.oid WHERE relnamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(' ', conrelid, conname, contype, convalidated) FROM pg_constraint
  UNION ALL SELECT concat_ws(' ', tgrelid, tgname, tgenabled) FROM pg_trigger
  UNION ALL SELECT concat_ws(' ', ev_class, rulename, ev_enabled) FROM pg_rewrite
  UNION ALL SELECT concat_ws(' ', oid, proname, md5(prosrc)) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  UNION ALL SELECT version_num FROM alembic_version
) AS lines
"""
"""What a test could change of a database apart from rows; the same in all copies of one template."""


def _folders() -> list[str]:
    """Debian's folders of PostgreSQL programs, newest version first; they are not on the PATH."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    return [str(path) for path in sorted(versions, key=lambda path: float(path.parent.name), reverse=True)]


class _Copy:
    """A database that is lent to test after test, with a connection of its own for emptying it.

    The connection lives on a loop and a thread of its own, because a fixture may or may not be inside a running loop.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        # Rows that others refer to may go before those.
        settings = {"session_replication_role": "replica"}
        self._connection: asyncpg.Connection = self._await(asyncpg.connect(url, server_settings=settings))
        self._shape = self._await(self._connection.fetchval(_SHAPE))

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _empty(self) -> bool:
        line = self._connection
        await line.execute(_END_OTHERS)
        used = await line.fetch(_USED)
        if used:
            # Not TRUNCATE, which makes new files for every table and index. VACUUM gives the pages back, so that rows
            # of the next test stand in the order in which it writes them.
            await line.execute(";".join(delete for _, delete in used))
            await line.execute(f"VACUUM {', '.join(table for table, _ in used)}")
        await line.execute(_FIRST_NUMBERS)
        return bool(await line.fetchval(_SHAPE) == self._shape)

    def emptied(self) -> bool:
        """Ends all other sessions and empties the tables; false when a test changed more than rows."""
        try:
            return bool(self._await(self._empty()))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False

    def close(self) -> None:
        """Ends the connection."""
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            self._await(self._connection.close(timeout=10))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Postgres:
    """A running cluster; `create` makes databases in it. Superuser `postgres`, no password, loopback only."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, initdb: Sequence[str] = ()) -> None:
        self._made_with = initdb
        self._settings = _SETTINGS | dict(settings or {})
        self._initdb, self._postgres, self._psql = (
            find_program(name, *_folders()) for name in ("initdb", "postgres", "psql")
        )
        if not (self._initdb and self._postgres and self._psql):
            leave_out("PostgreSQL", "postgresql")
        self.folder = folder
        self._names = itertools.count(1)
        self._lent: dict[str, _Copy] = {}
        self._free: list[_Copy] = []
        if not (folder / "data").exists():
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
                *self._made_with,
            ],
            self.folder / "initdb.log",
            user=user,
        )
        if initdb.process.wait(200) != 0:
            raise RuntimeError(f"initdb failed:\n{initdb.tail()}")

    def start(self, port: int | None = None) -> None:
        assert self._postgres is not None
        for attempt in range(3):
            self.port = port or free_port()
            options = [argument for name, value in self._settings.items() for argument in ("-c", f"{name}={value}")]
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

    def go_on(self) -> None:
        """What an init system does: start it where it ended by itself; it may also be about to restart itself."""
        while not self._query("postgres", "SELECT 1", check=False):
            if self._server.process.poll() is not None:
                self.start(self.port)

    def stop(self) -> None:
        for copy in self._free:
            copy.close()
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

    def lend(self, template: str) -> str:
        """A database equal to `template`, whose tables are empty, until it is `returned`."""
        copy = self._free.pop() if self._free else self._copy(template)
        self._lent[copy.name] = copy
        return copy.name

    def _copy(self, template: str) -> _Copy:
        name = self.create(template=template)
        return _Copy(name, self.url(name))

    def returned(self, name: str) -> None:
        """Empties a database that was lent. One that a test changed in more than its rows is forgotten."""
        copy = self._lent.pop(name)
        if copy.emptied():
            self._free.append(copy)
        else:
            copy.close()
            self.drop(name)

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
def postgres_template(postgres: Postgres) -> str:
    """The database that the others are copies of."""
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
def postgresql_url(postgres: Postgres, postgres_template: str) -> Iterator[str]:
    """A migrated, empty PostgreSQL database. Use it in tests marked `postgresql`."""
    name = postgres.lend(postgres_template)
    yield postgres.url(name)
    postgres.returned(name)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The test runs twice: on a SQLite database and on a PostgreSQL one of its own, both migrated and empty."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


before_the_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what is refused before any statement could differ: it runs on SQLite only. Where nothing refuses it any more,
SQLite, which takes anything, says so.
"""


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
