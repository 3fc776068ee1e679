"""Gmail as a whole: a message is one, whatever folders show it, whoever changes what; it is fetched once, keeps its id
and pins, and is told of once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from mailgate.actors import SYSTEM
from mailgate.settings import SyncSettings
from mailgate.store.expiry import Expiry
from mailgate.store.wishes.locks import Locks
from mailgate.store.wishes.service import Wishes
from retention.model import AnchorFrom, Graces
from retention.policy import ClockLimits
from tests.gmail import ALL, SPAM, TRASH, Gmail
from tests.sync.crm import Crm
from tests.sync.engine import Engine, RealClock, mail

Started = Callable[[Gmail], Awaitable[Engine]]


@pytest.fixture
async def started(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Started]:
    engines: list[Engine] = []

    async def start(gmail: Gmail) -> Engine:
        async def connect() -> ImapConnection:
            endpoint, networks = Endpoint("127.0.0.1", gmail.port, Security.NONE), parse_networks(["127.0.0.0/8"])
            return await connect_imap(endpoint, PasswordAuth("bob", "x"), ssl_context=None, allow_networks=networks)

        engines.append(
            await Engine.open(
                sqlite_url,
                tmp_path,
                MemoryAccount(),
                connect=connect,
                clock=RealClock(),  # type: ignore[arg-type]
                settings=SyncSettings(),  # type: ignore[arg-type]
            )
        )
        await engines[-1].sync()
        return engines[-1]

    yield start
    for engine in engines:
        await engine.close()


@pytest.fixture
async def gmail() -> AsyncIterator[Gmail]:
    """Message 1 has three labels, 2 one, 3 none."""
    async with Gmail("Kunden", "Kunden/B&APw-ro") as server:
        server.deliver(mail(1), "\\Inbox", "Kunden", "Kunden/B&APw-ro")
        server.deliver(mail(2), "\\Inbox")
        server.deliver(mail(3))
        yield server


def bodies(gmail: Gmail) -> int:
    """Commands that fetched whole messages."""
    return sum(b"BODY.PEEK[]" in line for line in gmail.heard)


async def told(engine: Engine) -> list[str]:
    """The events of messages, after the import."""
    return [row.type for row in await engine.events() if row.type.startswith("message.")]


def wishes(engine: Engine) -> Wishes:
    locks = Locks(engine.subscriptions, Expiry(engine.subscriptions, Graces()), ClockLimits(), engine.log)
    return Wishes.over(
        engine.db, engine.ring, engine.blobs, locks, max_bytes=1 << 20, anchor_from=AnchorFrom.RECEIVED, at_once=2
    )


async def test_messages_come_once_with_their_labels(started: Started, gmail: Gmail) -> None:
    engine = await started(gmail)
    crm = Crm(engine)
    found = [(await crm.message(n)).labels for n in (1, 2, 3)]
    assert found == [["Kunden", "Kunden/Büro", "\\Inbox"], ["\\Inbox"], []]
    opened = {line.split(b'"')[1].decode() for line in gmail.heard if line.startswith(b"EXAMINE")}
    assert opened == {ALL}  # Spam and Trash are empty
    assert {row.name for row in await engine.rows("folders") if row.uidnext is not None} == {ALL, SPAM, TRASH}
    assert bodies(gmail) == 1
    assert len({row.email_token for row in await engine.rows("messages")}) == 3


async def test_what_people_do_on_the_web_changes_one_message(started: Started, gmail: Gmail) -> None:
    engine = await started(gmail)
    crm, letter = Crm(engine), gmail.letters[0]
    id_ = await crm.id(1)
    await engine.pin(id_)
    before, fetched = len(await told(engine)), bodies(gmail)
    assert (await crm.message(1)).labels == ["Kunden", "Kunden/Büro", "\\Inbox"]
    for change in (
        lambda: letter.labels.discard("\\Inbox"),  # archived
        lambda: letter.labels.add("Kunden"),  # once more
        lambda: letter.labels.update({"\\Important"}),
        lambda: letter.flags.add("\\Flagged"),  # a star
    ):
        change()
        gmail.settle()
        await engine.sync()
    message = await crm.message(1)
    assert message.labels == ["Kunden", "Kunden/Büro", "\\Important", "\\Starred"]
    assert (message.id, message.pins, message.flags) == (id_, 1, ["\\Flagged"])
    assert bodies(gmail) == fetched
    gmail.put_into(letter, SPAM)
    await engine.sync()
    gmail.put_into(letter, ALL)
    await engine.sync()
    gmail.put_into(letter, TRASH)
    await engine.sync()
    assert (await crm.id(1), await crm.stands(1)) == (id_, [(TRASH, 1)])
    kinds = (await told(engine))[before:]
    assert [kind for kind in kinds if kind == "message.moved"] == ["message.moved"] * 3
    assert set(kinds) == {"message.updated", "message.moved"}
    gmail.remove(letter)  # 30 days later
    await engine.sync()
    await engine.sync()
    message = await crm.message(1)
    assert (message.id, await crm.stands(1)) == (id_, [])
    assert len(await engine.rows("messages")) == 3


async def test_what_the_crm_asks_for_is_done_to_the_message(started: Started, gmail: Gmail) -> None:
    engine = await started(gmail)
    crm, letter, fetched = Crm(engine), gmail.letters[0], bodies(gmail)
    id_ = await crm.id(1)
    await crm.labels(1, add=["Kunden", "Über & mehr"], remove=["\\Inbox"])
    await crm.labels(1, add=["Kunden"], remove=["Kunden/Büro"])
    await crm.flags(1, add=["\\Flagged"])
    await engine.sync()
    assert letter.labels == {"Kunden", "&ANw-ber &- mehr"}
    assert letter.flags == {"\\Flagged"}
    await crm.move(1, TRASH)
    await engine.sync()
    assert letter.place == TRASH
    assert (await crm.id(1), await crm.stands(1)) == (id_, [(TRASH, 1)])
    await crm.move(1, ALL)
    await engine.sync()
    await engine.sync()
    assert (letter.place, await crm.stands(1)) == (ALL, [(ALL, 4)])
    assert set(await crm.states()) == {"applied"}
    assert not {"message.created", "message.deleted"} & set((await told(engine))[3:])
    assert bodies(gmail) == fetched


async def test_what_is_deleted_for_ever_is_gone_at_gmail(started: Started, gmail: Gmail) -> None:
    """In All Mail it would stay, whatever is expunged there."""
    engine = await started(gmail)
    crm = Crm(engine)
    asked = await wishes(engine).messages.delete(
        "acme", await crm.id(1), permanent=True, now=engine.clock(), actor=SYSTEM
    )
    assert len(asked.operation_ids) == 2
    await engine.sync()
    assert [letter.raw for letter in gmail.letters] == [mail(2), mail(3)]
    assert set(await crm.states()) == {"applied"}
    assert len(await engine.rows("messages")) == 2


async def test_without_all_mail_the_folders_agree_on_labels(started: Started) -> None:
    """Each folder leaves out its own label of what it tells."""
    async with Gmail("Kunden", hidden=frozenset({ALL})) as gmail:
        gmail.deliver(mail(1), "\\Inbox", "Kunden")
        engine = await started(gmail)
        crm = Crm(engine)
        assert len(await engine.rows("messages")) == 1
        assert len(await crm.stands(1)) == 2
        before = len(await told(engine))
        assert (await crm.message(1)).labels == ["Kunden", "\\Inbox"]
        for _ in range(3):
            await engine.sync()
        assert (await told(engine))[before:] == []
        gmail.letters[0].labels.discard("Kunden")
        gmail.settle()
        await engine.sync()
        await engine.sync()
        assert (await crm.message(1)).labels == ["\\Inbox"]
        await crm.labels(1, add=["Kunden"], remove=["\\Inbox"])
        await engine.sync()
        await engine.sync()
        assert gmail.letters[0].labels == {"Kunden"}
        assert (await crm.message(1)).labels == ["Kunden"]
        assert len(await engine.rows("messages")) == 1


async def test_a_draft_that_is_saved_again_is_the_same(started: Started, gmail: Gmail) -> None:
    first = gmail.deliver(mail(4, body="Dear"), "\\Draft", flags=frozenset({"\\Draft"}))
    engine = await started(gmail)
    rows = await engine.rows("messages")
    (id_,) = [row.id for row in rows if "\\Draft" in row.flags]
    await engine.pin(id_)
    gmail.remove(first)
    gmail.deliver(mail(4, body="Dear Bob"), "\\Draft", flags=frozenset({"\\Draft"}))
    await engine.sync()
    await engine.sync()
    (row,) = [row for row in await engine.rows("messages") if "\\Draft" in row.flags]
    assert (row.id, row.pins, await engine.raw(row)) == (id_, 1, mail(4, body="Dear Bob"))
