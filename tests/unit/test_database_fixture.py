"""The database fixtures: each test has a database of its own."""

from __future__ import annotations

import asyncpg
import pytest
import sqlalchemy as sa

from mailgate.store.database import Database
from tests.postgres import Postgres


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


async def test_statements_of_one_database_are_known_to_the_next(database_url: str) -> None:
    compiled: list[object] = []
    for _ in range(3):
        database = Database(database_url)
        async with database.read() as connection:
            result = await connection.execute(sa.select(sa.literal("an unusual statement")))
            assert result.scalar_one() == "an unusual statement"
            compiled.append(result.context.compiled)
        await database.close()
    assert compiled[1] is compiled[2] is not None


@pytest.mark.postgresql
async def test_what_is_lent_again_is_as_new(postgres: Postgres, postgres_template: str) -> None:
    name = postgres.lend(postgres_template)
    left_open = await asyncpg.connect(postgres.url(name))
    await left_open.execute("INSERT INTO leases VALUES ('mailbox:1', 'one', 1, 1); DELETE FROM leases")
    await left_open.execute("INSERT INTO leases VALUES ('mailbox:2', 'one', 1, 1)")
    await left_open.execute("SELECT nextval('search_docs_doc_seq')")
    postgres.returned(name)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await left_open.execute("SELECT 1")
    assert postgres.lend(postgres_template) == name
    line = await asyncpg.connect(postgres.url(name))
    assert await line.fetchval("SELECT pg_relation_size('leases')") == 0
    assert await line.fetchval("SELECT nextval('search_docs_doc_seq')") == 1
    assert await line.fetchval("SELECT version_num FROM alembic_version")
    await line.close()
    postgres.returned(name)


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE leases ADD COLUMN more int",
        "ALTER TABLE leases ALTER COLUMN owner DROP NOT NULL",
        "DROP TABLE leases",
        "CREATE TABLE more ()",
        "CREATE RULE none AS ON DELETE TO leases DO INSTEAD NOTHING",
        "ALTER TABLE leases ADD CHECK (fence > 0)",
        "DROP INDEX ix_blob_erasures_next_at",
        "UPDATE alembic_version SET version_num = 'x'",
    ],
)
async def test_what_was_changed_in_more_than_rows_is_not_lent_again(
    postgres: Postgres, postgres_template: str, change: str
) -> None:
    name = postgres.lend(postgres_template)
    line = await asyncpg.connect(postgres.url(name))
    await line.execute(change)
    await line.close()
    postgres.returned(name)
    other = postgres.lend(postgres_template)
    assert other != name
    postgres.returned(other)
