"""Objects that a kill left behind are swept once they are old; what is referred to, queued or young stays."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from mailgate.actors import SYSTEM
from mailgate.blobs import disk as disk_module
from mailgate.blobs import members, packs
from mailgate.clock import DAY
from mailgate.ids import made_at, new_id
from mailgate.store import orphans, tenants
from mailgate.store.check import doctor
from mailgate.store.schema import blob_erasures, blobs
from tests.store.conftest import NOW, Store


def test_an_id_tells_when_it_was_made() -> None:
    assert made_at(new_id(NOW + 5_999)) == NOW + 5_000


async def test_only_what_nothing_refers_to_goes(store: Store) -> None:
    tenant = (await tenants.put(store.db, store.ring, store.log, "acme", "Acme", NOW, SYSTEM))[0]
    key = store.ring.tenant(tenant.ref).new_data_key(NOW).key
    orphan, young, queued = new_id(NOW - 2 * DAY), new_id(NOW), new_id(NOW - 2 * DAY)
    for blob_id in (orphan, young, queued):
        store.blobs.put("acme", blob_id, b"left behind", key)
    async with store.db.write() as tx:
        row = {"blob_id": queued, "tenant_id": "acme", "queued_at": NOW, "next_at": NOW}
        await tx.conn.execute(blob_erasures.insert().values(row))
    assert await orphans.sweep(store.db, store.blobs, NOW - DAY) == 1
    assert set(store.blobs.list_ids()) == {young, queued}
    assert await orphans.sweep(store.db, store.blobs, NOW - DAY) == 0


async def test_what_shares_a_file_goes_one_by_one(store: Store) -> None:
    tenant = (await tenants.put(store.db, store.ring, store.log, "acme", "Acme", NOW, SYSTEM))[0]
    key = store.ring.tenant(tenant.ref).new_data_key(NOW).key
    ids = []
    for at in (NOW - 2 * DAY, NOW):
        batch = store.blobs.batch("acme", at, 3)
        ids += [batch.put(b"left behind", key)[0] for _ in range(3)]
        batch.finish()
    async with store.db.write() as tx:
        row = {"blob_id": ids[1], "tenant_id": "acme", "queued_at": NOW, "next_at": NOW}
        await tx.conn.execute(blob_erasures.insert().values(row))
    assert await orphans.sweep(store.db, store.blobs, NOW - DAY) == 2
    assert set(store.blobs.list_ids()) == {ids[1], *ids[3:]}
    assert await orphans.sweep(store.db, store.blobs, NOW - DAY) == 0


DAMAGES = {
    "empty": lambda _good: b"",
    "short": lambda good: good[:5],
    "magic": lambda good: b"\0" * 8 + good[8:],
    "zeros": lambda good: bytes(len(good)),
    "table": lambda good: good[:20],
    "count": lambda good: packs.HEAD.pack(b"MGPK", 1, packs.MOST + 1) + good[8:],
    "fewer": lambda good: packs.HEAD.pack(b"MGPK", 1, 2) + good[8:],
    "entry": lambda good: good[: 8 + 8 * 3] + bytes(8) + good[8 + 8 * 4 :],
}


class Shared:
    """A file of six blobs, made two days ago, to which nothing refers."""

    def __init__(self, store: Store, folder: Path, number: int = 0, *, at: int = NOW - 2 * DAY) -> None:
        self.store = store
        before = set((folder / "blobs").rglob("*"))
        batch = store.blobs.batch("acme", at, 6)
        self.ids = [batch.put(b"%d %d" % (number, each) * 20, bytes(32))[0] for each in range(6)]
        batch.finish()
        (self.path,) = set((folder / "blobs").rglob("*")) - before
        self.good = self.path.read_bytes()

    async def refer(self, *numbers: int) -> None:
        """Somebody has these."""
        fixed = {"tenant_id": "acme", "size": 9, "data_key": b"k", "key_epoch": 1, "refs": 1, "created_at": NOW}
        lengths = [length for _, length in _table(self.good)]
        rows = [
            fixed | {"id": self.ids[each], "stored_size": lengths[each], "content_token": os.urandom(32)}
            for each in numbers
        ]
        async with self.store.db.write() as tx:
            await tx.conn.execute(blobs.insert(), rows)

    async def sweep(self) -> int:
        return await orphans.sweep(self.store.db, self.store.blobs, NOW - DAY)

    async def told(self) -> list[tuple[str, str]]:
        """What the doctor says of files to which nothing refers."""
        report = await doctor(self.store.db, self.store.blobs, self.store.ring)
        return [(pack.path, pack.why) for pack in report.unreadable]


@pytest.fixture
async def acme(store: Store) -> AsyncIterator[Store]:
    await tenants.put(store.db, store.ring, store.log, "acme", "Acme", NOW, SYSTEM)
    yield store
    async with store.db.write() as tx:  # what is damaged here the doctor is not to find at the end
        await tx.conn.execute(delete(blobs))


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_that_blobs_share_goes_when_nothing_refers_to_it(
    acme: Store, tmp_path: Path, damage: str
) -> None:
    shared = Shared(acme, tmp_path)
    shared.path.write_bytes(DAMAGES[damage](shared.good))
    async with acme.db.write() as tx:  # to be erased is nothing that keeps it, where it can't be cut out of it
        row = {"blob_id": shared.ids[0], "tenant_id": "acme", "queued_at": NOW, "next_at": NOW}
        await tx.conn.execute(blob_erasures.insert().values(row))
    readable = damage in ("empty", "fewer", "entry")
    place = f"{shared.path.parent.name}/{shared.path.name}"
    assert await shared.told() == ([] if readable else [(place, "its table is damaged")])
    async with acme.db.write() as tx:
        await tx.conn.execute(delete(blob_erasures).where(blob_erasures.c.tenant_id == ("acme" if readable else "")))
    await shared.sweep()
    assert not shared.path.exists()
    assert await shared.told() == []


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("number", [0, 3])
async def test_a_damaged_file_stays_as_it_is_while_something_refers_to_it(
    acme: Store, tmp_path: Path, damage: str, number: int
) -> None:
    """Whatever its table says of it: from a backup, or by hand, the bytes may still be had."""
    shared = Shared(acme, tmp_path)
    await shared.refer(number)
    shared.path.write_bytes(DAMAGES[damage](shared.good))
    assert await shared.told() == []  # it is told for the blob
    before = shared.path.read_bytes()
    await shared.sweep()
    after = shared.path.read_bytes()
    start, length = _table(shared.good)[number]
    assert after[start : start + length] == before[start : start + length]
    findings = (await doctor(acme.db, acme.blobs, acme.ring)).findings
    readable = (damage == "fewer" and number < 2) or (damage == "entry" and number != 3)
    told = [found.detail for found in findings if found.check == "a copy's blob is there"]
    assert any(shared.ids[number] in detail for detail in told) is not readable


async def test_a_damaged_file_that_is_young_or_can_not_be_opened_stays(
    acme: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    young, old = Shared(acme, tmp_path, at=NOW), Shared(acme, tmp_path, 1)
    young.path.write_bytes(b"cut")
    real = os.open

    def fail(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith(old.path.name):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *rest, **more)

    monkeypatch.setattr(disk_module.os, "open", fail)
    assert await young.sweep() == 0
    assert {why for _, why in await young.told()} == {"its table is damaged", "Input/output error"}
    monkeypatch.undo()
    assert young.path.exists()
    assert old.path.read_bytes() == old.good


async def test_a_file_that_was_put_back_in_time_stays(acme: Store, tmp_path: Path) -> None:
    shared = Shared(acme, tmp_path)
    assert not acme.blobs.remove_damaged(shared.path.name)
    assert shared.path.read_bytes() == shared.good
    shared.path.unlink()
    assert not acme.blobs.remove_damaged(shared.path.name)


async def test_whatever_is_damaged_nothing_is_swept_that_a_row_refers_to(acme: Store, tmp_path: Path) -> None:
    if not acme.db.sqlite:
        pytest.skip("the disk is the same")
    for seed in range(300):
        chance = random.Random(seed)
        shared = Shared(acme, tmp_path, seed)
        kept = chance.sample(range(6), chance.choice((1, 1, 2, 5)))
        await shared.refer(*kept)
        damaged = bytearray(shared.good)  # its table, and now and then what comes after
        for _ in range(chance.choice((1, 2, 4))):
            at = chance.randrange(packs.HEAD.size + 6 * packs.ENTRY.size)
            wide = chance.choice((1, 4, 8, 12, 20))
            damaged[at : at + wide] = chance.choice((bytes(wide), chance.randbytes(wide)))
        before = bytes(damaged[: len(shared.good)])
        shared.path.write_bytes(before)
        await shared.sweep()
        assert shared.path.exists(), seed
        after = shared.path.read_bytes()
        for number in kept:
            start, length = _table(shared.good)[number]
            assert after[start : start + length] == before[start : start + length], (seed, number)
        async with acme.db.write() as tx:
            await tx.conn.execute(delete(blobs))
        shared.path.unlink()


def _table(good: bytes) -> list[tuple[int, int]]:
    return list(packs.ENTRY.iter_unpack(good[packs.HEAD.size : packs.HEAD.size + 6 * packs.ENTRY.size]))


def test_the_ids_that_a_pack_can_have() -> None:
    assert members("4" + "0" * 23)[:2] == ["4" + "0" * 23 + "00", "4" + "0" * 23 + "01"]
    assert len(members("4" + "0" * 23)) == packs.MOST
