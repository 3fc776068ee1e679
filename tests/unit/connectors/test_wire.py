"""The wire: framing, limits, and what each kind of response says."""

from __future__ import annotations

import tracemalloc

import pytest

from connectors.errors import ProtocolError
from connectors.imap.responses import (
    Body,
    Capability,
    Continuation,
    Enabled,
    Esearch,
    Exists,
    Expunge,
    Fetch,
    FolderFlags,
    ListItem,
    Namespaces,
    Recent,
    Response,
    Search,
    Status,
    StatusItem,
    Unknown,
    Unparsed,
    Vanished,
)
from connectors.imap.wire import Parser
from tests.wirelog import Bytes, WireLog, body, read, read_one


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"* OK ready", Status(None, "OK", text="ready")),
        (b"* ok", Status(None, "OK")),
        (b"* OK [UIDVALIDITY 3857529045] UIDs valid", Status(None, "OK", "UIDVALIDITY", b"3857529045", "UIDs valid")),
        (b"* OK [CLOSED] Previous mailbox closed.", Status(None, "OK", "CLOSED", text="Previous mailbox closed.")),
        (b"* BYE [UNAVAILABLE] later", Status(None, "BYE", "UNAVAILABLE", text="later")),
        (b"* PREAUTH hello", Status(None, "PREAUTH", text="hello")),
        (b"* NO text that ends like a literal {5}", Status(None, "NO", text="text that ends like a literal {5}")),
        (b"a1 OK done {7}", Status("a1", "OK", text="done {7}")),
        (b"A.1 NO [NONEXISTENT] no such folder", Status("A.1", "NO", "NONEXISTENT", text="no such folder")),
        (b"a1 BAD", Status("a1", "BAD")),
        # No database takes NUL.
        (b"a1 NO [no\0perm] a\0b", Status("a1", "NO", "NO PERM", text="a b")),
        (
            b"* OK [PERMANENTFLAGS (\\Answered [Odd] \\*)] Limited",
            Status(None, "OK", "PERMANENTFLAGS", b"\\Answered [Odd] \\*", "Limited"),
        ),
        (b"a OK [BADCHARSET (UTF-8)] x", Status("a", "OK", "BADCHARSET", b"(UTF-8)", "x")),
        (b"a OK [broken code", Status("a", "OK", text="[broken code")),
        (b"* OK \xff\xfe\x00 text", Status(None, "OK", text="��  text")),
        (b"+ idling", Continuation(b"idling")),
        (b"+", Continuation(b"")),
        (b"+ {5}", Continuation(b"{5}")),
        (b"* CAPABILITY IMAP4rev1 idle", Capability(frozenset({"IMAP4REV1", "IDLE"}))),
        (b"* ENABLED QRESYNC", Enabled(frozenset({"QRESYNC"}))),
        (b"* ENABLED", Enabled(frozenset())),
        (b"* 172 EXISTS", Exists(172)),
        (b"* 0 exists", Exists(0)),
        (b"* 3 RECENT", Recent(3)),
        (b"* 44 EXPUNGE", Expunge(44)),
        (b"* VANISHED 405,407:410", Vanished((range(405, 406), range(407, 411)), earlier=False)),
        (b"* VANISHED (EARLIER) 41,43:116", Vanished((range(41, 42), range(43, 117)), earlier=True)),
        (b"* VANISHED 9:3", Vanished((range(3, 10),), earlier=False)),
        (b"* SEARCH 2 84 882", Search((2, 84, 882))),
        (b"* SEARCH", Search(())),
        (b"* SEARCH ", Search(())),
        (b"* SEARCH 2 5 (MODSEQ 917162500)", Search((2, 5), 917162500)),
        (b'* ESEARCH (TAG "A282") MIN 2 COUNT 3', Esearch("A282", False, (), 3)),
        (b'* ESEARCH (TAG "A283") UID ALL 2,10:11 COUNT 3', Esearch("A283", True, (range(2, 3), range(10, 12)), 3)),
        (b"* ESEARCH UID", Esearch(None, True)),
        (b'* ESEARCH (TAG "A") UID COUNT 1 ALL 5 MODSEQ 9', Esearch("A", True, (range(5, 6),), 1, 9)),
        (b"* FLAGS (\\Answered \\seen $Junk)", FolderFlags(frozenset({"\\Answered", "\\Seen", "$Junk"}))),
        (b"* 1 FETCH (UID 1 X-GM-LABELS Work)", Unparsed("FETCH", "labels that are no list")),
        (b"* 1 FETCH (UID 1 X-GM-LABELS (a (b)))", Unparsed("FETCH", "a label that is no string")),
        (b"* NAMESPACE ((\"\" \"/\")) NIL NIL", Namespaces(((b"", "/"),))),
        (b'* NAMESPACE (("INBOX." ".")("#mh/" "/" "X-PARAM" ("a" "b"))) (("~" "/")) NIL',
         Namespaces(((b"INBOX.", "."), (b"#mh/", "/")))),
        (b'* NAMESPACE (("" NIL)) NIL NIL', Namespaces(((b"", None),))),
        (b"* NAMESPACE NIL NIL NIL", Namespaces(())),
        (b'* NAMESPACE (("" "//")) NIL NIL', Unparsed("NAMESPACE", "NAMESPACE in an unknown form")),
        (b"* NAMESPACE", Unparsed("NAMESPACE", "NAMESPACE without anything")),
        (b"* ID NIL", Unknown("ID")),
        (b"* 5 FROBNICATE", Unknown("")),
        (b"* ", Unknown("")),
    ],
)  # fmt: skip
def test_line(line: bytes, expected: Response) -> None:
    assert read_one(line + b"\r\n") == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'(\\Marked \\Sent) "/" "Sent Items"', ListItem(frozenset({"\\marked", "\\sent"}), "/", b"Sent Items")),
        (b'() "." INBOX', ListItem(frozenset(), ".", b"INBOX")),
        (b'() NIL INBOX', ListItem(frozenset(), None, b"INBOX")),
        (b'() "\\\\" "a\\\\b\\"c"', ListItem(frozenset(), "\\", b'a\\b"c')),
        (b'() "\\" "a"', ListItem(frozenset(), "\\", b"a")),  # the delimiter unescaped
        (b'() "/" Sent Items', ListItem(frozenset(), "/", b"Sent Items")),  # the quotes forgotten
        (b'() "/" NIL', ListItem(frozenset(), "/", b"NIL")),  # an atom: a folder of that name
        (b'() "/" "Star * Club"', ListItem(frozenset(), "/", b"Star * Club")),
        (b'() "/" "D\xc3\xa9p\xc3\xb4t"', ListItem(frozenset(), "/", "Dépôt".encode())),
        (b'() "/" "(a)[b]{c}"', ListItem(frozenset(), "/", b"(a)[b]{c}")),
        (b'() "/" "a" ("CHILDINFO" ("SUBSCRIBED"))', ListItem(frozenset(), "/", b"a")),
        (b'() "/" a ("CHILDINFO" ("SUBSCRIBED"))', ListItem(frozenset(), "/", b"a")),
        (b'() "/" {4}\r\na\r\nb', ListItem(frozenset(), "/", b"a\r\nb")),
        (b'() "/" {1}\r\na ("CHILDINFO" ("SUBSCRIBED"))', ListItem(frozenset(), "/", b"a")),
        (b'() "/" [Gmail]/All', ListItem(frozenset(), "/", b"[Gmail]/All")),
    ],
)  # fmt: skip
def test_list(line: bytes, expected: ListItem) -> None:
    if b"\r" in expected.name:
        assert isinstance(read_one(b"* LIST " + line + b"\r\n"), Unparsed)  # no command could name it
    else:
        assert read_one(b"* LIST " + line + b"\r\n") == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"blurdybloop (MESSAGES 231 UIDNEXT 44292)", StatusItem(b"blurdybloop", {"MESSAGES": 231, "UIDNEXT": 44292})),
        (b'"a b" (UIDNEXT 1 X-ODD (1 2) HIGHESTMODSEQ 7)', StatusItem(b"a b", {"UIDNEXT": 1, "HIGHESTMODSEQ": 7})),
        (b"a b (MESSAGES 1)", StatusItem(b"a b", {"MESSAGES": 1})),
        (b"{3}\r\na{b (MESSAGES 1)", StatusItem(b"a{b", {"MESSAGES": 1})),
        (b"a ()", StatusItem(b"a", {})),
    ],
)  # fmt: skip
def test_status(line: bytes, expected: StatusItem) -> None:
    assert read_one(b"* STATUS " + line + b"\r\n") == expected


