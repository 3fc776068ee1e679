"""An exported log on disk, read with suspicion: regular files only, never more bytes than the format allows.

checkpoint                     signed note: origin, size, root
vkey                           the verifier key, for convenience; auditors get it another way as well
SHA256SUMS                     for `sha256sum -c`; optional
certificates/<run>.json, .html what each run did; optional
stamped/checkpoint, .tsr       a state of the log, and what a time-stamping authority (RFC 3161) says of it; optional
tile/<level>/<number>[.p/<w>]  hashes
tile/entries/<number>[.p/<w>]  the leaves
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .checkpoint import Checkpoint, open_checkpoint
from .note import MAX_NOTE, Verifier
from .tiles import ENTRIES, MAX_ENTRY, TILE_WIDTH, CutError, Tile, TileNodes, decode_bundle, tile_at
from .tree import HASH_SIZE, NodeReader

CHECKPOINT = "checkpoint"
VKEY = "vkey"
SUMS = "SHA256SUMS"
OTHER_FILES = (CHECKPOINT, VKEY, SUMS)
CERTIFICATES = "certificates"
STAMPED = "stamped/checkpoint"
STAMP = "stamped/checkpoint.tsr"

_CERTIFICATE = re.compile(rf"{CERTIFICATES}/[0-7][0-9A-HJKMNP-TV-Z]{{25}}\.(?:json|html)")


def is_log_file(name: str) -> bool:
    """Whether an exported log may have a file of this name beside its tiles."""
    return name in (*OTHER_FILES, STAMPED, STAMP) or _CERTIFICATE.fullmatch(name) is not None


def is_folder(path: Path) -> bool:
    """Whether there is a folder; whatever the reason why one can't be looked at, there is none to be read."""
    try:
        return path.is_dir()
    except OSError:
        return False


class NotRegularError(ValueError):
    """A name stands for something else than a regular file, or for one larger than the format allows."""


class LogDirectory:
    """Files of a log below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: str, most: int, buffering: int = -1) -> BinaryIO:
        """A file for reading. Raises FileNotFoundError, other OSErrors, or NotRegularError."""
        # Not blocking on a FIFO and not following a link: the folder comes from a stranger.
        try:
            handle = os.open(self.path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise NotRegularError(f"{name} is no regular file") from None
            raise
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            os.close(handle)
            long = f"has {status.st_size} bytes, and no log more than {most} there"
            raise NotRegularError(f"{name} {long if stat.S_ISREG(status.st_mode) else 'is no regular file'}")
        return os.fdopen(handle, "rb", buffering=buffering)

    def read(self, name: str, most: int = MAX_NOTE) -> bytes:
        """The bytes of a file. Raises FileNotFoundError, other OSErrors, or NotRegularError."""
        with self.open(name, most, buffering=0) as file:
            return file.read(most)

    def read_tile(self, tile: Tile) -> bytes:
        """The bytes of a tile or entry bundle; their length is not checked beyond the format's maximum."""
        return self.read(tile.path, tile.width * (2 + MAX_ENTRY if tile.level == ENTRIES else HASH_SIZE))

    def checkpoint(self, key: Verifier) -> Checkpoint:
        """The signed checkpoint. Raises NoteError and what `read` raises."""
        return open_checkpoint(self.read(CHECKPOINT), key)

    def nodes(self, size: int) -> NodeReader:
        """A reader of the nodes of the tree of `size` leaves."""
        return TileNodes(size, self.read_tile)

    def bundles(self, size: int) -> Iterator[tuple[Tile, bytes]]:
        """The entry bundles of a log of `size` leaves, in order."""
        for number in range(-(-size // TILE_WIDTH)):
            tile = Tile(ENTRIES, number, min(TILE_WIDTH, size - number * TILE_WIDTH))
            yield tile, self.read_tile(tile)

    def leaves(self, size: int) -> Iterator[bytes]:
        """The leaves in order. Raises TileError where a bundle is broken."""
        for tile, data in self.bundles(size):
            yield from decode_bundle(data, tile.width)

    def leaf(self, size: int, index: int) -> bytes:
        """One leaf of a log of `size`. Raises LookupError when it has no such leaf."""
        tile = tile_at(size, ENTRIES, index // TILE_WIDTH) if 0 <= index < size else None
        if tile is None:
            raise LookupError(f"no leaf {index} in a log of {size}")
        try:
            return decode_bundle(self.read_tile(tile), tile.width)[index % TILE_WIDTH]
        except CutError as cut:
            if index % TILE_WIDTH < len(cut.entries):
                return cut.entries[index % TILE_WIDTH]
            raise

    def names(self) -> Iterator[str]:
        """Relative names of everything below the folder that is not itself a folder, with slashes."""
        pending = [""]
        while pending:
            folder = pending.pop()
            with os.scandir(self.path / folder) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(name)
                    else:
                        yield name
