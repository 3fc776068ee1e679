"""A draft that is saved again is the same message with other bytes."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.memory import MemoryAccount
from connectors.model import SpecialUse
from mailgate.clock import MINUTE
from mailgate.store.schema import messages
from tests.sync.engine import NOW, Engine, mail


@pytest.fixture(params=["qresync", "plain"])
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    account = MemoryAccount(condstore=request.param != "plain", qresync=request.param == "qresync", now=NOW)
    account.create_folder("Drafts", special_use=SpecialUse.DRAFTS)
    account.append("Drafts", draft("Dear"), internal_date=NOW - 3 * MINUTE, flags=["\\Draft"])
    return account


def draft(text: str, n: int = 1) -> bytes:
    return mail(n, body=text, message_id="draft@example.com")


def save(account: MemoryAccount, uid: int, raw: bytes) -> int:
    """As mail programs do: the new version comes, the old one goes."""
    new = account.append("Drafts", raw, internal_date=account.now, flags=["\\Draft", "\\Seen"])
    account.expunge("Drafts", uid)
    return new


async def again(engine: Engine) -> None:
    engine.clock.advance(600)
    await engine.sync()


async def only(engine: Engine, table: str = "messages") -> Any:
    (row,) = await engine.rows(table)
    return row


@pytest.mark.parametrize("text", ["Dear Ann", "Deaf", "Dear" * 1_000_000])
async def test_a_draft_saved_again_is_the_same_message_with_other_bytes(
    engine: Engine, account: MemoryAccount, text: str
) -> None:
    await engine.sync()
    before = await only(engine)
    await engine.pin(before.id)
    uid = save(account, 1, draft(text))
    await again(engine)
    row = await only(engine)
    assert (row.id, row.item_ref, row.pins) == (before.id, before.item_ref, 1)
    assert await engine.raw(row) == draft(text)
    assert row.flags == ["\\Draft", "\\Seen"]
    assert row.size == len(draft(text))
    assert (await only(engine, "origins")).uid == uid
    assert len(await engine.rows("blobs")) == 1
    (event,) = await engine.events("message.updated")
    assert event.payload["content_changed"] is True
    assert not await engine.events("message.deleted", "message.moved")
    assert len(await engine.events("message.created")) == 1
    assert await engine.near() == engine.far()


async def test_a_draft_is_found_by_the_words_of_its_last_version(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    async with engine.db.write() as tx:
        await tx.conn.execute(messages.update().values(indexed=True))
    save(account, 1, draft("Other words"))
    await again(engine)
    assert not (await only(engine)).indexed


async def test_drafts_with_other_message_ids_are_other_messages(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    before = await only(engine)
    save(account, 1, mail(2))
    await again(engine)
    assert (await only(engine)).id != before.id


async def test_two_drafts_with_one_message_id_stay_two(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    account.append("Drafts", draft("Second"), internal_date=NOW)
    await again(engine)
    assert len(await engine.rows("messages")) == 2
    uid = save(account, 1, draft("First, again"))
    await again(engine)
    assert len(await engine.rows("messages")) == 2
    save(account, uid, draft("And again"))
    save(account, 2, draft("Second, again"))
    await again(engine)
    assert sorted([await engine.raw(row) for row in await engine.rows("messages")]) == sorted(
        [draft("And again"), draft("Second, again")]
    )


async def test_elsewhere_a_message_id_makes_nothing_the_same(engine: Engine, account: MemoryAccount) -> None:
    account.append("INBOX", draft("One"), internal_date=NOW)
    await engine.sync()
    before = {row.id for row in await engine.rows("messages")}
    account.append("INBOX", draft("Three"), internal_date=NOW - MINUTE)
    account.expunge("INBOX", 1)
    await again(engine)
    assert len({row.id for row in await engine.rows("messages")} & before) == 1


async def test_a_draft_that_is_sent_away_is_not_its_own_next_version(engine: Engine, account: MemoryAccount) -> None:
    account.create_folder("Sent", special_use=SpecialUse.SENT)
    await engine.sync()
    before = await only(engine)
    account.move("Drafts", 1, "Sent")
    await again(engine)
    assert (await only(engine)).id == before.id
    assert await engine.near() == engine.far()
