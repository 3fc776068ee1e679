"""Cases that go wrong where nobody looks: at the very instant, in every order, in another time zone, all at once."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from connectors.model import MessageMeta
from mailgate.actors import SYSTEM, Actor
from mailgate.clock import DAY, MINUTE
from mailgate.jobs.erase import EraseWorker
from mailgate.store import messages as copies
from mailgate.store.bulk import insert_many
from mailgate.store.erasures import Erasures
from mailgate.store.legal_holds import LegalHolds, Scope
from mailgate.store.retention import RetentionService
from mailgate.store.schema import blob_erasures, blobs, messages, pins
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.store.transaction import Transaction
from mailgate.sync.arriving import Arrived, MemorySink
from mailgate.sync.prepare import Preparer
from mailgate.tenants.timeline import Event, EventType, Status
from retention.model import AnchorFrom, Brake
from retention.policy import ClockLimits, Policy
from tests.store.builder import Home, Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, blocked_or_done, held_at_the_end, make_purging, somebody_waits

ADMIN = Actor("token", "T1")


@pytest.fixture
async def purging(store: Store) -> Purging:
    return await make_purging(store)


async def test_a_plan_that_ends_exactly_when_the_run_judges(purging: Purging) -> None:
    """Until its last microsecond the paid plan keeps; at its end, which is the run's now, Free keeps nothing."""
    home = await purging.builder.home(plan=None)
    end = NOW + 5 * DAY
    paid = SubscriptionChange("professional", status=Status.CANCELED, period_end=end)
    await purging.store.subscriptions.set_outright("acme", paid, NOW, SYSTEM)
    await purging.builder.copies(home, [Seed(NOW - 80 * DAY), Seed(NOW)])
    purging.now = end - 1
    assert (await purging.purge(1)).purged == 0
    purging.now = end
    assert (await purging.purge(2)).purged == 2
    leaves = [leaf for leaf in await purging.leaves() if leaf["type"] == "item.purge"]
    assert {(leaf["plan"], leaf["days"], leaf["reason"]) for leaf in leaves} == {("free", 0, "plan_end")}


@pytest.mark.parametrize("order", list(itertools.permutations(("due", "pinned", "held"))), ids="-".join)
async def test_a_blob_shared_by_purged_pinned_and_held_goes_with_the_last(
    purging: Purging, order: tuple[str, ...]
) -> None:
    """Whatever keeps each copy ends in turn; the bytes stay as long as one copy does, in batches of one."""
    store = purging.store
    holds = LegalHolds(store.db, store.ring, store.log, purging.expiry, release_days=0)
    home = await purging.builder.home()
    keys = await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n, b"same\r\n\r\n") for n in range(3)])
    ids = dict(zip(("due", "pinned", "held"), keys, strict=True))
    for id_ in ids.values():
        await purging.pins.put("acme", id_, "task", "keep", note=None, now=NOW, actor=SYSTEM)
    await purging.pins.put("acme", ids["pinned"], "deal", "D", note=None, now=NOW, actor=SYSTEM)
    hold = await holds.place("acme", Scope(message_ids=(ids["held"],)), matter="m", reason="r", now=NOW, actor=ADMIN)
    for number, kind in enumerate(order, start=1):
        await purging.pins.remove("acme", ids[kind], "task", "keep", now=purging.now, actor=SYSTEM)
        if kind == "pinned":
            await purging.pins.remove("acme", ids[kind], "deal", "D", now=purging.now, actor=SYSTEM)
        if kind == "held":
            assert (await purging.purge(10 + number, batch=1)).purged == 0
            await holds.release("acme", hold.id, reason="r", now=purging.now, actor=ADMIN)
            purging.now += 1
        assert (await purging.purge(number, batch=1)).purged == 1
        async with store.db.read() as conn:
            refs = (await conn.execute(select(blobs.c.refs))).scalars().all()
            queued = len((await conn.execute(select(blob_erasures.c.blob_id))).all())
        assert (refs, queued) == (([3 - number], 0) if number < 3 else ([], 1))


