"""A disk that is really full, or mounted read-only, in the middle of a purge: a small file system of the test's own,
with the database on it or the bytes. Needs the right to mount; elsewhere `test_failing_disk` plays what such one does.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from mailgate.clock import MINUTE
from mailgate.jobs.erase import EraseWorker
from mailgate.store.erasures import Erasures, pause
from mailgate.store.outages import OUTAGES, is_outage
from mailgate.store.overview import unreachable, unwritable
from mailgate.store.schema import blob_erasures
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from retention.model import Brake
from tests.postgres import Postgres, migrate
from tests.servers import give, service_user
from tests.smalldisk import Disk
from tests.smalldisk import disk as disk
from tests.store.builder import Seed
from tests.store.conftest import DAY, NOW, Store
from tests.store.purging import Purging, make_purging

_COPIES = 2_000


@pytest.fixture
def small_sqlite_url(disk: Disk, _sqlite_template: Path) -> str:
    path = disk.folder / "mailgate.db"
    shutil.copyfile(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def small_postgresql_url(disk: Disk, postgres: Postgres, postgres_template: str) -> Iterator[str]:
    """The tables are on the small disk, PostgreSQL's own log of changes is not."""
    space = disk.folder / "tables"
    space.mkdir()
    give(space, user=service_user())
    name = f"small_{disk.folder.name.rpartition('-')[2].lower()}"
    postgres._query("postgres", f"CREATE TABLESPACE {name} LOCATION '{space}'")
    postgres._query("postgres", f"CREATE DATABASE {name} TEMPLATE {postgres_template} TABLESPACE {name}")
    yield postgres.url(name)
    postgres.drop(name)
    postgres._query("postgres", f"DROP TABLESPACE {name}")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def small_database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"small_{request.param}_url")
    return url


class TestDatabase:
    """The database is on it."""

    @pytest.fixture
    def database_url(self, small_database_url: str) -> str:
        return small_database_url

    async def test_a_purge_that_finds_no_space_stops_with_nothing_lost_and_ends_later(
        self, store: Store, disk: Disk
    ) -> None:
        purging, brake = await make_purging(store), Brake(minimum=_COPIES)
        home = await purging.builder.home()
        await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n, b"same\r\n\r\n") for n in range(_COPIES)])
        await store.db.truncate_wal()
        disk.fill()
        filled = 0

        def step(name: str) -> None:
            """What a batch gives back is taken at once."""
            nonlocal filled
            if name == "batch":
                filled += 1
                disk.fill()

        with pytest.raises(OUTAGES):
            await purging.purge(1, batch=200, step=step, brake=brake)
        assert filled < _COPIES // 200  # it stopped in the middle
        disk.free()
        left, gone = await purging.ids(), await purged(purging)
        assert len(left) + len(gone) == _COPIES
        assert left
        assert len(set(gone)) == len(gone)
        assert await unwritable(store.db, NOW + 2 * MINUTE) is None
        if await purging.purges.unfinished() is None:
            await purging.purge(2, brake=brake)
        else:
            assert await purging.engine(brake=brake).resume("ab" * 32) is not None
        assert await purging.ids() == set()
        assert len(set(await purged(purging))) == len(await purged(purging)) == _COPIES
        report = replay_leaves([body async for body in store.reader.entries(home.tenant, 0, 10_000)])
        assert report.verdict is Verdict.OK, report.lines()


