"""What `mailgate doctor` says of bytes that are damaged, and that it says nothing of what is purged while it looks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mailgate.clock import DAY
from mailgate.jobs.erase import EraseWorker
from mailgate.store.check import doctor
from mailgate.store.erasures import Erasures
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging


@pytest.fixture
async def purging(store: Store) -> Purging:
    made = await make_purging(store)
    made.builder.packed = True
    return made


def worker(purging: Purging) -> EraseWorker:
    return EraseWorker(Erasures(purging.store.db, purging.store.log), purging.store.blobs, purging.clock, "one")


async def found(store: Store, *, deep: bool = False) -> list[str]:
    return [finding.detail for finding in (await doctor(store.db, store.blobs, store.ring, deep=deep)).findings]


async def test_a_damaged_pack_is_told_for_each_of_its_blobs(purging: Purging, tmp_path: Path) -> None:
    store = purging.store
    await purging.builder.copies(await purging.builder.home(), [Seed(NOW - DAY) for _ in range(3)])
    ids = sorted(store.blobs.list_ids())
    (path,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    good = path.read_bytes()
    path.write_bytes(b"\0" * 8 + good[8:])
    said = [f"blob {id_} is corrupt: its pack was cut, or its table damaged" for id_ in ids]
    assert await found(store) == said
    assert await found(store, deep=True) == said + [f"blob {id_}: {line}" for id_, line in zip(ids, said, strict=True)]
    path.unlink()
    assert await found(store) == [f"blob {id_} has no object" for id_ in ids]
    path.write_bytes(good)
    assert await found(store, deep=True) == []


@pytest.mark.parametrize("deep", [False, True], ids=["listed", "read"])
async def test_what_is_purged_while_it_looks_is_no_finding(
    purging: Purging, monkeypatch: pytest.MonkeyPatch, deep: bool
) -> None:
    store, home = purging.store, await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - (5 if n == 3 else 40) * DAY) for n in range(4)])
    exists, read, listed = store.blobs.exists, store.blobs.read, list(store.blobs.list_ids())

    async def purge() -> None:
        if await purging.purge() and (await worker(purging).work())[0]:
            purged.append(True)

    async def exists_no_more(blob_id: str) -> bool:
        await purge()
        return await exists(blob_id)

    async def read_no_more(*what: Any) -> AsyncIterator[bytes]:
        await purge()
        async for chunk in read(*what):
            yield chunk

    purged: list[bool] = []
    monkeypatch.setattr(store.blobs, "list_ids", lambda *_: iter(listed if deep else listed[3:]))
    monkeypatch.setattr(store.blobs, "exists", exists_no_more)
    monkeypatch.setattr(store.blobs, "read", read_no_more)
    assert await found(store, deep=deep) == []
    assert purged
    monkeypatch.undo()
    assert len(list(store.blobs.list_ids())) == 1
