"""Consents that are given for a mailbox: whether its servers may have a provider's tokens, and which tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from connectors.model import Security
from connectors.oauth.model import DEFAULT_LIFE_S, Tokens
from mailgate.consents.model import Given, Kept, ProviderName
from mailgate.consents.providers import Offered
from mailgate.errors import PreconditionError
from mailgate.usecases.accounts import Auth
from mailgate.usecases.parts import Services


@dataclass(frozen=True, slots=True)
class Server:
    """A server of an account: `name` is imap or smtp, `security` a word of the API."""

    name: str
    host: str
    security: str
    auth: Auth


def secret(auth: Auth) -> dict[str, Any]:
    """What is kept with the mailbox of how it logs in."""
    return {"password": auth.password} if auth.oauth2 is None else {"oauth2": auth.oauth2.provider.value}


def offered(parts: Services, name: ProviderName) -> Offered:
    """The provider of that name. Raises PreconditionError (`provider_not_set_up`)."""
    found = parts.tokens.providers.get(name)
    if found is None:
        raise PreconditionError(f"{name} is not set up here (oauth_{name}.client_id)", slug="provider_not_set_up")
    return found


def judge(parts: Services, servers: Sequence[Server]) -> ProviderName | None:
    """The provider whose tokens these servers get; None: none does. Whoever names a server could have the tokens sent
    to it, so that only those of the provider get them, and never in clear (RFC 6750 §5.3). Raises PreconditionError:
    `provider_not_set_up`, `host_not_of_provider`, `tls_needed`, `one_consent`.
    """
    names: set[ProviderName] = set()
    for server in servers:
        if server.auth.oauth2 is None:
            continue
        name = server.auth.oauth2.provider
        hosts = offered(parts, name).hosts
        if server.host.lower() not in hosts:
            raise PreconditionError(
                f"{server.name}.host is none of the servers that get access tokens of {name}: "
                f"{', '.join(sorted(hosts))} (oauth_{name}.hosts)",
                slug="host_not_of_provider",
            )
        if server.security == Security.NONE.value:
            raise PreconditionError(f"{server.name}: access tokens are sent over TLS only", slug="tls_needed")
        names.add(name)
    if len(names) > 1:
        raise PreconditionError("imap and smtp have one consent, of one provider", slug="one_consent")
    return next(iter(names), None)


def given(parts: Services, servers: Sequence[Server]) -> Given | None:
    """The consent whose tokens were given with these servers; None: no tokens were. Raises as `judge` does."""
    provider = judge(parts, servers)
    bodies = [server.auth.oauth2 for server in servers if server.auth.oauth2 is not None]
    tokens = {body.refresh_token: body for body in bodies if body.refresh_token is not None}
    if len(tokens) > 1:
        raise PreconditionError("imap and smtp have one consent, and so one refresh_token", slug="one_consent")
    if provider is None or not tokens:
        return None
    refresh, body = next(iter(tokens.items()))
    if body.access_token is None:
        return Given(provider, Kept((refresh,)), expires_at=0, renew_at=0)
    life_s = DEFAULT_LIFE_S if body.expires_in is None else body.expires_in
    return parts.tokens.given(provider, Tokens(body.access_token, refresh, life_s), refresh)


async def require_consent(parts: Services, mailbox_id: str, servers: Sequence[Server]) -> None:
    """Raise PreconditionError (`tokens_needed`) when these servers want a consent that the mailbox does not have."""
    wanted = {server.auth.oauth2.provider for server in servers if server.auth.oauth2 is not None}
    if not wanted:
        return
    standing = await parts.tokens.consents.find(mailbox_id)
    if standing is None or standing.provider not in wanted:
        raise PreconditionError("oauth2 needs a refresh_token, or a person who consents", slug="tokens_needed")
