"""Addresses that may be sent to (RFC 5321 §4.1.2), as they are written on the wire. Pure.

A domain is written in ASCII (RFC 5890: A-labels), also if it was given in another script. What stands before the @
stays as it is: if it is not ASCII, the server must offer SMTPUTF8 (RFC 6531). Quoted local parts and comments are
refused: nobody has such an address, and each server reads them otherwise.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import idna

from mailgate.errors import PreconditionError

LONGEST_ADDRESS: Final = 254
"""RFC 5321 §4.5.3.1.3, without the angle brackets."""
LONGEST_LOCAL: Final = 64
LONGEST_NAME: Final = 300

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LOCAL = re.compile(rf"{_ATOM}(\.{_ATOM})*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BLANK = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A name and an address, checked: `address` is as on the wire."""

    name: str
    address: str


def check_address(address: str, where: str) -> str:
    """The address as on the wire. Raises PreconditionError `address_invalid`, which says where and what."""
    local, at, domain = address.rpartition("@")
    if not at or not local or not domain:
        raise _bad(where, address, "an address is written local@domain")
    if _CONTROL.search(address) or _BLANK.search(address):
        raise _bad(where, address, "it has a blank or a control character")
    if len(local.encode()) > LONGEST_LOCAL:
        raise _bad(where, address, f"more than {LONGEST_LOCAL} bytes before the @")
    if not _LOCAL.fullmatch(local):
        raise _bad(where, address, "what stands before the @ has a character that can't be sent to")
    written = f"{local}@{_domain(domain, where, address)}"
    if len(written.encode()) > LONGEST_ADDRESS:
        raise _bad(where, address, f"more than {LONGEST_ADDRESS} bytes")
    return written


def check_name(name: str, where: str) -> str:
    """A display name. Raises PreconditionError `header_invalid`: a line break in it would begin another header."""
    if _CONTROL.search(name) or len(name) > LONGEST_NAME:
        raise PreconditionError(
            f"{where}: a name has at most {LONGEST_NAME} characters and no control characters", slug="header_invalid"
        )
    return " ".join(name.split())


def check_text(text: str, where: str, most: int) -> str:
    """A header's text in one line. Raises PreconditionError `header_invalid`."""
    if _CONTROL.search(text.replace("\t", " ")) or len(text) > most:
        raise PreconditionError(
            f"{where}: at most {most} characters, and no line break or other control character", slug="header_invalid"
        )
    return text.replace("\t", " ").strip()


def envelope(mailboxes: Iterable[Mailbox], most: int) -> tuple[str, ...]:
    """Whom to send to, each once. Raises PreconditionError `no_recipients`, `too_many_recipients`."""
    found: dict[str, str] = {}
    for mailbox in mailboxes:
        local, _, domain = mailbox.address.rpartition("@")
        found.setdefault(f"{local}@{domain.lower()}", mailbox.address)
    if not found:
        raise PreconditionError("nobody would get it: give `to`, `cc` or `bcc`", slug="no_recipients")
    if len(found) > most:
        why = f"{len(found)} recipients; at most {most} (sending.max_recipients)"
        raise PreconditionError(why, slug="too_many_recipients")
    return tuple(found.values())


def needs_utf8(addresses: Sequence[str]) -> bool:
    """Whether the server must offer SMTPUTF8."""
    return not all(address.isascii() for address in addresses)


def _domain(domain: str, where: str, address: str) -> str:
    if domain.startswith("[") and domain.endswith("]"):
        try:
            ipaddress.ip_address(domain[1:-1].removeprefix("IPv6:"))
        except ValueError:
            raise _bad(where, address, "what stands in [ ] is no IP address") from None
        return domain
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        raise _bad(where, address, "what stands behind the @ is no domain") from None


def _bad(where: str, address: str, why: str) -> PreconditionError:
    shown = _CONTROL.sub("?", address[:100])
    return PreconditionError(f"{where}: {shown!r} can't be sent to: {why}", slug="address_invalid")
