"""Addresses, settings that were found for them, and what was tried to find them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import idna

from connectors.model import Security

_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?")
LONGEST_NAME: Final = 253


class Login(StrEnum):
    """What a server takes as the user name."""

    ADDRESS = "address"
    LOCAL = "local"


class Need(StrEnum):
    """What a person must do, or have, at a provider before its servers let anybody in."""

    APP_PASSWORD = "app_password"  # noqa: S105 - a word, no password
    """A password made for this purpose; the usual one is refused."""
    IMAP_ON = "imap_on"
    """IMAP is off until it is switched on in the mailbox's own settings."""
    OAUTH = "oauth"
    """No passwords are taken: signing in at the provider is the only way."""
    BRIDGE = "bridge"
    """A program of the provider, on a machine that the gateway reaches, decrypts the mail."""
    PAID = "paid"
    """Part of paid plans only."""
    NO_IMAP = "no_imap"
    """There is no IMAP at all."""


class Source(StrEnum):
    """Where settings come from, in the order of preference."""

    BUILT_IN = "built_in"
    AUTOCONFIG = "autoconfig"
    SRV = "srv"
    MX = "mx"
    GUESS = "guess"


class Outcome(StrEnum):
    """What a place came to: settings; nothing there; not asked, since it is not allowed to; it could not be asked."""

    FOUND = "found"
    NOTHING = "nothing"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Server:
    """One server and what it takes as user name."""

    host: str
    port: int
    security: Security
    username: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One place that was asked. `target` is a name or a URL without what stands in its query."""

    source: Source
    target: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """Settings for reading and, where known, for sending. `certain`: somebody who must know says so; a guess is none.
    `provider` is what a person calls it; `oauth` names who signs people in; `help` leads to the provider's own words.
    """

    source: Source
    imap: Server | None
    smtp: Server | None
    certain: bool
    provider: str | None = None
    provider_id: str | None = None
    oauth: str | None = None
    needs: tuple[Need, ...] = ()
    help: str | None = None


@dataclass(frozen=True, slots=True)
class Discovery:
    """The best that was found, None when nothing was; `tried` in the order of preference; `online` False: no place
    outside could be asked at all.
    """

    address: str
    domain: str
    offer: Offer | None
    tried: tuple[Attempt, ...] = field(default=())
    online: bool = True

    def hides_letters(self) -> bool:
        """Whether the address' domain is written in letters beyond ASCII, which may look like others."""
        return not self.address.rpartition("@")[2].isascii()


class NoAddressError(ValueError):
    """It can't be an address."""


def split(address: str) -> tuple[str, str]:
    """(local part, domain in ASCII, RFC 5891 §4) of an address. Raises NoAddressError."""
    local, _, domain = address.rpartition("@")
    if not local or len(address) > 320 or not address.isprintable() or any(c.isspace() for c in address):
        raise NoAddressError("this is no address")
    return local, ascii_domain(domain)


def ascii_domain(domain: str) -> str:
    """A domain as DNS knows it: small letters, ASCII. Raises NoAddressError for what can be none."""
    try:
        plain = domain if domain.isascii() else idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        raise NoAddressError("this is no domain") from None
    plain = plain.lower().removesuffix(".")
    labels = plain.split(".")
    if len(plain) > LONGEST_NAME or len(labels) < 2 or not all(_LABEL.fullmatch(label) for label in labels):
        raise NoAddressError("this is no domain")
    if labels[-1].isdigit():  # an IP address is no domain
        raise NoAddressError("this is no domain")
    return plain


def host_name(text: str) -> str | None:
    """The name of a server as somebody else wrote it, if it can be one; addresses in place of names are none."""
    try:
        return ascii_domain(text.strip())
    except NoAddressError:
        return None


def login_of(form: Login, address: str) -> str:
    """The user name."""
    return address if form is Login.ADDRESS else address.rpartition("@")[0]
