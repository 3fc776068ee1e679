"""A purge that is cut, at every step boundary and by kill -9, ends after a restart as an uncut one does: the same
copies left, the same log entry by entry, the same counts, every blob erased once.

Every cut has tenants of its own in one database, so that one database serves them all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from mailgate.actors import COMMAND, SYSTEM
from mailgate.blobs import BlobStore, Erased
from mailgate.blobs.errors import BlobStoreError
from mailgate.clock import DAY
from mailgate.jobs.erase import EraseWorker
from mailgate.store.erasures import Erasures
from mailgate.store.purge_lease import TTL
from mailgate.store.schema import blob_erasures, blobs
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.conftest import store as store
from tests.store.purge_process import Child, Process, open_process
from tests.store.purging import Purging, make_purging

pytestmark = pytest.mark.crash

BATCH = 2


@dataclass(frozen=True)
class Expected:
    """What an uncut run makes of one tenant."""

    tenant_id: str
    left: set[str]
    purged: list[str]


@pytest.fixture
async def purging(store: Store) -> Purging:
    made = await make_purging(store)
    await made.lease.release(store.db)
    return made


async def prepare(purging: Purging, name: str) -> list[Expected]:
    """Two tenants: one on CRM+ with young, old, pinned and identical copies, one on Free."""
    expected = []
    for tenant_id, plan in ((f"{name}-a", "crm_plus"), (f"{name}-f", "free")):
        home = await purging.builder.home(tenant_id, plan)
        same = b"Subject: the same\r\n\r\n" + tenant_id.encode()
        seeds = [Seed(NOW - (40 + n) * DAY, content=same if n in (1, 4) else None) for n in range(5)]
        old = await purging.builder.copies(home, seeds)
        young = await purging.builder.copy(home, age_days=3)
        await purging.pins.put(tenant_id, old[2], "deal", "D", note=None, now=NOW, actor=SYSTEM)
        left = {old[2], young} if plan == "crm_plus" else {old[2]}
        in_order = [id_ for id_ in reversed(old) if id_ not in left] + ([young] if plan == "free" else [])
        expected.append(Expected(tenant_id, left, in_order))
    return expected


async def verify(purging: Purging, expected: list[Expected]) -> None:
    """The state is that of an uncut run."""
    for tenant in expected:
        assert await purging.ids(tenant.tenant_id) == tenant.left
        log = [leaf for leaf in await purging.leaves(tenant.tenant_id) if leaf["type"] != "blob.erase"]
        log = log[[leaf["type"] for leaf in log].index("run.open") :]
        types = [leaf["type"] for leaf in log]
        assert types == ["run.open", *["item.purge"] * len(tenant.purged), "run.close"]
        assert len({leaf["item_ref"] for leaf in log[1:-1]}) == len(tenant.purged)
        assert [leaf["anchor"]["at"] for leaf in log[1:-1]] == sorted(leaf["anchor"]["at"] for leaf in log[1:-1])
        assert len({leaf["run"] for leaf in log}) == 1
        closing = log[-1]
        assert (closing["candidates"], closing["purged"]) == (len(tenant.purged) + 1, len(tenant.purged))
        assert (closing["kept"], closing["failed"]) == ({"pinned": 1}, 0)


async def verify_blobs(purging: Purging) -> None:
    """Every object that nothing refers to was erased and logged once; the queue is empty."""
    async with purging.store.db.read() as conn:
        assert (await conn.execute(select(blob_erasures.c.blob_id))).all() == []
        live = set((await conn.execute(select(blobs.c.id))).scalars())
    assert set(purging.store.blobs.list_ids()) == live


class CutError(Exception):
    """The process dies here."""


class Cut:
    """Dies at the so-manieth step boundary."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def __call__(self, _name: str) -> None:
        self.count += 1
        if self.count == self.at:
            raise CutError


async def test_cut_at_every_boundary_it_ends_as_an_uncut_run(
    purging: Purging, database_url: str, tmp_path: Path
) -> None:
    cut_at, now = 0, NOW
    while True:
        cut_at += 1
        now += 2 * TTL  # the lease of the one that died has run out
        expected = await prepare(purging, f"c{cut_at}")
        cut = Cut(cut_at)
        first = open_process(database_url, tmp_path, now, batch=BATCH, step=cut, owner=f"first {cut_at}")
        try:
            await first.service.run(actor=COMMAND)
        except CutError:
            pass
        finally:
            await first.db.close()
        finished = cut.count < cut_at
        if not finished:
            now += 2 * TTL
            await _restart(database_url, tmp_path, now, f"second {cut_at}")
        await verify(purging, expected)
        if finished:
            break
    assert cut_at > 40
    await _restart(database_url, tmp_path, now + 2 * TTL, "last")
    await verify_blobs(purging)


