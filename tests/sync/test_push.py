"""What the CRM asks for reaches the server, once, in order, whatever goes wrong on the way."""

from __future__ import annotations

import pytest

from connectors.memory import MemoryAccount
from connectors.model import SpecialUse
from mailgate.clock import DAY
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Engine, mail


@pytest.fixture(params=["qresync", "plain"])
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    account = MemoryAccount(condstore=request.param != "plain", qresync=request.param == "qresync", now=NOW)
    account.create_folder("Archive", special_use=SpecialUse.ARCHIVE)
    account.create_folder("Trash", special_use=SpecialUse.TRASH)
    for n in range(6):
        account.append("INBOX", mail(n), internal_date=NOW - n * DAY, flags=["\\Seen"] if n % 2 else [])
    return account


@pytest.fixture
async def crm(engine: Engine) -> Crm:
    await engine.sync()
    return Crm(engine)


async def again(crm: Crm) -> None:
    crm.engine.clock.advance(600)
    await crm.engine.sync()


async def agrees(crm: Crm) -> bool:
    return await crm.engine.near() == crm.engine.far(since=NOW - 90 * DAY)


async def test_flags(crm: Crm, account: MemoryAccount) -> None:
    await crm.flags(0, add=["\\Seen", "$Deal"])
    await crm.flags(1, add=["\\Flagged"], remove=["\\Seen"])
    await again(crm)
    assert account.folders["INBOX"].messages[1].flags == {"\\Seen", "$Deal"}
    assert account.folders["INBOX"].messages[2].flags == {"\\Flagged"}
    assert await agrees(crm)
    assert await crm.states() == ["applied", "applied"]


async def test_a_move(crm: Crm, account: MemoryAccount) -> None:
    before = await crm.id(2)
    await crm.move(2, "Archive")
    await again(crm)
    assert account.folders["Archive"].messages[1].raw == mail(2)
    assert await crm.id(2) == before
    assert await crm.stands(2) == [("Archive", 1)]
    assert (await crm.message(2)).moving_to is None
    assert await agrees(crm)
    assert await crm.states() == ["applied"]


async def test_a_deletion(crm: Crm, account: MemoryAccount) -> None:
    await crm.delete(3)
    await again(crm)
    assert 4 not in account.folders["INBOX"].messages
    assert await agrees(crm)
    assert len(await crm.engine.rows("messages")) == 5
    (leaf,) = await crm.removals()
    assert b'"user_deleted"' in leaf
    assert b'"token"' in leaf
