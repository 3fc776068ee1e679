"""Every way to tamper with an exported log that we can think of, each refused with the verdict that it deserves."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from retention.ledger.checkpoint import Checkpoint
from retention.ledger.note import Signer
from retention.ledger.report import Verdict
from retention.ledger.tiles import encode_bundle, tiles_of
from retention.ledger.tree import MAX_SIZE, Frontier, leaf_hash
from retention.ledger.verify import verify_directory
from tests.ledger_samples import ORIGIN, every_type, purge_run
from tests.unit.ledger.conftest import SIGNER, Exporter, sign

KEY = SIGNER.verifier


def verdict(path: Path) -> Verdict:
    return verify_directory(path, KEY, jobs=1).verdict


def test_an_honest_log_is_ok(exported: Exporter, leaves: list[bytes]) -> None:
    report = verify_directory(exported(leaves), KEY)
    assert report.verdict is Verdict.OK
    assert report.headline == f"ok: 600 leaves of {ORIGIN}, all signed for by key {KEY.id.hex()}"
    assert report.facts["leaves"]["item.purge"] == 571
    assert sum(report.facts["leaves"].values()) == report.facts["size"] == 600


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512, 513])
def test_every_edge_of_a_tile(exported: Exporter, leaves: list[bytes], size: int) -> None:
    path = exported(leaves[:size])
    report = verify_directory(path, KEY)
    assert (report.verdict, report.facts["size"]) == (Verdict.OK, size)
    there = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert there == {"checkpoint", "vkey", "SHA256SUMS"} | {tile.path for tile in tiles_of(size)}


def test_several_processes_find_the_same(exported: Exporter) -> None:
    path = exported(list(purge_run(40_000)))
    alone, together = verify_directory(path, KEY, jobs=1), verify_directory(path, KEY, jobs=2)
    assert (alone.verdict, alone.facts) == (together.verdict, together.facts)
    assert alone.verdict is Verdict.OK
    flip(path / "tile/entries/077", 5_000)
    flip(path / "tile/0/130", 5_000)
    alone, together = verify_directory(path, KEY, jobs=1), verify_directory(path, KEY, jobs=2)
    assert (alone.to_json(), alone.verdict) == (together.to_json(), Verdict.INVALID)


def flip(path: Path, at: int, xor: int = 1) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= xor
    path.write_bytes(raw)


def test_a_flipped_byte_anywhere(exported: Exporter, leaves: list[bytes]) -> None:
    """Each file, at its first and last byte and at random ones: never ok, nearly always invalid."""
    path = exported(leaves)
    dice = random.Random(20260102)
    for file in sorted(path.rglob("*")):
        if not file.is_file():
            continue
        good = file.read_bytes()
        for at in {0, 1, len(good) - 1, *(dice.randrange(len(good)) for _ in range(6))}:
            flip(file, at, dice.randrange(1, 256))
            found = verdict(path)
            # A length in a bundle that grew beyond its end looks like a bundle that was cut.
            allowed = {Verdict.INVALID, Verdict.INCOMPLETE} if "entries" in file.parts else {Verdict.INVALID}
            if file.name == "SHA256SUMS":
                allowed = {Verdict.INVALID, Verdict.INCOMPLETE}
            assert found in allowed, (file, at)
            file.write_bytes(good)
    assert verdict(path) is Verdict.OK


def test_a_file_that_is_named_twice_does_not_stand_for_one_that_is_not_named(
    exported: Exporter, leaves: list[bytes]
) -> None:
    sums = exported(leaves) / "SHA256SUMS"
    lines = sums.read_text().splitlines()
    sums.write_text("\n".join([*lines[:-1], lines[0]]) + "\n")
    assert verify_directory(sums.parent, SIGNER.verifier).verdict is Verdict.INCOMPLETE


def test_sums_of_any_size_are_not_read(exported: Exporter, leaves: list[bytes]) -> None:
    sums = exported(leaves) / "SHA256SUMS"
    os.truncate(sums, 1 << 26)
    report = verify_directory(sums.parent, SIGNER.verifier)
    assert (report.verdict, "bytes, and no log more than" in report.headline) == (Verdict.INVALID, True)


def without_sums(path: Path) -> Path:
    (path / "SHA256SUMS").unlink()
    return path


def test_that_the_sums_are_missing_is_said(exported: Exporter, leaves: list[bytes]) -> None:
    """Nobody signed them: what the log has is shown by the checkpoint, what else lay in the folder by nothing."""
    path = exported(leaves)
    assert "sums" not in verify_directory(path, KEY).facts
    report = verify_directory(without_sums(path), KEY)
    assert report.verdict is Verdict.OK
    assert any(line.startswith("  sums: not there: nobody can tell") for line in report.lines())


def test_each_file_missing_or_cut(exported: Exporter, leaves: list[bytes]) -> None:
    path = without_sums(exported(leaves))
    for tile in tiles_of(600):
        file = path / tile.path
        good = file.read_bytes()
        file.unlink()
        assert verdict(path) is Verdict.INCOMPLETE, file
        for length in (0, 1, len(good) // 2, len(good) - 1):
            file.write_bytes(good[:length])
            assert verdict(path) is Verdict.INCOMPLETE, (file, length)
        file.write_bytes(good + b"\0")
        assert verdict(path) is Verdict.INVALID, file
        file.write_bytes(good)
    assert verdict(path) is Verdict.OK
    (path / "checkpoint").unlink()
    assert verdict(path) is Verdict.INCOMPLETE


def test_entries_and_their_hashes_missing_together(exported: Exporter, leaves: list[bytes]) -> None:
    path = without_sums(exported(leaves))
    (path / "tile/entries/001").unlink()
    (path / "tile/0/001").unlink()
    assert verdict(path) is Verdict.INCOMPLETE


def rebuild(path: Path, bodies: list[bytes], exported: Exporter, checkpoint: bytes | None = None) -> Path:
    """A consistent log of other leaves under the checkpoint of the folder `path` (or another one)."""
    forged = exported(bodies, "forged")
    (forged / "checkpoint").write_bytes(checkpoint or (path / "checkpoint").read_bytes())
    return without_sums(forged)


def test_reordered_leaves(exported: Exporter, leaves: list[bytes]) -> None:
    swapped = leaves.copy()
    swapped[40], swapped[41] = swapped[41], swapped[40]
    path = exported(leaves)
    assert verdict(rebuild(path, swapped, exported)) is Verdict.INVALID


def test_reordered_in_the_entries_only(exported: Exporter, leaves: list[bytes]) -> None:
    path = without_sums(exported(leaves))
    swapped = leaves[:256]
    swapped[40], swapped[41] = swapped[41], swapped[40]
    (path / "tile/entries/000").write_bytes(encode_bundle(swapped))
    report = verify_directory(path, KEY)
    assert report.verdict is Verdict.INVALID
    assert "leaf 40" in report.headline


def test_a_dropped_tail(exported: Exporter, leaves: list[bytes]) -> None:
    """Fewer leaves below the old checkpoint are missing; under their own old size they do not fit its signature."""
    path = exported(leaves)
    assert verdict(rebuild(path, leaves[:580], exported)) is not Verdict.OK


def test_a_dropped_leaf_in_the_middle(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves)
    assert verdict(rebuild(path, leaves[:100] + leaves[101:] + leaves[-1:], exported)) is Verdict.INVALID


def test_an_edited_size(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves)
    checkpoint = (path / "checkpoint").read_bytes()
    (path / "checkpoint").write_bytes(checkpoint.replace(b"\n600\n", b"\n599\n"))
    report = verify_directory(path, KEY)
    assert report.verdict is Verdict.INVALID
    assert "signature" in report.headline


@pytest.mark.parametrize("jobs", [1, None])
@pytest.mark.parametrize("size", [2**62, MAX_SIZE, 600 + 3 * 64 * 256])
def test_a_size_that_was_signed_and_is_not_there_is_soon_refused(
    exported: Exporter, leaves: list[bytes], size: int, jobs: int | None
) -> None:
    """Whoever has the key may sign any: nobody is kept busy with what is missing."""
    path = without_sums(exported(leaves))
    (path / "checkpoint").write_bytes(Checkpoint(ORIGIN, size, bytes(32)).sign([SIGNER]))
    report = verify_directory(path, KEY, jobs)
    assert report.verdict is Verdict.INVALID  # a partial tile that no log of this size has
    assert report.findings.counts[Verdict.INCOMPLETE] > 64
    blocks = -(-size // (64 * 256)) - 2  # of the first something is there, of the second the files are named
    missing = f"{blocks} whole blocks of 16384 leaves and more are missing"
    assert (Verdict.INCOMPLETE, f"the log was signed with {size} leaves: {missing}") in report.findings.problems
    shutil.rmtree(path / "tile")
    report = verify_directory(path, KEY, jobs)
    assert report.verdict is Verdict.INCOMPLETE
    assert report.headline.startswith(f"incomplete: the log was signed with {size} leaves: ")


def test_line_ends_that_were_changed_on_the_way_are_named(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves)
    checkpoint = (path / "checkpoint").read_bytes()
    (path / "checkpoint").write_bytes(checkpoint.replace(b"\n", b"\r\n"))
    report = verify_directory(path, KEY)
    assert report.verdict is Verdict.INVALID
    assert "line ends" in report.headline


def test_another_key_of_the_same_name(exported: Exporter, leaves: list[bytes]) -> None:
    thief = Signer(ORIGIN, bytes(32))
    path = exported(leaves, signer=thief)
    assert verdict(path) is Verdict.INVALID
    assert verify_directory(path, thief.verifier).verdict is Verdict.OK


def test_a_swapped_vkey_file(exported: Exporter, leaves: list[bytes]) -> None:
    path = without_sums(exported(leaves))
    (path / "vkey").write_text(Signer(ORIGIN, bytes(32)).verifier.vkey)
    assert verdict(path) is Verdict.INVALID


def test_a_swapped_tenant(exported: Exporter) -> None:
    """Another tenant's whole log, its checkpoint signed anew, and one leaf of another tenant among ours."""
    theirs = [*every_type(tenant_ref="t-other")]
    other = Signer("mail.example.com/purge/t-other", SIGNER.seed)
    assert verdict(exported(theirs, "theirs", other)) is Verdict.INVALID
    report = verify_directory(exported(theirs, "renamed"), KEY)
    assert report.verdict is Verdict.INVALID
    assert "another log" in report.headline
    ours = [*every_type()]
    assert verdict(exported([*ours[:5], theirs[5], *ours[6:]], "mixed")) is Verdict.INVALID


