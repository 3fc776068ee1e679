"""Migrations lead to the schema that the code works with, from nothing, from any of two processes at once, and say no
to a newer one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from mailgate.errors import ConfigurationError
from mailgate.store import migrate
from mailgate.store.database import async_url
from mailgate.store.migrations.names import include_name
from mailgate.store.schema import metadata


async def test_the_migrated_database_is_what_the_schema_says(database_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": include_name})
        return list(compare_metadata(context, metadata))

    engine = create_async_engine(async_url(database_url))
    async with engine.connect() as connection:
        found = await connection.run_sync(differences)
    await engine.dispose()
    assert found == []


async def test_blobs_lose_their_keys_and_get_them_back(database_url: str) -> None:
    def keys(connection: Connection) -> set[tuple[str, str]]:
        found = inspect(connection)
        tables = ("messages", "submissions", "tombstones", "origins")
        return {(table, key["constrained_columns"][0]) for table in tables for key in found.get_foreign_keys(table)}

    def there_and_back(connection: Connection) -> list[set[tuple[str, str]]]:
        states = [keys(connection)]
        for step, revision in ((command.downgrade, "0026"), (command.upgrade, "head")):
            step(migrate.config(connection), revision)
            states.append(keys(connection))
        if connection.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        return states

    engine = create_async_engine(async_url(database_url))
    async with engine.begin() as connection:
        without, before, after = await connection.run_sync(there_and_back)
    async with engine.connect() as connection:
        assert await connection.run_sync(keys) == without
    await engine.dispose()
    assert without == after
    assert before - without == {("messages", "blob_id"), ("submissions", "blob_id"), ("tombstones", "tenant_id")}


async def test_migrating_again_and_at_once_changes_nothing(database_url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(migrate.upgrade, database_url) for _ in range(3)))
    assert await asyncio.to_thread(migrate.current, database_url) == migrate.newest()


async def test_processes_that_find_no_schema_at_once_make_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/folder/new.db"
    await asyncio.gather(*(asyncio.to_thread(migrate.upgrade, url) for _ in range(4)))
    assert await asyncio.to_thread(migrate.current, url) == migrate.newest()


async def test_processes_that_make_one_file_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """Of four, one in fifty was told that the database is locked."""
    for n in range(50):
        url = f"sqlite:///{tmp_path}/{n}.db"
        found = await asyncio.gather(*(asyncio.to_thread(migrate.current, url) for _ in range(4)))
        assert found == [None] * 4


async def test_a_schema_of_the_future_is_left_alone(database_url: str) -> None:
    engine = create_async_engine(async_url(database_url))
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await engine.dispose()
    with pytest.raises(ConfigurationError, match="newer than this program"):
        await asyncio.to_thread(migrate.upgrade, database_url)


def test_other_databases_are_refused() -> None:
    for url in ("mysql://localhost/x", "nonsense"):
        with pytest.raises(ConfigurationError):
            async_url(url)


def test_the_newest_schema_is_the_one_that_the_migrations_lead_to() -> None:
    assert migrate.newest() == ScriptDirectory.from_config(migrate.config()).get_current_head()
