"""tlog-tiles: paths, which tiles a size has, and that a tree can be read back out of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.ledger.tiles import (
    ENTRIES,
    TILE_WIDTH,
    CutError,
    Tile,
    TileBuilder,
    TileError,
    TileNodes,
    decode_bundle,
    encode_bundle,
    full_tiles,
    new_tiles,
    parse_tile_path,
    partial_tiles,
    tile_at,
    tile_hashes,
    tiles_of,
)
from retention.ledger.tree import Frontier, inclusion_proof, leaf_hash, verify_inclusion
from tests.soak import examples

TILES = st.builds(Tile, st.integers(-1, 63), st.integers(0, 10**12), st.integers(1, 256))
SIZES = st.one_of(st.integers(0, 700), st.integers(65_000, 66_500), st.integers(0, 2**40))


@given(TILES)
def test_paths_round_trip(tile: Tile) -> None:
    assert parse_tile_path(tile.path) == tile


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 1_234_067, 256), "tile/0/x001/x234/067"),
        (Tile(5, 0, 256), "tile/5/000"),
        (Tile(ENTRIES, 999, 255), "tile/entries/999.p/255"),
        (Tile(63, 1000, 1), "tile/63/x001/000.p/1"),
    ],
)
def test_paths_of_the_specification(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert parse_tile_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/64/000", "tile/00/000", "tile/-1/000", "tile/0/00", "tile/0/0000", "tile/0/x000/001", "tile/0/001/002",
        "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p", "tile/data/000", "/tile/0/000",
        "tile/0/../000", "tile/0/000\n", "tile/0/٠٠٠", "",
    ],
)  # fmt: skip
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(TileError):
        parse_tile_path(path)


def test_tiles_of_the_specifications_example() -> None:
    """70 000 leaves: 273 full and one of width 112 at level 0, one full and one of 17 at level 1, one of 1 above."""
    tiles = list(tiles_of(70_000))
    by_level = {level: [t for t in tiles if t.level == level] for level in (ENTRIES, 0, 1, 2)}
    assert sum(map(len, by_level.values())) == len(tiles)
    assert [len(by_level[level]) for level in (ENTRIES, 0, 1, 2)] == [274, 274, 2, 1]
    assert by_level[0][-1] == Tile(0, 273, 112)
    assert by_level[1] == [Tile(1, 0, 256), Tile(1, 1, 17)]
    assert by_level[2] == [Tile(2, 0, 1)]
    assert list(partial_tiles(70_000)) == [Tile(ENTRIES, 273, 112), Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert list(tiles_of(256)) == [Tile(ENTRIES, 0, 256), Tile(0, 0, 256), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == list(partial_tiles(0)) == []


@given(SIZES, st.integers(0, 2_000))
def test_new_tiles_are_the_difference(before: int, growth: int) -> None:
    """What is new is what was not there: no tile of the later size is missed, none is written twice."""
    after = before + growth
    new = list(new_tiles(before, after))
    assert len(set(new)) == len(new)
    for tile in new:
        assert tile_at(after, tile.level, tile.number) == tile
        assert tile_at(before, tile.level, tile.number) != tile
    edge = [t for t in partial_tiles(after) if tile_at(before, t.level, t.number) != t]
    assert [t for t in new if t.width < TILE_WIDTH] == edge
    assert list(full_tiles(before, after)) == [t for t in new if t.width == TILE_WIDTH]
    if after < 3_000:
        assert set(tiles_of(after)) - set(tiles_of(before)) == set(new)


def build(size: int, blocks: list[int]) -> tuple[dict[Tile, bytes], bytes, Frontier]:
    """Tiles and root of `size` entries, given to the builder in blocks of some sizes."""
    hashes = [leaf_hash(b"%d" % n) for n in range(size)]
    frontier = Frontier()
    frontier.extend(hashes)
    tiles: dict[Tile, bytes] = {}
    builder, at = TileBuilder(tiles.__setitem__), 0
    for block in [*blocks, size]:
        builder.add(b"".join(hashes[at : at + block]))
        at += block
    return tiles, builder.finish(), frontier


@examples(40)
@given(st.one_of(st.integers(0, 600), st.integers(65_500, 66_100)), st.lists(st.integers(0, 400), max_size=4))
def test_builder_makes_every_tile_and_the_root(size: int, blocks: list[int]) -> None:
    tiles, root, frontier = build(size, blocks)
    assert root == frontier.root()
    assert set(tiles) == {t for t in tiles_of(size) if t.level != ENTRIES}
    assert all(len(hashes) == tile.width * 32 for tile, hashes in tiles.items())


@examples(25)
@given(st.sampled_from([1, 2, 255, 256, 257, 511, 512, 1000, 65_536, 66_000]), st.data())
def test_nodes_read_from_tiles(size: int, draw: st.DataObject) -> None:
    tiles, root, frontier = build(size, [])
    nodes = TileNodes(size, tiles.__getitem__, keep=3)
    assert Frontier.from_nodes(size, nodes).peaks == frontier.peaks
    index = draw.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, nodes)
    verify_inclusion(leaf_hash(b"%d" % index), index, size, proof, root)
    tile = draw.draw(st.sampled_from(sorted(tiles)))
    assert tile_hashes(tile.level, tile.number, nodes, tile.width) == tiles[tile]
    with pytest.raises(LookupError):
        nodes(0, size)
    with pytest.raises(LookupError):
        nodes(0, -1)


def test_nodes_refuse_tiles_of_a_wrong_length() -> None:
    tiles, _, _ = build(300, [])
    with pytest.raises(CutError):
        TileNodes(300, lambda tile: tiles[tile][:-1])(0, 299)
    with pytest.raises(TileError):
        TileNodes(300, lambda tile: tiles[tile] + b"\0")(0, 0)


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_bundles_round_trip(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries), len(entries)) == entries


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8), st.data())
def test_cut_or_longer_bundles_are_refused(entries: list[bytes], draw: st.DataObject) -> None:
    raw = encode_bundle(entries)
    cut = draw.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(CutError) as caught:
        decode_bundle(raw[:cut], len(entries))
    assert list(caught.value.entries) == entries[: len(caught.value.entries)]
    with pytest.raises(TileError):
        decode_bundle(raw + b"\0", len(entries))


def test_the_longest_entry() -> None:
    longest = b"x" * 65_535
    assert decode_bundle(encode_bundle([longest]), 1) == [longest]
    with pytest.raises(TileError):
        encode_bundle([longest + b"x"])
