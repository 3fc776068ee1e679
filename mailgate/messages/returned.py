"""Delivery reports (RFC 3464): what became of a message, said by a server to who sent it. Pure.

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
    message = message_from_bytes(raw[:MOST_BYTES], policy=compat32)
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
        named = str(block.get("Original-Recipient") or block.get("Final-Recipient") or "")
        address = named.rpartition(";")[2].strip().strip("<>").lower()
        status = _STATUS.search(str(block.get("Status", "")))
        text = " ".join(str(block.get("Diagnostic-Code", "")).rpartition(";")[2].split())
        if address:
            found.append(Undelivered(address[:320], status[0] if status else "5.0.0", text[:200]))
    return found


def _ids(part: Message) -> list[str]:
    """The Message-ID of what was returned: whole, or its header as text."""
    inner = part.get_payload()
    if isinstance(inner, list):
        return [id_ for item in inner if isinstance(item, Message) for id_ in _ID.findall(str(item["Message-ID"]))]
    payload = part.get_payload(decode=True)
    text = payload if isinstance(payload, bytes) else b""
    return _ID.findall(str(message_from_bytes(text, policy=compat32)["Message-ID"]))
