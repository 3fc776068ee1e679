"""The purge's port over real databases: everything of a copy goes, everything else stays, one leaf each."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs

from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.ids import new_id
from mailgate.store import leftovers, runs
from mailgate.store.leases import LeaseLostError
from mailgate.store.purge_lease import TTL, PurgeLease
from mailgate.store.schema import (
    blob_erasures,
    blobs,
    events,
    holds,
    mailboxes,
    search_docs,
    search_leftovers,
    submissions,
    tombstones,
)
from mailgate.store.search import insert_words
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.store.transaction import Transaction
from retention.port import PurgeUnit
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, blocked, make_purging


@pytest.fixture
async def purging(store: Store) -> Purging:
    return await make_purging(store)


async def rows(purging: Purging, query: Any) -> list[Any]:
    async with purging.store.db.read() as conn:
        return list((await conn.execute(query)).all())


async def one(purging: Purging, query: Any) -> Any:
    async with purging.store.db.read() as conn:
        return (await conn.execute(query)).scalar_one()


async def test_each_plan_keeps_its_days(purging: Purging) -> None:
    ages = [0, 29, 30, 31, 59, 60, 61, 89, 90, 91]
    kept = {}
    for plan in ("free", "crm_plus", "demo", "standard", "professional", "nfr"):
        home = await purging.builder.home(plan, plan)
        ids = await purging.builder.copies(home, [Seed(NOW - age * DAY) for age in ages])
        kept[plan] = dict(zip(ids, ages, strict=True))
    counts = await purging.purge()
    left = {plan: sorted(kept[plan][id_] for id_ in await purging.ids(plan)) for plan in kept}
    assert left == {
        "free": [],
        "crm_plus": [0, 29],
        "demo": [0, 29],
        "standard": [0, 29, 30, 31, 59],
        "professional": [0, 29, 30, 31, 59, 60, 61, 89],
        "nfr": [0, 29, 30, 31, 59, 60, 61, 89],
    }
    assert counts.purged == 10 + 8 + 8 + 5 + 2 + 2
    assert counts.balanced


async def test_the_boundary_is_inclusive_to_the_microsecond(purging: Purging) -> None:
    home = await purging.builder.home()
    young, _, _ = await purging.builder.copies(home, [Seed(NOW - 30 * DAY + extra) for extra in (1, 0, -1)])
    await purging.purge()
    assert await purging.ids() == {young}


async def test_the_log_tells_a_run_from_opening_to_closing(purging: Purging) -> None:
    home = await purging.builder.home()
    old = [await purging.builder.copy(home, age_days=40) for _ in range(3)]
    await purging.pins.put("acme", old[0], "deal", "D-1", note=None, now=NOW, actor=SYSTEM)
    await purging.purge(batch=2)
    log = await purging.leaves()
    assert [leaf["type"] for leaf in log] == [
        "policy.set",
        "plan.effective",
        "pin.add",
        "run.open",
        "item.purge",
        "item.purge",
        "run.close",
    ]
    closing = log[-1]
    assert (closing["candidates"], closing["purged"], closing["kept"], closing["failed"]) == (3, 2, {"pinned": 1}, 0)
    leaf = log[4]
    assert (leaf["plan"], leaf["days"], leaf["reason"]) == ("crm_plus", 30, "age")
    assert leaf["checks"] == {"pins": 0, "holds": 0}
    assert leaf["original"] == "untouched"
    assert leaf["run"] == f"{1:026d}"
    assert leaf["blobs"]["refs"] == leaf["blobs"]["freed"] == 1


async def test_a_purge_leaves_one_tombstone_per_original(purging: Purging) -> None:
    home = await purging.builder.home()
    two = await purging.builder.copy(home, age_days=40, originals=2)
    none = await purging.builder.copy(home, age_days=40, originals=0)
    await purging.purge()
    left = await rows(
        purging, select(tombstones.c.message_id, tombstones.c.folder, tombstones.c.uidvalidity, tombstones.c.reason)
    )
    assert sorted(left, key=str) == sorted(
        [(two, "INBOX", 7, "age"), (two, "INBOX", 7, "age"), (none, None, None, "age")], key=str
    )


async def test_what_was_derived_goes_too(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY, indexed=True) for _ in range(3)])
    kept = await purging.builder.copy(home, age_days=1, indexed=True)
    await purging.purge()
    assert await rows(purging, select(search_docs.c.message_id)) == [(kept,)]
    assert await leftovers.sweep(purging.store.db) == 3
    assert await one(purging, text("SELECT count(*) FROM search_index")) == 1
    assert await rows(purging, select(search_leftovers)) == []


async def test_no_words_are_taken_out_while_a_purge_runs(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY, indexed=True) for _ in range(3)])

    class CutError(Exception):
        pass

    def cut(step: str) -> None:
        if step == "closed":
            raise CutError

    with pytest.raises(CutError):
        await purging.purge(step=cut)
    db = purging.store.db
    assert await leftovers.sweep(db) == 0
    assert await one(purging, text("SELECT count(*) FROM search_index")) == 3
    assert await purging.engine().resume("ab" * 32) is not None
    assert await leftovers.sweep(db, pieces=1) == 3
    assert await one(purging, text("SELECT count(*) FROM search_index")) == 0


async def test_a_number_in_the_index_is_not_given_out_again_before_its_words_went(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY, indexed=True)])
    doc = await one(purging, select(search_docs.c.doc))
    await purging.purge()
    words = {"doc": doc, "tenant_id": "acme", "terms": ["xyz"]}
    with pytest.raises(IntegrityError):
        await purging.store.db.transact(lambda tx: insert_words(tx, [words]))
    await leftovers.sweep(purging.store.db)
    await purging.store.db.transact(lambda tx: insert_words(tx, [words]))


@pytest.mark.parametrize("batch", [1, 2, 500])
async def test_a_shared_blob_goes_with_its_last_copy(purging: Purging, batch: int) -> None:
    home = await purging.builder.home()
    seeds = [Seed(NOW - 40 * DAY, content=b"same\r\n\r\n") for _ in range(4)]
    ids = await purging.builder.copies(home, seeds)
    await purging.pins.put("acme", ids[1], "deal", "D-1", note=None, now=NOW, actor=SYSTEM)
    await purging.purge(1, batch=batch)
    assert await rows(purging, select(blobs.c.refs)) == [(1,)]
    assert await rows(purging, select(blob_erasures.c.blob_id)) == []
    await purging.pins.remove("acme", ids[1], "deal", "D-1", now=NOW, actor=SYSTEM)
    await purging.purge(2, batch=batch)
    assert await rows(purging, select(blobs.c.id)) == []
    assert len(await rows(purging, select(blob_erasures.c.blob_id))) == 1
    freed = [leaf["blobs"]["freed"] for leaf in await purging.leaves() if leaf["type"] == "item.purge"]
    assert freed == [0, 0, 0, 1]


async def test_a_blob_shared_within_one_batch_is_freed_once(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY, content=b"same\r\n\r\n") for _ in range(3)])
    await purging.purge()
    told = [leaf["blobs"] for leaf in await purging.leaves() if leaf["type"] == "item.purge"]
    assert [blob["freed"] for blob in told] == [0, 0, 1]
    assert [blob["bytes"] > 0 for blob in told] == [False, False, True]


async def test_the_feed_tells_of_each_purge(purging: Purging) -> None:
    home = await purging.builder.home()
    old = await purging.builder.copy(home, age_days=40)
    await purging.purge()
    told = await rows(purging, select(events.c.message_id, events.c.payload).where(events.c.type == "message.purged"))
    assert told == [
        (old, {"anchor_at": NOW - 40 * DAY, "reason": "age", "run_id": f"{1:026d}"}),
    ]


async def test_a_copy_of_a_removed_mailbox_goes_unless_it_is_pinned(purging: Purging) -> None:
    home = await purging.builder.home()
    other = await purging.builder.mailbox(home.tenant)
    await purging.builder.copy(home, age_days=1)
    pinned = await purging.builder.copy(home, age_days=1)
    stays = await purging.builder.copy(other, age_days=1)
    await purging.pins.put("acme", pinned, "deal", "D-1", note=None, now=NOW, actor=SYSTEM)
    await purging.store.mailboxes.remove("acme", home.mailbox_id, NOW, SYSTEM)
    counts = await purging.purge()
    assert await purging.ids() == {pinned, stays}
    assert (counts.purged, counts.kept) == (1, {"pinned": 1})
    assert [leaf["reason"] for leaf in await purging.leaves() if leaf["type"] == "item.purge"] == ["mailbox_removed"]


@pytest.mark.parametrize("scope", ["tenant", "mailbox", "messages"])
async def test_a_hold_beats_everything(purging: Purging, scope: str) -> None:
    home = await purging.builder.home()
    other = await purging.builder.mailbox(home.tenant)
    held = await purging.builder.copy(home, age_days=400)
    free = await purging.builder.copy(other, age_days=400)
    await place_hold(purging, scope, home.mailbox_id, held)
    counts = await purging.purge(tenant_id="acme")
    assert await purging.ids() == ({held, free} if scope == "tenant" else {held})
    assert counts.kept == {"held": 2 if scope == "tenant" else 1}


async def place_hold(
    purging: Purging, scope: str, mailbox_id: str, message_id: str, *, protects_until_at: int | None = None
) -> None:
    hold_id = new_id(NOW)
    async with purging.store.db.write() as tx:
        await tx.conn.execute(
            holds.insert().values(
                id=hold_id,
                tenant_id="acme",
                scope=scope,
                mailbox_id=mailbox_id if scope == "mailbox" else None,
                matter="M-1",
                reason="a court asked",
                placed_at=NOW,
                placed_by="token:a",
                released_at=None if protects_until_at is None else NOW,
                protects_until_at=protects_until_at,
            )
        )
        if scope == "messages":
            await tx.conn.exec_driver_sql(
                f"INSERT INTO hold_messages(hold_id, message_id) VALUES ('{hold_id}', '{message_id}')"  # noqa: S608
            )


async def test_a_released_hold_protects_until_its_time(purging: Purging) -> None:
    home = await purging.builder.home()
    held = await purging.builder.copy(home, age_days=400)
    await place_hold(purging, "tenant", home.mailbox_id, held, protects_until_at=NOW + 30 * DAY)
    await purging.purge(1, "acme")
    assert await purging.ids() == {held}
    purging.now = NOW + 30 * DAY - 1
    await purging.purge(2, "acme")
    assert await purging.ids() == {held}
    purging.now = NOW + 30 * DAY
    await purging.purge(3, "acme")
    assert await purging.ids() == set()


async def test_usage_falls_with_the_purge(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY) for _ in range(5)])
    await purging.purge()
    # that the counters are exact, the doctor checks at the end of each test
    assert await purging.ids() == set()


async def test_a_run_of_another_tenant_changes_nothing_here(purging: Purging) -> None:
    ours, theirs = await purging.builder.home("ours"), await purging.builder.home("theirs")
    shared = b"the same bytes in both\r\n\r\n"
    for home in (ours, theirs):
        await purging.builder.copy(home, age_days=40, content=shared)
    before = await purging.leaves("theirs")
    await purging.purge(tenant_id="ours")
    assert len(await purging.ids("theirs")) == 1
    assert await purging.leaves("theirs") == before


async def test_a_run_is_recorded_with_balanced_counts(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY) for _ in range(3)])
    await purging.purge()
    run = await runs.get(purging.store.db, f"{1:026d}")
    assert run.state == "completed"
    assert run.finished_at == NOW
    assert run.counts["candidates"] == run.counts["purged"] == 3
    assert run.counts["tenants"] == 1
    assert "progress" not in run.counts
    page = await runs.list_page(purging.store.db, kind="purge", limit=10)
    assert [item.id for item in page.items] == [run.id]


async def test_a_preview_equals_the_purge_and_changes_no_byte(purging: Purging) -> None:
    home = await purging.builder.home()
    ids = await purging.builder.copies(home, [Seed(NOW - age * DAY) for age in (1, 31, 40, 50, 60)])
    await purging.pins.put("acme", ids[2], "deal", "D-1", note=None, now=NOW, actor=SYSTEM)
    log = await purging.leaves()
    preview = await purging.engine().preview("acme", NOW)
    assert await purging.leaves() == log
    assert preview.counts == await purging.purge(tenant_id="acme")
    later = await purging.engine().preview("acme", NOW + 29 * DAY)
    assert (later.counts.purged, later.counts.kept) == (1, {"pinned": 1})


async def test_a_process_that_lost_the_lease_purges_nothing(purging: Purging) -> None:
    home = await purging.builder.home()
    old = await purging.builder.copy(home, age_days=40)

    await purging.lease.release(purging.store.db)
    assert await PurgeLease("another").acquire(purging.store.db, NOW)
    with pytest.raises(LeaseLostError):
        await purging.purge()
    assert await purging.ids() == {old}


async def test_a_lease_that_another_had_in_between_is_not_the_old_one(purging: Purging) -> None:
    """A process has it again, under a higher number: what it began before may not go on."""
    store, before = purging.store, purging.lease
    other = PurgeLease("another")
    assert await other.acquire(store.db, NOW + TTL)
    await other.release(store.db)
    again = PurgeLease(before._owner)
    assert await again.acquire(store.db, NOW + TTL)
    async with store.db.write() as tx:
        await again.keep(tx, NOW + TTL)
    with pytest.raises(LeaseLostError):
        async with store.db.write() as tx:
            await before.keep(tx, NOW + TTL)
    assert not before.held


async def test_a_run_whose_lease_is_taken_over_stops_before_its_next_batch(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(4)])
    async with purging.store.db.write() as tx:
        await tx.conn.execute(text("UPDATE leases SET fence = fence + 1, owner = 'another' WHERE name = 'purge'"))
    with pytest.raises(LeaseLostError):
        await purging.purge(batch=2)
    assert len(await purging.ids()) == 4


async def test_a_copy_that_something_still_refers_to_is_deferred(purging: Purging) -> None:
    home = await purging.builder.home()
    ids = await purging.builder.copies(home, [Seed(NOW - (40 + n) * DAY) for n in range(5)])
    # A pin whose counter was lost: the foreign key is the last line of defence.
    await purging.pins.put("acme", ids[2], "deal", "D-1", note=None, now=NOW, actor=SYSTEM)
    async with purging.store.db.write() as tx:
        await tx.conn.execute(text("UPDATE messages SET pins = 0"))
    counts = await purging.purge()
    assert await purging.ids() == {ids[2]}
    assert (counts.purged, counts.failed, counts.balanced) == (4, 1, True)
    deferred = [leaf for leaf in await purging.leaves() if leaf["type"] == "item.deferred"]
    assert [leaf["reason"] for leaf in deferred] == ["store_refused"]
    async with purging.store.db.write() as tx:
        await tx.conn.execute(text("UPDATE messages SET pins = 1"))


async def test_a_log_that_cannot_be_written_means_that_nothing_is_purged(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY) for _ in range(3)])
    async with purging.store.db.write() as tx:
        await tx.conn.execute(text("UPDATE tenant_heads SET log_size = 0"))
    with pytest.raises(Exception, match=r"(?i)unique"):
        await purging.purge()
    assert len(await purging.ids()) == 3
    assert await rows(purging, select(tombstones.c.id)) == []
    async with purging.store.db.write() as tx:
        await tx.conn.execute(text("UPDATE tenant_heads SET log_size = (SELECT count(*) FROM log_leaves)"))


async def test_a_mailbox_row_may_change_during_a_purge(purging: Purging) -> None:
    """Sync writes its progress into the mailbox's row all the time; the purge needs none of its locks."""
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(4)])
    if purging.store.db.sqlite:
        pytest.skip("SQLite has one writer")
    async with purging.store.db.write() as tx:
        await tx.conn.execute(update(mailboxes).values(progress_done=1))
        counts = await purging.purge()
    assert counts.purged == 4


