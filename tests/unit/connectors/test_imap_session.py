"""A session's life: lines cut anywhere, silence, BYE, IDLE, back-pressure."""

from __future__ import annotations

import asyncio
import math
import socket

import pytest

from connectors.errors import ConnectorError, NetworkError, ProtocolError, ServerError, ThrottledError
from connectors.imap.session import Session
from connectors.imap.settings import Limits, Timeouts
from connectors.imap.source import ImapSource
from connectors.model import QResync
from connectors.port import FolderChange
from tests.unit.connectors.scripted import QUICK, Scripted, Talk, connect, serve
from tests.wirelog import Bytes

RICH = b"IMAP4rev1 IDLE LITERAL+ ENABLE QRESYNC CONDSTORE ESEARCH"
RAWS = {1: b"Subject: a\r\n\r\n* 1 EXPUNGE\r\n", 2: b")\r\n" * 20, 3: b""}


async def dialogue(talk: Talk) -> None:
    """The server's side of `use`."""
    await talk.greet(RICH)
    await talk.answer(b"ENABLE", b"* ENABLED QRESYNC")
    await talk.answer(b"LIST", b'* LIST () "/" INBOX', b'* LIST () "/" {3}\r\na"b')
    await talk.answer(b"STATUS", b"* STATUS INBOX (MESSAGES 3 UIDNEXT 4 UIDVALIDITY 1)")
    await talk.examine(3, b"* OK [HIGHESTMODSEQ 5] x", b"* VANISHED (EARLIER) 9:10")
    await talk.answer(b"UID SEARCH", b'* ESEARCH (TAG "x") UID ALL 1:3 COUNT 3')
    date = b'INTERNALDATE "14-Nov-2023 22:13:20 +0000"'
    metas = [b"* %d FETCH (UID %d FLAGS () %s RFC822.SIZE 5 MODSEQ (2))" % (n, n, date) for n in RAWS]
    await talk.answer(b"UID FETCH", *metas)
    fetched = [
        b"* %d FETCH (UID %d FLAGS () %s RFC822.SIZE %d MODSEQ (2) BODY[] {%d}\r\n%s)"
        % (n, n, date, len(raw), len(raw), raw)
        for n, raw in RAWS.items()
    ]
    await talk.answer(b"UID FETCH", *fetched)
    tag = await talk.expect(b"IDLE")
    await talk.send(b"+ idling", b"* 4 EXISTS")
    assert await talk.line() == b"DONE"
    await talk.send(tag + b" OK idle done")
    await talk.answer(b"NOOP")
    await talk.answer(b"LOGOUT", b"* BYE bye")


async def use(source: ImapSource, got: dict[int, bytes]) -> None:
    """A bit of everything."""
    await source.list_folders()
    await source.status(["INBOX"])
    await source.open("INBOX", QResync(1, 1))
    await source.list_uids()
    async for _ in source.fetch_meta([range(1, 100)]):
        pass
    async for fetched in source.fetch_bodies([3, 2, 1], lambda _: Bytes()):
        got[fetched.meta.uid] = bytes(fetched.sink.data)
    await source.idle(10)
    await source.noop()


async def connect_and_use(server: Scripted, got: dict[int, bytes]) -> None:
    """With nothing that ends by itself."""
    source = await connect(server, timeouts=Timeouts(command_s=math.inf, connect_s=1_000))
    await use(source, got)


async def test_the_dialogue_uncut() -> None:
    got: dict[int, bytes] = {}
    async with serve(dialogue) as server:
        source = await connect(server)
        await use(source, got)
        await source.close()
    assert got == RAWS


async def dialogue_length() -> int:
    async with serve(dialogue) as server:
        source = await connect(server)
        await use(source, {})
        await source.close()
    return server.talks[0].sent


