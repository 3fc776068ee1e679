"""What the gateway keeps of its own last days: one sample a minute whoever is first, pruned; processes that serve; and
that the figures are those of the database.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import update

from mailgate.actors import SYSTEM
from mailgate.app.sampling import Sampler
from mailgate.clock import DAY, HOUR, MINUTE, SECOND, Instant
from mailgate.ids import new_id
from mailgate.store import figures, leases, samples
from mailgate.store.fenced import LEASE_PREFIX
from mailgate.store.runs import QUEUED, SYNC, RunRecord, create
from mailgate.store.samples import KEPT, Process
from mailgate.store.schema import mailboxes
from mailgate.store.transaction import Transaction
from tests.store.builder import Builder, Seed
from tests.store.conftest import NOW, Store


def process(owner: str, now: Instant = NOW) -> Process:
    return Process(owner, "1.0", now - HOUR, now, 100 << 20, 5_000, 120)


async def test_the_first_of_a_minute_writes_it(store: Store) -> None:
    db = store.db
    assert await samples.missing(db, NOW)
    await asyncio.gather(*(samples.put(db, process(f"host:{n}:x"), {"copies": n}, NOW + n * SECOND) for n in range(3)))
    assert not await samples.missing(db, NOW + 9 * SECOND)
    found = await samples.since(db, NOW - HOUR, NOW + MINUTE)
    assert len(found) == 1
    assert found[0].at == NOW // MINUTE * MINUTE
    assert [each.owner for each in await samples.serving(db, NOW)] == ["host:0:x", "host:1:x", "host:2:x"]


async def test_what_is_old_is_forgotten_and_what_is_silent_does_not_serve(store: Store) -> None:
    db = store.db
    for minutes in (0, 1, 2):
        await samples.put(db, process("host:1:x", NOW + minutes * MINUTE), {"n": minutes}, NOW + minutes * MINUTE)
    later = NOW + KEPT + 2 * MINUTE
    await samples.put(db, process("host:2:y", later), {"n": 9}, later)
    assert [sample.figures["n"] for sample in await samples.since(db, 0, later)] == [2, 9]
    assert [each.owner for each in await samples.serving(db, later)] == ["host:2:y"]
    assert (await samples.serving(db, later))[0].pid == "2"
    assert await samples.serving(db, later + 5 * MINUTE) == []
    await samples.forget(db, "host:2:y")
    assert await samples.serving(db, later) == []
    assert await samples.since(db, 0, NOW) == []  # nothing of what is to come


async def test_a_sampler_says_what_it_finds(store: Store) -> None:
    clock_at = NOW
    builder = Builder(store.db, store.ring, store.log, store.subscriptions, store.blobs, NOW)
    home = await builder.home("acme")
    await builder.copies(home, [Seed(NOW - DAY, b"a" * 1_000), Seed(NOW - DAY, b"b" * 500)])
    sampler = Sampler(store.db, "host:7:z", lambda: clock_at)
    await sampler.work()
    clock_at += MINUTE
    await sampler.work()
    await Sampler(store.db, "host:8:z", lambda: clock_at).work()
    first, second = await samples.since(store.db, 0, clock_at)
    assert (first.figures["copies"], first.figures["size"], first.figures["processes"]) == (2, 1_500, 1)
    assert "blobs" in first.figures
    assert "blobs" not in second.figures  # once an hour
    assert first.figures["memory"] > 1 << 20
    assert len(await samples.serving(store.db, clock_at)) == 2
    await sampler.leave()
    assert [each.owner for each in await samples.serving(store.db, clock_at)] == ["host:8:z"]


async def test_figures_are_those_of_the_database(store: Store) -> None:
    db = store.db
    assert await figures.lag(db, NOW) == (figures.Lag(0, 0.0, 0.0, 0.0), [])
    builder = Builder(store.db, store.ring, store.log, store.subscriptions, store.blobs, NOW)
    home = await builder.home("acme")
    await builder.copies(home, [Seed(NOW - DAY, b"a" * 700)])

    async def work(tx: Transaction) -> None:
        told = {"state": "live", "last_checked_at": NOW - 8 * SECOND}
        await tx.conn.execute(update(mailboxes).where(mailboxes.c.id == home.mailbox_id).values(told))
        run = RunRecord(new_id(NOW), SYNC, "acme", home.mailbox_id, QUEUED, "request", SYSTEM, False, NOW, NOW)
        await create(tx, run)

    await db.transact(work)
    assert (await figures.lag(db, NOW))[0].mailboxes == 0  # nobody has it
    await leases.acquire(db, LEASE_PREFIX + home.mailbox_id, "host:1:x", MINUTE, NOW)
    await leases.acquire(db, "publisher", "host:1:x", MINUTE, NOW)
    lag, slowest = await figures.lag(db, NOW)
    assert (lag, [(box.id, box.lag_s) for box in slowest]) == (figures.Lag(1, 8.0, 8.0, 8.0), [(home.mailbox_id, 8.0)])
    owned = await figures.owned(db, NOW)
    assert (owned["host:1:x"].mailboxes, list(owned["host:1:x"].others)) == (1, [("publisher", NOW + MINUTE)])
    assert await figures.owned(db, NOW + HOUR) == {}
    queues = await figures.queues(db)
    assert (queues.passes, queues.pushes, queues.letters, queues.deliveries, queues.erasures) == (1, 0, 0, 0, 0)
    assert queues.events > 0
    stored = await figures.stored(db, 10)
    assert (stored.copies, stored.size, [each.id for each in stored.largest]) == (1, 700, ["acme"])
    assert (stored.database or 0) > 10_000
    assert await figures.blobs_size(db) > 0
    logs = await figures.logs(db)
    assert (logs.logs, logs.unsigned, logs.signed_at) == (1, 1, None)
    assert logs.entries > 0
    assert await figures.keys(db) == figures.Keys(0, 0, None)
    name, schema = await figures.versions(db)
    assert name.startswith("SQLite 3" if db.sqlite else "PostgreSQL 1")
    assert schema.isdigit()
    measured = await figures.measure(db, NOW)
    assert (measured["copies"], measured["flowing"], measured["trouble"], measured["lag_s"]) == (1, 1, 0, 8.0)


async def test_nothing_is_counted_row_by_row(store: Store) -> None:
    """What waits is counted in indexes that hold just that."""
    if not store.db.sqlite:
        return
    builder = Builder(store.db, store.ring, store.log, store.subscriptions, store.blobs, NOW)
    home = await builder.home("acme")
    await builder.copies(home, [Seed(NOW - DAY)])
    plans = []
    async with store.db.read() as conn:
        for query in (
            "SELECT count(*) FROM operations WHERE finished_at IS NULL",
            "SELECT count(*) FROM webhook_deliveries WHERE finished_at IS NULL",
            "SELECT count(*) FROM events WHERE position IS NULL",
            "SELECT count(*) FROM submissions WHERE state = 'queued'",
            "SELECT count(*) FROM submissions WHERE state = 'sending'",
        ):
            rows = (await conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")).all()
            plans.append(" ".join(str(row[-1]) for row in rows))
    assert all("INDEX" in plan for plan in plans), plans