async def test_many_tenants_are_found_by_what_is_due(purging: Purging) -> None:
    for number in range(5):
        home = await purging.builder.home(f"t{number}")
        await purging.builder.copy(home, age_days=40 if number % 2 else 1)
    assert await purging.purges.tenants_due(NOW, NOW) == ["t1", "t3"]
    assert await one(purging, select(func.count()).select_from(tombstones)) == 0


async def test_a_batch_costs_the_same_however_many_copies_wait(purging: Purging) -> None:
    """What stays beside a batch is counted in the batch's own stretch, not in all that is still to come."""
    if not purging.store.db.sqlite:
        pytest.skip("SQLite counts its own steps")
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(1_000)])
    done, costs = 0, list[int]()

    def step() -> int:
        nonlocal done
        done += 1
        return 0

    def batch(name: str) -> None:
        nonlocal done
        if name == "recorded":
            costs.append(done)
            done = 0

    async with purging.store.db.write() as tx:
        driver = (await tx.conn.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.set_progress_handler(step, 100)
    assert (await purging.purge(batch=50, step=batch)).purged == 1_000
    assert len(costs) >= 20
    assert max(costs[1:19]) < 1.5 * min(costs[1:19])


async def test_a_count_that_is_seen_to_be_wrong_is_told_and_not_believed(purging: Purging) -> None:
    """Two copies go that refer to a blob which counts one: by that number the third one would lose its bytes."""
    home = await purging.builder.home()
    ids = await purging.builder.copies(home, [Seed(NOW - 40 * DAY, content=b"same\r\n\r\n") for _ in range(3)])
    await purging.pins.put("acme", ids[1], "deal", "D-1", note=None, now=NOW, actor=SYSTEM)
    (blob_id,) = (row.id for row in await rows(purging, select(blobs.c.id)))
    await purging.store.db.transact(lambda tx: tx.conn.execute(update(blobs).values(refs=1)))
    with capture_logs() as logged:
        assert (await purging.purge(1)).purged == 2
    assert [(each["event"], each["tenant"], each["blobs"]) for each in logged] == [
        ("blob_miscounted", "acme", [blob_id])
    ]
    assert await rows(purging, select(blobs.c.id, blobs.c.refs)) == [(blob_id, 1)]  # and the doctor is content
    assert await rows(purging, select(blob_erasures.c.blob_id)) == []
    await purging.pins.remove("acme", ids[1], "deal", "D-1", now=NOW, actor=SYSTEM)
    with capture_logs() as logged:
        assert (await purging.purge(2)).purged == 1
    assert logged == []
    assert [row.blob_id for row in await rows(purging, select(blob_erasures.c.blob_id))] == [blob_id]


async def test_what_waits_to_be_sent_keeps_its_bytes_though_the_count_is_wrong(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY)])
    ((blob_id, data_key, key_epoch),) = await rows(purging, select(blobs.c.id, blobs.c.data_key, blobs.c.key_epoch))
    values: dict[str, Any] = dict.fromkeys(("requested_at", "next_at", "give_up_at"), NOW)
    values |= dict.fromkeys(("msgid_token", "likeness_token"), b"token") | {"data_key": data_key}
    async with purging.store.db.write() as tx:
        await tx.conn.execute(
            insert(submissions).values(
                id=new_id(NOW), tenant_id="acme", mailbox_id=home.mailbox_id, state="queued", purpose="user",
                requested_by="x", size=1, message_id=new_id(NOW), key_epoch=key_epoch, blob_id=blob_id, **values,
            )
        )  # fmt: skip
        await tx.conn.execute(update(blobs).values(refs=0))
    assert (await purging.purge(1)).purged == 1
    assert await rows(purging, select(blobs.c.id, blobs.c.refs)) == [(blob_id, 1)]
    assert await rows(purging, select(blob_erasures.c.blob_id)) == []


