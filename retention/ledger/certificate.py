"""The certificate of a run: what went, when, by whom, how and under which rules, from the log's leaves alone. Pure.

Its fields are those that NIST SP 800-88 Rev. 1 asks for in section 4.8, as far as they make sense where records are
sanitized and not whole media. Two leaves of the run, its first and its last, come with their proofs, so that the counts
can be checked with the certificate alone; everything else can be with the exported log: who has that builds the same
document again. One that the gateway hands out is signed as a whole by the log's key, so that every change to it shows
without the log as well.

A certificate is a JSON object of what canonical JSON has. `certificate_page` shows it for people. Its `signed` is a
signed note (`note`) of two lines: what it is, and the hexadecimal SHA-256 of the canonical JSON of everything else.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, NamedTuple

from .canonical import CanonicalError, encode, read
from .checkpoint import open_checkpoint, parse_checkpoint
from .note import Signer, Verifier, open_note, sign_note, signed_alone
from .proof import ProvenLeaf, check_proof, prove
from .purge_template import match_item_purge
from .schema import Leaf, LeafError
from .tree import NodeReader, ProofError

VERSION: Final = 1
KIND: Final = "purge certificate"
UP_TO: Final = "approved_up_to"
"""Of how many copies an approval of the brake is; certificates of older versions leave it out."""
STANDARD: Final = "NIST SP 800-88 Rev. 1, section 4.8"

_TECHNIQUES: Final = {
    "data_key_destroyed": "Cryptographic Erase: the copy's data key is destroyed, its row deleted, its object unlinked",
}
_ENDS: Final = ("run.close", "run.abort")
_RUN = re.compile(rb'"run":"([0-7][0-9A-HJKMNP-TV-Z]{25})"')


@dataclass(slots=True)
class RunTally:
    """What the leaves of one run add up to. Memory does not grow with the run."""

    run: str
    opened: tuple[int, bytes, Leaf] | None = None
    ended: tuple[int, bytes, Leaf] | None = None
    deferred: Counter[str] = field(default_factory=Counter)
    erased: Counter[str] = field(default_factory=Counter)
    references: int = 0
    freed: int = 0
    octets: int = 0
    erase_failures: int = 0
    oldest: str = ""
    newest: str = ""
    _purged: Counter[tuple[bytes, ...]] = field(default_factory=Counter)

    def feed(self, index: int, body: bytes) -> None:
        """Take the next leaf of the run, in the order of the log."""
        purge = match_item_purge(body)
        if purge is None:
            self._other(index, body, read(body))
        else:
            self.feed_purge(purge)

    def feed_purge(self, purge: re.Match[bytes]) -> None:
        """Take the next leaf as `match_item_purge` knows it: nearly all of a large run."""
        what = purge.group("reason", "plan", "days", "method")
        self._purged[what] += 1
        anchor = purge["anchor_at"].decode()
        self._sums(anchor, int(purge["refs"]), int(purge["freed"]), int(purge["bytes"]))

    def _other(self, index: int, body: bytes, leaf: Leaf) -> None:
        match leaf["type"]:
            case "run.open":
                self.opened = (index, body, leaf)
            case "run.close" | "run.abort":
                self.ended = (index, body, leaf)
            case "item.purge":
                self._purge(leaf)
            case "item.deferred":
                self.deferred[leaf["reason"]] += 1
            case "blob.erase":
                self.erased[leaf["outcome"]] += 1
            case "erase.failed":
                self.erase_failures += 1
            case _:
                pass

    @property
    def complete(self) -> bool:
        """Whether nothing of the run is still to come: it ended, and what it freed is erased."""
        return self.ended is not None and self.erased.total() >= self.freed

    def _purge(self, leaf: Leaf) -> None:
        what = (leaf["reason"], leaf["plan"], str(leaf["days"]), leaf["method"])
        self._purged[tuple(word.encode() for word in what)] += 1
        blobs = leaf["blobs"]
        self._sums(leaf["anchor"]["at"], blobs["refs"], blobs["freed"], blobs["bytes"])

    def _sums(self, anchor: str, references: int, freed: int, octets: int) -> None:
        self.references += references
        self.freed += freed
        self.octets += octets
        if not self.oldest or anchor < self.oldest:
            self.oldest = anchor
        if anchor > self.newest:
            self.newest = anchor

    def by(self, *fields: int) -> dict[str, int]:
        """How many items went, by some of reason (0), plan (1), days (2) and method (3)."""
        counts: Counter[str] = Counter()
        for what, count in self._purged.items():
            counts[", ".join(what[each].decode() for each in fields)] += count
        return dict(sorted(counts.items()))


def certify(tally: RunTally, checkpoint: bytes, read: NodeReader, key: Verifier) -> dict[str, Any] | None:
    """The certificate of a run under a signed checkpoint that covers its leaves; None when the run has not ended.

    `read` gives nodes of the checkpoint's tree; what is erased after the checkpoint is not in it. Of the checkpoint's
    signatures only the log's stands in it: witnesses may add theirs at any time, and the certificate stays the same.
    """
    if tally.opened is None or tally.ended is None:
        return None
    checkpoint = signed_alone(checkpoint, key)
    (first, opened_body, opened), (last, ended_body, ended) = tally.opened, tally.ended
    signed = parse_checkpoint(checkpoint)
    outcome = "completed" if ended["type"] == "run.close" else "aborted"
    return {
        "v": VERSION,
        "kind": KIND,
        "standard": STANDARD,
        "log": {"origin": opened["origin"], "tenant_ref": opened["tenant_ref"], "vkey": key.vkey},
        "run": {
            "id": tally.run,
            "outcome": outcome,
            **({"reason": ended["reason"]} if outcome == "aborted" else {}),
            "trigger": opened["trigger"],
            "judged_by": opened["now"],
            "opened_at": opened["at"],
            "ended_at": ended["at"],
        },
        "actor": dict(opened["actor"]),
        "approved": list(opened["approved"]),
        **({UP_TO: opened[UP_TO]} if UP_TO in opened else {}),
        "policy": dict(opened["policy"]),
        "tool": {"name": "mailgate", **opened["build"]},
        "media": {
            "type": "copies of e-mail messages: encrypted objects, database rows, search index",
            "source": "mailboxes that are kept in step with their mail servers; the originals there are untouched",
        },
        "sanitization": {
            "description": "Purge",
            "methods": [
                {"method": method, "technique": _TECHNIQUES.get(method, method), "items": count}
                for method, count in tally.by(3).items()
            ],
            "verification": "each item re-judged under lock and logged in the transaction that removed it; objects "
            "confirmed as removed one by one",
        },
        "counts": {name: ended[name] for name in ("candidates", "purged", "kept", "failed")},
        "items": {
            "by_reason": tally.by(0),
            "by_plan": {f"{plan} days": count for plan, count in tally.by(1, 2).items()},
            "deferred": dict(sorted(tally.deferred.items())),
            **({"oldest_anchor_at": tally.oldest, "newest_anchor_at": tally.newest} if tally.oldest else {}),
        },
        "objects": {
            "references": tally.references,
            "freed": tally.freed,
            "bytes": tally.octets,
            "erased": tally.erased["erased"],
            "missing": tally.erased["missing"],
            "failed_attempts": tally.erase_failures,
            "outstanding": max(0, tally.freed - tally.erased.total()),
        },
        "evidence": {
            "size": signed.size,
            "root": signed.root.hex(),
            "checkpoint": checkpoint.decode(),
            "opened": {"index": first, "proof": prove(opened_body, first, checkpoint, read)},
            "ended": {"index": last, "proof": prove(ended_body, last, checkpoint, read)},
        },
        "verify": {
            "certificate": f"mailgate audit check-proof FILE --vkey '{key.vkey}'",
            "log": f"mailgate audit replay DIR --vkey '{key.vkey}'",
        },
    }


class RunTallies:
    """The tallies of all runs of a log, or of one."""

    def __init__(self, run: str | None = None) -> None:
        self._run = run
        self._tallies: dict[str, RunTally] = {}

    def feed(self, index: int, body: bytes) -> None:
        """Take the next leaf of the log."""
        purge = match_item_purge(body)
        if purge is not None:
            tally = self._of(purge["run"].decode())
            if tally is not None:
                tally.feed_purge(purge)
            return
        found = _RUN.search(body)  # in canonical JSON it stands nowhere else: a quote inside a text is escaped
        tally = None if found is None else self._of(found[1].decode())
        if tally is not None:
            tally.feed(index, body)

    def _of(self, run: str) -> RunTally | None:
        if self._run not in (None, run):
            return None
        tally = self._tallies.get(run)
        if tally is None:
            tally = self._tallies[run] = RunTally(run)
        return tally

    def certify(self, checkpoint: bytes, read: NodeReader, key: Verifier) -> Iterator[dict[str, Any]]:
        """The certificates of the runs that ended, in the order in which they began."""
        for tally in self._tallies.values():
            certificate = certify(tally, checkpoint, read, key)
            if certificate is not None:
                yield certificate


def certificates(
    leaves: Iterable[bytes], checkpoint: bytes, read: NodeReader, key: Verifier, run: str | None = None
) -> Iterator[dict[str, Any]]:
    """The certificates of all runs in a log, or of one, from its leaves."""
    tallies = RunTallies(run)
    for index, body in enumerate(leaves):
        tallies.feed(index, body)
    return tallies.certify(checkpoint, read, key)


def dumps(certificate: dict[str, Any]) -> str:
    """A certificate as it is written to a file."""
    return json.dumps(certificate, indent=1, ensure_ascii=False) + "\n"


def is_certificate(value: Any) -> bool:
    """Whether a JSON value means to be a certificate."""
    return isinstance(value, dict) and value.get("kind") == KIND


def sign_certificate(told: dict[str, Any], signer: Signer) -> dict[str, Any]:
    """The certificate with the log's signature over all of it."""
    return {**told, "signed": sign_note(_statement(told), [signer]).decode()}


