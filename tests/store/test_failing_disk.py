"""A disk that fails: nothing is half gone, every outcome is recorded, and what failed is done when the disk is well."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.errors import UnavailableError
from mailgate.jobs.erase import EraseWorker
from mailgate.keys import KeyMissingError, KeyStoreError, directory
from mailgate.store import tenants
from mailgate.store.erasures import Erasures, pause
from mailgate.store.key_epochs import KeyRotation
from mailgate.store.overview import unsigned_logs
from mailgate.store.schema import blob_erasures, log_leaves
from mailgate.store.tenant_erasure import Reason, TenantErasures
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging


@pytest.fixture
async def purging(store: Store) -> Purging:
    return await make_purging(store)


def worker(purging: Purging) -> EraseWorker:
    return EraseWorker(Erasures(purging.store.db, purging.store.log), purging.store.blobs, purging.clock, "one")


async def told(purging: Purging, type_: str) -> list[dict[str, Any]]:
    return [leaf for leaf in await purging.leaves() if leaf["type"] == type_]


def failing(monkeypatch: pytest.MonkeyPatch, code: int, only: Callable[[Path], bool]) -> None:
    """From now on these files can't be removed."""
    real = os.unlink

    def unlink(path: str | Path, *, dir_fd: int | None = None) -> None:
        if only(Path(path)):
            raise OSError(code, os.strerror(code), str(path))
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO, errno.EBUSY], ids=errno.errorcode.get)
async def test_bytes_that_can_not_be_removed_are_recorded_and_tried_again(
    purging: Purging, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY) for _ in range(3)])
    await purging.purge()
    async with purging.store.db.read() as conn:
        broken, *others = sorted((await conn.execute(select(blob_erasures.c.blob_id))).scalars())
    with monkeypatch.context() as patch:
        failing(patch, code, lambda path: path.name == broken)
        for attempt in (1, 2):
            assert await worker(purging).work() == (2 if attempt == 1 else 0, 1)
            async with purging.store.db.read() as conn:
                (left,) = (await conn.execute(select(blob_erasures))).all()
            assert (left.blob_id, left.attempts, left.next_at) == (broken, attempt, purging.now + pause(attempt))
            assert os.strerror(code) in left.last_error
            assert str(purging.store.blobs._disk.root) not in left.last_error  # type: ignore[union-attr]
            purging.now += pause(attempt)
    assert sorted(leaf["blob_ref"] for leaf in await told(purging, "blob.erase")) == others
    assert [(leaf["blob_ref"], leaf["attempt"]) for leaf in await told(purging, "erase.failed")] == [
        (broken, 1),
        (broken, 2),
    ]
    assert await worker(purging).work() == (1, 0)
    assert [leaf["outcome"] for leaf in await told(purging, "blob.erase")] == ["erased"] * 3
    assert list(purging.store.blobs.list_ids()) == []


async def test_bytes_that_are_missing_already_are_recorded_as_that(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY) for _ in range(2)])
    await purging.purge()
    first = min(purging.store.blobs.list_ids())
    await purging.store.blobs.erase(first)
    assert await worker(purging).work() == (2, 0)
    outcomes = {leaf["blob_ref"]: leaf["outcome"] for leaf in await told(purging, "blob.erase")}
    assert outcomes.pop(first) == "missing"
    assert set(outcomes.values()) == {"erased"}


async def pragma(purging: Purging, text: str) -> int:
    """On the connection that writes, outside of any transaction."""
    async with purging.store.db._writer.connect() as conn:
        raw: Any = await conn.get_raw_connection()
        cursor = await raw.driver_connection.execute(f"PRAGMA {text}")
        rows = list(await cursor.fetchall())
        await cursor.close()
        return int(rows[0][0]) if rows else 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("fault", ["no space", "read-only"])
