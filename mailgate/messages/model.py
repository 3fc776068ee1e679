"""What a parsed message looks like, and how large it may get.

Everything is bounded and free of NUL bytes and lone surrogates, so that it fits any database, JSON and terminal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mailgate.clock import Instant


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what parsing looks at and gives. Lengths of text are in characters."""

    parsed_bytes: int = 96 * 1024 * 1024
    """Bytes of the raw message that are looked at; what lies behind is not parsed (and kept all the same)."""
    header_bytes: int = 1024 * 1024
    fallback_bytes: int = 16 * 1024 * 1024
    """Bytes of the raw message that the slow parser looks at, when the fast one refuses."""
    subject: int = 1_000
    name: int = 300
    address: int = 320
    addresses: int = 1_000
    message_id: int = 998
    references: int = 100
    snippet: int = 200
    text: int = 1_000_000
    html: int = 4_000_000
    parts: int = 1_000
    depth: int = 50
    filename: int = 255


DEFAULT_LIMITS = Limits()


class Address(NamedTuple):
    """One mailbox of an address header (RFC 5322 §3.4): decoded display name, `local@domain`; either may be empty."""

    name: str
    address: str


class Part(NamedTuple):
    """One leaf of the MIME tree, body texts included.

    `part_id` is IMAP's section number (RFC 9051 §6.4.5): "1", "2.1". `size` counts decoded bytes. `inline` is true for
    body texts and for what is shown inside them; the rest are files for a person to open.
    """

    part_id: str
    filename: str | None
    content_type: str
    size: int
    inline: bool
    content_id: str | None


@dataclass(slots=True, kw_only=True)  # not frozen: one is made for every message, and that takes three times as long
class Summary:
    """What a listing needs. `rfc_message_id`, `in_reply_to` and `references` are written as in the header: `<id@host>`.

    `date` is the Date: header, which is never trusted for retention. `defects` are short slugs of what was wrong or
    repaired.
    """

    subject: str = ""
    from_: tuple[Address, ...] = ()
    sender: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    date: Instant | None = None
    rfc_message_id: str | None = None
    in_reply_to: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    snippet: str = ""
    parts: tuple[Part, ...] = ()
    has_files: bool = False
    defects: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)  # not frozen: one is made for every message, and that takes three times as long
class ParsedMessage(Summary):
    """A summary and the bodies.

    `text` is the plain text, or a rendering of the HTML when there is none; `html` is as the sender wrote it, **not**
    safe to show (see `sanitize_html`), empty when the message has none.
    """

    text: str = ""
    html: str = ""
