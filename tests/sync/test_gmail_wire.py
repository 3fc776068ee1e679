"""Gmail as it speaks on the line: labels and message ids in FETCH, special uses in LIST, modified UTF-7 in both."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from mailgate.clock import system_clock
from mailgate.settings import SyncSettings
from tests.fakeimap import FakeImap, Mail, Talk, in_set
from tests.sync.engine import Engine, mail

ALL, TRASH = "[Gmail]/Alle Nachrichten", "[Gmail]/Papierkorb"
LABELS: dict[int, bytes] = {1: b'"\\\\Inbox" Kunden', 2: b'"\\\\Inbox" "B&APw-ro"', 3: b""}


class Gmail(FakeImap):
    """All Mail with three messages; `labels` by X-GM-MSGID."""

    def __init__(self) -> None:
        folders = {ALL: [Mail(n, mail(n)) for n in (1, 2, 3)], TRASH: [], "INBOX": [Mail(1, mail(1)), Mail(2, mail(2))]}
        super().__init__(folders, capabilities=b"IMAP4rev1 X-GM-EXT-1 SPECIAL-USE IDLE LITERAL+ UIDPLUS")
        self.labels = dict(LABELS)
        self.lies |= {"LIST": self._list, "UID FETCH": self._fetch}

    async def _list(self, talk: Talk, rest: bytes) -> None:
        await talk.send(
            b'* LIST (\\HasNoChildren) "/" "INBOX"',
            b'* LIST (\\HasChildren \\Noselect) "/" "[Gmail]"',
            b'* LIST (\\All \\HasNoChildren) "/" "' + ALL.encode() + b'"',
            b'* LIST (\\HasNoChildren \\Trash) "/" "' + TRASH.encode() + b'"',
        )
        await talk.ok()

    def _said(self, rest: bytes, found: Mail) -> bytes:
        id_ = int(re.findall(rb"<(\d+)@", found.raw)[0])
        said = b""
        if b"X-GM-MSGID" in rest:
            said += b" X-GM-MSGID %d" % (1_278_455_344_230_334_860 + id_)
        if b"X-GM-LABELS" in rest:
            said += b" X-GM-LABELS (" + self.labels[id_] + b")"
        return said

    async def _fetch(self, talk: Talk, rest: bytes) -> None:
        for number, found in enumerate(self.folders[talk.folder], start=1):
            if not in_set(rest.split(b" ")[2], found.uid):
                continue
            head = b"* %d FETCH (UID %d FLAGS ()%s" % (number, found.uid, self._said(rest, found))
            if b"INTERNALDATE" in rest:
                head += b' INTERNALDATE "%s" RFC822.SIZE %d' % (found.shown_date, len(found.raw))
            if b"BODY.PEEK[HEADER]" in rest:
                header = found.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                head += b" BODY[HEADER] {%d}\r\n%s" % (len(header), header)
            elif b"BODY.PEEK[]" in rest:
                head += b" BODY[] {%d}\r\n%s" % (len(found.raw), found.raw)
            await talk.send(head + b")")
        await talk.ok()


@pytest.fixture
async def gmail() -> AsyncIterator[Gmail]:
    async with Gmail() as server:
        yield server


@pytest.fixture
async def engine(gmail: Gmail, sqlite_url: str, tmp_path: Path) -> AsyncIterator[Engine]:
    async def connect() -> ImapConnection:
        endpoint, networks = Endpoint("127.0.0.1", gmail.port, Security.NONE), parse_networks(["127.0.0.0/8"])
        return await connect_imap(endpoint, PasswordAuth("bob", "x"), ssl_context=None, allow_networks=networks)

    made = await Engine.open(
        sqlite_url,
        tmp_path,
        MemoryAccount(),
        connect=connect,
        clock=system_clock,
        settings=SyncSettings(),  # type: ignore[arg-type]
    )
    yield made
    await made.close()


async def labels(engine: Engine) -> list[list[str]]:
    rows = {await engine.raw(row): row.labels for row in await engine.rows("messages")}
    return [rows[mail(n)] for n in (1, 2, 3)]


async def test_messages_come_once_with_their_labels(engine: Engine, gmail: Gmail) -> None:
    await engine.sync()
    assert await labels(engine) == [["Kunden", "\\Inbox"], ["Büro", "\\Inbox"], []]
    assert not any(b'EXAMINE "INBOX"' in line for line in gmail.heard)
    assert len({row.email_token for row in await engine.rows("messages")}) == 3


async def test_labels_that_change_at_the_server_arrive(engine: Engine, gmail: Gmail) -> None:
    await engine.sync()
    gmail.labels[1] = b"Kunden Erledigt"
    await engine.sync()
    assert await labels(engine) == [["Erledigt", "Kunden"], ["Büro", "\\Inbox"], []]
    assert len(await engine.events("message.updated")) == 1


async def test_a_message_moved_to_trash_is_the_same(engine: Engine, gmail: Gmail) -> None:
    await engine.sync()
    before = {row.id for row in await engine.rows("messages")}
    gone = gmail.folders[ALL].pop(0)
    gmail.folders[TRASH].append(Mail(7, gone.raw))
    gmail.labels[1] = b""
    await engine.sync()
    assert {row.id for row in await engine.rows("messages")} == before
    assert (await labels(engine))[0] == []
    assert len(await engine.events("message.moved")) == 1
