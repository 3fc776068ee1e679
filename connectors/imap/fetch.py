"""FETCH (RFC 9051 §7.5.2, with RFC 7162 and X-GM-EXT-1) and flags: tokens → values. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from connectors.imap.internaldate import parse_internal_date
from connectors.imap.responses import Body, Fetch
from connectors.imap.tokens import MalformedError, Piece, Text, Token, is_nil, read_number, tokenize
from connectors.imap.uidset import MAX_UID
from connectors.imap.utf7 import decode_name

USUAL_FLAGS: Final = 200
"""Octets of a list of flags."""

_NOT_FLAGS: Final = frozenset({"\\Recent"})
_SYSTEM_FLAG = re.compile(rb"\\[A-Za-z]+")


@lru_cache(maxsize=1024)
def parse_flags(text: bytes) -> frozenset[str]:
    """The words between the parentheses of FLAGS. System flags in their canonical spelling, keywords verbatim.

    \\Recent is left out: it is a fact about a session, not about a message (RFC 9051 appendix E has removed it).
    Remembers its answers, since few combinations occur: the caller passes short texts only.
    """
    return frozenset(_flag(word) for word in text.split(b" ") if word) - _NOT_FLAGS


def _flag(word: bytes) -> str:
    if _SYSTEM_FLAG.fullmatch(word):
        return "\\" + word[1:].decode("ascii").capitalize()
    try:
        return word.decode()
    except UnicodeDecodeError:
        return word.decode("latin-1")


def flags_weight(octets: int) -> int:
    """What flags of that length on the wire take in memory, when they are more than the usual few."""
    return 10 * octets if octets >= USUAL_FLAGS else 0


def read_flag_list(token: Token) -> frozenset[str]:
    if not isinstance(token, list):
        raise MalformedError("flags that are no list")
    words = [t for t in token if isinstance(t, bytes)]
    if len(words) != len(token):
        raise MalformedError("a flag that is no word")
    return frozenset(_flag(w) for w in words) - _NOT_FLAGS


def read_fetch(number: int, at: int, pieces: Sequence[Piece]) -> Fetch:
    """FETCH: pairs of name and value (§7.5.2). A value given twice must be the same."""
    if not 0 < number <= MAX_UID:
        raise MalformedError("sequence number out of range")
    tokens = tokenize(pieces, at)
    if len(tokens) != 1 or not isinstance(tokens[0], list):
        raise MalformedError("FETCH without one list")
    items = tokens[0]
    if len(items) % 2:
        raise MalformedError("FETCH with a name without value")
    fetch = Fetch(number)
    seen: set[str] = set()
    for name_token, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(name_token, bytes) or isinstance(name_token, Text):
            raise MalformedError("FETCH with a value without name")
        name = name_token.decode("latin-1").upper()
        if name in seen:
            raise MalformedError("FETCH names the same attribute twice")
        seen.add(name)
        _attribute(fetch, name, value)
    return fetch


def _attribute(fetch: Fetch, name: str, value: Token) -> None:
    if name == "UID":
        fetch.uid = read_number(value, MAX_UID)
        if fetch.uid == 0:
            raise MalformedError("UID 0")
    elif name == "FLAGS":
        fetch.flags = read_flag_list(value)
        fetch.weight += flags_weight(sum(len(flag) + 1 for flag in fetch.flags))
    elif name == "INTERNALDATE":
        fetch.internal_date = parse_internal_date(value) if isinstance(value, bytes) else None
    elif name == "RFC822.SIZE":
        fetch.size = read_number(value)
    elif name == "MODSEQ":
        if not isinstance(value, list) or len(value) != 1:
            raise MalformedError("MODSEQ that is no list of one")
        fetch.modseq = read_number(value[0])
    elif name == "X-GM-MSGID":
        if isinstance(value, bytes):
            fetch.email_id = value.decode("latin-1")
    elif name == "X-GM-LABELS":
        fetch.labels = _labels(value)
        fetch.weight += flags_weight(sum(len(label) + 1 for label in fetch.labels))
    else:
        section = section_of(name)
        if section is None:
            return
        if isinstance(value, Body):
            fetch.bodies[section] = value
        elif isinstance(value, Text):
            # nstring may be a quoted string (§9): `wire` hands it to a sink like a literal.
            fetch.bodies[section] = Body(len(value), None, text=bytes(value))
        elif not is_nil(value):
            raise MalformedError("a body that is no string")


def _labels(token: Token) -> frozenset[str]:
    """X-GM-LABELS: atoms or strings in modified UTF-7; system ones are `\\Inbox`, quoted or not."""
    if not isinstance(token, list):
        raise MalformedError("labels that are no list")
    words = [t for t in token if isinstance(t, bytes)]
    if len(words) != len(token):
        raise MalformedError("a label that is no string")
    return frozenset(decode_name(bytes(word)) for word in words)


def section_of(name: str) -> str | None:
    """`BODY[HEADER]` → `HEADER`, `BODY[]` and `RFC822` → `` (the whole); None for what is no body (RFC 3501 §6.4.5).
    Upper case in.
    """
    if name == "RFC822":
        return ""
    if name == "RFC822.HEADER":
        return "HEADER"
    if name == "RFC822.TEXT":
        return "TEXT"
    if name.startswith("BODY[") and "]" in name:
        inside, _, rest = name[5:].rpartition("]")
        return inside + rest
    return None
