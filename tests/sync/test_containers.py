"""A name that only holds other folders (\\Noselect) becomes a folder when the CRM asks for it (RFC 3501 §6.3.3)."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.errors import NetworkError, Retry, ServerError
from connectors.memory import MemoryAccount
from connectors.memory.target import MemoryTarget
from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.store.expiry import Expiry
from mailgate.store.wishes.folders import FolderWishes
from mailgate.store.wishes.locks import Locks
from retention.policy import ClockLimits, Graces
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Opened, mail
from tests.sync.test_push import again, agrees, start


@pytest.fixture
def account() -> MemoryAccount:
    account = MemoryAccount(now=NOW)
    account.append("INBOX", mail(1), internal_date=NOW - DAY)
    account.create_folder("Top", selectable=False)
    account.create_folder("Top/Inner")
    account.append("Top/Inner", mail(2), internal_date=NOW - DAY)
    return account


@pytest.fixture
async def crm(opened: Opened, account: MemoryAccount) -> Crm:
    return await start(opened, account)


async def create(crm: Crm) -> str:
    """What the API asks for."""
    engine = crm.engine
    locks = Locks(engine.subscriptions, Expiry(engine.subscriptions, Graces()), ClockLimits(), engine.log)
    wishes = FolderWishes(engine.db, locks)
    folder_id, operation = await wishes.create(engine.tenant_id, engine.mailbox_id, "Top", engine.clock(), SYSTEM)
    assert operation is not None
    return folder_id


async def state(crm: Crm, folder_id: str) -> tuple[Any, ...]:
    (row,) = [row for row in await crm.engine.rows("folders") if row.name == "Top"]
    assert row.id == folder_id
    return row.selectable, row.on_its_way, row.gone_at is None


async def test_it_is_made_and_holds_messages(crm: Crm, account: MemoryAccount) -> None:
    folder_id = await create(crm)
    assert await state(crm, folder_id) == (True, "create", True)
    await crm.append(3, "Top")
    await again(crm)
    assert await crm.states() == ["applied", "applied"]
    assert account.folders["Top"].selectable
    assert len(account.folders["Top"].messages) == 1
    assert await state(crm, folder_id) == (True, None, True)
    assert await agrees(crm)


async def test_a_list_before_the_server_was_asked_takes_nothing_back(
    crm: Crm, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise ServerError("not now", code="UNAVAILABLE", retry=Retry.LATER)

    folder_id = await create(crm)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryTarget, "create_folder", away)
        await again(crm)
        await again(crm)
        assert await state(crm, folder_id) == (True, "create", True)
    await again(crm)
    await again(crm)
    assert await crm.states() == ["applied"]
    assert account.folders["Top"].selectable
    assert await state(crm, folder_id) == (True, None, True)


@pytest.mark.parametrize("fault", ["lose_answer", "cut_before"])
async def test_a_line_that_drops_over_it(crm: Crm, account: MemoryAccount, fault: str) -> None:
    folder_id = await create(crm)
    setattr(account.faults, fault, 0)
    with pytest.raises(NetworkError):
        await again(crm)
    await again(crm)
    await again(crm)
    assert await crm.states() == ["applied"]
    assert account.folders["Top"].selectable
    assert await state(crm, folder_id) == (True, None, True)
    assert await agrees(crm)


@pytest.mark.parametrize("code", ["CANNOT", "ALREADYEXISTS"])
async def test_a_server_that_refuses_leaves_it_as_it_was(
    crm: Crm, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    async def refused(*_: Any) -> None:
        raise ServerError("it can't be", code=code, retry=Retry.NEVER)

    folder_id = await create(crm)
    monkeypatch.setattr(MemoryTarget, "create_folder", refused)
    await again(crm)
    await again(crm)
    assert await crm.states() == [f"failed {code}"]
    assert await state(crm, folder_id) == (False, None, True)
    assert len(await crm.engine.rows("folders")) == len(account.folders)
