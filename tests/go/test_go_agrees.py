"""Our logs, judged by an implementation that is not ours: Go's golang.org/x/mod/sumdb (packages note and tlog).

Every attack is put before both: ours must refuse it, and Go's must as well wherever it can see it at all (it knows
nothing of our leaves, our extra files or SHA256SUMS).
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from retention.ledger.checkpoint import Checkpoint, parse_checkpoint
from retention.ledger.consistency import check_consistency
from retention.ledger.export import export_directory
from retention.ledger.note import Signer
from retention.ledger.report import Verdict
from retention.ledger.tiles import encode_bundle
from retention.ledger.tree import Frontier, leaf_hash
from retention.ledger.verify import verify_directory
from tests.ledger_samples import ORIGIN, every_type, purge_run
from tests.servers import GOCODE

pytestmark = pytest.mark.go

SIGNER = Signer(ORIGIN, bytes(range(32)))
KEY = SIGNER.verifier
LEAVES = [*every_type(), *purge_run(569)]


@pytest.fixture(scope="session")
def checker_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("go") / "checker"
    source = Path(__file__).with_name("checker.go")
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOCODE), "GOFLAGS": "", "CGO_ENABLED": "0"}
    environment.setdefault("GOCACHE", str(program.parent / "cache"))
    subprocess.run(["go", "build", "-o", str(program), str(source)], env=environment, check=True, timeout=240)
    return program


Checker = Callable[..., "tuple[bool, str]"]


@pytest.fixture
def go(checker_program: Path) -> Checker:
    """Runs the checker: whether it agrees, and what it says."""

    def check(path: Path, old: Path | None = None, vkey: str = KEY.vkey) -> tuple[bool, str]:
        command = [str(checker_program), str(path), vkey, *([str(old)] if old else [])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 0, done.stdout.strip()

    return check


def sign(bodies: list[bytes], signer: Signer = SIGNER) -> bytes:
    frontier = Frontier()
    frontier.extend(map(leaf_hash, bodies))
    return Checkpoint(signer.name, frontier.size, frontier.root()).sign([signer])


def export(path: Path, bodies: list[bytes], signer: Signer = SIGNER) -> Path:
    export_directory(path, signer.verifier, sign(bodies, signer), bodies)
    return path


def without_sums(path: Path) -> Path:
    (path / "SHA256SUMS").unlink()
    return path


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 600])
def test_go_agrees_at_every_edge(go: Checker, tmp_path: Path, size: int) -> None:
    path = export(tmp_path / "log", LEAVES[:size])
    root = base64.b64encode(parse_checkpoint((path / "checkpoint").read_bytes()).root).decode()
    assert go(path) == (True, f"ok {size} {root}")


def test_go_agrees_over_three_levels_of_tiles(go: Checker, tmp_path: Path) -> None:
    """65 800 leaves: level 1 has a full tile, level 2 begins. Short leaves; Go does not care what they say."""
    bodies = [b"%d" % n for n in range(65_800)]
    agreed, said = go(export(tmp_path / "log", bodies), None)
    assert agreed, said
    assert said.startswith("ok 65800 ")


@pytest.mark.parametrize(("old", "new"), [(1, 600), (200, 256), (256, 512), (300, 600), (511, 512), (600, 600)])
def test_go_finds_two_states_consistent(go: Checker, tmp_path: Path, old: int, new: int) -> None:
    path = export(tmp_path / "log", LEAVES[:new])
    (tmp_path / "old").write_bytes(sign(LEAVES[:old]))
    agreed, said = go(path, tmp_path / "old")
    assert agreed, said
    assert check_consistency(tmp_path / "old", path, KEY).verdict is Verdict.OK


def flipped(path: Path, name: str, at: int = 100) -> Path:
    raw = bytearray((path / name).read_bytes())
    raw[at] ^= 1
    (path / name).write_bytes(raw)
    return path


def truncated(path: Path, name: str, cut: int = 32) -> Path:
    (path / name).write_bytes((path / name).read_bytes()[:-cut])
    return path


def under(path: Path, checkpoint: bytes) -> Path:
    (path / "checkpoint").write_bytes(checkpoint)
    return path


def edited_size(path: Path) -> Path:
    return under(path, (path / "checkpoint").read_bytes().replace(b"\n600\n", b"\n599\n"))


def reordered(bodies: list[bytes]) -> list[bytes]:
    return [*bodies[:40], bodies[41], bodies[40], *bodies[42:]]


def reordered_entries(path: Path) -> Path:
    (path / "tile/entries/000").write_bytes(encode_bundle(reordered(LEAVES)[:256]))
    return path


ATTACKS: dict[str, tuple[Callable[[Path], Path], Verdict]] = {
    "flipped byte in an entry": (lambda p: flipped(export(p, LEAVES), "tile/entries/001"), Verdict.INVALID),
    "flipped byte in a tile": (lambda p: flipped(export(p, LEAVES), "tile/0/000"), Verdict.INVALID),
    "flipped byte in an upper tile": (lambda p: flipped(export(p, LEAVES), "tile/1/000.p/2", 40), Verdict.INVALID),
    "flipped byte in the checkpoint": (lambda p: flipped(export(p, LEAVES), "checkpoint", 40), Verdict.INVALID),
    "dropped tail": (lambda p: under(without_sums(export(p, LEAVES[:580])), sign(LEAVES)), Verdict.INVALID),
    "dropped tail files": (
        lambda p: truncated(without_sums(export(p, LEAVES)), "tile/entries/002.p/88", 3_000),
        Verdict.INCOMPLETE,
    ),
    "reordered leaves": (lambda p: under(without_sums(export(p, reordered(LEAVES))), sign(LEAVES)), Verdict.INVALID),
    "reordered entries": (lambda p: reordered_entries(without_sums(export(p, LEAVES))), Verdict.INVALID),
    "edited size": (lambda p: edited_size(export(p, LEAVES)), Verdict.INVALID),
    "truncated tile": (lambda p: truncated(without_sums(export(p, LEAVES)), "tile/0/001"), Verdict.INCOMPLETE),
    "another key": (lambda p: export(p, LEAVES, Signer(ORIGIN, bytes(32))), Verdict.INVALID),
    "another tenant": (
        lambda p: export(p, LEAVES, Signer("mail.example.com/purge/t-other", SIGNER.seed)),
        Verdict.INVALID,
    ),
    "another tenant's checkpoint": (
        lambda p: under(export(p, LEAVES), sign(LEAVES, Signer("mail.example.com/purge/t-other", SIGNER.seed))),
        Verdict.INVALID,
    ),
}


def swapped_bundles(path: Path) -> Path:
    first, second = path / "tile/entries/000", path / "tile/entries/001"
    was = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(was)
    return path


def foreign_tile(path: Path, other: Path) -> Path:
    """A tile of another tenant's log, with its entries, in the place of ours."""
    for name in ("tile/0/000", "tile/entries/000"):
        (path / name).write_bytes((other / name).read_bytes())
    return path


