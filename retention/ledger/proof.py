"""One leaf's proof as a text of its own (c2sp.org/tlog-proof): the leaf, its index, the path, the signed checkpoint.

    c2sp.org/tlog-proof@v1
    extra <base64 of the leaf>
    index <decimal>
    <base64 hash, from the leaf's sibling upwards>…

    <the checkpoint, verbatim>

The leaf stands in `extra` so that the text says what it proves; nothing is believed before it hashes to the root.

Several leaves go together as one JSON object whose list `items` holds objects with such a text in `proof`. What else
stands there is for readers' convenience; where it says of a leaf or of the log's state what the text does not, somebody
changed it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .canonical import CanonicalError, load
from .checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from .note import Verifier
from .schema import Leaf, LeafError, parse_leaf
from .tree import HASH_SIZE, NodeReader, ProofError, inclusion_proof, leaf_hash, verify_inclusion

HEADER = "c2sp.org/tlog-proof@v1"
_PROOF = re.compile(
    re.escape(HEADER) + r"\nextra ([A-Za-z0-9+/=]+)\nindex (0|[1-9][0-9]{0,18})\n((?:[A-Za-z0-9+/]{43}=\n){0,64})\n"
)


@dataclass(frozen=True, slots=True)
class ProvenLeaf:
    """A leaf that stands at `index` of the log of which `checkpoint` is a signed state."""

    leaf: Leaf
    index: int
    checkpoint: Checkpoint


def prove(body: bytes, index: int, checkpoint: bytes, read: NodeReader) -> str:
    """The proof that `body` is leaf `index` of the log that the signed checkpoint describes."""
    size = parse_checkpoint(checkpoint).size
    path = inclusion_proof(index, size, read)
    lines = [HEADER, f"extra {_encode(body)}", f"index {index}", *map(_encode, path), ""]
    return "\n".join(lines) + "\n" + checkpoint.decode()


def check_proof(text: str, key: Verifier) -> ProvenLeaf:
    """What a proof proves under the log's key. Raises ProofError, NoteError, LeafError."""
    match = _PROOF.match(text)
    if match is None:
        raise ProofError("not a tlog-proof with the leaf in it")
    body, index = _decode(match[1]), int(match[2])
    path = [_decode(line) for line in match[3].splitlines()]
    if any(len(sibling) != HASH_SIZE for sibling in path):
        raise ProofError("a hash of the path has a wrong length")
    try:
        note = text[match.end() :].encode()
    except UnicodeEncodeError:
        raise ProofError("half a surrogate pair in the checkpoint") from None
    checkpoint = open_checkpoint(note, key)
    verify_inclusion(leaf_hash(body), index, checkpoint.size, path, checkpoint.root)
    leaf = parse_leaf(body)
    if leaf["origin"] != checkpoint.origin:
        raise LeafError(f"the leaf belongs to another log, {leaf['origin']}")
    return ProvenLeaf(leaf, index, checkpoint)


def check_proofs(text: str, key: Verifier) -> list[ProvenLeaf]:
    """What several proofs in one JSON object prove. Raises ProofError, NoteError, LeafError."""
    try:
        told = load(text.encode())
        proofs = [item["proof"] for item in told["items"]]
    except (CanonicalError, UnicodeEncodeError, KeyError, TypeError):
        raise ProofError("no JSON object with proofs") from None
    if not all(isinstance(proof, str) for proof in proofs):
        raise ProofError("no JSON object with proofs")
    proven = [check_proof(proof, key) for proof in proofs]
    for item, one in zip(told["items"], proven, strict=True):
        state = {"size": one.checkpoint.size, "root": one.checkpoint.root.hex()}
        shown = {"index": one.index, "leaf": one.leaf, "type": one.leaf["type"]}
        # The interface leaves the fraction of a second out where it is nought.
        times = (one.leaf["at"], one.leaf["at"].replace(".000000Z", "Z"))
        if not (_agrees(item, shown) and item.get("at", times[0]) in times and _agrees(told, state)):
            raise ProofError(f"what is said of leaf {one.index} beside its proof is not what it proves")
    return proven


def _agrees(told: Mapping[str, Any], proven: Mapping[str, Any]) -> bool:
    return all(told.get(name, value) == value for name, value in proven.items())


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ProofError("not base64") from None
    if _encode(data) != text:
        raise ProofError("not base64 in its canonical form")
    return data
