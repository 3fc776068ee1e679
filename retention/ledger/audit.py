"""The commands of an audit that are neither verify, consistency nor replay, for both command lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .canonical import CanonicalError, load
from .checkpoint import parse_checkpoint
from .directory import CHECKPOINT, LogDirectory, NotRegularError
from .disclosure import check_disclosure
from .note import NoteError, Verifier
from .proof import ProvenLeaf, check_proof, check_proofs, prove
from .report import Findings, Report, Verdict
from .schema import Leaf, LeafError
from .tiles import CutError, TileError
from .tree import ProofError

MAX_PROOFS = 64 << 20
"""Bytes of a file with proofs that are read."""


def load_key(text: str) -> Verifier:
    """The verifier key that `text` is or, as `@FILE`, names. Raises NoteError, OSError, UnicodeDecodeError."""
    if text.startswith("@"):
        text = Path(text[1:]).read_text(encoding="utf-8")
    return Verifier.from_vkey(text)


def prove_leaf(path: Path, index: int) -> tuple[str | None, Report]:
    """The proof of one leaf of an exported log, or None and why there is none. Signatures are the reader's to check."""
    found = Findings()
    directory = LogDirectory(path)
    proof = None
    try:
        checkpoint = directory.read(CHECKPOINT)
        size = parse_checkpoint(checkpoint).size
        proof = prove(directory.leaf(size, index), index, checkpoint, directory.nodes(size))
    except LookupError as error:
        found.add(Verdict.UNREADABLE, str(error))
    except (FileNotFoundError, CutError) as error:
        found.add(Verdict.INCOMPLETE, f"something is missing or cut: {error}")
    except (NoteError, TileError, NotRegularError) as error:
        found.add(Verdict.INVALID, str(error))
    except OSError as error:
        found.add(Verdict.UNREADABLE, f"{error.strerror}: {error.filename}")
    return proof, Report(f"leaf {index} is in the log", found)


def check_proof_file(path: Path, key: Verifier) -> Report:
    """Examine a proof, several of them, or a disclosure; the facts show the leaves, and what was opened."""
    found = Findings()
    opened: dict[str, str] = {}
    try:
        text = LogDirectory(path.parent).read(path.name, MAX_PROOFS).decode("utf-8")
        if text.startswith("{") and _several(text):
            return _report(check_proofs(text, key), key)
        if text.startswith("{"):
            disclosed = check_disclosure(text, key)
            proven = disclosed.proven
            opened = {field: _readable(value) for field, value in disclosed.values.items()}
        else:
            proven = check_proof(text, key)
    except OSError as error:
        found.add(Verdict.UNREADABLE, f"{error.strerror}: {error.filename}")
        return Report("", found)
    except (ProofError, NoteError, LeafError, NotRegularError, UnicodeDecodeError) as error:
        found.add(Verdict.INVALID, str(error))
        return Report("", found)
    facts = {"index": proven.index, "size": proven.checkpoint.size, "root": proven.checkpoint.root.hex()}
    subject = f"leaf {proven.index} is in the log {key.name} of {proven.checkpoint.size} leaves"
    return Report(subject, found, {**facts, "leaf": proven.leaf, **({"opened": opened} if opened else {})})


def _several(text: str) -> bool:
    try:
        told = load(text.encode())
    except (CanonicalError, UnicodeEncodeError):
        return False
    return isinstance(told, dict) and "items" in told


def _report(proven: Sequence[ProvenLeaf], key: Verifier) -> Report:
    """The report on several leaves: one line for each, in the order of the log."""
    found = Findings()
    if not proven:
        found.add(Verdict.INCOMPLETE, "there is no proof in it")
        return Report("", found)
    ordered = sorted(proven, key=lambda one: one.index)
    newest = max((one.checkpoint for one in proven), key=lambda checkpoint: checkpoint.size)
    leaves = {str(one.index): f"{one.leaf['at']} {one.leaf['type']}{_about(one.leaf)}" for one in ordered}
    facts = {"size": newest.size, "root": newest.root.hex(), "leaves": leaves}
    return Report(f"{len(leaves)} leaves are in the log {key.name} of {newest.size} leaves", found, facts)


def _about(leaf: Leaf) -> str:
    words = [f"{name} {leaf[name]}" for name in ("item_ref", "reason", "outcome") if name in leaf]
    return f" ({', '.join(words)})" if words else ""


def _readable(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return value.hex()
    return text if text.isprintable() else value.hex()
