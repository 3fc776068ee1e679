"""Properties of what changes a server: every command is one that RFC 9051 §9 allows and means what was asked for;
whatever the server says of the places of messages is read right or not at all.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.flags import MAX_OCTETS, check_flags
from connectors.imap.connection import ImapConnection
from connectors.imap.internaldate import format_internal_date, parse_internal_date
from connectors.imap.placed import parse_appenduid, parse_copyuid
from connectors.imap.session import Session
from connectors.imap.settings import Limits, Timeouts
from connectors.imap.uidset import MAX_UID, UidSet, ranges_of
from connectors.imap.utf7 import RAW_LATIN1_MARK, RAW_UTF8_MARK, decode_name
from connectors.model import MICROSECONDS, Namespace
from connectors.port import Placed

ATOM_CHARS = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '(){%*"\\]')
uids = st.integers(1, MAX_UID)
atoms = st.text(ATOM_CHARS, min_size=1, max_size=12)
flags = st.frozensets(
    atoms.filter(lambda word: word.lower() not in ("deleted", "recent"))
    | atoms.map("\\".__add__).filter(lambda word: word.lower() not in ("\\deleted", "\\recent")),
    max_size=5,
)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20).filter(
    lambda name: not name.startswith((RAW_UTF8_MARK, RAW_LATIN1_MARK))
)
instants = st.integers(-62_135_596_800, 253_402_300_799).map(lambda s: s * MICROSECONDS)
capabilities = st.sampled_from(
    [b"IMAP4REV1 UIDPLUS MOVE X-GM-EXT-1", b"IMAP4REV1 UIDPLUS MOVE X-GM-EXT-1 LITERAL+ BINARY",
     b"IMAP4REV2 LITERAL- X-GM-EXT-1 BINARY"]
)  # fmt: skip


# A strict reader of commands.


class Reading:
    """One command, read by the grammar of RFC 9051 §9 (and RFC 3516, X-GM-EXT-1)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, pattern: bytes) -> bytes:
        match = re.compile(pattern, re.DOTALL).match(self.data, self.at)
        assert match is not None, f"expected {pattern!r} at {self.data[self.at : self.at + 50]!r}"
        self.at = match.end()
        return match[0]

    def peek(self, text: bytes) -> bool:
        return self.data.startswith(text, self.at)

    def string(self) -> bytes:
        if self.peek(b'"'):
            quoted = self.take(rb'"(?:[^"\\\r\n\x00\x80-\xff]|\\["\\])*"')
            return re.sub(rb"\\(.)", rb"\1", quoted[1:-1])
        return self.literal(b"")

    def literal(self, mark: bytes) -> bytes:
        size = int(self.take(mark + rb"\{\d+\+?\}\r\n")[len(mark) + 1 :].rstrip(b"+}\r\n"))
        value = self.data[self.at : self.at + size]
        assert len(value) == size
        assert mark or b"\0" not in value
        self.at += size
        return value

    def numbers(self) -> set[int]:
        text = self.take(rb"[1-9]\d{0,9}(?::(?:[1-9]\d{0,9}|\*))?(?:,[1-9]\d{0,9}(?::(?:[1-9]\d{0,9}|\*))?)*")
        found: set[int] = set()
        for word in text.decode().split(","):
            first, _, last = word.partition(":")
            found.update(range(int(first), (MAX_UID if last == "*" else int(last or first)) + 1))
        return found

    def flag_list(self) -> frozenset[str]:
        atom = rb"[%s]+" % re.escape(ATOM_CHARS).encode()
        text = self.take(rb"\((?:\\?%s(?: \\?%s)*)?\)" % (atom, atom))
        return frozenset(text[1:-1].decode().split())

    def labels(self) -> frozenset[str]:
        found: set[str] = set()
        self.take(rb"\(")
        while not self.peek(b")"):
            if found:
                self.take(b" ")
            found.add(self.take(rb"\\[A-Za-z]+").decode() if self.peek(b"\\") else decode_name(self.string()))
        self.take(rb"\)")
        return frozenset(found)

    def end(self) -> None:
        self.take(rb"\r\n")
        assert self.at == len(self.data)


