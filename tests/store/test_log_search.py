"""A purge log is searched in bounded looks, and what they find together is exactly what is there."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from mailgate.actors import SYSTEM
from mailgate.clock import DAY, HOUR, Instant
from mailgate.store import log_search, tenants
from mailgate.store.log_search import Entry, EntryFilter
from mailgate.store.transaction import Leaf, Transaction
from tests.store.conftest import NOW, Store

TYPES = ("item.purge", "blob.erase", "hold.place", "run.open")
REASONS = ("age", "100%", 'a"b', "back\\slash", "under_score", "é")


async def furnish(store: Store, count: int, seed: int) -> list[Entry]:
    """A log whose clock jumps now and then, signed from time to time."""
    chance = random.Random(seed)
    await tenants.put(store.db, store.ring, store.log, "acme", "Acme", NOW, SYSTEM)
    tenant = await tenants.get(store.db, "acme")
    at = NOW
    for _ in range(count // 10):
        at += chance.choice((HOUR, 6 * HOUR, -20 * HOUR, DAY))
        await store.db.transact(lambda tx, at=at: add(tx, at, chance))  # type: ignore[misc]
        if chance.random() < 0.6:
            await store.reader.checkpoint(tenant, at)
    return await every(store, EntryFilter())


async def add(tx: Transaction, at: Instant, chance: random.Random) -> None:
    for _ in range(10):
        type_ = chance.choices(TYPES, (60, 30, 5, 5))[0]
        reason = chance.choice(REASONS)
        body = json.dumps({"type": type_, "reason": reason, "x": {"reason": "age"}}, ensure_ascii=False).replace(
            '": ', '":'
        )
        run = f"01KSKBP800DNN0GF2D5XF3BNE{chance.randrange(4)}"
        item = f"item{chance.randrange(5)}" if type_ != "item.purge" else f"purged{chance.getrandbits(60)}"
        tx.log("acme", Leaf(body.encode(), type_, at, run, item))


async def every(store: Store, wanted: EntryFilter, limit: int = 7) -> list[Entry]:
    """What all looks find together."""
    found: list[Entry] = []
    before: int | None = None
    for _ in range(500):
        page = await log_search.page(store.db, "acme", wanted, before=before, limit=limit)
        assert len(page.items) <= limit
        found += page.items
        if page.next_key is None:
            return found
        assert before is None or page.next_key[0] < before
        before = int(page.next_key[0])
    pytest.fail("it never ends")


async def test_looks_find_exactly_what_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_search, "STRETCH", 9)
    entries = await furnish(store, 200, seed=5)
    assert [entry.index for entry in entries] == list(range(len(entries)))[::-1]
    times = sorted({entry.at for entry in entries})
    ends = (None, times[len(times) // 3], times[-2])
    for since, until, type_, reason in itertools.product(ends, ends, (None, *TYPES[::2]), (None, *REASONS[:4])):
        wanted = EntryFilter(since=since, until=until, types=() if type_ is None else (type_,), reason=reason)
        expected = [entry.index for entry in entries if fits(entry, wanted)]
        assert [entry.index for entry in await every(store, wanted)] == expected, wanted
    for wanted in (
        EntryFilter(run_id=entries[3].run_id),
        EntryFilter(item_ref="item2", since=times[2]),
        EntryFilter(run_id=entries[3].run_id, reason="under_score"),
        EntryFilter(types=("run.open", "hold.place")),
        EntryFilter(item_ref="nothing"),
        EntryFilter(since=times[-1] + 400 * DAY),
    ):
        expected = [entry.index for entry in entries if fits(entry, wanted)]
        assert [entry.index for entry in await every(store, wanted)] == expected, wanted
    assert (await log_search.page(store.db, "nobody", EntryFilter(), before=None, limit=5)).items == []


async def test_a_look_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_search, "STRETCH", 9)
    entries = await furnish(store, 200, seed=6)
    page = await log_search.page(store.db, "acme", EntryFilter(reason="never"), before=None, limit=5)
    assert (page.items, page.next_key) == ([], (len(entries) - 4 * 9,))


def fits(entry: Entry, wanted: EntryFilter) -> bool:
    return all(
        (
            wanted.since is None or entry.at >= wanted.since,
            wanted.until is None or entry.at < wanted.until,
            not wanted.types or entry.type in wanted.types,
            wanted.run_id is None or entry.run_id == wanted.run_id,
            wanted.item_ref is None or entry.item_ref == wanted.item_ref,
            wanted.reason is None or json.loads(entry.body).get("reason") == wanted.reason,
        )
    )
