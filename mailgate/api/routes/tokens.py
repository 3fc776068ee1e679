"""Bearer tokens: made, listed and revoked; the secret is shown once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, Who, only
from mailgate.errors import ForbiddenError
from mailgate.store import tokens
from mailgate.store.tokens import Scope, Token
from mailgate.usecases.types import Answer, Body, ObjectId, TenantId, Time, TimeIn, text

router = APIRouter(tags=["tokens"], prefix="/v1/tokens")

ScopeWord = Literal["admin", "crm", "compliance"]


class TokenBody(Body):
    """A token to make."""

    name: Annotated[str, text(200)]
    scopes: list[ScopeWord] = Field(min_length=1, max_length=3)
    tenant_id: TenantId | None = Field(default=None, description="null: for all tenants")
    expires_at: TimeIn | None = Field(default=None, description="null: never")


class TokenAnswer(Answer):
    """A token without its secret."""

    id: str
    name: str
    scopes: list[ScopeWord]
    tenant_id: str | None
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None = Field(description="to the minute")
    revoked_at: Time | None


class NewTokenAnswer(TokenAnswer):
    """A token that was just made."""

    token: str = Field(description="the secret; it is shown only this once")


@router.post("", status_code=201, dependencies=[only()], responses=problems(404))
async def create_token(body: TokenBody, parts: Parts, who: Who) -> NewTokenAnswer:
    """Make a token. One that is bound to a tenant can only make tokens bound to the same."""
    if who.tenant_id is not None and body.tenant_id != who.tenant_id:
        raise ForbiddenError(f"a token of tenant {who.tenant_id} can only make tokens of that tenant")
    token, secret = await tokens.create(
        parts.db,
        name=body.name,
        scopes=[Scope(scope) for scope in body.scopes],
        tenant_id=body.tenant_id,
        expires_at=body.expires_at,
        now=parts.clock(),
    )
    return NewTokenAnswer(**_fields(token), token=secret)


@router.get("", dependencies=[only()], responses=problems(400))
async def list_tokens(query: Annotated[PageQuery, Query()], parts: Parts, who: Who) -> Items[TokenAnswer]:
    """Tokens, newest first, revoked ones too."""
    cursors = Cursors("tokens", (str,), who.tenant_id)
    page = await tokens.list_page(
        parts.db, tenant_id=who.tenant_id, after=cursors.after(query.cursor), limit=query.limit
    )
    return cursors.page(page, _show)


@router.delete("/{token_id}", status_code=204, dependencies=[only()], responses=problems(404))
async def revoke_token(token_id: Annotated[ObjectId, Path()], parts: Parts, who: Who) -> None:
    """End a token at once."""
    await tokens.revoke(parts.db, token_id, tenant_id=who.tenant_id, now=parts.clock())


def _show(token: Token) -> TokenAnswer:
    return TokenAnswer(**_fields(token))


def _fields(token: Token) -> dict[str, Any]:
    fields = {name: getattr(token, name) for name in TokenAnswer.model_fields}
    return fields | {"scopes": [scope.value for scope in sorted(token.scopes)]}
