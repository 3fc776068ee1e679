"""The place outside the database where the last checkpoint of every log is kept, and a copy of the log's entries: a
folder, best on another machine's disk.

    .installation            whose it is: the public key that signs the logs, in hexadecimal
    <ref>.checkpoint         the last signed checkpoint of a tenant's log
    <ref>.log/tile/entries/  its entries up to there, as C2SP tlog-tiles has them

Entries are written before the checkpoint that signs them, so that what a checkpoint covers is there. With them a
backup of the database that was restored is brought up to date (`mailgate.store.restore`).

Once a log was signed, the folder is never made anew without a word: a volume that is not mounted, or a folder that
somebody removed, would else look like a log that begins.

Others may be able to write to the folder: it stands on storage of somebody else's. So nothing is read but small regular
files, no link is followed by what is written, and only what is named as a part of a log is removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from retention.ledger.directory import LogDirectory, NotRegularError
from retention.ledger.tiles import ENTRIES, TILE_WIDTH, Tile

_MARK = ".installation"
_CHECKPOINT = ".checkpoint"
_NEW_ONE = "`mailgate restore --new-witness` begins a new one, by which nothing from before can be noticed"


class Witness:
    """The folder. Methods block."""

    def __init__(self, folder: Path, *, identity: str = "", begun: bool = False, keeps_entries: bool = True) -> None:
        """`identity`: the installation's; empty: anybody's. `begun`: a log was signed before, so it must be there."""
        self._folder = folder
        self.identity = identity
        self.keeps_entries = keeps_entries
        if not begun:
            self.begin()
        elif identity and self._marked() is None and any(self.refs()):
            self._replace(folder / _MARK, identity.encode())  # one of before marks were written

    def begin(self) -> None:
        """Make it: for a new installation, or because somebody said so."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.identity and self._marked() is None:
            self._replace(self._folder / _MARK, self.identity.encode())

    @property
    def fault(self) -> str | None:
        """Why nothing can be kept here; None when it can."""
        if not self._folder.is_dir():
            return f"{self._folder} is not there (ledger.witness): no log can be signed; put it back, or {_NEW_ONE}"
        marked = self._marked()
        if not self.identity or marked == self.identity:
            return None
        if marked is None:
            return f"{self._folder} is not the witness of before (ledger.witness): put its files there, or {_NEW_ONE}"
        return f"{self._folder} is the witness of another installation (ledger.witness)"

    def last(self, tenant_ref: str) -> bytes | None:
        """The last note, or None when there never was one; empty where something else has its name."""
        return self._read(f"{tenant_ref}{_CHECKPOINT}")

    def refs(self) -> Iterator[str]:
        """The logs of which there is a checkpoint."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as found:
            for entry in found:
                if entry.name.endswith(_CHECKPOINT):
                    yield entry.name.removesuffix(_CHECKPOINT)

    def keep(self, tenant_ref: str, note: bytes) -> None:
        """Replace the last note durably; a cut leaves the old one or the new one."""
        self._replace(self._path(tenant_ref), note)

    def entries(self, tenant_ref: str, size: int) -> Iterator[bytes]:
        """The first `size` entries. Raises FileNotFoundError where some are missing, TileError where one is broken."""
        return LogDirectory(self._folder / f"{tenant_ref}.log").leaves(size)

    def kept_tiles(self, tenant_ref: str, size: int) -> int:
        """How many full bundles of a log of this size need not be written again."""
        full = size // TILE_WIDTH
        if full and not self._bundle(tenant_ref, Tile(ENTRIES, full - 1, TILE_WIDTH)).exists():
            return 0  # entries were not kept until now
        return full

    def keep_bundles(self, tenant_ref: str, bundles: Iterable[tuple[Tile, bytes]]) -> None:
        """Write bundles of entries durably; those of the same entries that are there are replaced by the same."""
        written: list[tuple[Path, Path]] = []
        for tile, data in bundles:
            path = self._bundle(tenant_ref, tile)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _beside(path) as file:
                file.write(data)
            written.append((Path(file.name), path))
        # All are written before the first is waited for: the disk then does them together.
        for temporary, path in written:
            _sync(temporary)
            temporary.replace(path)
        for folder in {path.parent for _, path in written}:
            _sync(folder)

    def forget_partial(self, tenant_ref: str, size: int) -> None:
        """Remove the shorter forms of the last two bundles: the checkpoint of `size` needs them no more."""
        for number in (size // TILE_WIDTH - 1, size // TILE_WIDTH):
            wanted = str(size - number * TILE_WIDTH)
            partials = self._partials(tenant_ref, max(0, number))
            if number < 0 or partials.is_symlink():
                continue
            with contextlib.suppress(FileNotFoundError):
                for path in partials.iterdir():
                    if path.name != wanted and path.name.isdigit():
                        path.unlink()

    def _partials(self, tenant_ref: str, number: int) -> Path:
        return self._bundle(tenant_ref, Tile(ENTRIES, number, 1)).parent

    def _bundle(self, tenant_ref: str, tile: Tile) -> Path:
        return self._folder / f"{tenant_ref}.log" / tile.path

    def _marked(self) -> str | None:
        mark = self._read(_MARK)
        return None if mark is None else mark.decode("utf-8", "replace").strip()

    def _read(self, name: str) -> bytes | None:
        try:
            return LogDirectory(self._folder).read(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except NotRegularError:
            return b""

    def _replace(self, path: Path, data: bytes) -> None:
        _write(path, data)
        _sync(self._folder)

    def _path(self, tenant_ref: str) -> Path:
        return self._folder / f"{tenant_ref}{_CHECKPOINT}"


def _write(path: Path, data: bytes) -> None:
    with _beside(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def _beside(path: Path) -> BinaryIO:
    """A new file that is to take the place of `path`, never one that somebody put there."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    return temporary.open("xb")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
