"""Pins: what they keep, what they say, what they refuse."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select, text

from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.errors import ConflictError, NotFoundError, PreconditionError
from mailgate.store.pins import Pin
from mailgate.store.schema import events, messages, tombstones
from mailgate.store.schema import pins as table
from retention.ledger.commitment import Committer
from tests.store.builder import Home, Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging

ODD = "Ünïcode / %2F ?x=1 ' \" \\ 例"


@pytest.fixture
async def purging(store: Store) -> Purging:
    return await make_purging(store)


@pytest.fixture
async def home(purging: Purging) -> Home:
    return await purging.builder.home()


async def put(purging: Purging, message_id: str, entity_id: str = "D-1", note: str | None = None) -> tuple[Pin, bool]:
    return await purging.pins.put("acme", message_id, "deal", entity_id, note=note, now=NOW, actor=SYSTEM)


async def remove(purging: Purging, message_id: str, entity_id: str = "D-1", at: int = NOW) -> bool:
    return await purging.pins.remove("acme", message_id, "deal", entity_id, now=at, actor=SYSTEM)


async def test_a_pin_is_made_once_and_repeating_it_changes_nothing(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home)
    first, new = await put(purging, id_)
    again, newer = await put(purging, id_)
    assert (new, newer) == (True, False)
    assert first == again == Pin(id_, "deal", "D-1", None, NOW, "system:gateway")
    log = [leaf["type"] for leaf in await purging.leaves()]
    assert log.count("pin.add") == 1


async def test_a_pinned_copy_outlives_every_purge_and_the_plan(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home, age_days=400)
    await put(purging, id_)
    await purging.purge(1)
    await purging.builder.plan("acme", "free")
    await purging.purge(2, "acme")
    assert await purging.ids() == {id_}


async def test_when_the_last_pin_goes_the_original_anchor_counts_again(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home, age_days=400)
    await put(purging, id_, "D-1")
    await put(purging, id_, "D-2")
    assert await remove(purging, id_, "D-1")
    await purging.purge(1)
    assert await purging.ids() == {id_}
    assert await remove(purging, id_, "D-2")
    assert not await remove(purging, id_, "D-2")
    await purging.purge(2)
    assert await purging.ids() == set()


async def test_a_note_is_sealed_and_comes_back(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home)
    pin, _ = await put(purging, id_, ODD, "the offer they accepted")
    page = await purging.pins.list_page("acme")
    assert list(page.items) == [pin]
    assert page.items[0].note == "the offer they accepted"
    async with purging.store.db.read() as conn:
        sealed = (await conn.execute(select(table.c.note))).scalar_one()
    assert b"offer" not in sealed


async def test_a_note_that_is_given_later_replaces_the_first(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home)
    await put(purging, id_, note="one")
    assert (await put(purging, id_, note="two"))[0].note == "two"
    assert (await put(purging, id_))[0].note == "two"


async def test_the_log_commits_to_the_record_and_does_not_name_it(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home)
    await put(purging, id_, "Jane Doe's deal")
    leaf = next(leaf for leaf in await purging.leaves() if leaf["type"] == "pin.add")
    assert "Jane" not in str(leaf)
    committer = Committer(purging.store.ring.tenant(home.tenant.ref).ledger_key)
    assert leaf["entity_commit"] == committer.commit(leaf["item_ref"], "entity", b"Jane Doe's deal")


async def test_adding_and_removing_name_the_same_pin(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home)
    await put(purging, id_)
    await remove(purging, id_)
    added, removed = [leaf for leaf in await purging.leaves() if leaf["type"].startswith("pin.")]
    assert added["pin_ref"] == removed["pin_ref"]
    assert removed["reason"] == "unpinned"


async def test_events_carry_when_the_copy_expires(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home, age_days=10)
    await put(purging, id_)
    await remove(purging, id_)
    async with purging.store.db.read() as conn:
        told = (
            await conn.execute(
                select(events.c.type, events.c.payload).where(events.c.message_id == id_).order_by(events.c.seq)
            )
        ).all()
    common = {"anchor_at": NOW - 10 * DAY, "entity_type": "deal", "entity_id": "D-1"}
    assert [tuple(row) for row in told] == [
        ("message.pinned", {**common, "expires_at": None}),
        ("message.unpinned", {**common, "expires_at": NOW + 20 * DAY}),
    ]


async def test_an_expired_copy_that_is_not_purged_yet_may_be_pinned(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home, age_days=40)
    assert (await put(purging, id_))[1]
    await purging.purge()
    assert await purging.ids() == {id_}


async def test_a_pin_on_a_purged_copy_is_refused_and_says_why(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home, age_days=40)
    await purging.purge()
    with pytest.raises(ConflictError) as refused:
        await put(purging, id_)
    assert refused.value.slug == "purged"
    assert refused.value.extra["message_id"] == id_
    assert refused.value.extra["reason"] == "age"
    assert "rehydrate" in refused.value.detail


async def test_a_pin_after_its_mailbox_was_removed_is_refused(purging: Purging, home: Home) -> None:
    pinned, free = [await purging.builder.copy(home) for _ in range(2)]
    await put(purging, pinned)
    await purging.store.mailboxes.remove("acme", home.mailbox_id, NOW, SYSTEM)
    for id_ in (pinned, free):
        with pytest.raises(ConflictError) as refused:
            await put(purging, id_, "D-2")
        assert refused.value.slug == "mailbox_removed"
    assert (await put(purging, pinned))[1] is False  # the one that was accepted stands
    await purging.purge()
    assert await purging.ids() == {pinned}
    with pytest.raises(ConflictError) as refused:
        await put(purging, free)
    assert refused.value.slug == "mailbox_removed"


async def test_another_tenants_message_does_not_exist(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home)
    await purging.builder.home("other")
    with pytest.raises(NotFoundError):
        await purging.pins.put("other", id_, "deal", "D-1", note=None, now=NOW, actor=SYSTEM)
    with pytest.raises(NotFoundError):
        await purging.pins.put("nobody", id_, "deal", "D-1", note=None, now=NOW, actor=SYSTEM)
    await put(purging, id_)
    assert not await purging.pins.remove("other", id_, "deal", "D-1", now=NOW, actor=SYSTEM)
    assert list((await purging.pins.list_page("other")).items) == []


@pytest.mark.parametrize("entity_id", ["", "x" * 201, "a\0b", "\ud800"], ids=["empty", "long", "NUL", "surrogate"])
async def test_a_record_that_cannot_be_stored_is_refused(purging: Purging, home: Home, entity_id: str) -> None:
    id_ = await purging.builder.copy(home)
    with pytest.raises(PreconditionError):
        await put(purging, id_, entity_id)
    assert not await remove(purging, id_, entity_id)


async def test_pins_are_listed_by_record_page_by_page(purging: Purging, home: Home) -> None:
    ids = sorted(await purging.builder.copies(home, [Seed(NOW) for _ in range(3)]))
    for id_ in ids:
        for entity_id in ("D-1", "D-2"):
            await put(purging, id_, entity_id)
    found, after = [], None
    while True:
        page = await purging.pins.list_page("acme", after=after, limit=2)
        found += [(pin.entity_id, pin.message_id) for pin in page.items]
        if page.next_key is None:
            break
        after = tuple(str(part) for part in page.next_key)
    assert found == [(entity_id, id_) for entity_id in ("D-1", "D-2") for id_ in ids]
    one = await purging.pins.list_page("acme", entity_type="deal", entity_id="D-2")
    assert [pin.message_id for pin in one.items] == ids
    assert list((await purging.pins.list_page("acme", entity_type="lead")).items) == []


async def test_pins_of_messages_come_by_message(purging: Purging, home: Home) -> None:
    pinned, bare = [await purging.builder.copy(home) for _ in range(2)]
    await put(purging, pinned, "D-1")
    await put(purging, pinned, "D-2")
    async with purging.store.db.read() as conn:
        found = await purging.pins.of_messages(conn, home.tenant, [pinned, bare])
    assert {id_: [pin.entity_id for pin in pins] for id_, pins in found.items()} == {pinned: ["D-1", "D-2"]}


async def test_a_record_that_is_gone_takes_all_its_pins(purging: Purging, home: Home) -> None:
    ids = await purging.builder.copies(home, [Seed(NOW - 40 * DAY) for _ in range(903)])
    async with purging.store.db.write() as tx:
        await tx.conn.execute(
            table.insert(),
            [
                {
                    "tenant_id": "acme",
                    "message_id": id_,
                    "entity_type": "deal",
                    "entity_id": "D-1",
                    "ref": f"{number:032x}",
                    "created_at": NOW,
                    "created_by": "system:test",
                }
                for number, id_ in enumerate(ids)
            ],
        )
        await tx.conn.execute(text("UPDATE messages SET pins = 1"))
    await put(purging, ids[0], "D-2")
    assert await purging.pins.remove_record("acme", "deal", "D-1", now=NOW, actor=SYSTEM) == 903
    assert await purging.pins.remove_record("acme", "deal", "D-1", now=NOW, actor=SYSTEM) == 0
    counts = await purging.purge()
    assert await purging.ids() == {ids[0]}
    assert (counts.purged, counts.kept) == (902, {"pinned": 1})


async def test_a_record_that_is_gone_leaves_another_tenants_pins(
    purging: Purging, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same name; it neither loses them nor are they met again and again."""
    theirs = await purging.builder.copy(await purging.builder.home("other"))
    await purging.pins.put("other", theirs, "deal", "D-1", note=None, now=NOW, actor=SYSTEM)
    for _ in range(3):
        await put(purging, await purging.builder.copy(home), "D-1")
    monkeypatch.setattr("mailgate.store.pins._BATCH", 1)
    async with asyncio.timeout(30):
        assert await purging.pins.remove_record("acme", "deal", "D-1", now=NOW, actor=SYSTEM) == 3
    left = await purging.pins.list_page("other")
    assert [pin.message_id for pin in left.items] == [theirs]


async def test_the_moment_of_unpinning_is_kept(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home)
    query = select(messages.c.unpinned_at).where(messages.c.id == id_)
    seen = []
    for step in (
        put(purging, id_, "D-1"),
        put(purging, id_, "D-2"),
        remove(purging, id_, "D-1", NOW + 1),
        remove(purging, id_, "D-2", NOW + 2),
        put(purging, id_, "D-3"),
    ):
        await step
        async with purging.store.db.read() as conn:
            seen.append((await conn.execute(query)).scalar_one())
    assert seen == [None, None, None, NOW + 2, None]


async def test_a_purge_leaves_no_pin_behind(purging: Purging, home: Home) -> None:
    id_ = await purging.builder.copy(home, age_days=40)
    await put(purging, id_)
    await remove(purging, id_)
    await purging.purge()
    async with purging.store.db.read() as conn:
        assert (await conn.execute(select(table.c.message_id))).all() == []
        assert (await conn.execute(select(tombstones.c.message_id))).scalars().all() == [id_]
