"""The only place that reads the machine's clock. Everything else takes `now` as an argument.

An `Instant` is an integer: microseconds since the epoch in UTC. Text forms (RFC 3339) appear only at the edges.
"""

from __future__ import annotations

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

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def system_clock() -> Instant:
    """The machine's time now."""
    return time.time_ns() // 1_000


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
    """Parse an RFC 3339 time. Raises ValueError that says what is wrong."""
    return from_datetime(datetime.fromisoformat(text))
