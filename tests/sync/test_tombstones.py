"""What retention purged is never fetched again by itself: not at its address, not after a move or a new UIDVALIDITY."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount
from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.store.mailboxes import MailboxSpec
from tests.sync.engine import NOW, Engine, mail


@pytest.fixture
async def purged(engine: Engine, account: MemoryAccount) -> Engine:
    """Two messages that were purged and one that is young, all still at the server; the plan is longer by now."""
    await engine.plan("crm_plus")
    account.create_folder("Archive")
    for n, days in enumerate((29, 28, 1)):
        account.append("INBOX", mail(n), internal_date=NOW - days * DAY)
    await engine.sync()
    engine.clock.advance(5 * 86_400)
    await engine.purge()
    assert len(await engine.rows("messages")) == 1
    assert len(await engine.rows("tombstones")) == 2
    await engine.plan("professional")  # by age alone they would be fetched
    return engine


async def nothing_came_back(engine: Engine) -> None:
    engine.clock.advance(600)
    await engine.sync()
    assert len(await engine.rows("messages")) == 1
    assert len(await engine.events("message.created")) == 3


async def test_at_its_address(purged: Engine) -> None:
    await nothing_came_back(purged)


async def test_in_another_folder(purged: Engine, account: MemoryAccount) -> None:
    account.move("INBOX", 1, "Archive")
    await nothing_came_back(purged)
    grave = next(row for row in await purged.rows("tombstones") if row.folder == "Archive")
    assert (grave.uid, grave.gone_at) == (1, None)
    account.move("Archive", 1, "INBOX")
    await nothing_came_back(purged)


async def test_under_a_new_uidvalidity(purged: Engine, account: MemoryAccount) -> None:
    account.change_uidvalidity("INBOX")
    await nothing_came_back(purged)
    account.change_uidvalidity("INBOX")
    account.move("INBOX", 2, "Archive")
    await nothing_came_back(purged)


async def test_in_a_renamed_folder(purged: Engine, account: MemoryAccount) -> None:
    account.move("INBOX", 1, "Archive")
    await nothing_came_back(purged)
    account.rename_folder("Archive", "Old")
    await nothing_came_back(purged)


async def test_when_the_connection_is_cut_on_the_way(purged: Engine, account: MemoryAccount) -> None:
    account.move("INBOX", 1, "Archive")
    account.change_uidvalidity("INBOX")
    for steps in range(0, 60, 5):
        account.faults.cut_after = steps
        with contextlib.suppress(NetworkError):
            await purged.sync()
    account.faults.cut_after = None
    await nothing_came_back(purged)


async def test_a_new_copy_of_a_purged_message_is_a_new_message(purged: Engine, account: MemoryAccount) -> None:
    """Only what was purged is blocked: two originals more than tombstones are two messages."""
    for _ in range(2):
        account.append("INBOX", mail(0), internal_date=NOW)
    purged.clock.advance(600)
    await purged.sync()
    assert len(await purged.rows("messages")) == 3


async def test_an_original_that_goes_too_is_noted(purged: Engine, account: MemoryAccount) -> None:
    account.expunge("INBOX", 1)
    await nothing_came_back(purged)
    assert sorted(row.gone_at is not None for row in await purged.rows("tombstones")) == [False, True]


def nothing(_account: MemoryAccount) -> None:
    """Nobody does anything meanwhile."""


def renumber(account: MemoryAccount) -> None:
    account.change_uidvalidity("INBOX")


def renumber_and_move(account: MemoryAccount) -> None:
    account.change_uidvalidity("INBOX")
    account.move("INBOX", next(iter(account.folders["INBOX"].messages)), "Archive")


def move_and_delete_the_folder(account: MemoryAccount) -> None:
    for uid in list(account.folders["INBOX/2025"].messages):
        account.move("INBOX/2025", uid, "Archive")
    account.delete_folder("INBOX/2025")


@pytest.mark.parametrize("meanwhile", [nothing, renumber, renumber_and_move, move_and_delete_the_folder])
async def test_after_removing_and_adding_the_mailbox(
    engine: Engine, account: MemoryAccount, meanwhile: Callable[[MemoryAccount], None]
) -> None:
    """Whatever became meanwhile of the addresses at which they were purged."""
    await engine.plan("crm_plus")
    for folder in ("Archive", "INBOX/2025"):
        account.create_folder(folder)
    for n, (folder, days) in enumerate((("INBOX", 29), ("INBOX", 28), ("INBOX/2025", 27), ("INBOX", 1))):
        account.append(folder, mail(n), internal_date=NOW - days * DAY)
    await engine.sync()
    engine.clock.advance(5 * 86_400)
    await engine.purge()
    assert len(await engine.rows("tombstones")) == 3
    await engine.plan("professional")

    await engine.mailboxes.remove(engine.tenant_id, engine.mailbox_id, engine.clock(), SYSTEM)
    meanwhile(account)
    imap = {"host": "imap.example.com", "port": 993, "security": "tls", "username": "bob"}
    spec = MailboxSpec("bob@example.com", imap, {"imap": {"password": "secret"}})
    engine.mailbox_id = (await engine.mailboxes.create(engine.tenant_id, spec, engine.clock(), SYSTEM)).id
    for _ in range(2):
        await engine.sync()
        engine.clock.advance(600)
    mine = await engine.rows("messages", lambda c: c.mailbox_id == engine.mailbox_id)
    assert len(mine) == 1  # the young one; those that were purged stay away


async def test_a_pinned_copy_outlives_its_original_and_finds_it_again(engine: Engine, account: MemoryAccount) -> None:
    account.create_folder("Archive")
    account.append("INBOX", mail(1), internal_date=NOW - DAY)
    await engine.sync()
    message = (await engine.rows("messages"))[0]
    await engine.pin(message.id)
    account.expunge("INBOX", 1)
    engine.clock.advance(600)
    await engine.sync()
    assert [row.id for row in await engine.rows("messages")] == [message.id]
    assert await engine.rows("origins") == []
    assert not await engine.events("message.deleted")
    account.append("Archive", mail(1), internal_date=NOW - DAY)  # somebody brings it back from a backup
    engine.clock.advance(600)
    await engine.sync()
    assert [row.id for row in await engine.rows("messages")] == [message.id]
    assert await engine.near() == engine.far()
