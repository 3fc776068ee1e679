"""A server that says anything: numbers that can't be, lines twice, too long or not at all, answers to nothing, literals
without end, hang-ups in the middle. Told by a seed.

While it does, a pass may fail, in an orderly way and in bounded time. Once it is honest again everything is here, no
message is in two rows of one address, and the store is consistent.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import shutil
from pathlib import Path
from typing import Final

import pytest

from connectors.errors import ConnectorError
from connectors.imap.connection import connect_imap
from connectors.imap.settings import Timeouts
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from connectors.port import Connection
from mailgate.clock import system_clock
from mailgate.errors import MailgateError
from mailgate.settings import SyncSettings
from tests.fakeimap import End, FakeImap, Mail
from tests.property.reconcile_machine import template
from tests.soak import also
from tests.sync.engine import Engine, mail

LOOPBACK = parse_networks(["127.0.0.0/8"])
SHORT: Final = Timeouts(connect_s=3, command_s=1)
"""While it says anything, or nothing."""
PATIENT: Final = Timeouts()
NUMBERS: Final = [b"0", b"1", b"2", b"-1", b"99999", b"4294967295", b"4294967296", b"18446744073709551616"]
LINES: Final = [
    *(b"* 999999 EXISTS", b"* 0 EXISTS", b"* 4294967297 EXISTS", b"* 0 EXPUNGE", b"* 7 EXPUNGE"),
    *(b"* VANISHED 1:*", b"* VANISHED (EARLIER) 1:4294967295", b"* CAPABILITY IMAP4rev1", b"* CAPABILITY"),
    b"* CAPABILITY IMAP4rev1 IDLE QRESYNC CONDSTORE ENABLE MOVE UIDPLUS ESEARCH",
    *(b"* OK [UIDVALIDITY 7] x", b"* OK [UIDVALIDITY 0] x", b"* OK [UIDNEXT 1] x", b"* OK [UIDNEXT 4294967295] x"),
    *(b"* OK [HIGHESTMODSEQ 18446744073709551615] x", b"* OK [HIGHESTMODSEQ 99999999999999999999999] x"),
    *(b"* NO [ALERT] \x00\xff", b'* LIST () "/" "a\x00b"', b'* LIST () "/" "\xc3\xa9\xff"', b'* LIST () NIL ""'),
    *(b'* LIST () "/" {3}\r\n\r\n\r', b'* LIST (\\Inbox) "/" inbox', b'* LIST () "/" &bad', b'* LIST () "/" "INBOX"'),
    *(
        b"* 1 FETCH (UID 1 FLAGS (\\Deleted \\Seen))",
        b"* 1 FETCH (UID 4294967295 FLAGS ())",
        b"* 1 FETCH (UID 0 FLAGS ())",
    ),
    *(
        b"* 1 FETCH (FLAGS (",
        b"* 1 FETCH (UID 2 FLAGS () BODY[] NIL)",
        b"* 1 FETCH (UID 99999999999999999999 FLAGS ())",
    ),
    b'* 3 FETCH (UID 3 FLAGS () INTERNALDATE "99-Foo-2099 99:99:99 +9999" RFC822.SIZE 99999999999)',
    *(b"* 1 FETCH (UID 1 BODY[] {5}\r\nabcde FLAGS ())", b'* 1 FETCH (UID 1 FLAGS ("x" {1}\r\n\r))'),
    *(b"* SEARCH 1 2 3 4294967295", b"* SEARCH 0 -1 x", b'* ESEARCH (TAG "A1") UID ALL 1:4294967295 COUNT 4294967295'),
    *(b'* STATUS "INBOX" (MESSAGES 4294967295 UIDNEXT 1 UIDVALIDITY 9)', b"* STATUS INBOX (MESSAGES)", b"+ go on"),
    *(b"* ", b"*", b"", b"garbage", b"A1 OK x", b"A999 OK x", b"* PREAUTH hello", b"* FLAGS (\\* \\\\ \xff)"),
    *(b"(" * 3_000, b"* 1 FETCH (" + b"(" * 2_000, b"* OK [" + b"A" * 5_000),
]
CODES: Final = [b"NONEXISTENT", b"UNAVAILABLE", b"LIMIT", b"AUTHENTICATIONFAILED", b"x"]
KINDS: Final = [
    *("number", "twice", "nothing", "line", "line", "line", "cut", "half", "no", "bad", "literal", "bye", "long")
]
KINDS_RARE: Final = ["bare", "silent"]


class Liar:
    """Mangles what is said, while it is `evil` (0 to 1)."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self.evil = self._dice.choice((0.05, 0.15, 0.4))

    def __call__(self, tag: bytes, data: bytes) -> tuple[bytes, End]:
        dice = self._dice
        if dice.random() >= self.evil:
            return data, End.NONE
        kind = dice.choice(KINDS if dice.random() < 0.97 else KINDS_RARE)
        part = data[: dice.randrange(len(data) + 1)]
        match kind:
            case "number":
                found = list(re.finditer(rb"(?<![A-Za-z0-9])\d+", data.split(b"{")[0]))
                if found:
                    at = dice.choice(found)
                    data = data[: at.start()] + dice.choice(NUMBERS) + data[at.end() :]
            case "twice":
                data += b"" if data.startswith(tag) else data
            case "nothing":
                data = b""
            case "line":
                line = dice.choice(LINES) + b"\r\n"
                data = line + data if dice.random() < 0.7 else data + line
            case "no":
                data = tag + b" NO [" + dice.choice(CODES) + b"] no\r\n"
            case "bad":
                data = tag + b" BAD what\r\n"
            case "bye":
                return b"* BYE [UNAVAILABLE] bye\r\n", dice.choice((End.NONE, End.CUT, End.HALF))
            case "literal":
                octets = dice.choice((b"4294967295", b"99999999999999999999", b"300000000", b"-5", b"0"))
                data = b"* 1 FETCH (UID 1 FLAGS () RFC822.SIZE 9 BODY[] {" + octets + b"}\r\n" + b"x" * 50_000 + data
            case "long":
                data = b"* OK " + b"a" * dice.choice((10_000, 1_200_000)) + dice.choice((b"\r\n", b"\n", b"")) + data
            case "bare":
                data = data.replace(b"\r\n", b"\n")
            case _:
                ends = {"cut": End.CUT, "half": End.HALF, "silent": End.SILENT}
                return part, ends[kind]
        return data, End.NONE


