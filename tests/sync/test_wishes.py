"""What the CRM asked for and the server did not do yet stays asked for, whatever a pass sees meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import insert, update

from connectors.memory import MemoryAccount
from connectors.model import SpecialUse
from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.ids import new_id
from mailgate.store import operations
from mailgate.store.schema import folders, holds, messages
from mailgate.store.schema import operations as operations_table
from mailgate.store.transaction import Transaction
from mailgate.sync.operations import LONGEST_PAUSE, OperationKind
from tests.sync.engine import NOW, Engine, mail


@pytest.fixture
def account() -> MemoryAccount:
    account = MemoryAccount()
    account.create_folder("Archive", special_use=SpecialUse.ARCHIVE)
    account.create_folder("Trash", special_use=SpecialUse.TRASH)
    account.append("INBOX", mail(1), internal_date=NOW - DAY)
    return account


async def again(engine: Engine) -> None:
    engine.clock.advance(600)
    await engine.sync()


async def only(engine: Engine, table: str = "messages") -> Any:
    (row,) = await engine.rows(table)
    return row


async def folder_id(engine: Engine, name: str) -> str:
    return next(row.id for row in await engine.rows("folders") if row.name == name)


async def ask(engine: Engine, kind: OperationKind, near: Mapping[str, Any], **about: Any) -> str:
    """As the CRM asks: an operation, and the near side changed with it."""
    row = await only(engine)

    async def work(tx: Transaction) -> str:
        await tx.conn.execute(update(messages).where(messages.c.id == row.id).values(near))
        asked = {"tenant_id": engine.tenant_id, "mailbox_id": engine.mailbox_id, "message_id": row.id, **about}
        id_ = await operations.ask(tx, kind=kind, now=engine.clock(), actor=SYSTEM, **asked)
        later = {"next_at": engine.clock() + LONGEST_PAUSE}  # the server puts it off
        table = operations_table
        await tx.conn.execute(update(table).where(table.c.id == id_).values(later))
        return id_

    return await engine.db.transact(work)


async def flags(engine: Engine, wanted: list[str], **detail: list[str]) -> None:
    await ask(engine, OperationKind.FLAGS, {"flags": wanted}, detail={"add": [], "remove": [], **detail})


async def test_flags_of_both_sides_meet(engine: Engine, account: MemoryAccount) -> None:
    account.store_flags("INBOX", 1, ["\\Answered", "$Old"])
    await engine.sync()
    await flags(engine, ["\\Answered", "\\Flagged"], add=["\\Flagged"], remove=["$Old"])
    account.store_flags("INBOX", 1, ["\\Seen", "$Old"])
    await again(engine)
    row = await only(engine)
    assert row.flags == ["\\Flagged", "\\Seen"]
    assert row.seen
    assert row.flagged
    assert (await only(engine, "origins")).flags == ["$Old", "\\Seen"]


async def test_flags_go_along_when_the_server_moves_the_message(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    await flags(engine, ["\\Flagged"], add=["\\Flagged"])
    account.move("INBOX", 1, "Archive")
    await again(engine)
    assert (await only(engine)).flags == ["\\Flagged"]
    assert (await only(engine, "origins")).flags == []


async def test_what_the_server_did_as_the_crm_wished_is_told_once(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    await flags(engine, ["\\Flagged"], add=["\\Flagged"])
    account.store_flags("INBOX", 1, ["\\Flagged"])
    await again(engine)
    assert (await only(engine, "origins")).flags == ["\\Flagged"]
    assert not await engine.events("message.updated")


async def test_a_message_on_its_way_is_met_elsewhere_and_stays_on_its_way(
    engine: Engine, account: MemoryAccount
) -> None:
    await engine.sync()
    trash = await folder_id(engine, "Trash")
    await ask(engine, OperationKind.MOVE, {"moving_to": trash}, folder_id=trash)
    account.move("INBOX", 1, "Archive")
    await again(engine)
    assert (await only(engine, "origins")).folder_id == await folder_id(engine, "Archive")
    assert (await only(engine)).moving_to == trash
    (event,) = await engine.events("message.moved")
    assert event.payload["folder_id"] == await folder_id(engine, "Archive")


async def test_a_move_that_was_done_already_is_not_told_again(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    trash = await folder_id(engine, "Trash")
    await ask(engine, OperationKind.MOVE, {"moving_to": trash}, folder_id=trash)
    account.move("INBOX", 1, "Trash")
    await again(engine)
    assert (await only(engine, "origins")).folder_id == trash
    assert not await engine.events("message.moved", "message.updated", "message.deleted")


async def test_a_deleted_message_says_nothing_any_more(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    await ask(engine, OperationKind.DELETE, {"deleted_at": engine.clock()})
    told = len(await engine.events())
    account.store_flags("INBOX", 1, ["\\Seen"])
    await again(engine)
    account.move("INBOX", 1, "Archive")
    await again(engine)
    assert (await only(engine)).deleted_at is not None
    origin = await only(engine, "origins")
    assert origin.folder_id == await folder_id(engine, "Archive")
    assert origin.flags == ["\\Seen"]
    account.expunge("Archive", 1)
    await again(engine)
    assert await engine.rows("messages") == []
    assert len(await engine.events()) == told
    async with engine.db.read() as conn:
        bodies = (await conn.exec_driver_sql("SELECT body FROM log_leaves WHERE type = 'item.remove'")).scalars().all()
    assert [b'"user_deleted"' in body for body in bodies] == [True]


async def test_what_a_hold_keeps_of_a_deleted_message_is_not_met_again(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    before = await only(engine)
    hold = {"id": new_id(NOW), "scope": "tenant", "matter": "M", "reason": "r", "placed_at": NOW, "placed_by": "x"}

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(insert(holds).values(tenant_id=engine.tenant_id, **hold))

    await engine.db.transact(work)
    await ask(engine, OperationKind.DELETE, {"deleted_at": engine.clock()})
    account.expunge("INBOX", 1)
    await again(engine)
    assert await engine.rows("origins") == []
    account.append("INBOX", mail(1), internal_date=NOW - DAY)
    await again(engine)
    kept, new = sorted(await engine.rows("messages"), key=lambda row: row.id != before.id)
    assert (kept.id, new.deleted_at) == (before.id, None)
    assert (await only(engine, "origins")).message_id == new.id


@pytest.mark.parametrize("state", ["pending", "sent"])
async def test_an_appended_message_is_met_wherever_it_stands(
    engine: Engine, account: MemoryAccount, state: str
) -> None:
    """Its message is made of a detached copy here: what matters is that it has no original. Once its command was sent,
    a person may have moved it on; before, an equal message elsewhere is another one.
    """
    await engine.sync()
    await engine.pin((await only(engine)).id)
    account.expunge("INBOX", 1)
    await again(engine)
    archive = await folder_id(engine, "Archive")
    detail = {"flags": [], "received_at": None}
    id_ = await ask(engine, OperationKind.APPEND, {"moving_to": archive}, folder_id=archive, detail=detail)

    async def work(tx: Transaction) -> None:
        table = operations_table
        await tx.conn.execute(update(table).where(table.c.id == id_).values(state=state))

    await engine.db.transact(work)
    account.append("INBOX", mail(1), internal_date=NOW - DAY)
    await again(engine)
    assert len(await engine.rows("messages")) == (1 if state == "sent" else 2)
    account.append("Archive", mail(1), internal_date=NOW - DAY)
    await again(engine)
    assert len(await engine.rows("messages")) == (2 if state == "sent" else 3)


async def test_a_folder_that_the_crm_made_is_not_missed_before_the_server_has_it(
    engine: Engine, account: MemoryAccount
) -> None:
    await engine.sync()
    values = {"id": new_id(NOW), "name": "Projekte", "selectable": True, "followed": True, "on_its_way": "create"}

    async def work(tx: Transaction) -> None:
        mine = {"tenant_id": engine.tenant_id, "mailbox_id": engine.mailbox_id}
        await tx.conn.execute(insert(folders).values({**mine, **values}))

    await engine.db.transact(work)
    told = len(await engine.events())
    await again(engine)
    row = next(row for row in await engine.rows("folders") if row.name == "Projekte")
    assert (row.gone_at, row.on_its_way) == (None, "create")
    account.create_folder("Projekte")
    await again(engine)
    row = next(row for row in await engine.rows("folders") if row.name == "Projekte")
    assert (row.id, row.on_its_way) == (values["id"], None)
    assert row.uidvalidity == account.folders["Projekte"].uidvalidity
    assert len(await engine.events()) == told


async def test_a_folder_renamed_as_the_crm_wished_has_its_name(engine: Engine, account: MemoryAccount) -> None:
    account.append("Archive", mail(2), internal_date=NOW - DAY)
    account.create_folder("Old")
    account.append("Old", mail(3), internal_date=NOW - DAY)
    await engine.sync()
    id_ = await folder_id(engine, "Old")

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(update(folders).where(folders.c.id == id_).values(wanted_name="New"))

    await engine.db.transact(work)
    account.rename_folder("Old", "New")
    await again(engine)
    row = next(row for row in await engine.rows("folders") if row.id == id_)
    assert (row.name, row.wanted_name) == ("New", None)
