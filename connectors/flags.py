"""Flags that may be sent to a server (RFC 9051 §2.3.2, §9). Pure."""

from __future__ import annotations

import re
from typing import Final

MAX_OCTETS: Final = 4_000
"""Of all flags of one command; command lines are kept short (RFC 7162 §4: 8 192 octets)."""

# atom: printable ASCII without what delimits, quotes, or ends a response code.
_FLAG = re.compile(r"\\?[\x21\x23\x24\x26\x27+,\-./0-9:;<=>?@A-Z\[\x5e_`a-z|}~]+")
_REFUSED: Final = frozenset({"\\deleted", "\\recent"})


def check_flags(flags: frozenset[str], *, removed: bool = False) -> frozenset[str]:
    """The same flags, all of which can be set or, with `removed`, removed. Raises ValueError with the reason.

    `\\Deleted` can only be removed: to set it is the first half of an expunge, and another client may make the other
    half at any time. `\\Recent` is nobody's to set.
    """
    for flag in flags:
        if flag.lower() in _REFUSED and not (removed and flag.lower() == "\\deleted"):
            raise ValueError(f"{flag} cannot be set or removed as a flag")
        if _FLAG.fullmatch(flag) is None:
            raise ValueError(
                f"not a flag: {flag!r:.100}; a keyword is made of ASCII letters, digits and signs other than blanks, "
                'control characters and any of ( ) { % * " \\ ]'
            )
    if sum(len(flag) + 1 for flag in flags) > MAX_OCTETS:
        raise ValueError(f"more than {MAX_OCTETS} octets of flags at once")
    return flags
