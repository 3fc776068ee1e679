"""SQLite's driver: one trip a statement, and everything that SQLAlchemy asks of a cursor all the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.store.database import Database
from mailgate.store.transaction import Transaction

_things = Table("things", MetaData(), Column("id", Integer, primary_key=True), Column("name", String, unique=True))


@pytest.fixture
async def db(sqlite_url: str) -> AsyncIterator[Database]:
    database = Database(sqlite_url)

    async def make(tx: Transaction) -> None:
        await tx.conn.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"))

    await database.transact(make)
    yield database
    await database.close()


async def test_rows_counts_and_ids(db: Database) -> None:
    async def work(tx: Transaction) -> None:
        one = await tx.conn.execute(insert(_things).values(name="one"))
        assert one.inserted_primary_key == (1,)
        many = await tx.conn.execute(insert(_things), [{"name": "two"}, {"name": "three"}])
        assert many.rowcount == 2
        changed = update(_things).where(_things.c.id > 1).values(name=_things.c.name + "!")
        returned = await tx.conn.execute(changed.returning(_things.c.id, _things.c.name))
        assert sorted(returned.all()) == [(2, "two!"), (3, "three!")]
        assert (await tx.conn.execute(update(_things).values(name=_things.c.name))).rowcount == 3

    await db.transact(work)
    async with db.read() as conn:
        rows = await conn.execute(select(_things).order_by(_things.c.id))
        assert list(rows.keys()) == ["id", "name"]
        assert rows.first() == (1, "one")
        assert (await conn.execute(select(_things.c.id).where(_things.c.id > 5))).all() == []
        streamed = [row.id async for row in await conn.stream(select(_things).order_by(_things.c.id))]
        assert streamed == [1, 2, 3]


async def test_what_the_database_refuses_is_told_as_before(db: Database) -> None:
    async def twice(tx: Transaction) -> None:
        await tx.conn.execute(insert(_things), [{"name": "same"}, {"name": "same"}])

    with pytest.raises(IntegrityError):
        await db.transact(twice)
    async with db.read() as conn:
        with pytest.raises(OperationalError):
            await conn.execute(text("SELECT * FROM nothing"))
    async with db.read() as conn:
        with pytest.raises(OperationalError):  # a reader can't write
            await conn.execute(insert(_things).values(name="x"))
        assert (await conn.execute(select(_things))).all() == []


async def test_a_statement_is_one_trip(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    trips = 0
    execute = aiosqlite.Connection._execute

    async def counted(self: Any, *args: Any, **more: Any) -> Any:
        nonlocal trips
        trips += 1
        return await execute(self, *args, **more)

    async with db.read() as conn:
        await conn.execute(select(_things))
    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    async with db.read() as conn:
        await conn.execute(select(_things))
    assert trips == 3  # begin, select, commit


async def test_what_is_done_at_once_is_one_trip(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    trips: list[str] = []
    execute = aiosqlite.Connection._execute

    async def counted(self: Any, function: Any, *args: Any, **more: Any) -> Any:
        def there() -> Any:
            trips.append(threading.current_thread().name)
            return function(*args, **more)

        return await execute(self, there)

    async def look(conn: AsyncConnection) -> list[str]:
        await conn.execute(select(_things))
        return list((await conn.execute(select(_things.c.name).order_by(_things.c.id))).scalars())

    async def write(tx: Transaction) -> int:
        assert threading.current_thread().name in trips
        await tx.conn.execute(insert(_things), [{"name": "one"}, {"name": "two"}])
        changed = update(_things).values(name=_things.c.name + "!").returning(_things.c.id)
        return len((await tx.conn.execute(changed)).all())

    await db.query(look)
    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    assert await db.transact(write, at_once=True) == 2
    assert await db.query(look) == ["one!", "two!"]
    assert len(trips) == 2
    assert threading.current_thread().name not in trips


async def test_what_is_done_at_once_and_fails_leaves_nothing(db: Database) -> None:
    async def twice(tx: Transaction) -> None:
        await tx.conn.execute(insert(_things).values(name="first"))
        await tx.conn.execute(insert(_things), [{"name": "same"}, {"name": "same"}])

    async def waits(tx: Transaction) -> None:
        await tx.conn.execute(insert(_things).values(name="second"))
        await asyncio.sleep(0)

    async def cannot(conn: AsyncConnection) -> None:
        await conn.execute(insert(_things).values(name="third"))

    with pytest.raises(IntegrityError):
        await db.transact(twice, at_once=True)
    with pytest.raises(RuntimeError, match="no statement of its own"):
        await db.transact(waits, at_once=True)
    with pytest.raises(OperationalError):  # a reader can't write
        await db.query(cannot)
    async with db.read() as conn:
        assert (await conn.execute(select(_things))).all() == []


async def test_a_cancelled_query_ends_before_its_caller(db: Database) -> None:
    loop, entered, leave = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    async def look(conn: AsyncConnection) -> None:
        loop.call_soon_threadsafe(entered.set)
        leave.wait()
        await conn.execute(select(_things))

    looking = asyncio.create_task(db.query(look))
    await entered.wait()
    looking.cancel()
    await asyncio.sleep(0)
    assert not looking.done()
    leave.set()
    await asyncio.wait({looking})
    assert looking.cancelled()


@pytest.mark.parametrize("at_once", [False, True])
async def test_readers_that_are_cancelled_leave_nothing_behind(db: Database, at_once: bool) -> None:
    async def look(conn: AsyncConnection) -> None:
        await conn.execute(select(_things))

    async def read() -> None:
        if at_once:
            await db.query(look)
            return
        async with db.read() as conn:
            await look(conn)

    for turns in range(40):
        reading = asyncio.create_task(read())
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    await asyncio.gather(*(read() for _ in range(20)))
    async with db.write() as tx:
        await tx.conn.execute(insert(_things).values(name="last"))
    async with db.read() as conn:
        assert (await conn.execute(select(_things.c.name))).scalars().all() == ["last"]
