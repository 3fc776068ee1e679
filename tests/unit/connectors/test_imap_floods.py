"""Servers that send without end or measure: memory and time stay bounded, and the line is dropped with a reason."""

from __future__ import annotations

import pytest

from connectors.errors import ProtocolError
from connectors.imap import collect
from connectors.imap.collect import MANY_RANGES
from connectors.imap.session import TALK_LIMIT, UNASKED_LIMIT
from connectors.imap.wire import MAX_BODIES
from connectors.model import QResync
from tests.unit.connectors.scripted import Talk, connect, serve
from tests.wirelog import Bytes

DATE = b'INTERNALDATE "14-Nov-2023 22:13:20 +0000"'


@pytest.mark.parametrize(
    ("line", "limit", "reason"),
    [
        (b"* OK still here\r\n", TALK_LIMIT, "keeps talking"),
        (b"* 1 EXPUNGE\r\n", UNASKED_LIMIT, "never stops"),
    ],
)
async def test_talk_without_end_ends_the_line(line: bytes, limit: int, reason: str) -> None:
    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.expect(b"NOOP")
        while True:
            await talk.raw(line * 1000)

    async with serve(script) as server:
        source = await connect(server)
        with pytest.raises(ProtocolError, match=reason):
            await source.noop()
        assert server.talks[0].sent >= limit * len(line)


async def test_a_greeting_without_end_is_no_greeting() -> None:
    async def script(talk: Talk) -> None:
        while True:
            await talk.raw(b"* OK hello\r\n" * 1000)

    async with serve(script) as server:
        with pytest.raises(ProtocolError, match="keeps talking"):
            await connect(server)


async def test_as_much_talk_as_servers_really_do_is_no_harm() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet()
        for _ in range(3):
            tag = await talk.expect(b"NOOP")
            await talk.raw(b"* OK still here\r\n" * (TALK_LIMIT - 10) + b"* 1 EXPUNGE\r\n" * 10_000)
            await talk.send(tag + b" OK done")
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        for _ in range(3):
            await source.noop()
        await source.close()


async def test_one_response_with_body_after_body_ends_the_line() -> None:
    opened = 0

    def open_sink(octets: int) -> Bytes:
        nonlocal opened
        opened += 1
        return Bytes()

    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.examine(1)
        await talk.expect(b"UID FETCH")
        await talk.raw(b"* 1 FETCH (UID 1")
        while True:
            await talk.raw(b" BODY[] {10}\r\n0123456789")

    async with serve(script) as server:
        source = await connect(server)
        await source.open("INBOX")
        with pytest.raises(ProtocolError, match="more bodies"):
            async for _ in source.fetch_bodies([1], open_sink):
                pass
        assert opened <= MAX_BODIES + 1


async def test_bodies_whose_flags_never_come_end_the_line() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.examine(1000)
        await talk.expect(b"UID FETCH")
        for n in range(1, 9):
            await talk.raw(b"* %d FETCH (UID %d BODY[] {8000000}\r\n" % (n, n) + bytes(8_000_000) + b")\r\n")
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        await source.open("INBOX")
        with pytest.raises(ProtocolError, match="without the flags"):
            async for _ in source.fetch_bodies(list(range(1, 1000)), lambda _: Bytes()):
                pass


async def test_halves_that_do_come_together_are_no_flood() -> None:
    """Five bodies of 8 MB, each with its flags in a response of its own."""

    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.examine(5)
        tag = await talk.expect(b"UID FETCH")
        for n in range(1, 6):
            await talk.raw(b"* %d FETCH (UID %d BODY[] {8000000}\r\n" % (n, n) + bytes(8_000_000) + b")\r\n")
            await talk.send(b"* %d FETCH (UID %d FLAGS () %s RFC822.SIZE 5)" % (n, n, DATE))
        await talk.send(tag + b" OK done")
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        await source.open("INBOX")
        got = [f.meta.uid async for f in source.fetch_bodies([1, 2, 3, 4, 5], lambda _: Bytes())]
        assert got == [1, 2, 3, 4, 5]
        await source.close()


@pytest.mark.parametrize("number", [2**63, 10**19 - 1])
async def test_numbers_that_no_number_can_be_are_not_told(number: int) -> None:
    async def script(talk: Talk) -> None:
        await talk.greet(b"IMAP4rev1 CONDSTORE")
        codes = (b"* OK [UIDNEXT %d] x" % number, b"* OK [HIGHESTMODSEQ %d] x" % number)
        await talk.answer(b"EXAMINE", b"* 1 EXISTS", b"* OK [UIDVALIDITY 7] x", *codes)
        await talk.answer(b"EXAMINE", b"* 1 EXISTS", b"* OK [UIDVALIDITY %d] x" % number)
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        status = (await source.open("INBOX")).status
        assert (status.uidnext, status.highestmodseq) == (None, None)
        with pytest.raises(ProtocolError, match="UIDVALIDITY"):
            await source.open("INBOX")
        await source.close()


async def test_changes_without_end_in_the_answer_to_examine_end_the_line() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.expect(b"EXAMINE")
        uid = 1
        while True:
            await talk.send(*(b"* 1 FETCH (UID %d FLAGS (\\Seen))" % (uid + n) for n in range(10_000)))
            uid += 10_000

    async with serve(script) as server:
        source = await connect(server)
        with pytest.raises(ProtocolError, match="more changes"):
            await source.open("INBOX")


async def test_more_gaps_than_are_worth_keeping_mean_no_resync() -> None:
    """The folder is listed instead."""

    async def script(talk: Talk) -> None:
        await talk.greet(b"IMAP4rev1 ENABLE QRESYNC CONDSTORE")
        await talk.answer(b"ENABLE", b"* ENABLED QRESYNC")
        gaps = b",".join(b"%d" % uid for uid in range(1, 2 * MANY_RANGES + 10, 2))
        await talk.examine(5, b"* OK [HIGHESTMODSEQ 9] x", b"* VANISHED (EARLIER) " + gaps)
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        selected = await source.open("INBOX", QResync(1, 5))
        assert not selected.resynced
        assert selected.vanished == ()
        await source.close()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (b"LIST", b'* LIST () "/" "' + b"x" * 400_000 + b'"\r\n'),
        (b"LIST", b"* LIST (" + b" ".join(b"\\a%d" % n for n in range(20_000)) + b') "/" "x"\r\n'),
        (b"STATUS", b'* STATUS "' + b"x" * 400_000 + b'" (MESSAGES 1)\r\n'),
        (b"STATUS", b'* STATUS "x" (' + b" ".join(b"A%d 1" % n for n in range(20_000)) + b")\r\n"),
    ],
    ids=["names", "attributes", "names with counts", "counts"],
)
async def test_long_lines_without_end_end_the_line(
    command: bytes, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "GATHERED_BYTES", 8 << 20)

    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.expect(command)
        while True:
            await talk.raw(line)

    async with serve(script) as server:
        source = await connect(server)
        with pytest.raises(ProtocolError, match="more than anybody can take"):
            await (source.list_folders() if command == b"LIST" else source.status(["INBOX"]))
        assert server.talks[0].sent < 100 * len(line)


async def test_what_a_server_enables_without_end_is_not_kept() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet(b"IMAP4rev1 ENABLE QRESYNC CONDSTORE")
        tag = await talk.expect(b"ENABLE")
        for n in range(50):
            await talk.send(b"* ENABLED " + b" ".join(b"X%d-%d" % (n, word) for word in range(1_000)))
        await talk.send(b"* ENABLED QRESYNC", tag + b" OK done")
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        assert source._session.enabled == {"QRESYNC"}
        await source.close()
