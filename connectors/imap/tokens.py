"""A response's words: atoms, strings, numbers and lists (RFC 9051 §4). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from connectors.imap.responses import Body

MAX_DEPTH: Final = 100
MAX_NUMBER: Final = (1 << 63) - 1


class Text(bytes):
    """A quoted string (unescaped) or a kept literal, as opposed to an atom: only an atom can be NIL."""

    __slots__ = ()


Piece: TypeAlias = bytes | Body
Token: TypeAlias = "bytes | Body | list[Token]"  # noqa: S105 - not a password


class MalformedError(Exception):
    """A response of a known kind in an unknown form: becomes `Unparsed`."""


_TOKEN = re.compile(
    rb" *+(?:"
    rb"(?P<open>\()"
    rb"|(?P<close>\))"
    rb'|"(?P<quoted>[^"\\]*+(?:\\.[^"\\]*+)*+)"'
    rb"|(?P<section>(?:BODY|BINARY|BINARY\.SIZE)\[[^\]]{0,1000}\](?:<\d{1,20}>)?)"
    rb'|(?P<atom>[^ ()"]++)'
    rb"|(?P<end>\Z))",
    re.DOTALL | re.IGNORECASE,
)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


def tokenize(pieces: Sequence[Piece], at: int) -> list[Token]:
    """The tokens from offset `at` of the first piece on; parentheses make lists. Raises MalformedError."""
    top: list[Token] = []
    stack: list[list[Token]] = [top]
    for index, piece in enumerate(pieces):
        if isinstance(piece, Body | Text):
            stack[-1].append(piece)
            continue
        position = at if index == 0 else 0
        while True:
            match = _TOKEN.match(piece, position)
            if match is None:
                raise MalformedError("a string without end")
            kind = match.lastgroup
            position = match.end()
            if kind == "end":
                break
            if kind == "open":
                inner: list[Token] = []
                stack[-1].append(inner)
                stack.append(inner)
                if len(stack) > MAX_DEPTH:
                    raise MalformedError("nested too deeply")
            elif kind == "close":
                if len(stack) == 1:
                    raise MalformedError("a parenthesis too many")
                stack.pop()
            elif kind == "quoted":
                stack[-1].append(Text(unescape(match["quoted"])))
            else:
                stack[-1].append(match[0].lstrip(b" "))
    if len(stack) > 1:
        raise MalformedError("a parenthesis without end")
    return top


def unescape(quoted: bytes) -> bytes:
    """The value of a quoted string (RFC 9051 §9, quoted); a needless backslash is dropped."""
    return _ESCAPE.sub(rb"\1", quoted) if b"\\" in quoted else quoted


def read_number(token: Token, limit: int = MAX_NUMBER) -> int:
    if not isinstance(token, bytes) or not token.isdigit() or len(token) > 20:
        raise MalformedError("not a number")
    value = int(token)
    if value > limit:
        raise MalformedError("a number out of range")
    return value


def is_nil(token: Token) -> bool:
    return isinstance(token, bytes) and not isinstance(token, Text) and token.upper() == b"NIL"