@pytest.mark.parametrize("reset", [False, True])
async def test_a_line_cut_at_every_byte_fails_what_is_pending_at_once(reset: bool) -> None:
    length = await dialogue_length()
    assert length > 1_000
    before_logout = length - len(b"* BYE bye\r\nAAAA0 OK done\r\n") - 8
    for cut in range(before_logout):
        got: dict[int, bytes] = {}
        async with serve(dialogue, budget=cut, reset=reset) as server:
            # A time-out would be a TimeoutError: "at once" means that no time-out is needed.
            with pytest.raises(NetworkError):
                await asyncio.wait_for(connect_and_use(server, got), 10)
        # What was delivered was complete.
        assert got.items() <= RAWS.items(), f"cut at {cut}"
    assert got == RAWS


@pytest.mark.patient
async def test_a_close_that_is_cancelled_still_closes() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet()
        while await talk.reader.readline():  # LOGOUT is not answered
            pass
        gone.set()

    gone = asyncio.Event()
    async with serve(script) as server:
        source = await connect(server, timeouts=Timeouts(logout_s=60))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(source.close(), 0.05)
        await gone.wait()
        with pytest.raises(NetworkError, match="closed"):
            await source.noop()


@pytest.mark.patient
async def test_silence_ends_the_line_and_everything_in_flight() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server, timeouts=Timeouts(command_s=60))
        with pytest.raises(NetworkError, match="STATUS within 60 s"):
            await source.status(["a", "b", "c"])
        with pytest.raises(NetworkError, match="STATUS within 60 s"):
            await source.noop()
        await source.close()


@pytest.mark.patient
async def test_an_answer_that_keeps_coming_is_waited_for() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.examine(1)
        tag = await talk.expect(b"UID FETCH")
        await talk.send(b"* 1 FETCH (UID 1 FLAGS () BODY[] {4}")
        for _ in range(4):
            await asyncio.sleep(40)  # longer than the time-out in all, never in one stretch
            await talk.raw(b"x")
        await talk.send(b")", tag + b" OK done")
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server, timeouts=Timeouts(command_s=60))
        await source.open("INBOX")
        got = [f async for f in source.fetch_bodies([1], lambda _: Bytes())]
        await source.close()
    assert [bytes(f.sink.data) for f in got] == [b"xxxx"]


@pytest.mark.parametrize(
    ("bye", "error"),
    [(b"* BYE shutting down", NetworkError), (b"* BYE [UNAVAILABLE] x", ThrottledError)],
)
async def test_bye_ends_everything_in_flight(bye: bytes, error: type[ConnectorError]) -> None:
    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.expect(b"NOOP")
        await talk.send(bye)
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        with pytest.raises(error):
            await source.noop()
        with pytest.raises(error):
            await source.noop()
        await source.close()


@pytest.mark.parametrize(
    "nonsense",
    [b"zz99 OK who asked", b"what is this", b"* OK " + b"x" * 3_000_000, b"* 1 FETCH (UID 1 BODY[] {2}\r\nabcd"],
)
async def test_nonsense_ends_the_line(nonsense: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.expect(b"NOOP")
        await talk.send(nonsense)
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        with pytest.raises(ProtocolError):
            await source.noop()
        await source.close()


async def test_responses_nobody_understands_change_nothing() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.answer(b"NOOP", b"* XYZZY 1 2 (3)", b"", b"+ sign of life", b"* 1 FETCH (", b"* LIST nonsense")
        await talk.answer(b"NOOP")
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        await source.noop()
        await source.noop()
        await source.close()


@pytest.mark.patient
async def test_a_cancelled_command_leaves_the_line_usable() -> None:
    release = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.greet()
        tag = await talk.expect(b"LIST")
        await release.wait()
        await talk.send(b'* LIST () "/" a', tag + b" OK done")
        await talk.answer(b"LIST", b'* LIST () "/" b')
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(source.list_folders(), 0.05)
        release.set()
        assert [f.name for f in await source.list_folders()] == ["b"]
        await source.close()


# IDLE


async def idling(talk: Talk) -> None:
    await talk.greet()
    await talk.examine(1)


async def test_a_refused_idle() -> None:
    async def script(talk: Talk) -> None:
        await idling(talk)
        await talk.answer(b"IDLE", status=b"NO not now")
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        await source.open("INBOX")
        with pytest.raises(ServerError, match="not now"):
            await source.idle(5)
        await source.close()


@pytest.mark.patient
async def test_an_idle_that_is_never_granted_is_noticed() -> None:
    async def script(talk: Talk) -> None:
        await idling(talk)
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server, timeouts=Timeouts(command_s=3))
        await source.open("INBOX")
        with pytest.raises(NetworkError, match="IDLE"):
            await source.idle(5)


