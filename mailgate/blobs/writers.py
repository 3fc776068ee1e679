"""Sinks for one huge blob, which is never in memory as a whole."""

from __future__ import annotations

import os
from typing import Any, Final, Protocol

import obstore
from obstore.store import ObjectStore

from mailgate.blobs.disk import LocalDisk
from mailgate.blobs.errors import BlobStoreError
from mailgate.blobs.failing import failing
from mailgate.blobs.frames import FrameWriter

_UPLOAD_BUFFER: Final = 8 * 1024 * 1024


class BlobWriter(Protocol):
    """Takes one huge blob piece by piece; nothing is visible under its name until `finish` returns."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take plain bytes."""

    def finish(self) -> int:
        """Make the object visible; returns its stored size. Durable after the next `settle`."""

    def abort(self) -> None:
        """Leave nothing behind. May follow a failed `write` or `finish`; harmless after a successful one."""


class LocalWriter:
    """A temporary file, which gets its name when it is whole."""

    def __init__(self, disk: LocalDisk, path: str, frames: FrameWriter) -> None:
        self._disk = disk
        self._path = path
        self._frames = frames
        descriptor, self._temporary = disk.create_temporary(path)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._stored = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._append(self._frames.write(data))

    def finish(self) -> int:
        self._append(self._frames.finish())
        try:
            self._file.close()
            self._temporary.rename(self._disk.root / self._path)
        except OSError as error:
            raise BlobStoreError(f"a blob can't be stored: {error.strerror}") from error
        self._disk.note(self._path)
        return self._stored

    def abort(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _append(self, stored: bytes) -> None:
        view = memoryview(stored)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise BlobStoreError(f"a blob can't be stored: {error.strerror}") from error
        self._stored += len(stored)


class RemoteWriter:
    """A multipart upload: the store shows the object only when it is complete."""

    def __init__(self, store: ObjectStore, path: str, frames: FrameWriter) -> None:
        self._frames = frames
        self._upload: Any = obstore.open_writer(store, path, buffer_size=_UPLOAD_BUFFER)
        self._stored = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._append(self._frames.write(data))

    def finish(self) -> int:
        self._append(self._frames.finish())
        with failing("a blob can't be stored"):
            self._upload.close()
        self._upload = None
        return self._stored

    def abort(self) -> None:
        # An upload that is dropped is never completed; the store's lifecycle rule removes its parts.
        self._upload = None

    def _append(self, stored: bytes) -> None:
        if stored:
            with failing("a blob can't be stored"):
                self._upload.write(stored)
            self._stored += len(stored)
