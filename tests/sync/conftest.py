"""An engine on each database, over an account in memory; at the end of each test the store checks itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.memory import MemoryAccount
from tests.sync.engine import Engine


@pytest.fixture
def account() -> MemoryAccount:
    return MemoryAccount()


@pytest.fixture
async def engine(database_url: str, tmp_path: Path, account: MemoryAccount) -> AsyncIterator[Engine]:
    made = await Engine.open(database_url, tmp_path, account)
    yield made
    await made.close()
