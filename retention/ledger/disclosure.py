"""Opening one leaf to one reader: its proof, and what its commitments commit to. Pure.

A disclosure is a JSON text: `proof` (see `proof`), and `opened`, a list of `field`, `salt` (hex) and `value` (base64).
The field `content` opens the leaf's `content_commit`, and so on. A salt opens the commitments under one reference and
nothing else of the log.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass

from .canonical import CanonicalError, load
from .commitment import opens
from .note import Verifier
from .proof import ProvenLeaf, check_proof
from .tree import ProofError

VERSION = 1


@dataclass(frozen=True, slots=True)
class Disclosed:
    """A proven leaf and the values that its commitments were shown to commit to, by field."""

    proven: ProvenLeaf
    values: Mapping[str, bytes]


def disclose(proof: str, opened: Mapping[str, tuple[bytes, bytes]]) -> str:
    """The text that opens a proven leaf: per field the salt (`Committer.salt`) and the value committed to."""
    fields = [
        {"field": field, "salt": salt.hex(), "value": base64.b64encode(value).decode()}
        for field, (salt, value) in opened.items()
    ]
    return json.dumps({"v": VERSION, "proof": proof, "opened": fields}, indent=1) + "\n"


def check_disclosure(text: str, key: Verifier) -> Disclosed:
    """What a disclosure shows under the log's key. Raises ProofError, NoteError, LeafError."""
    try:
        told = load(text.encode())
        if told["v"] != VERSION:
            raise ProofError("a disclosure of another version")
        proof, fields = told["proof"], [(f["field"], f["salt"], f["value"]) for f in told["opened"]]
        if not all(isinstance(part, str) for part in (proof, *(part for field in fields for part in field))):
            raise ProofError("not a disclosure")
        opened = [(field, bytes.fromhex(salt), base64.b64decode(value, validate=True)) for field, salt, value in fields]
    except (CanonicalError, UnicodeEncodeError, KeyError, TypeError, ValueError, binascii.Error) as error:
        if isinstance(error, ProofError):
            raise
        raise ProofError("not a disclosure") from None
    if told != json.loads(disclose(proof, {field: (salt, value) for field, salt, value in opened})):
        raise ProofError("the disclosure says more than it shows: what is more in it, nobody signed")
    proven = check_proof(proof, key)
    values: dict[str, bytes] = {}
    for field, salt, value in opened:
        commitment = proven.leaf.get(f"{field}_commit")
        if commitment is None or not opens(salt, field, value, commitment):
            raise ProofError(f"the leaf did not commit to this {field[:40]!r}")
        values[field] = value
    return Disclosed(proven, values)
