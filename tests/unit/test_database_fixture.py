"""The database fixtures: each test has a database of its own."""

from __future__ import annotations

import sqlalchemy as sa

from mailgate.store.database import Database


async def tables(url: str) -> set[str]:
    database = Database(url)
    try:
        async with database.read() as connection:
            return set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))
    finally:
        await database.close()


async def test_migrated_database_has_the_tables_and_no_rows(database_url: str) -> None:
    found = await tables(database_url)
    assert "tenants" in found
    database = Database(database_url)
    try:
        async with database.read() as connection:
            assert (await connection.exec_driver_sql("SELECT count(*) FROM tenants")).scalar() == 0
    finally:
        await database.close()


async def test_empty_database_has_no_tables(empty_database_url: str) -> None:
    assert await tables(empty_database_url) == set()
