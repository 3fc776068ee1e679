"""One complete response → its value (RFC 9051 §9, with RFC 2342, 4731, 5819, 7162). Pure; the framing is `wire`'s.

A response arrives as pieces: the bytes of its lines without CRLF and without literal announcements, and between them
its literals, either as `Text` (kept) or as `Body` (streamed away). No step recurses, and each costs time linear in the
pieces' length.

Two kinds of failure:
* `ProtocolError`: this cannot be the beginning of an IMAP response. The place in the stream is lost (a literal with a
  wrong size does that, and what follows may be the body of a message that somebody wrote to look like protocol), so
  the line must be dropped.
* `Unparsed`: a response of a known kind in an unknown form. Its end is known, so it can be skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from connectors.errors import ProtocolError, clean_text
from connectors.imap.fetch import read_fetch, read_flag_list
from connectors.imap.responses import (
    Body,
    Capability,
    Continuation,
    Enabled,
    Esearch,
    Exists,
    Expunge,
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
from connectors.imap.tokens import MalformedError, Piece, Token, is_nil, read_number, tokenize
from connectors.imap.uidset import MAX_UID, parse_set

_STATUS = re.compile(
    rb"(OK|NO|BAD|BYE|PREAUTH)(?![^ ])(?: *\[(?:(PERMANENTFLAGS) \(([^()]*)\)|([^\]\[ ]+)(?: ([^\]]*))?)\])? *(.*)",
    re.DOTALL | re.IGNORECASE,
)
_TAGGED = re.compile(rb"([^\x00-\x20\x7f-\xff(){%*\"\\+]{1,64}) (.*)", re.DOTALL)
_NUMBERED = re.compile(rb"(\d{1,20}) (EXISTS|RECENT|EXPUNGE|FETCH)\b *", re.IGNORECASE)
_WORD = re.compile(rb"([A-Z][A-Z0-9.\-]{0,63})(?: +|$)", re.IGNORECASE)
_SEARCH = re.compile(rb"([\d ]*+)(?:\(MODSEQ (\d{1,20})\) *)?", re.IGNORECASE)
_VANISHED = re.compile(rb"(\(EARLIER\) )?([\d:,]+) *", re.IGNORECASE)
_LIST_HEAD = re.compile(rb'\(([^()]*+)\) +(?:NIL|"\\?(.)") +', re.DOTALL | re.IGNORECASE)
_ESEARCH_TAG = re.compile(rb'\(TAG (?:"([^"]*)"|([^ ()]+))\) *', re.IGNORECASE)


def is_status_like(line: bytes) -> bool:
    """Does the line end its response even if it ends in `{5}`? Only human text can stand at the end of these (§7.1,
    §7.6).
    """
    if line.startswith(b"* "):
        return _STATUS.match(line, 2) is not None
    return not line.startswith(b"*")


def parse(pieces: Sequence[Piece]) -> Response:
    """The response that the pieces make. Raises ProtocolError when they are none."""
    head = pieces[0]
    if not isinstance(head, bytes):
        raise ProtocolError("a response began with a literal")
    if head.startswith(b"* "):
        return _untagged(head, pieces)
    if head.startswith(b"+"):
        return Continuation(head[1:].lstrip(b" "))
    tagged = _TAGGED.fullmatch(head)
    status = _STATUS.fullmatch(tagged[2]) if tagged is not None else None
    if tagged is None or status is None or status[1].upper() in (b"BYE", b"PREAUTH"):
        raise ProtocolError("the server sent a line that is no IMAP response")  # not shown: it may echo a secret
    return _status(tagged[1].decode("ascii"), status)


def _untagged(head: bytes, pieces: Sequence[Piece]) -> Response:
    status = _STATUS.fullmatch(head, 2)
    if status is not None:
        return _status(None, status)
    numbered = _NUMBERED.match(head, 2)
    word = _WORD.match(head, 2) if numbered is None else None
    name = numbered[2] if numbered is not None else word[1] if word is not None else b""
    kind = name.decode("ascii").upper()
    try:
        if numbered is not None:
            return _numbered(kind, int(numbered[1]), numbered.end(), pieces)
        reader = _READERS.get(kind)
        if reader is None or word is None:
            return Unknown(kind)
        return reader(head, word.end(), pieces)
    except (MalformedError, ValueError) as error:
        if any(isinstance(p, Body) for p in pieces):
            # What follows a body makes no sense: its announced size was wrong, and the place in the stream is lost.
            raise ProtocolError(f"nonsense after the body of a message: {error}") from None
        return Unparsed(kind, clean_text(str(error)))


def _status(tag: str | None, match: re.Match[bytes]) -> Status:
    condition, flags_code, flags, code, arguments, text = match.groups()
    return Status(
        tag=tag,
        condition=condition.decode("ascii").upper(),
        code=clean_text((flags_code or code).decode("utf-8", "replace")).upper() if flags_code or code else None,
        arguments=(flags if flags is not None else arguments) or b"",
        text=clean_text(text.decode("utf-8", "replace")),
    )


def _numbered(kind: str, number: int, at: int, pieces: Sequence[Piece]) -> Response:
    if kind == "FETCH":
        return read_fetch(number, at, pieces)
    if number > MAX_UID:
        raise MalformedError("a number out of range")
    if kind == "EXISTS":
        return Exists(number)
    if kind == "RECENT":
        return Recent(number)
    if number == 0:
        raise MalformedError("sequence number 0")
    return Expunge(number)


def _astrings(tokens: list[Token]) -> Iterator[bytes]:
    for token in tokens:
        if not isinstance(token, bytes):
            raise MalformedError("not a string")
        yield token


def parse_words(text: bytes) -> frozenset[str]:
    """The words of CAPABILITY or ENABLED, upper case. Equal lists are one object: a thousand connections to one
    server share it.
    """
    return _shared_words(text) if len(text) < 4096 else _shared_words.__wrapped__(text)


@lru_cache(maxsize=64)
def _shared_words(text: bytes) -> frozenset[str]:
    return frozenset(text.decode("latin-1").upper().split())


def _list(head: bytes, at: int, pieces: Sequence[Piece]) -> Response:
    """LIST (§7.3.1). Some servers send the delimiter `"\\"` unescaped, or names with blanks unquoted: both are
    understood.
    """
    match = _LIST_HEAD.match(head, at)
    if match is None:
        raise MalformedError("LIST in an unknown form")
    rest = head[match.end() :]
    if rest.startswith(b'"') or len(pieces) > 1:
        tokens = tokenize([rest, *pieces[1:]], 0)
        name = tokens[0] if tokens else None
        if not isinstance(name, bytes):
            raise MalformedError("LIST without a name")
    else:
        name = rest.partition(b" (")[0].rstrip(b" ")
    if not name or any(b in name for b in (b"\0", b"\r", b"\n")):
        raise MalformedError("LIST with an impossible name")
    return ListItem(
        attributes=frozenset(match[1].decode("latin-1").lower().split()),
        delimiter=match[2].decode("latin-1") if match[2] is not None and match[2] >= b" " else None,
        name=bytes(name),
    )


def _namespaces(head: bytes, at: int, pieces: Sequence[Piece]) -> Response:
    """NAMESPACE (RFC 2342 §5): the personal ones. Extensions of an entry are skipped."""
    tokens = tokenize(pieces, at)
    if not tokens:
        raise MalformedError("NAMESPACE without anything")
    personal = tokens[0] if isinstance(tokens[0], list) else []
    found: list[tuple[bytes, str | None]] = []
    for entry in personal:
        match entry:
            case [bytes() as prefix, bytes() as delimiter, *_] if len(delimiter) == 1 or is_nil(delimiter):
                found.append((bytes(prefix), None if is_nil(delimiter) else delimiter.decode("latin-1")))
            case _:
                raise MalformedError("NAMESPACE in an unknown form")
    return Namespaces(tuple(found))


def _status_item(head: bytes, at: int, pieces: Sequence[Piece]) -> Response:
    tokens = tokenize(pieces, at)
    if len(tokens) < 2 or not isinstance(tokens[-1], list):
        raise MalformedError("STATUS in an unknown form")
    items = tokens[-1]
    names = list(_astrings(tokens[:-1]))  # several only when the server forgot the quotes of a name with blanks
    found: dict[str, int] = {}
    for key, value in zip(items[::2], items[1::2], strict=False):
        if isinstance(key, bytes) and isinstance(value, bytes) and value.isdigit():
            found[key.decode("latin-1").upper()] = read_number(value)
    return StatusItem(bytes(b" ".join(names)), found)


def _search(head: bytes, at: int, pieces: Sequence[Piece]) -> Response:
    match = _SEARCH.fullmatch(head, at)
    if match is None or len(pieces) > 1:
        raise MalformedError("SEARCH in an unknown form")
    numbers = tuple(map(int, match[1].split()))
    if numbers and (min(numbers) < 1 or max(numbers) > MAX_UID):
        raise MalformedError("a number out of range")
    return Search(numbers, int(match[2]) if match[2] is not None else None)


def _esearch(head: bytes, at: int, pieces: Sequence[Piece]) -> Response:
    """ESEARCH: `(TAG "A1") UID COUNT 3 ALL 1:3` (RFC 4731 §3.2). Results that we never ask for are skipped."""
    correlator = _ESEARCH_TAG.match(head, at)
    tag = None
    if correlator is not None:
        tag = (correlator[1] if correlator[1] is not None else correlator[2]).decode("latin-1")
        at = correlator.end()
    words = head[at:].split()
    uid = bool(words) and words[0].upper() == b"UID"
    if uid:
        words = words[1:]
    if len(words) % 2 or len(pieces) > 1:
        raise MalformedError("ESEARCH in an unknown form")
    items = {k.upper(): v for k, v in zip(words[::2], words[1::2], strict=True)}
    return Esearch(
        tag=tag,
        uid=uid,
        found=parse_set(items[b"ALL"]) if b"ALL" in items else (),
        count=read_number(items[b"COUNT"]) if b"COUNT" in items else None,
        modseq=read_number(items[b"MODSEQ"]) if b"MODSEQ" in items else None,
    )


def _vanished(head: bytes, at: int, pieces: Sequence[Piece]) -> Response:
    match = _VANISHED.fullmatch(head, at)
    if match is None or len(pieces) > 1:
        raise MalformedError("VANISHED in an unknown form")
    return Vanished(parse_set(match[2]), earlier=match[1] is not None)


def _folder_flags(head: bytes, at: int, pieces: Sequence[Piece]) -> Response:
    tokens = tokenize(pieces, at)
    if len(tokens) != 1:
        raise MalformedError("FLAGS in an unknown form")
    return FolderFlags(read_flag_list(tokens[0]))


_READERS: dict[str, Callable[[bytes, int, Sequence[Piece]], Response]] = {
    "CAPABILITY": lambda head, at, _: Capability(parse_words(head[at:])),
    "ENABLED": lambda head, at, _: Enabled(parse_words(head[at:])),
    "LIST": _list,
    "LSUB": _list,
    "NAMESPACE": _namespaces,
    "STATUS": _status_item,
    "SEARCH": _search,
    "ESEARCH": _esearch,
    "VANISHED": _vanished,
    "FLAGS": _folder_flags,
}
