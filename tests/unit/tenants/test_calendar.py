"""Months as they are sold."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mailgate.clock import from_datetime
from mailgate.tenants.calendar import LATEST, add_months, day_of_month, day_start, month_start, next_month_start


@pytest.mark.parametrize(
    ("start", "months", "day", "end"),
    [
        ((2026, 1, 31), 1, None, (2026, 2, 28)),
        ((2024, 1, 31), 1, None, (2024, 2, 29)),
        ((2026, 2, 28), 1, 31, (2026, 3, 31)),
        ((2026, 2, 28), 1, None, (2026, 3, 28)),
        ((2024, 2, 29), 12, None, (2025, 2, 28)),
        ((2027, 2, 28), 12, 29, (2028, 2, 29)),
        ((2026, 12, 31), 2, None, (2027, 2, 28)),
        ((2026, 2, 15), 0, 31, (2026, 2, 28)),
        ((2026, 1, 1, 23, 59, 59, 999_999), 12, None, (2027, 1, 1, 23, 59, 59, 999_999)),
    ],
)
def test_months_keep_the_day_as_far_as_the_month_reaches(
    start: tuple[int, ...], months: int, day: int | None, end: tuple[int, ...]
) -> None:
    assert add_months(_at(*start), months, day=day) == _at(*end)


def test_no_month_is_beyond_the_calendar() -> None:
    assert add_months(_at(9999, 11, 30), 1) == LATEST
    assert add_months(_at(9999, 11, 30, 0, 0, 1), 1) == LATEST
    assert add_months(_at(9999, 12, 1), 120) == LATEST
    assert add_months(LATEST, 1) == LATEST


def test_days_and_months_begin_at_midnight_in_utc() -> None:
    late = _at(2026, 12, 31, 23, 59, 59, 999_999)
    assert day_of_month(late) == 31
    assert day_of_month(late + 1) == 1
    assert day_start(late) == _at(2026, 12, 31)
    assert day_start(_at(2026, 12, 31)) == _at(2026, 12, 31)
    assert month_start(late) == _at(2026, 12, 1)
    assert next_month_start(late) == next_month_start(_at(2026, 12, 1)) == _at(2027, 1, 1)


def _at(year: int, month: int, day: int, *time: int) -> int:
    hour, minute, second, microsecond = (*time, 0, 0, 0, 0)[:4]
    return from_datetime(datetime(year, month, day, hour, minute, second, microsecond, tzinfo=UTC))
