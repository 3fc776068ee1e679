"""Opening one leaf: who is given the text can check it, and learns nothing of any other leaf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retention.ledger.audit import check_proof_file, prove_leaf
from retention.ledger.disclosure import check_disclosure, disclose
from retention.ledger.note import NoteError
from retention.ledger.report import Verdict
from retention.ledger.schema import parse_leaf
from retention.ledger.tree import ProofError
from tests.ledger_samples import COMMITTER
from tests.unit.ledger.conftest import SIGNER, Exporter

KEY = SIGNER.verifier


@pytest.fixture
def text(exported: Exporter, leaves: list[bytes]) -> str:
    """Leaf 40, a purge, opened: message id and content."""
    leaf = parse_leaf(leaves[40])
    number = int(leaf["item_ref"].removeprefix("item"))
    proof, _ = prove_leaf(exported(leaves), 40)
    assert proof is not None
    salt = COMMITTER.salt(leaf["item_ref"])
    return disclose(proof, {"msgid": (salt, b"<%d@example.com>" % number), "content": (salt, b"%d" % number)})


def test_a_disclosure_can_be_checked(text: str, leaves: list[bytes], tmp_path: Path) -> None:
    disclosed = check_disclosure(text, KEY)
    assert disclosed.proven.leaf == parse_leaf(leaves[40])
    assert set(disclosed.values) == {"msgid", "content"}
    (tmp_path / "text").write_text(text)
    report = check_proof_file(tmp_path / "text", KEY)
    assert report.verdict is Verdict.OK
    assert report.facts["opened"] == {name: value.decode() for name, value in disclosed.values.items()}
    (tmp_path / "text").write_text(text.replace('"salt": "', '"salt": "00'))
    assert check_proof_file(tmp_path / "text", KEY).verdict is Verdict.INVALID


@pytest.mark.parametrize(
    "change",
    [{"field": "subject"}, {"field": "content"}, {"salt": "00" * 32}, {"value": "AAAA"}, {"salt": 1}, {"value": "?"}],
)
def test_what_was_not_committed_to_is_refused(text: str, change: dict[str, Any]) -> None:
    told = json.loads(text)
    told["opened"][0] |= change
    with pytest.raises(ProofError):
        check_disclosure(json.dumps(told), KEY)


@pytest.mark.parametrize("where", ["beside", "inside", "twice"])
def test_what_nobody_signed_does_not_stand_beside_what_is_shown(text: str, where: str) -> None:
    """Who reads the file might take it for proven."""
    told = json.loads(text)
    if where == "beside":
        told["note"] = "approved by counsel"
    elif where == "inside":
        told["opened"][0]["subject"] = "Re: the contract"
    else:
        told["opened"].append(told["opened"][0])
    with pytest.raises(ProofError):
        check_disclosure(json.dumps(told), KEY)


@pytest.mark.parametrize("odd", ["", "{}", "[]", "null", '{"v":2}', '{"v":1,"proof":1,"opened":[]}', "{" * 9_000])
def test_other_texts_are_refused(odd: str) -> None:
    with pytest.raises((ProofError, NoteError)):
        check_disclosure(odd, KEY)
