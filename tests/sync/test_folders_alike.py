"""Folders with the same UIDVALIDITY: servers that take it from the clock (Cyrus) give it to all that were made in one
second, and one of them may get the name of another while a session goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.memory import MemoryAccount
from mailgate.clock import HOUR, SECOND, system_clock
from tests.sync.engine import Engine, mail
from tests.sync.test_supervisor import QUICK, is_, running
from tests.waiting import until


@pytest.fixture(params=[(3, 6), (6, 3)], ids=str)
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    now = system_clock()
    account = MemoryAccount(condstore=True, qresync=True, now=now)
    for first, name, count in zip((0, 100), ("Work", "Play"), request.param, strict=True):
        account.create_folder(name).uidvalidity = 77
        for n in range(first, first + count):
            account.append(name, mail(n), internal_date=now - HOUR - n * SECOND)
    return account


@pytest.fixture
async def engine(sqlite_url: str, tmp_path: Path, account: MemoryAccount) -> AsyncIterator[Engine]:
    made = await Engine.open(sqlite_url, tmp_path, account, settings=QUICK, clock=system_clock)  # type: ignore[arg-type]
    yield made
    await made.close()


async def seen_in_both(engine: Engine, account: MemoryAccount) -> dict[bytes, str]:
    """After a change in each, in this session: which message has which id."""
    await until(is_(engine, "live"))
    for name in ("Work", "Play"):
        account.store_flags(name, 1, ["\\Seen"])

    async def arrived() -> bool:
        return sum(row.seen for row in await engine.rows("messages")) == 2

    await until(arrived)
    return {await engine.raw(row): row.id for row in await engine.rows("messages")}


async def test_one_takes_the_name_of_another_that_was_deleted(engine: Engine, account: MemoryAccount) -> None:
    async with running(engine):
        before = await seen_in_both(engine, account)
        gone = {message.raw for message in account.folders["Work"].messages.values()}
        account.delete_folder("Work")
        account.rename_folder("Play", "Work")
        account.append("Work", mail(999), internal_date=system_clock() - HOUR)

        async def equal() -> bool:
            copies = len(account.folders["Work"].messages)
            return len(await engine.rows("messages")) == copies and await engine.near() == engine.far()

        await until(equal)
    after = {await engine.raw(row): row.id for row in await engine.rows("messages")}
    assert {raw: id_ for raw, id_ in before.items() if raw not in gone}.items() <= after.items()


async def test_two_swap_their_names(engine: Engine, account: MemoryAccount) -> None:
    async with running(engine):
        before = await seen_in_both(engine, account)
        for name, to in (("Work", "Spare"), ("Play", "Work"), ("Spare", "Play")):
            account.rename_folder(name, to)
        account.append("Work", mail(999), internal_date=system_clock() - HOUR)

        async def equal() -> bool:
            return len(await engine.rows("messages")) == len(before) + 1 and await engine.near() == engine.far()

        await until(equal)
    after = {await engine.raw(row): row.id for row in await engine.rows("messages")}
    assert before.items() <= after.items()


async def test_three_change_their_names_round(engine: Engine, account: MemoryAccount) -> None:
    """A pass over one finds out that its numbers are another's, and looks into the others under that."""
    now = system_clock()
    account.create_folder("Rest").uidvalidity = 77
    for n in range(200, 204):
        account.append("Rest", mail(n), internal_date=now - HOUR - n * SECOND)
    async with running(engine):
        before = await seen_in_both(engine, account)
        for name, to in (("Work", "Spare"), ("Play", "Work"), ("Rest", "Play"), ("Spare", "Rest")):
            account.rename_folder(name, to)
        for n, name in enumerate(("Work", "Play", "Rest")):
            account.append(name, mail(999 + n), internal_date=system_clock() - HOUR)

        async def equal() -> bool:
            return len(await engine.rows("messages")) == len(before) + 3 and await engine.near() == engine.far()

        await until(equal)
    after = {await engine.raw(row): row.id for row in await engine.rows("messages")}
    assert before.items() <= after.items()