@pytest.mark.parametrize("seed", [*range(4), *also(range(4, 200))])
def test_everything_is_here_once_it_is_honest(seed: int, tmp_path: Path) -> None:
    shutil.copyfile(template(), tmp_path / "mailgate.db")
    asyncio.run(_story(seed, tmp_path))


async def _story(seed: int, folder: Path) -> None:
    liar = Liar(seed)
    inbox, archive = ([Mail(n, mail(first + n)) for n in range(1, 8)] for first in (0, 100))
    server = FakeImap({"INBOX": inbox, "Archive": archive}, mangle=liar)

    async def connect() -> Connection:
        endpoint = Endpoint("127.0.0.1", server.port, Security.NONE)
        auth = PasswordAuth("bob", "x")
        timeouts = SHORT if liar.evil else PATIENT
        return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=LOOPBACK, timeouts=timeouts)

    async with server:
        engine = await Engine.open(
            f"sqlite:///{folder / 'mailgate.db'}",
            folder,
            MemoryAccount(),
            connect=connect,
            clock=system_clock,  # type: ignore[arg-type]
            settings=SyncSettings(),
        )
        for n in range(4):
            with contextlib.suppress(ConnectorError, MailgateError):
                async with asyncio.timeout(120):  # a machine ten times slower
                    await engine.sync()
            for box in (inbox, archive):
                box.append(Mail(box[-1].uid + 1, mail(1_000 * (n + 1) + (500 if box is archive else 0))))
        liar.evil = 0
        server.hang_up()
        for _ in range(4):
            with contextlib.suppress(ConnectorError, MailgateError):
                await engine.sync()
        names = {row.id: row.name for row in await engine.rows("folders")}
        here = [(names[row.folder_id], row.uid) for row in await engine.rows("origins") if row.uidvalidity == 1]
        aside = [(names[row.folder_id], row.uid) for row in await engine.rows("quarantine")]
        there = [(name, item.uid) for name, box in server.folders.items() for item in box]
        assert not set(there) - set(here) - set(aside)
        assert not set(here) - set(there)
        await engine.close()
