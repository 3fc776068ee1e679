"""Commands as bytes: quoting, literals, and where a continuation must be awaited. Pure (RFC 9051 §4.3, §6; RFC
7888).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

_QUOTABLE = re.compile(rb"[\x20-\x7e]{0,1000}")
_SAFE = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class Str:
    """An argument that is text or bytes of any content but NUL: it is sent quoted, or as a literal when it must be.

    `repr` shows only its length: it may be a password.
    """

    value: bytes

    def __post_init__(self) -> None:
        if b"\0" in self.value:
            raise ValueError("NUL cannot be sent in an IMAP string")

    def __repr__(self) -> str:
        return f"Str(<{len(self.value)} octets>)"


@dataclass(frozen=True, slots=True)
class Literal:
    """Octets that are sent as a literal, whatever they are. With `binary` it may hold NUL (literal8, RFC 3516)."""

    value: bytes
    binary: bool = False

    def __post_init__(self) -> None:
        if not self.binary and b"\0" in self.value:
            raise ValueError("NUL cannot be sent in an IMAP string")

    def __repr__(self) -> str:
        return f"Literal(<{len(self.value)} octets>)"


@dataclass(frozen=True, slots=True)
class Group:
    """Arguments in parentheses."""

    arguments: tuple[str | Str, ...]


Argument: TypeAlias = str | Str | Literal | Group
"""`str`: protocol words that we wrote, sent as they are (printable ASCII only). `Str`: everything that came from
elsewhere.
"""


def encode(tag: str, arguments: Iterable[Argument], *, literal_plus: int = 0) -> list[bytes]:
    """The command line in chunks; between two chunks the server's `+` must be awaited.

    `literal_plus` is the longest literal that may be sent without waiting (LITERAL+: any, LITERAL-: 4096, else 0).
    Raises ValueError when a protocol word holds what could end the line.
    """
    line = _Line(tag, literal_plus)
    for argument in arguments:
        line.add(b" ", argument)
    return line.end()


class _Line:
    def __init__(self, tag: str, literal_plus: int) -> None:
        self._chunks = [bytearray(tag.encode("ascii"))]
        self._literal_plus = literal_plus

    def add(self, before: bytes, argument: Argument) -> None:
        self._chunks[-1] += before
        if isinstance(argument, str):
            if _SAFE.fullmatch(argument) is None:
                raise ValueError("a protocol word may hold printable ASCII only")
            self._chunks[-1] += argument.encode("ascii")
        elif isinstance(argument, Group):
            self._chunks[-1] += b"("
            for index, inner in enumerate(argument.arguments):
                self.add(b" " if index else b"", inner)
            self._chunks[-1] += b")"
        elif isinstance(argument, Str) and _QUOTABLE.fullmatch(argument.value):
            self._chunks[-1] += b'"' + argument.value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
        else:
            self._literal(argument.value, b"~" if isinstance(argument, Literal) and argument.binary else b"")

    def _literal(self, value: bytes, mark: bytes) -> None:
        if len(value) <= self._literal_plus:
            self._chunks[-1] += b"%s{%d+}\r\n" % (mark, len(value)) + value
        else:
            self._chunks[-1] += b"%s{%d}\r\n" % (mark, len(value))
            self._chunks.append(bytearray(value))

    def end(self) -> list[bytes]:
        self._chunks[-1] += b"\r\n"
        return [bytes(chunk) for chunk in self._chunks]


def literal_plus(capabilities: frozenset[str]) -> int:
    """The longest non-synchronizing literal that the server takes (RFC 7888 §3, §5)."""
    if "LITERAL+" in capabilities:
        return 1 << 31
    return 4096 if "LITERAL-" in capabilities else 0
