"""Connections and transactions on SQLite and PostgreSQL.

Theory. SQLAlchemy drops FOR UPDATE, FOR SHARE and SKIP LOCKED on SQLite without a word, and a deferred BEGIN that
later writes fails with BUSY_SNAPSHOT, which busy_timeout does not retry. So on SQLite every write transaction begins
with BEGIN IMMEDIATE, on one connection per process behind a fair queue; locks on rows are then implied by the lock on
the file. Another process (a command beside `serve`) waits by busy_timeout. Readers have their own connections (WAL: a
reader never waits for the writer) and can't write (`query_only`).

On PostgreSQL a write transaction is READ COMMITTED, so a statement sees what was committed before it began: judging
again after a lock means judging in a new statement.

Invariants:
1. No transaction spans a network await: callers gather first, then open one, then leave it.
2. What is numbered or counted (events, log entries, usage) is written at the very end of a transaction under the lock
   of `tenant_heads`, tenants in order.
3. An exception inside the block rolls everything back, what was buffered included.
4. A transaction of `transact` on SQLite is never cut by a cancellation: SQLAlchemy closes the connection of a cancelled
   statement, and a connection that is closed over an open cursor (INSERT … RETURNING) keeps its lock on the file until
   the garbage collector comes by. It ends in its own order, and only then is the caller told that it was cancelled.
5. What is given to `query`, and to `transact` with `at_once`, awaits nothing but statements on the connection that it
   is given: on SQLite it runs as a whole in that connection's thread, where nothing else can be waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from typing import Any, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mailgate.errors import ConfigurationError
from mailgate.store.group_commit import GroupCommit, Work, to_its_end
from mailgate.store.sqlite_driver import Driver, visit, visit_together
from mailgate.store.transaction import Transaction

T = TypeVar("T")

SQLITE_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA cache_size=-8192",  # 8 MiB; the system caches the file: 16 made nothing faster
    "PRAGMA wal_autocheckpoint=8192",  # 32 MB of log before pages move to the file: a batch is not checkpointed alone
)
# A batch of a purge out of a large database changes three to seven pages for each copy, found by random keys: more than
# 8 MiB of them, which then would be written twice, and most again and again before the log is moved to the file.
_ROOMY = ("PRAGMA cache_size=-16384", "PRAGMA wal_autocheckpoint=32768")
_USUAL = tuple(one for one in SQLITE_PRAGMAS if one.partition("=")[0] in {room.partition("=")[0] for room in _ROOMY})

# Lock conflicts that PostgreSQL resolves by ending one side: safe to repeat, since nothing was committed.
_RETRIABLE = frozenset({"40001", "40P01"})
_READ_ONLY = "25006"
_ATTEMPTS = 5
# What may stand behind the question mark of a PostgreSQL URL: what the driver takes as text, and what it is made of
# otherwise, which stands there when the server listens on a socket of the file system.
_OPTIONS = frozenset({"host", "port", "user", "password", "ssl", "sslmode", "passfile", "target_session_attrs"})
_OPTIONS |= {"prepared_statement_cache_size"}  # SQLAlchemy's: 0 where a pooler shares connections
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TRUNCATE_EVERY_S = 0.1


def async_url(url: str) -> URL:
    """The URL with the asyncio driver filled in. Raises ConfigurationError for anything but SQLite and PostgreSQL."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            "database.url is not a database URL; write sqlite:///path or postgresql://user@host/name"
        ) from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return parsed.set(drivername="sqlite+aiosqlite")
    if backend == "postgresql":
        return _with_options(parsed.set(drivername="postgresql+asyncpg"))
    raise ConfigurationError(f"database.url: {backend} is not supported; use sqlite or postgresql")