async def test_the_same_bytes_that_come_while_the_old_ones_wait_to_be_erased(purging: Purging) -> None:
    """A new object under a new name: the erasing of the old one can't hit it."""
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY, b"same\r\n\r\n")])
    erasures = Erasures(purging.store.db, purging.store.log)
    await purging.purge()
    queued = await erasures.due(NOW)
    await purging.builder.copies(home, [Seed(NOW, b"same\r\n\r\n")])
    async with purging.store.db.read() as conn:
        new = (await conn.execute(select(blobs.c.id))).scalar_one()
    assert new != queued[0].blob_id
    worker = EraseWorker(erasures, purging.store.blobs, purging.clock, "one")
    assert await worker.work() == (1, 0)
    assert list(purging.store.blobs.list_ids()) == [new]  # and the store reads it when it checks itself


async def arrive(purging: Purging, home: Home, raw: bytes) -> None:
    """A message comes from the server, as synchronization stores it."""
    store = purging.store
    preparer = Preparer(
        "acme", store.ring.tenant(home.tenant.ref), store.blobs, max_bytes=1 << 20, anchor_from=AnchorFrom.RECEIVED
    )
    sink = MemorySink()
    sink.write(memoryview(raw))
    arrived = Arrived(MessageMeta(900, frozenset(), NOW, sink.size), sink, sink.size)
    preparer.add_tokens([arrived])
    prepared = preparer.prepare([arrived], NOW).messages
    preparer.settle(prepared)

    async def work(tx: Transaction) -> None:
        horizon = await purging.expiry.horizon(tx.conn, "acme", NOW)
        place = copies.Place("acme", home.mailbox_id, home.folder_id, 7)
        await copies.add(tx, place, prepared, horizon=horizon, initial=False)

    await store.db.transact(work)


async def erased_and_left(purging: Purging) -> tuple[int, int]:
    """How many objects the worker erases, and how many copies share the one that is left."""
    store = purging.store
    erasures = Erasures(store.db, store.log)
    erased, failed = await EraseWorker(erasures, store.blobs, purging.clock, "one").work()
    async with store.db.read() as conn:
        ((left, refs),) = (await conn.execute(select(blobs.c.id, blobs.c.refs))).all()
    assert (failed, list(store.blobs.list_ids())) == (0, [left])
    return erased, refs


@pytest.mark.parametrize("boundary", ["tenant locked", "candidates locked", "judged", "purged", "recorded"])
async def test_the_same_bytes_that_come_while_a_purge_lets_go_of_them(
    purging: Purging, children: Any, boundary: str
) -> None:
    """Whether they meet the old object before its end or after: what comes is read, and the old one goes if it is
    nobody's.
    """
    home = await purging.builder.home()
    raw = b"Subject: same\r\n\r\nsame\r\n"
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY, raw)])
    await purging.lease.release(purging.store.db)
    child = await children(pause_at=boundary)
    assert await child.line() == "paused"
    coming = asyncio.create_task(arrive(purging, home, raw))
    if not purging.store.db.sqlite:  # which has one writer: there it waits for its turn
        await blocked_or_done(purging, coming)
    await child.go_on()
    assert (await child.result())["counts"]["purged"] == 1
    await coming
    assert await erased_and_left(purging) == (1, 1)


