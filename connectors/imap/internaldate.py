"""INTERNALDATE (RFC 9051 §9, date-time) and the dates of SEARCH. Pure."""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache

from connectors.model import MICROSECONDS, Instant

_MONTHS = {
    name: number
    for number, name in enumerate(
        (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"), start=1
    )
}
_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE_TIME = re.compile(rb" ?(\d{1,2})-([A-Za-z]{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_EPOCH = date(1970, 1, 1).toordinal()


def parse_internal_date(text: bytes) -> Instant | None:
    """` 7-Feb-2026 09:05:01 +0100` → microseconds since the epoch. Days may be padded with a space or not at all.

    Nonsense (no such day, hour 25, year 0) is None: a wrong date is the message's defect, not the line's.
    A leap second counts as the second after it.
    """
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        return None
    day, name, year, hour, minute, second, sign, zone_hours, zone_minutes = match.groups()
    days = _days(day, name, year)
    if days is None:
        return None
    h, m, s, zh, zm = int(hour), int(minute), int(second), int(zone_hours), int(zone_minutes)
    if h > 23 or m > 59 or s > 60 or zh > 23 or zm > 59:
        return None
    zone = zh * 3600 + zm * 60
    seconds = days * 86_400 + h * 3600 + m * 60 + s - (zone if sign == b"+" else -zone)
    return seconds * MICROSECONDS


@lru_cache(maxsize=1024)
def _days(day: bytes, month: bytes, year: bytes) -> int | None:
    """Days since the epoch; remembered, since a folder's messages share few days."""
    number = _MONTHS.get(month.lower())
    if number is None:
        return None
    try:
        return date(int(year), number, int(day)).toordinal() - _EPOCH
    except ValueError:
        return None


def format_search_date(day: date) -> str:
    """`7-Feb-2026` (RFC 9051 §9, date)."""
    return f"{day.day}-{_NAMES[day.month - 1]}-{day.year:04d}"


def format_internal_date(at: Instant) -> str:
    """` 7-Feb-2026 09:05:01 +0000` (RFC 9051 §9, date-time); fractions of a second have no place there.

    Raises ValueError outside the years 1 to 9999.
    """
    days, seconds = divmod(at // MICROSECONDS, 86_400)
    try:
        day = date.fromordinal(_EPOCH + days)
    except (ValueError, OverflowError):
        raise ValueError("a date outside the years 1 to 9999") from None
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{day.day:2d}-{_NAMES[day.month - 1]}-{day.year:04d} {hour:02d}:{minute:02d}:{second:02d} +0000"
