"""What is kept of a consent, and when its tokens are renewed. Pure.

given ──▶ good ──renew_at──▶ renewed ahead of expiry, by whichever process claims it first
            │                   │ 5xx, no answer, our registration refused: later, the consent stays
            │                   ▼
            └─────────────▶ lapsed (invalid_grant): the mailbox says so at once; only a new consent helps
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from connectors.errors import clean_text
from connectors.model import PasswordAuth
from connectors.oauth.model import Tokens
from mailgate.clock import HOUR, MINUTE, SECOND, Instant, is_over

CLAIM: Final[Instant] = 60 * SECOND
"""How long one process may ask a provider while the others wait; longer than `oauth.timeout_s` may be."""
FLOW_LIFE: Final[Instant] = 15 * MINUTE
"""How long a person may take from the link to the consent."""
FIRST_PAUSE: Final[Instant] = 5 * SECOND
LONGEST_PAUSE: Final[Instant] = 15 * MINUTE
LONGEST_ASKED: Final[Instant] = 6 * HOUR
"""The longest pause that a provider is granted: what asks for more is a mistake or malice."""
MOST_REFRESH_TOKENS: Final = 4


class ProviderName(StrEnum):
    """The providers that can be set up."""

    GOOGLE = "google"
    MICROSOFT = "microsoft"
    GENERIC = "generic"


@dataclass(frozen=True, slots=True)
class Consented:
    """In place of a password: the mailbox's consent. `username` is what the mail server calls the account."""

    username: str


def auth_of(username: str, secret: Mapping[str, Any]) -> PasswordAuth | Consented:
    """How to log in with what is kept: {"password": …}, or {"oauth2": provider}."""
    return Consented(username) if "oauth2" in secret else PasswordAuth(username, secret["password"])


@dataclass(frozen=True, slots=True)
class Kept:
    """The tokens of a consent. `refresh`: the newest first; others were given at the same time by a race and are tried
    only when the first is refused. `access` None: ask for one.
    """

    refresh: tuple[str, ...] = field(repr=False)
    access: str | None = field(default=None, repr=False)

    def document(self) -> dict[str, Any]:
        """The same to be sealed."""
        return {"refresh": list(self.refresh), "access": self.access}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Kept:
        return cls(tuple(document["refresh"]), document["access"])

    def renewed(self, tokens: Tokens) -> Kept:
        """After the first refresh token was used: a new one replaces it (RFC 6749 §6), without one it stays."""
        if tokens.refresh_token is None:
            return replace(self, access=tokens.access_token)
        others = tuple(token for token in self.refresh[1:] if token != tokens.refresh_token)
        return Kept((tokens.refresh_token, *others)[:MOST_REFRESH_TOKENS], tokens.access_token)

    def with_spare(self, refresh_token: str) -> Kept:
        """Another one that is good as far as anybody knows."""
        if refresh_token in self.refresh:
            return self
        return replace(self, refresh=(*self.refresh, refresh_token)[:MOST_REFRESH_TOKENS])

    def without_first(self) -> Kept | None:
        """The first was refused: what is left to be tried; None: nothing."""
        return replace(self, refresh=self.refresh[1:]) if len(self.refresh) > 1 else None


@dataclass(frozen=True, slots=True)
class Given:
    """What a new consent brought, or the CRM has already. `expires_at` 0: there is no access token."""

    provider: ProviderName
    kept: Kept
    expires_at: Instant
    renew_at: Instant


@dataclass(frozen=True, slots=True)
class Consent:
    """A consent as it stands. `given` grows with each new one, `version` with each change of tokens."""

    mailbox_id: str
    tenant_id: str
    provider: str
    kept: Kept
    given: int
    version: int
    expires_at: Instant
    renew_at: Instant
    retry_at: Instant
    failures: int
    last_error: str | None
    lapsed_at: Instant | None

    def access(self, now: Instant, refused: str | None) -> str | None:
        """The access token, while it needs no renewal; not the one that a mail server `refused`. One that is to be
        renewed serves on while its provider is not to be asked.
        """
        token = self.kept.access
        if token is None or token == refused:
            return None
        ripe = now >= self.renew_at and self.may_be_asked(now)
        return token if now < self.expires_at and not ripe else None

    def may_be_asked(self, now: Instant) -> bool:
        """Whether its provider may be asked: no pause after a failure holds."""
        return is_over(self.retry_at, now, LONGEST_ASKED)


def renewal(now: Instant, expires_at: Instant, ahead: Instant) -> Instant:
    """When a token that was given at `now` is renewed: `ahead` of its end, or in the last quarter of a short life."""
    return expires_at - min(ahead, max(0, expires_at - now) // 4)


def pause(failures: int, asked: Instant | None, spread: int) -> Instant:
    """How long a provider is left alone after so many failures in a row (1…); `asked`: for how long it asked itself.
    `spread` is any number that differs between mailboxes, so that they do not come back together.
    """
    base = min(FIRST_PAUSE << min(failures - 1, 12), LONGEST_PAUSE)
    return min(max(base + base // 5 * (spread % 101) // 100, asked or 0), LONGEST_ASKED)


def lapse_reason(provider: str, why: str) -> str:
    """What a mailbox says when its consent is over: what happened, and what to do."""
    return f"the consent at {provider} is over: {clean_text(why, 110)}; sign in there again to go on"
