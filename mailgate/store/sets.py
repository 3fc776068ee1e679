"""A set of values as one parameter of a statement, whatever its size: the statement's text stays the same, so it is
prepared once, and no limit on the number of parameters is met.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, ColumnElement, LargeBinary, String, any_, bindparam, func, literal, select
from sqlalchemy.types import TypeEngine


def among(column: ColumnElement[Any], ids: Collection[str], *, sqlite: bool) -> ColumnElement[bool]:
    """Whether the column is one of the ids. SQLite: `IN (SELECT value FROM json_each(?))`, PostgreSQL: `= ANY(?)`."""
    return _json_each(column, ids) if sqlite else _any(column, ids, String())


def among_numbers(column: ColumnElement[Any], numbers: Collection[int], *, sqlite: bool) -> ColumnElement[bool]:
    """The same for whole numbers."""
    return _json_each(column, numbers) if sqlite else _any(column, numbers, BigInteger())


_TOKEN: Final = 32
"""Octets of a keyed token (HMAC-SHA256)."""


def among_tokens(column: ColumnElement[Any], *, sqlite: bool) -> ColumnElement[bool]:
    """Whether the column is one of the keyed tokens that the statement is given with `tokens_of` when it is executed.
    SQLite has no JSON of bytes: they come one after the other in one value, which is cut there.
    """
    if not sqlite:
        return column.in_(bindparam("tokens", expanding=True))
    each = select(literal(0).label("n")).cte("each", recursive=True)
    each = each.union_all(select(each.c.n + 1).where(each.c.n + 1 < bindparam("token_count")))
    cut = func.substr(bindparam("tokens", type_=LargeBinary), 1 + _TOKEN * each.c.n, _TOKEN, type_=LargeBinary)
    return column.in_(select(cut))


def tokens_of(tokens: Collection[bytes], *, sqlite: bool) -> dict[str, Any]:
    """Parameters of a statement with `among_tokens`."""
    return {"tokens": b"".join(tokens), "token_count": len(tokens)} if sqlite else {"tokens": list(tokens)}


def _json_each(column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
    each = func.json_each(literal(json.dumps(list(values)), String)).table_valued("value")
    return column.in_(select(each.c.value))


def _any(column: ColumnElement[Any], values: Collection[Any], kind: TypeEngine[Any]) -> ColumnElement[bool]:
    return column == any_(literal(list(values), ARRAY(kind)))
