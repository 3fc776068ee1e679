"""Keys of past months: what survives is wrapped anew, the key is destroyed when nothing needs it, and a backup of
before opens nothing any more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import func, insert, select, update

from mailgate.actors import SYSTEM, Actor
from mailgate.clock import DAY, Instant, from_datetime
from mailgate.ids import new_id
from mailgate.keys import KeyMissingError, epoch_at, epoch_end
from mailgate.keys.wrap import unwrap, wrap
from mailgate.store import tenants
from mailgate.store.check import doctor
from mailgate.store.key_epochs import KeyRotation, RotationBusyError, destroy_from
from mailgate.store.leases import acquire
from mailgate.store.schema import blobs, key_epochs, mailboxes, messages, submissions
from mailgate.store.tenant_erasure import Reason, TenantErasures
from tests.store.builder import Seed
from tests.store.conftest import Store
from tests.store.purging import Purging, make_purging

NOVEMBER = from_datetime(datetime(2026, 11, 20, tzinfo=UTC))
DECEMBER = from_datetime(datetime(2026, 12, 5, tzinfo=UTC))
KEEP = 35 * DAY
ADMIN = Actor("token", "T1")


class Keys:
    """A tenant with copies of November, and the rotation at a time of the test's choice."""

    def __init__(self, purging: Purging, now: Instant) -> None:
        self.purging = purging
        self.store = purging.store
        self.now = now
        self.rotation = self.process()

    def process(self, **more: Any) -> KeyRotation:
        store = self.store
        return KeyRotation(store.db, store.ring, store.log, lambda: self.now, "test", keep=KEEP, **more)

    async def rows(self) -> Sequence[Any]:
        async with self.store.db.read() as conn:
            found: list[Any] = []
            for table in (messages, blobs):
                found += (await conn.execute(select(table.c.id, table.c.data_key, table.c.key_epoch))).all()
        return found

    async def rotated(self) -> list[dict[str, Any]]:
        return [leaf for leaf in await self.purging.leaves() if leaf["type"] == "key.rotate"]


@pytest.fixture
async def keys(store: Store) -> Keys:
    purging = await make_purging(store)
    purging.builder.now = NOVEMBER
    home = await purging.builder.home(plan="professional")
    shared = b"Subject: shared\r\n\r\nshared\r\n"
    await purging.builder.copies(home, [Seed(NOVEMBER, shared), Seed(NOVEMBER, shared), Seed(NOVEMBER - DAY)])
    return Keys(purging, NOVEMBER)


def test_a_month_is_over_on_the_first_of_the_next() -> None:
    assert epoch_end(202611) == from_datetime(datetime(2026, 12, 1, tzinfo=UTC))
    assert epoch_end(202612) == from_datetime(datetime(2027, 1, 1, tzinfo=UTC))
    assert epoch_at(epoch_end(202612) - 1) == 202612


def test_a_key_stays_a_day_after_its_month_and_as_long_as_backups_may_need_it() -> None:
    assert destroy_from(202611, DECEMBER, KEEP) == DECEMBER + KEEP
    assert destroy_from(202611, epoch_end(202611) + 1, 0) == epoch_end(202611) + DAY


async def test_in_its_own_month_a_key_is_left_alone(keys: Keys) -> None:
    before = await keys.rows()
    done = await keys.rotation.rotate(ADMIN, at_once=True)
    assert (done.tenants, done.wrapped, done.destroyed, done.kept) == (1, {}, [], [])
    assert await keys.rows() == before


