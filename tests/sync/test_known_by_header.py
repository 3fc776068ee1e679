"""A folder that is new holds what is known: in whatever way a copy, or what was purged, waits to be recognised, headers
are all that is asked for. What is new is fetched after that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from connectors.memory import MemoryAccount
from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.store.expiry import Expiry
from mailgate.store.pins import Pins
from retention.model import Graces
from tests.sync.engine import NOW, Engine, mail

pytestmark = pytest.mark.usefixtures("imported")

YOUNG, OLD = mail(1), mail(2)
OLD_AT = NOW - 80 * DAY


@pytest.fixture
async def imported(engine: Engine, account: MemoryAccount) -> None:
    """A young message in INBOX, an old one in a folder of its own, and one that nobody touches."""
    account.create_folder("Old")
    account.append("INBOX", YOUNG, internal_date=NOW - DAY)
    account.append("Old", OLD, internal_date=OLD_AT)
    account.append("INBOX", mail(3), internal_date=NOW - DAY)
    await again(engine)


async def again(engine: Engine) -> None:
    engine.clock.advance(600)
    await engine.sync()


async def purge(engine: Engine) -> None:
    """The old one's time comes; the plan that follows would have kept it."""
    await engine.plan("crm_plus")
    await engine.purge()
    assert len(await engine.rows("tombstones")) == 1
    await engine.plan("professional")


WHOLE_AND_HEADERS = ("FETCH bodies", "FETCH headers")


async def asked(engine: Engine, account: MemoryAccount) -> list[str]:
    """What one more pass fetches."""
    before = len(account.commands)
    await again(engine)
    return [command.removeprefix("FETCH ") for command in account.commands[before:] if command in WHOLE_AND_HEADERS]


def uid_of(account: MemoryAccount, folder: str, raw: bytes) -> int:
    return next(uid for uid, message in account.folders[folder].messages.items() if message.raw == raw)


async def test_a_copy_whose_original_is_missed(engine: Engine, account: MemoryAccount) -> None:
    """It went, and not every folder to which it may have been moved could be looked at since."""
    before = {row.id for row in await engine.rows("messages")}
    account.faults.refuse.add("Old")
    account.expunge("INBOX", uid_of(account, "INBOX", YOUNG))
    await again(engine)
    account.create_folder("New")
    account.append("New", YOUNG, internal_date=NOW - DAY)
    assert await asked(engine, account) == ["headers"]
    account.faults.refuse.clear()
    await again(engine)
    assert {row.id for row in await engine.rows("messages")} == before
    assert await engine.near() == engine.far()


async def test_a_copy_without_an_original(engine: Engine, account: MemoryAccount) -> None:
    """A pin kept it when its original went."""
    before = {row.id for row in await engine.rows("messages")}
    (young,) = [row for row in await engine.rows("messages") if await engine.raw(row) == YOUNG]
    await engine.pin(young.id)
    account.expunge("INBOX", uid_of(account, "INBOX", YOUNG))
    for _ in range(2):
        await again(engine)
    assert young.id not in {row.message_id for row in await engine.rows("origins")}
    account.create_folder("New")
    account.append("New", YOUNG, internal_date=NOW - DAY)
    assert await asked(engine, account) == ["headers"]
    assert {row.id for row in await engine.rows("messages")} == before


async def test_inbox_renumbered(engine: Engine, account: MemoryAccount) -> None:
    """All of it stands there under other numbers: nothing is fetched twice, and every message keeps its id."""
    before = {row.id for row in await engine.rows("messages")}
    account.change_uidvalidity("INBOX")
    assert await asked(engine, account) == ["headers"]
    assert {row.id for row in await engine.rows("messages")} == before
    assert await engine.near() == engine.far()


async def gone(engine: Engine, account: MemoryAccount) -> None:
    """Purged, then its original went."""
    await purge(engine)
    account.expunge("Old", 1)
    await again(engine)
    (grave,) = await engine.rows("tombstones")
    assert grave.gone_at is not None


async def never_anywhere(engine: Engine, account: MemoryAccount) -> None:
    """Its original went while a pin kept the copy, which was purged later: nobody knows an address."""
    (old,) = [row for row in await engine.rows("messages") if await engine.raw(row) == OLD]
    await engine.pin(old.id)
    account.expunge("Old", 1)
    for _ in range(2):
        await again(engine)
    pins = Pins(engine.db, engine.ring, engine.log, Expiry(engine.subscriptions, Graces()))
    await engine.plan("crm_plus")
    await pins.remove(engine.tenant_id, old.id, "deal", "D", now=engine.clock(), actor=SYSTEM)
    await purge(engine)
    (grave,) = await engine.rows("tombstones")
    assert (grave.folder, grave.gone_at) == (None, None)


async def in_a_folder_that_is_gone(engine: Engine, account: MemoryAccount) -> None:
    await purge(engine)
    account.delete_folder("Old")
    await again(engine)
    (grave,) = await engine.rows("tombstones")
    assert (grave.folder, grave.gone_at) == ("Old", None)


@pytest.mark.parametrize("how", [gone, never_anywhere, in_a_folder_that_is_gone])
async def test_what_was_purged(
    engine: Engine, account: MemoryAccount, how: Callable[[Engine, MemoryAccount], Awaitable[None]]
) -> None:
    await how(engine, account)
    account.create_folder("New")
    account.append("New", OLD, internal_date=OLD_AT)
    assert await asked(engine, account) == ["headers"]
    assert len(await engine.rows("messages")) == 2


async def test_what_was_purged_in_a_folder_that_was_made_anew(engine: Engine, account: MemoryAccount) -> None:
    """Under the same name, so that its address looks as if it were valid."""
    await purge(engine)
    account.delete_folder("Old")
    await again(engine)
    account.create_folder("Old")
    account.append("Old", OLD, internal_date=OLD_AT)
    assert await asked(engine, account) == ["headers"]
    assert len(await engine.rows("messages")) == 2


async def test_nothing(engine: Engine, account: MemoryAccount) -> None:
    """What was purged and stands where it stood does not wait, and is not taken for what is new."""
    await purge(engine)
    account.create_folder("New")
    account.append("New", mail(4), internal_date=NOW)
    assert await asked(engine, account) == ["headers", "bodies"]
    assert await engine.near() == engine.far(since=NOW - 2 * DAY)