def written(path: Path, name: str) -> Path:
    """With a file of another key's text, under this name."""
    (without_sums(path) / name).write_text(Signer(ORIGIN, bytes(32)).verifier.vkey)
    return path


def other_tenant() -> list[bytes]:
    return [*every_type(tenant_ref="t-other"), *purge_run(569)]


ATTACKS |= {
    "swapped bundles": (lambda p: swapped_bundles(without_sums(export(p, LEAVES))), Verdict.INVALID),
    "a leaf dropped in the middle": (
        lambda p: under(without_sums(export(p, [*LEAVES[:100], *LEAVES[101:], LEAVES[-1]])), sign(LEAVES)),
        Verdict.INVALID,
    ),
    "a tile of another tenant": (
        lambda p: foreign_tile(without_sums(export(p, LEAVES)), export(p.with_name("other"), other_tenant())),
        Verdict.INVALID,
    ),
    "an older checkpoint over newer tiles": (
        lambda p: under(without_sums(export(p, LEAVES)), sign(LEAVES[:300])),
        Verdict.INVALID,
    ),
    "an edited root": (
        lambda p: under(export(p, LEAVES), (p / "checkpoint").read_bytes().replace(b"\n600\n", b"\n600\nAAAA", 1)),
        Verdict.INVALID,
    ),
    "a key that was rotated unannounced": (
        lambda p: under(without_sums(export(p, LEAVES)), sign(LEAVES, Signer(ORIGIN, bytes(range(1, 33))))),
        Verdict.INVALID,
    ),
    "a truncated bundle": (
        lambda p: truncated(without_sums(export(p, LEAVES)), "tile/entries/001", 10),
        Verdict.INCOMPLETE,
    ),
    "a truncated checkpoint": (lambda p: truncated(export(p, LEAVES), "checkpoint", 20), Verdict.INVALID),
}

