"""The blob store: one contract for a local directory and for an object store, and what only a directory must do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mailgate.blobs import (
    BlobCorruptError,
    BlobMissingError,
    BlobStore,
    BlobStoreError,
    BlobTooLargeError,
    Erased,
)
from mailgate.blobs import disk as disk_module
from mailgate.errors import ConfigurationError

KEY = bytes(range(32))
MAIL = b"Subject: hello\r\n\r\n" + b"a line of a mail\r\n" * 500
ID = "01JD9Z8Q4N7V5T3R2P1M0K9H8G"


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


async def whole(store: BlobStore, blob_id: str, size: int, key: bytes = KEY) -> bytes:
    return b"".join([piece async for piece in store.read("t", blob_id, key, size)])


async def test_what_is_put_can_be_read(store: BlobStore) -> None:
    stored = store.put("t", ID, MAIL, KEY)
    store.settle()
    store.settle_one(ID)
    assert 0 < stored < len(MAIL)
    assert store.read_bytes("t", ID, KEY, len(MAIL), limit=1_000_000) == MAIL
    assert await whole(store, ID, len(MAIL)) == MAIL
    assert await store.exists(ID)
    assert list(store.list_ids()) == [ID]


async def test_a_huge_blob_streams_in_and_out(store: BlobStore) -> None:
    data = os.urandom(3_000_000) + bytes(5_000_000)
    writer = store.writer("t", ID, KEY)
    for at in range(0, len(data), 100_000):
        writer.write(memoryview(data)[at : at + 100_000])
        assert not await store.exists(ID)
    stored = writer.finish()
    store.settle()
    assert 3_000_000 < stored < 3_100_000
    assert await whole(store, ID, len(data)) == data
    writer.abort()  # after success: harmless
    assert await store.exists(ID)


async def test_an_aborted_writer_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    writer = store.writer("t", ID, KEY)
    writer.write(os.urandom(1_000_000))
    writer.abort()
    assert not await store.exists(ID)
    assert list(store.list_ids()) == []
    assert not (tmp_path / "blobs").exists() or files(tmp_path) == []


async def test_erase_says_gone_and_then_missing(store: BlobStore) -> None:
    store.put("t", ID, MAIL, KEY)
    assert await store.erase(ID) is Erased.gone
    store.settle()
    assert await store.erase(ID) is Erased.missing
    assert not await store.exists(ID)
    with pytest.raises(BlobMissingError):
        store.read_bytes("t", ID, KEY, len(MAIL), limit=1_000_000)
    with pytest.raises(BlobMissingError):
        await whole(store, ID, len(MAIL))


async def test_erase_many_keeps_the_order_of_outcomes(store: BlobStore) -> None:
    ids = [f"blob{n:04d}" for n in range(20)]
    for blob_id in ids[::2]:
        store.put("t", blob_id, MAIL, KEY)
    assert await store.erase_many(ids) == [Erased.gone, Erased.missing] * 10
    store.settle()
    assert list(store.list_ids()) == []


async def test_the_wrong_key_tenant_or_size_is_corruption(store: BlobStore) -> None:
    store.put("t", ID, MAIL, KEY)
    for tenant, key, size in (
        ("u", KEY, len(MAIL)),
        ("t", bytes(32), len(MAIL)),
        ("t", KEY, len(MAIL) - 1),
        ("t", KEY, 0),
    ):
        with pytest.raises(BlobCorruptError):
            store.read_bytes(tenant, ID, key, size, limit=1_000_000)
    with pytest.raises(BlobCorruptError):
        await whole(store, ID, len(MAIL), bytes(32))


def test_a_blob_larger_than_the_limit_is_not_read(store: BlobStore) -> None:
    store.put("t", ID, MAIL, KEY)
    with pytest.raises(BlobTooLargeError):
        store.read_bytes("t", ID, KEY, len(MAIL), limit=len(MAIL) - 1)


@pytest.mark.parametrize(
    "blob_id", ["", "abc", "../../etc/passwd", "a/b", "a#1b", "x" * 65, "..", "abcd\n", "übel", "-abc"]
)
async def test_a_name_never_leaves_the_store(store: BlobStore, blob_id: str) -> None:
    with pytest.raises(ValueError, match="not a blob id"):
        store.put("t", blob_id, b"", KEY)
    with pytest.raises(ValueError, match="not a blob id"):
        await store.erase(blob_id)


def test_many_threads_put_at_once(store: BlobStore) -> None:
    def put(number: int) -> bool:
        data = b"%d " % number * 3_000
        store.put("t", f"blob{number:04d}", data, KEY)
        return store.read_bytes("t", f"blob{number:04d}", KEY, len(data), limit=1_000_000) == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(put, range(200)))
    assert sorted(store.list_ids()) == [f"blob{number:04d}" for number in range(200)]


async def test_damage_on_disk_is_an_error(local: BlobStore, tmp_path: Path) -> None:
    local.put("t", ID, MAIL, KEY)
    (path,) = files(tmp_path)
    good = path.read_bytes()
    for bad in (b"", good[:-1], good + b"x", good[:20] + b"\0" + good[21:], good + bytes(10_000_000)):
        path.write_bytes(bad)
        with pytest.raises(BlobCorruptError):
            local.read_bytes("t", ID, KEY, len(MAIL), limit=1_000_000)
        with pytest.raises(BlobCorruptError):
            await whole(local, ID, len(MAIL))


async def test_nothing_readable_on_disk(local: BlobStore, tmp_path: Path) -> None:
    local.put("t", ID, MAIL, KEY)
    for path in files(tmp_path):
        assert b"a line of a mail" not in path.read_bytes()
    assert (tmp_path / "blobs").stat().st_mode & 0o077 == 0


async def test_an_erase_that_fails_raises_and_hides_no_other(local: BlobStore, tmp_path: Path) -> None:
    local.put("t", ID, MAIL, KEY)
    local.put("t", "blob0001", MAIL, KEY)
    path = next(path for path in files(tmp_path) if path.name == ID)
    path.unlink()
    path.mkdir()  # unlink fails on it for every user, root included
    with pytest.raises(BlobStoreError, match="can't be erased"):
        await local.erase(ID)
    failed, gone = await local.erase_many([ID, "blob0001"])
    assert isinstance(failed, BlobStoreError)
    assert gone is Erased.gone


async def test_sweep_removes_old_temporaries_only(local: BlobStore, tmp_path: Path) -> None:
    local.put("t", ID, MAIL, KEY)
    writer = local.writer("t", "blob0001", KEY)
    writer.write(os.urandom(600_000))
    (temporary,) = [path for path in files(tmp_path) if "#" in path.name]
    written_at = temporary.stat().st_mtime_ns // 1_000
    assert list(local.list_ids()) == [ID]
    assert local.sweep(written_at - 1) == 0
    assert local.sweep(written_at + 1_000_000) == 1
    assert [path.name for path in files(tmp_path)] == [ID]
    with pytest.raises(BlobStoreError):  # its file is gone: the writer must not claim success
        writer.finish()
    writer.abort()


def test_the_place_of_a_killed_put_is_swept(local: BlobStore, tmp_path: Path) -> None:
    """object_store stages an upload under `name#1`; a kill leaves that file."""
    (tmp_path / "blobs" / "00" / f"{ID}#1").write_bytes(b"half")
    assert list(local.list_ids()) == []
    assert local.sweep(1 << 62) == 1


@pytest.mark.parametrize("whole_file_system", [True, False], ids=["syncfs", "without syncfs"])
def test_settle_works_with_and_without_syncfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_file_system: bool
) -> None:
    if not whole_file_system:
        monkeypatch.setattr(disk_module, "_find_syncfs", lambda: None)
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real(fd))[1]
    )
    store = BlobStore.open(f"file://{tmp_path}/blobs")
    synced.clear()
    for number in range(3):
        store.put("t", f"blob{number:04d}", MAIL, KEY)
    writer = store.writer("t", "blob9999", KEY)
    writer.write(MAIL)
    writer.finish()
    asyncio.run(store.erase_many(["blob0000"]))
    store.settle()
    if whole_file_system:
        assert synced == []
    else:
        assert {Path(path).name for path in synced if Path(path).name.startswith("blob")} == {
            "blob0001",
            "blob0002",
            "blob9999",
        }
        synced.clear()
        store.settle()
        assert synced == []
    store.settle_one("blob0001")
    assert Path(synced[-2]).name == "blob0001"
    assert Path(synced[-1]).is_dir()
    store.close()


def test_a_failed_sync_is_an_error(local: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    local.put("t", ID, MAIL, KEY)
    assert local._disk is not None
    monkeypatch.setattr(local._disk, "_syncfs", fail)
    with pytest.raises(BlobStoreError, match="could not be made durable"):
        local.settle()


def test_a_full_disk_is_an_error_that_may_be_retried(local: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = local.writer("t", ID, KEY)

    class Full:
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    with monkeypatch.context() as patched:
        patched.setattr(writer, "_file", Full())
        with pytest.raises(BlobStoreError, match="No space left"):
            writer.write(os.urandom(1_000_000))
    writer.abort()


def test_a_put_that_fails_leaves_nothing(local: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failing, noise = os.write, [1], os.urandom(5_000)

    def write(descriptor: int, data: bytes) -> int:
        if failing:
            if failing.pop() == 0:
                raise OSError(28, "No space left on device")
            failing.append(0)
        return real(descriptor, memoryview(data)[:100])

    monkeypatch.setattr(disk_module.os, "write", write)
    with pytest.raises(BlobStoreError, match="No space left"):  # after the first hundred bytes
        local.put("t", ID, noise, KEY)
    assert files(tmp_path) == []
    local.put("t", ID, noise, KEY)  # in many short pieces
    assert local.read_bytes("t", ID, KEY, len(noise), limit=1_000_000) == noise


def test_a_name_is_never_used_again(local: BlobStore) -> None:
    local.put("t", ID, MAIL, KEY)
    with pytest.raises(BlobStoreError, match="File exists"):
        local.put("t", ID, MAIL[1:], KEY)
    assert local.read_bytes("t", ID, KEY, len(MAIL), limit=1_000_000) == MAIL


async def test_opening_again_finds_everything(tmp_path: Path) -> None:
    first = BlobStore.open(f"file://{tmp_path}/blobs")
    first.put("t", ID, MAIL, KEY)
    first.settle()
    first.close()
    second = BlobStore.open(str(tmp_path / "blobs"))
    assert second.read_bytes("t", ID, KEY, len(MAIL), limit=1_000_000) == MAIL
    second.close()


@pytest.mark.parametrize("url", ["file://host/x", "ftp://host/x", "nonsense://"])
def test_an_unusable_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        BlobStore.open(url)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file")
    with pytest.raises(BlobStoreError, match="can't be used"):
        BlobStore.open(f"file://{tmp_path}/blobs")


def test_memory_stays_flat_for_a_huge_blob(tmp_path: Path) -> None:
    """200 MB in and out of the store in a process that may grow by 40 MB."""
    script = """