def _with_options(url: URL) -> URL:
    """The options of a PostgreSQL URL as the driver calls them: everybody else writes `sslmode`, it takes `ssl`."""
    if unknown := sorted(set(url.query) - _OPTIONS):
        raise ConfigurationError(
            f"database.url has the option {unknown[0]}, which is not known; there are {', '.join(sorted(_OPTIONS))}"
        )
    given = url.query.get("sslmode")
    if given is None:
        return url
    if given not in _SSL_MODES:
        raise ConfigurationError(f"database.url: sslmode must be one of {', '.join(_SSL_MODES)}")
    return url.difference_update_query(["sslmode"]).update_query_dict({"ssl": given})


class Database:
    """One database as one process uses it. Make it inside a running event loop; `close` when done."""

    def __init__(self, url: str, *, pool_size: int = 8, busy_timeout_s: float = 30.0) -> None:
        self.url = async_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self._busy_timeout_s = busy_timeout_s
        if self.sqlite:
            self._writer = _sqlite_engine(
                self.url, pool_size=1, busy_timeout_s=busy_timeout_s, begin="BEGIN IMMEDIATE", query_only=False
            )
            self._reader = _sqlite_engine(
                self.url, pool_size=pool_size, busy_timeout_s=busy_timeout_s, begin="BEGIN", query_only=True
            )
        else:
            self._writer = self._reader = create_async_engine(
                self.url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True
            )
            event.listen(self._writer.sync_engine, "handle_error", _leave_read_only)
        self.on_events: Callable[[], None] | None = None  # called when a commit of this process brought events
        self._turn = asyncio.Lock()  # asyncio's locks are fair: first come, first served
        self._bulk = asyncio.Lock()
        self._small = GroupCommit(self._turn, self._visit_writer)

    async def close(self) -> None:
        """Close every connection. No transaction may be open."""
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading, one snapshot on SQLite, READ COMMITTED statements on PostgreSQL."""
        async with self._reader.connect() as conn, conn.begin():
            yield conn

    async def query(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """The result of `work` on a connection as `read` gives it. On SQLite all of it is one visit to another thread,
        where `read` makes one for each statement: for small reads on which somebody waits. A cancellation waits for it.
        """
        if self.sqlite:
            return await to_its_end(self._visit_reader(work))
        async with self.read() as conn:
            return await work(conn)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """One write transaction: commits when the block ends, rolls back when it raises."""
        if self.sqlite:
            async with self._turn, self._begun() as tx:
                yield tx
        else:
            async with self._begun() as tx:
                yield tx

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[Transaction]:
        async with self._writer.begin() as conn:
            tx = Transaction(conn, sqlite=self.sqlite, on_events=self._announce)
            yield tx
            await tx.flush()
        tx.committed()

    async def transact(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        at_once: bool = False,
        bulk: bool = False,
        long: bool = False,
    ) -> T:
        """Run `work` in a write transaction, again when PostgreSQL ended it to resolve a deadlock, or SQLite because of
        another that was to be committed with it. `work` must be repeatable.

        On SQLite a cancellation takes effect before the transaction or after it, never inside; and with `at_once` all
        of it is one visit to the writer's thread, instead of one for each statement, together with others that wait
        (`group_commit`), unless it is `long`. `bulk`: it is one of many, long and in no hurry; only one of those stands
        in the writer's queue, so that everybody else waits for one at most.
        """
        if self.sqlite and at_once and not bulk and not long:
            result: T = await self._small.run(work)
            return result
        if self.sqlite:
            async with self._bulk if bulk else contextlib.nullcontext(), self._turn:
                return await to_its_end(self._visited(work) if at_once else self._made(work))
        for attempt in range(_ATTEMPTS):
            try:
                return await self._made(work)
            except DBAPIError as error:
                if attempt == _ATTEMPTS - 1 or getattr(error.orig, "sqlstate", None) not in _RETRIABLE:
                    raise
        raise AssertionError("unreachable")

    async def _made(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        async with self._begun() as tx:
            return await work(tx)

    async def _visit_reader(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async def whole(conn: AsyncConnection) -> T:
            return await work(conn)

        async with self._reader.connect() as conn:
            return await visit(conn, whole)

    async def _visited(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        result: T
        (result,) = await self._visit_writer([(copy_context(), work)])
        return result

    async def _visit_writer(self, works: Sequence[tuple[Context, Work]]) -> list[Any]:
        """Their results, as one transaction."""

        def whole(work: Work) -> Callable[[AsyncConnection], Coroutine[Any, Any, tuple[Transaction, Any]]]:
            async def made(conn: AsyncConnection) -> tuple[Transaction, Any]:
                tx = Transaction(conn, sqlite=True, on_events=self._announce)
                result = await work(tx)
                await tx.flush()
                return tx, result

            return made

        async with self._writer.connect() as conn:
            done = await visit_together(conn, [(context, whole(work)) for context, work in works])
        for tx, _ in done:
            tx.committed()
        return [result for _, result in done]

    def _announce(self) -> None:
        if self.on_events is not None:
            self.on_events()

    @asynccontextmanager
    async def roomy(self) -> AsyncIterator[None]:
        """SQLite: while the block runs the writer has 8 MiB more memory, and its log may take 128 MB of disk instead
        of 32: for long work that changes pages everywhere. Without an effect on PostgreSQL.
        """
        if not self.sqlite:
            yield
            return
        await self._set_writer(_ROOMY)
        try:
            yield
        finally:
            await self._set_writer([*_USUAL, "PRAGMA shrink_memory"])

    async def _set_writer(self, pragmas: Sequence[str]) -> None:
        async with self._turn, self._writer.connect() as conn:
            connection = (await conn.get_raw_connection()).driver_connection
            for pragma in pragmas:
                await _execute_outside_transaction(connection, pragma)

    async def truncate_wal(self) -> bool:
        """SQLite: move the write-ahead log into the file and empty it, so that what was purged does not linger
        there. False when somebody read longer than busy_timeout, and the log was left as it is. Nobody waits for that.
        """
        if not self.sqlite:
            return True
        # SQLite waits for readers with the lock that writers need: it may do so for a moment only, again and again.
        for _ in range(max(1, round(self._busy_timeout_s / _TRUNCATE_EVERY_S))):
            if await self._truncate_now():
                return True
            await asyncio.sleep(_TRUNCATE_EVERY_S)
        return False

    async def _truncate_now(self) -> bool:
        async with self._turn, self._writer.connect() as conn:
            connection = (await conn.get_raw_connection()).driver_connection
            await _execute_outside_transaction(connection, "PRAGMA busy_timeout=0")
            try:
                rows = await _execute_outside_transaction(connection, "PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                usual = f"PRAGMA busy_timeout={round(self._busy_timeout_s * 1_000)}"
                await _execute_outside_transaction(connection, usual)
        return not rows[0][0]  # (busy, pages in the log, pages moved): being busy is no error to SQLite


def _leave_read_only(context: ExceptionContext) -> None:
    """A session that may only read may stay so for its whole life, long after another one could write: a primary that
    became a standby keeps its sessions, and a database's default counts when they begin. So it is not used again.
    """
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


async def _execute_outside_transaction(connection: Any, statement: str) -> list[Any]:
    cursor = await connection.execute(statement)
    rows = list(await cursor.fetchall())
    await cursor.close()
    return rows


def _sqlite_engine(url: URL, *, pool_size: int, busy_timeout_s: float, begin: str, query_only: bool) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        connect_args={"timeout": busy_timeout_s},
        module=Driver(),
        pool_reset_on_return=None,  # every transaction here is ended by its own block
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver shall not begin transactions by itself
        cursor = connection.cursor()
        for pragma in SQLITE_PRAGMAS:
            cursor.execute(pragma)
        if query_only:
            cursor.execute("PRAGMA query_only=ON")
            cursor.execute("PRAGMA cache_size=-2048")  # there are many of them: 2 MiB each; the system caches the file
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


if sqlite3.sqlite_version_info < (3, 35):  # RETURNING, and upserts with it
    raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old: mailgate needs 3.35 or later")
