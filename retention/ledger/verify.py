"""Everything in an exported log, hashed again: does the folder hold exactly the log that the key signed?

What is examined: the checkpoint's signature and that its origin is the key's name; every entry against its leaf hash;
every tile at every level against the hashes below it; the root against the checkpoint; every leaf strictly, its origin
against the checkpoint's; that nothing is missing and nothing is there that the log does not have; `vkey`, `SHA256SUMS`,
certificates of runs and a state that was time-stamped where present. Only the rules of retention are left to `replay`.

The entries are read once, in blocks of bundles that several processes share; memory does not grow with the log.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

from .certificates import compare_certificates
from .checkpoint import Checkpoint, open_checkpoint
from .directory import STAMP, STAMPED, SUMS, VKEY, LogDirectory, NotRegularError, is_folder, is_log_file
from .note import NoteError, Verifier
from .purge_template import match_item_purge
from .report import Findings, Report, Verdict, counted
from .schema import LeafError, parse_leaf
from .stamp import MAX_STAMP, StampError, check_imprint
from .tiles import (
    ENTRIES,
    TILE_WIDTH,
    CutError,
    Tile,
    TileBuilder,
    TileError,
    decode_bundle,
    parse_tile_path,
    tile_at,
    tile_root,
)
from .tree import HASH_SIZE, tree_root

NO_SUMS = "not there: nobody can tell whether certificates, a time-stamp or vkey were taken out; the log is whole"
"""What is said where `SHA256SUMS` is missing. It is no fault: nobody signed it, so who takes a file out could take the
file's line out as well. What the log has and lacks is shown by the checkpoint alone.
"""

AUTHORITY_UNCHECKED = "not examined; give its root certificates"
"""What is said of a time-stamp while nobody gave any."""

_LINE = 300
"""Bytes of a line in `SHA256SUMS` at most, by which a file that has more than there is to list is not read."""

_BLOCK = 64
"""Bundles that a process takes at a time: 16 384 leaves."""


def verify_directory(path: Path, key: Verifier, jobs: int | None = 1) -> Report:
    """Examine the log in a folder; see the module. `jobs` processes; None: one per core, when the log is large.

    More than one need a program that can be imported again without effect (`if __name__ == "__main__"`).
    """
    found = Findings()
    directory = LogDirectory(path)
    facts: dict[str, object] = {"origin": key.name, "key_id": key.id.hex()}
    report = Report("", found, facts)
    if not is_folder(path):
        found.add(Verdict.UNREADABLE, f"{path} is not a folder")
        return report
    checkpoint = _checkpoint(directory, key, found)
    if checkpoint is None:
        return report
    facts["size"] = checkpoint.size
    facts["root"] = checkpoint.root.hex()
    types: Counter[str] = Counter()
    try:
        root = _entries_and_tiles(directory, checkpoint, found, types, jobs)
        if root is not None and root != checkpoint.root:
            found.add(Verdict.INVALID, "the root of the entries is not the root that was signed")
        _extra_files(directory, checkpoint.size, found)
        _given_key(directory, key, found)
        if found.verdict is Verdict.OK:
            facts |= _sums(directory, found)
        if found.verdict is Verdict.OK:
            facts |= compare_certificates(directory, checkpoint.size, key, found)
            facts |= _stamped(directory, checkpoint.size, key, found)
    except OSError as error:
        found.add(Verdict.UNREADABLE, f"{error.strerror}: {error.filename}")
        return report
    facts["leaves"] = dict(sorted(types.items()))
    subject = f"{checkpoint.size} leaves of {checkpoint.origin}, all signed for by key {key.id.hex()}"
    return Report(subject, found, facts)


def _checkpoint(directory: LogDirectory, key: Verifier, found: Findings) -> Checkpoint | None:
    try:
        return directory.checkpoint(key)
    except FileNotFoundError:
        found.add(Verdict.INCOMPLETE, "there is no checkpoint: only the tlog form of an export can be verified")
    except (NoteError, NotRegularError) as error:
        found.add(Verdict.INVALID, f"checkpoint: {error}")
    except OSError as error:
        found.add(Verdict.UNREADABLE, f"checkpoint: {error.strerror}")
    return None


def _entries_and_tiles(
    directory: LogDirectory, checkpoint: Checkpoint, found: Findings, types: Counter[str], jobs: int | None
) -> bytes | None:
    """Root of the entries; every tile compared on the way. The lowest level is done by blocks, the rest here.

    None when so much is missing that there is no telling.
    """

    def compare(tile: Tile, hashes: bytes) -> None:
        if not gap:
            compare_tile(directory, tile, hashes, found)

    starts, left_out = _starts(directory, checkpoint.size)
    upper = TileBuilder(compare, lowest=1)
    edge, gap = b"", left_out > 0
    if left_out:
        whole = f"{counted(left_out, 'whole block')} of {_BLOCK * TILE_WIDTH} leaves"
        found.add(Verdict.INCOMPLETE, f"the log was signed with {checkpoint.size} leaves: {whole} and more are missing")
    for block in _blocks(directory, checkpoint, starts, jobs):
        found.extend(block.findings)
        types.update(block.types)
        gap = gap or block.gap
        upper.add(block.roots)
        edge = block.edge
    root = upper.finish([edge])
    return None if gap else root


@dataclass(slots=True)
class _Block:
    """What a process found in its bundles: the roots of full level 0 tiles, the hashes of a last partial one.

    `gap`: of some tile neither the entries nor the hashes are all there, so nothing above it can be computed.
    """

    roots: bytes = b""
    edge: bytes = b""
    gap: bool = False
    types: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)


def _starts(directory: LogDirectory, size: int) -> tuple[Sequence[int], int]:
    """With which bundles the blocks begin that are to be examined: those of which anything is there, and the first
    other one, whose files are named. Of how many more nothing is there: any size can be signed.
    """
    blocks = range(0, -(-size // TILE_WIDTH), _BLOCK)
    there = set[int]()
    for name in directory.names():
        try:
            tile = parse_tile_path(name)
        except TileError:
            continue
        if tile.level in (ENTRIES, 0) and tile.number * TILE_WIDTH < size:
            there.add(tile.number // _BLOCK * _BLOCK)
    first = next((start for start in blocks if start not in there), None)
    if first is not None:
        there.add(first)
    return sorted(there), len(blocks) - len(there)


def _blocks(
    directory: LogDirectory, checkpoint: Checkpoint, starts: Sequence[int], jobs: int | None
) -> Iterator[_Block]:
    if jobs is None:
        jobs = min(os.cpu_count() or 1, len(starts) // 2)
    if jobs <= 1:
        for start in starts:
            yield check_block(directory, checkpoint, start)
        return
    # Not by fork: the caller may have threads.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        # A window of blocks, so that results never pile up while the first ones are awaited.
        waiting = [pool.submit(check_block, directory, checkpoint, start) for start in starts[: 2 * jobs]]
        for start in starts[2 * jobs :]:
            yield waiting.pop(0).result()
            waiting.append(pool.submit(check_block, directory, checkpoint, start))
        for future in waiting:
            yield future.result()


def check_block(directory: LogDirectory, checkpoint: Checkpoint, start: int) -> _Block:
    """Examine up to 64 bundles from number `start` on, with their level 0 tiles."""
    block = _Block()
    size = checkpoint.size
    roots = []
    for number in range(start, min(start + _BLOCK, -(-size // TILE_WIDTH))):
        width = min(TILE_WIDTH, size - number * TILE_WIDTH)
        entries = _bundle(directory, Tile(ENTRIES, number, width), block.findings)
        hashes = b"".join([sha256(b"\x00" + entry).digest() for entry in entries])
        there = compare_tile(directory, Tile(0, number, width), hashes, block.findings)
        if len(entries) < width:
            hashes = there
        _leaves(entries, number * TILE_WIDTH, checkpoint.origin, block)
        if len(hashes) != width * HASH_SIZE:
            block.gap = True
        elif width < TILE_WIDTH:
            block.edge = hashes
        else:
            roots.append(tile_root(hashes))
    block.roots = b"".join(roots)
    return block


def _bundle(directory: LogDirectory, tile: Tile, found: Findings) -> list[bytes]:
    try:
        return decode_bundle(directory.read_tile(tile), tile.width)
    except FileNotFoundError:
        found.add(Verdict.INCOMPLETE, f"{tile.path} is missing")
    except CutError as cut:
        found.add(Verdict.INCOMPLETE, f"{tile.path}: {cut}")
        return list(cut.entries)
    except (TileError, NotRegularError) as error:
        found.add(Verdict.INVALID, f"{tile.path}: {error}")
    return []


def compare_tile(directory: LogDirectory, tile: Tile, hashes: bytes, found: Findings) -> bytes:
    """Compare the tile in the folder with the hashes computed from below; `hashes` may be cut where those were.

    Returns what is in the folder.
    """
    try:
        there = directory.read_tile(tile)
    except FileNotFoundError:
        found.add(Verdict.INCOMPLETE, f"{tile.path} is missing")
        return b""
    except NotRegularError as error:
        found.add(Verdict.INVALID, str(error))
        return b""
    if there == hashes:
        return there
    common = min(len(there), len(hashes))
    if there[:common] != hashes[:common]:
        at = next(at for at in range(0, common, HASH_SIZE) if there[at : at + HASH_SIZE] != hashes[at : at + HASH_SIZE])
        number = tile.number * TILE_WIDTH + at // HASH_SIZE
        what = f"leaf {number}" if tile.level == 0 else f"tile {number} of level {tile.level - 1}"
        found.add(Verdict.INVALID, f"{tile.path}: the hash of {what} does not fit what is there")
    elif len(there) < tile.width * HASH_SIZE:
        found.add(Verdict.INCOMPLETE, f"{tile.path} ends early")
    return there


def _leaves(entries: list[bytes], first: int, origin: str, block: _Block) -> None:
    """Every leaf strictly. `match_item_purge` knows nearly all of a large log; what it does not know is parsed."""
    purges = 0
    expected = origin.encode()
    for at, body in enumerate(entries):
        match = match_item_purge(body)
        if match is not None and match["origin"] == expected:
            purges += 1
            continue
        try:
            leaf = parse_leaf(body)
        except LeafError as error:
            block.findings.add(Verdict.INVALID, f"leaf {first + at}: {error}")
            continue
        block.types[leaf["type"]] += 1
        if leaf["origin"] != origin:
            block.findings.add(Verdict.INVALID, f"leaf {first + at} belongs to another log, {leaf['origin']}")
    if purges:
        block.types["item.purge"] += purges


def _extra_files(directory: LogDirectory, size: int, found: Findings) -> None:
    for name in directory.names():
        if is_log_file(name):
            continue
        try:
            tile = parse_tile_path(name)
        except TileError:
            found.add(Verdict.INVALID, f"{name} does not belong to the log")
            continue
        if tile_at(size, tile.level, tile.number) != tile:
            found.add(Verdict.INVALID, f"{name} is no tile of a log of {size} leaves")


def _given_key(directory: LogDirectory, key: Verifier, found: Findings) -> None:
    try:
        text = directory.read(VKEY)
    except FileNotFoundError:
        return
    except NotRegularError as error:
        found.add(Verdict.INVALID, str(error))
        return
    if text.strip() != key.vkey.encode():
        found.add(Verdict.INVALID, "vkey in the folder is not the key that was given")


def _stamped(directory: LogDirectory, size: int, key: Verifier, found: Findings) -> dict[str, object]:
    """The state that a time-stamping authority was shown, where there is one: a state of this very log, and a stamp on
    it. Whether it was the authority that said so is for whoever has its certificates.
    """
    try:
        stamped = open_checkpoint(directory.read(STAMPED), key)
    except FileNotFoundError:
        return {}
    except (NoteError, NotRegularError) as error:
        found.add(Verdict.INVALID, f"{STAMPED}: {error}")
        return {}
    if stamped.size > size or tree_root(stamped.size, directory.nodes(size)) != stamped.root:
        found.add(Verdict.DIVERGED, f"{STAMPED} signs {stamped.size} leaves that this log does not begin with")
    facts: dict[str, object] = {"stamped_size": stamped.size}
    try:
        facts["stamp_says"] = check_imprint(directory.read(STAMP, MAX_STAMP), directory.read(STAMPED))
        facts["stamp_authority"] = AUTHORITY_UNCHECKED
    except FileNotFoundError:
        found.add(Verdict.INCOMPLETE, f"{STAMP} is missing")
    except (StampError, NotRegularError) as error:
        found.add(Verdict.INVALID, f"{STAMP}: {error}")
    return facts


def _sums(directory: LogDirectory, found: Findings) -> dict[str, object]:
    """`SHA256SUMS`, as `sha256sum -c` would: every listed file, and every file listed. A fact where it is missing."""
    there = sum(1 for name in directory.names() if name != SUMS)
    try:
        file = directory.open(SUMS, there * _LINE)
    except FileNotFoundError:
        return {"sums": NO_SUMS}
    except NotRegularError as error:
        found.add(Verdict.INVALID, str(error))
        return {}
    listed = set[str]()
    with file:
        while line := file.readline(_LINE):
            digest, _, name = line.rstrip(b"\n").decode("utf-8", "replace").partition("  ")
            try:
                if not is_log_file(name):
                    parse_tile_path(name)
                data = directory.read(name, TILE_WIDTH * 0x10001)
            except (TileError, NotRegularError):
                found.add(Verdict.INVALID, f"{SUMS} names {name[:80]!r}")
                continue
            except FileNotFoundError:
                found.add(Verdict.INCOMPLETE, f"{SUMS} names {name}, which is missing")
                continue
            listed.add(name)
            if sha256(data).hexdigest() != digest:
                found.add(Verdict.INVALID, f"{name} does not have the sum in {SUMS}")
    if len(listed) < there and found.verdict is Verdict.OK:
        found.add(Verdict.INCOMPLETE, f"{SUMS} names {len(listed)} of {there} files")
    return {}