import asyncio, os, resource, sys
from mailgate.blobs import BlobStore
store = BlobStore.open(sys.argv[1])
noise, zeros, key = os.urandom(1 << 20), bytes(1 << 20), bytes(32)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def run(count):
    writer = store.writer("t", f"blob{count}", key)
    for n in range(count): writer.write(noise if n % 2 else zeros)
    writer.finish(); store.settle()
    async def read():
        total = 0
        async for piece in store.read("t", f"blob{count}", key, count << 20): total += len(piece)
        return total
    assert asyncio.run(read()) == count << 20
run(8)
before = peak()
run(200)
print(peak() - before, flush=True)
os._exit(0)  # a thread of the runtime below obstore that wakes while Python ends aborts the process now and then
"""
    command = [sys.executable, "-c", script, f"file://{tmp_path}/blobs"]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout)
    assert grown < 40 * 1024, f"{grown} KiB"


def test_settle_may_run_while_others_put(local: BlobStore) -> None:
    stop = threading.Event()

    def put() -> int:
        count = 0
        while not stop.is_set():
            local.put("t", f"blob{count:06d}", MAIL, KEY)
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        counted = pool.submit(put)
        for _ in range(5):
            local.settle()
        stop.set()
        count = counted.result()
    assert len(list(local.list_ids())) == count
