"""Servers with labels (X-GM-EXT-1), and servers that say which messages are one (OBJECTID)."""

from __future__ import annotations

import pytest

from connectors.memory import MemoryAccount
from connectors.model import SpecialUse
from mailgate.clock import DAY, HOUR
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Engine, Opened, mail

ALL, SPAM, TRASH = "[Gmail]/All Mail", "[Gmail]/Spam", "[Gmail]/Trash"


@pytest.fixture
def gmail() -> MemoryAccount:
    """Every message stands in All Mail, and once more in the folder of each of its labels."""
    account = MemoryAccount(qresync=False, labels=True, now=NOW)
    account.create_folder("[Gmail]", selectable=False)
    for name, use in ((ALL, SpecialUse.ALL), (SPAM, SpecialUse.JUNK), (TRASH, SpecialUse.TRASH)):
        account.create_folder(name, special_use=use)
    account.create_folder("Work")
    for n in range(4):
        labels = ["\\Inbox", "Work"] if n % 2 else ["\\Inbox"]
        at = NOW - n * HOUR
        account.append(ALL, mail(n), internal_date=at, labels=labels, email_id=f"m{n}")
        account.append("INBOX", mail(n), internal_date=at, labels=labels, email_id=f"m{n}")
        if n % 2:
            account.append("Work", mail(n), internal_date=at, labels=labels, email_id=f"m{n}")
    return account


async def again(engine: Engine) -> None:
    engine.clock.advance(600)
    await engine.sync()


async def labels(engine: Engine) -> list[list[str]]:
    return [row.labels for row in sorted(await engine.rows("messages"), key=lambda row: -row.internal_date_at)]


async def test_each_message_comes_once_with_its_labels(opened: Opened, gmail: MemoryAccount) -> None:
    engine = await opened(gmail)
    await engine.sync()
    assert await labels(engine) == [["\\Inbox"], ["Work", "\\Inbox"]] * 2
    assert {row.name for row in await engine.rows("folders") if row.followed} == {ALL, SPAM, TRASH}
    assert "EXAMINE INBOX" not in gmail.commands
    assert gmail.commands[-1] != f"EXAMINE {TRASH}"
    assert [c for c in gmail.commands if c.startswith("EXAMINE")][-1] == f"EXAMINE {ALL}"  # IDLE waits there


async def test_labels_of_both_sides_meet(opened: Opened, gmail: MemoryAccount) -> None:
    engine = await opened(gmail)
    await engine.sync()
    crm = Crm(engine)
    await crm.labels(1, add=["Deal"], remove=["Work"])
    gmail.store_labels(ALL, 2, ["Work", "Private"])  # archived, and labelled
    await again(engine)
    assert (await crm.message(1)).labels == ["Deal", "Private"]
    assert gmail.folders[ALL].messages[2].labels == {"Deal", "Private"}
    (origin,) = await engine.rows("origins", lambda c: c.uid == 2)
    assert origin.labels == ["Deal", "Private"]
    told = len(await engine.events("message.updated"))
    await again(engine)
    assert len(await engine.events("message.updated")) == told


async def test_a_message_in_trash_is_the_same_message(opened: Opened, gmail: MemoryAccount) -> None:
    engine = await opened(gmail)
    await engine.sync()
    crm = Crm(engine)
    before = await crm.id(0)
    gmail.move(ALL, 1, TRASH)
    await again(engine)
    assert await crm.id(0) == before
    assert await crm.stands(0) == [(TRASH, 1)]
    assert len(await engine.events("message.moved")) == 1
    assert not await engine.events("message.deleted")


async def test_without_all_mail_the_labels_folders_are_followed(opened: Opened, gmail: MemoryAccount) -> None:
    """People can hide All Mail from IMAP. A message in two folders is still one message."""
    gmail.delete_folder(ALL)
    engine = await opened(gmail)
    await engine.sync()
    crm = Crm(engine)
    assert len(await engine.rows("messages")) == 4
    assert await crm.stands(1) == [("INBOX", 2), ("Work", 1)]
    gmail.expunge("Work", 1)
    await again(engine)
    assert await crm.stands(1) == [("INBOX", 2)]
    assert not await engine.events("message.deleted")
    gmail.expunge("INBOX", 2)
    await again(engine)
    assert len(await engine.rows("messages")) == 3


async def test_equal_messages_that_gmail_calls_differently_are_two(opened: Opened, gmail: MemoryAccount) -> None:
    engine = await opened(gmail)
    await engine.sync()
    before = await Crm(engine).id(0)
    await engine.pin(before)
    gmail.expunge(ALL, 1)
    await again(engine)
    gmail.append(ALL, mail(0), internal_date=NOW, email_id="another")
    await again(engine)
    assert len(await engine.rows("messages")) == 5
    assert before not in {row.message_id for row in await engine.rows("origins")}


# Servers that say which messages have the same content (EMAILID): that does not make them one.


@pytest.fixture
def account() -> MemoryAccount:
    account = MemoryAccount(object_ids=True, now=NOW)
    account.create_folder("Archive", special_use=SpecialUse.ARCHIVE)
    account.append("INBOX", mail(1), internal_date=NOW - DAY, email_id="content")
    return account


async def test_equal_messages_with_the_same_emailid_are_two(engine: Engine, account: MemoryAccount) -> None:
    account.append("Archive", mail(1), internal_date=NOW - DAY, email_id="content")
    await engine.sync()
    account.copy("INBOX", 1, "Archive")
    await again(engine)
    assert len(await engine.rows("messages")) == 3
    account.expunge("INBOX", 1)
    await again(engine)
    assert len(await engine.rows("messages")) == 2


async def test_equal_messages_with_the_same_emailid_are_paired_one_to_one(
    engine: Engine, account: MemoryAccount
) -> None:
    for _ in range(3):
        account.append("INBOX", mail(1), internal_date=NOW - DAY, email_id="content")
    await engine.sync()
    before = {row.id for row in await engine.rows("messages")}
    account.change_uidvalidity("INBOX")
    await again(engine)
    assert {row.id for row in await engine.rows("messages")} == before
    assert len({row.message_id for row in await engine.rows("origins")}) == 4
