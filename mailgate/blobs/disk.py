"""What object stores give and a local directory does not: durability, temporary files one can sweep, folders made
ahead.

obstore renames atomically on a local directory but never syncs (a power cut may leave an empty file under the final
name). So the bytes are made durable here before the rows that refer to them are committed: for a batch one `syncfs` of
the file system, for a single live message `fsync` of its file and folder. Where `syncfs` is missing (not Linux), a
batch's files are remembered and synced one by one.

Whole objects are also written here: obstore's way is a temporary file and a rename in another thread, for a name that
nothing refers to yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from mailgate.blobs import packs
from mailgate.blobs.errors import BlobStoreError

_TEMPORARY = re.compile(r"#[0-9]+$")  # object_store's own mark for a staged upload; its listings leave such files out


class LocalDisk:
    """One local directory of blobs. Methods block; call them from a worker thread."""

    def __init__(self, root: Path, folders: int) -> None:
        """Open or make the directory and its `folders` sub-folders, durably. Raises BlobStoreError."""
        self.root = root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = [folder for number in range(folders) if not (folder := root / f"{number:02x}").is_dir()]
            for folder in made:
                folder.mkdir(mode=0o700, exist_ok=True)
            self._descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if made:
                os.fsync(self._descriptor)
        except OSError as error:
            raise BlobStoreError(f"the blob directory {root} can't be used: {error.strerror}") from error
        self._prefix = f"{root}{os.sep}"
        self._syncfs = _find_syncfs()
        self._lock = threading.Lock()
        self._unsynced: list[str] = []

    def close(self) -> None:
        """Release the directory."""
        os.close(self._descriptor)

    def check(self) -> None:
        """Raises BlobStoreError unless this is still the directory that was opened, and it takes a new file.

        A volume that was unmounted, or a folder that was renamed, would else be written to where nobody looks for it.
        """
        try:
            there, opened = self.root.stat(), os.fstat(self._descriptor)
            same = (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)
            if same:
                descriptor, temporary = self.create_temporary("00/check")
                try:
                    os.write(descriptor, bytes(4_096))
                finally:
                    os.close(descriptor)
                    temporary.unlink()
        except OSError as error:
            raise BlobStoreError(f"the blob directory {self.root} can't be used: {error.strerror}") from error
        if not same:
            raise BlobStoreError(f"another directory was put in the place of {self.root}: start mailgate again")

    @property
    def settles_others(self) -> bool:
        """Whether `settle` covers what another process of this program wrote here."""
        return self._syncfs is not None

    def note(self, path: str) -> None:
        """Remember that `path` was written, removed or renamed and is not durable yet."""
        if self._syncfs is None:
            with self._lock:
                self._unsynced.append(path)

    def unlink_many(self, paths: Sequence[str]) -> dict[str, OSError]:
        """Remove objects from the directory that was opened; what stood against it, by path. Durable after `settle`."""
        failed: dict[str, OSError] = {}
        unlink, folder = os.unlink, self._descriptor
        for path in paths:
            try:
                unlink(path, dir_fd=folder)
            except OSError as error:
                failed[path] = error
        if self._syncfs is None:
            for path in paths:
                if path not in failed:
                    self.note(path)
        return failed

    def strike(self, path: str, numbers: Collection[int], staying: Mapping[int, int], header: bytes) -> set[int]:
        """Erase blobs from a pack, which goes with the last of them; those that were there. Durable after `settle`.

        `staying`, `header`: as `packs.strike`. Raises FileNotFoundError, OSError, DamagedPackError.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._descriptor)
        try:
            there, empty = packs.strike(descriptor, numbers, staying, header)
        finally:
            os.close(descriptor)
        if empty:
            with contextlib.suppress(FileNotFoundError):  # two struck the last ones at once
                os.unlink(path, dir_fd=self._descriptor)
        self.note(path)
        return there

    def entry(self, path: str, number: int) -> tuple[int, int]:
        """Where a blob lies in a pack: its beginning and its length. Raises as `strike`, FileNotFoundError too when it
        was erased.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._descriptor)
        try:
            found, size = packs.entries(descriptor), os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if number >= len(found) or found[number] == (0, 0):
            raise FileNotFoundError
        start, length = found[number]
        if not length or start + length > size:
            raise packs.DamagedPackError
        return start, length

    def members(self, path: str) -> list[int]:
        """The numbers of the blobs in a pack. Raises as `strike`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._descriptor)
        try:
            return list(packs.living(descriptor))
        finally:
            os.close(descriptor)

    def remove_damaged(self, path: str) -> bool:
        """Remove a pack whose table can't be understood; False when it can. Durable after `settle`. Raises as `strike`
        does.
        """
        try:
            self.members(path)
        except packs.DamagedPackError:
            os.unlink(path, dir_fd=self._descriptor)
            self.note(path)
            return True
        return False

    def settle(self) -> None:
        """Make everything done since the last call durable. Raises BlobStoreError: nothing may refer to those bytes
        then.
        """
        try:
            if self._syncfs is not None:
                self._syncfs(self._descriptor)
                return
            with self._lock:
                paths, self._unsynced = self._unsynced, []
            for path in paths:
                _fsync(self.root / path, missing_ok=True)
            for folder in {Path(path).parent for path in paths}:
                _fsync(self.root / folder)
        except OSError as error:
            raise BlobStoreError(f"blobs could not be made durable: {error.strerror}") from error

    def settle_one(self, path: str) -> None:
        """Make one object durable: its bytes and its name."""
        target = self.root / path
        try:
            _fsync(target)
            _fsync(target.parent)
        except OSError as error:
            raise BlobStoreError(f"a blob could not be made durable: {error.strerror}") from error

    def write(self, path: str, stored: bytes) -> None:
        """Write a new object under its final name; not durable yet. Raises BlobStoreError, and leaves nothing then.

        No temporary name: an object's name is random, never used before, and nothing refers to it until it is durable.
        What a kill leaves half-written is an object that no row refers to, and goes as those go.
        """
        target = f"{self._prefix}{path}"
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BlobStoreError(f"a blob can't be stored: {error.strerror}") from error
        try:
            try:
                written = os.write(descriptor, stored)
                while written < len(stored):  # at a quota, at two gigabytes, or by a signal
                    written += os.write(descriptor, memoryview(stored)[written:])
            finally:
                os.close(descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(target)  # noqa: PTH108 - a Path costs more than the call
            raise BlobStoreError(f"a blob can't be stored: {error.strerror}") from error
        self.note(path)

    def create_temporary(self, path: str) -> tuple[int, Path]:
        """A new temporary file beside the final name: descriptor and path. The caller renames or unlinks it."""
        temporary = self.root / f"{path}#{int.from_bytes(os.urandom(8), 'big')}"
        try:
            return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), temporary
        except OSError as error:
            raise BlobStoreError(f"a blob can't be written: {error.strerror}") from error

    def temporaries(self) -> Iterator[tuple[Path, float]]:
        """Temporary files and when they were last written (seconds since the epoch)."""
        for folder in sorted(self.root.iterdir()):
            if folder.is_dir():
                for path in folder.iterdir():
                    if _TEMPORARY.search(path.name):
                        try:
                            yield path, path.stat().st_mtime
                        except FileNotFoundError:  # its writer finished meanwhile
                            continue


def _fsync(path: Path, *, missing_ok: bool = False) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if missing_ok:
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _find_syncfs() -> Callable[[int], None] | None:
    """syncfs(2). Since Linux 5.8 it reports write errors that happened after the descriptor was opened."""
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_int]
    function.restype = ctypes.c_int

    def syncfs(descriptor: int) -> None:
        if function(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return syncfs