def is_signed(told: dict[str, Any], key: Verifier) -> bool:
    """Whether the log's key signed exactly this; False: nobody did. Raises NoteError or LeafError when it signed
    something else, CanonicalError for what no certificate has.
    """
    note = told.get("signed")
    if note is None:
        return False
    if open_note(str(note).encode(), [key])[0] != _statement(told):
        raise LeafError("the certificate is not the one that was signed")
    return True


def _statement(told: dict[str, Any]) -> str:
    rest = {name: value for name, value in told.items() if name != "signed"}
    return f"{KIND}\n{sha256(encode(rest)).hexdigest()}\n"


class Checked(NamedTuple):
    """What a certificate proves: the run's first and last leaf, and whether the log's key signed all that it says."""

    opened: ProvenLeaf
    ended: ProvenLeaf
    signed: bool


def check_certificate(told: Any, key: Verifier) -> Checked:
    """The first and the last leaf of the run that a certificate tells of, proven under the log's key.

    What the certificate takes from these two is compared with them: run, times, outcome, actor, policy, program,
    counts; and its evidence is one signed state. How the purged divide by reason, plan and method, and what became of
    objects, only its signature shows, or the log (`certificates`). Raises ProofError, NoteError, LeafError.
    """
    try:
        if told["v"] != VERSION:
            raise ProofError("a certificate of another version")
        whole = is_signed(told, key)
        evidence = told["evidence"]
        opened, ended = (check_proof(evidence[which]["proof"], key) for which in ("opened", "ended"))
        signed = open_checkpoint(evidence["checkpoint"].encode(), key)
        first, last = opened.leaf, ended.leaf
        run, purged = told["run"], last["purged"]
        outcome = "completed" if last["type"] == "run.close" else "aborted"
        same = [
            (first["type"], "run.open"),
            (last["type"] in _ENDS, True),
            (run["id"], first["run"]),
            (run["id"], last["run"]),
            (run["outcome"], outcome),
            (run.get("reason"), last.get("reason")),
            (run["trigger"], first["trigger"]),
            (run["judged_by"], first["now"]),
            (run["opened_at"], first["at"]),
            (run["ended_at"], last["at"]),
            (told["log"], {"origin": first["origin"], "tenant_ref": first["tenant_ref"], "vkey": key.vkey}),
            (told["actor"], first["actor"]),
            (told["approved"], first["approved"]),
            (told.get(UP_TO, first.get(UP_TO)), first.get(UP_TO)),
            (told["policy"], first["policy"]),
            ({**told["tool"], "name": ""}, {**first["build"], "name": ""}),
            (told["counts"], {name: last[name] for name in ("candidates", "purged", "kept", "failed")}),
            (sum(told["items"]["by_reason"].values()), purged),
            (sum(told["items"]["by_plan"].values()), purged),
            (sum(method["items"] for method in told["sanitization"]["methods"]), purged),
            ((evidence["size"], evidence["root"]), (signed.size, signed.root.hex())),
            ({opened.checkpoint, ended.checkpoint}, {signed}),
            ([evidence[which]["index"] for which in ("opened", "ended")], [opened.index, ended.index]),
            (opened.index < ended.index, True),
            (all(key.vkey in told["verify"][which] for which in ("certificate", "log")), True),
        ]
    except (KeyError, TypeError, AttributeError, CanonicalError, UnicodeEncodeError):
        raise ProofError("not a certificate") from None
    if any(claimed != proven for claimed, proven in same):
        raise LeafError("the certificate says something else than the leaves that it proves")
    return Checked(opened, ended, whole)
