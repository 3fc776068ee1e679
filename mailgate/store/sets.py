"""A set of values as one parameter of a statement, whatever its size: the statement's text stays the same, so it is
prepared once, and no limit on the number of parameters is met.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, String, any_, func, literal, select
from sqlalchemy.types import TypeEngine


def among(column: ColumnElement[Any], ids: Collection[str], *, sqlite: bool) -> ColumnElement[bool]:
    """Whether the column is one of the ids. SQLite: `IN (SELECT value FROM json_each(?))`, PostgreSQL: `= ANY(?)`."""
    return _json_each(column, ids) if sqlite else _any(column, ids, String())


def among_numbers(column: ColumnElement[Any], numbers: Collection[int], *, sqlite: bool) -> ColumnElement[bool]:
    """The same for whole numbers."""
    return _json_each(column, numbers) if sqlite else _any(column, numbers, BigInteger())


def _json_each(column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
    each = func.json_each(literal(json.dumps(list(values)), String)).table_valued("value")
    return column.in_(select(each.c.value))


def _any(column: ColumnElement[Any], values: Collection[Any], kind: TypeEngine[Any]) -> ColumnElement[bool]:
    return column == any_(literal(list(values), ARRAY(kind)))
