"""What was moved is recognised by its header: its bytes, of which there may be many, are not fetched a second time."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.memory import MemoryAccount
from connectors.memory.source import MemorySource
from mailgate.clock import DAY
from tests.sync.engine import NOW, Engine, Opened, mail
from tests.sync.test_arrivals import here
from tests.sync.test_push_live import SLOW, is_live, running
from tests.waiting import until

LARGE = mail(1, body="x" * 300_000)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Octets of each message that was fetched whole."""
    found: list[int] = []
    fetch = MemorySource.fetch_bodies

    async def watched(self: MemorySource, *args: Any) -> Any:
        async for message in fetch(self, *args):
            found.append(message.octets)
            yield message

    monkeypatch.setattr(MemorySource, "fetch_bodies", watched)
    return found


@pytest.fixture(params=["qresync", "condstore", "plain"])
async def engine(request: pytest.FixtureRequest, opened: Opened) -> Engine:
    has = request.param
    account = MemoryAccount(condstore=has != "plain", qresync=has == "qresync")
    account.create_folder("Aside")  # it is passed over before those that messages are moved from
    account.create_folder("Work")
    account.append("Work", LARGE, internal_date=NOW - DAY)
    for n in range(2, 5):
        account.append("Work", mail(n), internal_date=NOW - DAY)
    engine = await opened(account)
    await engine.sync()
    return engine


async def test_a_move_is_recognised_before_its_bytes_come(engine: Engine, fetched: list[int]) -> None:
    before = await engine.rows("messages")
    fetched.clear()
    engine.account.move("Work", 1, "Aside")
    engine.account.move("Work", 2, "Aside")
    engine.account.append("Aside", mail(9), internal_date=NOW)
    await engine.sync()
    assert fetched == [len(mail(9))]
    assert await engine.near() == engine.far()
    assert {row.id for row in before} < {row.id for row in await engine.rows("messages")}


async def test_a_copy_comes_once(engine: Engine, fetched: list[int]) -> None:
    fetched.clear()
    engine.account.append("Aside", LARGE, internal_date=NOW - DAY)
    await engine.sync()
    assert fetched == [len(LARGE)]
    assert await engine.near() == engine.far()


@pytest.mark.parametrize("copied", [False, True])
async def test_what_is_put_into_the_folder_of_idle_comes_no_more_often_than_needed(
    opened: Opened, fetched: list[int], *, copied: bool
) -> None:
    """There new mail is fetched at once; once it is known that it may have been moved, its header is looked at."""
    account = MemoryAccount(now=NOW)
    account.create_folder("Work")
    account.append("Work", LARGE, internal_date=NOW - DAY)
    account.append("INBOX", mail(2), internal_date=NOW - DAY)
    engine = await opened(account, settings=SLOW)
    async with running(engine):
        await until(lambda: is_live(engine))
        await here(engine, 2)
        fetched.clear()
        if copied:
            account.append("INBOX", LARGE, internal_date=NOW - DAY)
        else:
            account.move("Work", 1, "INBOX")

        async def agrees() -> bool:
            return account.commands[-1] == "IDLE" and await engine.near() == engine.far()

        await until(agrees)
    assert fetched == [len(LARGE)] * (1 + copied)
    assert len(await engine.rows("messages")) == 2 + copied