async def test_what_survives_opens_under_the_new_key_and_a_backup_opens_nothing(keys: Keys) -> None:
    backup = await keys.rows()
    ring = keys.store.ring.tenant((await keys.purging.leaves())[0]["tenant_ref"])
    plain = {row.id: ring.unwrap(row.data_key, row.key_epoch) for row in backup}
    keys.now = DECEMBER
    done = await keys.rotation.rotate(ADMIN)
    assert done.wrapped == {"messages": 3, "blobs": 2}
    assert [(kept.epoch, kept.until) for kept in done.kept] == [(202611, DECEMBER + KEEP)]
    now = await keys.rows()
    assert {row.id: ring.unwrap(row.data_key, row.key_epoch) for row in now} == plain
    assert {row.key_epoch for row in now} == {202612}
    assert ring.unwrap(backup[0].data_key, 202611) == plain[backup[0].id]  # a young backup can be restored

    keys.now = DECEMBER + KEEP - 1
    assert (await keys.rotation.rotate(ADMIN)).destroyed == []
    assert await keys.rotated() == []
    keys.now = DECEMBER + KEEP
    done = await keys.rotation.rotate(ADMIN)
    assert [gone.epoch for gone in done.destroyed] == [202611]
    for row in backup:
        with pytest.raises(KeyMissingError):
            ring.unwrap(row.data_key, row.key_epoch)
    now = await keys.rows()
    assert {row.id: ring.unwrap(row.data_key, row.key_epoch) for row in now} == plain
    (leaf,) = await keys.rotated()
    assert (leaf["key"], leaf["old"], leaf["new"]) == ("tenant_epoch", "202611", "202701")
    assert leaf["actor"] == {"kind": "token", "ref": "T1"}


@pytest.mark.parametrize("own_is_new", [False, True])
async def test_what_waits_to_be_sent_opens_under_the_new_key(keys: Keys, own_is_new: bool) -> None:
    """The row's own key, and that of the copy to come, of which only what is sealed under the first one tells."""
    store = keys.store
    ring = store.ring.tenant((await keys.purging.leaves())[0]["tenant_ref"])
    own, copy = ring.new_data_key(NOVEMBER), ring.new_data_key(NOVEMBER)
    id_, context = new_id(NOVEMBER), b"mailgate submission\0prepared\0"
    prepared = json.dumps({"data_key": copy.wrapped.hex(), "key_epoch": copy.epoch}).encode()
    values: dict[str, Any] = dict.fromkeys(("requested_at", "next_at", "give_up_at"), NOVEMBER)
    values |= dict.fromkeys(("msgid_token", "likeness_token"), b"token")
    async with store.db.write() as tx:
        mailbox_id = (await tx.conn.execute(select(mailboxes.c.id))).scalar_one()
        await tx.conn.execute(
            insert(submissions).values(
                id=id_, tenant_id="acme", mailbox_id=mailbox_id, state="sent", purpose="user", requested_by="x",
                size=1, message_id=new_id(NOVEMBER), data_key=own.wrapped, key_epoch=own.epoch,
                prepared=wrap(AESGCM(own.key), prepared, context + id_.encode()), **values,
            )
        )  # fmt: skip

    async def opened() -> tuple[int, bytes, bytes]:
        async with store.db.read() as conn:
            row = (await conn.execute(select(submissions))).one()
        key = ring.unwrap(row.data_key, row.key_epoch)
        inner = json.loads(unwrap(AESGCM(key), row.prepared, context + id_.encode()))
        return row.key_epoch, key, ring.unwrap(bytes.fromhex(inner["data_key"]), inner["key_epoch"])

    keys.now = DECEMBER
    damaged = update(submissions).values(data_key=bytes(len(own.wrapped)))
    async with store.db.write() as tx:
        await tx.conn.execute(damaged)
    done = await keys.rotation.rotate(ADMIN, at_once=True)
    assert (done.unreadable, done.destroyed) == (1, [])  # the key that it needs is kept for it
    whole = ring.wrap_anew(own.wrapped, own.epoch, DECEMBER) if own_is_new else own
    async with store.db.write() as tx:
        await tx.conn.execute(update(submissions).values(data_key=whole.wrapped, key_epoch=whole.epoch))
    done = await keys.rotation.rotate(ADMIN, at_once=True)
    assert (done.wrapped, [gone.epoch for gone in done.destroyed]) == ({"submissions": 1}, [202611])
    assert await opened() == (202612, own.key, copy.key)