async def test_a_purge_that_comes_while_the_same_bytes_are_being_stored(
    purging: Purging, children: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are about to commit, and refer to the old object: it stays, with its key, for the copy that came."""
    home = await purging.builder.home()
    raw = b"Subject: same\r\n\r\nsame\r\n"
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY, raw)])
    await purging.lease.release(purging.store.db)
    at_the_end, go_on = held_at_the_end(monkeypatch)
    coming = asyncio.create_task(arrive(purging, home, raw))
    await at_the_end.wait()
    child = await children(pause_at=None if purging.store.db.sqlite else "candidates locked")
    if not purging.store.db.sqlite:  # which has one writer
        assert await child.line() == "paused"
        await child.go_on()
        await somebody_waits(purging)
    go_on.set()
    await coming
    monkeypatch.undo()
    assert (await child.result())["counts"]["purged"] == 1
    assert await erased_and_left(purging) == (1, 1)  # erased is what came: the same bytes were there


@pytest.fixture(params=["Pacific/Kiritimati", "America/New_York"])
def elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The machine stands in another time zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.delenv("TZ")
    time.tzset()


async def test_the_time_zone_of_the_machine_moves_no_boundary(purging: Purging, elsewhere: str) -> None:
    """Neither its offset nor the hour that a change of summer time takes or gives (2024-11-03 in New York)."""
    assert os.environ["TZ"] == elsewhere
    home = await purging.builder.home()
    purging.now = NOW + 45 * DAY  # 30 days before lie before the change, it lies after
    exact = purging.now - 30 * DAY
    late, due = await purging.builder.copies(home, [Seed(exact + 1), Seed(exact)])
    assert (await purging.purge()).purged == 1
    assert await purging.ids() == {late}
    assert due != late


async def test_a_clock_400_days_ahead_and_back_again_costs_nothing(purging: Purging) -> None:
    store = purging.store
    await purging.lease.release(store.db)
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - DAY) for _ in range(3)])
    service = RetentionService(
        store.db, store.log, store.subscriptions, purging.expiry, Policy(1, "ab" * 32), purging.clock, "one",
        limits=ClockLimits(),
    )  # fmt: skip
    await service.note_time(NOW)
    purging.now = NOW + 400 * DAY
    assert (await service.run(actor=ADMIN)).state == "halted"
    purging.now = NOW + MINUTE
    run = await service.run(actor=ADMIN)
    assert (run.state, run.counts["purged"]) == ("completed", 0)
    assert len(await purging.ids()) == 3


async def test_ten_failed_payments_in_any_order_and_one_that_came_through(purging: Purging) -> None:
    """Past Due keeps the old number of days; however the news arrive, the recovery counts and nothing was purged."""
    subscriptions = purging.store.subscriptions
    home = await purging.builder.home(plan=None)
    await purging.builder.copies(home, [Seed(NOW - 25 * DAY)])
    end = NOW + 2 * DAY
    bought = Event("bought", EventType.PURCHASED, NOW - 28 * DAY, plan="crm_plus", period_end=end)
    failures = [Event(f"f{n}", EventType.RENEWAL_FAILED, end + n * DAY // 2) for n in range(10)]
    paid = Event("paid", EventType.RENEWED, end + 6 * DAY, period_end=end + 30 * DAY)
    purging.now = end + 4 * DAY
    await subscriptions.tell("acme", [bought], purging.now, SYSTEM)
    for event in [*failures[5:], failures[9], *failures[:5], failures[0]]:
        await subscriptions.tell("acme", [event], purging.now, SYSTEM)
    holds = await subscriptions.entitlements("acme", purging.now)
    assert (holds.plan, holds.status, holds.retention_days) == ("crm_plus", Status.PAST_DUE, 30)
    assert (await purging.purge(1)).purged == 1  # of age by the plan that holds on
    await purging.builder.copies(home, [Seed(purging.now - 25 * DAY)])
    assert (await purging.purge(2)).purged == 0
    purging.now = end + 7 * DAY
    await subscriptions.tell("acme", [paid, *failures], purging.now, SYSTEM)
    holds = await subscriptions.entitlements("acme", purging.now)
    assert (holds.plan, holds.status) == ("crm_plus", Status.ACTIVE)


@pytest.mark.parametrize("many", [500, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_a_record_with_ten_thousand_pins_goes_in_one_call(purging: Purging, many: int) -> None:
    home = await purging.builder.home()
    ids = await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n, b"same\r\n\r\n") for n in range(many)])
    rows = [("acme", id_, "deal", "D-1", f"{n:032x}", NOW, "system:test") for n, id_ in enumerate(ids)]
    columns = ("tenant_id", "message_id", "entity_type", "entity_id", "ref", "created_at", "created_by")
    async with purging.store.db.write() as tx:
        await insert_many(tx.conn, pins, columns, rows, sqlite=tx.sqlite)
        await tx.conn.execute(messages.update().values(pins=1))
    await purging.pins.put("acme", ids[0], "task", "T", note=None, now=NOW, actor=SYSTEM)
    assert (await purging.purge(1)).purged == 0
    assert await purging.pins.remove_record("acme", "deal", "D-1", now=NOW, actor=SYSTEM) == many
    removed = [leaf for leaf in await purging.leaves() if leaf["type"] == "pin.remove"]
    assert len({leaf["item_ref"] for leaf in removed}) == len(removed) == many
    assert {leaf["reason"] for leaf in removed} == {"record_deleted"}
    assert (await purging.purge(2, brake=Brake(minimum=many))).purged == many - 1
    assert await purging.ids() == {ids[0]}
