"""The first import: everything inside the window, bytes identical, once."""

from __future__ import annotations

from connectors.memory import MemoryAccount
from mailgate.clock import DAY
from tests.sync.engine import NOW, Engine, mail


async def test_everything_inside_the_window_is_kept(engine: Engine, account: MemoryAccount) -> None:
    account.create_folder("Archive")
    for n in range(30):
        account.append("INBOX", mail(n), internal_date=NOW - n * DAY, flags=["\\Seen"] if n % 2 else [])
    account.append("Archive", mail(100), internal_date=NOW - 5 * DAY)
    account.append("Archive", mail(101), internal_date=NOW - 100 * DAY)
    await engine.sync()
    assert await engine.near() == engine.far(since=NOW - 90 * DAY)
    created = await engine.events("message.created")
    assert len(created) == 31
    assert all(event.payload["initial"] for event in created)
