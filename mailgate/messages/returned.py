"""Delivery reports (RFC 3464; RFC 6533 where addresses are not ASCII): what became of a message, said by a server to
who sent it. Pure.

Read with the standard library's parser, which takes anything; a report that names no message is none. What is read is
somebody else's word: it marks recipients as bounced and does nothing more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from email.policy import compat32
from typing import Final

MOST_BYTES: Final = 256 << 10
"""So much of a report is looked at."""
MOST_RECIPIENTS: Final = 200

_IS_REPORT: Final = re.compile(rb"^content-type:[ \t\r\n]*multipart/report\b", re.IGNORECASE | re.MULTILINE)
_ID: Final = re.compile(r"<[!-;=?-~]{1,996}>")
_GLOBAL: Final = re.compile(rb"message/global-delivery-status", re.IGNORECASE)
_POINT: Final = re.compile(r"\\x\{(0[1-9A-F]|[1-9A-F][0-9A-F]{1,5})\}", re.IGNORECASE)  # RFC 6533 §3: of a character
_STATUS: Final = re.compile(r"\d\.\d{1,3}\.\d{1,3}")


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A recipient who did not get it: address in small letters, status (RFC 3463), the words of the server."""

    address: str
    status: str
    text: str


@dataclass(frozen=True, slots=True)
class Returned:
    """A report that a message failed: Message-IDs by which it may be known, and for whom."""

    message_ids: tuple[str, ...]
    recipients: tuple[Undelivered, ...]


def read_report(raw: bytes, header: bytes) -> Returned | None:
    """What a message reports as failed; None for everything else, delays and good news included. `header` is the
    message's own.
    """
    if not _IS_REPORT.search(header):
        return None
    # The parser knows the blocks of the one type only; those of the other look the same.
    message = message_from_bytes(_GLOBAL.sub(b"message/delivery-status", raw[:MOST_BYTES]), policy=compat32)
    ids: dict[str, None] = {}
    failed: list[Undelivered] = []
    for part in message.walk():
        kind = part.get_content_type()
        if kind == "message/delivery-status":
            failed += _failed(part)
        elif kind in ("message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"):
            ids.update(dict.fromkeys(_ids(part)))
        ids.update(dict.fromkeys(_ID.findall(str(part.get("Original-Message-ID", "")))))
    if not failed or not ids:
        return None
    return Returned(tuple(ids), tuple(failed[:MOST_RECIPIENTS]))


def _failed(part: Message) -> list[Undelivered]:
    blocks = part.get_payload()
    found: list[Undelivered] = []
    for block in blocks if isinstance(blocks, list) else []:
        if not isinstance(block, Message) or str(block.get("Action", "")).strip().lower() != "failed":
            continue
        status = _STATUS.search(str(block.get("Status", "")))
        text = " ".join(_field(block, "diagnostic-code").rpartition(";")[2].split())
        # What a server calls the original one may be none of ours ("unknown"), what it calls the final one an alias.
        named = [_address(_field(block, name)) for name in ("original-recipient", "final-recipient")]
        code = status[0] if status else "5.0.0"
        found += [Undelivered(address[:320], code, text[:200]) for address in dict.fromkeys(filter(None, named))]
    return found


def _field(block: Message, name: str) -> str:
    """A field as it stands there, in UTF-8 where it is not ASCII; empty: there is none."""
    values = [value for key, value in block.raw_items() if key.lower() == name]
    return str(values[0]).encode(errors="surrogateescape").decode(errors="replace") if values else ""


def _address(field: str) -> str:
    """Of `rfc822; a@b.example` or `utf-8; a@b.example` (RFC 6533 §3)."""
    kind, _, named = field.partition(";") if ";" in field else ("", "", field)
    if kind.strip().lower() == "utf-8":
        named = _POINT.sub(lambda found: _character(found[1]), named)
    return named.strip().strip("<>").lower()


def _character(hexadecimal: str) -> str:
    point = int(hexadecimal, 16)
    return chr(point) if point < 0xD800 or 0xE000 <= point <= 0x10FFFF else ""


def _ids(part: Message) -> list[str]:
    """The Message-ID of what was returned: whole, or its header as text."""
    inner = part.get_payload()
    if isinstance(inner, list):
        return [id_ for item in inner if isinstance(item, Message) for id_ in _ID.findall(str(item["Message-ID"]))]
    payload = part.get_payload(decode=True)
    text = payload if isinstance(payload, bytes) else b""
    return _ID.findall(str(message_from_bytes(text, policy=compat32)["Message-ID"]))
