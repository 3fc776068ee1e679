"""A store with everything that a purge needs, wired as the gateway wires it, and a clock that stands still."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from sqlalchemy import select, text

from mailgate.clock import Instant
from mailgate.store.expiry import Expiry
from mailgate.store.pins import Pins
from mailgate.store.purge import SqlPurgeStore
from mailgate.store.purge_lease import PurgeLease
from mailgate.store.purge_unit import SqlPurgeUnit
from mailgate.store.schema import log_leaves, messages
from mailgate.store.transaction import Transaction
from retention.engine import Engine
from retention.ledger.schema import parse_leaf
from retention.model import SCHEDULER, Counts, Graces
from retention.port import Run
from tests.store.builder import Builder
from tests.store.conftest import NOW, Store

_OWNERS = count(1)


@dataclass
class Purging:
    """What tests of the purge work with. `now` is the clock; move it."""

    store: Store
    builder: Builder
    purges: SqlPurgeStore
    pins: Pins
    expiry: Expiry
    lease: PurgeLease
    now: Instant = NOW

    def clock(self) -> Instant:
        return self.now

    def engine(self, **more: Any) -> Engine:
        return Engine(self.purges, self.clock, **more)

    def run(self, number: int = 1, tenant_id: str | None = None, policy: str = "ab" * 32) -> Run:
        run_id = f"{number:026d}"
        return Run(run_id, tenant_id, self.now, self.now, "request", SCHEDULER, 1, policy)

    async def purge(self, number: int = 1, tenant_id: str | None = None, **more: Any) -> Counts:
        return await self.engine(**more).run(self.run(number, tenant_id))

    async def ids(self, tenant_id: str = "acme") -> set[str]:
        async with self.store.db.read() as conn:
            query = select(messages.c.id).where(messages.c.tenant_id == tenant_id)
            return set((await conn.execute(query)).scalars())

    async def leaves(self, tenant_id: str = "acme") -> list[dict[str, Any]]:
        """The tenant's purge log, parsed strictly."""
        query = select(log_leaves.c.body).where(log_leaves.c.tenant_id == tenant_id).order_by(log_leaves.c.idx)
        async with self.store.db.read() as conn:
            return [parse_leaf(body) for body in (await conn.execute(query)).scalars()]


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch begins before the one before it has ended, so that a test can step between them."""

    async def alone(_unit: SqlPurgeUnit) -> bool:
        return False

    monkeypatch.setattr(SqlPurgeUnit, "may_be_followed", alone)


async def blocked(purging: Purging, task: asyncio.Task[Any]) -> None:
    """Returns when the task waits for a lock in the database: PostgreSQL says so; on SQLite the writer stands first."""
    while not purging.store.db.sqlite:
        if await _waiting(purging):
            break
    assert not task.done()


async def blocked_or_done(purging: Purging, task: asyncio.Task[Any]) -> None:
    """Returns when the task waits for a lock in the database, which only PostgreSQL says, or has ended."""
    while not task.done():
        if purging.store.db.sqlite:
            await asyncio.wait({task})
        elif await _waiting(purging):
            break


def held_at_the_end(
    monkeypatch: pytest.MonkeyPatch, *, only_the_first: bool = False
) -> tuple[asyncio.Event, asyncio.Event]:
    """From now on transactions of this process wait before they commit: (one has come there, they may go on)."""
    at_the_end, go_on = asyncio.Event(), asyncio.Event()
    flush = Transaction.flush

    async def slow_flush(self: Transaction) -> None:
        if not (only_the_first and at_the_end.is_set()):
            at_the_end.set()
            await go_on.wait()
        await flush(self)

    monkeypatch.setattr(Transaction, "flush", slow_flush)
    return at_the_end, go_on


async def somebody_waits(purging: Purging) -> None:
    """Returns when anybody waits for a lock in PostgreSQL."""
    while not await _waiting(purging):
        pass


async def _waiting(purging: Purging) -> bool:
    async with purging.store.db.read() as conn:
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool((await conn.execute(waiting)).scalar_one())


async def make_purging(store: Store, graces: Graces | None = None) -> Purging:
    """A process that has the purge's lease."""
    expiry = Expiry(store.subscriptions, graces or Graces())
    lease = PurgeLease(f"test-{next(_OWNERS)}")
    builder = Builder(store.db, store.ring, store.log, store.subscriptions, store.blobs, NOW)
    made: Purging
    purges = SqlPurgeStore(store.db, store.log, store.subscriptions, expiry, lambda: made.now, lease)
    made = Purging(store, builder, purges, Pins(store.db, store.ring, store.log, expiry), expiry, lease)
    assert await lease.acquire(store.db, NOW)
    return made
