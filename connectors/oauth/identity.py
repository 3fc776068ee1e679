"""Who signed in at an OpenID provider: its configuration and its ID tokens (OpenID Connect Core 1.0, Discovery 1.0).
The only importer of joserfc.

An ID token is believed when all of this holds: it is signed, by an algorithm with a public key, with a key that the
provider publishes; it is of this provider, for us, not over, and answers the very request that we made (nonce).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet as KeySet

from connectors.errors import ConnectorError, Retry, clean_text

ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA", "RS384", "RS512", "PS384", "PS512", "ES384", "ES512")
"""Neither `none`, nor those whose key would be a secret: a public key must never be taken for one."""
LEEWAY_S: Final = 60
LONGEST: Final = 64 * 1024


class IdentityRefusedError(ConnectorError):
    """What came is not to be believed, or no configuration."""

    retry = Retry.NEVER


@dataclass(frozen=True, slots=True)
class Configuration:
    """Where a provider does what. `names_itself`: its answers hold `iss` (RFC 9207)."""

    issuer: str
    authorize_url: str
    token_url: str
    keys_url: str
    names_itself: bool


def configuration_url(issuer: str) -> str:
    """Where a provider publishes its configuration (Discovery §4)."""
    return issuer.rstrip("/") + "/.well-known/openid-configuration"


def read_configuration(document: bytes, issuer: str) -> Configuration:
    """The configuration. Raises IdentityRefusedError: it is none, or another provider's (Discovery §4.3)."""
    told = _object(document)
    if told.get("issuer") != issuer:
        raise IdentityRefusedError(f"the configuration is of {told.get('issuer')!r}, not of {issuer!r} (oidc.issuer)")
    urls = [told.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
    schemes = ("https",) if issuer.startswith("https:") else ("https", "http")
    for url in urls:
        if not isinstance(url, str) or urlsplit(url).scheme not in schemes or not urlsplit(url).hostname:
            raise IdentityRefusedError("the configuration lacks an address, or has one without TLS")
    authorize, token, keys = (str(url) for url in urls)
    named = told.get("authorization_response_iss_parameter_supported") is True
    return Configuration(issuer, authorize, token, keys, named)


def read_keys(document: bytes) -> KeySet:
    """The keys that a provider publishes (RFC 7517 §5); those of unknown kinds are left out. Raises
    IdentityRefusedError.
    """
    found = _object(document).get("keys")
    usable = []
    for key in found if isinstance(found, list) else []:
        try:
            usable += KeySet.import_key_set({"keys": [key]}).keys
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            continue
    if not usable:
        raise IdentityRefusedError("the provider publishes no key that could be used")
    return KeySet(usable)


def read_id_token(
    token: str, keys: KeySet, *, issuer: str, client_id: str, nonce: str, now_s: int
) -> Mapping[str, Any]:
    """The claims of an ID token (Core §3.1.3.7); `now_s` in seconds since the epoch. Raises IdentityRefusedError, and
    UnknownKeyError when it is signed with a key that is none of these.
    """
    if len(token) > LONGEST:
        raise IdentityRefusedError("the ID token is too long")
    try:
        decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnknownKeyError(f"the ID token is not signed by the provider: {_name(error)}") from None
    claims = decoded.claims
    registry = jwt.JWTClaimsRegistry(
        now=now_s,
        leeway=LEEWAY_S,
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": client_id},
        sub={"essential": True, "allow_blank": False},
        exp={"essential": True},
        iat={"essential": True},
    )
    try:
        registry.validate(claims)
    except (JoseError, ValueError, TypeError) as error:
        raise IdentityRefusedError(f"the ID token is not for us, or not for now: {_name(error)}") from None
    audience = claims["aud"]
    party = claims.get("azp")
    if (isinstance(audience, list) and len(audience) > 1 and party is None) or party not in (None, client_id):
        raise IdentityRefusedError("the ID token was made for another party (azp)")
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):
        raise IdentityRefusedError("the ID token answers another request (nonce)")
    return claims


class UnknownKeyError(IdentityRefusedError):
    """No key that is known made the signature; the provider may have changed its keys."""


def words_of(claims: Mapping[str, Any], name: str) -> Sequence[str]:
    """The words of a claim: one, or a list of them; `realm_access.roles` looks inside."""
    value: Any = claims
    for part in [name] if name in claims else name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, str):
        return [value]
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _name(error: Exception) -> str:
    return clean_text(str(error) or type(error).__name__, 80)


def _object(document: bytes) -> dict[str, Any]:
    try:
        told = json.loads(document)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise IdentityRefusedError("the provider answered something that is no JSON object")
    return told