async def test_a_copy_whose_blob_is_not_there_goes_and_that_is_told(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY) for _ in range(2)])
    gone, left = (row.id for row in await rows(purging, select(blobs.c.id).order_by(blobs.c.id)))
    await purging.store.db.transact(lambda tx: tx.conn.execute(delete(blobs).where(blobs.c.id == gone)))
    await purging.store.blobs.erase(gone)
    with capture_logs() as logged:
        assert (await purging.purge(1)).purged == 2
    assert [(each["event"], each["blobs"]) for each in logged] == [("blob_miscounted", [gone])]
    assert [row.blob_id for row in await rows(purging, select(blob_erasures.c.blob_id))] == [left]


async def test_a_batch_locks_and_judges_while_the_one_before_commits(
    purging: Purging, monkeypatch: pytest.MonkeyPatch
) -> None:
    if purging.store.db.sqlite:
        pytest.skip("SQLite has one writer")
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(5)])
    names: list[str] = []
    second = asyncio.Event()
    flush = Transaction.flush

    def step(name: str) -> None:
        names.append(name)
        if names.count("judged") == 2:
            second.set()

    async def slow_flush(self: Transaction) -> None:
        if names.count("recorded") == 1:
            await second.wait()
        await flush(self)

    monkeypatch.setattr(Transaction, "flush", slow_flush)
    counts = await purging.purge(batch=2, step=step)
    assert (counts.purged, counts.balanced) == (5, True)
    types = [leaf["type"] for leaf in await purging.leaves()]
    assert types[-7:] == ["run.open", *["item.purge"] * 5, "run.close"]


