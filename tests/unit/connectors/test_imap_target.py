"""`ImapTarget` and servers whose answers to changes are wrong, odd or missing: what is sent and believed."""

from __future__ import annotations

import asyncio

import pytest

from connectors.errors import (
    ConnectorError,
    FolderGoneError,
    NetworkError,
    Retry,
    ServerError,
    ThrottledError,
)
from connectors.imap.settings import Timeouts
from connectors.port import FolderChange, Placed
from tests.unit.connectors.scripted import PLAIN, Talk, pieces, talking

SEEN = frozenset({"\\Seen"})


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
        (b"NO System Error (Failure)", ServerError, "SERVERBUG", Retry.LATER),
        (b"NO [TRYCREATE] no", FolderGoneError, "TRYCREATE", None),
        (b"NO [NONEXISTENT] no", FolderGoneError, "NONEXISTENT", None),
        (b"NO Mailbox does not exist", FolderGoneError, "NONEXISTENT", None),
        (b"NO [INUSE] later", ThrottledError, None, None),
        (b"NO [UNAVAILABLE] later", ThrottledError, None, None),
        (b"NO [OVERQUOTA] Account exceeded command or bandwidth limits.", ThrottledError, None, None),
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


@pytest.mark.patient
async def test_a_change_that_is_never_finished_ends_the_line() -> None:
    """Whoever owns the mailbox next may begin when `longest_s` is over, however alive the server seems."""
    timeouts = Timeouts(command_s=10, message_s=0.0, folder_s=10)
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
                await asyncio.sleep(4)

        async with talking(script, timeouts=timeouts) as line:
            assert line.longest_s() == line.longest_s(None) == 10
            with pytest.raises(NetworkError, match="did not finish"):
                await call(line)
            with pytest.raises(NetworkError, match="did not finish"):
                await line.noop()


@pytest.mark.patient
async def test_a_slow_change_may_take_its_time() -> None:
    """Silence beyond the time-out of a command, for a change to many messages."""
    timeouts = Timeouts(command_s=60, message_s=1)

    async def script(talk: Talk) -> None:
        tag = await talk.expect(b"UID MOVE 1:100")
        await asyncio.sleep(100)
        await talk.send(tag + b" OK done")

    async with talking(script, timeouts=timeouts) as line:
        assert await line.move(range(1, 101), "a") is None
