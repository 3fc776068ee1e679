"""SQLite's driver for the event loop: a transaction is one visit to the connection's thread and back; outside of one,
each statement is.

aiosqlite runs a connection in a thread of its own, and SQLAlchemy goes there four times for a statement: to open a
cursor, execute, fetch and close it. Each trip is two switches of threads, which cost more than most statements here,
the more so on a busy machine. All rows are fetched in any case, so one trip does.

A transaction that is given as a coroutine is carried out there as a whole (`visit`): it awaits nothing but its own
statements, and in that thread those never suspend.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from threading import get_ident
from typing import Any, TypeGuard, TypeVar, cast

import aiosqlite
from sqlalchemy import Connection, CursorResult, Dialect, Executable
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
    AsyncAdapt_aiosqlite_dbapi,
)
from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")


async def visit(conn: AsyncConnection, work: Callable[[AsyncConnection], Coroutine[Any, Any, T]]) -> T:
    """The result of `work`, carried out as one transaction in the thread of `conn`, which is in none yet.

    Raises what `work` raises, and RuntimeError when it awaits anything but statements on the connection that it is
    given; then nothing was done.
    """
    (result,) = await visit_together(conn, [(copy_context(), work)])
    return result


async def visit_together(
    conn: AsyncConnection, works: Sequence[tuple[Context, Callable[[AsyncConnection], Coroutine[Any, Any, T]]]]
) -> list[T]:
    """The results of several, carried out one after the other, each in its context, as one transaction: what one of
    them raises undoes all.
    """
    connection: Any = (await conn.get_raw_connection()).driver_connection
    there = conn.sync_connection
    assert there is not None  # noqa: S101 - it was opened
    results: list[T] = await connection._execute(_transact, there, works)
    return results


def is_visiting(conn: object) -> TypeGuard[Visited]:
    """Whether this is the connection of a visit's work: its statements are carried out where they are given."""
    return isinstance(conn, Visited)


def _transact(
    conn: Connection, works: Sequence[tuple[Context, Callable[[AsyncConnection], Coroutine[Any, Any, T]]]]
) -> list[T]:
    with conn.begin():
        return [context.run(_carry_out, conn, work) for context, work in works]


def _carry_out(conn: Connection, work: Callable[[AsyncConnection], Coroutine[Any, Any, T]]) -> T:
    coroutine = work(cast("AsyncConnection", Visited(conn)))
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        coroutine.close()
    raise RuntimeError("a transaction awaited something that is no statement of its own")


class Visited:
    """A connection in its own thread: what the statements of a transaction use of an AsyncConnection, and nothing of it
    ever suspends.
    """

    __slots__ = ("_conn",)

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    @property
    def dialect(self) -> Dialect:
        return self._conn.dialect

    @property
    def driver_connection(self) -> Any:
        """What `get_raw_connection` would lead to."""
        return self._conn.connection.driver_connection

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        return self._conn.execute(statement, parameters)

    async def exec_driver_sql(self, statement: str, parameters: Any = None) -> CursorResult[Any]:
        return self._conn.exec_driver_sql(statement, parameters)

    async def run_sync(self, work: Callable[..., T], *arguments: Any) -> T:
        return work(self._conn, *arguments)


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

    def execute(self, operation: Any, parameters: Any = None) -> Any:
        if not _is_here(self._connection):
            return super().execute(operation, parameters)
        try:
            self._rows = self._work("execute", operation, () if parameters is None else parameters)
        except Exception as error:  # noqa: BLE001 - told as SQLAlchemy's own driver tells it
            self._adapt_connection._handle_exception(error)
        return self

    def executemany(self, operation: Any, seq_of_parameters: Any) -> Any:
        if not _is_here(self._connection):
            return super().executemany(operation, seq_of_parameters)
        try:
            self._rows = self._work("executemany", operation, seq_of_parameters)
        except Exception as error:  # noqa: BLE001 - told as SQLAlchemy's own driver tells it
            self._adapt_connection._handle_exception(error)
        return self

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
        self._rows = await connection._execute(self._work, method, operation, parameters)

    def _work(self, method: str, operation: Any, parameters: Any) -> deque[Any]:
        connection: Any = self._connection
        cursor = connection._conn.cursor()
        try:
            getattr(cursor, method)(operation, parameters)
            self._description, self._lastrowid = cursor.description, cursor.lastrowid
            rows = deque(cursor.fetchall()) if cursor.description else deque()
            self._rowcount = cursor.rowcount  # of INSERT … RETURNING it is known once all rows are fetched
            return rows
        finally:
            cursor.close()

    async def _async_soft_close(self) -> None:
        """It is closed."""

    def close(self) -> None:
        self._rows.clear()


class _Connection(AsyncAdapt_aiosqlite_connection):
    __slots__ = ()

    _cursor_cls: Any = _Cursor

    def commit(self) -> None:
        """Commit, or undo everything: what SQLite refuses to commit stays open, and SQLAlchemy takes it for ended."""
        try:
            if _is_here(self._connection):
                self._connection._conn.commit()
            else:
                super().commit()
        except Exception as error:  # noqa: BLE001 - told as SQLAlchemy's own driver tells it
            with contextlib.suppress(Exception):
                self.rollback()
            self._handle_exception(error)

    def rollback(self) -> None:
        if not _is_here(self._connection):
            super().rollback()
            return
        try:
            self._connection._conn.rollback()
        except Exception as error:  # noqa: BLE001 - told as SQLAlchemy's own driver tells it
            self._handle_exception(error)


def _is_here(connection: Any) -> bool:
    """Whether this is the connection's own thread."""
    return bool(connection._thread.ident == get_ident())


class Driver(AsyncAdapt_aiosqlite_dbapi):
    """For `create_async_engine(…, module=Driver())`."""

    def __init__(self) -> None:
        super().__init__(aiosqlite, sqlite3)

    def connect(self, *args: Any, **options: Any) -> AsyncAdapt_aiosqlite_connection:
        adapted = super().connect(*args, **options)
        return _Connection(self, adapted._connection)
