"""A set of values as one parameter of a statement, whatever its size: the statement's text stays the same, so it is
prepared once, and no limit on the number of parameters is met.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, LargeBinary, String, any_, bindparam, func, literal, select
from sqlalchemy.types import TypeEngine

from mailgate.messages.timed import HOUR, MAC, TIMED, untimed


def among(column: ColumnElement[Any], ids: Collection[str], *, sqlite: bool) -> ColumnElement[bool]:
    """Whether the column is one of the ids. SQLite: `IN (SELECT value FROM json_each(?))`, PostgreSQL: `= ANY(?)`."""
    return _json_each(column, ids) if sqlite else _any(column, ids, String())


def among_numbers(column: ColumnElement[Any], numbers: Collection[int], *, sqlite: bool) -> ColumnElement[bool]:
    """The same for whole numbers."""
    return _json_each(column, numbers) if sqlite else _any(column, numbers, BigInteger())


def among_tokens(column: ColumnElement[Any], *, sqlite: bool, or_untimed: bool = False) -> ColumnElement[bool]:
    """Whether the column is one of the timed tokens that the statement is given with `tokens_of` when it is executed,
    or one of them as it was before tokens had a time. SQLite has no JSON of bytes: they come one after the other in one
    value, which is cut there.
    """
    if not sqlite:
        return column.in_(bindparam("tokens", expanding=True))
    each = select(literal(0).label("n")).cte("each", recursive=True)
    each = each.union_all(select(each.c.n + 1).where(each.c.n + 1 < bindparam("token_count")))
    joined, start = bindparam("tokens", type_=LargeBinary), 1 + TIMED * each.c.n
    whole = select(func.substr(joined, start, TIMED, type_=LargeBinary))
    return column.in_(whole.union_all(select(func.substr(joined, start + HOUR, MAC))) if or_untimed else whole)


def tokens_of(tokens: Collection[bytes], *, sqlite: bool, or_untimed: bool = False) -> dict[str, Any]:
    """Parameters of a statement with `among_tokens`."""
    if sqlite:
        return {"tokens": b"".join(tokens), "token_count": len(tokens)}
    return {"tokens": [*tokens, *map(untimed, tokens)] if or_untimed else list(tokens)}


def _json_each(column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
    each = func.json_each(literal(json.dumps(list(values)), String)).table_valued("value")
    return column.in_(select(each.c.value))


def _any(column: ColumnElement[Any], values: Collection[Any], kind: TypeEngine[Any]) -> ColumnElement[bool]:
    return column == any_(literal(list(values), ARRAY(kind)))
