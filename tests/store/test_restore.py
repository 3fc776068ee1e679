"""Last week's backup of the database is restored: what was purged since is purged again, what was pinned or held since
stays, and the log goes on as the one that was signed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from mailgate.actors import SYSTEM, Actor
from mailgate.blobs import packs
from mailgate.blobs.names import place
from mailgate.clock import DAY, Instant
from mailgate.errors import ConfigurationError
from mailgate.jobs.erase import EraseWorker
from mailgate.store import messages as copies
from mailgate.store import tenants
from mailgate.store.erasures import Erasures
from mailgate.store.feed import Publisher
from mailgate.store.legal_holds import LegalHolds, Scope
from mailgate.store.log import LogPolicy
from mailgate.store.log_reading import LogDivergedError
from mailgate.store.pins import RESTORED
from mailgate.store.restore import Restore, behind, refusal
from mailgate.store.schema import (
    blob_erasures,
    blobs,
    feed,
    holds,
    log_checkpoints,
    log_leaves,
    mailboxes,
    messages,
    metadata,
    pins,
    quarantine,
    tombstones,
)
from mailgate.store.tenant_erasure import Reason, TenantErasures
from mailgate.store.transaction import Transaction
from mailgate.store.witness import Witness
from retention.ledger import leaves
from retention.ledger.leaves import Anchor, Blobs
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from tests.store.builder import Home, Seed
from tests.store.conftest import Store
from tests.store.purging import Purging, make_purging

ADMIN = Actor("token", "T1")
Backup = Mapping[str, Sequence[Any]]


class Week:
    """A database of which a backup was made, and what happened since."""

    def __init__(self, purging: Purging, witness: Witness) -> None:
        self.purging = purging
        self.store = purging.store
        self.witness = witness
        store = self.store
        self.holds = LegalHolds(store.db, store.ring, store.log, purging.expiry, release_days=30)
        self.erasures = TenantErasures(store.db, store.ring, store.log, store.subscriptions, purging.clock, "test")
        self.ids: dict[str, str] = {}

    def restoring(self, **more: Any) -> Restore:
        store = self.store
        return Restore(
            store.db,
            store.blobs,
            store.reader,
            self.witness,
            store.subscriptions,
            store.mailboxes,
            self.erasures,
            store.log,
            self.purging.clock,
            **{"batch": 7} | more,
        )

    async def copy(self, name: str, home: Home, age_days: float) -> None:
        self.ids[name] = await self.purging.builder.copy(home, age_days=age_days)

    async def left(self, tenant_id: str = "acme") -> set[str]:
        there = await self.purging.ids(tenant_id)
        return {name for name, id_ in self.ids.items() if id_ in there}

    async def erase_blobs(self) -> None:
        store = self.store
        await EraseWorker(Erasures(store.db, store.log), store.blobs, self.purging.clock, "test").work()

    async def sign(self) -> None:
        for tenant_id in ("acme", "bye", "calm"):
            tenant = await tenants.get(self.store.db, tenant_id, erased=True)
            await self.store.reader.checkpoint(tenant, self.purging.now)

    async def backup(self) -> Backup:
        async with self.store.db.read() as conn:
            return {table.name: (await conn.execute(select(table))).all() for table in metadata.sorted_tables}

    async def restore(self, backup: Backup) -> None:
        async with self.store.db.write() as tx:
            for table in reversed(metadata.sorted_tables):
                await tx.conn.execute(table.delete())
            for table in metadata.sorted_tables:
                for row in backup[table.name]:
                    await tx.conn.execute(insert(table).values(row._asdict()))

    async def bodies(self, tenant_id: str) -> Sequence[bytes]:
        query = select(log_leaves.c.body).where(log_leaves.c.tenant_id == tenant_id).order_by(log_leaves.c.idx)
        async with self.store.db.read() as conn:
            return (await conn.execute(query)).scalars().all()

    async def rows(self, table: Any) -> Sequence[Any]:
        async with self.store.db.read() as conn:
            return (await conn.execute(select(table))).all()


@pytest.fixture
async def week(store: Store) -> Week:
    """acme has copies whose time comes within the week; bye leaves; calm does nothing at all."""
    purging = await make_purging(store)
    made = Week(purging, store.reader._witness)
    builder = purging.builder
    home = await builder.home("acme", "crm_plus")
    await made.copy("purged", home, 28)
    await made.copy("pinned later", home, 28)
    await made.copy("unpinned later", home, 28)
    await made.copy("young", home, 1)
    await made.copy("held later", await builder.mailbox(home.tenant), 28)
    await made.copy("mailbox removed later", await builder.mailbox(home.tenant), 1)
    await purging.pins.put("acme", made.ids["unpinned later"], "deal", "D", note=None, now=purging.now, actor=ADMIN)
    await made.copy("of bye", await builder.home("bye"), 1)
    await made.copy("of calm", await builder.home("calm"), 1)
    await Publisher(store.db, "test").publish(purging.now)
    await made.sign()
    return made


async def pass_by(week: Week) -> Backup:
    """The backup; then a week passes."""
    purging, store = week.purging, week.store
    backup = await week.backup()
    feed_before = (await week.rows(feed))[0].ref
    now = purging.now
    await purging.pins.put("acme", week.ids["pinned later"], "deal", "E-7", note=None, now=now, actor=ADMIN)
    await purging.pins.remove("acme", week.ids["unpinned later"], "deal", "D", now=now, actor=ADMIN)
    rows = {row.id: row for row in await week.rows(messages)}
    held, removed = (rows[week.ids[name]].mailbox_id for name in ("held later", "mailbox removed later"))
    await week.holds.place("acme", Scope(mailbox_id=held), matter="M-1", reason="r", now=now, actor=ADMIN)
    await store.mailboxes.remove("acme", removed, now, ADMIN)
    purging.now += 7 * DAY
    await purging.purge(1)
    assert await week.left() == {"pinned later", "held later", "young"}
    await purging.builder.plan("acme", "professional", purging.now)
    async with store.db.write() as tx:
        tenant = await tenants.lock(tx, "acme")
        await store.subscriptions.announce(tx, tenant, purging.now)
    await week.erasures.begin("bye", Reason.ERASURE_REQUEST, ADMIN)
    await week.erasures.work()
    await week.erase_blobs()
    assert await week.erasures.work() == 1
    await week.sign()
    assert (await week.rows(feed))[0].ref == feed_before
    return backup


async def test_last_weeks_backup(week: Week) -> None:
    purging, store = week.purging, week.store
    backup = await pass_by(week)
    known = {tenant_id: await week.bodies(tenant_id) for tenant_id in ("acme", "bye", "calm")}
    feed_before = (await week.rows(feed))[0].ref
    await week.restore(backup)

    late = await behind(store.db, week.witness)
    assert {log.tenant_id for log in late} == {"acme", "bye"}
    assert all(log.have < log.signed for log in late)
    refused = refusal(late)
    assert refused is not None
    assert "mailgate restore" in refused.detail
    with pytest.raises(LogDivergedError):
        await store.reader.checkpoint(await tenants.get(store.db, "acme"), purging.now)
    assert week.ids["purged"] in await purging.ids()

    done = {each.tenant_id: each for each in await week.restoring().run(ADMIN)}
    assert set(done) == {"acme", "bye"}
    assert done["acme"].done == {
        "pin.add": 1, "pin.remove": 1, "hold.place": 1, "item.purge": 3, "plan.effective": 1,
    }  # fmt: skip
    assert done["acme"].missing == 0
    assert await week.left() == {"pinned later", "held later", "young"}
    assert [row.removed_at is not None for row in await week.rows(mailboxes) if row.tenant_id == "acme"] == [
        False, False, True,
    ]  # fmt: skip
    assert {row.message_id for row in await week.rows(tombstones)} == {
        week.ids[name] for name in ("purged", "unpinned later", "mailbox removed later")
    }
    assert {tenant_id: await week.bodies(tenant_id) for tenant_id in known} == known
    assert await behind(store.db, week.witness) == []
    assert (await store.subscriptions.entitlements("acme", purging.now)).plan == "professional"
    assert (await week.rows(feed))[0].ref != feed_before  # cursors of before lead nowhere

    # The tenant that had left is gone again.
    assert await tenants.find(store.db, "bye") is None
    await week.erasures.work()
    await week.erase_blobs()
    await week.erasures.work()
    assert await week.left("bye") == set()
    assert sum(b'"type":"key.rotate"' in body for body in await week.bodies("bye")) == 1  # they went once
    assert await week.bodies("calm") == known["calm"]

    # The log goes on, and whatever is purged later is purged by its rules: pins and holds of the week stand.
    purging.now += 200 * DAY
    await purging.builder.plan("acme", "crm_plus", purging.now)
    await purging.purge(2)
    assert await week.left() == {"pinned later", "held later"}
    await week.erase_blobs()
    await week.sign()
    report = replay_leaves(await week.bodies("acme"))
    assert report.verdict is Verdict.OK, report.lines()
    assert await week.restoring().run(ADMIN) == []


def brought_back(row: Any, *, until_at: Instant) -> dict[str, Any]:
    """What a `rehydrate` entry says of a copy."""
    return {
        "item_ref": row.item_ref,
        "mailbox_ref": row.mailbox_id,
        "content_commit": row.content_commit.hex(),
        "msgid_commit": row.msgid_commit.hex(),
        "anchor": Anchor(row.anchor_at, "rehydrated"),
        "until": until_at,
        "pins": 0,
    }


async def test_what_came_back_since_the_backup_stays(week: Week) -> None:
    """Purged and brought back: once, and once more purged when its days were over."""
    purging, store = week.purging, week.store
    backup = await week.backup()
    rows = {row.id: row for row in await week.rows(messages)}
    blob_rows = {row.id: row for row in await week.rows(blobs)}
    purging.now += 7 * DAY
    await purging.purge(1)
    until = {"purged": purging.now + DAY, "pinned later": purging.now + 30 * DAY}
    for name, at in until.items():
        assert week.ids[name] not in await purging.ids()
        row = rows[week.ids[name]]

        async def come_back(tx: Transaction, row: Any = row, at: int = at) -> None:
            ref = (await tenants.lock(tx, "acme")).ref
            said = brought_back(row, until_at=at)
            store.log.write(tx, "acme", ref, leaves.rehydrate, at=purging.now, actor=ADMIN, **said)
            await tx.conn.execute(delete(blob_erasures).where(blob_erasures.c.blob_id == row.blob_id))
            await tx.conn.execute(delete(tombstones).where(tombstones.c.message_id == row.id))
            await tx.conn.execute(insert(blobs).values(blob_rows[row.blob_id]._asdict()))
            back = {"anchor_source": "rehydrated", "keep_until_at": at}
            await tx.conn.execute(insert(messages).values(row._asdict() | back))
            tx.count("acme", copies=1, storage_bytes=row.size)

        await store.db.transact(come_back)
    purging.now += 2 * DAY
    await purging.purge(2)
    left = await week.left()
    assert ("pinned later" in left, "purged" in left) == (True, False)
    await week.sign()
    await week.restore(backup)
    await week.restoring().run(ADMIN)
    assert await week.left() == left
    (back,) = [row for row in await week.rows(messages) if row.id == week.ids["pinned later"]]
    assert (back.anchor_source, back.keep_until_at) == ("rehydrated", until["pinned later"])
    assert len([row for row in await week.rows(tombstones) if row.message_id == week.ids["purged"]]) == 1
    await purging.purge(3)
    assert await week.left() == left
    report = replay_leaves(await week.bodies("acme"))
    assert report.verdict is Verdict.OK, report.lines()


async def test_bytes_that_a_purge_destroyed_are_fetched_for_what_came_back(week: Week) -> None:
    """The backup refers to bytes of before the purge, which nobody has."""
    purging, store = week.purging, week.store
    backup = await week.backup()
    rows = {row.id: row for row in await week.rows(messages)}
    purging.now += 7 * DAY
    await purging.purge(1)
    await week.erase_blobs()
    row = rows[week.ids["purged"]]
    assert not await store.blobs.exists(row.blob_id)

    async def come_back(tx: Transaction) -> None:
        ref = (await tenants.lock(tx, "acme")).ref
        said = brought_back(row, until_at=purging.now + DAY)
        store.log.write(tx, "acme", ref, leaves.rehydrate, at=purging.now, actor=ADMIN, **said)

    await store.db.transact(come_back)
    await week.sign()
    await week.restore(backup)
    told = {each.tenant_id: each.bytes_lost for each in await week.restoring().run(ADMIN)}
    assert told["acme"] == 1
    assert sum(told.values()) == 1
    (entry,) = await week.rows(quarantine)
    assert (entry.message_id, entry.cause) == (row.id, "bytes_lost")
    (blob,) = [each for each in await week.rows(blobs) if each.id == row.blob_id]
    before = next(each for each in backup["blobs"] if each.id == row.blob_id)
    assert blob.content_token != before.content_token  # it stands for that content no more
    assert await week.restoring().run(ADMIN) == []
    assert await week.rows(quarantine) == [entry]
    purging.now += 5 * DAY
    await purging.purge(2)  # nobody fetched them in time
    assert "purged" not in await week.left()
    assert await week.rows(quarantine) == []


async def test_the_newest_checkpoint_and_the_policy_are_those_that_were_signed(week: Week) -> None:
    """Nothing is signed anew at the same size, and no log hears twice of the same rules."""
    purging, store = week.purging, week.store
    backup = await week.backup()
    purging.now += DAY
    await store.log.adopt(store.db, LogPolicy(2, {"days": 31}), at=purging.now, actor=SYSTEM)
    await week.sign()

    async def newest() -> dict[str, str]:
        rows = sorted(await week.rows(log_checkpoints), key=lambda row: row.size)
        return {row.tenant_id: row.note for row in rows}

    signed = await newest()
    await week.restore(backup)
    purging.now += DAY
    await week.restoring().run(ADMIN)
    assert await newest() == signed
    size = len(await week.bodies("acme"))
    assert await store.log.announce_everywhere(store.db, at=purging.now, actor=SYSTEM) == 0
    assert len(await week.bodies("acme")) == size


async def test_nothing_is_fetched_for_what_came_back_and_went_again(week: Week) -> None:
    purging, store = week.purging, week.store
    backup = await week.backup()
    row = next(row for row in await week.rows(messages) if row.id == week.ids["purged"])
    purging.now += 7 * DAY
    await purging.purge(1)
    await week.erase_blobs()

    async def come_and_go(tx: Transaction) -> None:
        ref = (await tenants.lock(tx, "acme")).ref
        said = brought_back(row, until_at=purging.now)
        store.log.write(tx, "acme", ref, leaves.rehydrate, at=purging.now, actor=ADMIN, **said)
        gone = {name: said[name] for name in ("item_ref", "mailbox_ref", "content_commit", "msgid_commit")}
        kind = {"reason": "remote_expunged", "method": "data_key_destroyed", "blobs": Blobs(1, 1, 1)}
        checks = {"pins": 0, "holds": 0}
        store.log.write(tx, "acme", ref, leaves.item_remove, at=purging.now, actor=ADMIN, **gone, **kind, **checks)

    await store.db.transact(come_and_go)
    await week.sign()
    await week.restore(backup)
    told = {each.tenant_id: each for each in await week.restoring().run(ADMIN)}
    assert (told["acme"].bytes_lost, told["acme"].done["item.remove"]) == (0, 1)
    assert "purged" not in await week.left()
    assert await week.rows(quarantine) == []


async def test_a_damaged_file_of_blobs_stops_no_restore(week: Week, tmp_path: Path) -> None:
    """It says nothing of what it holds: what came back is fetched again, what goes is let go of, what stays stays."""
    purging, store = week.purging, week.store
    purging.builder.packed = True
    home = await purging.builder.home("acme", "crm_plus")
    seeds = [Seed(purging.now - days * DAY) for days in (28, 28, 1)]
    for name, id_ in zip(("back", "gone", "stays"), await purging.builder.copies(home, seeds), strict=True):
        week.ids[name] = id_
    backup = await week.backup()
    rows = {row.id: row for row in await week.rows(messages)}
    purging.now += 7 * DAY
    await purging.purge(1)
    row = rows[week.ids["back"]]

    async def come_back(tx: Transaction) -> None:
        ref = (await tenants.lock(tx, "acme")).ref
        said = brought_back(row, until_at=purging.now + DAY)
        store.log.write(tx, "acme", ref, leaves.rehydrate, at=purging.now, actor=ADMIN, **said)

    await store.db.transact(come_back)
    await week.sign()
    await week.restore(backup)
    packed = packs.place_of(row.blob_id)
    assert packed is not None
    path = tmp_path / "blobs" / place(packed[0])
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    told = {each.tenant_id: each.bytes_lost for each in await week.restoring().run(ADMIN)}
    assert told["acme"] == 1
    assert [entry.message_id for entry in await week.rows(quarantine)] == [row.id]
    assert {"back", "stays"} <= await week.left()
    assert "gone" not in await week.left()
    path.write_bytes(good)  # for the doctor at the end
    purging.now += 5 * DAY
    await purging.purge(2)
    assert {"back", "gone"}.isdisjoint(await week.left())


async def test_when_a_last_pin_went_is_known_again(week: Week) -> None:
    """The grace after it counts from there, and from no pin that others followed or outlived."""
    purging = week.purging
    home = await purging.builder.home("acme", "crm_plus")
    for name in ("let go of", "one of two", "pinned again"):
        await week.copy(name, home, 1)
    await purging.pins.put("acme", week.ids["let go of"], "deal", "A", note=None, now=purging.now, actor=ADMIN)
    await purging.pins.put("acme", week.ids["one of two"], "deal", "A", note=None, now=purging.now, actor=ADMIN)
    await purging.pins.put("acme", week.ids["one of two"], "deal", "B", note=None, now=purging.now, actor=ADMIN)
    await purging.pins.put("acme", week.ids["pinned again"], "deal", "A", note=None, now=purging.now, actor=ADMIN)
    await purging.pins.remove("acme", week.ids["pinned again"], "deal", "A", now=purging.now, actor=ADMIN)
    backup = await week.backup()
    purging.now += DAY
    await purging.pins.remove("acme", week.ids["let go of"], "deal", "A", now=purging.now, actor=ADMIN)
    await purging.pins.remove("acme", week.ids["one of two"], "deal", "A", now=purging.now, actor=ADMIN)
    await purging.pins.put("acme", week.ids["pinned again"], "deal", "B", note=None, now=purging.now, actor=ADMIN)
    await week.sign()

    async def pinned() -> dict[str, tuple[int, Instant | None]]:
        rows = {row.id: (row.pins, row.unpinned_at) for row in await week.rows(messages)}
        return {name: rows[id_] for name, id_ in week.ids.items()}

    before = await pinned()
    assert [before[name] for name in ("let go of", "one of two", "pinned again")] == [
        (0, purging.now), (1, None), (1, None),
    ]  # fmt: skip
    await week.restore(backup)
    purging.now += DAY
    await week.restoring().run(ADMIN)
    assert await pinned() == before


async def test_a_record_that_is_pinned_again_finds_its_pin(week: Week) -> None:
    purging = week.purging
    await week.restore(await pass_by(week))
    await week.restoring().run(ADMIN)
    (standing,) = await week.rows(pins)
    assert standing.entity_id.startswith(RESTORED)
    size = len(await week.bodies("acme"))
    id_ = week.ids["pinned later"]
    pin, made = await purging.pins.put("acme", id_, "deal", "E-7", note=None, now=purging.now, actor=SYSTEM)
    assert (pin.entity_id, made) == ("E-7", False)
    (standing,) = await week.rows(pins)
    assert standing.entity_id == "E-7"
    assert len(await week.bodies("acme")) == size  # it was pinned all the time
    await purging.pins.put("acme", id_, "deal", "F-8", note=None, now=purging.now, actor=SYSTEM)
    assert {row.entity_id for row in await week.rows(pins)} == {"E-7", "F-8"}


@pytest.mark.parametrize("batch", [1, 50])
async def test_holds_on_mailboxes_that_the_backup_does_not_know_are_told(week: Week, batch: int) -> None:
    """They would else be believed to protect something."""
    purging = week.purging
    backup = await week.backup()
    later = await purging.builder.mailbox(await tenants.get(week.store.db, "acme"))
    placed = [
        await week.holds.place("acme", Scope(mailbox_id=id_), matter="M", reason="r", now=purging.now, actor=ADMIN)
        for id_ in (later.mailbox_id, later.mailbox_id, (await week.rows(messages))[0].mailbox_id)
    ]
    await week.holds.release("acme", placed[1].id, reason="r", now=purging.now, actor=ADMIN)
    await week.sign()
    await week.restore(backup)
    (told,) = await week.restoring(batch=batch).run(ADMIN)
    assert told.done["hold.place"] == 3
    assert told.holds_without_mailbox == [placed[0].id]
    assert told.known_until == purging.now


@pytest.mark.parametrize(
    ("reason", "original", "graves"),
    [
        ("remote_expunged", None, 0),
        ("user_deleted", None, 0),
        ("user_deleted", "untouched", 1),  # the copy only, where nothing may be changed at the server
    ],
)
async def test_what_was_deleted_since_goes_and_comes_back_only_if_it_did_at_its_server(
    week: Week, reason: str, original: str | None, graves: int
) -> None:
    store, id_ = week.store, week.ids["young"]
    backup = await week.backup()
    (row,) = [each for each in await week.rows(messages) if each.id == id_]

    async def go(tx: Transaction) -> None:
        ref = (await tenants.lock(tx, "acme")).ref
        whose: dict[str, Any] = {"tenant_id": "acme", "tenant_ref": ref, "mailbox_id": row.mailbox_id}
        await copies.remove(tx, store.log, **whose, ids=[id_], reason=reason, original=original, now=week.purging.now)

    await store.db.transact(go)
    await week.sign()
    await week.restore(backup)
    (told,) = await week.restoring().run(ADMIN)
    assert told.done["item.remove"] == 1
    assert "young" not in await week.left()
    assert [(grave.message_id, grave.reason) for grave in await week.rows(tombstones)] == [(id_, reason)] * graves


async def test_a_hold_that_was_released_since_protects_for_its_days(week: Week) -> None:
    purging = week.purging
    placed = await week.holds.place("acme", Scope(), matter="M", reason="r", now=purging.now, actor=ADMIN)
    backup = await week.backup()
    released = await week.holds.release("acme", placed.id, reason="r", now=purging.now, actor=ADMIN)
    await week.sign()
    await week.restore(backup)
    (told,) = await week.restoring().run(ADMIN)
    assert told.done["hold.release"] == 1
    (row,) = await week.rows(holds)
    assert row.protects_until_at == released.protects_until_at == purging.now + 30 * DAY
    held = await week.left()
    purging.now += 30 * DAY - 1
    await purging.purge(1)
    assert await week.left() == held
    purging.now += 1
    await purging.purge(2)
    assert await week.left() == {"unpinned later"}
    report = replay_leaves(await week.bodies("acme"))
    assert report.verdict is Verdict.OK, report.lines()


async def test_cut_between_batches_it_goes_on(week: Week) -> None:
    backup = await pass_by(week)
    known = await week.bodies("acme")
    await week.restore(backup)
    have = len(await week.bodies("acme"))
    ref = (await tenants.get(week.store.db, "acme")).ref
    entries = week.witness.entries

    def torn(tenant_ref: str, size: int) -> Iterator[bytes]:
        for index, body in enumerate(entries(tenant_ref, size)):
            if tenant_ref == ref and index > have + 2:
                raise KeyboardInterrupt
            yield body

    cut = week.restoring(batch=1)
    verify = cut._verify

    def verified(*args: Any) -> Any:
        week.witness.entries = entries  # type: ignore[method-assign]
        plan = verify(*args)
        week.witness.entries = torn  # type: ignore[method-assign]
        return plan

    cut._verify = verified  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        await cut.run(ADMIN)
    week.witness.entries = entries  # type: ignore[method-assign]
    assert have < len(await week.bodies("acme")) < len(known)
    await week.restoring().run(ADMIN)
    assert await week.bodies("acme") == known
    assert await week.left() == {"pinned later", "held later", "young"}


async def test_a_database_that_went_its_own_way_is_refused(week: Week) -> None:
    backup = await pass_by(week)
    newest = await week.backup()
    await week.restore(backup)
    await week.purging.pins.put("acme", week.ids["young"], "deal", "X", note=None, now=week.purging.now, actor=ADMIN)
    before = await week.bodies("acme")
    with pytest.raises(LogDivergedError, match="Restore the backup once more"):
        await week.restoring().run(ADMIN)
    assert await week.bodies("acme") == before
    await week.restore(newest)


@pytest.mark.parametrize("harm", ["missing", "other"])
async def test_entries_that_are_not_whole_are_refused(week: Week, harm: str) -> None:
    backup = await pass_by(week)
    newest = await week.backup()
    await week.restore(backup)
    ref = (await tenants.get(week.store.db, "acme")).ref
    (bundle,) = (path for path in (week.witness._folder / f"{ref}.log").rglob("*") if path.is_file())
    if harm == "missing":
        bundle.unlink()
    else:
        bundle.write_bytes(bundle.read_bytes().replace(b"young", b"old__").replace(b"professional", b"professionam"))
    with pytest.raises(LogDivergedError, match=r"ledger\.witness"):
        await week.restoring().run(ADMIN)
    await week.restore(newest)


async def test_a_damaged_checkpoint_outside_is_told_of_and_not_taken_for_none(week: Week) -> None:
    ref = (await tenants.get(week.store.db, "acme")).ref
    note = week.witness.last(ref)
    assert note is not None
    for damaged in (b"", note[: len(note) // 2], b"\xff" + note):
        week.witness.keep(ref, damaged)
        with pytest.raises(ConfigurationError, match=f"{ref}.checkpoint .* damaged"):
            await behind(week.store.db, week.witness)
    week.witness.keep(ref, note)
    assert await behind(week.store.db, week.witness) == []


async def test_the_fixture_restores_what_it_saved(week: Week) -> None:
    backup = await week.backup()
    async with week.store.db.write() as tx:
        await tx.conn.execute(update(messages).values(seen=True))
    await week.restore(backup)
    assert await week.backup() == backup
