"""The feed while processes change things, publish and are killed with kill -9, in the middle of publishing and
anywhere: a reader that looks on all the time sees every committed event once, in its tenant's order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from sqlalchemy import select

from mailgate.actors import SYSTEM
from mailgate.store import tenants
from mailgate.store.feed import FeedReader, Head, Publisher
from mailgate.store.schema import tenant_heads
from tests.crash.feed_process import clock
from tests.forks import Forked, fork
from tests.store.conftest import NOW, Store
from tests.store.conftest import store as store

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

TENANTS = ["a", "b", "c"]


def start(url: str, number: int, die_after: int) -> Forked:
    return fork(
        "tests.crash.feed_process", url=url, owner=f"p{number}", tenants=TENANTS, seed=number, die_after=die_after
    )


@dataclass
class Watcher:
    """Reads all the time, and notices what comes too late, twice or not at all."""

    reader: FeedReader
    head: Head
    at: int
    seen: dict[str, int] = field(default_factory=dict)
    count: int = 0

    async def read(self) -> None:
        page = await self.reader.page(self.head, self.at, tenant_id=None, types=None, limit=50)
        for event in page.events:
            self.count += 1
            assert event.position == self.count
            assert event.seq == self.seen.get(event.tenant_id, 0) + 1
            self.seen[event.tenant_id] = event.seq
        self.at = page.position

    async def further(self, count: int) -> None:
        wanted = self.count + count
        while self.count < wanted:
            await self.read()


async def test_killed_anywhere(store: Store, database_url: str) -> None:
    for name in TENANTS:
        await tenants.put(store.db, store.ring, store.log, name, name, NOW, SYSTEM)
    reader = FeedReader(store.db)
    watcher = Watcher(reader, *await reader.start(None))
    living, children = start(database_url, 0, 0), []
    try:
        await watcher.further(60)
        for number in range(1, 4):
            children.append(start(database_url, 2 * number, die_after=number))  # kills itself while it publishes
            await watcher.further(40)
            living.kill()
            living.wait()
            living = start(database_url, 2 * number + 1, 0)
            await watcher.further(40)
    finally:
        for child in [living, *children]:
            child.kill()
            child.wait()
    last, now = Publisher(store.db, "last"), clock()
    while await last.publish(now, limit=100) != 0:
        now += 10**9
    async with store.db.read() as conn:
        heads = tenant_heads.c
        numbers = {row[0]: row[1] for row in await conn.execute(select(heads.tenant_id, heads.event_seq))}
    await watcher.further(sum(numbers.values()) - watcher.count)
    assert watcher.seen == numbers
