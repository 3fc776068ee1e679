"""Blobs that share a file: what one sees of them is what one sees of others, and erasing one leaves nothing of it."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from mailgate.blobs import (
    BlobCorruptError,
    BlobMissingError,
    BlobStore,
    BlobStoreError,
    Erased,
    PackDamagedError,
    made_at,
    packs,
)
from mailgate.blobs import disk as disk_module
from mailgate.blobs.frames import HEADER
from mailgate.blobs.names import place
from mailgate.clock import DAY
from mailgate.ids import is_id, new_id
from tests.soak import examples

KEY = bytes(range(32))
NOW = 20_000 * DAY
MAILS = [b"Subject: %d\r\n\r\n" % number + os.urandom(700 + 31 * number) for number in range(40)]


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


@pytest.mark.parametrize(
    "refused", [None, errno.EOPNOTSUPP, errno.ENOSPC, errno.EPERM], ids=["hole", "no holes", "full", "filtered"]
)
async def test_nothing_of_what_was_erased_is_left_in_the_file(
    local: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int | None
) -> None:
    if refused is not None:

        def punch(*_: int) -> None:
            raise OSError(refused, os.strerror(refused))

        monkeypatch.setattr(packs, "_punch", punch)
    real = os.pwrite
    monkeypatch.setattr(packs.os, "pwrite", lambda fd, data, at: real(fd, data[:50_001], at))  # as a quota cuts it
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
        path = place(pack)

        def strike(first: int, path: str = path) -> set[int]:
            found: set[int] = set()
            for number in range(first, len(MAILS), 4):
                found |= disk.strike(path, [number], {}, b"")
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
        local._disk.strike(place(ids[0][:24]), [0], {}, b"")

    with pytest.raises(BlobMissingError):
        await anext(reading)
    local._range = lambda blob_id: (real(blob_id), strike_second())[0]  # type: ignore[method-assign]

    def strike_second() -> None:
        local._range = real  # type: ignore[method-assign]
        assert local._disk is not None
        local._disk.strike(place(ids[1][:24]), [1], {}, b"")

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
    assert f"put the file {path.parent.name}/{path.name} back from a backup, or remove it" in str(failed)
    assert other is Erased.missing
    assert files(tmp_path) == [path]
    assert list(local.list_ids()) == []


@pytest.mark.parametrize("entry", [(10**9, 100), (500, 0), (2**32 - 1, 2**32 - 1), (0, 500), (100, 2**32 - 1)])
async def test_an_entry_that_can_not_be_true_is_said_of_its_blob_alone(
    local: BlobStore, tmp_path: Path, entry: tuple[int, int]
) -> None:
    ids = put(local)
    (path,) = files(tmp_path)
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), packs.ENTRY.pack(*entry), packs.HEAD.size + packs.ENTRY.size * 3)
    with pytest.raises(BlobCorruptError):
        read(local, ids[3], MAILS[3])
    with pytest.raises(BlobCorruptError):
        await streamed(local, ids[3], MAILS[3])
    assert read(local, ids[4], MAILS[4]) == MAILS[4]
    assert sorted(local.list_ids()) == sorted(ids)
    assert isinstance((await local.erase_many([ids[2]]))[0], BlobStoreError)
    assert read(local, ids[2], MAILS[2]) == MAILS[2]
    assert await local.erase_many(ids) == [Erased.gone] * len(ids)  # the file goes as a whole
    assert files(tmp_path) == []


LIES = {
    "ends early": (4, lambda start, length: (start, length - 300), [5], [6]),
    "ends early, before what is erased together": (4, lambda start, length: (start, length - 300), [], [5, 6]),
    "begins late": (4, lambda start, length: (start + 300, length - 300), [3], [2]),
    "lies behind": (4, lambda start, length: (start + 300, length), [3, 5], [2]),
    "lies before": (4, lambda start, length: (start - 300, length), [3, 5], [6]),
    "is not told of": (4, lambda _start, _length: (0, 0), [3], [5]),
    "is not told of, nor anything else": (4, lambda _start, _length: (0, 0), [*range(4), *range(6, 40)], [5]),
    "is said to be longer": (39, lambda start, length: (start, length + 1), [], [38]),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_table_that_lies_of_what_stays_takes_no_bytes_of_it(local: BlobStore, tmp_path: Path, lie: str) -> None:
    """It may look right as a table: how long each is that stays, and that it stays, those know who have it."""
    ids = put(local)
    number, lying, before, wanted = LIES[lie]
    (path,) = files(tmp_path)
    with path.open("r+b") as file:
        table = packs.entries(file.fileno())
        gone = {*before, *wanted}
        beside = {ids[each]: length for each, (_, length) in enumerate(table) if each not in gone}
        if before:
            await local.erase_many([ids[each] for each in before], beside)

        def tell(start: int, length: int) -> None:
            os.pwrite(file.fileno(), packs.ENTRY.pack(start, length), packs.HEAD.size + packs.ENTRY.size * number)

        tell(*lying(*table[number]))
        damaged = path.read_bytes()
        outcomes = await local.erase_many([ids[each] for each in wanted], beside)
        assert [type(outcome) for outcome in outcomes] == [PackDamagedError] * len(wanted)
        assert "the table of its pack is damaged" in str(outcomes[0])
        assert path.read_bytes() == damaged
        tell(*table[number])  # a person brings the table back
    assert await local.erase_many([ids[each] for each in wanted], beside) == [Erased.gone] * len(wanted)
    assert read(local, ids[number], MAILS[number]) == MAILS[number]


@examples(300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.sets(st.integers(0, 5), max_size=3),
    st.integers(0, 5),
    st.one_of(
        st.just((0, 0)),
        st.tuples(st.integers(-60, 60), st.integers(-60, 60)),
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    ),
    st.sets(st.integers(0, 5), min_size=1, max_size=3),
)
def test_whatever_an_entry_says_of_what_stays_it_stays_whole(
    tmp_path: Path, erased: set[int], damaged: int, entry: tuple[int, int], numbers: set[int]
) -> None:
    """`entry`: by how much it is off, or what it says."""
    path = tmp_path / "pack"
    few = [HEADER + b"%d" % number * (20 + 7 * number) for number in range(6)]
    path.write_bytes(packs.pack_of(few))
    staying = {number: len(few[number]) for number in range(6) if number not in erased | numbers}
    with path.open("r+b") as file:
        table = packs.entries(file.fileno())
        if erased and packs.strike(file.fileno(), erased, staying, HEADER)[1]:
            return
        start, length = table[damaged]
        if damaged in erased or entry == (0, 0) or max(entry) > 60:
            lie = entry if min(entry) >= 0 else (0, 0)
        else:
            lie = max(start + entry[0], 0), max(length + entry[1], 0)
        os.pwrite(file.fileno(), packs.ENTRY.pack(*lie), packs.HEAD.size + packs.ENTRY.size * damaged)
        try:
            _, empty = packs.strike(file.fileno(), numbers, staying, HEADER)
        except packs.DamagedPackError:
            empty = False
        assert not (empty and staying)
    after = path.read_bytes()
    for number in staying:
        start, length = table[number]
        assert after[start : start + length] == few[number]


async def test_more_entries_than_there_are_ids_is_a_damaged_table(local: BlobStore, tmp_path: Path) -> None:
    ids = put(local)
    other = put(local)
    path = tmp_path / "blobs" / place(ids[0][:24])
    path.write_bytes(packs.HEAD.pack(b"MGPK", 1, packs.MOST + 1) + path.read_bytes()[packs.HEAD.size :])
    assert sorted(local.list_ids()) == sorted(other)
    with pytest.raises(BlobCorruptError):
        read(local, ids[0], MAILS[0])


async def test_a_pack_that_can_not_be_opened_does_not_hide_the_others(
    local: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, other = put(local), put(local)
    real = os.open

    def fail(path: str, *rest: int, **more: int) -> int:
        if str(path).endswith(ids[0][:24]):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *rest, **more)

    monkeypatch.setattr(disk_module.os, "open", fail)
    assert sorted(local.list_ids()) == sorted(other)
    with pytest.raises(BlobStoreError, match="Input/output"):
        await local.exists(ids[0])


async def test_what_a_link_leads_to_is_not_written_to(local: BlobStore, tmp_path: Path) -> None:
    ids = put(local)
    (path,) = files(tmp_path)
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    (outcome,) = await local.erase_many(ids[:1])
    assert isinstance(outcome, BlobStoreError)
    assert elsewhere.read_bytes() == before


async def test_a_pack_that_was_copied_to_a_bucket_is_not_taken_for_its_blobs(local: BlobStore, tmp_path: Path) -> None:
    ids = put(local)
    (path,) = files(tmp_path)
    bucket = BlobStore.open("memory://")
    obstore.put(bucket._store, place(path.name), path.read_bytes())
    assert list(bucket.list_ids()) == []
    assert not await bucket.exists(ids[0])
    with pytest.raises(BlobMissingError):
        read(bucket, ids[0], MAILS[0])
    with pytest.raises(BlobMissingError):
        await streamed(bucket, ids[0], MAILS[0])
    (outcome,) = await bucket.erase_many(ids[:1])
    assert isinstance(outcome, BlobStoreError)
    assert obstore.head(bucket._store, place(path.name))["size"] == path.stat().st_size
    bucket.close()


async def test_bytes_that_a_power_cut_brought_back_go_with_the_next_attempt(local: BlobStore, tmp_path: Path) -> None:
    """The disk took the cleared entries before the holes: nothing orders the two."""
    ids = put(local)
    (path,) = files(tmp_path)
    before = path.read_bytes()
    with path.open("r+b") as file:
        table = packs.entries(file.fileno())
        await local.erase_many(ids[7:9] + ids[-1:])
        for number in (7, 8, len(ids) - 1):
            start, length = table[number]
            os.pwrite(file.fileno(), before[start : start + length], start)
    assert await local.erase_many(ids[7:9] + ids[-1:]) == [Erased.missing] * 3
    after = path.read_bytes()
    assert len(after) == len(before)
    for number, (start, length) in enumerate(table):
        stays = number not in (7, 8, len(ids) - 1)
        assert after[start : start + length] == (before[start : start + length] if stays else bytes(length))


async def test_an_empty_file_holds_nothing_and_can_be_erased(local: BlobStore, tmp_path: Path) -> None:
    """What a power cut leaves of a pack to which nothing refers."""
    ids = put(local)
    (path,) = files(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(BlobMissingError):
        read(local, ids[3], MAILS[3])
    (whole,) = local.list_ids()
    assert whole == packs.member(path.name, packs.MOST - 1)
    assert await local.erase(whole) is Erased.missing
    assert files(tmp_path) == []


async def test_a_file_that_was_cut_can_be_erased(local: BlobStore, tmp_path: Path) -> None:
    ids = put(local)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:2_000])
    with pytest.raises(BlobCorruptError, match="cut"):
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


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
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
            there, empty = packs.strike(descriptor, numbers, {}, b"")
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


_FEW = [b"%d" % number * (20 + 7 * number) for number in range(6)]
_SIZE = len(packs.pack_of(_FEW))


@examples(300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.integers(0, 5),
    st.one_of(
        st.tuples(st.integers(0, _SIZE + 50), st.integers(0, _SIZE + 50)),
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    ).filter(lambda entry: entry != (0, 0)),
    st.sets(st.integers(0, 6), min_size=1),
    st.booleans(),
)
def test_whatever_an_entry_says_only_what_is_erased_loses_bytes(
    tmp_path: Path, damaged: int, entry: tuple[int, int], numbers: set[int], holes: bool
) -> None:
    path = tmp_path / "pack"
    good = packs.pack_of(_FEW)
    at = packs.HEAD.size + packs.ENTRY.size * damaged
    path.write_bytes(good[:at] + packs.ENTRY.pack(*entry) + good[at + packs.ENTRY.size :])
    with path.open("r+b") as file, pytest.MonkeyPatch.context() as patch:
        if not holes:
            patch.setattr(packs, "_punch", packs._no_punch)
        try:
            there, empty = packs.strike(file.fileno(), numbers, {}, b"")
        except packs.DamagedPackError:
            there, empty = set(), False
    after = path.read_bytes()
    assert len(after) == len(good)
    at = packs.HEAD.size + packs.ENTRY.size * len(_FEW)
    for number, blob in enumerate(_FEW):
        found = after[at : at + len(blob)]
        assert found == (bytes(len(blob)) if number in there and not empty else blob), number
        at += len(blob)
