"""The publisher of a serving process: woken by commits here, by other processes over PostgreSQL, and by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from mailgate.clock import Instant
from mailgate.events.arrivals import Arrivals
from mailgate.jobs.publish import Publishing
from mailgate.store.database import Database
from mailgate.store.feed import FeedReader, Publisher
from mailgate.store.signals import Signals
from tests.store.conftest import NOW, Store
from tests.store.test_feed import emit, everything, made, other
from tests.waiting import until

__all__ = ["other"]

LONG_S = 3_600.0


class Process:
    """What of a serving process publishes and waits."""

    def __init__(self, db: Database, owner: str, *, poll_s: float = LONG_S, signals: Signals | None = None) -> None:
        self.db = db
        self.arrivals = Arrivals()
        self.reader = FeedReader(db)
        self.publishing = Publishing(
            Publisher(db, owner), self.reader, self.arrivals, self.clock, signals=signals, poll_interval_s=poll_s
        )
        db.on_events = self.publishing.wake

    def clock(self) -> Instant:
        return NOW

    async def until(self, position: int) -> None:
        """Wait, as a reader does, until the feed is so far."""
        while True:
            seen = self.arrivals.count
            if (await self.reader.head()).position >= position:
                return
            assert await self.arrivals.wait(seen, 200)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.publishing.start()
        yield
        await self.publishing.stop()


async def test_what_commits_here_is_published_at_once(store: Store) -> None:
    await made(store, "acme")
    process = Process(store.db, "one")
    async with process.running():
        for position in range(1, 4):
            await emit(store.db, "acme")
            await process.until(position)
        assert process.publishing.healthy
    assert [event.seq for event in await everything(store.db)] == [1, 2, 3]


async def test_what_nobody_told_of_is_found(store: Store, other: Database) -> None:
    """A command beside the server, or a process that was killed between its commit and its signal."""
    await made(store, "acme")
    process = Process(store.db, "one", poll_s=0.01)
    async with process.running():
        await emit(other, "acme")
        await process.until(1)


async def test_a_backlog_is_worked_off(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.jobs.publish.BATCH", 2)
    monkeypatch.setattr("mailgate.store.feed.Publisher.publish.__kwdefaults__", {"limit": 2})
    await made(store, "acme")
    await emit(store.db, "acme", 7)
    process = Process(store.db, "one")
    async with process.running():
        await process.until(7)


on_postgresql = pytest.mark.parametrize(
    "database_url", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)
"""Several processes over one database are PostgreSQL's."""


@on_postgresql
async def test_processes_wake_each_other(store: Store, other: Database) -> None:
    await made(store, "acme")
    one = Process(store.db, "one", signals=Signals(store.db))
    two = Process(other, "two", signals=Signals(other))
    async with one.running(), two.running():
        await emit(store.db, "acme")
        await asyncio.gather(one.until(1), two.until(1))  # who publishes tells the others
        await emit(other, "acme")
        await asyncio.gather(one.until(2), two.until(2))  # who may not publish asks who may
    assert [event.seq for event in await everything(store.db)] == [1, 2]


@on_postgresql
async def test_a_cut_line_is_opened_again(store: Store, other: Database) -> None:
    await made(store, "acme")
    one = Process(store.db, "one", signals=Signals(store.db, retry_s=0.01))
    two = Process(other, "two", signals=Signals(other, retry_s=0.01))
    cut = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    )
    listening = text(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    )

    async def both_listen() -> bool:
        async with store.db.read() as conn:
            return bool((await conn.execute(listening)).scalar_one() == 2)

    async with one.running(), two.running():
        await emit(store.db, "acme")
        await asyncio.gather(one.until(1), two.until(1))
        await until(both_listen)  # neither has to, to know of the first event
        async with store.db.read() as conn:
            assert (await conn.execute(cut)).scalar_one() == 2
        await emit(store.db, "acme")
        await asyncio.gather(one.until(2), two.until(2))
