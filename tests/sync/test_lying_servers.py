"""Servers that contradict themselves: what they hide is found later, and what is impossible is not believed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import ProtocolError
from connectors.imap.connection import connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from connectors.port import Connection
from mailgate.clock import DAY, system_clock
from mailgate.settings import SyncSettings
from tests.fakeimap import FakeImap, Lie, Mail, Talk
from tests.sync.engine import Engine, mail

LOOPBACK = parse_networks(["127.0.0.0/8"])
Watch = Callable[..., Awaitable[Engine]]


@pytest.fixture
async def watch(database_url: str, tmp_path: Path) -> AsyncIterator[Watch]:
    """Opens an engine on a server."""
    made: list[Engine] = []

    async def open_(server: FakeImap, **options: Any) -> Engine:
        async def connect() -> Connection:
            endpoint = Endpoint("127.0.0.1", server.port, Security.NONE)
            return await connect_imap(endpoint, PasswordAuth("bob", "x"), ssl_context=None, allow_networks=LOOPBACK)

        options.setdefault("settings", SyncSettings(poll_interval_s=1, backoff_min_s=0.05))
        account = MemoryAccount()
        clock = system_clock
        made.append(await Engine.open(database_url, tmp_path, account, connect=connect, clock=clock, **options))  # type: ignore[arg-type]
        return made[-1]

    yield open_
    for engine in made:
        await engine.close()


def some(count: int) -> list[Mail]:
    return [Mail(n, mail(n)) for n in range(1, count + 1)]


def opens_with(exists: int, uidvalidity: int, uidnext: int | None) -> Lie:
    """EXAMINE answered so."""

    async def lie(talk: Talk, rest: bytes) -> None:
        talk.folder = "INBOX"
        await talk.send(b"* %d EXISTS" % exists, b"* OK [UIDVALIDITY %d] x" % uidvalidity)
        if uidnext is not None:
            await talk.send(b"* OK [UIDNEXT %d] x" % uidnext)
        await talk.ok()

    return lie


async def copies(engine: Engine) -> list[bytes]:
    return sorted([await engine.raw(row) for row in await engine.rows("messages")])


@pytest.mark.parametrize(
    ("exists", "uidnext"), [(5, 1), (5, 3), (5, 5), (5, 0), (5, None), (5, 2**32 + 9), (2, 6), (50, 6)]
)
async def test_a_uidnext_that_cannot_be_hides_nothing(watch: Watch, exists: int, uidnext: int | None) -> None:
    server = FakeImap({"INBOX": some(5)})
    server.lies["EXAMINE"] = opens_with(exists, 1, uidnext)
    async with server:
        engine = await watch(server)
        await engine.sync()
        assert await copies(engine) == sorted(m.raw for m in server.folders["INBOX"])
        server.folders["INBOX"].append(Mail(6, mail(6)))
        server.lies["EXAMINE"] = opens_with(exists + 1, 1, uidnext and uidnext + 1)
        await engine.sync()
        assert len(await copies(engine)) == 6
        assert len(await engine.events("message.created")) == 6


async def test_a_folder_that_looked_empty_is_read_when_it_no_longer_does(watch: Watch) -> None:
    server = FakeImap({"INBOX": some(5)})
    server.lies["EXAMINE"] = opens_with(0, 1, 6)
    async with server:
        engine = await watch(server)
        await engine.sync()
        assert await copies(engine) == []
        del server.lies["EXAMINE"]
        await engine.sync()
        assert await copies(engine) == sorted(m.raw for m in server.folders["INBOX"])


async def test_new_mail_whose_flags_cannot_be_read_is_not_forgotten(watch: Watch) -> None:
    server = FakeImap({"INBOX": some(5)})

    async def garble(talk: Talk, rest: bytes) -> None:
        if b"BODY" in rest:
            await talk.truth("UID FETCH", rest)
        else:
            await talk.send(b"* 6 FETCH (UID 6 FLAGS ((((")
            await talk.ok()

    async with server:
        engine = await watch(server)
        await engine.sync()
        server.folders["INBOX"].append(Mail(6, mail(6)))
        server.lies["UID FETCH"] = garble
        await engine.sync()
        assert len(await copies(engine)) == 6


def dated(n: int, days: float) -> Mail:
    """A message received so many days ago."""
    at = datetime.fromtimestamp((system_clock() - int(days * DAY)) / 1e6, UTC)
    return Mail(n, mail(n), date=at.strftime("%d-%b-%Y %H:%M:%S +0000").encode())


def day_of(text: bytes) -> datetime:
    return datetime.strptime(text.decode(), "%d-%b-%Y").replace(tzinfo=UTC)


async def search_by_day(talk: Talk, rest: bytes) -> None:
    """SEARCH SINCE as servers do it: by the date that they show."""
    found = talk.server.folders[talk.folder]
    if b"SINCE" in rest:
        since = day_of(rest.split(b" ")[-1])
        found = [m for m in found if day_of(m.date[:11]) >= since]
    await talk.send(b" ".join([b"* SEARCH", *(b"%d" % m.uid for m in found)]))
    await talk.ok()


async def test_progress_counts_only_what_is_inside_the_window(watch: Watch) -> None:
    """The server is asked for a day more; what that day brings is neither counted nor downloaded."""
    server = FakeImap(
        {
            "INBOX": [dated(n, 95.5 - n) for n in range(1, 95)],
            "Archive": [dated(n, (100 - n) % 92 + 0.5) for n in range(1, 100)],
        }
    )
    server.lies["UID SEARCH"] = search_by_day
    async with server:
        engine = await watch(server)
        await engine.sync()
        kept = len(await engine.rows("messages"))
        assert kept == sum(
            1
            for folder in server.folders.values()
            for m in folder
            if datetime.now(UTC) - datetime.strptime(m.date.decode(), "%d-%b-%Y %H:%M:%S %z") < timedelta(days=90)
        )
        mailbox = (await engine.rows("mailboxes"))[0]
        assert (mailbox.progress_done, mailbox.progress_total) == (kept, kept)
        assert sum(row.progress_total for row in await engine.rows("folders")) == kept


async def test_progress_leaves_out_what_vanished_meanwhile(watch: Watch) -> None:
    server = FakeImap({"INBOX": some(20)})

    async def expunge(talk: Talk, rest: bytes) -> None:
        if b"BODY" in rest and len(server.folders["INBOX"]) > 17:
            server.folders["INBOX"].pop(0)  # the oldest is asked for last
        await talk.truth("UID FETCH", rest)

    server.lies["UID FETCH"] = expunge
    async with server:
        engine = await watch(server)
        await engine.sync()
        kept = len(await engine.rows("messages"))
        assert kept == 17
        mailbox = (await engine.rows("mailboxes"))[0]
        assert (mailbox.progress_done, mailbox.progress_total) == (kept, kept)


async def test_bodies_of_no_message_end_the_line(watch: Watch) -> None:
    server = FakeImap({"INBOX": some(5)})

    async def flood(talk: Talk, rest: bytes) -> None:
        if b"BODY" not in rest:
            await talk.truth("UID FETCH", rest)
            return
        while True:
            await talk.raw(b"* 1 FETCH (BODY[] {1000000}\r\n" + bytes(1_000_000) + b")\r\n")

    server.lies["UID FETCH"] = flood
    async with server:
        engine = await watch(server)
        with pytest.raises(ProtocolError, match="belong to no message"):
            await engine.sync()
        del server.lies["UID FETCH"]
        await engine.sync()
        assert len(await copies(engine)) == 5


async def test_more_flags_than_messages_end_the_line(watch: Watch) -> None:
    server = FakeImap({"INBOX": some(5)})

    async def flood(talk: Talk, rest: bytes) -> None:
        for start in range(1, 100_000, 1000):
            await talk.send(*(b"* 1 FETCH (UID %d FLAGS ())" % uid for uid in range(start, start + 1000)))
        await talk.ok()

    async with server:
        engine = await watch(server)
        await engine.sync()
        server.lies["UID FETCH"] = flood
        server.lies["EXAMINE"] = opens_with(6, 1, 2**32 - 1)
        with pytest.raises(ProtocolError, match="more messages than there are"):
            await engine.sync()
        assert len(await copies(engine)) == 5


async def test_a_search_that_finds_four_thousand_million_messages_fills_no_memory(watch: Watch) -> None:
    """ESEARCH says so in a line, and EXISTS bears it out. Such a search ends the line; where all would be listed, the
    folder says why it is not, and the other one is well.
    """
    server = FakeImap({"INBOX": some(5), "Archive": some(2)}, capabilities=b"IMAP4rev1 IDLE LITERAL+ ESEARCH")

    async def opens(talk: Talk, rest: bytes) -> None:
        if b"INBOX" not in rest:
            await talk.truth("EXAMINE", rest)
            return
        await opens_with(2**32 - 1, 1, None)(talk, rest)

    async def finds(talk: Talk, rest: bytes) -> None:
        count = 2**32 - 1 if talk.folder == "INBOX" else 2
        await talk.send(b'* ESEARCH (TAG "%s") UID COUNT %d ALL 1:%d' % (talk.tag, count, count))
        await talk.ok()

    server.lies |= {"EXAMINE": opens, "UID SEARCH": finds}
    async with server:
        engine = await watch(server)
        with pytest.raises(ProtocolError, match="more messages than there are"):
            await engine.sync()
        del server.lies["UID SEARCH"], server.lies["EXAMINE"]
        server.capabilities = b"IMAP4rev1 IDLE"
        await engine.sync()
        assert len(await copies(engine)) == 7
        server.lies["EXAMINE"] = opens
        await engine.sync()
        errors = {row.name: row.last_error for row in await engine.rows("folders")}
        assert "4294967295 messages" in errors["INBOX"]
        assert errors["Archive"] is None
        assert len(await copies(engine)) == 7


NAMES = [
    b'"a&AAA-b"', b'"a&AAo-b"', b'"../../etc"', b'"&2AA-"', b'"&AAAAAA"', b'"\xff\xfe"', b'"' + b"n" * 10_000 + b'"',
    b'"twice"', b'"twice"', b'{3}\r\na\0b', b'{4}\r\na\r\nb', b'""', "\"\u2063a\"".encode(), '"日本"'.encode(),
    b'"&ZeVnLIqe-"', b'"inBox"', b"Inbox",
]  # fmt: skip


async def test_names_that_no_folder_should_have_harm_no_other_folder(watch: Watch) -> None:
    server = FakeImap({"INBOX": some(5)})
    asked: list[bytes] = []

    async def names(talk: Talk, rest: bytes) -> None:
        await talk.send(b'* LIST () "/" INBOX', *(b'* LIST () "/" ' + name for name in NAMES))
        await talk.send(b'* LIST (\\Noselect) "/" parent', b"* LIST () NIL flat", b'* LIST () "\0" "nul"')
        await talk.ok()

    async def open_(talk: Talk, rest: bytes) -> None:
        asked.append(rest)
        if b'"INBOX"' in rest:
            await talk.truth("EXAMINE", rest)
        else:
            await opens_with(0, 1, 1)(talk, rest)

    async def status(talk: Talk, rest: bytes) -> None:
        await talk.send(b"* STATUS " + rest.split(b" ", 1)[1].rpartition(b" (")[0] + b" (MESSAGES 0 UIDVALIDITY 1)")
        await talk.ok()

    server.lies |= {"LIST": names, "EXAMINE": open_, "STATUS": status}
    async with server:
        engine = await watch(server)
        await engine.sync()
        assert len(await copies(engine)) == 5
        rows = {row.name: row for row in await engine.rows("folders")}
        assert {"INBOX", "../../etc", "日本語", "twice", "a\nb", "parent", "flat", "nul"} <= set(rows)
        assert all(row.last_error is None for row in rows.values())
        assert max(map(len, rows)) < 1000
        assert b'EXAMINE "a&AAA-b"' in asked
        await engine.sync()
        assert {row.name for row in await engine.rows("folders")} == set(rows)


async def test_a_folder_that_opens_as_an_empty_one_is_asked_for_with_status(watch: Watch) -> None:
    server = FakeImap({"INBOX": some(5)})

    async def nothing(talk: Talk, rest: bytes) -> None:
        await talk.send(b"* SEARCH")
        await talk.ok()

    async with server:
        engine = await watch(server)
        await engine.sync()
        server.lies |= {"EXAMINE": opens_with(0, 1, 6), "UID SEARCH": nothing}
        await engine.sync()
        await engine.sync()
        assert len(await copies(engine)) == 5
        (folder,) = await engine.rows("folders")
        assert "opens the folder as an empty one, but says that it holds 5 messages" in folder.last_error
        server.lies.clear()
        await engine.sync()
        assert await copies(engine) == sorted(m.raw for m in server.folders["INBOX"])
        (folder,) = await engine.rows("folders")
        assert folder.last_error is None
        assert not await engine.events("message.deleted")
