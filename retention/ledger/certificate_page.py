"""A certificate as a page to be read and printed: HTML that needs nothing from anywhere. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from html import escape
from typing import Any

from .note import NoteError, Signer, Verifier, open_note, sign_note

STYLE = """
@page { size: A4; margin: 18mm }
body { font: 11pt/1.45 Georgia, 'Times New Roman', serif; color: #111;
  max-width: 46em; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em; margin: 0 }
h2 { font-size: 1.05em; border-bottom: 1px solid #999; margin: 1.4em 0 .3em; break-after: avoid }
p.lead { margin: .2em 0 1em; color: #444 }
table { border-collapse: collapse; width: 100%; table-layout: fixed }
th, td { text-align: left; vertical-align: top; padding: .15em .8em .15em 0; font-weight: normal;
  overflow-wrap: anywhere }
th { width: 34%; color: #555 }
td.n { text-align: right; width: 9em; font-variant-numeric: tabular-nums }
pre, code { font: 8.5pt/1.4 'DejaVu Sans Mono', Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere }
section { break-after: page }
section:last-of-type { break-after: auto }
td.line { border-bottom: 1px solid #555; height: 1.9em }
"""
GENERATOR = '<meta name="generator" content="purge certificate page 2">'
"""Which version of this module made a page; to be counted up when anything of a page's bytes changes."""

_SEAL = "<!-- signed\n"

POLICY = f"default-src 'none'; style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'"
"""The Content-Security-Policy that the page works under: nothing may be loaded, nothing may run."""


def page(certificates: Sequence[Mapping[str, Any]], title: str) -> str:
    """One page with these certificates, each beginning on a sheet of its own."""
    body = "\n".join(map(_certificate, certificates))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{GENERATOR}\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def run_page(certificate: Mapping[str, Any]) -> str:
    """The page of one certificate."""
    return page([certificate], f"Purge {certificate['run']['id']}")


def sign_page(made: str, *signers: Signer) -> str:
    """A page with the signature of each of its logs behind it, in a comment: a signed note of what it is and its
    SHA-256.
    """
    return f"{made}{_SEAL}{sign_note(_statement(made.encode()), signers).decode()}-->\n"


def open_page(there: bytes, key: Verifier) -> tuple[bytes, bool]:
    """The page that these bytes hold, and whether the log's key signed it. Raises NoteError when it signed another."""
    made, seal, note = there.rpartition(_SEAL.encode())
    if not seal:
        return there, False
    if open_note(note.removesuffix(b"-->\n"), [key])[0] != _statement(made):
        raise NoteError("the page is not the one that was signed")
    return made, True


def _statement(made: bytes) -> str:
    return f"purge certificate page\n{sha256(made).hexdigest()}\n"


def _certificate(told: Mapping[str, Any]) -> str:
    run, counts, objects, evidence = told["run"], told["counts"], told["objects"], told["evidence"]
    kept = sum(counts["kept"].values())
    reason = f" ({run['reason']})" if "reason" in run else ""
    sum_ = f"{counts['candidates']} = {counts['purged']} + {kept} + {counts['failed']}"
    lead = f"Run {run['id']}: {counts['purged']} copies purged, {kept} kept, {counts['failed']} failed."
    parts = [
        "<section>\n<h1>Certificate of sanitization</h1>",
        f"<p class=lead>{_text(lead)} Fields as {_text(told['standard'])} asks for them.</p>",
        _table(
            "What",
            [
                ("Media", told["media"]["type"]),
                ("Source", told["media"]["source"]),
                ("Owner (tenant reference)", told["log"]["tenant_ref"]),
                ("Anchors of what went", _span(told["items"])),
            ],
        ),
        _table(
            "When, by whom, under which rules",
            [
                ("Opened", run["opened_at"]),
                ("Ended", f"{run['ended_at']}, {run['outcome']}{reason}"),
                ("Ages judged as of", run["judged_by"]),
                ("Actor", f"{told['actor']['kind']} {told['actor']['ref']}"),
                ("Trigger", run["trigger"]),
                ("Approved by the actor", approved(told) or "nothing that needed approval"),
                ("Policy", f"version {told['policy']['ver']}, SHA-256 {told['policy']['sha256']}"),
            ],
        ),
        _table(
            "How",
            [
                ("Sanitization", told["sanitization"]["description"]),
                *((f"Method: {one['method']}", one["technique"]) for one in told["sanitization"]["methods"]),
                ("Verification", told["sanitization"]["verification"]),
                ("Tool", f"{told['tool']['name']} {told['tool']['version']}, commit {told['tool']['commit']}"),
            ],
        ),
        _numbers(
            f"Copies: candidates = purged + kept + failed ({sum_})",
            [
                *((f"purged: {name}", count) for name, count in told["items"]["by_reason"].items()),
                *((f"by plan: {name}", count) for name, count in told["items"]["by_plan"].items()),
                *((f"kept: {name}", count) for name, count in counts["kept"].items()),
                *((f"deferred: {name}", count) for name, count in told["items"]["deferred"].items()),
                ("failed", counts["failed"]),
            ],
        ),
        _numbers(
            "Stored objects",
            [
                ("references dropped", objects["references"]),
                ("objects without a reference since, their keys destroyed", objects["freed"]),
                ("their bytes", objects["bytes"]),
                ("removed", objects["erased"]),
                ("missing already when they were to be removed", objects["missing"]),
                ("failed attempts, repeated", objects["failed_attempts"]),
                ("still to be removed when the log was signed", objects["outstanding"]),
            ],
        ),
        _table(
            "Evidence",
            [
                ("Log", told["log"]["origin"]),
                ("Signed state", f"{evidence['size']} entries, root {evidence['root']}"),
                ("Its entries", f"{evidence['opened']['index']} (opened) to {evidence['ended']['index']} (ended)"),
                ("Verifier key", told["log"]["vkey"]),
            ],
        ),
        f"<pre>{_text(evidence['checkpoint'])}</pre>",
        "<p>The certificate as JSON holds the proofs. Check it, and the exported log, without the gateway:</p>",
        f"<pre>{_text(told['verify']['certificate'])}\n{_text(told['verify']['log'])}</pre>",
        _signatures(),
        "</section>",
    ]
    return "\n".join(parts)


def approved(told: Mapping[str, Any]) -> str:
    """What a run's certificate, or its first leaf, names as approved, and of how many copies."""
    up_to = told.get("approved_up_to")
    of = "" if up_to is None else f" (at most {up_to:,} copies)"
    return ", ".join(f"{name}{of}" if name == "brake" else name for name in told["approved"])


def _span(items: Mapping[str, Any]) -> str:
    if "oldest_anchor_at" not in items:
        return "nothing went"
    return f"{items['oldest_anchor_at']} to {items['newest_anchor_at']}"


def _table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    lines = [f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows]
    return f"<h2>{_text(title)}</h2>\n<table>\n" + "\n".join(lines) + "\n</table>"


def _numbers(title: str, rows: Iterable[tuple[str, int]]) -> str:
    lines = [f"<tr><th>{_text(name)}</th><td class=n>{count:,}</td><td></td></tr>" for name, count in rows]
    return f"<h2>{_text(title)}</h2>\n<table>\n" + "\n".join(lines) + "\n</table>"


def _signatures() -> str:
    cells = "<td class=line></td>" * 2
    rows = "\n".join(
        f"<tr><th>{name}</th>{cells}</tr>" for name in ("Name, title", "Organisation", "Date", "Signature")
    )
    return f"<h2>Issued by · Verified by</h2>\n<table>\n{rows}\n</table>"


def _text(value: object) -> str:
    return escape(str(value))
