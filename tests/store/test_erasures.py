"""The queue of blobs to be erased: every outcome recorded, nothing swallowed, nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, text

from mailgate.blobs import BlobStore, Erased, packs
from mailgate.blobs.errors import BlobStoreError
from mailgate.clock import DAY, HOUR, SECOND
from mailgate.ids import new_id
from mailgate.jobs.erase import EraseWorker
from mailgate.store.check import doctor
from mailgate.store.erasures import LEASE_TTL, Erasures, _Template, pause
from mailgate.store.schema import blob_erasures
from retention.ledger import leaves
from retention.ledger.schema import parse_leaf
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging


@pytest.fixture
async def purging(store: Store) -> Purging:
    return await make_purging(store)


def a_worker(purging: Purging, objects: object | None = None, owner: str = "one", batch: int = 5_000) -> EraseWorker:
    erasures = Erasures(purging.store.db, purging.store.log)
    return EraseWorker(erasures, objects or purging.store.blobs, purging.clock, owner, batch=batch)  # type: ignore[arg-type]


async def purged(purging: Purging, count: int) -> list[str]:
    """So many copies were purged; the ids of their blobs, queued and still there."""
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY) for _ in range(count)])
    await purging.purge()
    async with purging.store.db.read() as conn:
        return sorted((await conn.execute(select(blob_erasures.c.blob_id))).scalars())


async def told(purging: Purging, type_: str) -> list[dict[str, object]]:
    return [leaf for leaf in await purging.leaves() if leaf["type"] == type_]


async def queue(purging: Purging) -> list[tuple[str, int, int, str | None]]:
    async with purging.store.db.read() as conn:
        columns = blob_erasures.c
        query = select(columns.blob_id, columns.attempts, columns.next_at, columns.last_error)
        return [tuple(row) for row in (await conn.execute(query.order_by(columns.blob_id))).all()]  # type: ignore[misc]


@pytest.mark.parametrize("batch", [2, 5_000])
async def test_erased_objects_are_gone_and_logged_once(purging: Purging, batch: int) -> None:
    ids = await purged(purging, 5)
    assert await a_worker(purging, batch=batch).work() == (5, 0)
    assert list(purging.store.blobs.list_ids()) == []
    entries = await told(purging, "blob.erase")
    assert sorted(str(leaf["blob_ref"]) for leaf in entries) == ids
    assert {leaf["outcome"] for leaf in entries} == {"erased"}
    assert all(int(str(leaf["bytes"])) > 0 for leaf in entries)
    assert {leaf["run"] for leaf in entries} == {f"{1:026d}"}
    assert await queue(purging) == []
    assert await a_worker(purging).work() == (0, 0)


async def test_an_object_that_is_missing_already_is_a_recorded_outcome(purging: Purging) -> None:
    ids = await purged(purging, 2)
    await purging.store.blobs.erase(ids[0])
    assert await a_worker(purging).work() == (2, 0)
    outcomes = {leaf["blob_ref"]: leaf["outcome"] for leaf in await told(purging, "blob.erase")}
    assert outcomes == {ids[0]: "missing", ids[1]: "erased"}


class Failing:
    """A blob store whose removals fail for some objects, or whose disk can't be synced."""

    def __init__(self, real: BlobStore, broken: set[str], *, settles: bool = True) -> None:
        self.real, self.broken, self.settles = real, broken, settles

    async def erase_many(self, blob_ids: list[str], beside: Mapping[str, int]) -> list[Erased | BlobStoreError]:
        return [
            BlobStoreError("the disk is read-only") if id_ in self.broken else await self.real.erase(id_)
            for id_ in blob_ids
        ]

    def settle(self) -> None:
        if not self.settles:
            raise BlobStoreError("input/output error")


async def test_a_failure_is_logged_and_tried_again_with_growing_pauses(purging: Purging) -> None:
    ids = await purged(purging, 3)
    worker = a_worker(purging, Failing(purging.store.blobs, {ids[1]}))
    assert await worker.work() == (2, 1)
    assert await queue(purging) == [(ids[1], 1, NOW + 10 * SECOND, "the disk is read-only")]
    assert await worker.work() == (0, 0)  # not due yet
    purging.now = NOW + 10 * SECOND
    assert await worker.work() == (0, 1)
    assert await queue(purging) == [(ids[1], 2, purging.now + 20 * SECOND, "the disk is read-only")]
    failures = await told(purging, "erase.failed")
    assert [(leaf["blob_ref"], leaf["attempt"], leaf["error"]) for leaf in failures] == [
        (ids[1], 1, "blob_store"),
        (ids[1], 2, "blob_store"),
    ]
    purging.now += 20 * SECOND
    assert await a_worker(purging).work() == (1, 0)
    assert await queue(purging) == []


async def test_a_clock_that_is_set_back_puts_nothing_off(purging: Purging) -> None:
    (id_,) = await purged(purging, 1)
    purging.now = NOW + 400 * DAY
    assert await a_worker(purging, Failing(purging.store.blobs, {id_})).work() == (0, 1)
    purging.now = NOW
    assert await a_worker(purging).work() == (1, 0)