async def test_a_database_that_takes_nothing_purges_nothing_and_the_run_ends_later(
    purging: Purging, fault: str
) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY) for _ in range(40)])
    before = await purging.ids()
    count = await pragma(purging, "page_count")
    seen = list[str]()

    async def break_() -> None:
        await pragma(purging, f"max_page_count={count}" if fault == "no space" else "query_only=ON")

    async def mend() -> None:
        await pragma(purging, "max_page_count=1000000" if fault == "no space" else "query_only=OFF")

    broken = False
    lock = purging.purges.transact

    async def transact(run: Any, tenant_id: str, work: Any, **how: Any) -> Any:
        nonlocal broken
        if not broken and seen:
            broken = True
            await break_()
        seen.append(tenant_id)
        return await lock(run, tenant_id, work, **how)

    purging.purges.transact = transact  # type: ignore[method-assign]
    with pytest.raises(OperationalError, match=r"full|readonly"):
        await purging.purge(1, batch=40)
    purging.purges.transact = lock  # type: ignore[method-assign]
    assert await purging.ids() == before
    assert await told(purging, "item.purge") == []
    assert len(list(purging.store.blobs.list_ids())) == 40
    await mend()
    assert await purging.engine(batch=40).resume("ab" * 32) is not None
    assert await purging.ids() == set()
    assert len({leaf["item_ref"] for leaf in await told(purging, "item.purge")}) == 40
    (close,) = await told(purging, "run.close")
    assert (close["purged"], close["failed"]) == (40, 0)


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key store's disk takes nothing."""

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(directory, "_shred", refuse)


async def test_a_key_that_can_not_be_destroyed_is_destroyed_later(
    purging: Purging, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW)])
    later = NOW + 60 * DAY
    store = purging.store
    rotation = KeyRotation(store.db, store.ring, store.log, lambda: later, "test", keep=0)
    (epoch,) = store.ring.epochs(home.tenant.ref)
    with monkeypatch.context() as patch:
        read_only(patch)
        with pytest.raises(KeyStoreError, match="can't be removed"):
            await rotation.rotate(SYSTEM)
    assert await told(purging, "key.rotate") == []  # it is not gone, so nobody says so
    assert epoch in store.ring.epochs(home.tenant.ref)
    assert [gone.epoch for gone in (await rotation.rotate(SYSTEM)).destroyed] == [epoch]
    assert len(await told(purging, "key.rotate")) == 1


async def test_a_tenant_whose_keys_can_not_be_destroyed_is_erased_later(
    purging: Purging, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = purging.store
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW)])
    erasures = TenantErasures(store.db, store.ring, store.log, store.subscriptions, purging.clock, "test")
    await erasures.begin("acme", Reason.OFFBOARDING, SYSTEM)
    with monkeypatch.context() as patch:
        read_only(patch)
        with pytest.raises(KeyStoreError):
            await erasures.work()
    assert len(await told(purging, "item.purge")) == 1
    assert await told(purging, "key.rotate") == []
    await worker(purging).work()
    assert await erasures.work() == 1
    with pytest.raises(KeyMissingError):
        store.ring.tenant(home.tenant.ref)
    assert len(await told(purging, "key.rotate")) == 1


@pytest.mark.parametrize("step", ["keep_bundles", "keep"])
async def test_a_witness_that_takes_nothing_is_told_later(
    purging: Purging, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What was signed in the database is signed again outside, the same."""
    store = purging.store
    tenant = (await purging.builder.home()).tenant

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(store.reader._witness, step, full)
        with pytest.raises(UnavailableError, match=r"can't be written \(ledger.witness\): No space"):
            await store.reader.checkpoint(tenant, NOW)
    assert store.reader._witness.last(tenant.ref) is None
    assert await unsigned_logs(store.db) == ["acme"]  # so that the alarms know of it, and it is tried again
    assert "look at its space" in (store.reader.witness_fault or "")  # readyz, the doctor and the alarms say so at once
    signed = await store.reader.checkpoint(await tenants.get(store.db, "acme"), NOW)
    assert store.reader.witness_fault is None
    assert await unsigned_logs(store.db) == []
    assert store.reader._witness.last(tenant.ref) == signed.note
    async with store.db.read() as conn:
        bodies = (await conn.execute(select(log_leaves.c.body).order_by(log_leaves.c.idx))).scalars().all()
    assert list(store.reader._witness.entries(tenant.ref, signed.size)) == bodies