def understand(data: bytes) -> tuple[Any, ...]:
    """What a command asks for."""
    reading = Reading(data)
    reading.take(rb"[A-Za-z0-9]+ ")
    name = reading.take(rb"(?:UID )?[A-Z]+").decode()
    found: list[Any] = [name]
    if name in ("UID STORE", "UID MOVE", "UID COPY", "UID EXPUNGE", "UID FETCH"):
        reading.take(b" ")
        found.append(reading.numbers())
    if name == "UID STORE":
        found.append(reading.take(rb" [+-](?:FLAGS(?:\.SILENT)?|X-GM-LABELS) ").decode().strip())
        found.append(reading.labels() if "LABELS" in found[-1] else reading.flag_list())
    elif name == "UID FETCH":
        reading.take(rb" \(UID FLAGS\)")
    elif name == "APPEND":
        reading.take(b" ")
        found.append(decode_name(reading.string()))
        reading.take(b" ")
        found.append(reading.flag_list() if reading.peek(b"(") else frozenset())
        if len(found[-1]):
            reading.take(b" ")
        if reading.peek(b'"'):
            found.append(parse_internal_date(reading.take(rb'"[^"]*" ')[1:-2]))
        found.append(reading.literal(b"~" if reading.peek(b"~") else b""))
    elif name != "UID EXPUNGE":
        if name == "LIST":
            reading.take(rb" \(SUBSCRIBED\)")
        for _ in range(2 if name in ("RENAME", "LIST", "LSUB") else 1):
            reading.take(b" ")
            found.append(decode_name(reading.string()))
    reading.end()
    return tuple(found)


@dataclass
class Server:
    """The other end of a session without a network: understands every command, or fails."""

    session: Session
    heard: list[tuple[Any, ...]] = field(default_factory=list)
    _buffer: bytes = b""
    _line: int = 0

    def write(self, data: bytes) -> None:
        self._buffer += data
        while True:
            at = 0
            while True:
                end = self._buffer.find(b"\r\n", at)
                if end < 0:
                    return
                assert end - at < 8_000, "a line longer than servers take"
                announced = re.search(rb"\{(\d+)(\+?)\}\Z", self._buffer[at:end])
                if announced is None:
                    break
                at = end + 2 + int(announced[1])
                if not announced[2] and len(self._buffer) == end + 2:
                    self._say(b"+ go on\r\n")
                    return
                if len(self._buffer) < at:
                    return
            command, self._buffer = self._buffer[: end + 2], self._buffer[end + 2 :]
            self.heard.append(understand(command))
            self._say(command.partition(b" ")[0] + b" OK done\r\n")

    def _say(self, line: bytes) -> None:
        self.session.loop.call_soon(self.session.data_received, line)

    def abort(self) -> None:
        pass

    def get_extra_info(self, _: str) -> None:
        return None


def hear(offered: bytes, change: Callable[[ImapConnection], Awaitable[object]]) -> list[tuple[Any, ...]]:
    """What the server understood of a change."""

    async def run() -> list[tuple[Any, ...]]:
        session = Session(asyncio.get_running_loop(), Timeouts(), Limits())
        server = Server(session)
        session.connection_made(server)
        session.data_received(b"* OK [CAPABILITY " + offered + b"] hello\r\n")
        line = ImapConnection(session)
        line._selected = True
        await change(line)
        assert server._buffer == b""
        return server.heard

    return asyncio.run(run())


def merged(heard: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], set[int]]:
    """The sets of commands that are otherwise the same, together; none names a message twice."""
    found: dict[tuple[Any, ...], set[int]] = {}
    for name, numbers, *rest in heard:
        whole = found.setdefault((name, *rest), set())
        assert not whole & numbers
        whole |= numbers
    return found


@given(capabilities, st.sets(uids, min_size=1, max_size=300), flags, flags)
def test_flags(offered: bytes, named: set[int], add: frozenset[str], remove: frozenset[str]) -> None:
    heard = hear(offered, lambda line: line.store_flags(sorted(named), add=add, remove=remove))
    expected = {("UID STORE", "+FLAGS", add): named, ("UID STORE", "-FLAGS", remove): named, ("UID FETCH",): named}
    changed = bool(add or remove)
    assert merged(heard) == {key: value for key, value in expected.items() if changed and key[-1]}


@given(capabilities, st.sets(uids, min_size=1, max_size=50), st.frozensets(names, max_size=4))
@example(b"IMAP4REV1 X-GM-EXT-1", {1}, frozenset({"\\Inbox", "\\a b", "\\é", 'q"', "&", "a\r\nb", "x" * 2_000}))
def test_labels(offered: bytes, named: set[int], labels: frozenset[str]) -> None:
    heard = hear(offered, lambda line: line.store_labels(sorted(named), add=labels, remove=labels))
    expected = {("UID STORE", f"{sign}X-GM-LABELS", labels): named for sign in "+-"}
    assert merged(heard) == (expected if labels else {})


@given(capabilities, st.lists(uids, min_size=1, max_size=300), names)
def test_messages_are_named_exactly(offered: bytes, named: list[int], to: str) -> None:
    every = set(named)
    where = "INBOX" if to.upper() == "INBOX" else to
    assert merged(hear(offered, lambda line: line.move(named, where))) == {("UID MOVE", where): every}
    assert merged(hear(offered, lambda line: line.copy(named, where))) == {("UID COPY", where): every}
    assert merged(hear(offered, lambda line: line.expunge(named))) == {
        ("UID STORE", "+FLAGS.SILENT", frozenset({"\\Deleted"})): every,
        ("UID EXPUNGE",): every,
        ("UID FETCH",): every,
    }


