"""Stories that the state machine (`tests/property/reconcile_machine.py`) told once, and that went wrong."""

from __future__ import annotations

import pytest

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount
from connectors.model import SpecialUse
from mailgate.clock import HOUR
from mailgate.errors import ConflictError
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Engine, mail


@pytest.fixture
def account() -> MemoryAccount:
    """Without MOVE: a move is COPY and EXPUNGE."""
    account = MemoryAccount(condstore=False, qresync=False, move=False, now=NOW)
    account.create_folder("Archive", special_use=SpecialUse.ARCHIVE)
    account.create_folder("Trash", special_use=SpecialUse.TRASH)
    for n in range(4):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
    return account


@pytest.fixture
async def crm(engine: Engine) -> Crm:
    await engine.sync()
    return Crm(engine)


async def again(crm: Crm) -> None:
    crm.engine.clock.advance(600)
    await crm.engine.sync()


async def equal(crm: Crm) -> bool:
    return await crm.engine.near() == crm.engine.far()


async def test_a_move_into_a_folder_that_was_renumbered_is_made_once(crm: Crm, account: MemoryAccount) -> None:
    await crm.move(3, "Trash")
    account.change_uidvalidity("Trash")
    await again(crm)
    await again(crm)
    assert [m.raw for m in account.folders["Trash"].messages.values()] == [mail(3)]
    assert await equal(crm)


async def test_a_copy_whose_answer_was_lost_is_not_made_again_after_another_cut(
    crm: Crm, account: MemoryAccount
) -> None:
    await crm.move(0, "Trash")
    account.faults.lose_answer = 0
    with pytest.raises(NetworkError):
        await again(crm)
    account.faults.cut_before = 0
    with pytest.raises(NetworkError):
        await again(crm)
    await again(crm)
    await again(crm)
    assert [m.raw for m in account.folders["Trash"].messages.values()] == [mail(0)]
    assert await equal(crm)


async def test_a_message_moved_from_a_folder_that_is_refused_for_a_moment_keeps_its_id(
    crm: Crm, account: MemoryAccount
) -> None:
    before = await crm.id(0)
    account.move("INBOX", 1, "Archive")
    account.faults.refuse.add("INBOX")
    await again(crm)
    account.faults.refuse.clear()
    await again(crm)
    assert await crm.id(0) == before
    assert await equal(crm)


async def test_a_mailbox_that_is_switched_off_gets_no_connection(crm: Crm, account: MemoryAccount) -> None:
    await crm.engine.enable(False)
    heard = len(account.commands)
    with pytest.raises(ConflictError, match="switched off"):
        await again(crm)
    assert len(account.commands) == heard
