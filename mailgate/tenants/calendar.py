"""Months as they are sold: calendar months in UTC that keep the day on which they began. Pure."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime

from mailgate.clock import DAY, Instant, from_datetime, to_datetime

LATEST: Instant = from_datetime(datetime(9999, 12, 30, tzinfo=UTC))
"""What would end later ends here: RFC 3339 writes no later year, and no calendar goes on."""
_LAST_YEAR = 9999


def add_months(at: Instant, months: int, *, day: int | None = None) -> Instant:
    """The same time of day, `months` calendar months later.

    `day` is the day of the month to land on (that of `at` if left out); in a month that is too short, its last day. So
    periods that began on the 31st end on the 28th of February and on the 31st of March, and do not drift. Never later
    than LATEST.
    """
    value = to_datetime(at)
    index = value.year * 12 + value.month - 1 + months
    year, month = index // 12, index % 12 + 1
    if year > _LAST_YEAR:
        return LATEST
    last = monthrange(year, month)[1]
    return min(from_datetime(value.replace(year=year, month=month, day=min(day or value.day, last))), LATEST)


def day_of_month(at: Instant) -> int:
    """1 to 31, in UTC."""
    return to_datetime(at).day


def day_start(at: Instant) -> Instant:
    """The midnight (UTC) at or before."""
    return at - at % DAY


def month_start(at: Instant) -> Instant:
    """The first midnight (UTC) of the month."""
    value = to_datetime(at)
    return from_datetime(datetime(value.year, value.month, 1, tzinfo=UTC))


def next_month_start(at: Instant) -> Instant:
    """The first midnight (UTC) of the next month."""
    return add_months(month_start(at), 1)