@given(capabilities, names, st.binary(min_size=1, max_size=5_000), flags, st.none() | instants)
def test_append(offered: bytes, name: str, raw: bytes, wanted: frozenset[str], at: int | None) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield raw[:1]
        yield raw[1:]

    if b"BINARY" not in offered:
        raw = raw.replace(b"\0", b"x")
    (heard,) = hear(offered, lambda line: line.append(name, len(raw), chunks(), flags=wanted, internal_date=at))
    assert heard == ("APPEND", name, wanted, *(() if at is None else (at,)), raw)


@given(capabilities, names, names)
def test_folders(offered: bytes, name: str, to: str) -> None:
    assert hear(offered, lambda line: line.create_folder(name)) == [("CREATE", name), ("SUBSCRIBE", name)]
    assert hear(offered, lambda line: line.rename_folder(name, to)) == [
        ("LSUB" if b"REV1" in offered else "LIST", "", name + "*"),
        ("RENAME", name, to),
    ]
    assert hear(offered, lambda line: line.delete_folder(name)) == [("DELETE", name), ("UNSUBSCRIBE", name)]


@given(st.text(max_size=10) | atoms | atoms.map("\\".__add__))
@example("\\*")
@example("\\Deleted")
@example("x" * MAX_OCTETS)
@example("a\n")
def test_a_flag_is_an_atom(word: str) -> None:
    bare = word.removeprefix("\\")
    good = bool(bare) and set(bare) <= set(ATOM_CHARS) and word.lower() not in ("\\deleted", "\\recent")
    if good and len(word) < MAX_OCTETS:
        assert check_flags(frozenset({word})) == {word}
    else:
        with pytest.raises(ValueError):
            check_flags(frozenset({word}))
    if word.lower() == "\\deleted":
        assert check_flags(frozenset({word}), removed=True)


# What the server says.


def as_set(numbers: list[int], cuts: list[bool]) -> bytes:
    """These numbers in their order, as a set; neighbours that ascend are a range unless there is a cut."""
    words: list[list[int]] = []
    for n, cut in zip(numbers, cuts, strict=True):
        if words and not cut and words[-1][-1] == n - 1:
            words[-1].append(n)
        else:
            words.append([n])
    return b",".join(b"%d:%d" % (w[0], w[-1]) if len(w) > 1 else b"%d" % w[0] for w in words)


few = st.integers(1, 40) | uids


@given(uids, st.lists(st.tuples(few, few, st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_copyuid(uidvalidity: int, pairs: list[tuple[int, int, bool, bool]]) -> None:
    sources, targets = [p[0] for p in pairs], [p[1] for p in pairs]
    text = b"%d %s %s" % (uidvalidity, as_set(sources, [p[2] for p in pairs]), as_set(targets, [p[3] for p in pairs]))
    unique = len(set(sources)) == len(set(targets)) == len(pairs)
    expected = Placed(uidvalidity, dict(zip(sources, targets, strict=True))) if unique else None
    assert parse_copyuid(text, UidSet(ranges_of(sources)), len(pairs)) == expected
    assert parse_copyuid(text, UidSet(ranges_of(sources)), len(pairs) - 1) is None
    assert parse_copyuid(text, UidSet(ranges_of(sources[1:])), len(pairs)) in (None, expected)
    if unique:
        assert parse_copyuid(text, UidSet(ranges_of(sources[1:])), len(pairs)) is None


@given(st.binary(max_size=40) | st.text("0123456789:,* ", max_size=30).map(str.encode))
@example(b"1 1:4294967295 1:4294967295")
@example(b"1 2:1 8:9")
def test_whatever_the_server_says_of_places_is_no_error(text: bytes) -> None:
    wanted = UidSet([range(1, 100)])
    placed = parse_copyuid(text, wanted, 10)
    if placed is not None:
        assert 0 < len(placed.uids) <= 10
        assert all(uid in wanted for uid in placed.uids)
    single = parse_appenduid(text)
    assert single is None or 0 < single.uids[0] <= MAX_UID


@given(instants, st.integers(0, MICROSECONDS - 1))
def test_dates_are_read_as_they_are_written(at: int, fraction: int) -> None:
    assert parse_internal_date(format_internal_date(at + fraction).encode()) == at


# Names of folders.


@given(st.sampled_from(["", "INBOX.", "Mail/"]), st.sampled_from([".", "/", None]), st.lists(names, max_size=3))
def test_a_folder_is_called_what_was_asked_for_or_not_made(
    prefix: str, delimiter: str | None, parts: list[str]
) -> None:
    namespace = Namespace(prefix, delimiter)
    try:
        name = namespace.name_of(*parts)
    except ValueError:
        return
    if name == "INBOX":
        assert [part.upper() for part in parts] == ["INBOX"]
    else:
        assert namespace.parts_of(name) == tuple(parts)
