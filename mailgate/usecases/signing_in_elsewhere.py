"""Signing in to the pages at an OpenID provider: authorisation code with PKCE, nonce and state (OpenID Connect Core
§3.1; RFC 9700).

Who is let in: somebody whose name is a user's here already. Where a rule gives roles by a claim, it decides at every
sign-in: who has lost the role is not let in, and who has one and is no user yet becomes one if `oidc.make_users` says
so. One-time codes are the provider's business.

What belongs to an attempt is sealed in a cookie of the browser that began it, for ten minutes; nothing is kept here.
"""

from __future__ import annotations

import base64
import hmac
import http
import json
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from connectors.errors import ConnectorError
from connectors.oauth.client import TokenClient
from connectors.oauth.identity import (
    Configuration,
    IdentityRefusedError,
    KeySet,
    UnknownKeyError,
    configuration_url,
    read_configuration,
    read_id_token,
    read_keys,
    words_of,
)
from connectors.oauth.model import Provider, consent_url
from mailgate.clock import HOUR, MINUTE, SECOND, Instant
from mailgate.errors import MailgateError, UnauthorizedError, UnavailableError
from mailgate.settings import OidcSettings
from mailgate.store import users
from mailgate.store.users import Role, User
from mailgate.usecases import signing_in
from mailgate.usecases.parts import Services
from mailgate.usecases.signing_in import Begun, From

_log = structlog.get_logger("mailgate.sign_in")

CALLBACK: Final = "/admin/sign-in/oidc/callback"
ATTEMPT: Final[Instant] = 10 * MINUTE
_KEPT: Final[Instant] = HOUR
_KEYS_AGAIN: Final[Instant] = MINUTE
_FAILED: Final[Instant] = 5 * SECOND
_CONTEXT: Final = "oidc attempt"


@dataclass(frozen=True, slots=True)
class Away:
    """Where the browser goes, and the cookie that it takes along."""

    url: str
    cookie: str


@dataclass(frozen=True, slots=True)
class Back:
    """What it came back with."""

    state: str
    code: str
    error: str
    issuer: str