async def test_a_key_that_is_needed_again_at_the_last_moment_is_kept(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = (await keys.rows())[0]
    destroy = keys.rotation._destroy

    async def a_late_copy_first(*what: Any) -> bool:
        async with keys.store.db.write() as tx:
            late = update(messages).where(messages.c.id == old.id)
            await tx.conn.execute(late.values(data_key=old.data_key, key_epoch=old.key_epoch))
        return await destroy(*what)

    monkeypatch.setattr(keys.rotation, "_destroy", a_late_copy_first)
    keys.now = DECEMBER
    assert (await keys.rotation.rotate(ADMIN, at_once=True)).destroyed == []
    assert await keys.rotated() == []
    ring = keys.store.ring.tenant((await keys.purging.leaves())[0]["tenant_ref"])
    assert ring.unwrap(old.data_key, old.key_epoch)


async def test_the_doctor_misses_a_key_that_a_copy_needs(keys: Keys) -> None:
    """As after a backup was restored that is older than a key was kept for."""
    store = keys.store
    (epoch,) = {row.key_epoch for row in await keys.rows()}
    ref = (await keys.purging.leaves())[0]["tenant_ref"]
    (file,) = (path for path in store.ring._directory._root.rglob(str(epoch)) if ref in str(path))
    file.rename(file.with_name("elsewhere"))
    report = await doctor(store.db, store.blobs, store.ring)
    assert {found.detail for found in report.findings} == {
        f"the key of {epoch} is gone: 3 messages can't be read",
        f"the key of {epoch} is gone: 2 blobs can't be read",
    }
    file.with_name("elsewhere").rename(file)


async def test_at_once_waits_for_nothing_but_the_day_after_the_month(keys: Keys) -> None:
    keys.now = epoch_end(202611) + DAY - 1
    done = await keys.rotation.rotate(ADMIN, at_once=True)
    assert (len(done.kept), done.destroyed) == (1, [])
    keys.now += 1
    done = await keys.rotation.rotate(ADMIN, at_once=True)
    assert [(gone.tenant_id, gone.epoch) for gone in done.destroyed] == [("acme", 202611)]
    assert (await keys.rotation.rotate(ADMIN, at_once=True)).destroyed == []
    assert len(await keys.rotated()) == 1


async def test_a_key_that_a_late_copy_needs_is_kept(keys: Keys) -> None:
    """A clock that went back makes data keys under the month before: the next rotation finds them."""
    keys.now = DECEMBER + KEEP
    assert (await keys.rotation.rotate(ADMIN, at_once=True)).destroyed != []
    home = await keys.purging.builder.mailbox(await tenants.get(keys.store.db, "acme"))
    keys.purging.builder.now = NOVEMBER
    await keys.purging.builder.copies(home, [Seed(NOVEMBER)])
    done = await keys.rotation.rotate(ADMIN)
    assert done.wrapped == {"messages": 1, "blobs": 1}
    assert [kept.epoch for kept in done.kept] == [202611]
    keys.now += KEEP
    assert [gone.epoch for gone in (await keys.rotation.rotate(ADMIN)).destroyed] == [202611]


async def test_it_looks_once_a_day_and_in_each_new_month(keys: Keys) -> None:
    assert await keys.rotation.look(SYSTEM) is not None
    keys.now += DAY - 1
    assert await keys.rotation.look(SYSTEM) is None
    keys.now = epoch_end(202611)
    assert (await keys.rotation.look(SYSTEM)).wrapped.total() == 5  # type: ignore[union-attr]
    keys.now -= DAY  # and when the clock went back
    assert await keys.rotation.look(SYSTEM) is not None


async def test_one_process_at_a_time(keys: Keys) -> None:
    assert await acquire(keys.store.db, "key_rotation", "another", DAY, keys.now) is not None
    with pytest.raises(RotationBusyError):
        await keys.rotation.rotate(ADMIN)
    assert await keys.rotation.look(SYSTEM) is None


async def test_another_tenants_keys_are_not_touched(keys: Keys) -> None:
    await keys.purging.builder.home("other")
    before = await keys.rows()
    keys.now = DECEMBER
    await keys.rotation.rotate(ADMIN, tenant_id="acme", at_once=True)
    async with keys.store.db.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(key_epochs))).scalar_one() == 1
    assert len(before) == len(await keys.rows())


