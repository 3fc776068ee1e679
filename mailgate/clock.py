"""The only place that reads the machine's clock. Everything else takes `now` as an argument.

An `Instant` is an integer: microseconds since the epoch in UTC. Text forms (RFC 3339) appear only at the edges.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

Instant: TypeAlias = int
Clock: TypeAlias = Callable[[], Instant]

SECOND: Instant = 1_000_000
MINUTE: Instant = 60 * SECOND
HOUR: Instant = 60 * MINUTE
DAY: Instant = 24 * HOUR

# RFC 3339 §5.6: date-time. `T` and `Z` may be small letters. Python's own parser takes most of ISO 8601.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def system_clock() -> Instant:
    """The machine's time now."""
    return time.time_ns() // 1_000


def monotonic_s() -> float:
    """Seconds on a clock that nobody sets, for how long something lasts. Read anew at each call, in contrast to an
    event loop's time, which may be that of the beginning of its turn.
    """
    return time.monotonic()


def is_over(until_at: Instant, now: Instant, longest: Instant) -> bool:
    """Whether a pause until then is over, of a kind of which none is longer than `longest`. One that would be, from now
    on, was made before the clock was set back: who waited for its end might wait for years.
    """
    return not now < until_at <= now + longest


def to_datetime(at: Instant) -> datetime:
    """The instant as an aware datetime in UTC. Exact to the microsecond; raises OverflowError outside years 1 to
    9999.
    """
    return _EPOCH + timedelta(microseconds=at)


def from_datetime(value: datetime) -> Instant:
    """The instant of an aware datetime. Raises ValueError for a naive one: its zone would be a guess."""
    if value.tzinfo is None:
        raise ValueError("a time needs a zone: write e.g. 2026-01-31T00:00:00Z")
    return (value - _EPOCH) // timedelta(microseconds=1)


def to_rfc3339(at: Instant) -> str:
    """RFC 3339 in UTC with `Z`; fractions only when there are any."""
    value = to_datetime(at)
    return value.replace(tzinfo=None).isoformat(timespec="microseconds" if value.microsecond else "seconds") + "Z"


def from_rfc3339(text: str) -> Instant:
    """Parse an RFC 3339 time with any offset; digits beyond the microsecond are cut off. Raises ValueError that says
    what is wrong: other forms of ISO 8601 (no dashes, weeks, no seconds, no zone, a comma) are refused.
    """
    if not _RFC3339.fullmatch(text):
        raise ValueError("a time is written in full with its zone: 2026-01-31T00:00:00Z or 2026-01-31T01:00:00+01:00")
    return from_datetime(datetime.fromisoformat(text.upper()))