async def test_no_batch_begins_ahead_while_somebody_waits_for_the_tenant(purging: Purging) -> None:
    if purging.store.db.sqlite:
        pytest.skip("SQLite has one writer")
    await purging.builder.home()
    run = purging.run()
    await purging.purges.begin(run)

    async def work(unit: PurgeUnit) -> tuple[bool, bool, asyncio.Task[Any]]:
        assert await unit.lock_tenant(NOW) is not None
        free = await unit.may_be_followed()
        buying = asyncio.create_task(purging.builder.plan("acme", "professional"))
        await blocked(purging, buying)
        return free, await unit.may_be_followed(), buying

    free, wanted, buying = await purging.purges.transact(run, "acme", work)
    await buying
    assert (free, wanted) == (True, False)


async def test_a_plan_that_begins_between_batches_is_told_once(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 95 * DAY - n) for n in range(7)])
    change = SubscriptionChange("crm_plus", period_end=NOW + 4)
    await purging.store.subscriptions.set_outright("acme", change, NOW, SYSTEM)
    engine = purging.engine(batch=1)
    clock = itertools.count(NOW)
    engine._clock = lambda: next(clock)
    counts = await engine.run(purging.run())
    assert counts.purged == 7
    log = [leaf for leaf in await purging.leaves() if leaf["type"] in ("plan.effective", "item.purge")]
    told = [leaf["plan"] for leaf in log if leaf["type"] == "plan.effective"]
    assert told == ["crm_plus", "free"]
    plans = [leaf["plan"] for leaf in log]
    assert plans == sorted(plans)
    assert plans.count("crm_plus") > 1
    assert plans.count("free") > 1
    assert log[plans.index("free")]["type"] == "plan.effective"
