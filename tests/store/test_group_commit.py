"""Small write transactions that wait for each other are committed as one, and nobody can tell but by the time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, OperationalError

from mailgate.store.database import Database
from mailgate.store.group_commit import TOGETHER
from mailgate.store.transaction import Transaction

_who: ContextVar[str] = ContextVar("who")


@pytest.fixture
async def db(sqlite_url: str) -> AsyncIterator[Database]:
    database = Database(sqlite_url)

    async def make(tx: Transaction) -> None:
        await tx.conn.execute(text("CREATE TABLE things (name TEXT PRIMARY KEY)"))
        await tx.conn.execute(text("CREATE TABLE parts (of TEXT REFERENCES things DEFERRABLE INITIALLY DEFERRED)"))

    await database.transact(make)
    yield database
    await database.close()


@pytest.fixture
def commits(db: Database) -> Iterator[list[str]]:
    made: list[str] = []

    def committed(_: object) -> None:
        made.append("COMMIT")

    event.listen(db._writer.sync_engine, "commit", committed)
    yield made
    event.remove(db._writer.sync_engine, "commit", committed)


class Entering:
    """Works that write a name; what has been told of them so far."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.begun: list[str] = []

    async def enter(self, name: str, *, long: bool = False) -> str:
        """Returns the name."""

        async def work(tx: Transaction) -> str:
            self.begun.append(name)
            await tx.conn.execute(text("INSERT INTO things VALUES (:name)"), {"name": name})
            return name

        return await self.db.transact(work, at_once=True, long=long)

    async def lack(self, name: str) -> None:
        """A part of what is not there: only the commit is refused."""

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(text("INSERT INTO parts VALUES (:name)"), {"name": name})

        await self.db.transact(work, at_once=True)

    async def names(self) -> list[str]:
        async with self.db.read() as conn:
            return list((await conn.execute(text("SELECT name FROM things ORDER BY rowid"))).scalars())


async def test_what_waits_is_committed_together_in_its_order(db: Database, commits: list[str]) -> None:
    entering = Entering(db)
    wanted = [f"{n:02}" for n in range(TOGETHER + 3)]
    async with db.write():
        waiting = [asyncio.create_task(entering.enter(name)) for name in wanted]
        await asyncio.sleep(0)
        assert entering.begun == []
    commits.clear()
    assert await asyncio.gather(*waiting) == wanted
    assert await entering.names() == wanted
    assert len(commits) == 2


async def test_one_alone_is_one_transaction(db: Database, commits: list[str]) -> None:
    assert await Entering(db).enter("one") == "one"
    assert len(commits) == 1


async def test_an_error_is_told_to_whoever_made_it(db: Database) -> None:
    entering = Entering(db)
    await entering.enter("taken")
    async with db.write():
        waiting = [
            asyncio.create_task(entering.enter("one")),
            asyncio.create_task(entering.enter("taken")),
            asyncio.create_task(entering.lack("nothing")),
            asyncio.create_task(entering.enter("two")),
        ]
        await asyncio.sleep(0)
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(item) for item in told] == [str, IntegrityError, IntegrityError, str]
    assert "UNIQUE" in str(told[1])
    assert "FOREIGN KEY" in str(told[2])
    assert await entering.names() == ["taken", "one", "two"]
    async with db.read() as conn:
        assert not list(await conn.execute(text("SELECT * FROM parts")))


@pytest.mark.parametrize("at_once", [True, False])
async def test_after_a_commit_that_is_refused_others_go_on(db: Database, *, at_once: bool) -> None:
    async def work(tx: Transaction) -> None:
        await tx.conn.execute(text("INSERT INTO parts VALUES ('nothing')"))

    with pytest.raises(IntegrityError):
        await db.transact(work, at_once=at_once)
    async with db.write() as tx:
        await tx.conn.execute(text("INSERT INTO things VALUES ('one')"))
    assert await Entering(db).enter("two") == "two"
    assert await Entering(db).names() == ["one", "two"]