class Elsewhere:
    """The provider that the settings name, with what it published, for an hour."""

    def __init__(self, settings: OidcSettings, public_url: str, client: TokenClient) -> None:
        self.settings = settings
        self.redirect_uri = public_url + CALLBACK
        self._client = client
        self._known: tuple[Instant, Configuration] | None = None
        self._keys: tuple[Instant, KeySet] | None = None
        self._failed_at: Instant = -_FAILED

    @property
    def title(self) -> str | None:
        """What people know it by; None: there is none."""
        wanted = self.settings
        return (wanted.title or wanted.issuer.partition("://")[2].partition("/")[0]) if wanted.issuer else None

    async def begin(self, parts: Services, wanted: str) -> Away:
        """The way there; `wanted` is where the person was going. Raises UnavailableError (sign_in_away)."""
        found = await self._configuration(parts.clock())
        attempt = {name: _random() for name in ("state", "nonce", "verifier")}
        url = consent_url(
            self._provider(found),
            redirect_uri=self.redirect_uri,
            state=attempt["state"],
            verifier=attempt["verifier"],
            nonce=attempt["nonce"],
        )
        sealed = {**attempt, "next": wanted, "until": parts.clock() + ATTEMPT, "issuer": found.issuer}
        return Away(url, _b64(parts.ring.seal(json.dumps(sealed).encode(), _CONTEXT)))

    async def finish(self, parts: Services, back: Back, cookie: str, whence: From) -> tuple[Begun, str]:
        """The session, and where the person was going. Raises UnauthorizedError (sign_in_refused) and UnavailableError
        (sign_in_away). Every refusal stands in the access log.
        """
        try:
            attempt = self._attempt(parts, back, cookie)
            user = await self._let_in(parts, await self._claims(parts, back, attempt))
        except (ConnectorError, MailgateError) as error:
            _log.warning("sign_in_refused", why=str(error))
            await signing_in.note(parts, None, whence, http.HTTPStatus.UNAUTHORIZED, route=CALLBACK)
            if isinstance(error, UnauthorizedError | UnavailableError):
                raise
            # Such as a name that none here can have.
            if isinstance(error, IdentityRefusedError | MailgateError):
                raise _refused(str(error)) from None
            raise UnavailableError(str(error), slug="sign_in_away") from None
        begun = await signing_in.begin(parts, user, whence, route=CALLBACK)
        return begun, str(attempt["next"])

    def _attempt(self, parts: Services, back: Back, cookie: str) -> Mapping[str, Any]:
        try:
            attempt: dict[str, Any] = json.loads(
                parts.ring.open_sealed(base64.urlsafe_b64decode(cookie + "=="), _CONTEXT)
            )
        except (MailgateError, ValueError):
            raise _refused("this answer belongs to no attempt of this browser") from None
        if not hmac.compare_digest(back.state.encode("utf-8", "surrogatepass"), str(attempt["state"]).encode()):
            raise _refused("this answer belongs to another attempt (state)")
        if parts.clock() >= attempt["until"] or attempt["issuer"] != self.settings.issuer:
            raise _refused("it took too long; begin again")
        if back.error or not back.code:
            raise _refused(f"the provider answered {back.error[:60] or 'nothing'}")
        return attempt

    async def _claims(self, parts: Services, back: Back, attempt: Mapping[str, Any]) -> Mapping[str, Any]:
        now = parts.clock()
        found = await self._configuration(now)
        if (back.issuer and back.issuer != found.issuer) or (found.names_itself and not back.issuer):
            raise _refused("the answer is another provider's (iss)")  # RFC 9207 §2.4
        tokens = await self._client.redeem(
            self._provider(found),
            code=back.code,
            verifier=str(attempt["verifier"]),
            redirect_uri=self.redirect_uri,
        )
        if tokens.id_token is None:
            raise _refused("the provider gave no ID token")
        read = partial(
            read_id_token,
            tokens.id_token,
            issuer=found.issuer,
            client_id=self.settings.client_id,
            nonce=str(attempt["nonce"]),
            now_s=now // SECOND,
        )
        try:
            return read(await self._published(found, now))
        except UnknownKeyError:
            if self._keys is not None and now - self._keys[0] < _KEYS_AGAIN:
                raise
            self._keys = None  # the provider may have changed its keys
            return read(await self._published(found, now))

    async def _let_in(self, parts: Services, claims: Mapping[str, Any]) -> User:
        """The user whom the claims name. Raises UnauthorizedError: no rule lets them in."""
        wanted = self.settings
        name = next(iter(words_of(claims, wanted.name_claim)), "")
        plain = unicodedata.normalize("NFKC", name).strip().casefold()
        if not plain:
            raise _refused(f"the provider gave no {wanted.name_claim} (oidc.name_claim)")
        if wanted.name_claim == "email" and claims.get("email_verified") is not True:
            raise _refused("the provider did not verify the address (email_verified)")
        role = self._role(claims)
        known = await users.find(parts.db, plain)
        if wanted.role_claim and role is None:
            raise _refused(f"no {wanted.role_claim} of this person gives a role here (oidc.admins, oidc.compliance)")
        if known is None:
            if role is None or not wanted.make_users:
                raise _refused("nobody here has this name; an admin adds them with `mailgate user add`")
            kept = await parts.passwords.hash(_random() + _random())  # nobody knows it: no password lets them in
            return await users.create(
                parts.db, name=plain, role=role, tenant_id=None, password_hash=kept, now=parts.clock()
            )
        user = known[0]
        if user.disabled_at is not None:
            raise _refused("this user is disabled")
        if role is not None and role is not user.role:
            await users.change(parts.db, user.id, role=role.value)
            user, _ = await users.get(parts.db, user.id)
        return user

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        wanted = self.settings
        if not wanted.role_claim:
            return None
        words = set(words_of(claims, wanted.role_claim))
        if not words.isdisjoint(wanted.admins):
            return Role.ADMIN
        return Role.COMPLIANCE if not words.isdisjoint(wanted.compliance) else None

    async def _configuration(self, now: Instant) -> Configuration:
        if self._known is None or not 0 <= now - self._known[0] < _KEPT:
            if 0 <= now - self._failed_at < _FAILED:
                raise UnavailableError("the provider could not be reached a moment ago", slug="sign_in_away")
            try:
                document = await self._client.document(configuration_url(self.settings.issuer))
                self._known = now, read_configuration(document, self.settings.issuer)
            except ConnectorError as error:
                self._failed_at = now  # strangers can ask for this page: the provider is not asked for each
                _log.warning("oidc_configuration", why=str(error))
                raise UnavailableError(str(error), slug="sign_in_away") from None
        return self._known[1]

    async def _published(self, found: Configuration, now: Instant) -> KeySet:
        if self._keys is None or not 0 <= now - self._keys[0] < _KEPT:
            self._keys = now, read_keys(await self._client.document(found.keys_url))
        return self._keys[1]

    def _provider(self, found: Configuration) -> Provider:
        wanted = self.settings
        return Provider(
            name="oidc",
            title=self.title or "",
            authorize_url=found.authorize_url,
            token_url=found.token_url,
            client_id=wanted.client_id,
            client_secret=wanted.client_secret,
            scopes=wanted.scopes,
        )


def _refused(why: str) -> UnauthorizedError:
    return UnauthorizedError(why, slug="sign_in_refused")


def _random() -> str:
    return _b64(os.urandom(32))


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
