"""A leaf's proof as a text of its own: right for every leaf, wrong when any of it was changed."""

from __future__ import annotations

import base64
import json
import random

import pytest

from retention.ledger.audit import prove_leaf
from retention.ledger.note import NoteError
from retention.ledger.proof import check_proof, check_proofs
from retention.ledger.report import Verdict
from retention.ledger.schema import LeafError, parse_leaf
from retention.ledger.tree import ProofError
from tests.unit.ledger.conftest import SIGNER, Exporter

KEY = SIGNER.verifier


@pytest.mark.parametrize("index", [0, 1, 255, 256, 511, 512, 599])
def test_each_leaf_can_be_proven(exported: Exporter, leaves: list[bytes], index: int) -> None:
    text, report = prove_leaf(exported(leaves), index)
    assert report.verdict is Verdict.OK
    assert text is not None
    proven = check_proof(text, KEY)
    assert (proven.index, proven.checkpoint.size, proven.leaf) == (index, 600, parse_leaf(leaves[index]))
    assert text.startswith("c2sp.org/tlog-proof@v1\nextra ")


def test_the_only_leaf_of_a_log(exported: Exporter, leaves: list[bytes]) -> None:
    text, _ = prove_leaf(exported(leaves[:1]), 0)
    assert text is not None
    assert check_proof(text, KEY).leaf["type"] == "policy.set"


def test_a_changed_proof_proves_nothing(exported: Exporter, leaves: list[bytes]) -> None:
    text, _ = prove_leaf(exported(leaves), 300)
    assert text is not None
    raw, dice = text.encode(), random.Random(7)
    for at in {0, len(raw) - 1, *(dice.randrange(len(raw)) for _ in range(200))}:
        changed = raw[:at] + bytes([raw[at] ^ dice.randrange(1, 128)]) + raw[at + 1 :]
        with pytest.raises((ProofError, NoteError, LeafError, UnicodeDecodeError)):
            check_proof(changed.decode(), KEY)
    other = base64.b64encode(leaves[299]).decode()
    ours = base64.b64encode(leaves[300]).decode()
    with pytest.raises(ProofError):
        check_proof(text.replace(ours, other), KEY)
    with pytest.raises(ProofError):
        check_proof(text.replace("index 300", "index 299"), KEY)
    with pytest.raises(ProofError):
        check_proof(text.replace("index 300", f"index {'9' * 19}"), KEY)


def test_what_stands_beside_a_proof_says_the_same_or_somebody_changed_it(
    exported: Exporter, leaves: list[bytes]
) -> None:
    text, _ = prove_leaf(exported(leaves), 300)
    assert text is not None
    one = check_proof(text, KEY)
    item = {"index": 300, "type": one.leaf["type"], "at": one.leaf["at"], "leaf": dict(one.leaf), "proof": text}
    told = {"size": 600, "root": one.checkpoint.root.hex(), "items": [item], "next_cursor": None}
    assert check_proofs(json.dumps(told), KEY) == check_proofs(json.dumps({"items": [{"proof": text}]}), KEY) == [one]
    changes = ({"index": 299}, {"type": "pin.add"}, {"at": "2026-01-01T00:00:00.000000Z"}, {"leaf": None})
    for change in (*changes, {"leaf": {**one.leaf, "reason": "erasure_request"}}):
        with pytest.raises(ProofError, match="beside its proof"):
            check_proofs(json.dumps({**told, "items": [item | change]}), KEY)
    for more in ({"size": 601}, {"root": "00" * 32}):
        with pytest.raises(ProofError, match="beside its proof"):
            check_proofs(json.dumps(told | more), KEY)


@pytest.mark.parametrize("index", [-1, 600, 10**12])
def test_no_such_leaf(exported: Exporter, leaves: list[bytes], index: int) -> None:
    text, report = prove_leaf(exported(leaves), index)
    assert text is None
    assert report.verdict is Verdict.UNREADABLE
