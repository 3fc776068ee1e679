"""R16: a newer state continues an older one, or the older one's keeper can show that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from retention.ledger.checkpoint import Checkpoint
from retention.ledger.consistency import check_consistency
from retention.ledger.note import Signer
from retention.ledger.report import Verdict
from retention.ledger.tree import EMPTY_ROOT
from tests.ledger_samples import ORIGIN, every_type
from tests.unit.ledger.conftest import SIGNER, Exporter, sign

KEY = SIGNER.verifier


@pytest.mark.parametrize("old_size", [1, 2, 200, 256, 511, 512, 599, 600])
def test_a_log_that_grew(exported: Exporter, leaves: list[bytes], tmp_path: Path, old_size: int) -> None:
    new = exported(leaves)
    old = exported(leaves[:old_size], "old")
    kept = tmp_path / "kept-checkpoint"
    kept.write_bytes((old / "checkpoint").read_bytes())
    for before in (old, kept):
        report = check_consistency(before, new, KEY)
        assert report.verdict is Verdict.OK, report.headline
        assert report.headline == f"ok: the log of 600 leaves continues the one of {old_size}"


def test_every_log_continues_the_empty_one(exported: Exporter, leaves: list[bytes], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(Checkpoint(ORIGIN, 0, EMPTY_ROOT).sign([SIGNER]))
    assert check_consistency(empty, exported(leaves), KEY).verdict is Verdict.OK
    assert check_consistency(empty, exported([], "none"), KEY).verdict is Verdict.OK


@pytest.mark.parametrize("old_size", [1, 100, 256, 599, 600])
def test_a_forked_and_signed_log_has_diverged(exported: Exporter, leaves: list[bytes], old_size: int) -> None:
    """The forger holds the key: each state verifies alone, only both together show the fork."""
    fork = leaves.copy()
    fork[0] = next(every_type(first=50))
    new = exported(fork)
    report = check_consistency(exported(leaves[:old_size], "old"), new, KEY)
    assert report.verdict is Verdict.DIVERGED


def test_a_log_that_shrank_has_diverged(exported: Exporter, leaves: list[bytes]) -> None:
    """A restored backup: honest leaves, but fewer than were signed before."""
    report = check_consistency(exported(leaves), exported(leaves[:500], "restored"), KEY)
    assert report.verdict is Verdict.DIVERGED
    assert "shrank from 600 to 500" in report.headline


def test_tampered_tiles_do_not_pass_for_divergence(exported: Exporter, leaves: list[bytes]) -> None:
    old, new = exported(leaves[:300], "old"), exported(leaves)
    tile = new / "tile/0/001"
    good = tile.read_bytes()
    tile.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert check_consistency(old, new, KEY).verdict is Verdict.INVALID
    tile.write_bytes(good[:-1])
    assert check_consistency(old, new, KEY).verdict is Verdict.INCOMPLETE
    tile.unlink()
    assert check_consistency(old, new, KEY).verdict is Verdict.INCOMPLETE
    tile.symlink_to(new / "tile/0/000")
    assert check_consistency(old, new, KEY).verdict is Verdict.INVALID


def test_states_of_another_log_or_key(exported: Exporter, leaves: list[bytes], tmp_path: Path) -> None:
    new = exported(leaves)
    thief = Signer(ORIGIN, bytes(32))
    rotated = tmp_path / "rotated"
    rotated.write_bytes(sign(leaves[:10], thief))
    assert check_consistency(rotated, new, KEY).verdict is Verdict.INVALID
    assert check_consistency(rotated, new, KEY, thief.verifier).verdict is Verdict.OK
    other = Signer("mail.example.com/purge/t-other", SIGNER.seed)
    rotated.write_bytes(sign(leaves[:10], other))
    assert check_consistency(rotated, new, KEY, other.verifier).verdict is Verdict.INVALID


def test_no_such_state(exported: Exporter, leaves: list[bytes], tmp_path: Path) -> None:
    assert check_consistency(tmp_path / "nothing", exported(leaves), KEY).verdict is Verdict.UNREADABLE
