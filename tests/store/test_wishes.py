"""Wishes of the CRM that meet: pins against deletions, purges against moves, the same twice, many at once. On both
databases; a deadlock fails the test instead of being tried again.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.errors import MailgateError
from mailgate.ids import new_id
from mailgate.store import database, operations
from mailgate.store.mailboxes import MailboxPatch
from mailgate.store.prune import prune
from mailgate.store.schema import events, folders, holds, mailboxes, messages, origins, tombstones
from mailgate.store.schema import operations as operations_table
from mailgate.store.schema import pins as pins_table
from mailgate.store.transaction import Transaction
from mailgate.store.wishes import folders as wishes_folders
from mailgate.store.wishes.locks import Locks
from mailgate.store.wishes.messages import Asked, MessageChange
from mailgate.store.wishes.service import Wishes
from mailgate.store.wishes.words import Words
from mailgate.sync.operations import OperationState
from retention.model import AnchorFrom
from retention.policy import ClockLimits
from tests.store.builder import Home, Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging


@pytest.fixture(autouse=True)
def _no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_RETRIABLE", frozenset())


@pytest.fixture
async def purging(store: Store) -> Purging:
    return await make_purging(store)


@pytest.fixture
def wishes(store: Store, purging: Purging) -> Wishes:
    locks = Locks(store.subscriptions, purging.expiry, ClockLimits(), store.log)
    return Wishes.over(
        store.db, store.ring, store.blobs, locks, max_bytes=1 << 20, anchor_from=AnchorFrom.RECEIVED, at_once=2
    )


async def folder(store: Store, home: Home, name: str, **more: Any) -> str:
    folder_id = new_id(NOW)
    values = {"id": folder_id, "tenant_id": home.tenant.id, "mailbox_id": home.mailbox_id, "name": name, **more}

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(insert(folders).values(selectable=True, followed=True, delimiter="/", **values))

    await store.db.transact(work)
    return folder_id


async def rows(store: Store, table: Any) -> list[Any]:
    async with store.db.read() as conn:
        return list((await conn.execute(select(table))).all())


async def outcome(work: Any) -> str:
    """`done`, or the slug of the refusal."""
    try:
        await work
    except MailgateError as refused:
        return refused.slug
    return "done"


def delete(wishes: Wishes, id_: str, *, permanent: bool = True) -> Any:
    return wishes.messages.delete("acme", id_, permanent=permanent, now=NOW, actor=SYSTEM)


def change(wishes: Wishes, id_: str, wanted: MessageChange) -> Any:
    return wishes.messages.change("acme", id_, wanted, NOW, SYSTEM)


def pin(purging: Purging, id_: str) -> Any:
    return purging.pins.put("acme", id_, "deal", "D-1", note=None, now=NOW, actor=SYSTEM)


@pytest.mark.parametrize("off", [False, True])
async def test_a_pin_and_a_deletion_at_once_one_of_them_is_told(
    store: Store, purging: Purging, wishes: Wishes, off: bool
) -> None:
    home = await purging.builder.home()
    copies = await purging.builder.copies(home, [Seed(NOW - DAY - n) for n in range(20)])
    if off:
        await store.mailboxes.update("acme", home.mailbox_id, MailboxPatch(enabled=False), NOW, SYSTEM)
    pairs = [(outcome(pin(purging, id_)), outcome(delete(wishes, id_))) for id_ in copies]
    orders = [pair if number % 2 else pair[::-1] for number, pair in enumerate(pairs)]
    found = await asyncio.gather(*(work for pair in orders for work in pair))
    pinned = {row.message_id for row in await rows(store, pins_table)}
    left = {row.id: row.deleted_at for row in await rows(store, messages)}
    for number, id_ in enumerate(copies):
        first, second = found[2 * number : 2 * number + 2]
        of_pin, of_delete = (first, second) if number % 2 else (second, first)
        if id_ in pinned:
            assert (of_pin, of_delete, left[id_]) == ("done", "pinned", None)
        else:
            assert (of_pin, of_delete) == ("deleted", "done")
            assert left.get(id_) == (None if off else NOW)
            assert (id_ in left) is not off
    graves = [row.message_id for row in await rows(store, tombstones)]
    assert sorted(graves) == sorted(set(copies) - pinned if off else ())


async def test_two_deletions_at_once_are_one(store: Store, purging: Purging, wishes: Wishes) -> None:
    home = await purging.builder.home()
    copies = await purging.builder.copies(home, [Seed(NOW - DAY - n) for n in range(10)])
    found: list[Asked] = await asyncio.gather(*(delete(wishes, id_) for id_ in copies for _ in range(3)))
    for start in range(0, len(found), 3):
        assert found[start] == found[start + 1] == found[start + 2]
    assert len(await rows(store, operations_table)) == 10
    deleted = [row.message_id for row in await rows(store, events) if row.type == "message.deleted"]
    assert sorted(deleted) == sorted(copies)


async def test_a_trash_that_many_need_at_once_is_made_once(store: Store, purging: Purging, wishes: Wishes) -> None:
    home = await purging.builder.home()
    copies = await purging.builder.copies(home, [Seed(NOW - DAY - n) for n in range(8)])
    await asyncio.gather(*(delete(wishes, id_, permanent=False) for id_ in copies))
    kinds = Counter(row.kind for row in await rows(store, operations_table))
    assert kinds == {"folder_create": 1, "move": 8}
    found = sorted(await rows(store, operations_table), key=lambda row: row.seq)
    assert [row.seq for row in found] == list(range(1, 10))
    assert found[0].kind == "folder_create"


async def test_a_purge_and_moves_at_once(store: Store, purging: Purging, wishes: Wishes) -> None:
    home = await purging.builder.home()
    archive = await folder(store, home, "Archive")
    copies = await purging.builder.copies(home, [Seed(NOW - 29 * DAY - n) for n in range(60)])
    purging.now = NOW + 2 * DAY
    moves = [outcome(change(wishes, id_, MessageChange(folder_id=archive))) for id_ in copies]
    counts, found = await asyncio.gather(purging.purge(batch=7), asyncio.gather(*moves))
    assert set(found) <= {"done", "purged"}
    kept = sum(counts.kept.values())
    assert counts.purged + kept == 60
    assert counts.purged >= found.count("purged")
    left = {row.id: row.moving_to for row in await rows(store, messages)}
    for id_, said in zip(copies, found, strict=True):
        assert id_ not in left if said == "purged" else left.get(id_, archive) == archive
    assert len(await rows(store, operations_table)) == found.count("done")


async def test_flags_of_many_clients_add_up(store: Store, purging: Purging, wishes: Wishes) -> None:
    home = await purging.builder.home()
    id_ = await purging.builder.copy(home, age_days=1)
    wanted = [MessageChange(flags=Words(add=(f"$client{number}",))) for number in range(12)]
    await asyncio.gather(*(change(wishes, id_, one) for one in wanted))
    (row,) = await rows(store, messages)
    assert row.flags == sorted(f"$client{number}" for number in range(12))
    assert len(await rows(store, operations_table)) == 12


async def test_a_held_copy_without_sync_is_hidden_and_stays(store: Store, purging: Purging, wishes: Wishes) -> None:
    home = await purging.builder.home()
    id_ = await purging.builder.copy(home, age_days=1)
    await store.mailboxes.update("acme", home.mailbox_id, MailboxPatch(enabled=False), NOW, SYSTEM)
    values = {"scope": "mailbox", "mailbox_id": home.mailbox_id, "matter": "M", "reason": "r"}

    async def hold(tx: Transaction) -> None:
        placed = {"id": new_id(NOW), "tenant_id": "acme", "placed_at": NOW, "placed_by": "x", **values}
        await tx.conn.execute(insert(holds).values(placed))

    await store.db.transact(hold)
    asked = await delete(wishes, id_)
    assert (asked.scope, list(asked.operation_ids)) == ("copy", [])
    (row,) = await rows(store, messages)
    assert row.deleted_at == NOW
    assert await rows(store, tombstones) == []
    assert len(await rows(store, origins)) == 1
    assert await outcome(delete(wishes, id_)) == "message_not_found"


async def test_a_failed_wish_leaves_no_trace(
    store: Store, purging: Purging, wishes: Wishes, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = await purging.builder.home()
    id_ = await purging.builder.copy(home, age_days=1)
    before = [await rows(store, table) for table in (messages, folders, mailboxes, events)]

    class CutError(Exception):
        pass

    async def cut(_self: Transaction) -> None:
        raise CutError

    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "flush", cut)
        for work in (
            change(wishes, id_, MessageChange(flags=Words(add=("\\Seen",)))),
            delete(wishes, id_),
            delete(wishes, id_, permanent=False),
            wishes.folders.create("acme", home.mailbox_id, "New", NOW, SYSTEM),
        ):
            with pytest.raises(CutError):
                await work
    assert [await rows(store, table) for table in (messages, folders, mailboxes, events)] == before
    assert await rows(store, operations_table) == []


@pytest.mark.parametrize("seed", range(3))
async def test_many_at_once_never_wait_for_each_other_for_ever(
    store: Store, purging: Purging, wishes: Wishes, seed: int
) -> None:
    rng = random.Random(seed)
    home = await purging.builder.home("acme", "professional")
    other = await purging.builder.mailbox(home.tenant)
    places = {box.mailbox_id: [box.folder_id, await folder(store, box, "A")] for box in (home, other)}
    for box in (home, other):
        await folder(store, box, "Trash", special_use="trash")
    ages = [Seed(NOW - 80 * DAY - n * DAY // 2) for n in range(15)]
    copies = {box.mailbox_id: await purging.builder.copies(box, ages) for box in (home, other)}
    purging.now = NOW + 8 * DAY

    def something() -> Any:
        mailbox_id = rng.choice(sorted(places))
        id_ = rng.choice(copies[mailbox_id])
        wanted = rng.randrange(9)
        name = f"{rng.choice('XYZ')}/{rng.choice('xyz')}"
        if wanted == 0:
            return change(wishes, id_, MessageChange(flags=Words((f"${rng.randrange(9)}",), ("\\Seen",))))
        if wanted == 1:
            return change(wishes, id_, MessageChange(folder_id=rng.choice(places[mailbox_id])))
        if wanted == 2:
            return delete(wishes, id_, permanent=rng.random() < 0.5)
        if wanted == 3:
            return pin(purging, id_)
        if wanted == 4:
            return purging.pins.remove("acme", id_, "deal", "D-1", now=NOW, actor=SYSTEM)
        if wanted == 5:
            return wishes.folders.create("acme", mailbox_id, name, NOW, SYSTEM)
        if wanted == 6:
            return wishes.folders.rename("acme", mailbox_id, places[mailbox_id][1], name, NOW, SYSTEM)
        if wanted == 7:
            place = places[mailbox_id][1]
            return wishes.folders.delete("acme", mailbox_id, place, permanent=True, now=NOW, actor=SYSTEM)
        return purging.builder.plan("acme", rng.choice(["professional", "standard"]))

    async def client() -> None:
        for _ in range(12):
            await outcome(something())

    await asyncio.gather(*(client() for _ in range(6)), purging.purge(batch=4))
    async with store.db.read() as conn:
        columns = operations_table.c
        query = select(columns.mailbox_id, func.count(), func.max(columns.seq)).group_by(columns.mailbox_id)
        for _, count, last in (await conn.execute(query)).all():
            assert count == last, "numbered without gaps"
    for row in await rows(store, messages):
        assert not (row.pins and row.deleted_at), "pinned is not deleted"
        assert row.seen == ("\\Seen" in row.flags)


async def test_a_mailbox_that_is_removed_meanwhile(store: Store, purging: Purging, wishes: Wishes) -> None:
    home = await purging.builder.home()
    copies = await purging.builder.copies(home, [Seed(NOW - DAY - n) for n in range(6)])
    wanted = MessageChange(folder_id=await folder(store, home, "Archive"))
    works = [outcome(change(wishes, id_, wanted)) for id_ in copies]
    works.insert(3, outcome(store.mailboxes.remove("acme", home.mailbox_id, NOW, SYSTEM)))
    found = await asyncio.gather(*works)
    assert set(found) <= {"done", "mailbox_removed", "expired"}
    (row,) = await rows(store, mailboxes)
    assert row.op_seq == len(await rows(store, operations_table)) == found.count("done") - 1
    assert {(row.state, row.code) for row in await rows(store, operations_table)} <= {("failed", "mailbox_removed")}
    assert all(row.moving_to is None for row in await rows(store, messages))


async def test_a_folder_with_very_many_messages_is_not_deleted_in_one_go(
    store: Store, purging: Purging, wishes: Wishes, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = await purging.builder.home()
    old = await folder(store, home, "Old")
    inside = Home(home.tenant, home.mailbox_id, old)
    copies = await purging.builder.copies(inside, [Seed(NOW - DAY - n) for n in range(4)])

    def drop() -> Any:
        return wishes.folders.delete("acme", home.mailbox_id, old, permanent=True, now=NOW, actor=SYSTEM)

    monkeypatch.setattr(wishes_folders, "DELETED_WITH_FOLDER", 3)
    assert await outcome(drop()) == "folder_not_empty"
    assert await rows(store, operations_table) == []
    await delete(wishes, copies[0])
    assert await outcome(drop()) == "done"
    found = sorted(await rows(store, operations_table), key=lambda row: row.seq)
    assert [(row.seq, row.kind) for row in found] == [
        *((number, "delete") for number in range(1, 5)),
        (5, "folder_delete"),
    ]
    assert {row.message_id for row in found[:4]} == set(copies)
    assert {row.from_folder_id for row in found[:4]} == {old}
    assert all(row.deleted_at == NOW for row in await rows(store, messages))


async def test_operations_that_ended_long_ago_are_forgotten(store: Store, purging: Purging, wishes: Wishes) -> None:
    home = await purging.builder.home()
    copies = await purging.builder.copies(home, [Seed(NOW - DAY - n) for n in range(2)])
    asked = [await change(wishes, id_, MessageChange(flags=Words(add=("\\Seen",)))) for id_ in copies]

    async def end(tx: Transaction) -> None:
        mine = operations_table.c.id == asked[0].operation_ids[0]
        row = (await tx.conn.execute(select(operations_table).where(mine))).one()
        await operations.finish(tx, "acme", operations.operation_of(row), OperationState.APPLIED, NOW)

    await store.db.transact(end)
    for days, gone in ((90, 0), (91, 1), (400, 0)):
        pruned = await prune(store.db, NOW + days * DAY, longest_days=90, idempotency_hours=24)
        assert pruned.operations == gone
    (left,) = await rows(store, operations_table)
    assert left.id == asked[1].operation_ids[0]
