"""Folders that are empty when they are first seen: known from STATUS, all in one transaction, none of them opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import event, update

from connectors.memory import MemoryAccount
from connectors.memory.source import MemorySource
from mailgate.store.schema import folders
from mailgate.sync import run
from mailgate.sync.state import Checkpoint
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Engine, Opened, mail

MANY = 300


def opened_folders(account: MemoryAccount) -> list[str]:
    return [command.partition(" ")[2] for command in account.commands if command.startswith("EXAMINE ")]


def make(account: MemoryAccount, count: int = MANY) -> None:
    for n in range(count):
        account.create_folder(f"Empty {n}")


async def test_hundreds_cost_a_few_statements(engine: Engine, account: MemoryAccount) -> None:
    make(account)
    said: list[str] = []
    for database in {engine.db._writer.sync_engine, engine.db._reader.sync_engine}:
        event.listen(database, "before_cursor_execute", lambda *args: said.append(args[2]))
    await engine.sync()
    assert set(opened_folders(account)) == {"INBOX"}
    assert 0 < len(said) < MANY // 2
    rows = await engine.rows("folders")
    assert {(row.uidnext, row.exists_count) for row in rows} == {(1, 0)}
    assert all(row.imported_at and row.last_pass_at for row in rows)
    (mailbox,) = await engine.rows("mailboxes")
    assert mailbox.imported_at is not None


async def test_those_that_are_made_later_cost_no_more(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    make(account)
    account.commands.clear()
    await engine.sync()
    assert set(opened_folders(account)) == {"INBOX"}
    assert {row.uidnext for row in await engine.rows("folders")} == {1}


async def test_what_comes_into_one_later_is_kept(engine: Engine, account: MemoryAccount) -> None:
    make(account, 3)
    await engine.sync()
    for n in range(2):
        account.append("Empty 1", mail(n), internal_date=NOW)
    await engine.sync()
    assert await engine.near() == engine.far()
    assert len(await engine.rows("messages")) == 2


async def test_one_that_was_emptied_goes_on_from_its_uidnext(engine: Engine, account: MemoryAccount) -> None:
    make(account, 2)
    account.append("Empty 0", mail(1), internal_date=NOW)
    account.expunge("Empty 0", 1)
    await engine.sync()
    assert "Empty 0" not in opened_folders(account)
    account.append("Empty 0", mail(2), internal_date=NOW)
    await engine.sync()
    assert await engine.near() == engine.far()
    (origin,) = await engine.rows("origins")
    assert origin.uid == 2


async def test_without_modseq_none_is_opened_for_its_flags(opened: Opened) -> None:
    account = MemoryAccount(condstore=False, qresync=False)
    make(account, 5)
    engine = await opened(account)
    await engine.sync()
    account.commands.clear()
    engine.clock.advance(3_600)
    await engine.sync()
    assert set(opened_folders(account)) == {"INBOX"}


async def test_where_folders_have_identities_each_is_opened_for_it(opened: Opened) -> None:
    account = MemoryAccount(folder_ids=True)
    make(account, 3)
    engine = await opened(account)
    await engine.sync()
    told = {folder.object_id for folder in account.folders.values()}
    assert {row.object_id for row in await engine.rows("folders")} == told


async def test_one_that_was_given_a_message_meanwhile_is_passed_over(engine: Engine, account: MemoryAccount) -> None:
    """An append by the CRM is the first that is known of the folder: its pass is still to come."""
    make(account, 2)
    await engine.sync()
    await Crm(engine).append(60, "Empty 0")
    await engine.sync()
    ids = {row.name: row.id for row in await engine.rows("folders")}
    owner = await engine.store.acquire(engine.mailbox_id, engine.tenant_id, "test-2", 10**9, engine.clock())
    assert owner is not None
    async with engine.db.write() as tx:  # as if none had been read
        await tx.conn.execute(update(folders).values(uidvalidity=None, uidnext=None))
    checkpoint = Checkpoint(1, 1, 1, 0, engine.clock())
    reached = {ids["Empty 0"]: checkpoint, ids["Empty 1"]: checkpoint}
    assert await engine.store.begin_empty(owner, reached, engine.clock()) == {ids["Empty 1"]}
    await engine.store.release(owner)


async def test_inbox_is_here_before_thousands_of_folders_are_counted(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "MANY", 3)
    make(account, 3)
    for n, name in enumerate(["INBOX", "Empty 0", "Empty 2"]):
        account.append(name, mail(n), internal_date=NOW)
    said: list[tuple[str | None, int]] = []
    status = MemorySource.status

    async def counting(self: MemorySource, names: Sequence[str]) -> Any:
        if "INBOX" not in names and not said:
            assert len(await engine.rows("messages")) == 1
            said.append(((await engine.rows("mailboxes"))[0].state_reason, len(names)))
        return await status(self, names)

    monkeypatch.setattr(MemorySource, "status", counting)
    await engine.sync()
    assert said == [("counting the messages in 3 folders", 3)]
    assert await engine.near() == engine.far()
    (mailbox,) = await engine.rows("mailboxes")
    assert (mailbox.progress_done, mailbox.progress_total) == (3, 3)
