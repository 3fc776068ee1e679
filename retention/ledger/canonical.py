"""Canonical JSON and instants: one value, one sequence of bytes. Pure.

The form is that of RFC 8785 for the values that leaves hold: objects with ASCII keys, strings, integers within
±(2**53 - 1), booleans and lists. Without floats and with ASCII keys the standard library's sorted, compact output *is*
that form. An instant is an int, microseconds since the epoch in UTC; its text always has six digits after the point.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any

MAX_INT = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 8785 section 3.2.2.3, RFC 7493 section 2.2)."""

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - naive on purpose: UTC by definition, no zone to consult
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}\.[0-9]{6}Z", re.ASCII)
_DAY = 86_400_000_000
_TWO = [f"{number:02d}" for number in range(60)]
_MICROSECOND = timedelta(microseconds=1)


class CanonicalError(ValueError):
    """A value has no canonical form, or bytes are not in it."""


def encode(value: object) -> bytes:
    """Canonical JSON of a value. Raises CanonicalError for what a leaf may not hold (floats, None, odd keys…)."""
    check_value(value)
    return encode_checked(value)


def encode_checked(value: object) -> bytes:
    """`encode` for a value whose types were checked already."""
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        raise CanonicalError("a string holds half a surrogate pair") from None


def decode(data: bytes) -> Any:
    """The value whose canonical JSON `data` is, byte for byte. Raises CanonicalError."""
    value = read(data)
    check_value(value)
    if encode_checked(value) != data:
        raise CanonicalError("not in canonical form")
    return value


def load(data: bytes) -> Any:
    """Any JSON value, in which no member is named twice: readers would not agree which of them counts (RFC 8259
    section 4). Raises CanonicalError, whatever the bytes are.
    """
    return read(data, members=_members)


def read(data: bytes, members: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None) -> Any:
    """Any JSON value, for what is compared with its canonical form afterwards. Raises CanonicalError."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=members)
    except CanonicalError:
        raise
    except (ValueError, RecursionError):
        raise CanonicalError("not JSON") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise CanonicalError("a member is there twice")
    return members


def check_value(value: object) -> None:
    """Raise CanonicalError unless `value` is of the kinds that a leaf may hold, all the way down."""
    try:
        _check(value)
    except RecursionError:
        raise CanonicalError("nested too deep") from None


def _check(value: object) -> None:
    if isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if not -MAX_INT <= value <= MAX_INT:
            raise CanonicalError("an integer beyond 2**53 - 1")
    elif isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise CanonicalError("a key that is not ASCII")
            _check(item)
    else:
        raise CanonicalError(f"no {type(value).__name__} in a leaf")


def format_instant(instant: int) -> str:
    """An instant as RFC 3339, such as `2026-01-02T03:04:05.000006Z`. Raises CanonicalError outside years 1 to 9999."""
    day, rest = divmod(instant, _DAY)
    minutes, rest = divmod(rest, 60_000_000)
    second, fraction = divmod(rest, 1_000_000)
    return f"{_day(day)}T{_TWO[minutes // 60]}:{_TWO[minutes % 60]}:{_TWO[second]}.{fraction:06d}Z"


@lru_cache(maxsize=512)
def _day(number: int) -> str:
    """The date of a day, counted from the epoch's: a log names few of them, and each a thousand times."""
    try:
        return date.fromordinal(_EPOCH.toordinal() + number).isoformat()
    except (OverflowError, ValueError):
        raise CanonicalError("an instant outside the years 1 to 9999") from None


def parse_instant(text: str) -> int:
    """The instant of a text that `format_instant` wrote. Raises CanonicalError for any other spelling."""
    if not _INSTANT.fullmatch(text):
        raise CanonicalError(f"not an instant: {text[:40]!r}")
    try:
        return (datetime.fromisoformat(text[:-1]) - _EPOCH) // _MICROSECOND
    except ValueError:
        raise CanonicalError(f"not an instant: {text[:40]!r}") from None