async def test_the_log_hears_of_another_master_key_once(keys: Keys) -> None:
    assert await keys.rotation.announce_master(ADMIN) == 0
    keys.store.ring._master_name = "0123456789abcdef"
    assert await keys.rotation.announce_master(ADMIN) == 1
    assert await keys.rotation.announce_master(ADMIN) == 0
    (leaf,) = await keys.rotated()
    assert (leaf["key"], leaf["new"]) == ("master", "0123456789abcdef")


class Cut(BaseException):
    """What a kill is to the code: nothing after it runs."""


async def test_a_damaged_row_holds_up_nothing_else(keys: Keys) -> None:
    store = keys.store
    await keys.purging.builder.copies(await keys.purging.builder.home("zebra"), [Seed(NOVEMBER)])
    whole = (await keys.rows())[0]
    row = messages.c.id == whole.id
    async with store.db.write() as tx:
        await tx.conn.execute(update(messages).where(row).values(data_key=bytes(len(whole.data_key))))
    keys.now = DECEMBER
    done = await keys.rotation.rotate(ADMIN, at_once=True)
    assert (done.unreadable, done.wrapped) == (1, {"messages": 3, "blobs": 3})
    assert [(kept.tenant_id, kept.until) for kept in done.kept] == [("acme", None)]  # it may be mended from a backup
    assert [gone.tenant_id for gone in done.destroyed] == ["zebra"]
    async with store.db.write() as tx:
        await tx.conn.execute(update(messages).where(row).values(data_key=whole.data_key))


async def test_a_tenant_that_begins_to_leave_meanwhile_holds_up_no_other(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = keys.store
    await keys.purging.builder.copies(await keys.purging.builder.home("zebra"), [Seed(NOVEMBER)])
    keys.now = DECEMBER
    leaving = TenantErasures(store.db, store.ring, store.log, store.subscriptions, lambda: keys.now, "test")
    wrap_anew = keys.rotation._wrap_anew

    async def begin_to_leave(tenant: tenants.Tenant, *more: Any) -> tuple[int, int]:
        if tenant.id == "acme":
            await leaving.begin("acme", Reason.OFFBOARDING, ADMIN)
        return await wrap_anew(tenant, *more)

    monkeypatch.setattr(keys.rotation, "_wrap_anew", begin_to_leave)
    done = await keys.rotation.rotate(ADMIN, at_once=True)
    assert [gone.tenant_id for gone in done.destroyed] == ["zebra"]
    assert await leaving.work() == 0  # the erase worker is to come
    with pytest.raises(KeyMissingError):
        store.ring.tenant((await tenants.get(store.db, "acme", erased=True)).ref)


async def test_cut_at_any_step_it_ends_as_if_it_had_not_been(keys: Keys) -> None:
    """Each attempt gets one step further than the last one. What a kill leaves is what an exception leaves here: the
    database rolls back what was not committed, and the key file is there or not.
    """
    keys.now = DECEMBER
    reached = list[str]()
    cuts = 0
    while True:
        seen = list[str]()

        def step(name: str, seen: list[str] = seen) -> None:
            seen.append(name)
            if name not in reached:
                reached.append(name)
                raise Cut

        try:
            done = await keys.process(batch=2, step=step).rotate(ADMIN, at_once=True)
            break
        except Cut:
            cuts += 1
    assert reached == ["wrapped messages", "wrapped blobs", "destroying", "destroyed"]
    assert cuts == 4
    assert [gone.epoch for gone in done.destroyed] == [202611]
    assert len(await keys.rotated()) == 1
    assert {row.key_epoch for row in await keys.rows()} == {202612}
