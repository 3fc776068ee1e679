"""Keyset paging: a page begins after a key, never at an offset, so that it costs the same wherever it is and misses
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Row, Select

from mailgate.store.database import Database

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


async def page_by_id(
    db: Database,
    query: Select[Any],
    id_: ColumnElement[str],
    made: Callable[[Row[Any]], T],
    *,
    after: str | None,
    limit: int,
    newest_first: bool = True,
) -> Page[T]:
    """A page of what `query` selects, in the order of the column `id_`, selected as `id`. `made`: what a row is;
    `after`: the id that the last page ended with. The page's key is (id,).
    """
    query = query.order_by(id_.desc() if newest_first else id_).limit(limit + 1)
    if after is not None:
        query = query.where(id_ < after if newest_first else id_ > after)
    async with db.read() as conn:
        rows, more = cut((await conn.execute(query)).all(), limit)
    return Page([made(row) for row in rows], (rows[-1].id,) if more else None)