BODY = b"From: a\r\n\r\n* 1 EXPUNGE\r\na1 OK )\r\n"


DATE = b'"14-Nov-2023 22:13:20 +0000"'


@pytest.mark.parametrize(
    "form",
    [
        b"* 1 FETCH (UID 7 FLAGS (\\Seen) INTERNALDATE " + DATE + b" RFC822.SIZE 33 MODSEQ (9) BODY[] %s)",
        b"* 1 FETCH (BODY[] %s UID 7 FLAGS (\\Seen) INTERNALDATE " + DATE + b" RFC822.SIZE 33 MODSEQ (9))",
        b"* 1 fetch  ( uid 7 flags (\\SEEN \\recent) rfc822.size 33 internaldate " + DATE + b" modseq (9) rfc822 %s )",
    ],
)
@pytest.mark.parametrize("literal", [b"{%d}\r\n%s", b"{%d+}\r\n%s", b"~{%d}\r\n%s"])
def test_fetch_of_a_whole_message(form: bytes, literal: bytes) -> None:
    response = read_one(form % (literal % (len(BODY), BODY)) + b"\r\n")
    assert isinstance(response, Fetch)
    assert body(response) == BODY
    response.bodies = {}
    assert response == Fetch(1, 7, frozenset({"\\Seen"}), 1_700_000_000_000_000, 33, 9)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (b"UID 1 FLAGS ()", Fetch(1, 1, frozenset())),
        (b"FLAGS (a $b \\*)", Fetch(1, None, frozenset({"a", "$b", "\\*"}))),
        (b"UID 4294967295", Fetch(1, 4294967295)),
        (b'UID 1 INTERNALDATE " 7-Feb-2026 00:00:00 +0000"', Fetch(1, 1, internal_date=1770422400_000000)),
        (b'UID 1 INTERNALDATE "31-Feb-2026 00:00:00 +0000"', Fetch(1, 1)),
        (b"UID 1 INTERNALDATE NIL", Fetch(1, 1)),
        (b"UID 1 EMAILID (M00b)", Fetch(1, 1)),
        (b"UID 1 X-GM-MSGID 1278455344230334865", Fetch(1, 1, email_id="1278455344230334865")),
        (b'UID 1 ENVELOPE ("(" "\\")" NIL ((NIL NIL "x" "y"))) FLAGS (a)', Fetch(1, 1, frozenset({"a"}))),
        (b'UID 1 BODYSTRUCTURE ("TEXT" "PLAIN" ("CHARSET" "a(b)c") NIL NIL "7BIT" 2 1)', Fetch(1, 1)),
        (b"UID 1 BODY[HEADER.FIELDS (A B)] NIL", Fetch(1, 1)),
        (b"UID 1 BODY[] NIL", Fetch(1, 1)),
        (b"UID 1 MODSEQ (0)", Fetch(1, 1, modseq=0)),
    ],
)
def test_fetch_attributes(items: bytes, expected: Fetch) -> None:
    assert read_one(b"* 1 FETCH (" + items + b")\r\n") == expected


