"""Tokens that begin with the hour of the Date field: the same header gives the same, whoever reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.messages.headers import header_digest_input, parse_date
from mailgate.messages.timed import HOUR, hour_of, untimed

_A_HOUR = 3_600 * 1_000_000


def _hour(date: str) -> int:
    return int.from_bytes(hour_of(f"From: a@example.com\nDate: {date}\nSubject: x".encode()), "big")


@pytest.mark.parametrize(
    "date",
    [
        "Fri, 21 Nov 1997 09:55:06 -0600",
        "1 Jan 1970 00:00:00 +0000",
        "Thu, 29 Feb 2024 23:59 +0100",
        "Sat,  1 Mar 2025 00:10:00 -1130 (HST)",
        "mon, 3 MAR 2025 07:00",
        "31 Dec 2079 23:59:59 GMT",
    ],
)
def test_the_hour_is_that_of_the_date_field(date: str) -> None:
    at = parse_date(date)
    assert at is not None
    assert abs(at // _A_HOUR - _hour(date)) <= 1  # minutes of a zone are not counted


def test_it_is_exact_where_the_zone_has_whole_hours() -> None:
    assert _hour("Fri, 21 Nov 1997 09:55:06 -0600") == 10_186 * 24 + 15


@pytest.mark.parametrize(
    "date", ["", "yesterday", "21 Foo 1997 09:55:06 -0600", "Fri, 21 Nov 97 09:55:06 GMT", "21 Nov 1900 01:00:00 +0000"]
)
def test_what_is_no_usual_date_has_hour_zero(date: str) -> None:
    assert _hour(date) == 0


def test_only_the_first_field_counts_whatever_its_case() -> None:
    first, other = b"date: 1 Jan 2020 01:00:00 +0000", b"Date: 1 Jan 2021 01:00:00 +0000"
    assert hour_of(first + b"\n" + other) == hour_of(first) != hour_of(other)
    assert hour_of(b"Subject: x\n" + other) == hour_of(other)
    assert hour_of(b"Subject: x\n Date: 1 Jan 2020 01:00:00 +0000") == bytes(HOUR)
    assert hour_of(b"X-Date: 1 Jan 2020 01:00:00 +0000") == bytes(HOUR)


@given(st.binary(max_size=200), st.binary(max_size=80))
def test_any_bytes_have_an_hour_and_line_ends_change_nothing(before: bytes, value: bytes) -> None:
    header = before.replace(b"\r", b"") + b"\nDate: 9" + value.replace(b"\r", b"") + b"\n\n"
    assert len(hour_of(header)) == HOUR
    assert hour_of(header_digest_input(header)) == hour_of(header_digest_input(header.replace(b"\n", b"\r\n")))


@given(
    st.integers(0, 99), st.integers(0, 99), st.integers(1900, 2099), st.sampled_from(["+9900", "-9900", "+0000", ""])
)
def test_numbers_that_are_no_time_break_nothing(day: int, hour: int, year: int, zone: str) -> None:
    assert 0 <= _hour(f"{day} Jan {year} {hour:02}:00:00 {zone}") < 1 << 24


def test_the_mac_is_what_is_left() -> None:
    mac = bytes(range(32))
    assert untimed(b"abc" + mac) == untimed(mac) == mac
