"""Holds: what they cover, how they end, and who wins when a purge runs at the same time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import insert

from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.errors import ConflictError, NotFoundError, PreconditionError
from mailgate.store import messages as message_rows
from mailgate.store.installation import CLOCK_MARK
from mailgate.store.legal_holds import MAX_MESSAGES, LegalHolds, Scope
from mailgate.store.schema import events, installation
from mailgate.store.transaction import Transaction
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from tests.store.builder import Home, Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, blocked, blocked_or_done, held_at_the_end, make_purging, somebody_waits


@pytest.fixture
async def purging(store: Store) -> Purging:
    made = await make_purging(store)
    await made.lease.release(store.db)
    return made


def holds_of(purging: Purging, days: int = 30) -> LegalHolds:
    store = purging.store
    return LegalHolds(store.db, store.ring, store.log, purging.expiry, release_days=days)


async def place(purging: Purging, scope: Scope | None = None) -> str:
    hold = await holds_of(purging).place(
        "acme", scope or Scope(), matter="M-1", reason="a claim", now=purging.now, actor=SYSTEM
    )
    return hold.id


async def purge(purging: Purging, number: int) -> dict[str, Any]:
    assert await purging.lease.acquire(purging.store.db, purging.now)
    counts = await purging.purge(number, "acme")
    await purging.lease.release(purging.store.db)
    return counts.to_json()


async def told(purging: Purging, *types: str) -> list[tuple[str, str | None, Any]]:
    query = events.select().where(events.c.tenant_id == "acme", events.c.type.in_(types)).order_by(events.c.seq)
    async with purging.store.db.read() as conn:
        return [(row.type, row.message_id, row.payload) for row in (await conn.execute(query)).all()]


async def proven(purging: Purging) -> None:
    """An auditor finds from the log alone that nothing held was purged."""
    tenant = (await purging.builder.home()).tenant
    bodies = [body async for body in purging.store.reader.entries(tenant, 0, 10_000)]
    report = replay_leaves(bodies)
    assert report.verdict is Verdict.OK, report


async def test_each_scope_keeps_what_it_covers_and_what_arrives_later(purging: Purging) -> None:
    home = await purging.builder.home()
    other = await purging.builder.mailbox(home.tenant)
    named, loose = await purging.builder.copies(home, [Seed(NOW - 40 * DAY), Seed(NOW - 41 * DAY)])
    boxed = await purging.builder.copy(other, age_days=40)
    await place(purging, Scope(message_ids=(named,)))
    await place(purging, Scope(other.mailbox_id))
    late = await purging.builder.copy(other, age_days=42)
    counts = await purge(purging, 1)
    assert (counts["purged"], counts["kept"]) == (1, {"held": 3})
    assert await purging.ids() == {named, boxed, late}
    await place(purging)
    everything = await purging.builder.copy(home, age_days=50)
    assert (await purge(purging, 2))["kept"] == {"held": 4}
    assert await purging.ids() == {named, boxed, late, everything}
    assert loose not in await purging.ids()
    await proven(purging)


async def test_a_preview_counts_each_copy_once_however_many_holds_are_on_it(purging: Purging) -> None:
    home = await purging.builder.home()
    other = await purging.builder.mailbox(home.tenant)
    # of age, young, of age and pinned; then three of each that nothing is on
    ages = (40, 3, 40)
    boxed = [await purging.builder.copy(other, age_days=age) for age in ages]
    named = [await purging.builder.copy(home, age_days=age) for age in ages]
    loose = [await purging.builder.copy(home, age_days=age) for age in ages]
    for id_ in (boxed[2], named[2], loose[2]):
        await purging.pins.put("acme", id_, "deal", "D", note=None, now=NOW, actor=SYSTEM)
    await place(purging, Scope(other.mailbox_id))
    await place(purging, Scope(message_ids=(*named, boxed[0])))
    await place(purging, Scope(message_ids=(named[0], boxed[2])))

    async def fates() -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        preview = await purging.engine().preview("acme", NOW)
        due, stays = ({str(fate): sum_.copies for fate, sum_ in sums.items()} for sums in (preview.due, preview.kept))
        return due, stays, preview.counts.to_json()["kept"]

    assert await fates() == ({"age": 1}, {"held": 6, "pinned": 1, "not_due": 1}, {"held": 4, "pinned": 1})
    await place(purging)
    assert await fates() == ({}, {"held": 9}, {"held": 6})


async def test_a_hold_that_is_released_by_a_clock_that_went_back_protects_as_long(purging: Purging) -> None:
    await purging.builder.home("acme")
    hold_id = await place(purging)
    async with purging.store.db.write() as tx:
        await tx.conn.execute(insert(installation).values(key=CLOCK_MARK, value=str(NOW)))
    released = await holds_of(purging).release("acme", hold_id, reason="r", now=NOW - 4_000 * DAY, actor=SYSTEM)
    assert released.protects_until_at == NOW + 30 * DAY


async def test_holds_overlap_and_a_released_one_protects_for_its_days(purging: Purging) -> None:
    home = await purging.builder.home()
    id_ = await purging.builder.copy(home, age_days=40)
    first, second = await place(purging, Scope(message_ids=(id_,))), await place(purging)
    purging.now += DAY
    released = await holds_of(purging).release("acme", first, reason="settled", now=purging.now, actor=SYSTEM)
    assert released.protects_until_at == purging.now + 30 * DAY
    purging.now += 31 * DAY
    assert (await purge(purging, 1))["kept"] == {"held": 1}
    await holds_of(purging).release("acme", second, reason="settled", now=purging.now, actor=SYSTEM)
    purging.now += 30 * DAY - 1
    assert (await purge(purging, 2))["kept"] == {"held": 1}
    purging.now += 1
    assert (await purge(purging, 3))["purged"] == 1
    await proven(purging)


async def test_a_hold_is_told_to_the_log_and_the_feed(purging: Purging) -> None:
    home = await purging.builder.home()
    ids = await purging.builder.copies(home, [Seed(NOW - DAY - n) for n in range(3)])
    hold_id = await place(purging, Scope(message_ids=tuple(ids)))
    await holds_of(purging, days=0).release("acme", hold_id, reason="settled", now=NOW, actor=SYSTEM)
    leaves = [leaf for leaf in await purging.leaves() if leaf["type"].startswith("hold.")]
    assert [leaf["type"] for leaf in leaves] == ["hold.place", "hold.cover", "hold.release"]
    assert leaves[0]["scope"] == {"kind": "messages", "items": 3}
    assert (leaves[0]["matter"], "a claim" in str(leaves)) == ("M-1", False)
    assert len(leaves[1]["items"]) == 3
    assert await told(purging, "hold.placed", "hold.released") == [
        ("hold.placed", None, {"hold_id": hold_id, "scope": "messages"}),
        ("hold.released", None, {"hold_id": hold_id, "scope": "messages", "protects_until_at": NOW}),
    ]
    updated = await told(purging, "message.updated")
    assert [payload["expires_at"] for _, _, payload in updated] == [None] * 3 + [
        NOW - DAY - n + 30 * DAY for n in sorted(range(3), key=lambda n: ids[n])
    ]


async def test_many_messages_are_covered_in_leaves_of_500(purging: Purging) -> None:
    home = await purging.builder.home()
    ids = await purging.builder.copies(home, [Seed(NOW - n) for n in range(1001)])
    hold_id = await place(purging, Scope(message_ids=tuple(ids)))
    covers = [leaf for leaf in await purging.leaves() if leaf["type"] == "hold.cover"]
    assert [len(leaf["items"]) for leaf in covers] == [500, 500, 1]
    hold, named = await holds_of(purging).get("acme", hold_id)
    assert (hold.messages, list(named)) == (1001, sorted(ids))


async def test_what_is_gone_can_not_be_held(purging: Purging) -> None:
    home = await purging.builder.home()
    gone, there = await purging.builder.copies(home, [Seed(NOW - 40 * DAY), Seed(NOW)])
    await purge(purging, 1)
    with pytest.raises(ConflictError) as refused:
        await place(purging, Scope(message_ids=(gone, there)))
    assert (refused.value.slug, refused.value.extra["message_ids"]) == ("purged", [gone])
    assert gone in refused.value.detail
    for scope in (Scope(message_ids=("X",)), Scope("Y"), Scope(message_ids=(gone, "Z"))):
        with pytest.raises(NotFoundError):
            await place(purging, scope)
    other = await purging.builder.home("other")
    theirs = await purging.builder.copy(other)
    with pytest.raises(NotFoundError):
        await place(purging, Scope(message_ids=(theirs,)))
    assert (await holds_of(purging).list_page("acme")).items == []
    assert not [leaf for leaf in await purging.leaves() if leaf["type"].startswith("hold.")]


async def test_what_is_no_hold_is_refused(purging: Purging) -> None:
    await purging.builder.home()
    holds = holds_of(purging)
    too_long = ({"matter": "x" * 201}, {"reason": "x" * 1001})
    for wrong in ({"matter": ""}, {"matter": "two\nlines"}, {"reason": ""}, *too_long):
        with pytest.raises(PreconditionError):
            await holds.place("acme", Scope(), **{"matter": "M", "reason": "r"} | wrong, now=NOW, actor=SYSTEM)
    many = Scope(message_ids=tuple(str(n) for n in range(MAX_MESSAGES + 1)))
    with pytest.raises(PreconditionError):
        await place(purging, many)
    with pytest.raises(NotFoundError):
        await holds.place("nobody", Scope(), matter="M", reason="r", now=NOW, actor=SYSTEM)
    hold_id = await place(purging)
    await holds.release("acme", hold_id, reason="r", now=NOW, actor=SYSTEM)
    with pytest.raises(ConflictError, match="released at"):
        await holds.release("acme", hold_id, reason="r", now=NOW, actor=SYSTEM)
    with pytest.raises(NotFoundError):
        await holds.release("acme", "X", reason="r", now=NOW, actor=SYSTEM)
    with pytest.raises(NotFoundError):
        await holds.get("acme", "X")


async def test_holds_are_listed_newest_first(purging: Purging) -> None:
    await purging.builder.home()
    holds, ids = holds_of(purging), []
    for _ in range(3):
        purging.now += DAY
        ids.append(await place(purging))
    await holds.release("acme", ids[1], reason="r", now=purging.now, actor=SYSTEM)
    first = await holds.list_page("acme", limit=2)
    assert [hold.id for hold in first.items] == [ids[2], ids[1]]
    rest = await holds.list_page("acme", after=str(first.next_key[0] if first.next_key else ""), limit=2)
    assert ([hold.id for hold in rest.items], rest.next_key) == ([ids[0]], None)
    assert [hold.id for hold in (await holds.list_page("acme", standing=True)).items] == [ids[2], ids[0]]
    assert [hold.id for hold in (await holds.list_page("acme", standing=False)).items] == [ids[1]]


SCOPES = ("tenant", "mailbox", "messages")


def a_scope(kind: str, home: Home, id_: str) -> Scope:
    return {"tenant": Scope(), "mailbox": Scope(home.mailbox_id), "messages": Scope(message_ids=(id_,))}[kind]


@pytest.mark.parametrize("kind", SCOPES)
@pytest.mark.parametrize("boundary", ["tenant locked", "candidates locked", "purged"])
async def test_a_purge_that_locked_first_takes_the_copy_and_the_hold_is_told(
    purging: Purging, children: Any, boundary: str, kind: str
) -> None:
    home = await purging.builder.home()
    id_ = await purging.builder.copy(home, age_days=40)
    child = await children(pause_at=boundary)
    assert await child.line() == "paused"
    task = asyncio.create_task(place(purging, a_scope(kind, home, id_)))
    await blocked(purging, task)
    await child.go_on()
    assert (await child.result())["counts"]["purged"] == 1
    if kind == "messages":
        with pytest.raises(ConflictError) as refused:
            await task
        assert refused.value.slug == "purged"
    else:
        await task
    assert await purging.ids() == set()
    await proven(purging)


@pytest.mark.parametrize("kind", SCOPES)
@pytest.mark.parametrize("boundary", ["begun", "opened"])
async def test_a_hold_that_comes_before_the_locks_keeps_the_copy(
    purging: Purging, children: Any, boundary: str, kind: str
) -> None:
    home = await purging.builder.home()
    id_ = await purging.builder.copy(home, age_days=40)
    child = await children(pause_at=boundary)
    assert await child.line() == "paused"
    await place(purging, a_scope(kind, home, id_))
    await child.go_on()
    counts = (await child.result())["counts"]
    assert (counts["purged"], counts["kept"]) == (0, {"held": 1})
    assert await purging.ids() == {id_}
    await proven(purging)


@pytest.mark.parametrize("kind", SCOPES)
async def test_a_hold_between_two_batches_keeps_what_is_left(purging: Purging, children: Any, kind: str) -> None:
    home = await purging.builder.home()
    ids = await purging.builder.copies(home, [Seed(NOW - (50 - n) * DAY) for n in range(8)])
    child = await children(batch=2, pause_at="batch")
    assert await child.line() == "paused"
    task = asyncio.create_task(place(purging, a_scope(kind, home, ids[7])))
    await blocked_or_done(purging, task)  # where the next batch is locked already, that one goes first
    await child.go_on()
    counts = (await child.result())["counts"]
    left = await purging.ids()
    if left:
        await task
        assert left == ({ids[7]} if kind == "messages" else set(ids[-len(left) :]))
    assert (counts["purged"], counts["kept"].get("held", 0)) == (8 - len(left), len(left))
    assert len(left) == (1 if kind == "messages" else 6) or not purging.store.db.sqlite
    await asyncio.wait({task})
    await proven(purging)


@pytest.mark.parametrize("kind", SCOPES)
async def test_a_hold_that_is_not_committed_yet_is_never_overtaken(
    purging: Purging, children: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    home = await purging.builder.home()
    id_ = await purging.builder.copy(home, age_days=40)
    at_the_end, go_on = held_at_the_end(monkeypatch)
    task = asyncio.create_task(place(purging, a_scope(kind, home, id_)))
    await at_the_end.wait()
    child = await children()
    if not purging.store.db.sqlite:  # which has one writer
        await somebody_waits(purging)
    go_on.set()
    await task
    counts = (await child.result())["counts"]
    assert (counts["purged"], counts["kept"]) == (0, {"held": 1})
    assert await purging.ids() == {id_}


@pytest.mark.parametrize("kind", SCOPES)
async def test_a_deletion_at_the_server_never_overtakes_a_hold(
    purging: Purging, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The hold is about to commit when synchronization wants to end the copy."""
    home = await purging.builder.home()
    id_ = await purging.builder.copy(home, age_days=1)

    async def end(tx: Transaction) -> tuple[list[str], list[str]]:
        return await message_rows.remove(
            tx,
            purging.store.log,
            tenant_id="acme",
            tenant_ref=home.tenant.ref,
            mailbox_id=home.mailbox_id,
            ids=[id_],
            reason="remote_expunged",
            now=NOW,
        )

    at_the_end, go_on = held_at_the_end(monkeypatch, only_the_first=True)
    placing = asyncio.create_task(place(purging, a_scope(kind, home, id_)))
    await at_the_end.wait()
    ending = asyncio.create_task(purging.store.db.transact(end))
    await blocked(purging, ending)
    go_on.set()
    await placing
    assert await ending == ([], [id_])
    assert await purging.ids() == {id_}
    await proven(purging)