def test_a_body_may_come_as_a_quoted_string() -> None:
    log = WireLog()
    Parser(log).feed(b'* 1 FETCH (UID 3 BODY[] "a \\"b\\" \\\\")\r\n')
    assert log.announced == [(3, "", 7)]
    assert body(log.responses[0]) == b'a "b" \\'


def test_an_empty_body_is_a_body() -> None:
    for form in (b"{0}\r\n", b'""'):
        assert body(read_one(b"* 1 FETCH (UID 3 BODY[] " + form + b")\r\n")) == b""


def test_several_sections_each_have_their_sink() -> None:
    response = read_one(b"* 1 FETCH (BODY[HEADER] {2}\r\nab BODY[TEXT] {3}\r\ncde UID 5 BODY[]<0> {1}\r\nf)\r\n")
    assert isinstance(response, Fetch)
    assert response.uid == 5
    assert {section: body(response, section) for section in response.bodies} == {
        "HEADER": b"ab", "TEXT": b"cde", "<0>": b"f",
    }  # fmt: skip


def test_a_string_in_a_fetch_that_is_no_body_is_not_streamed() -> None:
    log = WireLog()
    Parser(log).feed(b"* 1 FETCH (UID 3 ENVELOPE (NIL {4}\r\nBODY NIL) FLAGS (a))\r\n")
    assert log.announced == []
    assert log.responses == [Fetch(1, 3, frozenset({"a"}))]


