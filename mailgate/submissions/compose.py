"""From texts and files to the bytes of a message: ASCII only, MIME (RFC 2045 to 2049), CRLF, no Bcc. Pure.

Everything that another program may have to read is written in its plainest form: text as it is where it is ASCII in
short lines, else quoted-printable or base64; alternatives inside what carries files; ids and addresses as in
`headers`. Only an address that is not ASCII before its @ makes a header that is UTF-8 (RFC 6532).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from typing import Final

from mailgate.clock import Instant
from mailgate.errors import PreconditionError
from mailgate.submissions import headers
from mailgate.submissions.addresses import Mailbox, check_text, envelope, needs_utf8

LONGEST_SUBJECT: Final = 1_000
LONGEST_FILENAME: Final = 255
MOST_REFERENCES: Final = 50

_POLICY = SMTP.clone(cte_type="7bit")
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_NEWLINE = re.compile(r"\r\n?|\n")


@dataclass(frozen=True, slots=True)
class File:
    """A file to attach. `content_type` without parameters."""

    filename: str
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Parent:
    """The message that is answered: its Message-ID and References, as they stand in its header."""

    message_id: str | None
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Letter:
    """What is to be sent. Addresses are checked (`addresses.check_address`)."""

    sender: Mailbox
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    bcc: tuple[Mailbox, ...] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    files: tuple[File, ...] = ()
    parent: Parent | None = None

    def digest(self) -> bytes:
        """A SHA-256 by which it is known again when it is asked for again: of what it brings, not of who gets it."""
        digest = hashlib.sha256(repr((self.subject, self.text, self.html)).encode())
        for file in self.files:
            digest.update(repr(file).encode())
            digest.update(hashlib.sha256(file.content).digest())
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message as it leaves: bytes, who sends it, who gets it, and what carrying it takes."""

    content: bytes = field(repr=False)
    message_id: str
    sender: str
    recipients: tuple[str, ...]
    utf8: bool
    eight_bit: bool = False


def new_message_id(token: str, sender: str) -> str:
    """A Message-ID for a random token: the domain is the sender's, so it tells nothing of this machine."""
    domain = sender.rpartition("@")[2]
    return f"<{token}@{domain.strip('[]').replace(':', '-') or 'localhost'}>"


def compose(letter: Letter, *, message_id: str, at: Instant, most_recipients: int) -> Outgoing:
    """The message. Raises PreconditionError: `no_recipients`, `too_many_recipients`, `header_invalid`,
    `attachment_invalid`, `text_invalid`.
    """
    recipients = envelope((*letter.to, *letter.cc, *letter.bcc), most_recipients)
    shown = [mailbox.address for mailbox in (letter.sender, *letter.to, *letter.cc)]
    content = b"".join([*_head(letter, message_id, at), b"MIME-Version: 1.0\r\n", _body(letter, message_id)])
    sender = letter.sender.address
    utf8 = needs_utf8([*shown, sender, *recipients])
    return Outgoing(content, message_id, sender, recipients, utf8, eight_bit=not content.isascii())


def _head(letter: Letter, message_id: str, at: Instant) -> list[bytes]:
    lines = [headers.date(at), headers.mailboxes("From", [letter.sender])]
    if letter.to:
        lines.append(headers.mailboxes("To", letter.to))
    if letter.cc:
        lines.append(headers.mailboxes("Cc", letter.cc))
    if not letter.to and not letter.cc:
        lines.append(b"To: undisclosed-recipients:;\r\n")
    lines.append(headers.unstructured("Subject", check_text(letter.subject, "subject", LONGEST_SUBJECT)))
    lines.append(headers.message_ids("Message-ID", [message_id]))
    if letter.parent is not None:
        lines += thread_fields(letter.parent)
    return lines


def thread_fields(parent: Parent) -> list[bytes]:
    """In-Reply-To and References of an answer (RFC 5322 §3.6.4); of many references the first and the last ones."""
    own = headers.known_ids([parent.message_id] if parent.message_id else [])
    references = headers.known_ids((*parent.references, *own))
    if len(references) > MOST_REFERENCES:
        references = [references[0], *references[1 - MOST_REFERENCES :]]
    lines = [headers.message_ids("In-Reply-To", own)] if own else []
    return [*lines, headers.message_ids("References", references)] if references else lines


def _body(letter: Letter, message_id: str) -> bytes:
    message = EmailMessage(policy=_POLICY)
    if letter.text is not None or letter.html is None:
        message.set_content(_text(letter.text or "", "text"))
        if letter.html is not None:
            message.add_alternative(_text(letter.html, "html"), subtype="html")
    else:
        message.set_content(_text(letter.html, "html"), subtype="html")
    for number, file in enumerate(letter.files):
        _attach(message, file, number)
    del message["MIME-Version"]
    token = hashlib.sha256(message_id.encode()).hexdigest()[:24]
    for number, part in enumerate(part for part in message.walk() if part.is_multipart()):
        part.set_boundary(f"=_{number}_{token}")  # "=_" can stand neither in quoted-printable nor in base64
    return message.as_bytes(policy=_POLICY)


def _text(text: str, where: str) -> str:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise PreconditionError(f"{where}: a character that can't be sent (NUL or half a pair)", slug="text_invalid")
    return _NEWLINE.sub("\n", text)


def _attach(message: EmailMessage, file: File, number: int) -> None:
    where = f"attachments/{number}"
    name = check_text(file.filename, f"{where}/filename", LONGEST_FILENAME)
    kind = file.content_type.lower()
    if not _TYPE.fullmatch(kind) or kind.startswith("multipart/"):
        raise PreconditionError(f"{where}: {kind[:60]!r} is no type of a file", slug="attachment_invalid")
    if kind.startswith("message/"):
        kind = "application/octet-stream"  # RFC 2046 §5.2.1 lets nobody encode it, and mail on the way must be ASCII
    main, _, sub = kind.partition("/")
    message.add_attachment(file.content, maintype=main, subtype=sub, filename=name)
