"""Many rows at once, past SQLAlchemy's work for each value and each statement.

`insert_many`: COPY on PostgreSQL, one prepared statement on SQLite. Measured at 500 rows a batch: two to three times as
fast as a Core insert, whose time goes into a dict for each row and a function call for each value. Values must be what
the driver takes as it is: JSON as text, no SQL expressions.

`in_turn`: statements in the database's own words, one after the other, in one visit to SQLite's thread: the caller may
go on meanwhile, and is not asked for each of them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypeAlias

import asyncpg
from sqlalchemy import Table
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.store.sqlite_driver import is_visiting

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
    plain = [_insert(step) if isinstance(step, Insert) else step for step in steps]
    if is_visiting(conn):  # in SQLite's thread already
        return _on_sqlite(conn.driver_connection, plain)
    driver: Any = (await conn.get_raw_connection()).driver_connection
    found: list[Rows] = await driver._execute(_on_sqlite, driver, plain)
    return found


def _insert(step: Insert) -> Step:
    marks = ", ".join("?" * len(step.columns))
    sql = f"INSERT INTO {step.table.name} ({', '.join(step.columns)}) VALUES ({marks})"  # noqa: S608 - of the schema
    return Step(sql, step.rows, many=True)


def _on_sqlite(driver: Any, steps: Sequence[Step]) -> list[Rows]:
    connection: sqlite3.Connection = driver._conn
    cursor = connection.cursor()
    found: list[Rows] = []
    for sql, parameters, many in steps:
        try:
            if many:
                cursor.executemany(sql, parameters)
                found.append([])
            else:
                found.append(cursor.execute(sql, parameters).fetchall())
        except sqlite3.Error as error:
            raise DBAPIError.instance(sql, None, error, sqlite3.Error) from error
    cursor.close()
    return found


async def _on_postgresql(conn: AsyncConnection, steps: Sequence[Step | Insert]) -> list[Rows]:
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
