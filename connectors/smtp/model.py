"""What is handed to a submission server, and what it answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from connectors.errors import clean_text

_ENHANCED: Final = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: code (RFC 5321 §4.2), enhanced code if there is one (RFC 3463), text made safe for logs and pages."""

    code: int
    enhanced: str | None
    text: str

    @property
    def accepted(self) -> bool:
        """Done."""
        return 200 <= self.code < 300

    @property
    def transient(self) -> bool:
        """It may be accepted later (RFC 5321 §4.2.1)."""
        return 400 <= self.code < 500

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)


def read_reply(code: int, text: str, secrets: Iterable[str] = ()) -> Reply:
    """The answer with this code and text, several lines as one; what is in `secrets` is not repeated."""
    lines = text.split("\n")
    found = _ENHANCED.match(lines[0])
    enhanced = found[1] if found else None
    if enhanced is not None:
        lines = [line.removeprefix(enhanced).strip() for line in lines]
    plain = " ".join(lines)
    for secret in secrets:
        if secret:
            plain = plain.replace(secret, "***")
    return Reply(code, enhanced, clean_text(plain))


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who sends, who gets it, and what carrying it takes. `size` in bytes; `utf8`: an address or header is not ASCII
    (RFC 6531); `eight_bit`: the content is not (RFC 6152).
    """

    sender: str
    recipients: tuple[str, ...]
    size: int
    utf8: bool = False
    eight_bit: bool = False


class Stuffing:
    """Doubles the dot at the beginning of a line (RFC 5321 §4.5.2), chunk by chunk. Lines end in CRLF."""

    def __init__(self) -> None:
        self._line_begins = True
        self._tail = b""

    def chunk(self, data: bytes) -> bytes:
        """The next bytes of the message as they go onto the wire."""
        if not data:
            return b""
        seen = self._tail + data
        stuffed = seen.replace(b"\r\n.", b"\r\n..")[len(self._tail) :]
        if self._line_begins and data.startswith(b"."):
            stuffed = b"." + stuffed
        self._line_begins = False
        self._tail = seen[-2:] if seen[-2:] == b"\r\n" else seen[-1:] if seen[-1:] == b"\r" else b""
        return stuffed

    def end(self) -> bytes:
        """What ends the message: a last line that has no end gets one."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """The bytes in pieces of at most `size`."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
