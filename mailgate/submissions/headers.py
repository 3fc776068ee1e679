"""Header fields as they are written: ASCII (encoded words, RFC 2047), lines of at most 76 characters where they can be
folded, never more than 998 (RFC 5322 §2.1.1). Pure.

The standard library refolds what it is given, and turns a Message-ID that is longer than a line into encoded words,
which no program reads as an id; so ids and addresses are put together here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from email.header import Header
from email.utils import format_datetime
from typing import Final

from mailgate.clock import Instant, to_datetime
from mailgate.submissions.addresses import Mailbox

LINE: Final = 76
LONGEST_LINE: Final = 998

_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")
_MSGID = re.compile(r"<[!-;=?-~]{1,900}>")


def field(name: str, words: Iterable[str], separator: str = " ") -> bytes:
    """A field of these words, folded between them. `separator` stands at the end of a word, or between two."""
    text = f"{name}:"
    length = len(text)
    listed = list(words)
    for at, word in enumerate(listed):
        piece = word + (separator.rstrip() if at < len(listed) - 1 else "")
        if length + 1 + len(piece) > LINE and length > len(name) + 1:
            text += "\r\n"
            length = 0
        text += " " + piece
        length += 1 + len(piece)
    return text.encode("utf-8") + b"\r\n"


def unstructured(name: str, text: str) -> bytes:
    """A field of plain text, such as a subject."""
    words = text.split(" ")
    plain = text.isascii() and "=?" not in text and all(0 < len(word) < LINE - len(name) for word in words)
    if plain:
        return field(name, words)
    return field(name, _encoded(text, len(name) + 2))


def mailboxes(name: str, listed: Sequence[Mailbox]) -> bytes:
    """A field of addresses."""
    return field(name, [_mailbox(mailbox) for mailbox in listed], ", ")


def message_ids(name: str, ids: Sequence[str]) -> bytes:
    """Message-ID, In-Reply-To, References: each id as it is."""
    return field(name, ids)


def date(at: Instant) -> bytes:
    """Date, in UTC."""
    return field("Date", [format_datetime(to_datetime(at).replace(microsecond=0))])


def known_ids(ids: Iterable[str]) -> list[str]:
    """Those of a stored message's ids that can be written again as they are, each once."""
    return [id_ for id_ in dict.fromkeys(ids) if _MSGID.fullmatch(id_)]


def _mailbox(mailbox: Mailbox) -> str:
    if not mailbox.name:
        return mailbox.address
    if _ATOMS.fullmatch(mailbox.name) and "=?" not in mailbox.name and len(mailbox.name) < LINE:
        return f"{mailbox.name} <{mailbox.address}>"
    if mailbox.name.isascii() and "=?" not in mailbox.name and len(mailbox.name) < LINE:
        escaped = mailbox.name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}" <{mailbox.address}>'
    return "\r\n ".join([*_encoded(mailbox.name, LINE // 2), f"<{mailbox.address}>"])


def _encoded(text: str, taken: int) -> list[str]:
    """Encoded words, each on a line of its own: `taken` characters stand before the first."""
    encoded = Header(text, "utf-8", maxlinelen=LINE - 1, header_name="x" * max(taken - 2, 1)).encode(linesep="\n")
    return [line.strip() for line in encoded.split("\n")]
