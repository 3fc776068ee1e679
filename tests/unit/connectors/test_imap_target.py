"""`ImapTarget` and servers whose answers are wrong, odd or missing: what is sent, believed, and asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from connectors.errors import (
    ConnectorError,
    FolderGoneError,
    NetworkError,
    ProtocolError,
    Retry,
    ServerError,
    ThrottledError,
)
from connectors.imap.connection import ImapConnection
from connectors.imap.settings import Timeouts
from connectors.imap.upload import COLLECTED
from connectors.model import Namespace, SpecialUse
from connectors.port import FolderChange, Placed
from tests.unit.connectors.scripted import QUICK, Handler, Talk, connect, serve

PLAIN = b"IMAP4rev1 LITERAL+ UIDPLUS MOVE UNSELECT"
SEEN = frozenset({"\\Seen"})
LARGE = COLLECTED + 1


@contextlib.asynccontextmanager
async def talking(
    script: Handler, capabilities: bytes = PLAIN, *, selected: bool = True, timeouts: Timeouts = QUICK
) -> AsyncIterator[ImapConnection]:
    """A line to a server that logs in, opens INBOX for writing, then plays `script`."""

    async def whole(talk: Talk) -> None:
        await talk.greet(capabilities)
        if selected:
            await talk.answer(b"SELECT", b"* 4 EXISTS", b"* OK [UIDVALIDITY 1] x", status=b"OK [READ-WRITE] open")
        await script(talk)
        await talk.gone()

    async with serve(whole) as server:
        line = await connect(server, timeouts=timeouts)
        try:
            if selected:
                await line.select("INBOX")
            yield line
        finally:
            await line.close()


async def pieces(raw: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for at in range(0, len(raw), size):
        yield raw[at : at + size]


# Opening


@pytest.mark.parametrize(
    ("status", "read_only"),
    [(b"OK [READ-WRITE] x", False), (b"OK [READ-ONLY] x", True), (b"OK x", False)],
)
async def test_select_says_whether_it_may_be_written_to(status: bytes, read_only: bool) -> None:
    async def script(talk: Talk) -> None:
        lines = (b"* 0 EXISTS", b"* OK [UIDVALIDITY 1] x", b"* OK [PERMANENTFLAGS (\\Seen Work \\*)] x")
        await talk.answer(b'SELECT "R&AOQ-ume"', *lines, status=status)

    async with talking(script, selected=False) as line:
        selected = await line.select("Räume")
        assert selected.read_only is read_only
        assert selected.permanent_flags == {"\\Seen", "Work", "\\*"}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (b"(F6352ae03-b7f5_4463)", "F6352ae03-b7f5_4463"),
        (b"(" + b"a" * 255 + b")", "a" * 255),
        (b"(" + b"a" * 256 + b")", None),
        (b"()", None),
        (b"F1", None),
        (b"(P{D\x13\xc9U)", None),  # bytes of freed memory (Cyrus 3.6.1, in STATUS)
        (b"(one two)", None),
    ],
)
async def test_the_identity_of_a_folder(told: bytes, expected: str | None) -> None:
    async def script(talk: Talk) -> None:
        lines = (b"* 0 EXISTS", b"* OK [UIDVALIDITY 1] x", b"* OK [MAILBOXID " + told + b"] x")
        await talk.answer(b'SELECT "INBOX"', *lines, status=b"OK x")

    async with talking(script, selected=False) as line:
        assert (await line.select("INBOX")).object_id == expected


# Flags and labels


async def test_both_changes_of_flags_are_sent_at_once() -> None:
    async def script(talk: Talk) -> None:
        first = await talk.expect(b"UID STORE 1:2,9 +FLAGS (\\Answered work)")
        second = await talk.expect(b"UID STORE 1:2,9 -FLAGS (\\Seen)")
        await talk.send(
            b"* 1 FETCH (UID 1 FLAGS (\\Seen \\Answered Work))",
            b"* 2 FETCH (UID 2 FLAGS (\\Seen \\Answered work) MODSEQ (7))",
            first + b" OK done",
            b"* 1 FETCH (UID 1 FLAGS (\\Answered Work \\Recent))",
            b"* 2 FETCH (FLAGS (\\Answered work) UID 2)",
            second + b" OK done",
        )
        await talk.answer(b"UID FETCH 9 (UID FLAGS)")

    async with talking(script) as line:
        told = await line.store_flags([2, 1, 9], add=frozenset({"\\Answered", "work"}), remove=SEEN)
        assert told == {1: {"\\Answered", "Work"}, 2: {"\\Answered", "work"}}


async def test_what_the_server_does_not_tell_is_asked_for() -> None:
    """Nothing told of 1 and 2; of 3 only the number; of 4 what it was before; of 5, which nobody named."""

    async def script(talk: Talk) -> None:
        await talk.answer(
            b"UID STORE 1:4 +FLAGS (\\Seen)",
            b"* 3 FETCH (FLAGS (\\Seen))",
            b"* 4 FETCH (UID 4 FLAGS ())",
            b"* 5 FETCH (UID 5 FLAGS (\\Seen))",
            b"* 2 EXPUNGE",
        )
        await talk.answer(
            b"UID FETCH 1:4 (UID FLAGS)",
            b"* 1 FETCH (UID 1 FLAGS (\\Seen))",
            b"* 2 FETCH (UID 3 FLAGS (\\Seen \\Flagged))",
        )

    async with talking(script) as line:
        assert await line.store_flags([1, 2, 3, 4], add=SEEN) == {1: SEEN, 3: {"\\Seen", "\\Flagged"}}
        assert line._change == FolderChange(expunged=True, flags=True)


async def test_a_flag_that_the_server_drops_is_missing_in_the_answer() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID STORE 1 +FLAGS (Work)", b"* 1 FETCH (UID 1 FLAGS (\\Seen))")
        await talk.answer(b"UID FETCH 1 (UID FLAGS)", b"* 1 FETCH (UID 1 FLAGS (\\Seen))")

    async with talking(script) as line:
        assert await line.store_flags([1], add=frozenset({"Work"})) == {1: SEEN}


async def test_long_sets_are_cut() -> None:
    uids = list(range(1_000_000, 1_002_000, 2))

    async def script(talk: Talk) -> None:
        named: list[int] = []
        while len(named) < len(uids):
            tag, rest = await talk.command()
            words = rest.split(b" ")
            assert words[:2] == [b"UID", b"STORE"]
            assert len(rest) < 2_000
            numbers = [int(word) for word in words[2].split(b",")]
            named += numbers
            await talk.send(*(b"* 1 FETCH (UID %d FLAGS (\\Seen))" % n for n in numbers), tag + b" OK done")
        assert named == uids

    async with talking(script) as line:
        assert await line.store_flags(uids, add=SEEN) == dict.fromkeys(uids, SEEN)


async def test_labels() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b'UID STORE 1:2 +X-GM-LABELS ("Muy Importante" \\Inbox "\\\\a b" "&AOk-t&AOk-")')
        await talk.answer(b'UID STORE 1:2 -X-GM-LABELS (\\Starred "q\\"")')

    async with talking(script, PLAIN + b" X-GM-EXT-1") as line:
        assert line.abilities.labels
        await line.store_labels(
            [1, 2],
            add=frozenset({"\\Inbox", "Muy Importante", "été", "\\a b"}),
            remove=frozenset({'q"', "\\Starred"}),
        )
        await line.store_labels([1])
        await line.store_labels([], add=SEEN)
        with pytest.raises(ValueError):
            await line.store_labels([1], add=frozenset({""}))


async def test_what_the_server_does_not_offer_is_not_sent() -> None:
    async def script(talk: Talk) -> None:
        pass

    async with talking(script, b"IMAP4rev1") as line:
        abilities = line.abilities
        assert (abilities.move, abilities.expunge, abilities.places, abilities.labels) == (False,) * 4
        for call in (
            line.move([1], "a"),
            line.expunge([1]),
            line.store_labels([1], add=frozenset({"a"})),
        ):
            with pytest.raises(ValueError):
                await call
    async with talking(script, b"IMAP4rev2") as line:
        assert line.abilities.move
        assert line.abilities.expunge
        assert line.abilities.places


# Moving, copying, removing


@pytest.mark.parametrize(
    ("lines", "status", "expected"),
    [
        ([b"* OK [COPYUID 7 1,3 11:12] x", b"* 1 EXPUNGE", b"* 2 EXPUNGE"], b"OK done", {1: 11, 3: 12}),
        ([b"* VANISHED 1,3", b"* OK [COPYUID 7 1,3 12,11] x"], b"OK [HIGHESTMODSEQ 9] done", {1: 12, 3: 11}),
        ([], b"OK [COPYUID 7 3,1 5,9] done", {3: 5, 1: 9}),
        ([], b"OK [COPYUID 7 1 9] done", {1: 9}),
        ([], b"OK done", None),
        ([b"* OK [COPYUID 7 1,3 11:13] x"], b"OK done", None),
        ([b"* OK [COPYUID 7 1,4 11:12] x"], b"OK done", None),
        ([b"* OK [COPYUID 0 1,3 11:12] x"], b"OK done", None),
        ([b"* OK [COPYUID 7 1,1 11:12] x"], b"OK done", None),
        ([b"* OK [COPYUID 7 1,3 11,11] x"], b"OK done", None),
        ([b"* OK [COPYUID 7 1:4294967295 1:4294967295] x"], b"OK done", None),
        ([b"* OK [COPYUID 7  ] x"], b"OK done", None),
        ([b"* OK [COPYUID] x"], b"OK done", None),
        ([b"* OK [COPYUID 7 1,* 11:12] x"], b"OK done", None),
        ([b"* NO [COPYUID 7 1,3 11:12] x"], b"OK done", {1: 11, 3: 12}),
    ],
)  # fmt: skip
async def test_where_moved_messages_are(lines: list[bytes], status: bytes, expected: dict[int, int] | None) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b'UID MOVE 1,3 "Old &- new"', *lines, status=status)
        await talk.answer(b"NOOP")

    async with talking(script) as line:
        placed = await line.move([3, 1], "Old & new")
        assert placed == (None if expected is None else Placed(7, expected))
        await line.noop()


async def test_two_commands_of_one_copy_are_one_answer() -> None:
    uids = list(range(1, 1_000, 2))
    told = {"validity": [5, 5]}

    async def script(talk: Talk) -> None:
        for validity in told["validity"]:
            tag, rest = await talk.command()
            named = rest.split(b" ")[2]
            numbers = [int(n) for n in named.split(b",")]
            there = b",".join(b"%d" % (n + 5_000) for n in numbers)
            await talk.send(tag + b" OK [COPYUID %d %s %s] done" % (validity, named, there))

    async with talking(script) as line:
        assert await line.copy(uids, "a") == Placed(5, {uid: uid + 5_000 for uid in uids})
    told["validity"] = [5, 6]
    async with talking(script) as line:
        assert await line.copy(uids, "a") is None


async def test_only_named_messages_are_removed() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID STORE 2:3 +FLAGS.SILENT (\\Deleted)")
        await talk.answer(b"UID EXPUNGE 2:3", b"* 2 EXPUNGE", b"* 2 EXPUNGE")
        await talk.answer(b"UID FETCH 2:3 (UID FLAGS)", b"* 1 FETCH (UID 1 FLAGS (\\Seen))")

    async with talking(script) as line:
        await line.expunge([3, 2])


async def test_what_is_kept_in_spite_of_ok_is_a_refusal() -> None:
    """Dovecot, where the rights of a shared folder do not let messages go."""

    async def script(talk: Talk) -> None:
        await talk.answer(b"UID STORE 2:3 +FLAGS.SILENT (\\Deleted)")
        await talk.answer(b"UID EXPUNGE 2:3", b"* 1 EXPUNGE")
        await talk.answer(b"UID FETCH 2:3 (UID FLAGS)", b"* 1 FETCH (UID 3 FLAGS (\\Deleted))")
        await talk.answer(b"UID STORE 2:3 -FLAGS.SILENT (\\Deleted)")

    async with talking(script) as line:
        with pytest.raises(ServerError) as refused:
            await line.expunge([3, 2])
    assert (refused.value.code, refused.value.retry) == ("NOPERM", Retry.NEVER)


@pytest.mark.parametrize("status", [b"NO [NOPERM] not you", b"NO [INUSE] not now"])
async def test_what_may_not_be_removed_does_not_stay_marked(status: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID STORE 2 +FLAGS.SILENT (\\Deleted)")
        await talk.answer(b"UID EXPUNGE 2", status=status)
        await talk.answer(b"UID STORE 2 -FLAGS.SILENT (\\Deleted)", status=b"NO whatever")

    async with talking(script) as line:
        with pytest.raises((ServerError, ThrottledError)):
            await line.expunge([2])


# Refusals


@pytest.mark.parametrize(
    ("status", "error", "code", "retry"),
    [
        (b"NO [OVERQUOTA] full", ServerError, "OVERQUOTA", Retry.NEVER),
        (b"NO You exceed your mail quota.", ServerError, "OVERQUOTA", Retry.NEVER),
        (b"NO [ALERT] Quota exceeded", ServerError, "OVERQUOTA", Retry.NEVER),
        (b"NO [TOOBIG] large", ServerError, "TOOBIG", Retry.NEVER),
        (b"NO [NOPERM] no", ServerError, "NOPERM", Retry.NEVER),
        (b"NO Permission denied", ServerError, "NOPERM", Retry.NEVER),
        (b"NO [LIMIT] too many keywords", ServerError, "LIMIT", Retry.NEVER),
        (b"NO [CANNOT] no", ServerError, "CANNOT", Retry.NEVER),
        (b"NO I do not want to", ServerError, None, Retry.NEVER),
        (b"BAD what", ServerError, None, Retry.NEVER),
        (b"BAD permission denied", ServerError, None, Retry.NEVER),
        (b"NO [EXPUNGEISSUED] some are gone", ServerError, "EXPUNGEISSUED", Retry.NOW),
        (b"NO [SERVERBUG] oops", ServerError, "SERVERBUG", Retry.LATER),
        (b"NO [CORRUPTION] oops", ServerError, "CORRUPTION", Retry.LATER),
        (b"NO System I/O error", ServerError, "SERVERBUG", Retry.LATER),
        (b"NO [TRYCREATE] no", FolderGoneError, "TRYCREATE", None),
        (b"NO [NONEXISTENT] no", FolderGoneError, "NONEXISTENT", None),
        (b"NO Mailbox does not exist", FolderGoneError, "NONEXISTENT", None),
        (b"NO [INUSE] later", ThrottledError, None, None),
        (b"NO [UNAVAILABLE] later", ThrottledError, None, None),
        (b"NO Mailbox is locked by another session", ThrottledError, None, None),
        (b"NO Request is throttled. Suggested Backoff Time: 5000 milliseconds", ThrottledError, None, None),
    ],
)  # fmt: skip
async def test_what_a_refusal_means(
    status: bytes, error: type[ConnectorError], code: str | None, retry: Retry | None
) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID COPY", status=status)
        await talk.answer(b"NOOP")

    async with talking(script) as line:
        with pytest.raises(ConnectorError) as refused:
            await line.copy([1], "a")
        assert type(refused.value) is error
        if isinstance(refused.value, ServerError):
            assert refused.value.code == code
            assert retry is None or refused.value.retry is retry
        await line.noop()


async def test_the_pause_that_the_server_asks_for() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID COPY", status=b"NO Request is throttled. Suggested Backoff Time: 5000 milliseconds")

    async with talking(script) as line:
        with pytest.raises(ThrottledError) as refused:
            await line.copy([1], "a")
        assert refused.value.retry_after_s == 5


async def test_all_commands_of_a_change_are_answered_before_it_fails() -> None:
    async def script(talk: Talk) -> None:
        first = await talk.expect(b"UID STORE 1 +FLAGS (\\Seen)")
        second = await talk.expect(b"UID STORE 1 -FLAGS (\\Flagged)")
        await talk.send(first + b" NO [NOPERM] no", b"* 1 FETCH (UID 1 FLAGS ())", second + b" OK done")
        await talk.answer(b"NOOP")

    async with talking(script) as line:
        with pytest.raises(ServerError):
            await line.store_flags([1], add=SEEN, remove=frozenset({"\\Flagged"}))
        await line.noop()


# Time


async def test_a_change_that_is_never_finished_ends_the_line() -> None:
    """Whoever owns the mailbox next may begin when `longest_s` is over, however alive the server seems."""
    timeouts = Timeouts(connect_s=5, command_s=0.2, message_s=0.0, folder_s=0.2, logout_s=0.05)
    for call in (
        lambda line: line.move([1], "a"),
        lambda line: line.store_flags([1], add=SEEN),
        lambda line: line.expunge([1]),
        lambda line: line.create_folder("a"),
        lambda line: line.append("a", 1, pieces(b"a")),
    ):  # type: Callable[[ImapConnection], Awaitable[object]]

        async def script(talk: Talk) -> None:
            await talk.line()
            while True:
                await talk.send(b"* OK hang in there")
                await asyncio.sleep(0.05)

        async with talking(script, timeouts=timeouts) as line:
            assert line.longest_s() == line.longest_s(None) == 0.2
            with pytest.raises(NetworkError, match="did not finish"):
                await call(line)
            with pytest.raises(NetworkError, match="did not finish"):
                await line.noop()


async def test_a_slow_change_may_take_its_time() -> None:
    """Silence beyond the time-out of a command, for a change to many messages."""
    timeouts = Timeouts(connect_s=5, command_s=0.1, message_s=0.05, logout_s=0.05)

    async def script(talk: Talk) -> None:
        tag = await talk.expect(b"UID MOVE 1:100")
        await asyncio.sleep(0.4)
        await talk.send(tag + b" OK done")

    async with talking(script, timeouts=timeouts) as line:
        assert await line.move(range(1, 101), "a") is None


# Appending


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
        before = -1
        while not asked or asked != before:  # until the caller is asked for nothing more
            before = asked
            await asyncio.sleep(0.1)
        assert asked < 20_000_000  # what the systems' own buffers take
        read_on.set()
        assert await sending is None


async def test_a_server_that_takes_nothing_more_ends_the_line() -> None:
    size = 50_000_000

    async def script(talk: Talk) -> None:
        await talk.line()
        await talk.send(b"+ go on")
        talk.writer.transport.pause_reading()
        await over.wait()

    over = asyncio.Event()
    async with talking(script, selected=False, timeouts=Timeouts(connect_s=5, command_s=0.3, logout_s=0.05)) as line:
        with pytest.raises(NetworkError, match="took nothing"):
            await line.append("a", size, pieces(b"x" * size, 1_000_000))
        over.set()


async def test_a_server_that_never_asks_for_the_message_ends_the_line() -> None:
    async def script(talk: Talk) -> None:
        await talk.line()

    async with talking(script, selected=False, timeouts=Timeouts(connect_s=5, command_s=0.2, logout_s=0.05)) as line:
        with pytest.raises(NetworkError, match="did not answer"):
            await line.append("a", LARGE, pieces(b"x" * LARGE))


async def test_a_caller_that_takes_its_time_is_no_silence_of_the_server() -> None:
    async def script(talk: Talk) -> None:
        tag = (await talk.line()).partition(b" ")[0]
        await talk.send(b"+ go on")
        await talk.reader.readexactly(LARGE)
        await talk.line()
        await talk.send(tag + b" OK done")

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(0.5)
        yield b"y" * (LARGE - 1)

    timeouts = Timeouts(connect_s=5, command_s=0.2, logout_s=0.05, octets_per_s=10_000_000)
    async with talking(script, selected=False, timeouts=timeouts) as line:
        assert await line.append("a", LARGE, slow()) is None


# Folders


async def test_a_folder_with_a_use_that_the_server_gives_or_not() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b'CREATE "a" (USE (\\Trash))')
        await talk.answer(b'SUBSCRIBE "a"', status=b"NO not here")
        await talk.answer(b'CREATE "b" (USE (\\Sent))', status=b"NO [USEATTR] there is one")
        await talk.answer(b'CREATE "b"')
        await talk.answer(b'SUBSCRIBE "b"')
        await talk.answer(b'CREATE "c"')
        await talk.answer(b'SUBSCRIBE "c"', status=b"BAD what")

    async with talking(script, PLAIN + b" CREATE-SPECIAL-USE", selected=False) as line:
        await line.create_folder("a", SpecialUse.TRASH)
        await line.create_folder("b", SpecialUse.SENT)
        await line.create_folder("c", SpecialUse.INBOX)

    async def plain(talk: Talk) -> None:
        await talk.answer(b'CREATE "a"')
        await talk.answer(b'SUBSCRIBE "a"')

    async with talking(plain, selected=False) as line:
        await line.create_folder("a", SpecialUse.TRASH)


async def test_the_subscription_follows_a_renamed_and_a_deleted_folder() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(
            b'LSUB "" "a*"',
            b'* LSUB () "/" a/c',
            b'* LSUB () "/" ab',
            b"* LSUB () NIL a/d",
            b'* LSUB (\\Noselect) "/" a/e',
            b'* LSUB () "/" a',
        )
        await talk.answer(b'RENAME "a" "b"')
        await talk.answer(b'SUBSCRIBE "b"', status=b"NO no")
        await talk.answer(b'UNSUBSCRIBE "a"', status=b"NO it was not")
        await talk.answer(b'SUBSCRIBE "b/c"')
        await talk.answer(b'UNSUBSCRIBE "a/c"')
        await talk.answer(b'LSUB "" "b*"', status=b"BAD what")
        await talk.answer(b'RENAME "b" "c"')
        await talk.answer(b'SUBSCRIBE "c"')
        await talk.answer(b'UNSUBSCRIBE "b"')
        await talk.answer(b'DELETE "c"')
        await talk.answer(b'UNSUBSCRIBE "c"', status=b"NO no")

    async with talking(script) as line:
        await line.rename_folder("a", "b")
        await line.rename_folder("b", "c")
        await line.delete_folder("c")

    async def rev2(talk: Talk) -> None:
        await talk.answer(b'LIST (SUBSCRIBED) "" "a*"', b'* LIST (\\Subscribed) "/" a')
        await talk.answer(b'RENAME "a" "b"')
        await talk.answer(b'SUBSCRIBE "b"')
        await talk.answer(b'UNSUBSCRIBE "a"')
        await talk.answer(b'SUBSCRIBE "b"', status=b"NO no")
        await talk.answer(b'LIST (SUBSCRIBED) "" "a*"')
        await talk.answer(b'SUBSCRIBE "b"')
        await talk.answer(b'UNSUBSCRIBE "a"')

    async with talking(rev2, b"IMAP4rev2", selected=False) as line:
        await line.rename_folder("a", "b")
        await line.resubscribe(None, "b")
        await line.resubscribe("a", "b")


async def test_a_folder_that_can_have_none_inside_it() -> None:
    async def script(talk: Talk) -> None:
        no = b"NO Mailbox name is invalid"
        namespace = b'* NAMESPACE (("" "/")) NIL NIL'
        await talk.answer(b'CREATE "a/b/c"', status=no)
        await talk.answer(b'LIST "" "a/b/c"')
        await talk.answer(b"NAMESPACE", namespace)
        await talk.answer(b'LIST "" "a/b"')
        await talk.answer(b'LIST "" "a"', b'* LIST (\\Noinferiors) "/" a')
        await talk.answer(b'LSUB "" "x*"')
        await talk.answer(b'RENAME "x" "inbox/x"', status=b"NO [CANNOT] no")
        await talk.answer(b"NAMESPACE", namespace)
        await talk.answer(b'LIST "" "inbox"', b'* LIST (\\NoInferiors) "/" INBOX')
        await talk.answer(b'CREATE "d/e"', status=b"NO [CANNOT] no")
        await talk.answer(b"NAMESPACE", namespace)
        await talk.answer(b'LIST "" "d"', b'* LIST () "/" d')
        await talk.answer(b'CREATE "d/e"', status=b"NO [OVERQUOTA] no")

    async with talking(script, PLAIN + b" NAMESPACE", selected=False) as line:
        with pytest.raises(
            ServerError, match="allows no folders inside 'a': CREATE was answered NO: Mailbox"
        ) as refused:
            await line.create_folder("a/b/c")
        assert (refused.value.code, refused.value.retry) == ("CANNOT", Retry.NEVER)
        with pytest.raises(ServerError, match="allows no folders inside 'inbox'"):
            await line.rename_folder("x", "inbox/x")
        for code in ("CANNOT", "OVERQUOTA"):
            with pytest.raises(ServerError, match=r"^CREATE was answered") as refused:
                await line.create_folder("d/e")
            assert refused.value.code == code


async def test_the_open_folder_is_left_before_it_goes() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UNSELECT")
        await talk.answer(b'DELETE "INB"')
        await talk.answer(b"UNSUBSCRIBE")

    async with talking(script) as line:
        await line.delete_folder("INB")  # INBOX may be inside it, whatever stands between the names

    async def without(talk: Talk) -> None:
        await talk.answer(b'SELECT "a"', b"* 0 EXISTS", b"* OK [UIDVALIDITY 1] x")
        await talk.answer(b'EXAMINE "INBOX"', b"* 0 EXISTS", b"* OK [UIDVALIDITY 1] x")
        await talk.answer(b'LSUB "" "a*"')
        await talk.answer(b'RENAME "a" "b"')

    async with talking(without, b"IMAP4rev1") as line:
        await line.select("a")
        await line.rename_folder("a", "b")
        with pytest.raises(ValueError):
            await line.store_flags([1], add=SEEN)


async def test_a_refusal_without_a_code_is_explained_by_what_is_there() -> None:
    async def script(talk: Talk) -> None:
        no = b"NO Cannot do that"
        await talk.answer(b'CREATE "a"', status=no)
        await talk.answer(b'LIST "" "a"', b'* LIST () "/" a')
        await talk.answer(b'CREATE "b*"', status=no)
        await talk.answer(b'LIST "" "b*"', b'* LIST () "/" ba', b'* LIST (\\Noselect) "/" b*')
        await talk.answer(b'LIST "" "*"', b'* LIST () "/" INBOX')
        await talk.answer(b'LSUB "" "a*"')
        await talk.answer(b'RENAME "a" "b"', status=no)
        await talk.answer(b'LIST "" "a"')
        await talk.answer(b'LSUB "" "a*"')
        await talk.answer(b'RENAME "a" "b"', status=no)
        await talk.answer(b'LIST "" "a"', b'* LIST () "/" a')
        await talk.answer(b'LIST "" "b"', b'* LIST () "/" b')
        await talk.answer(b'DELETE "a"', status=no)
        await talk.answer(b'LIST "" "a"')
        await talk.answer(b'DELETE "a"', status=no)
        await talk.answer(b'LIST "" "a"', b'* LIST () "/" a')
        await talk.answer(b'DELETE "a"', status=b"NO [INUSE] x")

    async with talking(script) as line:
        with pytest.raises(ServerError) as refused:
            await line.create_folder("a")
        assert (type(refused.value), refused.value.code) == (ServerError, "ALREADYEXISTS")
        with pytest.raises(ServerError) as refused:
            await line.create_folder("b*")
        assert (type(refused.value), refused.value.code) == (ServerError, None)
        with pytest.raises(FolderGoneError):
            await line.rename_folder("a", "b")
        with pytest.raises(ServerError) as refused:
            await line.rename_folder("a", "b")
        assert (type(refused.value), refused.value.code) == (ServerError, "ALREADYEXISTS")
        with pytest.raises(FolderGoneError):
            await line.delete_folder("a")
        with pytest.raises(ServerError) as refused:
            await line.delete_folder("a")
        assert (type(refused.value), refused.value.code) == (ServerError, None)
        with pytest.raises(ThrottledError):
            await line.delete_folder("a")


async def test_a_refusal_that_not_even_list_explains_is_told_as_it_was() -> None:
    """Courier understands neither CREATE nor LIST with an emoji."""

    async def script(talk: Talk) -> None:
        await talk.answer(b'CREATE "&2D3eQg-"', status=b"NO Error in IMAP command")
        await talk.answer(b'LIST "" "&2D3eQg-"', status=b"NO Error in IMAP command received by server.")

    async with talking(script) as line:
        with pytest.raises(ServerError, match="CREATE was answered NO") as refused:
            await line.create_folder("🙂")
    assert (refused.value.code, refused.value.retry) == (None, Retry.NEVER)


@pytest.mark.parametrize(
    ("capabilities", "lines", "expected"),
    [
        (b"NAMESPACE", [b'* NAMESPACE (("INBOX." ".")) NIL NIL'], Namespace("INBOX.", ".")),
        (b"NAMESPACE", [b'* NAMESPACE (("&AOk-/" "/")("" "/")) NIL NIL'], Namespace("é/", "/")),
        (b"NAMESPACE", [b'* NAMESPACE (("" NIL)) NIL NIL'], Namespace("", None)),
        (b"", [b'* LIST () "." INBOX', b'* LIST () "." INBOX.a'], Namespace("INBOX.", ".")),
        (b"", [b'* LIST () "/" inbox', b'* LIST () "/" INBOX/a', b'* LIST () "/" b'], Namespace("", "/")),
        (b"", [b'* LIST () "/" INBOX'], Namespace("", "/")),
        (b"", [b"* LIST () NIL INBOX", b"* LIST () NIL a"], Namespace("", None)),
        (b"", [], Namespace("", None)),
    ],
)
async def test_where_folders_stand(capabilities: bytes, lines: list[bytes], expected: Namespace) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"NAMESPACE" if capabilities else b'LIST "" "*"', *lines)

    async with talking(script, PLAIN + b" " + capabilities, selected=False) as line:
        assert await line.namespace() == expected


@pytest.mark.parametrize(
    ("lines", "status"),
    [([b"* NAMESPACE NIL NIL NIL"], b"OK x"), ([b"* NAMESPACE what"], b"OK x"), ([], b"OK x"), ([], b"NO x")],
)
async def test_a_namespace_that_is_not_told_is_guessed(lines: list[bytes], status: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"NAMESPACE", *lines, status=status)
        await talk.answer(b'LIST "" "*"', b'* LIST () "." INBOX.a')

    async with talking(script, PLAIN + b" NAMESPACE", selected=False) as line:
        assert await line.namespace() == Namespace("INBOX.", ".")