@pytest.mark.postgresql
class TestCluster:
    """PostgreSQL's own log of changes is on it, alone or with everything: for want of space it ends in a panic."""

    @pytest.fixture(params=["all of it", "its log of changes"])
    def cluster(self, request: pytest.FixtureRequest, disk: Disk) -> Iterator[Postgres]:
        """Small segments, which are neither kept nor made ahead: it soon needs a new one."""
        settings = {"wal_recycle": "off", "min_wal_size": "2MB", "max_wal_size": "1GB", "synchronous_commit": "on"}
        folder = disk.folder
        small = ["--wal-segsize=1"]
        if request.param != "all of it":
            folder = Path(tempfile.mkdtemp(prefix="mailgate-postgres-"))
            (disk.folder / "wal").mkdir()
            give(disk.folder / "wal", user=service_user())
            small.append(f"--waldir={disk.folder / 'wal'}")
        made = Postgres(folder, settings, small)
        yield made
        made.stop()
        if folder != disk.folder:
            shutil.rmtree(folder)

    @pytest.fixture
    def database_url(self, cluster: Postgres) -> str:
        name = cluster.create()
        migrate(cluster.url(name))
        return cluster.url(name)

    async def test_a_purge_whose_database_ends_for_want_of_space_goes_on_when_it_is_back(
        self, store: Store, disk: Disk, cluster: Postgres
    ) -> None:
        purging, brake = await make_purging(store), Brake(minimum=_COPIES)
        home = await purging.builder.home()
        await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n, b"same\r\n\r\n") for n in range(_COPIES)])
        batches = 0

        def step(name: str) -> None:
            nonlocal batches
            batches += name == "batch"
            if batches >= 2:
                disk.fill()

        with pytest.raises(OUTAGES, match="No space left on device") as told:
            await purging.purge(1, batch=200, step=step, brake=brake)
        assert is_outage(told.value)  # which is waited for, and never taken for the fault of what was purged
        assert batches < _COPIES // 200  # it stopped in the middle
        disk.free()
        cluster.go_on()
        assert await unreachable(store.db) is None
        assert await unwritable(store.db, NOW + 2 * MINUTE) is None
        left, gone = await purging.ids(), await purged(purging)
        assert len(left) + len(gone) == _COPIES
        assert len(gone) >= 2 * 200
        assert await purging.engine(brake=brake).resume("ab" * 32) is not None
        assert await purging.ids() == set()
        assert len(set(await purged(purging))) == len(await purged(purging)) == _COPIES
        report = replay_leaves([body async for body in store.reader.entries(home.tenant, 0, 10_000)])
        assert report.verdict is Verdict.OK, report.lines()


async def purged(purging: Purging) -> list[str]:
    """What the log says that went."""
    return [leaf["item_ref"] for leaf in await purging.leaves() if leaf["type"] == "item.purge"]


class TestBytes:
    """The bytes are on it, the database elsewhere."""

    @pytest.fixture
    def tmp_path(self, disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("beside")
        (folder / "blobs").symlink_to(disk.folder)
        return folder

    @pytest.mark.parametrize("fault", ["full", "read-only"])
    async def test_bytes_are_erased_when_the_disk_takes_that_again(self, store: Store, disk: Disk, fault: str) -> None:
        """A full disk gives bytes back all the same; one that is read-only does not, and that is told."""
        purging = await make_purging(store)
        home = await purging.builder.home()
        await purging.builder.copies(home, [Seed(NOW - 40 * DAY) for _ in range(20)])
        assert len(list(store.blobs.list_ids())) == 20

        def worker() -> Any:
            return EraseWorker(Erasures(store.db, store.log), store.blobs, purging.clock, "one")

        if fault == "full":
            disk.fill()
        else:
            disk.mount("ro")
        try:
            assert (await purging.purge()).purged == 20  # keys and rows are not there
            assert await worker().work() == ((20, 0) if fault == "full" else (0, 20))
        finally:
            if fault == "full":
                disk.free()
            else:
                disk.mount("rw")
        async with store.db.read() as conn:
            queued = (await conn.execute(select(blob_erasures.c.last_error))).scalars().all()
        assert ["Read-only file system" in str(error) for error in queued] == ([] if fault == "full" else [True] * 20)
        purging.now += pause(1)
        await worker().work()
        assert list(store.blobs.list_ids()) == []
        told = [leaf["type"] for leaf in await purging.leaves()]
        assert (told.count("blob.erase"), told.count("erase.failed")) == (20, 0 if fault == "full" else 20)
