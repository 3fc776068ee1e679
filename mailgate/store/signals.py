"""How processes over one PostgreSQL wake each other: NOTIFY and LISTEN (its manual, "NOTIFY").

Nothing depends on a signal: what it announces stands in the database and is looked for once in a while anyway. NOTIFY
is sent in a transaction of its own, after the commit that it tells of: inside of that one it would make every commit of
the database wait for one lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from mailgate.store.database import Database
from mailgate.troubles import Trouble

CHANNEL: Final = "mailgate_feed"
WAITING: Final = "waiting"
"""Events were committed that have no place yet."""
GIVEN: Final = "given"
"""Events have their places."""

_ALIVE_S: Final = 30.0
_PATIENCE_S: Final = 10.0

_log = structlog.get_logger("mailgate.signals")


class Signals:
    """Sends to all processes, and hears them on a connection of its own."""

    def __init__(self, db: Database, *, retry_s: float = 1.0) -> None:
        self._db = db
        self._retry_s = retry_s

    async def send(self, word: str) -> None:
        """Tell every process that listens."""
        async with self._db.read() as conn:
            await conn.execute(select(func.pg_notify(CHANNEL, word)))

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard` with each word, for ever. It is called with both after each gap in which some may have been
        missed.
        """
        engine = create_async_engine(self._db.url, poolclass=NullPool)
        trouble = Trouble()
        try:
            while True:
                try:
                    async with engine.connect() as conn:
                        await self._hear((await conn.get_raw_connection()).driver_connection, heard, trouble)
                except (SQLAlchemyError, OSError) as error:
                    why = type(error).__name__
                    if trouble.met(why):
                        _log.warning("listening_interrupted", error=why)
                await asyncio.sleep(max(self._retry_s, trouble.pause_s))
        finally:
            await engine.dispose()

    @staticmethod
    async def _hear(connection: Any, heard: Callable[[str], None], trouble: Trouble) -> None:
        """Until the connection ends."""
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _connection: ended.set())

        def take(_connection: Any, _pid: int, _channel: str, word: str) -> None:
            heard(word)

        await connection.add_listener(CHANNEL, take)
        trouble.over()
        heard(WAITING)
        heard(GIVEN)
        while not ended.is_set():
            try:
                async with asyncio.timeout(_ALIVE_S):
                    await ended.wait()
            except TimeoutError:
                async with asyncio.timeout(_PATIENCE_S):  # a line that died silently delivers nothing any more
                    await connection.fetchval("SELECT 1")
