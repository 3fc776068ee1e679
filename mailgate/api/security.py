"""Who asks, and whether they may: bearer tokens, scopes, and the tenant that a token is bound to.

Authentication stands before everything else (see `mailgate.api.gate`); a route then names the scopes that it is for.
Another tenant's thing answers 404, as one that does not exist: a token must not be able to tell them apart.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPBearer

from mailgate.actors import Actor
from mailgate.clock import MINUTE, Clock, Instant
from mailgate.errors import ForbiddenError, NotFoundError, UnauthorizedError
from mailgate.store import tenants, tokens
from mailgate.store.database import Database
from mailgate.store.tenants import Tenant
from mailgate.store.tokens import LONGEST_SECRET, Scope, secret_hash
from mailgate.usecases.parts import Services
from mailgate.usecases.types import TenantId

ENVIRONMENT_TOKEN_ID = "environment"  # noqa: S105 - an id, not a secret


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from: a token's id, its scopes, and its tenant (None: all)."""

    token_id: str
    scopes: frozenset[Scope]
    tenant_id: str | None

    @property
    def actor(self) -> Actor:
        """The same as it is recorded beside a change."""
        return Actor("token", self.token_id)

    def may(self, *scopes: Scope) -> bool:
        """Whether one of the scopes, or admin, is among the token's."""
        return Scope.ADMIN in self.scopes or not self.scopes.isdisjoint(scopes)

    def reaches(self, tenant_id: str) -> bool:
        """Whether the token is for this tenant."""
        return self.tenant_id is None or self.tenant_id == tenant_id


class Authenticator:
    """Tells principals by their bearer token, and remembers when each was used."""

    def __init__(self, db: Database, clock: Clock, admin_token: str | None) -> None:
        self._db = db
        self._clock = clock
        self._admin_hash = secret_hash(admin_token) if admin_token else None
        self._used: dict[str, Instant] = {}

    async def authenticate(self, header: str | None) -> Principal:
        """The principal of an Authorization header. Raises UnauthorizedError that says what is missing."""
        if header is None:
            raise UnauthorizedError("this needs `Authorization: Bearer <token>`")
        scheme, _, secret = header.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret or len(secret) > LONGEST_SECRET:
            raise UnauthorizedError("the Authorization header must be `Bearer <token>`")
        if self._admin_hash is not None and hmac.compare_digest(self._admin_hash, secret_hash(secret)):
            return Principal(ENVIRONMENT_TOKEN_ID, frozenset({Scope.ADMIN}), None)
        token = await tokens.find(self._db, secret)
        now = self._clock()
        if token is None or not token.valid(now):
            raise UnauthorizedError("this token is not known, was revoked or has expired")
        if token.last_used_at is None or now - token.last_used_at >= MINUTE:
            self._used[token.id] = now
        return Principal(token.id, token.scopes, token.tenant_id)

    async def flush(self) -> None:
        """Write what was remembered. Called once in a while and at the end: reading must not cost a write."""
        used, self._used = self._used, {}
        await tokens.note_use(self._db, used)


def services(request: Request) -> Services:
    """The gateway's parts."""
    found: Services = request.app.state.services
    return found


_bearer = HTTPBearer(auto_error=False, scheme_name="token", description="A token from POST /v1/tokens")


def principal(request: Request, _documented: Annotated[object, Security(_bearer)] = None) -> Principal:
    """Who asks; the gate has authenticated them already."""
    found: Principal | None = request.scope.get("principal")
    if found is None:
        raise UnauthorizedError("this needs `Authorization: Bearer <token>`")
    return found


@dataclass(frozen=True, slots=True)
class Only:
    """A route's dependency: lets tokens with one of these scopes, or admin, pass. Raises ForbiddenError."""

    scopes: frozenset[Scope]

    def __call__(self, who: Annotated[Principal, Depends(principal)]) -> Principal:
        if not who.may(*self.scopes):
            raise ForbiddenError(f"this needs a token of scope {' or '.join(sorted(self.scopes))}")
        return who


def only(*scopes: Scope) -> Any:
    """For a route's `dependencies`: the scopes that it is for; admin always is."""
    return Depends(Only(frozenset({Scope.ADMIN, *scopes})))


async def tenant(
    tenant_id: Annotated[TenantId, Path()],
    who: Annotated[Principal, Depends(principal)],
    parts: Annotated[Services, Depends(services)],
) -> Tenant:
    """The tenant in the path. Raises NotFoundError, for one that the token is not bound to as well."""
    if not who.reaches(tenant_id):
        raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
    found = await tenants.find(parts.db, tenant_id)
    if found is None:
        raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
    return found


async def tenant_of_log(
    tenant_id: Annotated[TenantId, Path()],
    who: Annotated[Principal, Depends(principal)],
    parts: Annotated[Services, Depends(services)],
) -> Tenant:
    """The tenant in the path whose log is asked for; one that was erased as well: its log stays. Raises
    NotFoundError.
    """
    found = await tenants.find(parts.db, tenant_id, erased=True) if who.reaches(tenant_id) else None
    if found is None:
        raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
    return found


Parts = Annotated[Services, Depends(services)]
Who = Annotated[Principal, Depends(principal)]
TenantOf = Annotated[Tenant, Depends(tenant)]
LogOf = Annotated[Tenant, Depends(tenant_of_log)]
