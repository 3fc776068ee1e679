"""`ImapSource` and servers whose answers are wrong, odd or hostile: what is believed, left out, or refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import date

import pytest

from connectors.errors import FolderGoneError, NetworkError, ProtocolError, Scope, ServerError, ThrottledError
from connectors.imap import collect
from connectors.imap import source as source_module
from connectors.imap.bodies import FIRST_BATCH, MAX_BAD
from connectors.imap.source import HEADER_LIMIT, ImapSource
from connectors.model import QResync
from tests.unit.connectors.scripted import Talk, connect, serve
from tests.wirelog import Bytes

DATE = b'INTERNALDATE "14-Nov-2023 22:13:20 +0000"'
PLAIN = b"IMAP4rev1 IDLE LITERAL+"


@asynccontextmanager
async def talking(
    script: Callable[[Talk], Awaitable[None]], capabilities: bytes = PLAIN, exists: int | None = 5
) -> AsyncIterator[ImapSource]:
    """A source whose folder is open (unless `exists` is None); `script` plays what follows."""

    async def whole(talk: Talk) -> None:
        await talk.greet(capabilities)
        if b"QRESYNC" in capabilities:
            await talk.answer(b"ENABLE", b"* ENABLED QRESYNC")
        if exists is not None:
            await talk.examine(exists)
        await script(talk)
        await talk.gone()

    async with serve(whole) as server:
        source = await connect(server)
        try:
            if exists is not None:
                await source.open("INBOX")
            yield source
        finally:
            await source.close()


def fetch(number: int, uid: int, raw: bytes, *, flags: bytes = b"", more: bytes = b"") -> bytes:
    head = b"* %d FETCH (UID %d FLAGS (%s) %s RFC822.SIZE %d " % (number, uid, flags, DATE, len(raw))
    return head + b"BODY[] {%d}\r\n%s%s)" % (len(raw), raw, more)


async def bodies(source: ImapSource, uids: list[int]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    async for fetched in source.fetch_bodies(uids, lambda _: Bytes()):
        assert fetched.meta.uid not in found
        found[fetched.meta.uid] = bytes(fetched.sink.data)
    return found


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        # the literal is right, whatever RFC822.SIZE says
        ([b"* 1 FETCH (UID 1 FLAGS () RFC822.SIZE 999 BODY[] {3}\r\nabc)"], {1: b"abc"}),
        ([b"* 1 FETCH (UID 1 FLAGS () BODY[] {3}\r\nabc)"], {1: b"abc"}),
        ([b'* 1 FETCH (UID 1 FLAGS () BODY[] "abc")'], {1: b"abc"}),
        ([b"* 1 FETCH (BODY[] {3}\r\nabc FLAGS () UID 1)"], {1: b"abc"}),
        # in two halves, either first
        ([b"* 1 FETCH (UID 1 FLAGS (a))", b"* 1 FETCH (UID 1 BODY[] {3}\r\nabc)"], {1: b"abc"}),
        ([b"* 1 FETCH (UID 1 BODY[] {3}\r\nabc)", b"* 1 FETCH (UID 1 FLAGS (a))"], {1: b"abc"}),
        ([b"* 1 FETCH (UID 1 BODY[] {3}\r\nabc)"], {}),  # flags never came: not an answer to what was asked
        ([b"* 1 FETCH (UID 1 FLAGS () BODY[] NIL)"], {}),
        ([b"* 1 FETCH (FLAGS () BODY[] {3}\r\nabc)"], {}),  # whose?
        ([b"* 1 FETCH (UID 7 FLAGS () BODY[] {3}\r\nabc)"], {}),  # nobody asked
        ([b"* 1 FETCH (BODY[] {3}\r\nabc UID 7 FLAGS ())"], {}),
        ([b"* 1 FETCH (UID 1 FLAGS () BODY[HEADER] {3}\r\nabc)"], {}),
        ([b"* 1 FETCH (UID -1 FLAGS ())", fetch(2, 2, b"x")], {2: b"x"}),
        ([fetch(1, 1, b"abc"), fetch(1, 1, b"other")], {1: b"abc"}),
        ([fetch(2, 2, b"b"), b"* 9 FETCH (FLAGS (\\Seen))", b"* 3 EXPUNGE", fetch(1, 1, b"a")], {1: b"a", 2: b"b"}),
        ([], {}),
    ],
)
async def test_bodies_as_servers_send_them(answers: list[bytes], expected: dict[int, bytes]) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID FETCH 1:2 (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])", *answers)

    async with talking(script) as source:
        assert await bodies(source, [1, 2]) == expected


async def test_the_size_in_the_metadata_is_the_servers_and_octets_are_real() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID FETCH", b"* 1 FETCH (UID 1 FLAGS () RFC822.SIZE 999 BODY[] {3}\r\nabc)")
        await talk.answer(b"UID FETCH", b"* 1 FETCH (UID 1 FLAGS () BODY[] {3}\r\nabc)")

    async with talking(script) as source:
        for size in (999, 3):
            (fetched,) = [f async for f in source.fetch_bodies([1], lambda _: Bytes())]
            assert (fetched.meta.size, fetched.octets) == (size, 3)


@pytest.mark.parametrize("refusal", [b"NO [SERVERERROR] it is broken", b"BAD cannot read properties of undefined"])
async def test_one_message_that_is_refused_does_not_hide_its_neighbours(refusal: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID FETCH 1:4 ", fetch(1, 1, b"a"), status=refusal)
        await talk.answer(b"UID FETCH 2 ", fetch(2, 2, b"b"))
        await talk.answer(b"UID FETCH 3 ", status=refusal)
        await talk.answer(b"UID FETCH 4 ", fetch(4, 4, b"d"))

    async with talking(script) as source:
        assert await bodies(source, [1, 2, 3, 4]) == {1: b"a", 2: b"b", 4: b"d"}


async def test_a_command_that_the_server_does_not_understand_is_no_messages_fault() -> None:
    async def script(talk: Talk) -> None:
        for _ in range(1 + MAX_BAD):
            await talk.answer(b"UID FETCH", status=b"BAD no folder is open")

    async with talking(script) as source:
        with pytest.raises(ServerError, match="no folder"):
            await bodies(source, [1, 2, 3, 4])


async def test_a_server_that_lists_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "GATHERED", 1_000)

    async def script(talk: Talk) -> None:
        await talk.expect(b"LIST")
        while True:
            await talk.send(*(b'* LIST () "/" a' for _ in range(1_000)))

    async with talking(script, exists=None) as source:
        with pytest.raises(ProtocolError, match="1000"):
            await source.list_folders()


async def test_when_every_message_is_refused_it_is_not_about_the_messages() -> None:
    async def script(talk: Talk) -> None:
        while True:
            tag, _ = await talk.command()
            await talk.send(tag + b" NO broken")

    async with talking(script, exists=100) as source:
        with pytest.raises(ServerError, match="broken"):
            await bodies(source, list(range(1, 101)))


async def test_a_server_that_throttles_is_obeyed() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID FETCH", status=b"NO Request is throttled. Suggested Backoff Time: 5000 milliseconds")

    async with talking(script) as source:
        with pytest.raises(ThrottledError) as caught:
            await bodies(source, [1, 2])
        assert caught.value.retry_after_s == 5


async def test_what_came_complete_is_delivered_before_the_line_is_reported() -> None:
    async def script(talk: Talk) -> None:
        await talk.expect(b"UID FETCH")
        await talk.send(fetch(1, 1, b"a"), fetch(2, 2, b"b"))
        await talk.raw(b"* 3 FETCH (UID 3 FLAGS () BODY[] {10}\r\nhalf")
        talk.writer.close()

    async with talking(script) as source:
        stream = source.fetch_bodies([1, 2, 3], lambda _: Bytes())
        assert [(await anext(stream)).meta.uid, (await anext(stream)).meta.uid] == [1, 2]
        with pytest.raises(NetworkError):
            await anext(stream)


async def test_bodies_are_asked_for_in_the_callers_order_and_in_bounded_lines() -> None:
    asked: list[bytes] = []

    async def script(talk: Talk) -> None:
        while True:
            tag, rest = await talk.command()
            if rest.startswith(b"UID FETCH"):
                asked.append(rest.split(b" ")[2])
            await talk.send(tag + b" OK done")

    async with talking(script, exists=5_000) as source:
        assert await bodies(source, list(range(9_001, 1, -2))) == {}
    assert max(len(line) for line in asked) <= 1_000
    assert asked[0].split(b",")[-1] == b"9001"
    assert sorted(int(uid) for line in asked for uid in line.split(b",")) == list(range(3, 9_002, 2))


async def test_fetches_are_pipelined() -> None:
    # The server answers nothing before it has heard four commands: asked one at a time, this would never end.
    async def script(talk: Talk) -> None:
        heard = [await talk.command() for _ in range(4)]
        for tag, rest in heard:
            first, _, last = rest.split(b" ")[2].partition(b":")
            uids = range(int(first), int(last or first) + 1)
            await talk.send(*(fetch(uid, uid, b"x") for uid in uids), tag + b" OK done")

    async with talking(script, exists=40) as source:
        assert len(await bodies(source, list(range(1, 4 * FIRST_BATCH + 1)))) == 4 * FIRST_BATCH


async def test_status_is_pipelined() -> None:
    async def script(talk: Talk) -> None:
        heard = [await talk.command() for _ in range(50)]
        for number, (tag, rest) in enumerate(heard):
            name = rest.split(b" ")[1]
            await talk.send(b"* STATUS " + name + b" (MESSAGES %d UIDVALIDITY 1)" % number, tag + b" OK done")

    async with talking(script, exists=None) as source:
        found = await source.status([f"folder{n}" for n in range(50)])
        assert [status.exists for status in found.values() if status is not None] == list(range(50))


async def test_a_header_is_cut_at_its_limit_without_being_kept() -> None:
    async def script(talk: Talk) -> None:
        size = HEADER_LIMIT + 500_000
        await talk.answer(b"UID FETCH", b"* 1 FETCH (UID 1 FLAGS () BODY[HEADER] {%d}\r\n%s)" % (size, bytes(size)))

    async with talking(script) as source:
        ((_, header),) = [item async for item in source.fetch_headers([1])]
    assert len(header) == HEADER_LIMIT


# Metadata


@pytest.mark.parametrize(
    ("answer", "uids"),
    [
        (b"* 1 FETCH (UID 1 FLAGS () %s RFC822.SIZE 1)" % DATE, [1]),
        (b"* 1 FETCH (UID 1 FLAGS () RFC822.SIZE 1)", [1]),
        (b"* 1 FETCH (UID 1 FLAGS ())", []),
        (b"* 1 FETCH (UID 1 RFC822.SIZE 1)", []),
        (b"* 1 FETCH (FLAGS () RFC822.SIZE 1)", []),
        (b"* 1 FETCH (UID 9 FLAGS () RFC822.SIZE 1)", []),
        (b"* 1 FETCH (UID 1 FLAGS () RFC822.SIZE -1)", []),
        (b"* 1 FETCH (UID 1 FLAGS () RFC822.SIZE 1 BODY[] {3}\r\nabc)", [1]),
    ],
)
async def test_metadata_as_servers_send_it(answer: bytes, uids: list[int]) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID FETCH 1:5 (UID FLAGS INTERNALDATE RFC822.SIZE)", answer)

    async with talking(script) as source:
        assert [m.uid async for batch in source.fetch_meta([range(1, 6)]) for m in batch] == uids


async def test_a_refused_fetch_of_metadata_is_an_error() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID FETCH", b"* 1 FETCH (UID 1 FLAGS ())", status=b"NO broken")

    async with talking(script) as source:
        stream = source.fetch_flags([range(1, 6)])
        assert [change.uid for change in await anext(stream)] == [1]
        with pytest.raises(ServerError):
            await anext(stream)


async def test_gmail_says_which_message_it_is_and_others_are_not_asked() -> None:
    for capabilities, item, answer, expected in (
        (b"X-GM-EXT-1 OBJECTID", b" X-GM-MSGID X-GM-LABELS", b" X-GM-MSGID 127 X-GM-LABELS ()", ("127", frozenset())),
        (b"OBJECTID", b"", b"", (None, None)),
    ):

        async def script(talk: Talk, item: bytes = item, answer: bytes = answer) -> None:
            asked = b"UID FETCH 1 (UID FLAGS INTERNALDATE RFC822.SIZE" + item + b")"
            await talk.answer(asked, b"* 1 FETCH (UID 1 FLAGS () RFC822.SIZE 1" + answer + b")")

        async with talking(script, PLAIN + b" " + capabilities) as source:
            ((meta,),) = [batch async for batch in source.fetch_meta([range(1, 2)])]
            assert (meta.email_id, meta.labels) == expected


async def test_labels_in_every_form() -> None:
    labels = b'("\\\\Inbox" \\Sent Important "Muy Importante" "&AOk-t&AOk-" {3}\r\na"b)'
    expected = {"\\Inbox", "\\Sent", "Important", "Muy Importante", "été", 'a"b'}

    async def script(talk: Talk) -> None:
        for items in (b"(UID FLAGS INTERNALDATE RFC822.SIZE X-GM-MSGID X-GM-LABELS)", b"(UID FLAGS X-GM-LABELS)"):
            fetch = b"* 1 FETCH (UID 1 FLAGS (\\Seen) RFC822.SIZE 1 X-GM-MSGID 12 X-GM-LABELS " + labels + b")"
            await talk.answer(b"UID FETCH 1 " + items, fetch)

    async with talking(script, PLAIN + b" X-GM-EXT-1") as source:
        ((meta,),) = [batch async for batch in source.fetch_meta([range(1, 2)])]
        assert (meta.labels, meta.email_id) == (expected, "12")
        ((change,),) = [batch async for batch in source.fetch_flags([range(1, 2)])]
        assert (change.labels, change.flags) == (expected, {"\\Seen"})


# Searching


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b"* SEARCH 3 1 3", b"* SEARCH 2"], [1, 2, 3]),
        ([b"* SEARCH"], []),
        ([b'* ESEARCH (TAG "x") UID ALL 1:3,5 COUNT 4'], [1, 2, 3, 5]),
        ([b"* ESEARCH (TAG \"x\") UID COUNT 0"], []),
    ],
)  # fmt: skip
async def test_uids_found(lines: list[bytes], expected: list[int]) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID SEARCH", *lines)

    async with talking(script) as source:
        assert await source.list_uids() == expected


@pytest.mark.parametrize(
    "line",
    [
        b"* SEARCH 1 two 3",
        b"* SEARCH 0",
        b'* ESEARCH (TAG "x") UID ALL 1:3 COUNT 4',
        b'* ESEARCH (TAG "x") ALL 1:3 COUNT 3',
        b'* ESEARCH (TAG "x") UID ALL 1:*',
        b'* ESEARCH (TAG "x") UID ALL 1:4294967295',
        b"* SEARCH " + b" ".join(b"%d" % n for n in range(1, 110_000)),
    ],
)
async def test_a_search_that_cannot_be_believed_is_never_nothing_found(line: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID SEARCH", line)

    async with talking(script, PLAIN + b" ESEARCH") as source:
        tracemalloc.start()
        try:
            with pytest.raises(ProtocolError):
                await source.search_since(date(2026, 2, 7))
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()


async def test_a_server_that_refuses_to_search_is_asked_for_everything() -> None:
    """Once on a line: servers hang up on who repeats what they do not understand."""

    def told(number: int, day: int) -> bytes:
        return b'* %d FETCH (UID %d INTERNALDATE "%02d-Feb-2026 12:00:00 +0000")' % (number, number * 10, day)

    async def script(talk: Talk) -> None:
        await talk.answer(b"UID SEARCH SINCE 7-Feb-2026", status=b"BAD cannot use a string pattern")
        dates = [told(1, 1), told(2, 5), told(3, 6), told(4, 7), told(5, 20)]
        await talk.answer(b"UID FETCH 1:* (UID INTERNALDATE)", *dates)
        await talk.answer(b"UID FETCH 1:* (UID INTERNALDATE)", *dates)
        await talk.answer(b"UID SEARCH ALL", status=b"NO not today")
        await talk.answer(b"UID FETCH 1:* (UID)", *(b"* %d FETCH (UID %d)" % (n, n * 10) for n in range(1, 6)))

    async with talking(script) as source:
        assert await source.search_since(date(2026, 2, 7)) == [30, 40, 50]  # one day more, for the server's time zone
        assert await source.search_since(date(2026, 2, 9)) == [50]
        assert await source.list_uids() == [10, 20, 30, 40, 50]


async def test_a_server_that_does_not_say_what_it_found_is_asked_for_everything() -> None:
    """Each time: where it finds something, it says so."""

    async def script(talk: Talk) -> None:
        old = (b'* %d FETCH (UID %d INTERNALDATE "01-Feb-2026 12:00:00 +0000")' % (n, n) for n in range(1, 6))
        await talk.answer(b"UID SEARCH SINCE")
        await talk.answer(b"UID FETCH 1:* (UID INTERNALDATE)", *old)
        await talk.answer(b"UID SEARCH SINCE", b"* SEARCH 5")
        await talk.answer(b"UID SEARCH ALL")
        await talk.answer(b"UID FETCH 1:* (UID)", b"* 1 FETCH (UID 1)")

    async with talking(script) as source:
        assert await source.search_since(date(2026, 2, 7)) == []
        assert await source.search_since(date(2026, 1, 7)) == [5]
        with pytest.raises(ServerError, match="did not say"):
            await source.list_uids()


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([b'* 1 FETCH (UID 1 INTERNALDATE "20-Feb-2026 12:00:00 +0000")', b"* 2 FETCH (UID 2)"], ServerError),
        ([b'* 1 FETCH (UID %d INTERNALDATE "20-Feb-2026 12:00:00 +0000")' % uid for uid in range(1, 9)], ProtocolError),
    ],
    ids=["too little", "too much"],
)
async def test_a_listing_in_place_of_a_search_must_be_whole(
    lines: list[bytes], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_SLACK", 2)

    async def script(talk: Talk) -> None:
        await talk.answer(b"UID SEARCH", status=b"NO not today")
        await talk.answer(b"UID FETCH", *lines)

    async with talking(script) as source:
        with pytest.raises(error):
            await source.search_since(date(2026, 2, 7))


async def test_nothing_said_about_an_empty_folder_is_believed() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UID SEARCH ALL")
        await talk.answer(b"UID SEARCH SINCE 7-Feb-2026")

    async with talking(script, exists=0) as source:
        assert await source.list_uids() == []
        assert await source.search_since(date(2026, 2, 7)) == []


# Folders


async def test_folders_that_cannot_be_read_are_left_out() -> None:
    async def script(talk: Talk) -> None:
        lines = (
            b'* LIST () "/" good',
            b"* LIST nonsense",
            b'* LIST () "/" {4}\r\na\r\nb',
            b'* LIST (\\Noselect) "/" n',
        )
        await talk.answer(b'LIST "" "*"', *lines)

    async with talking(script, exists=None) as source:
        folders = await source.list_folders()
        assert [(f.name, f.selectable) for f in folders] == [("good", True), ("n", False)]


async def test_a_folder_is_opened_by_the_very_bytes_that_the_server_sent() -> None:
    names = [b"D\xc3\xa9p\xc3\xb4t", b"&broken", b"\xff\xfe", b"&AGE-", b'q"\\', b"Star * Club", b"x" * 2_000]

    async def script(talk: Talk) -> None:
        await talk.answer(b"LIST", *(b'* LIST () "/" {%d}\r\n%s' % (len(name), name) for name in names))
        for _ in names:
            tag, rest = await talk.command()
            argument = rest.removeprefix(b"EXAMINE ")
            if argument.startswith(b"{"):
                heard.append(argument.partition(b"\r\n")[2])
            else:
                heard.append(argument[1:-1].replace(b'\\"', b'"').replace(b"\\\\", b"\\"))
            await talk.send(b"* 0 EXISTS", b"* OK [UIDVALIDITY 1] x", tag + b" OK open")

    heard: list[bytes] = []
    async with talking(script, exists=None) as source:
        for folder in await source.list_folders():
            await source.open(folder.name)
    assert sorted(heard) == sorted(names)


async def test_status_tells_a_folder_that_is_not_there_from_one_that_says_nothing() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b'STATUS "a"', b"* STATUS a (MESSAGES 1 UIDVALIDITY 2)")
        await talk.answer(b'STATUS "b"', status=b"NO no")
        await talk.answer(b'STATUS "c"', b"* STATUS c (MESSAGES one UIDVALIDITY 2)")
        await talk.answer(b'STATUS "d"', status=b"NO [NONEXISTENT] no")
        await talk.answer(b'STATUS "e"', status=b"NO Mailbox doesn't exist: e")
        await talk.answer(b'STATUS "f"', status=b"BAD no such folder")
        await talk.answer(b'STATUS "g"', status=b"NO [NOPERM] not found")
        await talk.answer(b'STATUS "INBOX"', b"* STATUS inbox (MESSAGES 5 UIDVALIDITY 6 UIDNEXT 7 HIGHESTMODSEQ 0)")

    async with talking(script, exists=None) as source:
        found = await source.status([*"abcdefg", "INBOX"])
        assert {name: status and (status.exists, status.uidvalidity) for name, status in found.items()} == {
            "a": (1, 2),
            "d": None,
            "e": None,
            "INBOX": (5, 6),
        }
        assert found["INBOX"] is not None
        assert found["INBOX"].highestmodseq is None


@pytest.mark.parametrize(
    "lines",
    [
        [b"* 1 EXISTS"],
        [b"* OK [UIDVALIDITY 1] x"],
        [b"* 1 EXISTS", b"* OK [UIDVALIDITY 0] x"],
        [b"* 1 EXISTS", b"* OK [UIDVALIDITY -5] x"],
    ],
)
async def test_a_folder_of_which_nothing_can_be_told_concerns_itself_only(lines: list[bytes]) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"EXAMINE", *lines)
        await talk.examine(3)

    async with talking(script, exists=None) as source:
        with pytest.raises(ProtocolError) as caught:
            await source.open("odd")
        assert caught.value.scope is Scope.FOLDER
        assert (await source.open("INBOX")).status.exists == 3


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (b"NO [NONEXISTENT] x", FolderGoneError, "NONEXISTENT"),
        (b"NO Mailbox doesn't exist: x", FolderGoneError, None),
        (b"NO Mailbox does not exist", FolderGoneError, None),
        (b"NO [NOPERM] denied", ServerError, "NOPERM"),
        (b"NO [UNAVAILABLE] later", ThrottledError, None),
        (b"BAD no such command", ServerError, None),
    ],
)
async def test_a_folder_that_cannot_be_opened(status: bytes, error: type[ServerError], code: str | None) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"EXAMINE", status=status)

    async with talking(script, exists=None) as source:
        with pytest.raises((ServerError, ThrottledError)) as caught:
            await source.open("x")
        assert type(caught.value) is error
        assert getattr(caught.value, "code", None) == code


RICH = PLAIN + b" ENABLE QRESYNC CONDSTORE"


async def test_what_belongs_to_the_folder_that_was_open_before_is_not_the_new_ones() -> None:
    async def script(talk: Talk) -> None:
        old = (b"* 9 EXISTS", b"* VANISHED (EARLIER) 1:3", b"* 1 FETCH (UID 4 FLAGS (old))", b"* OK [CLOSED] closed")
        await talk.examine(2, b"* OK [HIGHESTMODSEQ 9] x")
        new = (b"* 2 EXISTS", b"* OK [UIDVALIDITY 1] x", b"* OK [HIGHESTMODSEQ 9] x", b"* VANISHED (EARLIER) 7")
        await talk.answer(b"EXAMINE", *old, *new, b"* 1 FETCH (UID 8 FLAGS (new) MODSEQ (9))")

    async with talking(script, RICH, exists=None) as source:
        await source.open("INBOX")
        selected = await source.open("Sent", QResync(1, 5))
        assert selected.resynced
        assert selected.status.exists == 2
        assert selected.vanished == (range(7, 8),)
        assert [(c.uid, c.flags) for c in selected.changed] == [(8, {"new"})]


@pytest.mark.parametrize(
    "lines",
    [
        (b"* OK [NOMODSEQ] none",),
        (b"* OK [HIGHESTMODSEQ 9] x", b"* VANISHED (EARLIER) 1:*"),
        (b"* OK [HIGHESTMODSEQ 9] x", b"* 1 FETCH (UID x FLAGS ())"),
        (b"* OK [HIGHESTMODSEQ 9] x", b"* OK [UIDVALIDITY 2] another"),
    ],
)
async def test_a_resync_of_which_a_part_is_missing_is_none(lines: tuple[bytes, ...]) -> None:
    async def script(talk: Talk) -> None:
        await talk.examine(2, b"* VANISHED (EARLIER) 7", *lines)

    async with talking(script, RICH, exists=None) as source:
        selected = await source.open("INBOX", QResync(1, 5))
        assert (selected.resynced, selected.vanished, selected.changed) == (False, (), ())


async def test_a_server_that_does_not_enable_what_it_offers_gets_no_qresync() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet(RICH)
        await talk.answer(b"ENABLE", status=b"BAD not today")
        assert b"(CONDSTORE)" in (await talk.command())[1]

    async with serve(script) as server:
        source = await connect(server)
        with pytest.raises(NetworkError):
            await source.open("INBOX", QResync(1, 5))
