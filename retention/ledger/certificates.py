"""The certificates in an exported log: do they say what its leaves say?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .canonical import CanonicalError, load
from .certificate import certificates
from .certificate_page import GENERATOR, run_page
from .directory import CERTIFICATES, CHECKPOINT, LogDirectory, NotRegularError
from .note import Verifier
from .report import Findings, Verdict

MAX_CERTIFICATE = 1 << 20
_WORDING = ("standard", "media", "sanitization", "verify")
"""What another version of this program may put in other words; never with other numbers, methods or keys."""
_ANY_GENERATOR = re.compile(rb'<meta name="generator" content="purge certificate page [0-9]{1,9}">')


def compare_certificates(directory: LogDirectory, size: int, key: Verifier, found: Findings) -> dict[str, int]:
    """Build each certificate in the folder again from the leaves, and compare; how many there are, for a report.

    The log itself was verified before. Pages that another version of this program made can't be compared; they are
    counted.
    """
    names = {name for name in directory.names() if name.startswith(f"{CERTIFICATES}/")}
    if not names:
        return {}
    counts = {"certificates": 0, "pages_of_other_versions": 0}
    checkpoint = directory.read(CHECKPOINT)
    for certificate in certificates(directory.leaves(size), checkpoint, directory.nodes(size), key):
        for suffix in (".json", ".html"):
            name = f"{CERTIFICATES}/{certificate['run']['id']}{suffix}"
            if name not in names:
                continue
            names.remove(name)
            try:
                there = directory.read(name, MAX_CERTIFICATE)
            except NotRegularError as error:
                found.add(Verdict.INVALID, str(error))
                continue
            counts["certificates"] += suffix == ".json"
            if suffix == ".html" and GENERATOR.encode() not in there and _ANY_GENERATOR.search(there):
                counts["pages_of_other_versions"] += 1
            elif not (_says(there, certificate) if suffix == ".json" else there == run_page(certificate).encode()):
                found.add(Verdict.INVALID, f"{name} does not say what the log says")
    for name in sorted(names):
        found.add(Verdict.INVALID, f"{name} is of a run that the log does not have, or that has not ended")
    return {name: count for name, count in counts.items() if count}


def _says(there: bytes, certificate: Mapping[str, Any]) -> bool:
    try:
        told = load(there)
    except CanonicalError:
        return False
    if not isinstance(told, dict) or not told.keys() >= certificate.keys():
        return False
    if {**told, **{part: certificate[part] for part in _WORDING}} != certificate:
        return False
    try:
        return _methods(told) == _methods(certificate) and all(
            certificate["log"]["vkey"] in told["verify"][which] for which in certificate["verify"]
        )
    except (KeyError, TypeError):
        return False


def _methods(told: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    return [(one["method"], one["items"]) for one in told["sanitization"]["methods"]]