def test_a_discarded_body_has_no_sink() -> None:
    log = WireLog(keep=False)
    Parser(log).feed(b"* 1 FETCH (UID 3 BODY[] {3}\r\nabc)\r\n")
    assert log.responses == [Fetch(1, 3, bodies={"": Body(3, None)})]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"* 1 FETCH (UID)", "FETCH"),
        (b"* 1 FETCH (UID -4)", "FETCH"),
        (b"* 1 FETCH (UID 0)", "FETCH"),
        (b"* 0 FETCH (UID 1)", "FETCH"),
        (b"* 1 FETCH (UID 4294967296)", "FETCH"),
        (b"* 1 FETCH (UID 1 UID 2)", "FETCH"),
        (b"* 1 FETCH (UID 1 RFC822.SIZE -1)", "FETCH"),
        (b"* 1 FETCH (UID 1 RFC822.SIZE 99999999999999999999)", "FETCH"),
        (b"* 1 FETCH (UID 1 MODSEQ 4)", "FETCH"),
        (b"* 1 FETCH (UID 1 MODSEQ (1 2))", "FETCH"),
        (b"* 1 FETCH (UID 1 FLAGS NIL)", "FETCH"),
        (b"* 1 FETCH (UID 1 FLAGS (a (b)))", "FETCH"),
        (b"* 1 FETCH (UID 1", "FETCH"),
        (b"* 1 FETCH (UID 1))", "FETCH"),
        (b"* 1 FETCH (UID 1) x", "FETCH"),
        (b"* 1 FETCH UID 1", "FETCH"),
        (b'* 1 FETCH (UID 1 ENVELOPE ("a))', "FETCH"),
        (b"* 1 FETCH (UID 1 BODY[] abc)", "FETCH"),
        (b"* 1 FETCH (UID 1 X " + b"(" * 200 + b")" * 200 + b")", "FETCH"),
        (b"* 0 EXPUNGE", "EXPUNGE"),
        (b"* 99999999999 EXISTS", "EXISTS"),
        (b"* SEARCH 1 x", "SEARCH"),
        (b"* SEARCH -1", "SEARCH"),
        (b"* SEARCH 0", "SEARCH"),
        (b"* SEARCH 4294967296", "SEARCH"),
        (b"* SEARCH " + b"9" * 5000, "SEARCH"),
        (b"* ESEARCH UID ALL 1:*", "ESEARCH"),
        (b"* ESEARCH UID ALL", "ESEARCH"),
        (b"* ESEARCH UID COUNT x", "ESEARCH"),
        (b"* VANISHED", "VANISHED"),
        (b"* VANISHED 1,,2", "VANISHED"),
        (b"* VANISHED 0", "VANISHED"),
        (b"* VANISHED 1:2:3", "VANISHED"),
        (b"* LIST", "LIST"),
        (b'* LIST () "/"', "LIST"),
        (b'* LIST () "/" ""', "LIST"),
        (b'* LIST () "/" "a', "LIST"),
        (b'* LIST () "/" "a\0b"', "LIST"),
        (b'* LIST ("/" a', "LIST"),
        (b"* STATUS a", "STATUS"),
        (b"* FLAGS", "FLAGS"),
        (b"* FLAGS (a", "FLAGS"),
    ],
)  # fmt: skip
def test_a_malformed_response_is_named_and_the_line_goes_on(line: bytes, word: str) -> None:
    first, second = read(line + b"\r\n* 3 EXISTS\r\n")
    assert isinstance(first, Unparsed)
    assert first.word == word
    assert first.reason
    assert second == Exists(3)


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n",
        b"220 mail.example ESMTP\r\n",
        b"*\r\n",
        b"*OK\r\n",
        b"a1 MAYBE\r\n",
        b"a1 BYE\r\n",
        b" OK\r\n",
        b"\x00\x01\x02\r\n",
        b"(1 OK\r\n",
        # the announced size was wrong: what follows must not be taken for protocol
        b"* 1 FETCH (UID 1 BODY[] {3}\r\nabcdef)\r\n",
        b"* 1 FETCH (UID 1 BODY[] {3}\r\nabc\r\n* 1 EXPUNGE\r\n",
        b"* 1 FETCH (UID 1 BODY[] {1}\r\nx BODY[] {1}\r\ny)\r\n",
        b"* 1 FETCH (UID 1 BODY[] {99999999999999999999}\r\n",
        b"* 1 FETCH (UID 1 ENVELOPE ({2000000}\r\n",
    ],
)
def test_what_cannot_be_imap_ends_the_line(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(data)


def test_no_error_repeats_what_came() -> None:
    with pytest.raises(ProtocolError) as caught:
        read(b"a1 LOGIN user hunter2\r\n")
    assert "hunter2" not in str(caught.value)


def test_empty_lines_and_bare_line_feeds_are_understood() -> None:
    assert read(b"\r\n\n* 1 EXISTS\n\r\n* 2 FETCH (UID 1 BODY[] {2}\na\n)\n") == [
        Exists(1), Fetch(2, 1, bodies={"": Body(2, _sink(b"a\n"))}),
    ]  # fmt: skip


def _sink(data: bytes) -> Bytes:
    sink = Bytes()
    sink.write(memoryview(data))
    return sink


def test_a_response_without_end_is_refused_at_the_limit() -> None:
    log = WireLog()
    parser = Parser(log, limit=1000)
    parser.feed(b"* OK " + b"x" * 900)
    with pytest.raises(ProtocolError, match="1000"):
        parser.feed(b"x" * 200)
    with pytest.raises(ProtocolError):
        read(b"* OK " + b"x" * 2000 + b"\r\n", limit=1000)


def test_the_limit_counts_all_strings_of_a_response() -> None:
    parser = Parser(WireLog(), limit=1000)
    parser.feed(b"* LIST () {400}\r\n" + b"x" * 400 + b" {400}\r\n" + b"x" * 400)
    with pytest.raises(ProtocolError):
        parser.feed(b" {400}\r\n")


def test_a_list_of_numbers_may_be_longer_than_a_line() -> None:
    numbers = b" ".join(b"%d" % n for n in range(1, 3000))
    assert read(b"* SEARCH " + numbers + b"\r\n", limit=1000) == [Search(tuple(range(1, 3000)))]
    parser = Parser(WireLog(), limit=1000, list_limit=5000)
    with pytest.raises(ProtocolError):
        parser.feed(b"* SEARCH " + numbers)


def test_many_folders_in_one_read_need_no_recursion() -> None:
    data = b"".join(b'* LIST () "/" "folder %d"\r\n' % n for n in range(20_000))
    assert len(read(data)) == 20_000


def test_a_chunk_is_only_valid_during_the_call() -> None:
    class Greedy:
        def __init__(self) -> None:
            self.kept: list[memoryview] = []

        def write(self, chunk: memoryview, /) -> None:
            self.kept.append(chunk)

    sink = Greedy()

    class Receiver(WireLog):
        def literal(self, uid: int | None, section: str, octets: int, /) -> Greedy:  # type: ignore[override]
            return sink

    Parser(Receiver()).feed(b"* 1 FETCH (UID 1 BODY[] {3}\r\nabc)\r\n")
    with pytest.raises(ValueError, match="released"):
        bytes(sink.kept[0])


def test_a_body_is_never_kept() -> None:
    class Counter:
        octets = 0

        def write(self, chunk: memoryview, /) -> None:
            self.octets += len(chunk)

    counter = Counter()

    class Receiver(WireLog):
        def literal(self, uid: int | None, section: str, octets: int, /) -> Counter:  # type: ignore[override]
            return counter

    parser = Parser(Receiver())
    chunk = bytes(65_536)
    tracemalloc.start()
    try:
        parser.feed(b"* 1 FETCH (UID 1 BODY[] {%d}\r\n" % (1_000 * len(chunk)))
        for _ in range(1_000):
            parser.feed(chunk)
        parser.feed(b")\r\n")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counter.octets == 65_536_000
    assert parser.idle
    assert peak < 100_000
