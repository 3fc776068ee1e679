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


Argument: TypeAlias = str | Str
"""`str`: protocol words that we wrote, sent as they are (printable ASCII only). `Str`: everything that came from
elsewhere.
"""


def encode(tag: str, arguments: Iterable[Argument], *, literal_plus: int = 0) -> list[bytes]:
    """The command line in chunks; between two chunks the server's `+` must be awaited.

    `literal_plus` is the longest literal that may be sent without waiting (LITERAL+: any, LITERAL-: 4096, else 0).
    Raises ValueError when a protocol word holds what could end the line.
    """
    chunks = [bytearray(tag.encode("ascii"))]
    for argument in arguments:
        chunks[-1] += b" "
        if isinstance(argument, str):
            if _SAFE.fullmatch(argument) is None:
                raise ValueError("a protocol word may hold printable ASCII only")
            chunks[-1] += argument.encode("ascii")
        elif _QUOTABLE.fullmatch(argument.value):
            chunks[-1] += b'"' + argument.value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
        elif len(argument.value) <= literal_plus:
            chunks[-1] += b"{%d+}\r\n" % len(argument.value) + argument.value
        else:
            chunks[-1] += b"{%d}\r\n" % len(argument.value)
            chunks.append(bytearray(argument.value))
    chunks[-1] += b"\r\n"
    return [bytes(chunk) for chunk in chunks]


def literal_plus(capabilities: frozenset[str]) -> int:
    """The longest non-synchronizing literal that the server takes (RFC 7888 §3, §5)."""
    if "LITERAL+" in capabilities:
        return 1 << 31
    return 4096 if "LITERAL-" in capabilities else 0
