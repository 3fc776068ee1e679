"""Guards: deletions at the server that were refused as improbable, and a person's leave to believe them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.store import guards
from mailgate.store.guards import Guard
from mailgate.store.tokens import Scope
from mailgate.sync.guards import Outcome
from mailgate.usecases import connecting
from mailgate.usecases.types import Answer, ObjectId, Time

router = APIRouter(tags=["guards"], prefix="/v1/tenants/{tenant_id}/mailboxes/{mailbox_id}/guards")


class GuardAnswer(Answer):
    """Deletions in one folder that are not believed. Their copies are kept until somebody approves."""

    id: str
    mailbox_id: str
    folder_id: str
    folder: str = Field(description="the folder's name")
    state: Literal["open", "approved", "closed"]
    reason: str = Field(description="what is gone, and what to do")
    known: int = Field(description="copies that stood in the folder")
    gone: int = Field(description="how many of them are gone at the server")
    uidvalidity: int
    digest: str = Field(description="SHA-256 of the UIDs that are gone: approved is exactly this set")
    raised_at: Time
    approved_at: Time | None
    approved_by: str | None
    closed_at: Time | None
    outcome: Outcome | None = Field(
        description="carried_out; restored: no longer improbable; changed: other messages are gone, see the newer guard"
    )


class GuardQuery(PageQuery):
    """Which guards to list."""

    open: bool | None = Field(default=None, description="true: those that are not closed; false: those that are")


@router.get("", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(400, 404))
async def list_guards(
    tenant: TenantOf, mailbox_id: Annotated[ObjectId, Path()], query: Annotated[GuardQuery, Query()], parts: Parts
) -> Items[GuardAnswer]:
    """What was refused and why, newest first."""
    await parts.mailboxes.get(tenant.id, mailbox_id)
    cursors = Cursors("guards", (str,), mailbox_id, query.open)
    page = await guards.list_page(
        parts.db, tenant.id, mailbox_id, open_=query.open, after=cursors.after(query.cursor), limit=query.limit
    )
    return cursors.page(page, _show)


@router.post("/{guard_id}/approve", dependencies=[only()], responses=problems(404, 409))
async def approve_guard(
    tenant: TenantOf,
    mailbox_id: Annotated[ObjectId, Path()],
    guard_id: Annotated[ObjectId, Path()],
    parts: Parts,
    who: Who,
) -> GuardAnswer:
    """Believe exactly the deletions that the guard names: the next pass removes their copies, but for those that are
    pinned or held. 409 `guard_changed` when other messages are gone by now, or turned up again.
    """
    guard = await connecting.approve_guard(parts, tenant.id, mailbox_id, guard_id, who.actor)
    return _show(guard)


def _show(guard: Guard) -> GuardAnswer:
    state: Literal["open", "approved", "closed"] = "open" if guard.approved_at is None else "approved"
    return GuardAnswer(
        id=guard.id,
        mailbox_id=guard.mailbox_id,
        folder_id=guard.folder_id,
        folder=guard.folder,
        state=state if guard.closed_at is None else "closed",
        reason=guard.reason,
        known=guard.known,
        gone=guard.gone,
        uidvalidity=guard.uidvalidity,
        digest=guard.digest.hex(),
        raised_at=guard.raised_at,
        approved_at=guard.approved_at,
        approved_by=guard.approved_by,
        closed_at=guard.closed_at,
        outcome=guard.outcome,
    )
