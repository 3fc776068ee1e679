"""A message that the server did not show when it came, below what is known by now: it alone is fetched, however many
stand around it, and what was purged among them stays away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from connectors.memory import MemoryAccount
from connectors.memory.source import MemorySource
from mailgate.clock import DAY
from mailgate.sync import execute
from tests.sync.engine import NOW, Engine, mail

PURGED, COUNT = 4, 7


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """UIDs whose bytes were asked for."""
    asked: list[int] = []
    real = MemorySource.fetch_bodies

    def fetch(self: MemorySource, uids: Sequence[int], open_sink: Callable[[int], Any]) -> Any:
        asked.extend(uids)
        return real(self, uids, open_sink)

    monkeypatch.setattr(MemorySource, "fetch_bodies", fetch)
    return asked


@pytest.mark.parametrize("hidden", [1, 3, COUNT])
async def test_it_alone_is_fetched(
    engine: Engine, account: MemoryAccount, fetched: list[int], hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "CHUNK", 2)
    for uid in range(1, COUNT + 1):
        account.append("INBOX", mail(uid), internal_date=NOW - (80 if uid == PURGED else 1) * DAY)
    messages = account.folders["INBOX"].messages
    left_out = messages.pop(hidden)
    await engine.sync()
    await engine.plan("crm_plus")
    await engine.purge()
    await engine.plan("professional")
    account.folders["INBOX"].messages = dict(sorted([*messages.items(), (hidden, left_out)]))
    fetched.clear()
    for _ in range(2):
        engine.clock.advance(600)
        await engine.sync()
    assert fetched == [hidden]
    assert await engine.near() == engine.far(since=NOW - 2 * DAY)
