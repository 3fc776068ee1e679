"""The bytes of a server → responses, incrementally, in any split, free of I/O.

A response is lines and literals in turn: a line that ends in `{n}` is followed by n octets and then by more of the
response (RFC 9051 §4.3). `Parser` is the state machine over that; `syntax` reads what a complete response says.

    LINE ──"…{n}" of a body──▶ STREAM (n octets to a sink) ──▶ LINE
    LINE ──"…{n}" of anything else──▶ KEEP (n octets kept) ──▶ LINE
    LINE ──anything else──▶ emit, LINE

Invariants:
1. The octets of a body literal are never looked at, never kept and never copied: they go to the sink in slices of what
   was fed.
2. Whatever the split of the bytes, the same responses come out (a property test; and at every single offset of
   recorded dialogues).
3. What is kept of one response is at most `limit` bytes (lists of numbers: `list_limit`); more is a ProtocolError.
4. Each byte costs constant time, however it is split.

The hot path: one regular expression reads the usual FETCH line in place. Whatever it does not match goes the general
way; a property test proves that both agree.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from connectors.errors import ProtocolError
from connectors.imap.fetch import USUAL_FLAGS, flags_weight, parse_flags, section_of
from connectors.imap.internaldate import parse_internal_date
from connectors.imap.responses import WHOLE, Body, Fetch, Response
from connectors.imap.syntax import is_status_like, parse
from connectors.imap.tokens import MAX_NUMBER, Piece, Text
from connectors.imap.uidset import MAX_UID
from connectors.port import Sink

LINE_LIMIT: Final = 1 << 20
MAX_BODIES: Final = 16
"""In one FETCH; more would fill the sinks' memory before anybody could tell whose they are."""
LIST_LIMIT: Final = 16 << 20
"""SEARCH, ESEARCH and VANISHED may be one line for a whole folder: 16 MiB are some two million UIDs."""


class Receiver(Protocol):
    """Who is told. Both are called from within `feed`; what they raise comes out of it, and the parser is of no use
    afterwards.
    """

    def response(self, response: Response, /) -> None: ...

    def literal(self, uid: int | None, section: str, octets: int, /) -> Sink | None:
        """A body begins; `uid` is None when the server did not name it before. None discards the body."""
        ...


_FETCH = re.compile(
    rb"\* (\d{1,10}) FETCH \(UID (\d{1,10})"
    rb"(?: FLAGS \(([^()\"{\r\n]*+)\))?"
    rb'(?: INTERNALDATE "([^"\\\r\n]{1,40})")?'
    rb"(?: RFC822\.SIZE (\d{1,18}))?"
    rb"(?: MODSEQ \((\d{1,18})\))?"
    rb"(?: BODY\[\] \{(\d{1,15})\}|\))\r\n"
)
_LITERAL = re.compile(rb"~?\{(\d{1,20})\+?\}\Z")
_FETCH_HEAD = re.compile(rb"\* \d{1,20} FETCH *\(", re.IGNORECASE)
_FETCH_UID = re.compile(rb"[( ]UID (\d{1,10})(?= )", re.IGNORECASE)
_SECTION = re.compile(rb"[ (](BODY\[[^\]\"]{0,200}\](?:<\d{1,20}>)?|RFC822(?:\.HEADER|\.TEXT)?) +\Z", re.IGNORECASE)
_LONG_LISTS = (b"* SEARCH", b"* ESEARCH", b"* VANISHED")


