"""Blobs that share a file: what one sees of them is what one sees of others, and erasing one leaves nothing of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailgate.blobs import (
    BlobCorruptError,
    BlobMissingError,
    BlobStore,
    BlobStoreError,
    Erased,
    made_at,
    packs,
)
from mailgate.blobs import disk as disk_module
from mailgate.blobs import store as store_module
from mailgate.clock import DAY
from mailgate.ids import is_id, new_id

KEY = bytes(range(32))
NOW = 20_000 * DAY
MAILS = [b"Subject: %d\r\n\r\n" % number + os.urandom(700 + 31 * number) for number in range(40)]


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    opened = BlobStore.open(f"file://{tmp_path}/blobs" if request.param == "file" else "memory://")
    yield opened
    opened.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[BlobStore]:
    opened = BlobStore.open(f"file://{tmp_path}/blobs")
    yield opened
    opened.close()


def files(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "blobs").rglob("*") if path.is_file())


def put(store: BlobStore, mails: list[bytes] = MAILS) -> list[str]:
    """Their ids."""
    batch = store.batch("t", NOW, len(mails))
    stored = [batch.put(mail, KEY) for mail in mails]
    batch.finish()
    store.settle()
    assert all(size > len(mail) for (_, size), mail in zip(stored, mails, strict=True))  # noise
    return [blob_id for blob_id, _ in stored]


def read(store: BlobStore, blob_id: str, mail: bytes) -> bytes:
    return store.read_bytes("t", blob_id, KEY, len(mail), limit=10_000_000)


async def streamed(store: BlobStore, blob_id: str, mail: bytes) -> bytes:
    return b"".join([piece async for piece in store.read("t", blob_id, KEY, len(mail))])


async def test_a_batch_reads_like_anything_else(store: BlobStore) -> None:
    ids = put(store)
    assert len(set(ids)) == len(MAILS)
    assert sorted(store.list_ids()) == sorted(ids)
    for blob_id, mail in zip(ids, MAILS, strict=True):
        assert is_id(blob_id)
        assert made_at(blob_id) == NOW
        assert read(store, blob_id, mail) == mail
        assert await streamed(store, blob_id, mail) == mail
        assert await store.exists(blob_id)
    assert await store.erase_many(ids[::2]) == [Erased.gone] * 20
    assert await store.erase_many(ids[:4]) == [Erased.missing, Erased.gone, Erased.missing, Erased.gone]
    assert await store.erase(ids[5]) is Erased.gone
    assert await store.erase(ids[5]) is Erased.missing
    assert sorted(store.list_ids()) == sorted(ids[7::2])
    for blob_id, mail in zip(ids, MAILS, strict=True):
        if blob_id in ids[7::2]:
            assert read(store, blob_id, mail) == mail
            continue
        assert not await store.exists(blob_id)
        with pytest.raises(BlobMissingError):
            read(store, blob_id, mail)
        with pytest.raises(BlobMissingError):
            await streamed(store, blob_id, mail)


async def test_they_share_a_file_which_goes_with_the_last(local: BlobStore, tmp_path: Path) -> None:
    ids = put(local)
    (path,) = files(tmp_path)
    assert packs.is_pack(path.name)
    await local.erase_many(ids[1:])
    assert files(tmp_path) == [path]
    await local.erase(ids[0])
    assert files(tmp_path) == []
    assert await local.erase_many(ids) == [Erased.missing] * len(ids)


async def test_a_batch_of_one_and_what_is_large_have_files_of_their_own(local: BlobStore, tmp_path: Path) -> None:
    (alone,) = put(local, MAILS[:1])
    assert packs.place_of(alone) is None
    large = os.urandom(300_000)
    small, big, other = put(local, [MAILS[0], large, MAILS[1]])
    assert packs.place_of(big) is None
    assert packs.place_of(small) is not None
    assert len(files(tmp_path)) == 3
    assert read(local, big, large) == large
    assert read(local, other, MAILS[1]) == MAILS[1]


def test_a_batch_is_cut_into_files_by_bytes_and_by_count(
    local: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(local, [os.urandom(200_000) for _ in range(12)])
    assert len(files(tmp_path)) == 2
    monkeypatch.setattr(packs, "MOST", 3)
    ids = put(local, MAILS[:7])
    assert len(files(tmp_path)) == 5
    assert [read(local, *pair) for pair in zip(ids, MAILS[:7], strict=True)] == MAILS[:7]


@pytest.mark.parametrize("refused", [None, errno.EOPNOTSUPP, errno.ENOSPC], ids=["hole", "no holes", "full"])
async def test_nothing_of_what_was_erased_is_left_in_the_file(
    local: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int | None
) -> None:
    if refused is not None:

        def punch(*_: int) -> None:
            raise OSError(refused, os.strerror(refused))

        monkeypatch.setattr(packs, "_punch", punch)
    ids = put(local, [os.urandom(100_000) for _ in range(4)])
    (path,) = files(tmp_path)
    before = path.read_bytes()
    with path.open("rb") as file:
        start, length = packs.entries(file.fileno())[2]
    assert await local.erase(ids[2]) is Erased.gone
    after = path.read_bytes()
    assert after[start : start + length] == bytes(length)
    kept = [at for at in range(len(before)) if not start <= at < start + length and not 8 + 2 * 8 <= at < 8 + 3 * 8]
    assert bytes(before[at] for at in kept) == bytes(after[at] for at in kept)
    if refused is None:
        assert path.stat().st_blocks * 512 < len(before) - 90_000  # the disk has its room back


async def test_an_erase_that_was_cut_off_is_done_again(
    local: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = put(local)

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(packs.os, "pwrite", fail)
        for outcome in await local.erase_many(ids[:3]):
            assert isinstance(outcome, BlobStoreError)
        with pytest.raises(BlobStoreError, match="Input/output error"):
            await local.erase(ids[0])
    with pytest.raises(BlobCorruptError):  # its bytes are gone, its entry is not
        read(local, ids[0], MAILS[0])
    assert await local.erase_many(ids[:3]) == [Erased.gone] * 3
    with monkeypatch.context() as patched:
        patched.setattr(disk_module.os, "unlink", fail)
        outcomes = await local.erase_many(ids)
        assert [type(outcome) for outcome in outcomes] == [BlobStoreError] * len(ids)
    assert await local.erase_many(ids) == [Erased.missing] * 3 + [Erased.gone] * (len(ids) - 3)
    assert files(tmp_path) == []


def test_many_erase_at_once(local: BlobStore, tmp_path: Path) -> None:
    """Each is gone for one of them, and the files go."""
    disk = local._disk
    assert disk is not None
    for _ in range(20):
        ids = put(local)
        pack = ids[0][:24]
        path = store_module._place(pack)

        def strike(first: int, path: str = path) -> set[int]:
            found: set[int] = set()
            for number in range(first, len(MAILS), 4):
                found |= disk.strike(path, [number])
            return found

        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(strike, range(4)))
        assert set().union(*done) == set(range(len(MAILS)))
        assert files(tmp_path) == []


async def test_what_is_erased_while_it_is_read_is_missing(local: BlobStore) -> None:
    ids = put(local)
    reading = local.read("t", ids[0], KEY, len(MAILS[0]))
    real = local._range
    local._range = lambda blob_id: (real(blob_id), strike())[0]  # type: ignore[method-assign]

    def strike() -> None:
        local._range = real  # type: ignore[method-assign]
        assert local._disk is not None
        local._disk.strike(store_module._place(ids[0][:24]), [0])

    with pytest.raises(BlobMissingError):
        await anext(reading)
    local._range = lambda blob_id: (real(blob_id), strike_second())[0]  # type: ignore[method-assign]

    def strike_second() -> None:
        local._range = real  # type: ignore[method-assign]
        assert local._disk is not None
        local._disk.strike(store_module._place(ids[1][:24]), [1])

    with pytest.raises(BlobMissingError):
        read(local, ids[1], MAILS[1])


@pytest.mark.parametrize("damage", ["short", "magic", "table"])
async def test_a_damaged_table_is_said_and_its_file_kept(local: BlobStore, tmp_path: Path, damage: str) -> None:
    ids = put(local)
    (path,) = files(tmp_path)
    good = path.read_bytes()
    path.write_bytes({"short": good[:5], "magic": b"\0\0\0\0" + good[4:], "table": good[:100]}[damage])
    with pytest.raises(BlobCorruptError, match="table"):
        read(local, ids[0], MAILS[0])
    with pytest.raises(BlobCorruptError, match="table"):
        await streamed(local, ids[0], MAILS[0])
    failed, other = await local.erase_many([ids[0], "blob0001"])
    assert isinstance(failed, BlobStoreError)
    assert "remove the file" in str(failed)
    assert other is Erased.missing
    assert files(tmp_path) == [path]
    assert list(local.list_ids()) == [ids[0]]


async def test_an_empty_file_holds_nothing_and_can_be_erased(local: BlobStore, tmp_path: Path) -> None:
    """What a power cut leaves of a pack to which nothing refers."""
    ids = put(local)
    (path,) = files(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(BlobMissingError):
        read(local, ids[3], MAILS[3])
    assert list(local.list_ids()) == [ids[0]]
    assert await local.erase(ids[0]) is Erased.missing
    assert files(tmp_path) == []


async def test_a_file_that_was_cut_can_be_erased(local: BlobStore, tmp_path: Path) -> None:
    ids = put(local)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:2_000])
    with pytest.raises(BlobStoreError):
        read(local, ids[30], MAILS[30])
    assert sorted(local.list_ids()) == sorted(ids)
    assert await local.erase_many(ids[20:]) == [Erased.gone] * 20
    assert await local.erase_many(ids[:20]) == [Erased.gone] * 20
    assert files(tmp_path) == []


async def test_without_syncfs_the_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "_find_syncfs", lambda: None)
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink().name), real(fd))[1]
    )
    store = BlobStore.open(f"file://{tmp_path}/blobs")
    ids = put(store)
    assert ids[0][:24] in synced
    synced.clear()
    await store.erase(ids[0])
    store.settle()
    assert ids[0][:24] in synced
    store.settle_one(ids[1])
    store.close()


def test_ids_that_are_no_members() -> None:
    assert packs.place_of(new_id(NOW)) is None
    assert packs.place_of("blob0001") is None
    assert packs.place_of("4" + "0" * 23 + "IL") is None  # letters that no number has
    assert packs.place_of("4" + "0" * 23 + "ZZ") == ("4" + "0" * 23, 1023)
    with pytest.raises(ValueError, match="not an id"):
        made_at("blob0001")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=9_000), min_size=1, max_size=12),
    st.lists(st.sets(st.integers(0, 12), max_size=12), max_size=6),
)
def test_a_pack_is_what_a_dictionary_is(tmp_path: Path, blobs: list[bytes], strikes: list[set[int]]) -> None:
    path = tmp_path / "pack"
    path.write_bytes(packs.pack_of(blobs))
    model = dict(enumerate(blobs))
    descriptor = os.open(path, os.O_RDWR)
    try:
        for numbers in strikes:
            there, empty = packs.strike(descriptor, numbers)
            assert there == numbers & model.keys()
            for number in there:
                del model[number]
            assert empty == (not model)
            if empty:
                return
            assert list(packs.living(descriptor)) == sorted(model)
            for number, blob in model.items():
                start, length = packs.entries(descriptor)[number]
                assert os.pread(descriptor, length, start) == blob
    finally:
        os.close(descriptor)