async def test_a_commit_that_is_refused_undoes_only_its_own(db: Database) -> None:
    entering = Entering(db)
    async with db.write():
        waiting = [asyncio.create_task(entering.enter("one")), asyncio.create_task(entering.lack("nothing"))]
        await asyncio.sleep(0)
    one, lacking = await asyncio.gather(*waiting, return_exceptions=True)
    assert one == "one"
    assert isinstance(lacking, IntegrityError)
    assert await entering.names() == ["one"]


async def test_a_transaction_that_can_not_begin_is_told_to_all_at_once(sqlite_url: str, db: Database) -> None:
    waiting_for_nobody = Database(sqlite_url, busy_timeout_s=0)
    entering = Entering(waiting_for_nobody)
    visits: list[int] = []
    visit = waiting_for_nobody._small._visit

    async def counted(works: Any) -> list[Any]:
        visits.append(len(works))
        return await visit(works)

    waiting_for_nobody._small._visit = counted
    try:
        async with db.write():  # as another process would
            async with waiting_for_nobody._turn:
                waiting = [asyncio.create_task(entering.enter(name)) for name in ("one", "two", "three")]
                await asyncio.sleep(0)
            told = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(item) for item in told] == [OperationalError] * 3
        assert "locked" in str(told[2])
        assert visits == [3]
        assert entering.begun == []
        assert await entering.enter("four") == "four"
        assert await entering.names() == ["four"]
    finally:
        await waiting_for_nobody.close()


async def test_who_is_cancelled_while_waiting_has_done_nothing(db: Database) -> None:
    entering = Entering(db)
    async with db.write():
        first, second, third = (asyncio.create_task(entering.enter(name)) for name in ("one", "two", "three"))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        await asyncio.wait({first, second})
    assert await third == "three"
    assert await entering.names() == ["three"]
    assert first.cancelled()
    assert second.cancelled()


async def test_who_is_cancelled_while_it_is_done_hears_of_it_afterwards(db: Database) -> None:
    entering = Entering(db)
    loop, entered, leave = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    async def stay(_: Transaction) -> None:
        loop.call_soon_threadsafe(entered.set)
        leave.wait()

    async with db.write():
        leading = asyncio.create_task(db.transact(stay, at_once=True))
        await asyncio.sleep(0)
        taken_along, patient = (asyncio.create_task(entering.enter(name)) for name in ("one", "two"))
        await asyncio.sleep(0)
    await entered.wait()
    for task in (leading, taken_along):
        task.cancel()
    await asyncio.sleep(0)
    assert not leading.done()
    assert not taken_along.done()
    leave.set()
    assert await patient == "two"
    await asyncio.wait({leading, taken_along})
    assert leading.cancelled()
    assert taken_along.cancelled()
    assert await entering.names() == ["one", "two"]


async def test_each_has_its_own_context(db: Database) -> None:
    async def named(name: str) -> str:
        _who.set(name)

        async def work(_: Transaction) -> str:
            return _who.get()

        return await db.transact(work, at_once=True)

    async with db.write():
        waiting = [asyncio.create_task(named(name)) for name in ("ann", "bob", "eve")]
        await asyncio.sleep(0)
    assert await asyncio.gather(*waiting) == ["ann", "bob", "eve"]


async def test_what_is_long_stays_alone(db: Database, commits: list[str]) -> None:
    entering = Entering(db)
    async with db.write():
        waiting = [asyncio.create_task(entering.enter(name, long=name == "long")) for name in ("one", "long", "two")]
        await asyncio.sleep(0)
    commits.clear()
    await asyncio.gather(*waiting)
    assert await entering.names() == ["one", "two", "long"]
    assert len(commits) == 2


async def test_events_are_told_after_the_commit_that_all_share(db: Database, commits: list[str]) -> None:
    told: list[int] = []

    async def work(tx: Transaction) -> None:
        tx.after_commit(lambda: told.append(len(commits)))

    async with db.write():
        waiting = [asyncio.create_task(db.transact(work, at_once=True)) for _ in range(3)]
        await asyncio.sleep(0)
    commits.clear()
    await asyncio.gather(*waiting)
    assert told == [1, 1, 1]