class Parser:
    """Feed it what comes; it calls the receiver. One per connection, for one stream of plaintext."""

    __slots__ = (
        "_bodies",
        "_fast",
        "_kept",
        "_left",
        "_limit",
        "_line",
        "_list_limit",
        "_octets",
        "_pieces",
        "_receiver",
        "_sink",
        "_text",
        "_uid",
        "strict",
    )

    def __init__(self, receiver: Receiver, *, limit: int = LINE_LIMIT, list_limit: int = LIST_LIMIT) -> None:
        self.strict = False
        """Are empty lines between responses refused too?"""
        self._receiver = receiver
        self._limit = limit
        self._list_limit = list_limit
        self._line = bytearray()  # the beginning of a line whose end has not come
        self._pieces: list[Piece] = []  # the response so far, when it has literals
        self._kept = 0  # octets kept in _pieces
        self._left = 0  # octets of the literal that are still to come
        self._octets = 0  # the whole size of that literal
        self._sink: Sink | None = None
        self._text: bytearray | None = None  # a literal that is kept
        self._bodies = 0  # how many of the response's literals were bodies
        self._uid: int | None = None  # the UID that this response named so far: a hint for who opens the sink
        self._fast: Fetch | None = None  # the response that the hot path read, waiting for its body and ")"

    @property
    def idle(self) -> bool:
        """Nothing is half read."""
        return not (self._line or self._pieces or self._left)

    def feed(self, data: bytes | bytearray, start: int = 0, end: int | None = None) -> None:
        """The bytes `data[start:end]`; nothing of `data` is used after the call. Raises ProtocolError."""
        if end is None:
            end = len(data)
        at = start
        while at < end:
            if self._left:
                at = self._literal(data, at, end)
                continue
            if self._fast is not None and not self._line and data.startswith(b")\r\n", at, end):
                self._emit_fast(self._fast)
                at += 3
                continue
            if not (self._line or self._pieces):
                match = _FETCH.match(data, at, end)
                if match is not None and self._hot(match):
                    at = match.end()
                    continue
            at = self._lines(data, at, end)

    def _literal(self, data: bytes | bytearray, at: int, end: int) -> int:
        n = min(self._left, end - at)
        if self._sink is not None:
            chunk = memoryview(data)[at : at + n]
            self._sink.write(chunk)
            chunk.release()  # a sink that kept it learns that at once, instead of reading other bytes later
        elif self._text is not None:
            self._text += data[at : at + n]
        self._left -= n
        if not self._left:
            self._literal_done()
        return at + n

    def _literal_done(self) -> None:
        if self._text is not None:
            self._pieces.append(Text(self._text))
            self._text = None
        else:
            body = Body(self._octets, self._sink)
            self._pieces.append(body)
            if self._fast is not None:
                self._fast.bodies[WHOLE] = body
        self._sink = None

    def _begin(self, sink: Sink | None, octets: int, *, keep: bool) -> None:
        self._octets = self._left = octets
        self._sink = sink
        self._text = bytearray() if keep else None
        if not octets:
            self._literal_done()

    def _hot(self, match: re.Match[bytes]) -> bool:
        """The usual FETCH line, or False when a number is out of range: then the general way says what is wrong."""
        number, uid, flags, date, size, modseq, octets = match.groups()
        if not 0 < (n := int(number)) <= MAX_UID or not 0 < (u := int(uid)) <= MAX_UID:
            return False
        fetch = Fetch(
            n,
            u,
            None
            if flags is None
            else parse_flags(flags)
            if len(flags) < USUAL_FLAGS
            else parse_flags.__wrapped__(flags),
            None if date is None else parse_internal_date(date),
            None if size is None else int(size),
            None if modseq is None else int(modseq),
        )
        if flags is not None and len(flags) >= USUAL_FLAGS:
            fetch.weight = flags_weight(len(flags))
        if octets is None:
            self._receiver.response(fetch)
            return True
        self._uid = u
        line = match[0]
        self._pieces.append(line[: line.rindex(b"{")])
        self._kept = len(line)
        self._fast = fetch
        size_now = int(octets)
        self._begin(self._receiver.literal(u, WHOLE, size_now), size_now, keep=False)
        return True

    def _emit_fast(self, fetch: Fetch) -> None:
        self._fast = None
        self._pieces = []
        self._kept = 0
        self._uid = None
        self._receiver.response(fetch)

    def _lines(self, data: bytes | bytearray, at: int, end: int) -> int:
        """Reads up to the next line end, or puts the beginning of a line aside."""
        newline = data.find(b"\n", at, end)
        stop = end if newline < 0 else newline + 1
        self._line += data[at:stop]
        if self._kept + len(self._line) > self._limit and not (
            self._line[:10].upper().startswith(_LONG_LISTS) and len(self._line) <= self._list_limit
        ):
            raise ProtocolError(f"the server sent a response of more than {self._limit} bytes without end")
        if newline >= 0:
            # A bare LF ends a line too: some servers send it, and nothing else can be meant.
            line = bytes(self._line[:-2] if self._line.endswith(b"\r\n") else self._line[:-1])
            self._line.clear()
            self._complete_line(line)
        return stop

    def _complete_line(self, line: bytes) -> None:
        if not self._pieces:
            if not line:
                if self.strict:
                    raise ProtocolError("the server sent an empty line where none may be")
                return  # between responses it means nothing; some servers send them
            if is_status_like(line):
                self._receiver.response(parse([line]))
                return
        elif self._fast is not None:
            if line == b")":
                self._emit_fast(self._fast)
                return
            self._fast = None
        announced = _LITERAL.search(line, max(0, len(line) - 25))
        if announced is None:
            self._finish(line)
            return
        octets = int(announced[1])
        if octets > MAX_NUMBER:
            raise ProtocolError("the server announced an impossible literal")
        rest = line[: announced.start()]
        self._pieces.append(rest)
        self._kept += len(line)
        section = self._section(rest)
        if section is not None:
            self._bodies += 1
            if self._bodies > MAX_BODIES:
                raise ProtocolError("the server sent more bodies in one response than anybody asks for")
            self._begin(self._receiver.literal(self._uid, section, octets), octets, keep=False)
            return
        if self._kept + octets > self._limit:
            raise ProtocolError(f"the server announced a string of {octets} bytes where none so long can be")
        self._kept += octets
        self._begin(None, octets, keep=True)

    def _section(self, rest: bytes) -> str | None:
        """The section whose body the literal is; None when it is something else. Notes the UID on the way."""
        head = self._pieces[0]
        if not isinstance(head, bytes) or _FETCH_HEAD.match(head) is None:
            return None
        if self._uid is None and (named := _FETCH_UID.search(rest)) is not None:
            self._uid = int(named[1])
        match = _SECTION.search(rest, max(0, len(rest) - 250))
        return section_of(match[1].decode("latin-1").upper()) if match is not None else None

    def _finish(self, line: bytes) -> None:
        pieces = [*self._pieces, line]
        self._pieces = []
        self._kept = self._bodies = 0
        self._uid = None
        response = parse(pieces)
        if isinstance(response, Fetch):
            for section, body in response.bodies.items():
                if body.text is not None:
                    self._string_body(response.uid, section, body, body.text)
        self._receiver.response(response)

    def _string_body(self, uid: int | None, section: str, body: Body, text: bytes) -> None:
        body.sink = self._receiver.literal(uid, section, body.octets)
        body.text = None
        if body.sink is not None and text:
            body.sink.write(memoryview(text))