@pytest.mark.patient
async def test_a_line_that_died_in_idle_is_noticed_when_idle_is_renewed() -> None:
    async def script(talk: Talk) -> None:
        await idling(talk)
        await talk.expect(b"IDLE")
        await talk.send(b"+ idling")
        await talk.gone()  # DONE is never answered

    async with serve(script) as server:
        source = await connect(server, timeouts=Timeouts(command_s=3, idle_s=30))
        await source.open("INBOX")
        with pytest.raises(NetworkError, match="IDLE"):
            await source.idle(60)


@pytest.mark.patient
async def test_idle_is_issued_anew() -> None:
    async def script(talk: Talk) -> None:
        await idling(talk)
        for _ in range(3):
            tag = await talk.expect(b"IDLE")
            await talk.send(b"+ idling")
            assert await talk.line() == b"DONE"
            await talk.send(tag + b" OK")
        await talk.expect(b"IDLE")
        await talk.send(b"+ idling", b"* 2 EXISTS")
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server, timeouts=Timeouts(command_s=10, idle_s=10))
        await source.open("INBOX")
        with pytest.raises(NetworkError):  # this script does not answer the last DONE
            await source.idle(60)
        assert [line.split(b" ")[-1] for line in server.heard[2:]].count(b"IDLE") == 4


async def test_cancelled_before_the_server_grants_idle_done_follows_the_grant() -> None:
    asked, grant = asyncio.Event(), asyncio.Event()

    async def script(talk: Talk) -> None:
        await idling(talk)
        tag = await talk.expect(b"IDLE")
        asked.set()
        await grant.wait()
        await talk.send(b"+ idling")
        assert await talk.line() == b"DONE"
        await talk.send(tag + b" OK")
        await talk.answer(b"NOOP")
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        await source.open("INBOX")
        waiting = asyncio.create_task(source.idle(60))
        await asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        after = asyncio.create_task(source.noop())
        grant.set()
        await after
        await source.close()


@pytest.mark.patient
async def test_without_idle_the_server_is_polled() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet(b"IMAP4rev1")
        await talk.examine(1)
        await talk.answer(b"NOOP", b"* 2 EXISTS")
        await talk.answer(b"NOOP", b"* 2 EXISTS")  # said again: no news
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        await source.open("INBOX")
        assert await source.idle(5) == FolderChange(exists=2)
        assert await source.idle(0.05) is None
        await source.close()


@pytest.mark.patient
@pytest.mark.parametrize(
    ("said", "change"),
    [
        (b"* 5 EXISTS", FolderChange(exists=5)),
        (b"* 2 EXISTS", FolderChange(exists=2, expunged=True)),
        (b"* 1 EXPUNGE", FolderChange(expunged=True)),
        (b"* 99 EXPUNGE", FolderChange(expunged=True)),
        (b"* VANISHED 7", FolderChange(expunged=True)),
        (b"* VANISHED 1:4294967295", FolderChange(expunged=True)),
        (b"* VANISHED 3\r\n* 3 EXISTS", FolderChange(exists=3, expunged=True)),
        (b"* VANISHED (EARLIER) 7:8\r\n* 3 EXISTS", FolderChange(expunged=True)),  # EXISTS was without them already
        (b"* 2 FETCH (FLAGS (\\Seen))", FolderChange(flags=True)),
        (b"* 2 FETCH (UID 5 MODSEQ (7) FLAGS (a))", FolderChange(flags=True)),
        (b"* 1 EXPUNGE\r\n* 3 EXISTS\r\n* 1 FETCH (FLAGS ())", FolderChange(3, expunged=True, flags=True)),
        (b"* 3 EXISTS", None),
        (b"* 0 RECENT\r\n* OK still here\r\n* FLAGS (a)\r\n* 1 FETCH (UID 3)", None),
    ],
)
async def test_what_is_told_unasked(said: bytes, change: FolderChange | None) -> None:
    async def script(talk: Talk) -> None:
        await talk.greet(b"IMAP4rev1 IDLE")
        await talk.examine(3)
        await talk.answer(b"NOOP", said)
        while True:
            tag = await talk.expect(b"IDLE")
            await talk.send(b"+ idling")
            await talk.line()
            await talk.send(tag + b" OK")

    async with serve(script) as server:
        source = await connect(server)
        await source.open("INBOX")
        await source.noop()
        assert await source.idle(0.02) == change
        assert await source.idle(0.02) is None


