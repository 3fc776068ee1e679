"""Properties of the wire: any split says the same, the hot path agrees with the general way, what
is written is read.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.errors import ProtocolError
from connectors.imap import wire
from connectors.imap.responses import Body, Fetch, ListItem, Response, Search, Status, StatusItem, Vanished
from connectors.imap.syntax import parse
from connectors.imap.uidset import MAX_UID, UidSet, format_sets, join, parse_set, ranges_of, size
from connectors.imap.wire import Parser
from tests.wirelog import Bytes, WireLog, read

uids = st.integers(1, MAX_UID)
numbers = st.integers(0, (1 << 63) - 1)
bodies = st.binary(max_size=60) | st.sampled_from(
    [b"* 1 EXPUNGE\r\n", b"a1 OK\r\n", b")\r\n", b"{5}\r\n", b"\r\n)\r\n* BYE\r\n", b'"', b"\0\xff"]
)
words = st.text("abcdefgXYZ$_-.[]", min_size=1, max_size=12)
flags = st.frozensets(words | st.sampled_from(["\\Seen", "\\Flagged", "\\Draft"]), max_size=4)
names = st.binary(min_size=1, max_size=20).filter(lambda n: not any(b in n for b in b"\0\r\n"))


@st.composite
def strings(draw: st.DrawFn, value: bytes) -> bytes:
    """One of the forms in which a server may send these bytes as a string."""
    forms = [b"{%d}\r\n%s" % (len(value), value), b"{%d+}\r\n%s" % (len(value), value)]
    if not any(b in value for b in b"\0\r\n"):
        forms.append(b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"')
    return draw(st.sampled_from(forms))


@st.composite
def fetches(draw: st.DrawFn) -> tuple[bytes, Fetch]:
    """A FETCH as bytes, its attributes in any order, beside what it says."""
    fetch = Fetch(draw(uids))
    items: list[bytes] = []
    if draw(st.booleans()):
        fetch.uid = draw(uids)
        items.append(b"UID %d" % fetch.uid)
    if draw(st.booleans()):
        fetch.flags = draw(flags)
        items.append(b"FLAGS (%s)" % " ".join(sorted(fetch.flags)).encode())
    if draw(st.booleans()):
        fetch.size = draw(numbers)
        items.append(b"RFC822.SIZE %d" % fetch.size)
    if draw(st.booleans()):
        fetch.modseq = draw(numbers)
        items.append(b"MODSEQ (%d)" % fetch.modseq)
    if draw(st.booleans()):
        fetch.internal_date = 1_700_000_000_000_000
        items.append(b'INTERNALDATE "14-Nov-2023 22:13:20 +0000"')
    if draw(st.booleans()):
        items.append(b"ENVELOPE (" + draw(strings(draw(bodies))) + b" NIL ((NIL)))")
    for section in draw(st.lists(st.sampled_from(["", "HEADER", "1.MIME"]), unique=True)):
        content = draw(bodies)
        sink = Bytes()
        sink.write(memoryview(content))
        fetch.bodies[section] = Body(len(content), sink)
        items.append(b"BODY[%s] " % section.encode() + draw(strings(content)))
    items = draw(st.permutations(items))
    return b"* %d FETCH (%s)\r\n" % (fetch.number, b" ".join(items)), fetch


@st.composite
def others(draw: st.DrawFn) -> tuple[bytes, Response]:
    kind = draw(st.sampled_from(["list", "status", "search", "vanished", "tagged"]))
    if kind == "list":
        name = draw(names)
        item = ListItem(frozenset({"\\marked"}), "/", name)
        return b'* LIST (\\Marked) "/" ' + draw(strings(name)) + b"\r\n", item
    if kind == "status":
        name, count = draw(names), draw(numbers)
        return b"* STATUS " + draw(strings(name)) + b" (MESSAGES %d)\r\n" % count, StatusItem(name, {"MESSAGES": count})
    if kind == "search":
        found = tuple(draw(st.lists(uids, max_size=5)))
        return b"".join([b"* SEARCH", *(b" %d" % n for n in found), b"\r\n"]), Search(found)
    if kind == "vanished":
        start = draw(uids)
        return b"* VANISHED (EARLIER) %d\r\n" % start, Vanished((range(start, start + 1),), earlier=True)
    return b"a%d OK done {%d}\r\n" % (draw(numbers), draw(numbers)), Status("", "OK")


streams = st.lists(fetches() | others(), max_size=6)


@given(streams)
def test_what_is_written_is_read(stream: list[tuple[bytes, Response]]) -> None:
    found = read(b"".join(data for data, _ in stream))
    assert len(found) == len(stream)
    for got, (_, expected) in zip(found, stream, strict=True):
        if not isinstance(expected, Status):
            assert got == expected


def outcome(chunks: list[bytes]) -> tuple[list[Response], bool, str | None]:
    """The responses, whether the parser is between two, and how it failed."""
    log = WireLog()
    parser = Parser(log, limit=500)
    try:
        for chunk in chunks:
            parser.feed(chunk)
    except ProtocolError as error:
        return log.responses, False, str(error)
    return log.responses, parser.idle, None


def cut(data: bytes, offsets: list[int]) -> list[bytes]:
    points = sorted({0, len(data), *(o % (len(data) + 1) for o in offsets)})
    return [data[a:b] for a, b in itertools.pairwise(points)]


@given(streams, st.lists(st.integers(0, 5_000), max_size=8))
def test_any_split_says_the_same(stream: list[tuple[bytes, Response]], offsets: list[int]) -> None:
    data = b"".join(part for part, _ in stream)
    assert outcome(cut(data, offsets)) == outcome([data])
    assert outcome([bytes([byte]) for byte in data]) == outcome([data])


FRAGMENTS = [
    b"* ", b"1 ", b"FETCH ", b"(", b")", b"UID ", b"7 ", b"FLAGS (", b"\\Seen", b"BODY[] ", b"{3}\r\n", b"{0}\r\n",
    b"abc", b"\r\n", b"\n", b'"', b"\\", b"NIL", b"BODY[HEADER] ", b"~{2}\r\n", b"LIST ", b'"/" ', b"a1 OK ", b"+ ",
    b"* 1 FETCH (UID 7 BODY[] {3}\r\nabc)\r\n", b"* SEARCH ", b"* VANISHED ", b"[", b"]", b" ", b"-", b"MODSEQ (5) ",
    b"99999999999 ", b"INTERNALDATE ", b"x" * 300, b"\0", b"\xff", b"* 2 EXISTS\r\n", b"ESEARCH (TAG ", b"STATUS ",
    b"1:5,", b"* OK [", b"RFC822.SIZE ",
]  # fmt: skip
nonsense = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=6), max_size=40).map(b"".join)


@given(nonsense, st.lists(st.integers(0, 5_000), max_size=8))
@example(b"* 1 FETCH (UID 7 BODY[] {3}\r\nabc UID 7)\r\n", [31])
def test_any_bytes_are_read_or_refused_and_any_split_says_the_same(data: bytes, offsets: list[int]) -> None:
    # Only ProtocolError may come out. Where it comes may differ by what else the failing chunk held, the responses
    # before it not.
    whole, split = outcome([data]), outcome(cut(data, offsets))
    assert whole[0] == split[0]
    assert whole[2] == split[2]
    if whole[2] is None:
        assert whole[1] == split[1]


INTERNAL_DATES = [
    b"",
    b' INTERNALDATE "14-Nov-2023 22:13:20 +0000"',
    b' INTERNALDATE " 1-Jan-0000 22:13:20 +0000"',
    b' INTERNALDATE "x"',
]
FLAG_LISTS = [b"", b"()", b"(\\SEEN a \\recent)", b"(a  b )", b"(\xff [x)", b"(a{b)"]
TAILS = [
    b")\r\n",
    b" BODY[] {0}\r\n)\r\n",
    b" BODY[] {3}\r\n)\r\n)\r\n",
    b" BODY[] {3}\r\nabc X (1))\r\n",
    b" BODY[] NIL)\r\n",
]
hot_numbers = st.sampled_from([1, 7, 10**9]) | st.sampled_from([0, MAX_UID, MAX_UID + 1, 9_999_999_999, 10**10])
hot_lines = st.builds(
    lambda n, u, f, d, s, m, tail: b"".join([b"* %d FETCH (UID %d" % (n, u), f, d, s, m, tail]),
    hot_numbers,
    hot_numbers,
    st.sampled_from(FLAG_LISTS).map(lambda f: b" FLAGS " + f if f else b""),
    st.sampled_from(INTERNAL_DATES),
    st.sampled_from([b"", b" RFC822.SIZE 0", b" RFC822.SIZE 0012", b" RFC822.SIZE 999999999999999999"]),
    st.sampled_from([b"", b" MODSEQ (0)", b" MODSEQ (5)"]),
    st.sampled_from(TAILS),
)


class _Never:
    """In place of the hot path's expression: matches nothing."""

    def match(self, *_: Any) -> None:
        return None


