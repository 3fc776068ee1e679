"""C2SP tlog-tiles: a log as static files. Pure: names and bytes, no disk.

A hash tile at level L, number N holds up to 256 consecutive hashes of height 8 * L, beginning with the node of index
256 * N; an entry bundle holds the up to 256 entries of the level 0 tile of the same number. A tree has every full tile
and, per level, at most one partial one at its right edge. Full tiles never change; a partial one is named by its width.

Levels that follow one another: the root of a full tile (height 8) is one hash of the level above, so a writer needs
nothing but the tiles below (`tile_root`), and a reader finds every node of the tree inside one tile (`TileNodes`).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

from .tree import HASH_SIZE, NodeReader, fold_peaks

TILE_HEIGHT = 8
TILE_WIDTH = 256
ENTRIES = -1
"""The level of entry bundles."""
MAX_LEVEL = 63
MAX_ENTRY = 0xFFFF
"""Bytes of an entry at most: its length is a uint16."""

_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class TileError(ValueError):
    """Bytes or a path are not what tlog-tiles prescribes."""


class CutError(TileError):
    """Bytes end too early; what is there may be right. `entries` are the whole ones before the cut."""

    def __init__(self, message: str, entries: Sequence[bytes] = ()) -> None:
        super().__init__(message)
        self.entries = entries


class Tile(NamedTuple):
    """One file: `level` 0 to 63 or ENTRIES, `number` from 0, `width` 1 to 256 (256 is full)."""

    level: int
    number: int
    width: int

    @property
    def path(self) -> str:
        """Relative path with slashes, such as `tile/0/x001/234.p/17`."""
        rest, last = divmod(self.number, 1000)
        name = f"{last:03d}"
        while rest:
            rest, group = divmod(rest, 1000)
            name = f"x{group:03d}/{name}"
        level = "entries" if self.level == ENTRIES else str(self.level)
        return f"tile/{level}/{name}" if self.width == TILE_WIDTH else f"tile/{level}/{name}.p/{self.width}"


def parse_tile_path(path: str) -> Tile:
    """The tile that a relative path names. Raises TileError unless it is the path that Tile.path gives."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise TileError(f"not the path of a tile: {path[:80]!r}")
    level, groups, width = match.groups()
    number = int(groups.replace("x", "").replace("/", ""))
    tile = Tile(ENTRIES if level == "entries" else int(level), number, int(width or TILE_WIDTH))
    if tile.level > MAX_LEVEL or (width and tile.width >= TILE_WIDTH) or tile.path != path:
        raise TileError(f"not the path of a tile: {path[:80]!r}")
    return tile


def level_width(size: int, level: int) -> int:
    """How many hashes (entries) a tree of `size` leaves has at a tile level."""
    return size >> (TILE_HEIGHT * max(level, 0))


def tile_at(size: int, level: int, number: int) -> Tile | None:
    """The tile at (level, number) of a tree of `size`, full or partial; None when the tree does not have it."""
    width = min(TILE_WIDTH, level_width(size, level) - number * TILE_WIDTH)
    return Tile(level, number, width) if width > 0 and number >= 0 else None


