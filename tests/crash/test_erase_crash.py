"""Erasing in files that blobs share, killed before each call that changes the disk: after a restart nothing is left of
what was to be erased, nothing is lost of what stays, and each erasure stands in the log once.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select

from mailgate.clock import DAY
from mailgate.store.erasures import LEASE_TTL
from mailgate.store.purge_lease import TTL
from mailgate.store.schema import blob_erasures, blobs
from tests.forks import fork
from tests.store.builder import Home, Seed
from tests.store.conftest import NOW, Store
from tests.store.conftest import store as store
from tests.store.purging import Purging, make_purging

pytestmark = pytest.mark.crash

_OLD = (0, 1, 4)
"""Of one pack these are purged; another goes as a whole."""


@pytest.fixture
async def purging(store: Store) -> Purging:
    made = await make_purging(store)
    made.builder.packed = True
    return made


async def erased(url: str, folder: Path, now: int, *, kill_at: int, holes: bool) -> int | None:
    """How many calls changed the disk; None when it was killed."""
    child = fork("tests.crash.erase_process", url=url, folder=str(folder), now=now, kill_at=kill_at, holes=holes)
    line = await asyncio.to_thread(child.stdout.readline)
    code = await asyncio.to_thread(child.wait, 200)
    assert code == (0 if line else -9)
    return int(line) if line else None


async def purge(purging: Purging, home: Home, number: int) -> None:
    """A pack of which some are purged, and one of which all are."""
    for old in (_OLD, range(6)):
        await purging.builder.copies(home, [Seed(NOW - (40 if n in old else 3) * DAY) for n in range(6)])
    assert await purging.lease.acquire(purging.store.db, purging.now)
    assert (await purging.purge(number)).purged == 6 + len(_OLD)


async def look(purging: Purging, folder: Path) -> None:
    """Nothing is queued, all that stays is there, and what lies between is empty."""
    async with purging.store.db.read() as conn:
        assert (await conn.execute(select(blob_erasures.c.blob_id))).all() == []
        live = {row.id: row for row in (await conn.execute(select(blobs))).all()}
    assert set(purging.store.blobs.list_ids()) == live.keys()
    for path in (folder / "blobs").rglob("*"):
        if path.is_file():
            stays = sum(row.stored_size for id_, row in live.items() if id_.startswith(path.name))
            assert sum(byte != 0 for byte in path.read_bytes()[8 + 8 * 6 :]) <= stays
    entries = [leaf["blob_ref"] for leaf in await purging.leaves() if leaf["type"] == "blob.erase"]
    assert len(entries) == len(set(entries))


@pytest.mark.parametrize("holes", [True, False], ids=["holes", "none"])
async def test_killed_before_each_call_it_ends_as_an_uncut_one(
    purging: Purging, database_url: str, tmp_path: Path, holes: bool
) -> None:
    home = await purging.builder.home()
    number, done = 0, None
    while done is None:
        number += 1
        purging.now += TTL + LEASE_TTL  # the leases of the one that died have run out
        await purge(purging, home, number)
        done = await erased(database_url, tmp_path, purging.now, kill_at=number, holes=holes)
        if done is None:
            purging.now += TTL + LEASE_TTL
            assert await erased(database_url, tmp_path, purging.now, kill_at=0, holes=holes) is not None
        await look(purging, tmp_path)
    assert done == number - 1 >= 7
    log = [leaf for leaf in await purging.leaves() if leaf["type"] == "blob.erase"]
    assert len(log) == number * (6 + len(_OLD))
