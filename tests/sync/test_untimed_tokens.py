"""Rows from before tokens began with the hour of the Date field: their messages are recognised all the same."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, update

from connectors.memory import MemoryAccount
from mailgate.actors import Actor
from mailgate.clock import DAY
from mailgate.messages.timed import HOUR, MAC
from mailgate.settings import SyncSettings
from mailgate.store.expiry import Expiry
from mailgate.store.schema import blobs, messages, quarantine, tombstones
from mailgate.store.wishes.locks import Locks
from mailgate.store.wishes.rehydrate import Rehydrations
from retention.model import Graces
from retention.policy import ClockLimits
from tests.sync.engine import NOW, Engine, Opened, mail

OLD = NOW - 29 * DAY


async def age(engine: Engine) -> None:
    """Make of every token what it was."""
    columns: tuple[Any, ...] = (
        messages.c.header_token,
        tombstones.c.header_token,
        quarantine.c.header_token,
        blobs.c.content_token,
    )
    async with engine.db.write() as tx:
        for column in columns:
            untimed = func.substr(column, HOUR + 1)
            timed = func.length(column) > MAC
            await tx.conn.execute(update(column.table).where(timed).values({column.key: untimed}))


async def again(engine: Engine) -> None:
    await age(engine)
    engine.clock.advance(600)
    await engine.sync()


async def test_each_token_had_an_hour(engine: Engine, account: MemoryAccount) -> None:
    """Otherwise nothing here tests anything."""
    account.append("INBOX", mail(0), internal_date=NOW)
    await engine.sync()
    hours = {row.header_token[:-MAC] for row in await engine.rows("messages")}
    assert hours == {row.content_token[:-MAC] for row in await engine.rows("blobs")}
    assert [len(hour) for hour in hours] == [HOUR]
    assert hours != {bytes(HOUR)}


async def test_every_message_survives_a_new_uidvalidity_and_a_rename(engine: Engine, account: MemoryAccount) -> None:
    account.create_folder("Old")
    for n in range(6):
        account.append(("INBOX", "Old")[n % 2], mail(n // 3), internal_date=NOW)
    await engine.sync()
    before = {row.id for row in await engine.rows("messages")}
    account.change_uidvalidity("INBOX")
    account.rename_folder("Old", "New")
    await again(engine)
    assert {row.id for row in await engine.rows("messages")} == before
    assert await engine.near() == engine.far()
    assert len(await engine.events("folder.renamed")) == 1
    account.move("INBOX", next(iter(account.folders["INBOX"].messages)), "New")
    await again(engine)
    assert {row.id for row in await engine.rows("messages")} == before
    assert await engine.near() == engine.far()


async def test_what_was_purged_stays_away_and_comes_when_it_is_asked_for(
    engine: Engine, account: MemoryAccount
) -> None:
    await engine.plan("crm_plus")
    account.create_folder("Archive")
    for n in range(2):
        account.append("INBOX", mail(n), internal_date=OLD)
    await engine.sync()
    engine.clock.advance(5 * 86_400)
    await engine.purge()
    await engine.plan("professional")
    account.move("INBOX", 1, "Archive")
    account.change_uidvalidity("INBOX")
    await again(engine)
    assert await engine.rows("messages") == []
    grave = next(row for row in await engine.rows("tombstones") if row.folder == "Archive")

    account.move("Archive", 1, "INBOX")  # it does not stand where it was seen
    locks = Locks(engine.subscriptions, Expiry(engine.subscriptions, Graces()), ClockLimits(), engine.log)
    wishes = Rehydrations(engine.db, engine.ring, locks)
    await wishes.ask(engine.tenant_id, grave.message_id, (), engine.clock(), Actor("token", "T1"))
    await again(engine)
    (back,) = await engine.rows("messages")
    assert back.id == grave.message_id
    assert await engine.raw(back) == mail(0)


async def test_what_was_set_aside_is_followed(opened: Opened) -> None:
    account = MemoryAccount()
    account.append("INBOX", mail(1, body="x" * (2 << 20)), internal_date=NOW)
    engine = await opened(account, settings=SyncSettings(max_message_bytes=1 << 20))
    await engine.sync()
    (entry,) = await engine.rows("quarantine")
    account.change_uidvalidity("INBOX")
    await again(engine)
    (followed,) = await engine.rows("quarantine")
    assert (followed.id, followed.uidvalidity) == (entry.id, account.folders["INBOX"].uidvalidity)
