"""An engine on each database, over an account in memory; at the end of each test the store checks itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from connectors.memory import MemoryAccount
from tests.sync.engine import Engine, Opened


@pytest.fixture
def account() -> MemoryAccount:
    return MemoryAccount()


@pytest.fixture
async def engine(database_url: str, tmp_path: Path, account: MemoryAccount) -> AsyncIterator[Engine]:
    made = await Engine.open(database_url, tmp_path, account)
    yield made
    await made.close()


@pytest.fixture
async def opened(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Opened]:
    """Opens an engine on SQLite with an account, settings or plan of the test's choice."""
    made: list[Engine] = []

    async def open_(account: MemoryAccount, **options: Any) -> Engine:
        made.append(await Engine.open(sqlite_url, tmp_path, account, **options))
        return made[-1]

    yield open_
    for engine in made:
        await engine.close()