OURS_ALONE: dict[str, tuple[Callable[[Path], Path], Verdict]] = {
    "a leaf of another tenant, signed for": (
        lambda p: export(p, [*LEAVES[:5], other_tenant()[5], *LEAVES[6:]]),
        Verdict.INVALID,
    ),
    "a leaf that says nothing, signed for": (lambda p: export(p, [*LEAVES[:5], b"{}", *LEAVES[6:]]), Verdict.INVALID),
    "a file that is none of the log's": (lambda p: written(export(p, LEAVES), "notes.txt"), Verdict.INVALID),
    "a vkey that is another": (lambda p: written(export(p, LEAVES), "vkey"), Verdict.INVALID),
    "an edited sum": (lambda p: flipped(export(p, LEAVES), "SHA256SUMS", 3), Verdict.INVALID),
}
"""What no tool can see that does not know our leaves and files. A purge that the rules forbid is `replay`'s."""


@pytest.mark.parametrize("name", OURS_ALONE)
def test_what_only_ours_can_see(go: Checker, tmp_path: Path, name: str) -> None:
    attack, expected = OURS_ALONE[name]
    path = attack(tmp_path / "log")
    assert verify_directory(path, KEY).verdict is expected
    assert go(path)[0]


def test_a_rotated_key_is_believed_only_where_it_is_named(go: Checker, tmp_path: Path) -> None:
    """Old states by the old key, new ones by the new; each refused under the other, by both."""
    renewed = Signer(ORIGIN, bytes(range(1, 33)))
    old, new = export(tmp_path / "old", LEAVES[:300]), export(tmp_path / "new", LEAVES, renewed)
    assert not go(new)[0]
    assert go(new, vkey=renewed.verifier.vkey)[0]
    assert check_consistency(old, new, renewed.verifier).verdict is Verdict.INVALID
    assert not go(new, old / "checkpoint", vkey=renewed.verifier.vkey)[0]
    assert check_consistency(old, new, renewed.verifier, KEY).verdict is Verdict.OK


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_refused_by_both(go: Checker, tmp_path: Path, name: str) -> None:
    attack, expected = ATTACKS[name]
    path = attack(tmp_path / "log")
    assert verify_directory(path, KEY).verdict is expected
    agreed, said = go(path)
    assert not agreed, said


def test_a_fork_that_was_signed_is_refused_by_both(go: Checker, tmp_path: Path) -> None:
    """Each state alone is in order; only who kept the older checkpoint can tell."""
    fork = export(tmp_path / "log", [*every_type(first=50), *LEAVES[27:]])
    (tmp_path / "old").write_bytes(sign(LEAVES[:300]))
    assert verify_directory(fork, KEY).verdict is Verdict.OK
    assert go(fork)[0]
    assert check_consistency(tmp_path / "old", fork, KEY).verdict is Verdict.DIVERGED
    assert not go(fork, tmp_path / "old")[0]


def test_a_log_that_shrank_is_refused_by_both(go: Checker, tmp_path: Path) -> None:
    restored = export(tmp_path / "log", LEAVES[:300])
    (tmp_path / "old").write_bytes(sign(LEAVES))
    assert check_consistency(tmp_path / "old", restored, KEY).verdict is Verdict.DIVERGED
    assert not go(restored, tmp_path / "old")[0]
