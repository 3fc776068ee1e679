"""The commands of an audit that are neither verify, consistency nor replay, for both command lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .canonical import CanonicalError, load
from .certificate import Checked, certificates, check_certificate, is_certificate
from .certificate_page import approved, open_page
from .checkpoint import parse_checkpoint
from .directory import CHECKPOINT, LogDirectory, NotRegularError
from .disclosure import check_disclosure
from .note import NoteError, Verifier
from .proof import ProvenLeaf, check_proof, check_proofs, prove
from .report import Findings, Report, Verdict, counted
from .schema import Leaf, LeafError
from .tiles import CutError, TileError
from .tree import ProofError
from .verify import verify_directory

MAX_PROOFS = 64 << 20
"""Bytes of a file with proofs that are read."""

_UNSIGNED = (
    "its counts, times, actor and policy are proven, but nobody signed the certificate as a whole: "
    "compare the rest with one that `certificate DIR RUN` makes of the exported log"
)


def load_key(text: str) -> Verifier:
    """The verifier key that `text` is or, as `@FILE`, names. Raises NoteError."""
    if text.startswith("@"):
        path = Path(text[1:])
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise NoteError(f"{path} can't be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise NoteError(f"{path} is no text, so not a verifier key") from None
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


def certify_run(path: Path, run: str, key: Verifier) -> tuple[dict[str, Any] | None, Report]:
    """The certificate of one run, built from an exported log that verifies; None and why there is none."""
    report = verify_directory(path, key)
    if report.verdict is not Verdict.OK:
        return None, report
    directory, size = LogDirectory(path), report.facts["size"]
    built = certificates(directory.leaves(size), directory.read(CHECKPOINT), directory.nodes(size), key, run)
    certificate = next(built, None)
    found = Findings()
    if certificate is None:
        found.add(Verdict.INCOMPLETE, f"no run {run[:40]!r} opened and ended in this log")
    return certificate, Report(f"run {run} of a log that verifies", found)


def check_proof_file(path: Path, key: Verifier) -> Report:
    """Examine a proof, several of them, or a disclosure; the facts show the leaves, and what was opened."""
    found = Findings()
    opened: dict[str, str] = {}
    try:
        text = LogDirectory(path.parent).read(path.name, MAX_PROOFS).decode("utf-8")
        if text.startswith("<"):
            return _page(text.encode(), key)
        told = _object(text) if text.startswith("{") else None
        if is_certificate(told):
            return _certified([check_certificate(told, key)], key)
        if told is not None and isinstance(told.get("certificates"), list):
            return _certified([check_certificate(one, key) for one in told["certificates"]], key)
        if told is not None and "items" in told:
            return _leaves(check_proofs(text, key), key)
        if text.startswith("{"):
            disclosed = check_disclosure(text, key)
            proven = disclosed.proven
            opened = {field: _readable(value) for field, value in disclosed.values.items()}
        else:
            proven = check_proof(text, key)
    except OSError as error:
        found.add(Verdict.UNREADABLE, f"{error.strerror}: {error.filename}")
        return Report("", found)
    except (ProofError, NoteError, LeafError, CanonicalError, NotRegularError, UnicodeDecodeError) as error:
        found.add(Verdict.INVALID, str(error))
        return Report("", found)
    facts = {"index": proven.index, "size": proven.checkpoint.size, "root": proven.checkpoint.root.hex()}
    subject = f"leaf {proven.index} is in the log {key.name} of {proven.checkpoint.size} leaves"
    return Report(subject, found, {**facts, "leaf": proven.leaf, **({"opened": opened} if opened else {})})


def _object(text: str) -> dict[str, Any] | None:
    told = load(text.encode())
    return told if isinstance(told, dict) else None


def _page(there: bytes, key: Verifier) -> Report:
    """The report on a certificate as a page."""
    found = Findings()
    if not open_page(there, key)[1]:
        found.add(Verdict.INCOMPLETE, "nobody signed the page: compare it with what `certificate DIR RUN --html` makes")
    return Report(f"the page is the one that the key of {key.name} signed", found)


def _certified(runs: Sequence[Checked], key: Verifier) -> Report:
    """The report on certificates: a line for each run."""
    found = Findings()
    if not runs:
        found.add(Verdict.INCOMPLETE, "there is no certificate in it")
        return Report("", found)
    told = {}
    for opened, ended, signed in runs:
        if not signed:
            found.add(Verdict.INCOMPLETE, _UNSIGNED)
        counts = ", ".join(f"{name} {ended.leaf[name]}" for name in ("candidates", "purged", "failed"))
        kept = ", ".join(f"{name} {count}" for name, count in ended.leaf["kept"].items())
        named = f", approved {approved(opened.leaf)}" if opened.leaf["approved"] else ""
        told[opened.leaf["run"]] = f"{ended.leaf['type']} {ended.leaf['at']}: {counts}, kept {kept or 'none'}{named}"
    purged = sum(checked.ended.leaf["purged"] for checked in runs)
    certified = counted(len(runs), "certified run")
    subject = f"{certified} of {key.name}, {purged} purged; the log has the same counts, its key signed"
    return Report(subject, found, {"runs": told})


def _leaves(proven: Sequence[ProvenLeaf], key: Verifier) -> Report:
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
