"""A purge whose lease another process takes in the middle: whatever it was about to write next, it writes nothing any
more. A lease that was freed because its owner seemed to be dead is not its own any more, too.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import select, text

from mailgate.actors import COMMAND
from mailgate.clock import DAY
from mailgate.store import leases
from mailgate.store.database import Database
from mailgate.store.leases import LeaseLostError
from mailgate.store.retention import RetentionService
from mailgate.store.schema import metadata
from retention.model import Counts
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.purge_process import POLICY
from tests.store.purging import Purging, make_purging

State = dict[str, list[str]]


@pytest.fixture
async def purging(store: Store) -> Purging:
    return await make_purging(store)


async def everything(db: Database) -> State:
    async with db.read() as conn:
        found = {table.name: (await conn.execute(select(table))).all() for table in metadata.sorted_tables}
    return {name: sorted(map(repr, rows)) for name, rows in found.items()}


async def leased(db: Database, change: str) -> None:
    async with db.write() as tx:
        await tx.conn.execute(text(f"UPDATE leases SET {change} WHERE name = 'purge'"))  # noqa: S608 - the test's own words


def overtaken(patch: pytest.MonkeyPatch, db: Database, nth: int) -> list[State]:
    """Another process takes the lease before the so-manieth transaction from now on; what was there then."""
    seen: list[State] = []
    calls, real = itertools.count(1), db.transact

    async def transact(work: Callable[..., Awaitable[Any]], **how: Any) -> Any:
        if next(calls) == nth:
            await leased(db, "owner = 'another', fence = fence + 1")
            seen.append(await everything(db))
        return await real(work, **how)

    patch.setattr(db, "transact", transact)
    return seen


async def test_a_run_writes_nothing_more(purging: Purging, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beginning, a tenant's opening and closing, each batch, its end."""
    db = purging.store.db
    for nth in itertools.count(1):
        tenant_id = f"t{nth}"
        home = await purging.builder.home(tenant_id)
        await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(4)])
        await leased(db, "expires_at = 0")
        assert await purging.lease.acquire(db, NOW)
        with monkeypatch.context() as patch:
            seen = overtaken(patch, db, nth)
            (outcome,) = await asyncio.gather(purging.purge(nth, tenant_id, batch=2), return_exceptions=True)
        if not seen:
            break
        assert isinstance(outcome, LeaseLostError), nth
        assert await everything(db) == seen[0], nth
    assert isinstance(outcome, Counts)
    assert outcome.purged == 4
    assert nth > 6


async def test_a_halt_is_not_recorded(purging: Purging, monkeypatch: pytest.MonkeyPatch) -> None:
    store = purging.store
    await purging.lease.release(store.db)
    service = RetentionService(
        store.db, store.log, store.subscriptions, purging.expiry, POLICY, purging.clock, "process"
    )
    await service.note_time(NOW)
    purging.now = NOW - DAY
    seen = overtaken(monkeypatch, store.db, 2)  # the first takes the lease
    with pytest.raises(LeaseLostError):
        await service.run(actor=COMMAND)
    assert await everything(store.db) == seen[0]


async def test_who_was_taken_for_dead_purges_nothing(purging: Purging) -> None:
    home = await purging.builder.home()
    old = await purging.builder.copy(home, age_days=40)
    assert await leases.release_ended(purging.store.db, [purging.lease._owner]) == 1
    with pytest.raises(LeaseLostError):
        await purging.purge()
    assert await purging.ids() == {old}
    assert not purging.lease.held