# Back-pressure


@pytest.mark.patient
async def test_reading_pauses_while_the_caller_takes_nothing() -> None:
    size, count = 100_000, 200
    sent: list[int] = []

    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.examine(count)
        raw = bytes(size)
        while len(sent) < count:
            tag, rest = await talk.command()
            first, _, last = rest.split(b" ")[2].partition(b":")
            for uid in range(int(first), int(last or first) + 1):
                await talk.send(b"* %d FETCH (UID %d FLAGS () BODY[] {%d}\r\n%s)" % (uid, uid, size, raw))
                sent.append(uid)
            await talk.send(tag + b" OK done")
        await talk.gone()

    opened = 0

    class Counter:
        def write(self, chunk: memoryview, /) -> None:
            pass

    def open_sink(_: int) -> Counter:
        nonlocal opened
        opened += 1
        return Counter()

    async with serve(script) as server:
        source = await connect(server, timeouts=Timeouts(command_s=60), limits=Limits(window_bytes=1_000_000))
        await source.open("INBOX")
        stream = source.fetch_bodies(range(1, count + 1), open_sink)
        taken = 0
        async for _ in stream:
            taken += 1
            if taken == 1:
                await asyncio.sleep(
                    100
                )  # everything would come, were it not for the pause, which is no silence of the server's
                assert opened < 25
        assert taken == count
        await source.close()


async def test_a_message_larger_than_the_window_passes() -> None:
    size = 3_000_000

    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.examine(1)
        await talk.answer(b"UID FETCH", b"* 1 FETCH (UID 1 FLAGS () BODY[] {%d}\r\n%s)" % (size, bytes(size)))
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server, limits=Limits(window_bytes=100_000))
        await source.open("INBOX")
        assert [f.octets async for f in source.fetch_bodies([1], lambda _: Bytes())] == [size]
        await source.close()


# aioimaplib


async def test_the_session_also_works_as_a_plain_protocol() -> None:
    session = Session(asyncio.get_running_loop(), QUICK, Limits())
    session.data_received(b"* OK hel")
    session.data_received(b"lo\r\n")
    assert (await session.greeting).text == "hello"
    session.drop(lambda: NetworkError("over"))
    assert isinstance(session.failure, NetworkError)


async def test_small_answers_are_acknowledged_at_once_while_others_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    acknowledged: list[object] = []
    monkeypatch.setattr("connectors.imap.session.acknowledge", acknowledged.append)
    go_on = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.answer(b"NOOP")
        await go_on.wait()
        await talk.answer(b"NOOP", *[b"* OK " + b"x" * 1_000] * 10)
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        before = len(acknowledged)
        first, second = source._session.start("NOOP"), source._session.start("NOOP")
        await source._session.finish(first)
        assert len(acknowledged) == before + 1
        go_on.set()
        await source._session.finish(second)
        await source.close()


async def test_tcp_itself_finds_a_peer_without_power_within_two_minutes() -> None:
    async def script(talk: Talk) -> None:
        await idling(talk)
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server)
        line = source._session.transport.get_extra_info("socket")
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, count = (
            line.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= 120
        await source.open("INBOX")
        await source.close()
