"""Blobs by random name on a local directory, S3, GCS, Azure or in memory, through obstore.

The crash rule (R4): bytes are durable before the rows that refer to them commit.

    put / writer …     any number, from worker threads: not durable yet on a local directory
    settle()           now they are: commit the rows

The other way round for purging: commit the row's end first, then `erase`, then `settle()`, then record the outcome.

Names (`mailgate.blobs.names`) are never used again. Objects never change: a name means one content for ever. Blobs of a
batch share files on a local directory (`mailgate.blobs.packs`); of those only what was erased changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from mailgate.blobs import packs
from mailgate.blobs.batch import BlobBatch, PackedBlobs, SingleBlobs
from mailgate.blobs.disk import LocalDisk
from mailgate.blobs.erasing import Erased, erase_local
from mailgate.blobs.errors import (
    BlobCorruptError,
    BlobStoreError,
    BlobTooLargeError,
)
from mailgate.blobs.failing import failing, first_line
from mailgate.blobs.frames import FRAME_SIZE, FrameReader, FrameWriter, open_blob, seal_blob
from mailgate.blobs.names import FOLDERS, is_id, path_of, place
from mailgate.blobs.writers import BlobWriter, LocalWriter, RemoteWriter
from mailgate.clock import SECOND, Instant
from mailgate.errors import ConfigurationError

if TYPE_CHECKING:
    from obstore import GetOptions

_RETRIES = 5
_ERASED_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class UnreadablePack:
    """A file of blobs that does not tell what is in it. `path`: below the directory; `damaged`: it was read, and its
    table can't be understood; else the disk refused it.
    """

    name: str
    path: str
    why: str
    damaged: bool


class BlobStore:
    """Sync methods block and may be called from several threads; async ones belong to the event loop."""

    def __init__(self, store: ObjectStore, disk: LocalDisk | None) -> None:
        self._store = store
        self._disk = disk

    @classmethod
    def open(
        cls,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        client_options: Mapping[str, Any] | None = None,
        retries: int = _RETRIES,
    ) -> BlobStore:
        """Open `file:///path` (made when missing), `memory://` (tests), or a remote store (`s3://`, `gs://`, `az://`).

        `options` are obstore's for the provider, `client_options` those of its HTTP client (`{"allow_http": True}` for
        a store without TLS, time-outs); a request that fails is repeated `retries` times within a minute.
        Credentials of remote stores come from `options` or the provider's usual environment. Raises ConfigurationError.
        """
        parts = urlsplit(url)
        if parts.scheme in ("", "file"):
            if parts.netloc not in ("", "localhost"):
                raise ConfigurationError("blobs.url must be file:///path with three slashes for a local directory")
            path = Path(unquote(parts.path) if parts.scheme else url).absolute()
            disk = LocalDisk(path, FOLDERS)
            return cls(LocalStore(path), disk)
        if parts.scheme == "memory":
            return cls(MemoryStore(), None)
        try:
            make: Any = from_url  # typed per provider; the options are the operator's
            remote = make(
                url,
                config=dict(options or {}) or None,
                client_options=dict(client_options or {}) or None,
                retry_config={"max_retries": retries, "retry_timeout": timedelta(minutes=1)},
            )
            return cls(remote, None)
        except (BaseError, ValueError, TypeError) as error:
            raise ConfigurationError(f"blobs.url or its options can't be used: {first_line(error)}") from error

    def close(self) -> None:
        """Release what the store holds open."""
        if self._disk is not None:
            self._disk.close()

    @property
    def shared_directory(self) -> Path | None:
        """The local directory where another process of this program may put blobs that `settle` here makes durable;
        None when there is none.
        """
        return self._disk.root if self._disk is not None and self._disk.settles_others else None

    def put(self, tenant_id: str, blob_id: str, data: bytes | bytearray | memoryview, key: bytes) -> int:
        """Store a blob whole; returns its stored size in bytes. Durable after the next `settle`. Raises
        BlobStoreError.
        """
        stored = seal_blob(tenant_id, blob_id, key, data)
        path = path_of(blob_id)
        if self._disk is not None:
            self._disk.write(path, stored)
        else:
            with failing(f"blob {blob_id} can't be stored"):
                obstore.put(self._store, path, stored, use_multipart=False)
        return len(stored)

    def batch(self, tenant_id: str, now: Instant, count: int) -> BlobBatch:
        """A sink for about `count` blobs that are stored together."""
        disk = self._disk
        if disk is None or count < 2:
            return SingleBlobs(lambda blob_id, data, key: self.put(tenant_id, blob_id, data, key), now)
        return PackedBlobs(tenant_id, now, lambda name, stored: disk.write(place(name), stored))

    def writer(self, tenant_id: str, blob_id: str, key: bytes) -> BlobWriter:
        """A sink for a blob of any size in constant memory. Raises BlobStoreError."""
        path = path_of(blob_id)
        frames = FrameWriter(tenant_id, blob_id, key)
        if self._disk is not None:
            return LocalWriter(self._disk, path, frames)
        return RemoteWriter(self._store, path, frames)

    def settle(self) -> None:
        """Make everything put, finished or erased since the last call durable. Raises BlobStoreError: commit nothing
        then.
        """
        if self._disk is not None:
            self._disk.settle()

    def settle_one(self, blob_id: str) -> None:
        """Make one blob durable, cheaper than `settle` when it is the only one."""
        if self._disk is not None:
            self._disk.settle_one(path_of(blob_id))

    async def read(self, tenant_id: str, blob_id: str, key: bytes, size: int) -> AsyncIterator[bytes]:
        """The plain bytes, verified frame by frame, in constant memory.

        Raises BlobMissingError before the first byte, BlobCorruptError at the frame that is wrong, BlobStoreError.
        """
        reader = FrameReader(tenant_id, blob_id, key, size)
        with failing(f"blob {blob_id} can't be read"):
            packed = await self._looked_up(blob_id)
            try:
                result = await obstore.get_async(self._store, path_of(blob_id), options=packed or {})
                async for chunk in result.stream(min_chunk_size=FRAME_SIZE):
                    for plain in reader.feed(memoryview(chunk)):
                        yield plain
                reader.close()
            except BlobCorruptError:
                await self._looked_up(blob_id)  # it may have been erased meanwhile
                raise

    def read_bytes(self, tenant_id: str, blob_id: str, key: bytes, size: int, *, limit: int) -> bytes:
        """The plain bytes at once, for blobs of at most `limit` bytes. Raises as `read` does, and BlobTooLargeError."""
        if size > limit:
            raise BlobTooLargeError(f"blob {blob_id} has {size} bytes, more than the {limit} allowed here")
        with failing(f"blob {blob_id} can't be read"):
            packed = self._range(blob_id)
            result = obstore.get(self._store, path_of(blob_id), options=packed or {})
            start, end = result.range
            if end - start > _most_stored(size):
                raise BlobCorruptError(f"blob {blob_id} is corrupt: its object is longer than {size} bytes can be")
            try:
                return open_blob(tenant_id, blob_id, key, memoryview(result.bytes()), size)
            except BlobCorruptError:
                self._range(blob_id)  # it may have been erased meanwhile
                raise

    async def erase(self, blob_id: str) -> Erased:
        """Remove the object. `missing` when there was none; anything else raises BlobStoreError and is to be retried.

        On a local directory the removal is durable after the next `settle`.
        """
        if packs.place_of(blob_id) is not None:
            if self._disk is None:
                raise BlobStoreError(
                    f"blob {blob_id} can't be erased: it lies in a file that blobs share, on a local directory"
                )
            (outcome,) = await erase_local(self._disk, [blob_id], {})
            if isinstance(outcome, BlobStoreError):
                raise outcome
            return outcome
        path = path_of(blob_id)
        try:
            if self._disk is None:
                # S3 and the like answer a delete of nothing with success: ask first, so that the record is true
                await obstore.head_async(self._store, path)
            await obstore.delete_async(self._store, path)
        except FileNotFoundError:
            return Erased.missing
        except (BaseError, OSError) as error:
            raise BlobStoreError(f"blob {blob_id} can't be erased: {first_line(error)}") from error
        if self._disk is not None:
            self._disk.note(path)
        return Erased.gone

    async def erase_many(
        self, blob_ids: list[str], beside: Mapping[str, int] | None = None
    ) -> list[Erased | BlobStoreError]:
        """`erase` for a batch, outcomes in the same order; failures are returned, not raised, so that one does not
        hide others.

        `beside`: the stored sizes of blobs that stay and may share files with these. Where a file tells something else
        of one of them, nothing is erased in it (PackDamagedError).
        """
        if self._disk is not None:
            return await erase_local(self._disk, blob_ids, beside or {})
        at_once = asyncio.Semaphore(_ERASED_AT_ONCE)
        return await asyncio.gather(*(self._erase_caught(blob_id, at_once) for blob_id in blob_ids))

    async def exists(self, blob_id: str) -> bool:
        """Whether the object is there (its content is not looked at). Raises BlobStoreError, and BlobCorruptError when
        that can't be known of its pack.
        """
        try:
            if await self._looked_up(blob_id) is None:
                await obstore.head_async(self._store, path_of(blob_id))
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise BlobStoreError(f"blob {blob_id} can't be looked up: {first_line(error)}") from error
        return True

    async def check(self) -> None:
        """Raises BlobStoreError unless objects could be read and written now; a remote store is only asked."""
        if self._disk is not None:
            await asyncio.to_thread(self._disk.check)
        else:
            await self.exists("check")

    def list_ids(self, unreadable: Callable[[UnreadablePack], None] | None = None) -> Iterator[str]:
        """Every blob id in the store, in no order, in constant memory; objects that are no blobs are left out.

        Of a pack that is empty, one id stands for the whole, the last that it could have; of one that can't be read,
        nothing is known: `unreadable` is told of it.
        """
        with failing("blobs can't be listed"):
            for batch in obstore.list(self._store):
                for meta in batch:
                    name = meta["path"].rpartition("/")[2]
                    if packs.is_pack(name):
                        if self._disk is not None and meta["path"] == place(name):
                            yield from self._members(self._disk, name, unreadable or _unheard)
                    elif is_id(name) and meta["path"] == path_of(name):
                        yield name

    def remove_damaged(self, pack: str) -> bool:
        """Remove a pack to which nothing refers and whose table can't be understood: whether it went. Durable after the
        next `settle`. Raises BlobStoreError.
        """
        if self._disk is None:
            return False
        try:
            return self._disk.remove_damaged(place(pack))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise BlobStoreError(f"the file {place(pack)} can't be removed: {error.strerror}") from error

    def sweep(self, older_than: Instant) -> int:
        """Remove temporary files last written before `older_than` (a killed writer's); returns how many.

        Remote stores need a lifecycle rule that removes incomplete multipart uploads.
        """
        swept = 0
        if self._disk is not None:
            for path, written_at in self._disk.temporaries():
                if written_at * SECOND < older_than:
                    path.unlink(missing_ok=True)
                    swept += 1
        return swept

    def _range(self, blob_id: str) -> GetOptions | None:
        """Where it lies in its pack, None when it is an object of its own. Raises FileNotFoundError when the pack has
        it no more, BlobCorruptError, OSError.
        """
        packed = packs.place_of(blob_id)
        if packed is None:
            return None
        if self._disk is None:
            raise FileNotFoundError
        try:
            start, length = self._disk.entry(place(packed[0]), packed[1])
        except packs.DamagedPackError:
            raise BlobCorruptError(f"blob {blob_id} is corrupt: its pack was cut, or its table damaged") from None
        return {"range": (start, start + length)}

    async def _looked_up(self, blob_id: str) -> GetOptions | None:
        return None if packs.place_of(blob_id) is None else await asyncio.to_thread(self._range, blob_id)

    @staticmethod
    def _members(disk: LocalDisk, pack: str, unreadable: Callable[[UnreadablePack], None]) -> Iterator[str]:
        numbers, path = list[int](), place(pack)
        try:
            numbers = disk.members(path) or [packs.MOST - 1]
        except FileNotFoundError:
            pass  # erased meanwhile
        except OSError as error:
            unreadable(UnreadablePack(pack, path, str(error.strerror), damaged=False))
        except packs.DamagedPackError:
            unreadable(UnreadablePack(pack, path, "its table is damaged", damaged=True))
        for number in numbers:
            yield packs.member(pack, number)

    async def _erase_caught(self, blob_id: str, at_once: asyncio.Semaphore) -> Erased | BlobStoreError:
        async with at_once:
            try:
                return await self.erase(blob_id)
            except BlobStoreError as error:
                return error


def _unheard(_pack: UnreadablePack) -> None:
    """Each of its blobs says it when it is read."""


def _most_stored(size: int) -> int:
    """An upper bound of the stored size of `size` plain bytes: incompressible text plus zstd's, the frames' and the
    header's own.
    """
    return size + size // 1024 + (size // FRAME_SIZE + 2) * 64 + 1024
