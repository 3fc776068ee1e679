"""Bring a database to the newest schema. Safe to call from several processes at once and again at any time.

Migrations run in one transaction each way: on PostgreSQL under an advisory lock, on SQLite under BEGIN IMMEDIATE, so
that a kill leaves the old schema or the new one, and two processes never both migrate.

Whether there is anything to do is known without Alembic, which is loaded to migrate only: `serve` never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from sqlite3 import OperationalError
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from mailgate.errors import ConfigurationError
from mailgate.store.database import SQLITE_PRAGMAS, async_url

if TYPE_CHECKING:
    from alembic.config import Config

_ADVISORY_LOCK = 0x6D61696C67617465  # "mailgate"
_ATTEMPTS = 200
_PAUSE_S = 0.05
_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(url: str) -> None:
    """Migrate the database at `url` to the newest schema, making a SQLite file when there is none. Blocks; call it
    outside an event loop.
    """
    asyncio.run(_run(url, _upgrade))


def current(url: str) -> str | None:
    """The revision that the database is at, or None when it has no schema yet. Blocks."""
    revision: str | None = asyncio.run(_run(url, _current))
    return revision


def newest() -> str:
    """The revision that this program needs: the number that the last migration's file begins with."""
    found = [path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9][0-9][0-9][0-9]_*.py")]
    if not found:
        raise ConfigurationError("the program's migrations are missing; reinstall it")
    return max(found)


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration without a file."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(_MIGRATIONS))
    made.attributes["connection"] = connection
    return made


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return revision


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    found = _current(connection)
    script = ScriptDirectory.from_config(config())
    if found is not None and found not in {revision.revision for revision in script.walk_revisions()}:
        raise ConfigurationError(
            f"the database has schema {found}, which is newer than this program; install a newer mailgate"
        )
    command.upgrade(config(connection), "head")


def _execute(cursor: Any, pragma: str) -> None:
    """Of several that give a new file its write-ahead log at once, SQLite refuses all but one without waiting: each
    holds what another waits for.
    """
    for last in (*[False] * _ATTEMPTS, True):
        try:
            cursor.execute(pragma)
        except OperationalError as error:
            if last or "locked" not in str(error):
                raise
            time.sleep(_PAUSE_S)
        else:
            return


async def _run(url: str, work: Any) -> Any:
    parsed = async_url(url)
    engine = create_async_engine(parsed)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database not in (None, "", ":memory:"):
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)

        @event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _record: object) -> None:
            connection.isolation_level = None
            with contextlib.closing(connection.cursor()) as cursor:
                cursor.execute("PRAGMA busy_timeout=60000")
                for pragma in SQLITE_PRAGMAS:
                    _execute(cursor, pragma)

        @event.listens_for(engine.sync_engine, "begin")
        def start(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()
