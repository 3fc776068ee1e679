"""Key files in a local directory: mode 0700, files 0600, each one complete and durable or not there at all.

A file is written under a temporary name, synced, and linked to its own name. `link` refuses an existing name, so of two
processes that make the same key at the same time exactly one wins and the other reads the winner's. The folder is
synced
before anybody uses the key: a key that was used is never lost to a power cut.

Names are relative, with `/` between folder and file, made of the characters in `_NAME` only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mailgate.keys.errors import KeyStoreError

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}){0,2}")
_TEMPORARY = ".new-"
RESTORE = "mount it, or restore it from the backup of the keys (`mailgate init` makes one for a new installation only)"


class DirectoryLock:
    """A held lock (flock: it ends with the process); given back by `release`, or when it is no longer referred to."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        """Hold it for the block."""

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Give it back; harmless twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.release()


class KeyDirectory:
    """The files of one key store. Contents are opaque bytes; wrapping them is the caller's."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def open(cls, url: str, *, create: bool) -> KeyDirectory:
        """Open `file:///path` (or a plain path).

        With `create` a missing directory is made; raises KeyStoreError with the remedy.
        """
        root = _path_of(url)
        try:
            if create:
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = root.stat()
        except FileNotFoundError:
            raise KeyStoreError(f"the key store {root} does not exist: {RESTORE}") from None
        except OSError as error:
            raise KeyStoreError(f"the key store {root} can't be opened: {error.strerror}") from error
        if not stat.S_ISDIR(status.st_mode):
            raise KeyStoreError(f"the key store {root} is not a directory")
        if stat.S_IMODE(status.st_mode) & 0o077:
            try:
                root.chmod(0o700)
            except OSError as error:
                raise KeyStoreError(f"the key store {root} is open to other users: run chmod 700 on it") from error
        return cls(root)

    def __repr__(self) -> str:
        return f"KeyDirectory({str(self._root)!r})"

    def read(self, name: str) -> bytes | None:
        """The contents, or None when there is no such file. Raises KeyStoreError when it can't be read."""
        try:
            return self._path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise KeyStoreError(f"the key file {name} can't be read: {error.strerror}") from error

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name is there."""
        try:
            return self._path(name).exists()
        except OSError as error:
            raise KeyStoreError(f"the key file {name} can't be looked up: {error.strerror}") from error

    def create(self, name: str, data: bytes) -> bytes:
        """Write a new file durably and return what stands under the name: `data`, or what another process wrote first.

        The folder must be there (see `make_folder`): a key is never made in a folder that was just erased.
        """
        path = self._path(name)
        try:
            with self._temporary(path.parent, data) as temporary:
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    _sync_folder(path.parent)
                    return path.read_bytes()
            _sync_folder(path.parent)
        except OSError as error:
            raise KeyStoreError(f"the key file {name} can't be written: {error.strerror}") from error
        return data

    def replace(self, name: str, data: bytes) -> None:
        """Write a file, durably, in place of the one that may stand there: readers see the old one or the new one,
        whole.
        """
        path = self._path(name)
        try:
            with self._temporary(path.parent, data) as temporary:
                temporary.rename(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise KeyStoreError(f"the key file {name} can't be written: {error.strerror}") from error

    def lock(self, *, alone: bool = False) -> DirectoryLock:
        """Take the key store's lock, shared or `alone`; never waits. Raises KeyStoreError when it is held otherwise."""
        try:
            descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KeyStoreError(
                f"the key store can't be locked with {self._root / '.lock'}: {error.strerror}; make the directory "
                "writable (its mount, permissions, space): every command takes this lock"
            ) from error
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            if alone:
                raise KeyStoreError("the key store is in use: stop every gateway that uses it first") from None
            raise KeyStoreError("the master key of this key store is being changed: try again in a moment") from None
        return DirectoryLock(descriptor)

    def make_folder(self, name: str) -> None:
        """Make a folder and those above it, durably; one that is there is kept.

        The key store itself is never made here: keys in a volume that is not mounted would be lost with the next mount.
        """
        if not self._root.is_dir():
            raise KeyStoreError(f"the key store {self._root} is gone: {RESTORE}")
        try:
            self._make_folders(self._path(name))
        except OSError as error:
            raise KeyStoreError(f"the key folder {name} can't be made: {error.strerror}") from error

    def list(self, folder: str) -> list[str]:
        """The names in a folder, sorted; empty when there is no such folder. Temporary files are left out."""
        try:
            return sorted(name for name in os.listdir(self._path(folder)) if not name.startswith("."))  # noqa: PTH208 - names only
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise KeyStoreError(f"the key folder {folder} can't be listed: {error.strerror}") from error

    def erase(self, name: str) -> bool:
        """Overwrite and remove one file, or a folder with the files in it, durably. False when there was none."""
        path = self._path(name)
        try:
            if path.is_dir():
                for entry in sorted(path.iterdir()):
                    _shred(entry)
                path.rmdir()
            elif path.exists():
                _shred(path)
            else:
                return False
            _sync_folder(path.parent)
        except OSError as error:
            raise KeyStoreError(f"the key file {name} can't be removed: {error.strerror}") from error
        return True

    def sweep(self) -> int:
        """Remove temporary files that a killed process left in the top folder and one below; returns how many."""
        swept = 0
        for pattern in (f"{_TEMPORARY}*", f"*/{_TEMPORARY}*", f"*/*/{_TEMPORARY}*"):
            for path in self._root.glob(pattern):
                with contextlib.suppress(FileNotFoundError):
                    _shred(path)
                    swept += 1
        return swept

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError("not a name of a key file")
        return self._root / name

    def _make_folders(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folders(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _sync_folder(folder.parent)

    @contextlib.contextmanager
    def _temporary(self, folder: Path, data: bytes) -> Iterator[Path]:
        temporary = folder / f"{_TEMPORARY}{os.urandom(8).hex()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _path_of(url: str) -> Path:
    parts = urlsplit(url)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise KeyStoreError(f"keys.url must be file:///path, not {parts.scheme}://…: keys live in a local directory")
    path = unquote(parts.path) if parts.scheme else url
    if not path:
        raise KeyStoreError("keys.url names no directory")
    return Path(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shred(path: Path) -> None:
    """Overwrite in place, sync, unlink.

    On disks that write elsewhere the old bytes may linger: they are wrapped ones.
    """
    with path.open("r+b", buffering=0) as file:
        file.write(os.urandom(max(1, path.stat().st_size)))
        os.fsync(file.fileno())
    path.unlink()
