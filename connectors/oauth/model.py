"""Authorisation servers, what is asked of them and what they answer. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from connectors.errors import clean_text
from connectors.oauth.errors import ConsentLapsedError, TokenEndpointError

LONGEST_TOKEN: Final = 16_384
DEFAULT_LIFE_S: Final = 3_600
"""How long a token is taken to be good when the server does not say it (RFC 6749 §5.1 only recommends that it does)."""
_LONGEST_LIFE_S: Final = 30 * 86_400

# RFC 6749 §5.2, OpenID Connect Core §3.1.2.6 and what Microsoft and Google add: only the person can mend these.
_LAPSED: Final = frozenset(
    {"invalid_grant", "interaction_required", "login_required", "consent_required", "account_selection_required"}
)
_OURS: Final = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"})


@dataclass(frozen=True, slots=True)
class Provider:
    """An authorisation server as it is registered there. `client_secret` may be empty (a public client). `extra` goes
    along with the request for consent: what the server wants before it gives refresh tokens.
    """

    name: str
    title: str
    authorize_url: str
    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...]
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a token endpoint gave. `refresh_token` None: the old one stays good (RFC 6749 §6). No `repr` shows them."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in_s: int
    scope: str | None = None
    id_token: str | None = field(default=None, repr=False)


def challenge_of(verifier: str) -> str:
    """The code challenge of a verifier by S256 (RFC 7636 §4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode()


def consent_url(
    provider: Provider,
    *,
    redirect_uri: str,
    state: str,
    verifier: str,
    login_hint: str | None = None,
    nonce: str | None = None,
) -> str:
    """Where the person consents (RFC 6749 §4.1.1). A query that the endpoint's address has stays (§3.1)."""
    asked = {
        **provider.extra,
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(provider.scopes),
        "state": state,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
    }
    if login_hint:
        asked["login_hint"] = login_hint
    if nonce:
        asked["nonce"] = nonce
    parts = urlsplit(provider.authorize_url)
    query = "&".join(part for part in (parts.query, urlencode(asked)) if part)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def read_answer(
    status: int, body: bytes, *, host: str, secrets: Iterable[str] = (), retry_after_s: float | None = None
) -> Tokens:
    """What a token endpoint answered (RFC 6749 §5). Raises ConsentLapsedError and TokenEndpointError; none shows a
    secret.
    """
    told = _object(body)
    if status == 200 and told is not None:
        return _tokens(told, host)
    code = told.get("error") if told is not None else None
    if not isinstance(code, str) or status >= 500 or status == 429:
        raise TokenEndpointError(f"{host} gives no tokens now: it answered {status}", retry_after_s=retry_after_s)
    about = told.get("error_description") if told is not None else None
    text = clean_text(f"{code}: {about}" if isinstance(about, str) and about else code)
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    if code in _LAPSED:
        raise ConsentLapsedError(f"{host} takes the consent no more ({text})")
    if code in _OURS:
        raise TokenEndpointError(f"{host} does not take the gateway's own registration ({text})", ours=True)
    raise TokenEndpointError(f"{host} gives no tokens now ({text})", retry_after_s=retry_after_s)


def _tokens(told: Mapping[str, Any], host: str) -> Tokens:
    access, kind, refresh = told.get("access_token"), told.get("token_type"), told.get("refresh_token")
    if not _is_token(access) or not isinstance(kind, str) or kind.lower() != "bearer":
        raise TokenEndpointError(f"{host} answered something that is no bearer token")
    if refresh is not None and not _is_token(refresh):
        raise TokenEndpointError(f"{host} answered something that is no refresh token")
    scope, identity = told.get("scope"), told.get("id_token")
    return Tokens(
        access_token=str(access),
        refresh_token=refresh,
        expires_in_s=_life(told.get("expires_in")),
        scope=scope if isinstance(scope, str) else None,
        id_token=identity if isinstance(identity, str) else None,
    )


def _is_token(value: object) -> bool:
    # RFC 6749 appendix A.12, A.17: VSCHAR.
    return isinstance(value, str) and 0 < len(value) <= LONGEST_TOKEN and all(" " <= char <= "~" for char in value)


def _life(value: object) -> int:
    """Seconds; some servers write the number as text, or with a fraction."""
    try:
        seconds = int(float(value)) if isinstance(value, str | int | float) else DEFAULT_LIFE_S
    except (ValueError, OverflowError):
        seconds = DEFAULT_LIFE_S
    return min(max(seconds, 0), _LONGEST_LIFE_S)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None
