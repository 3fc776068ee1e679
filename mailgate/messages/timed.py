"""Keyed tokens that begin with the hour of the message's Date field.

Messages are looked up by keyed tokens of their header and of their bytes, which are random: each of a thousand that go
together has a page of its own in a large index, to be read, written and logged. What was sent at one time is mostly
kept and purged at one time, so tokens that begin with the hour share their pages. The hour says no more than the time
of arrival, which stands in the same rows.

Rows from before have the MAC alone, so messages are recognised by that, and are looked for by both forms.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

MAC: Final = 32
"""Octets of HMAC-SHA256."""

HOUR: Final = 3
TIMED: Final = HOUR + MAC

_DATE: Final = re.compile(
    rb"[ \t]*(?:[a-z]{3},)?[ \t]*(\d\d?) (jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec) ((?:19|20)\d\d)"
    rb" (\d\d):\d\d(?::\d\d)?(?: ([+-]\d\d)\d\d)?"
)
_MONTHS: Final = {name: at for at, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_EPOCH: Final = date(1970, 1, 1).toordinal()
_LAST: Final = (1 << 8 * HOUR) - 1


def hour_of(header: bytes) -> bytes:
    """The hour of the first Date field (RFC 5322 §3.3), counted from 1970 in UTC, as 3 octets, the highest first; zeros
    where there is none or it is written in another way. The same header gives the same for ever, so it is not asked
    of a library that learns. `header`: as `header_digest_input` makes it.
    """
    lowered = b"\n" + header.lower()
    at = lowered.find(b"\ndate:")
    found = _DATE.match(lowered, at + 6) if at >= 0 else None
    if found is None:
        return bytes(HOUR)
    day, month, year, hour, zone = found.groups()
    days = date(int(year), _MONTHS[month], 1).toordinal() - _EPOCH + int(day) - 1
    hours = days * 24 + int(hour) - int(zone or 0)
    return min(max(hours, 0), _LAST).to_bytes(HOUR, "big")


def untimed(token: bytes) -> bytes:
    """The MAC alone, of either form: what messages are recognised by."""
    return token[-MAC:]
