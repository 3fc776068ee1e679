"""Keyset paging: a page begins after a key, never at an offset, so that it costs the same wherever it is and misses
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """`items` in order; `next_key` is where the next page goes on (None at the end). What it holds is the query's own
    business.
    """

    items: Sequence[T]
    next_key: tuple[str | int, ...] | None = None


def cut(rows: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    """Of `limit + 1` rows asked for: the page, and whether there is more."""
    return rows[:limit], len(rows) > limit
