"""SQLite's driver for the event loop: each statement is one trip to the connection's thread and back.

aiosqlite runs a connection in a thread of its own, and SQLAlchemy goes there four times for a statement: to open a
cursor, execute, fetch and close it. Each trip is two switches of threads, which cost more than most statements here,
the more so on a busy machine. All rows are fetched in any case, so one trip does.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from typing import Any

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
    AsyncAdapt_aiosqlite_dbapi,
)


class _Cursor(AsyncAdapt_aiosqlite_cursor):
    """Executes, fetches and closes at once; afterwards it only knows what came of it."""

    __slots__ = ("_description", "_lastrowid", "_rowcount", "arraysize")

    def __init__(self, adapt_connection: AsyncAdapt_aiosqlite_connection) -> None:
        self._adapt_connection = adapt_connection
        self._connection = adapt_connection._connection
        self._rows = deque()
        self._description: Any = None
        self._lastrowid: Any = None
        self._rowcount = -1
        self.arraysize = 1

    @property
    def description(self) -> Any:
        return self._description

    @property
    def rowcount(self) -> int:
        return self._rowcount

    @property
    def lastrowid(self) -> Any:
        return self._lastrowid

    async def _execute_async(self, operation: Any, parameters: Any) -> Any:
        async with self._adapt_connection._execute_mutex:
            await self._trip("execute", operation, () if parameters is None else parameters)
        return self

    async def _executemany_async(self, operation: Any, seq_of_parameters: Any) -> Any:
        async with self._adapt_connection._execute_mutex:
            await self._trip("executemany", operation, seq_of_parameters)
        return self

    async def _trip(self, method: str, operation: Any, parameters: Any) -> None:
        connection: Any = self._connection

        def work() -> deque[Any]:
            cursor = connection._conn.cursor()
            try:
                getattr(cursor, method)(operation, parameters)
                self._description, self._lastrowid = cursor.description, cursor.lastrowid
                rows = deque(cursor.fetchall()) if cursor.description else deque()
                self._rowcount = cursor.rowcount  # of INSERT … RETURNING it is known once all rows are fetched
                return rows
            finally:
                cursor.close()

        self._rows = await connection._execute(work)

    async def _async_soft_close(self) -> None:
        """It is closed."""

    def close(self) -> None:
        self._rows.clear()


class _Connection(AsyncAdapt_aiosqlite_connection):
    __slots__ = ()

    _cursor_cls: Any = _Cursor


class Driver(AsyncAdapt_aiosqlite_dbapi):
    """For `create_async_engine(…, module=Driver())`."""

    def __init__(self) -> None:
        super().__init__(aiosqlite, sqlite3)

    def connect(self, *args: Any, **options: Any) -> AsyncAdapt_aiosqlite_connection:
        adapted = super().connect(*args, **options)
        return _Connection(self, adapted._connection)
