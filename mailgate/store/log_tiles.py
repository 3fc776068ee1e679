"""The purge log's tiles out of the database, as `retention.ledger.tiles` reads them."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Column, Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from mailgate.store.schema import log_leaves, log_tiles
from retention.ledger import tiles
from retention.ledger.tree import leaf_hash


class TileReader:
    """Tiles of one tenant out of the database: stored ones, else computed from the leaves or from the tiles below."""

    def __init__(self, conn: Connection, tenant_id: str) -> None:
        self._conn = conn
        self._tenant_id = tenant_id

    def __call__(self, tile: tiles.Tile) -> bytes:
        """The hashes of a tile, full or partial."""
        t = log_tiles.c
        query = select(t.hashes).where(t.tenant_id == self._tenant_id, t.level == tile.level, t.n == tile.number)
        stored: bytes | None = self._conn.execute(query).scalar_one_or_none()
        if stored is not None:
            return stored[: tile.width * 32]
        first = tile.number * tiles.TILE_WIDTH
        if tile.level == 0:
            return b"".join(self._leaves(log_leaves.c.hash, first, tile.width))
        # All that are stored in one statement: a tile that is not full stands upon as many as 255.
        within = (t.tenant_id == self._tenant_id, t.level == tile.level - 1, t.n >= first, t.n < first + tile.width)
        known = {row.n: row.hashes for row in self._conn.execute(select(t.n, t.hashes).where(*within))}
        below = (tiles.Tile(tile.level - 1, first + n, tiles.TILE_WIDTH) for n in range(tile.width))
        return b"".join([tiles.tile_root(known.get(each.number) or self(each)) for each in below])

    def bundle(self, tile: tiles.Tile) -> bytes:
        """The bytes of any tile, entry bundles included."""
        if tile.level != tiles.ENTRIES:
            return self(tile)
        return tiles.encode_bundle(list(self._leaves(log_leaves.c.body, tile.number * tiles.TILE_WIDTH, tile.width)))

    def store(self, tile: tiles.Tile) -> None:
        """Keep a full tile, so that higher levels and proofs need not read leaves again."""
        dialect = sqlite if self._conn.dialect.name == "sqlite" else postgresql
        values = {"tenant_id": self._tenant_id, "level": tile.level, "n": tile.number, "hashes": self(tile)}
        self._conn.execute(dialect.insert(log_tiles).values(values).on_conflict_do_nothing())

    def hashed_leaf(self, index: int) -> bytes:
        """The body of one leaf, which is the one that was hashed. Raises TileError when it is not."""
        body = next(self._leaves(log_leaves.c.body, index, 1))
        if is_damaged(body, next(self._leaves(log_leaves.c.hash, index, 1))):
            raise tiles.TileError(f"entry {index} is not what was hashed")
        return body

    def _leaves(self, column: Column[bytes], first: int, count: int) -> Iterator[bytes]:
        leaf = log_leaves.c
        query = (
            select(column)
            .where(leaf.tenant_id == self._tenant_id, leaf.idx >= first, leaf.idx < first + count)
            .order_by(leaf.idx)
        )
        yield from self._conn.execute(query).scalars()


def is_damaged(body: bytes, digest: bytes) -> bool:
    """Whether a leaf is not the one that was hashed when it was written."""
    return leaf_hash(body) != digest
