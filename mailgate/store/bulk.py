"""Many rows at once, past SQLAlchemy's work for each value and each statement.

`insert_many`: COPY on PostgreSQL, statements of many rows on SQLite. Measured with 500 rows a batch: two to three times
as fast as a Core insert, whose time goes into a dict for each row and a function call for each value. Values must be
what the driver takes as it is: JSON as text, no SQL expressions.

`in_turn`: statements in the database's own words, one after the other, in one visit to SQLite's thread: the caller may
go on meanwhile, and is not asked for each of them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Table
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.store.sqlite_driver import is_visiting

_ROWS = (250, 50, 10, 1)
"""So many rows SQLite inserts by one statement: few sizes, so that it is prepared once for each."""
_COPY_FROM = 16
"""From so many rows on COPY, with its two round trips, is faster."""

Rows: TypeAlias = list[tuple[Any, ...]]


class Step(NamedTuple):
    """One statement, with `?` or `$1` as the database spells them: once with its parameters, or `many` times."""

    sql: str
    parameters: Sequence[Any] = ()
    many: bool = False


class Insert(NamedTuple):
    """Rows of these columns, in this order; columns left out get their default."""

    table: Table
    columns: Sequence[str]
    rows: Sequence[tuple[Any, ...]]


def ids_of(ids: Collection[str], *, sqlite: bool) -> Any:
    """A set of ids as the one parameter of a statement with `AMONG[sqlite]`: text, since asyncpg asks each member of an
    array several times of what kind it is.
    """
    return json.dumps(list(ids)) if sqlite else ",".join(ids)


AMONG = {True: "IN (SELECT value FROM json_each(?))", False: "= ANY(string_to_array($1, ','))"}
"""What stands behind a column in a statement, by whether it is SQLite's: whether it is one of `ids_of`."""


async def insert_many(
    conn: AsyncConnection, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]], *, sqlite: bool
) -> None:
    """Insert rows in the open transaction. Raises what a Core insert raises: IntegrityError, DBAPIError."""
    if rows:
        await in_turn(conn, [Insert(table, columns, rows)], sqlite=sqlite)


async def in_turn(conn: AsyncConnection, steps: Sequence[Step | Insert], *, sqlite: bool) -> list[Rows]:
    """Carry out the steps in the open transaction; the rows that each gave, as the driver gives them.

    Raises what SQLAlchemy raises for them: IntegrityError, DBAPIError. What came before a step that fails is not undone
    here: the transaction is.
    """
    if not sqlite:
        return await _on_postgresql(conn, steps)
    if is_visiting(conn):  # in SQLite's thread already
        return _on_sqlite(conn.driver_connection, steps)
    driver: Any = (await conn.get_raw_connection()).driver_connection
    found: list[Rows] = await driver._execute(_on_sqlite, driver, steps)
    return found


def _on_sqlite(driver: Any, steps: Sequence[Step | Insert]) -> list[Rows]:
    connection: sqlite3.Connection = driver._conn
    cursor = connection.cursor()
    found: list[Rows] = []
    for step in steps:
        try:
            found.append(_sqlite_step(cursor, step))
        except sqlite3.Error as error:
            raise DBAPIError.instance(_name(step), None, error, sqlite3.Error) from error
    cursor.close()
    return found


def _sqlite_step(cursor: sqlite3.Cursor, step: Step | Insert) -> Rows:
    if isinstance(step, Step):
        if step.many:
            cursor.executemany(step.sql, step.parameters)
            return []
        return cursor.execute(step.sql, step.parameters).fetchall()
    # By the hundred, since SQLite's thread lets go of the interpreter's lock for each execution and waits for it again:
    # beside a thread that never pauses that costs sixty times the row itself.
    table, columns, rows = step.table.name, tuple(step.columns), step.rows
    start = 0
    for count in _ROWS:
        while len(rows) - start >= count:
            cursor.execute(_insert(table, columns, count), [*chain.from_iterable(rows[start : start + count])])
            start += count
    return []


@lru_cache(maxsize=256)
def _insert(table: str, columns: tuple[str, ...], count: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * count)}"  # noqa: S608 - of the schema


async def _on_postgresql(conn: AsyncConnection, steps: Sequence[Step | Insert]) -> list[Rows]:
    import asyncpg  # with SQLite it is not needed, and takes 2 MB

    driver: Any = (await conn.get_raw_connection()).driver_connection
    if not driver.is_in_transaction():  # SQLAlchemy begins one with the first statement that it is given
        await conn.exec_driver_sql("SELECT 1")
    found: list[Rows] = []
    for step in steps:
        try:
            found.append(await _postgresql_step(driver, step))
        except asyncpg.IntegrityConstraintViolationError as error:
            raise IntegrityError(_name(step), None, error) from error
        except asyncpg.DataError as error:
            raise DataError(_name(step), None, error) from error
        except asyncpg.PostgresError as error:
            raise DBAPIError(_name(step), None, error) from error
    return found


async def _postgresql_step(driver: Any, step: Step | Insert) -> Rows:
    if isinstance(step, Step):
        if step.many:
            await driver.executemany(step.sql, step.parameters)
            return []
        rows: Rows = await driver.fetch(step.sql, *step.parameters)
        return rows
    table, columns, values = step.table.name, list(step.columns), step.rows
    if len(values) >= _COPY_FROM:
        await driver.copy_records_to_table(table, records=values, columns=columns)
    elif values:
        marks = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names of the schema
        await driver.executemany(sql, values)
    return []


def _name(step: Step | Insert) -> str:
    return step.sql if isinstance(step, Step) else f"INSERT INTO {step.table.name}"
