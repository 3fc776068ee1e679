"""Pins against purges, for real: another process purges while this one pins. A pin that was accepted is never lost, one
that came too late gets its 409, whoever is first and however they interleave.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.errors import ConflictError
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, blocked, held_at_the_end, make_purging


@pytest.fixture
async def purging(store: Store) -> Purging:
    made = await make_purging(store)
    await made.lease.release(store.db)
    return made


async def pin(purging: Purging, message_id: str, entity_id: str = "D-1") -> str:
    """`accepted`, or the slug of the refusal."""
    try:
        await purging.pins.put("acme", message_id, "deal", entity_id, note=None, now=NOW, actor=SYSTEM)
    except ConflictError as refused:
        return refused.slug
    return "accepted"


@pytest.mark.parametrize("boundary", ["candidates locked", "judged", "purged", "recorded"])
async def test_a_purge_that_locked_first_wins_and_the_pin_is_told(
    purging: Purging, children: Any, boundary: str
) -> None:
    home = await purging.builder.home()
    id_ = await purging.builder.copy(home, age_days=40)
    child = await children(pause_at=boundary)
    assert await child.line() == "paused"
    task = asyncio.create_task(pin(purging, id_))
    await blocked(purging, task)
    await child.go_on()
    assert (await child.result())["counts"]["purged"] == 1
    assert await task == "purged"
    assert await purging.ids() == set()


@pytest.mark.parametrize("boundary", ["begun", "opened", "tenant locked"])
async def test_a_pin_that_comes_before_the_locks_wins(purging: Purging, children: Any, boundary: str) -> None:
    home = await purging.builder.home()
    id_ = await purging.builder.copy(home, age_days=40)
    child = await children(pause_at=boundary)
    assert await child.line() == "paused"
    if boundary == "tenant locked" and purging.store.db.sqlite:
        pytest.skip("on SQLite the purge is the one writer from here on")
    assert await pin(purging, id_) == "accepted"
    await child.go_on()
    counts = (await child.result())["counts"]
    assert (counts["purged"], counts["kept"]) == (0, {"pinned": 1})
    assert await purging.ids() == {id_}


async def test_a_pin_that_is_not_committed_yet_is_never_overtaken(
    purging: Purging, children: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = await purging.builder.home()
    id_ = await purging.builder.copy(home, age_days=40)
    at_the_end, go_on = held_at_the_end(monkeypatch)
    task = asyncio.create_task(pin(purging, id_))
    await at_the_end.wait()
    child = await children()
    if not purging.store.db.sqlite:
        # The purge skips what is locked and ends before the pin is committed.
        counts = (await child.result())["counts"]
        assert (counts["purged"], counts["kept"]) == (0, {"locked": 1})
    go_on.set()
    assert await task == "accepted"
    if purging.store.db.sqlite:
        counts = (await child.result())["counts"]
        assert (counts["purged"], counts["kept"]) == (0, {"pinned": 1})
    assert await purging.ids() == {id_}


@pytest.mark.parametrize("seed", range(3))
async def test_however_they_interleave_no_accepted_pin_is_lost(purging: Purging, children: Any, seed: int) -> None:
    rng = random.Random(seed)
    home = await purging.builder.home()
    copies = await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(300)])
    wanted = rng.sample(copies, 150)
    child = await children(batch=rng.choice([1, 3, 10]))

    async def client(mine: list[str]) -> dict[str, str]:
        outcomes = {}
        for id_ in mine:
            outcomes[id_] = await pin(purging, id_)
            if outcomes[id_] == "accepted" and rng.random() < 0.2:
                await purging.pins.remove("acme", id_, "deal", "D-1", now=NOW, actor=SYSTEM)
                outcomes[id_] = "removed"
        return outcomes

    found = await asyncio.gather(*(client(wanted[start::4]) for start in range(4)))
    counts = (await child.result())["counts"]
    outcomes = {id_: outcome for part in found for id_, outcome in part.items()}
    left = await purging.ids()
    accepted = {id_ for id_, outcome in outcomes.items() if outcome == "accepted"}
    refused = {id_ for id_, outcome in outcomes.items() if outcome == "purged"}
    assert accepted <= left
    assert not refused & left
    assert set(outcomes.values()) <= {"accepted", "purged", "removed"}
    assert counts["candidates"] == counts["purged"] + sum(counts["kept"].values()) + counts["failed"]
    purged = [leaf for leaf in await purging.leaves() if leaf["type"] == "item.purge"]
    assert len(purged) == len({leaf["item_ref"] for leaf in purged}) == 300 - len(left)


async def test_a_plan_that_grows_during_a_run_spares_what_is_left(purging: Purging, children: Any) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - (40 + n) * DAY) for n in range(4)])
    child = await children(batch=1, pause_at="opened")
    assert await child.line() == "paused"
    await purging.builder.plan("acme", "professional")
    await child.go_on()
    counts = (await child.result())["counts"]
    assert (counts["purged"], counts["candidates"]) == (0, 0)
    assert len(await purging.ids()) == 4


async def test_two_processes_told_to_purge_at_once_purge_once(purging: Purging, children: Any) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(20)])
    first = await children(batch=2, pause_at="batch")
    assert await first.line() == "paused"
    second = await children(batch=2)
    assert await second.line() == ""  # it was refused
    assert await asyncio.to_thread(second.process.wait, 200) == 1
    await first.go_on()
    assert (await first.result())["counts"]["purged"] == 20
    assert len([leaf for leaf in await purging.leaves() if leaf["type"] == "item.purge"]) == 20
