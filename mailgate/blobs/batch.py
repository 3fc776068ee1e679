"""Blobs that are stored together: on a local directory they share files, elsewhere each is an object of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from mailgate.blobs import packs
from mailgate.blobs.frames import Bytes, seal_blob
from mailgate.clock import Instant
from mailgate.ids import new_id

PACK_BYTES: Final = 1024 * 1024
"""A pack is written when it has as much; it is held in memory until then."""

_ALONE: Final = 256 * 1024
"""From this size on a blob has a file of its own: it costs little beside writing it, and goes as a whole."""


class BlobBatch(Protocol):
    """Takes blobs one by one. What was put is stored when `finish` returns, and durable after the next `settle`."""

    def put(self, data: Bytes, key: bytes) -> tuple[str, int]:
        """Take one blob, with a key of its own: its id and its stored size in bytes. Raises BlobStoreError."""

    def finish(self) -> None:
        """Store what is not stored yet. Raises BlobStoreError."""


class SingleBlobs:
    """Each in an object of its own."""

    def __init__(self, put: Callable[[str, Bytes, bytes], int], now: Instant) -> None:
        self._put = put
        self._now = now

    def put(self, data: Bytes, key: bytes) -> tuple[str, int]:
        """Store it."""
        blob_id = new_id(self._now)
        return blob_id, self._put(blob_id, data, key)

    def finish(self) -> None:
        """All are stored."""


class PackedBlobs:
    """Many in one file."""

    def __init__(self, tenant_id: str, now: Instant, write: Callable[[str, bytes], None]) -> None:
        """`write(name, stored)` makes a new file."""
        self._tenant_id = tenant_id
        self._now = now
        self._write = write
        self._begin()

    def put(self, data: Bytes, key: bytes) -> tuple[str, int]:
        """Seal it, and write the pack once it is full."""
        if len(data) >= _ALONE:
            blob_id = new_id(self._now)
            stored = seal_blob(self._tenant_id, blob_id, key, data)
            self._write(blob_id, stored)
            return blob_id, len(stored)
        blob_id = packs.member(self._name, len(self._waiting))
        stored = seal_blob(self._tenant_id, blob_id, key, data)
        self._waiting.append(stored)
        self._bytes += len(stored)
        if self._bytes >= PACK_BYTES or len(self._waiting) == packs.MOST:
            self.finish()
        return blob_id, len(stored)

    def finish(self) -> None:
        """Write the pack, and begin another one."""
        if self._waiting:
            self._write(self._name, packs.pack_of(self._waiting))
            self._begin()

    def _begin(self) -> None:
        self._name = packs.new_pack(self._now)
        self._waiting: list[bytes] = []
        self._bytes = 0