def test_a_leaf_that_is_signed_but_no_leaf(exported: Exporter, leaves: list[bytes]) -> None:
    for number, odd in enumerate((b"", b"{}", leaves[40].replace(b'"days":60', b'"days":60.0'), leaves[40] + b" ")):
        report = verify_directory(exported([*leaves[:40], odd, *leaves[41:50]], f"log{number}"), KEY)
        assert report.verdict is Verdict.INVALID
        assert "leaf 40" in report.headline


def test_a_forged_root_is_noticed_though_all_tiles_agree(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves)
    frontier = Frontier()
    frontier.extend(map(leaf_hash, leaves))
    other = Checkpoint(ORIGIN, 600, leaf_hash(frontier.root())).sign([SIGNER])
    assert verdict(rebuild(path, leaves, exported, other)) is Verdict.INVALID


@pytest.mark.parametrize(
    "name", ["notes.txt", "tile/0/002", "tile/3/000", "tile/entries/002.p/87", "tile/0/000.p/3", "tile/x", "tile/0/00a"]
)
def test_what_does_not_belong(exported: Exporter, leaves: list[bytes], name: str) -> None:
    path = exported(leaves)
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(b"x")
    assert verdict(path) is Verdict.INVALID


def test_files_that_would_trap_a_reader(exported: Exporter, leaves: list[bytes], tmp_path: Path) -> None:
    """A FIFO, a link, a folder or a giant in a file's place neither hangs nor fills memory."""
    for name in ("tile/0/000", "tile/entries/000", "checkpoint", "vkey", "SHA256SUMS"):
        for kind in ("fifo", "link", "folder", "giant"):
            path = exported(leaves, f"log-{kind}-{name.replace('/', '-')}")
            good = tmp_path / f"kept-{kind}-{name.replace('/', '-')}"
            shutil.move(path / name, good)
            if kind == "fifo":
                os.mkfifo(path / name)
            elif kind == "link":
                (path / name).symlink_to(good)
            elif kind == "folder":
                (path / name).mkdir()
            else:
                with (path / name).open("wb") as file:
                    file.truncate(1 << 41)
            assert verdict(path) is Verdict.INVALID, (name, kind)


def test_sums_that_name_other_files(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves)
    good = (path / "SHA256SUMS").read_text()
    for line in ("0" * 64 + "  ../../etc/passwd\n", "0" * 64 + "  tile/0/000\n", "x\n", "y" * 10_000):
        (path / "SHA256SUMS").write_text(good + line)
        assert verdict(path) is Verdict.INVALID
    (path / "SHA256SUMS").write_text("".join(good.splitlines(keepends=True)[1:]))
    assert verdict(path) is Verdict.INCOMPLETE


def test_no_such_folder(tmp_path: Path) -> None:
    assert verdict(tmp_path / "nothing") is Verdict.UNREADABLE


def test_a_report_is_bounded_and_can_not_steer_a_terminal(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves)
    for number in range(100):
        (path / f"odd\x1b[2J{number}").write_bytes(b"")
    report = verify_directory(path, KEY)
    lines = report.lines()
    assert len(lines) < 40
    assert lines[-1] == "  and 80 more"
    assert not any("\x1b" in line for line in lines)


def test_a_checkpoint_signed_for_an_older_size_covers_only_that(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves)
    (path / "checkpoint").write_bytes(sign(leaves[:300]))
    assert verdict(path) is Verdict.INVALID
