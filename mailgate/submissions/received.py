"""A whole message that a client gave (message/rfc822): who gets it, and the bytes that leave. Pure.

The bytes stay as they are, but for the fields that must not leave (Bcc, Resent-Bcc) and those that are missing (Date,
From, Message-ID). What is no mail is refused: NUL, lines of more than 998 bytes, a header with several From or To.
"""

from __future__ import annotations

import re
from typing import Final

from mailgate.clock import Instant
from mailgate.errors import PreconditionError
from mailgate.messages import header_block, parse_summary
from mailgate.messages.model import Address
from mailgate.submissions import headers
from mailgate.submissions.addresses import Mailbox, check_address, envelope, needs_utf8
from mailgate.submissions.compose import Outgoing, Parent, thread_fields

LONGEST_LINE: Final = 998
"""RFC 5322 §2.1.1, without CRLF."""

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")
_SECRET: Final = frozenset({b"bcc", b"resent-bcc"})
_ONCE: Final = frozenset(
    {b"from", b"to", b"cc", b"subject", b"date", b"message-id", b"sender", b"reply-to", b"references", b"in-reply-to"}
)
_LONG: Final = re.compile(rb"[^\n]{1000}")


def receive(
    raw: bytes, *, default_sender: str, message_id: str, at: Instant, most_recipients: int, parent: Parent | None = None
) -> Outgoing:
    """The message as it leaves. `raw` may have any line ends. `parent`: what it answers, if it does not say itself.

    Raises PreconditionError: `message_invalid`, `address_invalid`, `no_recipients`, `too_many_recipients`.
    """
    if b"\0" in raw:
        raise _invalid("a message must not have a NUL character")
    data = raw.replace(b"\r\n", b"\n")
    if b"\r" in data:
        raise _invalid("a carriage return alone ends no line (RFC 5322 §2.3)")
    data = data.replace(b"\n", b"\r\n")
    if _LONG.search(data):
        raise _invalid(f"a line has more than {LONGEST_LINE} bytes (RFC 5322 §2.1.1)")
    head = header_block(data)
    fields = _fields(head)
    said = parse_summary(head)
    mailboxes = [_mailbox(item, where) for where in ("to", "cc", "bcc") for item in getattr(said, where)]
    recipients = envelope(mailboxes, most_recipients)
    senders = [_mailbox(item, "from") for item in said.from_]
    sender = senders[0].address if senders else default_sender
    names = {name for name, _ in fields}
    added = []
    if not senders:
        added.append(headers.mailboxes("From", [Mailbox("", default_sender)]))
    if b"date" not in names:
        added.append(headers.date(at))
    id_ = said.rfc_message_id if b"message-id" in names else None
    if id_ is None:
        id_ = message_id
        added.append(headers.message_ids("Message-ID", [message_id]))
    if parent is not None and not names & {b"in-reply-to", b"references"}:
        added += thread_fields(parent)
    dropped = _SECRET | (set() if senders else {b"from"}) | (set() if id_ != message_id else {b"message-id"})
    kept = [field for name, field in fields if name not in dropped]
    body = data[len(head) :]
    content = b"".join([*added, *kept, b"\r\n", body])
    utf8 = needs_utf8([sender, *recipients]) or not header_block(content).isascii()
    return Outgoing(content, id_, sender, recipients, utf8, eight_bit=not content.isascii())


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """The header's fields, each with its line end. Raises PreconditionError."""
    block = head.removesuffix(b"\r\n") if head.endswith(b"\r\n\r\n") or head == b"\r\n" else head
    block += b"" if block.endswith(b"\r\n") or not block else b"\r\n"
    found: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(block):
        match = _FIELD.match(block, at)
        if match is None:
            raise _invalid("a message begins with its header: a name, a colon, a value (RFC 5322 §2.2)")
        found.append((match[1].lower(), match[0]))
        at = match.end()
    names = [name for name, _ in found]
    twice = next((name for name in names if name in _ONCE and names.count(name) > 1), None)
    if twice is not None:
        raise _invalid(f"the field {twice.decode()} stands there more than once (RFC 5322 §3.6)")
    return found


def _mailbox(item: Address, where: str) -> Mailbox:
    return Mailbox(item.name, check_address(item.address, where))


def _invalid(why: str) -> PreconditionError:
    return PreconditionError(why, slug="message_invalid")
