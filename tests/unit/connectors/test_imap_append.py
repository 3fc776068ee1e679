"""Appending to servers that refuse, cut, stall or do not ask: no octet too much, never a message that is not whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from connectors.errors import (
    ConnectorError,
    NetworkError,
    ProtocolError,
    Retry,
    ServerError,
)
from connectors.imap.settings import Timeouts
from connectors.imap.upload import COLLECTED
from connectors.port import Placed
from tests.unit.connectors.scripted import PLAIN, Talk, pieces, talking

SEEN = frozenset({"\\Seen"})
LARGE = COLLECTED + 1


@pytest.mark.parametrize(
    ("capabilities", "heard"),
    [
        (b"IMAP4rev1 LITERAL+", [b"{5+}\r\nhello"]),
        (b"IMAP4rev1 LITERAL-", [b"{5+}\r\nhello"]),
        (b"IMAP4rev1", [b"{5}\r\nhello"]),
    ],
)
async def test_a_small_message_in_every_kind_of_literal(capabilities: bytes, heard: list[bytes]) -> None:
    async def script(talk: Talk) -> None:
        tag, rest = await talk.command()
        assert rest == b'APPEND "a" (\\Seen) " 7-Feb-2026 09:05:01 +0000" ' + heard[0]
        await talk.send(tag + b" OK [APPENDUID 5 6] done")

    async with talking(script, capabilities, selected=False) as line:
        placed = await line.append("a", 5, pieces(b"hello", 2), flags=SEEN, internal_date=1_770_455_101_999_999)
        assert placed == Placed(5, {0: 6})


@pytest.mark.parametrize(
    "status",
    [b"OK done", b"OK [APPENDUID 5] x", b"OK [APPENDUID 5 0] x", b"OK [APPENDUID 5 1:2] x", b"OK [APPENDUID 5 6 7] x",
     b"OK [APPENDUID 99999999999 6] x"],
)  # fmt: skip
async def test_an_append_whose_place_is_not_told(status: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b'APPEND "a" {1+}', status=status)

    async with talking(script, selected=False) as line:
        assert await line.append("a", 1, pieces(b"x")) is None


async def test_a_large_message_waits_until_it_is_asked_for() -> None:
    raw = bytes(range(1, 256)) * 2_000
    size = len(raw)

    async def script(talk: Talk) -> None:
        head = await talk.line()
        tag, _, rest = head.partition(b" ")
        assert rest == b'APPEND "a" {%d}' % size
        await talk.send(b"* OK wait", b"+ go on", b"+ please")
        assert await talk.reader.readexactly(size) == raw
        assert await talk.line() == b""
        await talk.send(b"* 5 EXISTS", tag + b" OK [APPENDUID 5 6] done")
        await talk.answer(b"NOOP")

    async with talking(script, selected=False) as line:
        assert await line.append("a", size, pieces(raw, 777)) == Placed(5, {0: 6})
        await line.noop()


@pytest.mark.parametrize("size", [10, LARGE])
async def test_a_refused_message_costs_no_octet(size: int) -> None:
    async def script(talk: Talk) -> None:
        tag, _, rest = (await talk.line()).partition(b" ")
        assert rest == b'APPEND "a" {%d}' % size
        await talk.send(tag + b" NO [OVERQUOTA] full")
        await talk.answer(b"NOOP")

    async with talking(script, b"IMAP4rev1", selected=False) as line:
        with pytest.raises(ServerError) as refused:
            await line.append("a", size, pieces(b"x" * size))
        assert refused.value.code == "OVERQUOTA"
        await line.noop()


@pytest.mark.parametrize(("answer", "error"), [(b" NO [OVERQUOTA] full", ServerError), (b" OK thanks", ProtocolError)])
async def test_an_answer_in_the_middle_of_a_message_ends_the_line(answer: bytes, error: type[ConnectorError]) -> None:
    size = 20_000_000

    async def script(talk: Talk) -> None:
        tag = (await talk.line()).partition(b" ")[0]
        await talk.send(b"+ go on")
        await talk.reader.readexactly(1_000)
        await talk.send(tag + answer)
        await talk.reader.read()

    async with talking(script, selected=False) as line:
        with pytest.raises(error):
            await line.append("a", size, pieces(b"x" * size, 100_000))
        with pytest.raises(NetworkError):
            await line.noop()


@pytest.mark.parametrize("end", ["short", "long", "error", "cancel", "nul"])
async def test_a_message_that_is_not_sent_whole_is_never_complete(end: str) -> None:
    """Not one octet too many, and never the last one, reaches the server; then the line drops."""
    got = bytearray()
    started = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.line()
        await talk.send(b"+ go on")
        with contextlib.suppress(ConnectionError):
            while data := await talk.reader.read(1 << 16):
                got.extend(data)
                started.set()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a" * COLLECTED
        yield b"b" * (LARGE - COLLECTED - 1)
        if end == "short":
            return
        if end == "long":
            yield b"cc"
        elif end == "error":
            raise OSError("the disk is gone")
        elif end == "nul":
            yield b"\0"
        else:
            await started.wait()
            raise asyncio.CancelledError

    expected = {"error": OSError, "cancel": asyncio.CancelledError, "nul": ServerError}.get(end, ValueError)
    async with talking(script, selected=False) as line:
        with pytest.raises(expected):
            await line.append("a", LARGE, chunks())
        with pytest.raises(NetworkError):
            await line.noop()
    assert len(got) < LARGE


async def test_a_small_message_of_another_size_leaves_the_line_alone() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"NOOP")

    async with talking(script, selected=False) as line:
        for raw in (b"", b"1234", b"123456"):
            with pytest.raises(ValueError):
                await line.append("a", 5, pieces(raw))
        with pytest.raises(ValueError):
            await line.append("a", 0, pieces(b""))
        with pytest.raises(ValueError):
            await line.append("a", 1, pieces(b"a"), internal_date=1 << 62)
        await line.noop()


async def test_nul_goes_as_literal8_or_not_at_all() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b'APPEND "a" ~{3+}\r\na\0b')

    async with talking(script, PLAIN + b" BINARY", selected=False) as line:
        await line.append("a", 3, pieces(b"a\0b"))

    async def nothing(talk: Talk) -> None:
        await talk.answer(b"NOOP")

    async with talking(nothing, selected=False) as line:
        with pytest.raises(ServerError, match="NUL") as refused:
            await line.append("a", 3, pieces(b"a\0b"))
        assert (refused.value.code, refused.value.retry) == ("UNKNOWN-CTE", Retry.NEVER)
        await line.noop()


async def test_what_is_too_large_for_the_server_is_not_offered_to_it() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b'APPEND "a" {10+}')

    async with talking(script, PLAIN + b" APPENDLIMIT=10 APPENDLIMIT", selected=False) as line:
        with pytest.raises(ServerError) as refused:
            await line.append("a", 11, pieces(b"12345678901"))
        assert (refused.value.code, refused.value.retry) == ("TOOBIG", Retry.NEVER)
        await line.append("a", 10, pieces(b"1234567890"))


@pytest.mark.patient
async def test_a_message_is_read_no_faster_than_it_is_sent() -> None:
    """The server reads nothing for a while: what was asked of the caller stays bounded, whatever the size."""
    size = 50_000_000
    asked = 0
    read_on = asyncio.Event()

    async def script(talk: Talk) -> None:
        tag = (await talk.line()).partition(b" ")[0]
        await talk.send(b"+ go on")
        await read_on.wait()
        left = size
        while left:
            left -= len(await talk.reader.readexactly(min(left, 1 << 16)))
        await talk.line()
        await talk.send(tag + b" OK done")

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal asked
        while asked < size:
            asked += 100_000
            yield b"x" * 100_000

    async with talking(script, selected=False) as line:
        sending = asyncio.create_task(line.append("a", size, chunks()))
        await asyncio.sleep(1)  # until the caller is asked for nothing more
        assert asked < 20_000_000  # what the systems' own buffers take
        read_on.set()
        assert await sending is None


@pytest.mark.patient
async def test_a_server_that_takes_nothing_more_ends_the_line() -> None:
    size = 50_000_000

    async def script(talk: Talk) -> None:
        await talk.line()
        await talk.send(b"+ go on")
        talk.writer.transport.pause_reading()
        await over.wait()

    over = asyncio.Event()
    async with talking(script, selected=False, timeouts=Timeouts(command_s=60)) as line:
        with pytest.raises(NetworkError, match="took nothing"):
            await line.append("a", size, pieces(b"x" * size, 1_000_000))
        over.set()


@pytest.mark.patient
async def test_a_server_that_never_asks_for_the_message_ends_the_line() -> None:
    async def script(talk: Talk) -> None:
        await talk.line()

    async with talking(script, selected=False, timeouts=Timeouts(command_s=60)) as line:
        with pytest.raises(NetworkError, match="did not answer"):
            await line.append("a", LARGE, pieces(b"x" * LARGE))


@pytest.mark.patient
async def test_a_caller_that_takes_its_time_is_no_silence_of_the_server() -> None:
    async def script(talk: Talk) -> None:
        tag = (await talk.line()).partition(b" ")[0]
        await talk.send(b"+ go on")
        await talk.reader.readexactly(LARGE)
        await talk.line()
        await talk.send(tag + b" OK done")

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(100)
        yield b"y" * (LARGE - 1)

    timeouts = Timeouts(command_s=60, octets_per_s=10_000_000)
    async with talking(script, selected=False, timeouts=timeouts) as line:
        assert await line.append("a", LARGE, slow()) is None
