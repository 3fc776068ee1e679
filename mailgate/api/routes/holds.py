"""Holds: a compliance matter stops the purge of a tenant, a mailbox or named messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Discriminator, Field, Tag

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.store.legal_holds import MAX_MATTER, MAX_MESSAGES, MAX_REASON, Hold, Scope
from mailgate.store.tokens import Scope as TokenScope
from mailgate.usecases.types import Answer, Body, ObjectId, Time, text

router = APIRouter(tags=["holds"], prefix="/v1/tenants/{tenant_id}/holds", dependencies=[only(TokenScope.COMPLIANCE)])

Reason = Annotated[str, text(MAX_REASON)]


class TenantScope(Body):
    """Everything of the tenant, also what arrives later."""

    tenant: Literal[True]


class MailboxScope(Body):
    """A mailbox, also what arrives in it later."""

    mailbox: ObjectId


class MessagesScope(Body):
    """Messages that are here."""

    message_ids: Annotated[list[ObjectId], Field(min_length=1, max_length=MAX_MESSAGES)]


def _kind(scope: object) -> str | None:
    """Which of them is meant, so that an error is of that one alone."""
    given = scope if isinstance(scope, Mapping) else getattr(scope, "__dict__", {})
    return next((f"<{kind}>" for kind in ("tenant", "mailbox", "message_ids") if kind in given), None)


class HoldBody(Body):
    """A hold to place."""

    scope: Annotated[
        Annotated[TenantScope, Tag("<tenant>")]
        | Annotated[MailboxScope, Tag("<mailbox>")]
        | Annotated[MessagesScope, Tag("<message_ids>")],
        Discriminator(
            _kind,
            custom_error_type="scope",
            custom_error_message='one of {"tenant": true}, {"mailbox": id} and {"message_ids": [ids]}',
        ),
    ]
    matter: Annotated[str, text(MAX_MATTER)] = Field(
        description="the name of the matter; it stands in the purge log in clear", examples=["2026-114 Miller"]
    )
    reason: Reason = Field(description="why; the purge log has a commitment to it")


class ReleaseBody(Body):
    """A hold to release."""

    reason: Reason = Field(description="why; the purge log has a commitment to it")


class ScopeAnswer(Answer):
    """What a hold covers."""

    kind: Literal["tenant", "mailbox", "messages"]
    mailbox_id: str | None
    messages: int | None = Field(description="how many messages it names")


class HoldAnswer(Answer):
    """A hold. While it stands, and after its release until `protects_until`, nothing that it covers is purged."""

    id: str
    scope: ScopeAnswer
    matter: str
    reason: str
    placed_at: Time
    placed_by: str
    released_at: Time | None
    released_by: str | None
    release_reason: str | None
    protects_until: Time | None = Field(description="null while it stands")


class HoldDetail(HoldAnswer):
    """A hold with what it names."""

    message_ids: list[str]


class HoldQuery(PageQuery):
    """Which holds to list."""

    standing: bool | None = Field(default=None, description="true: those that are not released; false: the others")


@router.post("", status_code=201, responses=problems(404, 409))
async def place_hold(tenant: TenantOf, body: HoldBody, parts: Parts, who: Who) -> HoldAnswer:
    """Stop the purge of what the scope covers, from this moment on. 409 names messages that are gone already."""
    scope = _scope(body.scope)
    hold = await parts.holds.place(
        tenant.id, scope, matter=body.matter, reason=body.reason, now=parts.clock(), actor=who.actor
    )
    return HoldAnswer(**_show(hold))


@router.get("", responses=problems(400, 404))
async def list_holds(tenant: TenantOf, query: Annotated[HoldQuery, Query()], parts: Parts) -> Items[HoldAnswer]:
    """Holds, newest first, released ones too."""
    cursors = Cursors("holds", (str,), tenant.id, query.standing)
    page = await parts.holds.list_page(
        tenant.id, standing=query.standing, after=cursors.after(query.cursor), limit=query.limit
    )
    return cursors.page(page, lambda hold: HoldAnswer(**_show(hold)))


@router.get("/{hold_id}", responses=problems(404))
async def get_hold(tenant: TenantOf, hold_id: Annotated[ObjectId, Path()], parts: Parts) -> HoldDetail:
    """One hold, with the messages that it names."""
    hold, ids = await parts.holds.get(tenant.id, hold_id)
    return HoldDetail(**_show(hold), message_ids=list(ids))


@router.post("/{hold_id}/release", responses=problems(404, 409))
async def release_hold(
    tenant: TenantOf, hold_id: Annotated[ObjectId, Path()], body: ReleaseBody, parts: Parts, who: Who
) -> HoldAnswer:
    """End a hold. What it covered stays for `retention.hold_release_days` more, and longer under other holds."""
    hold = await parts.holds.release(tenant.id, hold_id, reason=body.reason, now=parts.clock(), actor=who.actor)
    return HoldAnswer(**_show(hold))


def _scope(body: TenantScope | MailboxScope | MessagesScope) -> Scope:
    match body:
        case MailboxScope():
            return Scope(mailbox_id=body.mailbox)
        case MessagesScope():
            return Scope(message_ids=tuple(body.message_ids))
        case TenantScope():
            return Scope()


def _show(hold: Hold) -> dict[str, Any]:
    return {
        "id": hold.id,
        "scope": ScopeAnswer.model_validate(
            {"kind": hold.kind, "mailbox_id": hold.mailbox_id, "messages": hold.messages}
        ),
        "matter": hold.matter,
        "reason": hold.reason,
        "placed_at": hold.placed_at,
        "placed_by": hold.placed_by,
        "released_at": hold.released_at,
        "released_by": hold.released_by,
        "release_reason": hold.release_reason,
        "protects_until": hold.protects_until_at,
    }
