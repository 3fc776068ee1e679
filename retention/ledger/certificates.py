"""The certificates in an exported log: do they say what its leaves say?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .canonical import encode, load
from .certificate import UP_TO, certificates, is_signed
from .certificate_page import GENERATOR, open_page, run_page
from .directory import CERTIFICATES, CHECKPOINT, LogDirectory, NotRegularError
from .note import NoteError, Verifier
from .report import Findings, Verdict

MAX_CERTIFICATE = 1 << 20
_WORDING = ("standard", "media", "sanitization", "verify")
"""What another version of this program may put in other words, if the log's key signed them; never with other numbers,
methods or keys."""
_ANY_GENERATOR = re.compile(rb'<meta name="generator" content="purge certificate page [0-9]{1,9}">')


def compare_certificates(directory: LogDirectory, size: int, key: Verifier, found: Findings) -> dict[str, int]:
    """Build each certificate in the folder again from the leaves, and compare; how many there are, for a report.

    The log itself was verified before. Pages that another version of this program made can't be compared: their
    signature is verified, and they are counted.
    """
    names = {name for name in directory.names() if name.startswith(f"{CERTIFICATES}/")}
    if not names:
        return {}
    counts = {"certificates": 0, "runs_without_certificate": 0, "pages_of_other_versions": 0}
    checkpoint = directory.read(CHECKPOINT)
    for certificate in certificates(directory.leaves(size), checkpoint, directory.nodes(size), key):
        for suffix in (".json", ".html"):
            name = f"{CERTIFICATES}/{certificate['run']['id']}{suffix}"
            if name not in names:
                counts["runs_without_certificate"] += suffix == ".json"
                continue
            names.remove(name)
            try:
                there = directory.read(name, MAX_CERTIFICATE)
            except NotRegularError as error:
                found.add(Verdict.INVALID, str(error))
                continue
            if suffix == ".json":
                counts["certificates"] += 1
                same = _says(there, certificate, key)
            else:
                same, newer = _shows(there, certificate, key)
                counts["pages_of_other_versions"] += newer
            if not same:
                found.add(Verdict.INVALID, f"{name} does not say what the log says")
    for name in sorted(names):
        found.add(Verdict.INVALID, f"{name} is of a run that the log does not have, or that has not ended")
    return {name: count for name, count in counts.items() if count}


def _shows(there: bytes, certificate: Mapping[str, Any], key: Verifier) -> tuple[bool, bool]:
    """Whether a page may stand for the certificate, and whether only its signature says so: another version made it."""
    try:
        made, signed = open_page(there, key)
    except NoteError:
        return False, False
    other = signed and GENERATOR.encode() not in made and _ANY_GENERATOR.search(made) is not None
    other = other and certificate["run"]["id"].encode() in made
    return other or made == run_page(certificate).encode(), other


def _says(there: bytes, certificate: Mapping[str, Any], key: Verifier) -> bool:
    try:
        told = load(there)
        signed = is_signed(told, key)
        told.pop("signed", None)
        if signed and all(certificate["log"]["vkey"] in told["verify"][which] for which in certificate["verify"]):
            same_methods = _methods(told) == _methods(certificate)
            told |= {part: certificate[part] for part in _WORDING if part in told and same_methods}
            if UP_TO in certificate:
                told.setdefault(UP_TO, certificate[UP_TO])
        return encode(told) == encode(certificate)
    except (ValueError, AttributeError, KeyError, TypeError):
        return False


def _methods(told: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    return [(one["method"], one["items"]) for one in told["sanitization"]["methods"]]