async def _restart(url: str, folder: Path, now: int, owner: str) -> Process:
    process = open_process(url, folder, now, batch=BATCH, step=lambda _: None, owner=owner)
    await process.service.work()
    await process.eraser.work()
    await process.db.close()
    return process


async def test_killed_at_random_boundaries_it_ends_as_an_uncut_run(
    purging: Purging, database_url: str, tmp_path: Path
) -> None:
    now = NOW
    rng = random.Random(1)
    for round_ in range(6):
        now += 2 * TTL
        expected = await prepare(purging, f"k{round_}")
        wanted: dict[str, Any] = {"url": database_url, "folder": str(tmp_path), "batch": BATCH}
        kill_at = rng.randrange(1, 40)
        child = await Child.start(**wanted, now=now, kill_at=kill_at)
        assert await asyncio.to_thread(child.process.wait, 200) == -9, kill_at
        now += 2 * TTL
        again = await Child.start(**wanted, now=now, kill_at=rng.randrange(1, 15) if round_ % 2 else None)
        code = await asyncio.to_thread(again.process.wait, 200)
        if code != 0:
            now += 2 * TTL
            await _restart(database_url, tmp_path, now, f"third {round_}")
        await verify(purging, expected)
    await _restart(database_url, tmp_path, now + 2 * TTL, "last")
    await verify_blobs(purging)


async def test_killed_at_any_moment_it_ends_as_an_uncut_run(
    purging: Purging, database_url: str, tmp_path: Path
) -> None:
    """Not at a boundary but while this process watches the run's own progress."""
    home = await purging.builder.home()
    ids = await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(400)])
    now = NOW
    wanted: dict[str, Any] = {"url": database_url, "folder": str(tmp_path), "batch": BATCH}
    killed = 0
    for goal in (350, 250, 100):
        now += 2 * TTL
        child = await Child.start(**wanted, now=now)
        while len(await purging.ids()) > goal and child.process.returncode is None:
            pass
        if await child.end() == 0:
            break  # this process stood still meanwhile, and that one had come to its end
        assert child.process.returncode == -9
        killed += 1
    assert killed
    await _restart(database_url, tmp_path, now + 2 * TTL, "last")
    assert await purging.ids() == set()
    log = await purging.leaves()
    assert len({leaf["item_ref"] for leaf in log if leaf["type"] == "item.purge"}) == len(ids)
    assert [leaf["type"] for leaf in log].count("item.purge") == len(ids)
    assert [leaf["type"] for leaf in log].count("run.close") == 1
    assert [leaf["type"] for leaf in log].count("blob.erase") == len(ids)
    await verify_blobs(purging)


class CutStore:
    """A blob store under a worker that dies after some objects are gone and before anything is recorded."""

    def __init__(self, real: BlobStore, erased: int) -> None:
        self._real, self._erased = real, erased

    async def erase_many(self, blob_ids: list[str], beside: Mapping[str, int]) -> list[Erased | BlobStoreError]:
        await self._real.erase_many(blob_ids[: self._erased], beside)
        raise CutError

    def settle(self) -> None:
        raise AssertionError("it died before")


@pytest.mark.parametrize("erased", [0, 3, 5])
async def test_an_eraser_cut_before_recording_records_the_truth_later(purging: Purging, erased: int) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY) for _ in range(5)])
    assert await purging.lease.acquire(purging.store.db, NOW)
    await purging.purge()
    queue = Erasures(purging.store.db, purging.store.log)
    dying = EraseWorker(queue, CutStore(purging.store.blobs, erased), purging.clock, "one")
    with pytest.raises(CutError):
        await dying.work()
    again = EraseWorker(Erasures(purging.store.db, purging.store.log), purging.store.blobs, purging.clock, "two")
    assert await again.work() == (5, 0)
    outcomes = sorted(leaf["outcome"] for leaf in await purging.leaves() if leaf["type"] == "blob.erase")
    assert outcomes == ["erased"] * (5 - erased) + ["missing"] * erased
    await verify_blobs(purging)
