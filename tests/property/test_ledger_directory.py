"""Exported logs of any size: verified when honest, refused when any one bit of any file is not."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from retention.ledger.checkpoint import Checkpoint
from retention.ledger.consistency import check_consistency
from retention.ledger.export import export_directory
from retention.ledger.note import Signer
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from retention.ledger.tree import Frontier, leaf_hash
from retention.ledger.verify import verify_directory
from tests.ledger_samples import ORIGIN, every_type, purge_run
from tests.soak import examples

SIGNER = Signer(ORIGIN, bytes(range(32)))
LEAVES = [*purge_run(760), *every_type(first=5_000)]


def sign(size: int) -> bytes:
    frontier = Frontier()
    frontier.extend(map(leaf_hash, LEAVES[:size]))
    return Checkpoint(ORIGIN, size, frontier.root()).sign([SIGNER])


@examples(60)
@given(st.integers(1, len(LEAVES)), st.data())
def test_any_flipped_bit_is_refused(size: int, draw: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        export_directory(path, SIGNER.verifier, sign(size), LEAVES[:size])
        assert verify_directory(path, SIGNER.verifier, jobs=1).verdict is Verdict.OK
        file = draw.draw(st.sampled_from(sorted(file for file in path.rglob("*") if file.is_file())))
        raw = bytearray(file.read_bytes())
        bit = draw.draw(st.integers(0, 8 * len(raw) - 1))
        raw[bit // 8] ^= 1 << bit % 8
        file.write_bytes(raw)
        assert verify_directory(path, SIGNER.verifier, jobs=1).verdict in (Verdict.INVALID, Verdict.INCOMPLETE)


@examples(40)
@given(st.integers(1, len(LEAVES)), st.integers(0, len(LEAVES)))
def test_any_two_states_are_consistent_in_their_order(new: int, old: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, kept = Path(folder) / "log", Path(folder) / "kept"
        export_directory(path, SIGNER.verifier, sign(new), LEAVES[:new])
        kept.write_bytes(sign(old))
        expected = Verdict.OK if old <= new else Verdict.DIVERGED
        assert check_consistency(kept, path, SIGNER.verifier).verdict is expected


@examples(50)
@given(st.integers(0, 763), st.data())
def test_a_log_that_lost_or_repeats_a_leaf_breaks_a_rule(at: int, draw: st.DataObject) -> None:
    """R6 and R13 from the log alone: whoever holds the key still can't drop or repeat a leaf of a closed run."""
    honest = LEAVES[:764]
    assert replay_leaves(honest).verdict is Verdict.OK
    lost = honest[:at] + honest[at + 1 :]
    repeated = [*honest[: at + 1], honest[at], *honest[at + 1 :]]
    harmless_lost = {763}  # the run's end: what is left is a run that is still open
    harmless_repeated = {0, 1}  # the policy, the plan: saying them twice changes nothing
    assert (replay_leaves(lost).verdict is Verdict.OK) == (at in harmless_lost)
    assert (replay_leaves(repeated).verdict is Verdict.OK) == (at in harmless_repeated)