@given(hot_lines)
def test_the_hot_path_agrees_with_the_general_way(line: bytes) -> None:
    hot = outcome([line])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_FETCH", _Never())
        assert outcome([line]) == hot


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4))
def test_the_syntax_fails_in_its_two_ways_only(pieces: list[bytes]) -> None:
    with contextlib.suppress(ProtocolError):
        parse([b"* 1 FETCH " + pieces[0], *pieces[1:]])
    with contextlib.suppress(ProtocolError):
        parse(pieces)


some_ranges = st.lists(st.builds(lambda a, n: range(a, a + n), st.integers(1, 500), st.integers(0, 20)), max_size=10)


@given(some_ranges)
def test_joined_ranges_hold_the_same_numbers(ranges: list[range]) -> None:
    numbers_ = {n for r in ranges for n in r}
    joined = join(ranges)
    assert [n for r in joined for n in r] == sorted(numbers_)
    assert all(a.stop < b.start for a, b in itertools.pairwise(joined))
    assert size(joined) == len(numbers_)
    assert ranges_of(numbers_) == joined
    members = UidSet(ranges)
    assert all((n in members) == (n in numbers_) for n in range(530))


@given(some_ranges.filter(any), st.integers(10, 100))
def test_written_sets_are_read_back(ranges: list[range], limit: int) -> None:
    joined = join(ranges)
    parts = list(format_sets(joined, limit))
    assert all(len(text) <= max(limit, 21) for text, _ in parts)
    assert [r for text, _ in parts for r in parse_set(text.encode())] == joined
    assert [r for _, chosen in parts for r in chosen] == joined
