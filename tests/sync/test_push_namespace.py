"""Folders that the CRM calls by plain names, on servers that keep all of an account's folders below INBOX."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount
from mailgate.clock import DAY
from mailgate.settings import SyncSettings
from tests.property.reconcile_machine import template
from tests.property.reconcile_world import Far, MemoryFar, World
from tests.sync.engine import NOW, Opened, TestClock, mail
from tests.sync.test_push import again, agrees, start


def below_inbox(**more: Any) -> MemoryAccount:
    """As Courier has it."""
    account = MemoryAccount(prefix="INBOX.", delimiter=".", now=NOW, **more)
    account.append("INBOX", mail(1), internal_date=NOW - DAY)
    return account


@pytest.mark.parametrize("name", ["Projects", "INBOX.Projects"])
async def test_the_first_folder_of_an_account(opened: Opened, name: str) -> None:
    """Nothing tells but NAMESPACE; what is moved into it goes along."""
    account = below_inbox()
    crm = await start(opened, account)
    id_ = await crm.create(name)
    await crm.move(1, name)
    await again(crm)
    assert await crm.states() == ["applied", "applied"]
    assert sorted(account.folders) == ["INBOX", "INBOX.Projects"]
    assert await crm.folder("INBOX.Projects") == id_
    assert await crm.stands(1) == [("INBOX.Projects", 1)]
    assert len(await crm.engine.events("folder.renamed")) == (name == "Projects")
    assert await agrees(crm)


async def test_an_answer_that_is_lost_makes_no_second_folder(opened: Opened) -> None:
    account = below_inbox()
    crm = await start(opened, account)
    id_ = await crm.create("Projects")
    account.faults.lose_answer = 0
    with pytest.raises(NetworkError):
        await again(crm)
    await again(crm)
    await again(crm)
    assert sorted(account.folders) == ["INBOX", "INBOX.Projects"]
    assert await agrees(crm)
    assert await crm.folder("INBOX.Projects") == id_


async def test_a_folder_that_is_there_under_its_full_name(opened: Opened) -> None:
    account = below_inbox()
    account.create_folder("INBOX.Projects")
    crm = await start(opened, account)
    await crm.create("Projects")
    await again(crm)
    assert await crm.states() == ["failed ALREADYEXISTS"]
    assert await agrees(crm)


class CourierFar(MemoryFar):
    """A server whose folders are all below INBOX."""

    def __init__(self) -> None:
        super().__init__("qresync", NOW)
        self.account = below_inbox()
        self.account.create_folder("INBOX.Sent")
        self.connect = self.account.connect


def test_the_near_side_has_the_full_name_at_once_where_the_list_tells() -> None:
    far: Far = CourierFar()
    world = World(far, template(), TestClock(), SyncSettings())
    try:
        world.sync()
        assert world.crm_create_folder("Projects")
        assert not world.crm_create_folder("INBOX.Projects")
        folders = dict(world.crm_folders())
        assert sorted(folders) == ["INBOX", "INBOX.Projects", "INBOX.Sent"]
        world.sync()
        assert world.crm_rename_folder(folders["INBOX.Projects"], "Deals")
        assert world.crm_rename_folder(folders["INBOX.Projects"], "INBOX.Deals")  # called so already
        world.sync()
        assert far.names() == ["INBOX", "INBOX.Deals", "INBOX.Sent"]
        assert dict(world.crm_folders())["INBOX.Deals"] == folders["INBOX.Projects"]
        assert not world.open_operations()
    finally:
        world.close()