def test_pauses_double_up_to_six_hours() -> None:
    assert [pause(attempt) // SECOND for attempt in (1, 2, 3, 4)] == [10, 20, 40, 80]
    assert pause(13) == pause(10_000) == 6 * HOUR


async def test_what_may_not_be_durable_is_tried_again(purging: Purging) -> None:
    ids = await purged(purging, 1)
    assert await a_worker(purging, Failing(purging.store.blobs, set(), settles=False)).work() == (0, 1)
    assert await told(purging, "blob.erase") == []
    purging.now += 10 * SECOND
    assert await a_worker(purging).work() == (1, 0)
    assert [leaf["outcome"] for leaf in await told(purging, "blob.erase")] == ["missing"]
    assert (await told(purging, "erase.failed"))[0]["blob_ref"] == ids[0]


class DyingError(Exception):
    """The worker ends in the middle of its work."""


async def test_a_part_that_can_not_be_removed_does_not_lose_the_one_before(purging: Purging) -> None:
    """What is gone is recorded while the next part is removed, and also when that one ends the work."""
    await purged(purging, 5)
    parts: list[int] = []

    class Objects(Failing):
        async def erase_many(self, blob_ids: list[str], beside: Mapping[str, int]) -> list[Erased | BlobStoreError]:
            parts.append(len(blob_ids))
            if len(parts) == 3:
                raise DyingError
            return await super().erase_many(blob_ids, beside)

    with pytest.raises(DyingError):
        await a_worker(purging, Objects(purging.store.blobs, set()), batch=2).work()
    assert parts == [2, 2, 1]
    assert [leaf["outcome"] for leaf in await told(purging, "blob.erase")] == ["erased"] * 4
    assert await a_worker(purging).work() == (1, 0)
    assert len(await told(purging, "blob.erase")) == 5


async def test_one_process_at_a_time_erases(purging: Purging) -> None:
    await purged(purging, 2)
    other = Erasures(purging.store.db, purging.store.log)
    assert await other.acquire("two", NOW)
    assert await a_worker(purging).work() == (0, 0)
    purging.now = NOW + LEASE_TTL  # the other one died
    assert await a_worker(purging).work() == (2, 0)


async def test_a_worker_that_lost_its_lease_records_nothing_twice(purging: Purging) -> None:
    await purged(purging, 2)
    stalled = Erasures(purging.store.db, purging.store.log)
    queued = await stalled.due(NOW)
    assert await a_worker(purging).work() == (2, 0)
    outcomes: list[Erased | BlobStoreError] = [Erased.missing, BlobStoreError("late")]
    await stalled.settle(queued, outcomes, NOW)
    assert len(await told(purging, "blob.erase")) == 2
    assert await told(purging, "erase.failed") == []


async def test_what_a_copy_refers_to_is_never_erased(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copy(home)
    async with purging.store.db.write() as tx:
        await tx.conn.execute(
            text(
                "INSERT INTO blob_erasures (blob_id, tenant_id, queued_at, next_at) "
                "SELECT id, tenant_id, created_at, 0 FROM blobs"
            )
        )
    assert await a_worker(purging).work() == (0, 0)
    assert len(list(purging.store.blobs.list_ids())) == 1
    async with purging.store.db.write() as tx:
        await tx.conn.execute(text("DELETE FROM blob_erasures"))


async def test_a_file_whose_table_is_wrong_loses_nothing_of_a_copy_that_stays(purging: Purging, tmp_path: Path) -> None:
    """Its table says that the copy ends early, or is not there; what lay behind it is gone, what follows is to go."""
    purging.builder.packed = True
    home = await purging.builder.home()
    ids = await purging.builder.copies(home, [Seed(NOW - age * DAY) for age in (1, 40, 29, 1)])
    await purging.purge()
    assert await a_worker(purging).work() == (1, 0)
    (path,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    good = path.read_bytes()
    start, length = packs.ENTRY.unpack_from(good, packs.HEAD.size)
    purging.now += 2 * DAY
    await purging.purge(2)
    assert await purging.ids() == {ids[0], ids[3]}
    for number, lie in enumerate([(start, length - 40), (0, 0)], start=1):
        path.write_bytes(good[: packs.HEAD.size] + packs.ENTRY.pack(*lie) + good[packs.HEAD.size + packs.ENTRY.size :])
        damaged = path.read_bytes()
        assert await a_worker(purging).work() == (0, 1)
        assert path.read_bytes() == damaged
        failed = (await told(purging, "erase.failed"))[-1]
        assert (failed["attempt"], failed["error"]) == (number, "pack_damaged")
        ((_, _, purging.now, why),) = await queue(purging)
        assert f"put the file {path.parent.name}/{path.name} back from a backup" in str(why)
        store = purging.store
        findings = (await doctor(store.db, store.blobs, store.ring, deep=True)).findings
        assert {f"{path.name}00" in found.detail for found in findings} == {True}
    path.write_bytes(good)
    assert await a_worker(purging).work() == (1, 0)
    assert await queue(purging) == []


async def test_the_queue_says_how_long_it_is(purging: Purging) -> None:
    await purged(purging, 3)
    erasures = Erasures(purging.store.db, purging.store.log)
    assert await erasures.pending() == (3, NOW)


@pytest.mark.parametrize("run", [None, "01J9AD700009WG8NY2BFJE4SJZ"])
def test_leaves_made_by_template_are_the_constructors_own(run: str | None) -> None:
    common = leaves.Common(
        "01J9AD70009999999999999999",
        NOW,
        "mail.example/purge/abc",
        "abc",
        leaves.Actor("system", "gateway"),
        leaves.Policy(1, "ab" * 32),
        leaves.Build("1", "test"),
        run,
    )
    template = _Template(common)
    for outcome, word in ((Erased.gone, "erased"), (Erased.missing, "missing")):
        for size in (0, 8_765_432_109_876_543, 12):
            id_ = new_id(NOW)
            made = template.leaf(id_, "01J9AD700009WG8NY2BFJE4SJZ", outcome, size)
            assert made == leaves.blob_erase(
                replace(common, id=id_), blob_ref="01J9AD700009WG8NY2BFJE4SJZ", outcome=word, bytes_=size
            )
            assert parse_leaf(made)["outcome"] == word
