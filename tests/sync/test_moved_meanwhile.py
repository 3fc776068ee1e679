"""Messages that a person moves while a pass looks: each keeps its id, and what may still come is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from connectors.memory import MemoryAccount
from connectors.memory.line import MemoryLine
from mailgate.clock import DAY
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Opened, mail
from tests.sync.test_push import again, agrees, server, start

OFFERS = {
    "qresync": {},
    "condstore": {"qresync": False},
    "plain": {"qresync": False, "condstore": False},
}


@pytest.fixture(params=OFFERS)
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    return server(**OFFERS[request.param])


@pytest.fixture
async def crm(opened: Opened, account: MemoryAccount) -> Crm:
    return await start(opened, account)


@contextmanager
def before(*steps: tuple[str, Callable[[], object]]) -> Iterator[None]:
    """Each deed is done once, in turn, before the next round trip that begins with these words."""
    left = list(steps)
    real = MemoryLine._step

    async def step(line: MemoryLine, command: str | None) -> None:
        if left and command is not None and command.startswith(left[0][0]):
            left.pop(0)[1]()
        await real(line, command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryLine, "_step", step)
        yield


async def test_moved_out_and_back_while_the_list_is_in_doubt(crm: Crm, account: MemoryAccount) -> None:
    """Another message goes between EXAMINE and SEARCH: the count does not agree, so nothing is said to be gone."""
    id_ = await crm.id(1)
    await crm.engine.pin(id_)
    account.move("Work", account.move("INBOX", 2, "Work"), "INBOX")
    reading = "SEARCH" if account.condstore else "FETCH"
    with before(("EXAMINE INBOX", lambda: None), (reading, lambda: account.move("INBOX", 6, "Archive"))):
        await again(crm)
    assert await crm.id(1) == id_
    await again(crm)
    assert await crm.stands(1) == [("INBOX", 7)]
    assert await agrees(crm)
    assert len(await crm.engine.events("message.created")) == 8


async def test_moved_from_a_folder_that_is_in_doubt_each_time(crm: Crm, account: MemoryAccount) -> None:
    id_ = await crm.id(50)
    account.move("Work", 1, "INBOX")
    account.append("Work", mail(70), internal_date=NOW)
    account.append("Work", mail(71), internal_date=NOW)
    await again_with_doubt(crm, account)
    assert await crm.id(50) == id_
    await again(crm)
    assert await agrees(crm)


async def again_with_doubt(crm: Crm, account: MemoryAccount) -> None:
    """Whenever Work is looked at, something comes to it between the count and the list."""
    looking = False
    real = MemoryLine._step

    async def step(line: MemoryLine, command: str | None) -> None:
        nonlocal looking
        if command is not None and looking and line.open_name == "Work":
            looking = False
            uid = account.append("Work", mail(1_000 + len(account.commands)), internal_date=NOW - 200 * DAY)
            account.expunge("Work", max(set(account.folders["Work"].messages) - {uid}))
        looking |= command == "EXAMINE Work"
        await real(line, command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryLine, "_step", step)
        await again(crm)


async def test_back_in_its_folder_by_way_of_one_that_nobody_saw_it_in(opened: Opened) -> None:
    """It is missed in Work; it passes through Archive, and is back in Work when that was found unchanged already."""
    account = MemoryAccount(now=NOW)
    for name in ("Archive", "Work"):
        account.create_folder(name)
    account.append("Work", mail(50), internal_date=NOW - DAY)
    crm = await start(opened, account)
    id_ = await crm.id(50)
    account.move("Work", 1, "INBOX")
    with before(
        ("EXAMINE INBOX", lambda: account.move("INBOX", 1, "Archive")),
        ("EXAMINE Archive", lambda: account.move("Archive", 1, "Work")),
    ):
        await again(crm)
    assert await crm.id(50) == id_
    await again(crm)
    assert await agrees(crm)
    assert not await crm.removals()


async def test_moved_on_before_anybody_knew_what_came(crm: Crm, account: MemoryAccount) -> None:
    """It is missed in INBOX and listed in Work, and when its header is asked for it is in Archive, which was looked at
    before.
    """
    id_ = await crm.id(1)
    with before(
        ("EXAMINE INBOX", lambda: account.move("INBOX", 2, "Work")),
        ("FETCH headers", lambda: account.move("Work", 2, "Archive")),
    ):
        await again(crm)
    assert await crm.id(1) == id_
    await again(crm)
    assert await crm.stands(1) == [("Archive", 1)]
    assert await agrees(crm)
    assert not await crm.removals()


async def test_moved_from_a_folder_that_is_empty_whenever_it_is_opened(crm: Crm, account: MemoryAccount) -> None:
    """And when STATUS asks whether it is, something has come: so many that it explains what it counts."""
    id_ = await crm.id(50)
    real = MemoryLine._step

    async def step(line: MemoryLine, command: str | None) -> None:
        if command == "EXAMINE INBOX" and 1 in account.folders["Work"].messages:
            account.move("Work", 1, "INBOX")
        if command == "EXAMINE Work":
            for uid in account.folders["Work"].messages.keys() - {1}:
                account.expunge("Work", uid)
        if command == "STATUS" and line.open_name == "Work":
            account.append("Work", mail(1_000 + len(account.commands)), internal_date=NOW)
        await real(line, command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryLine, "_step", step)
        await again(crm)
    assert await crm.id(50) == id_
    await again(crm)
    assert await crm.stands(50) == [("INBOX", 7)]
    assert await agrees(crm)