def levels(size: int) -> range:
    """The levels of hash tiles that a tree of `size` has."""
    return range((max(size.bit_length(), 1) - 1) // TILE_HEIGHT + 1 if size else 0)


def tiles_of(size: int) -> Iterator[Tile]:
    """Every file of a tree: entry bundles, then hash tiles level by level, each in order."""
    return new_tiles(0, size)


def new_tiles(size_before: int, size_after: int) -> Iterator[Tile]:
    """What a tree has at `size_after` and did not have at `size_before`: tiles that became full, and partial ones."""
    for level in (ENTRIES, *levels(size_after)):
        before, after = level_width(size_before, level), level_width(size_after, level)
        if before == after:
            continue
        for number in range(before // TILE_WIDTH, -(-after // TILE_WIDTH)):
            yield Tile(level, number, min(TILE_WIDTH, after - number * TILE_WIDTH))


def full_tiles(size_before: int, size_after: int) -> Iterator[Tile]:
    """The tiles that became full between two sizes, bundles first, lower levels before higher ones."""
    return (tile for tile in new_tiles(size_before, size_after) if tile.width == TILE_WIDTH)


def partial_tiles(size: int) -> Iterator[Tile]:
    """The partial tiles at the right edge of a tree, the bundle first; none where a level ends with a full one."""
    for level in (ENTRIES, *levels(size)):
        whole, width = divmod(level_width(size, level), TILE_WIDTH)
        if width:
            yield Tile(level, whole, width)


def tile_hashes(level: int, number: int, read: NodeReader, width: int = TILE_WIDTH) -> bytes:
    """The bytes of a hash tile from the tree's nodes: `width` hashes of height 8 * level from index 256 * `number` on.

    Where the tiles below are at hand, `tile_root` of each is cheaper than a reader.
    """
    first = number * TILE_WIDTH
    return b"".join([read(TILE_HEIGHT * level, at) for at in range(first, first + width)])


def tile_root(hashes: bytes) -> bytes:
    """The root over a full tile's 8 192 bytes (or any power of two of hashes): one hash of the level above."""
    while len(hashes) > HASH_SIZE:
        hashes = b"".join(
            [sha256(b"\x01" + hashes[at : at + 2 * HASH_SIZE]).digest() for at in range(0, len(hashes), 2 * HASH_SIZE)]
        )
    return hashes


def edge_root(edges: Sequence[bytes]) -> bytes:
    """A tree's root from its right edge: per level from 0, the hashes that no full tile holds (at most 255)."""
    peaks: list[bytes] = []
    for hashes in edges:
        count, at, level_peaks = len(hashes) // HASH_SIZE, 0, []
        while count:
            step = 1 << (count.bit_length() - 1)
            level_peaks.append(tile_root(hashes[at : at + step * HASH_SIZE]))
            at += step * HASH_SIZE
            count -= step
        peaks[:0] = level_peaks
    return fold_peaks(peaks)


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """An entry bundle: each entry behind its length as a big-endian uint16. Raises TileError when one is too long."""
    parts = []
    for entry in entries:
        if len(entry) > MAX_ENTRY:
            raise TileError(f"an entry of {len(entry)} bytes; at most {MAX_ENTRY}")
        parts.append(len(entry).to_bytes(2, "big"))
        parts.append(entry)
    return b"".join(parts)


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """The `width` entries of a bundle. Raises CutError when bytes are missing, TileError when there are too many."""
    entries: list[bytes] = []
    at, end = 0, len(data)
    for number in range(width):
        start = at + 2
        stop = start + int.from_bytes(data[at:start], "big")
        if start > end or stop > end:
            raise CutError(f"the bundle ends within entry {number} of {width}", entries)
        entries.append(data[start:stop])
        at = stop
    if at != end:
        raise TileError(f"{end - at} bytes after the last entry of a bundle")
    return entries


class TileNodes:
    """Nodes of a tree of `size` leaves, read out of its tiles: a NodeReader that keeps the last `keep` tiles.

    `read_tile` returns the bytes of a tile that the tree has. Raises TileError when their length is wrong, and
    LookupError for a node that the tree does not have.
    """

    def __init__(self, size: int, read_tile: Callable[[Tile], bytes], keep: int = 64) -> None:
        self._size = size
        self._read_tile = read_tile
        self._keep = keep
        self._tiles: OrderedDict[Tile, bytes] = OrderedDict()

    def __call__(self, height: int, index: int) -> bytes:
        """The hash of the complete node (height, index)."""
        if (index + 1) << height > self._size or index < 0:
            raise LookupError(f"no node ({height}, {index}) in a tree of {self._size}")
        level, below = divmod(height, TILE_HEIGHT)
        number, first = divmod(index << below, TILE_WIDTH)
        tile = tile_at(self._size, level, number)
        if tile is None:
            raise LookupError(f"no node ({height}, {index}) in a tree of {self._size}")
        hashes = self._tile(tile)
        return tile_root(hashes[first * HASH_SIZE : (first + (1 << below)) * HASH_SIZE])

    def _tile(self, tile: Tile) -> bytes:
        hashes = self._tiles.get(tile)
        if hashes is None:
            hashes = self._read_tile(tile)
            if len(hashes) < tile.width * HASH_SIZE:
                raise CutError(f"{tile.path} ends early")
            if len(hashes) > tile.width * HASH_SIZE:
                raise TileError(f"{tile.path} is too long")
            self._tiles[tile] = hashes
            if len(self._tiles) > self._keep:
                self._tiles.popitem(last=False)
        else:
            self._tiles.move_to_end(tile)
        return hashes


class TileBuilder:
    """Turns leaf hashes into tiles as they become full: O(log n) memory, one pass.

    `emit` receives (tile, bytes) for each hash tile; full ones while `add` runs, partial ones from `finish`. With
    `lowest` the levels below were built elsewhere, and `add` is given the roots of their full tiles.
    """

    def __init__(self, emit: Callable[[Tile, bytes], None], lowest: int = 0) -> None:
        self._emit = emit
        self._lowest = lowest
        self._edges: list[bytearray] = [bytearray()]
        self._emitted: list[int] = [0]

    def add(self, hashes: bytes) -> None:
        """Append hashes of the lowest level, given joined (32 bytes each; fastest in blocks of 256)."""
        self._push(0, hashes)

    def _push(self, level: int, hashes: bytes) -> None:
        if level == len(self._edges):
            self._edges.append(bytearray())
            self._emitted.append(0)
        edge = self._edges[level]
        edge += hashes
        tile_size = TILE_WIDTH * HASH_SIZE
        while len(edge) >= tile_size:
            full = bytes(edge[:tile_size])
            del edge[:tile_size]
            self._emit(Tile(self._lowest + level, self._emitted[level], TILE_WIDTH), full)
            self._emitted[level] += 1
            self._push(level + 1, tile_root(full))

    def finish(self, below: Sequence[bytes] = ()) -> bytes:
        """Emit the partial tiles and return the tree's root; `below` are the edges of the levels built elsewhere."""
        for level, edge in enumerate(self._edges):
            if edge:
                self._emit(Tile(self._lowest + level, self._emitted[level], len(edge) // HASH_SIZE), bytes(edge))
        return edge_root([*below, *map(bytes, self._edges)])
