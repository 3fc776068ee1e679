"""Alarms: what an operator or a compliance officer must look at."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from mailgate.alarms import Kind
from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, Who, only
from mailgate.errors import NotFoundError
from mailgate.store.alarms import AlarmRecord
from mailgate.store.tokens import Scope
from mailgate.usecases.types import Answer, TenantId, Time

router = APIRouter(tags=["alarms"], prefix="/v1/alarms", dependencies=[only(Scope.COMPLIANCE)])


class AlarmAnswer(Answer):
    """Something that is wrong, or was. It stands until what it is about is over; nobody needs to close it."""

    id: str
    kind: Kind
    tenant_id: str | None = Field(description="null: it concerns the whole gateway")
    detail: str = Field(description="what is wrong, in words")
    remedy: str = Field(description="what to do")
    raised_at: Time
    cleared_at: Time | None = Field(description="null while it stands")


class AlarmQuery(PageQuery):
    """Which alarms to list."""

    tenant: TenantId | None = Field(default=None, description="only this tenant's")
    standing: bool | None = Field(default=None, description="true: those that stand; false: those that are over")
    kind: Kind | None = None


@router.get("", responses=problems(400, 404))
async def list_alarms(query: Annotated[AlarmQuery, Query()], parts: Parts, who: Who) -> Items[AlarmAnswer]:
    """Alarms, newest first. A token that is bound to a tenant sees those of its tenant."""
    if query.tenant is not None and not who.reaches(query.tenant):
        raise NotFoundError(f"there is no tenant {query.tenant!r}", slug="tenant_not_found")
    tenant_id = query.tenant or who.tenant_id
    cursors = Cursors("alarms", (str,), tenant_id, query.standing, query.kind)
    page = await parts.alarms.page(
        tenant_id=tenant_id,
        standing=query.standing,
        kind=query.kind,
        after=cursors.after(query.cursor),
        limit=query.limit,
    )
    return cursors.page(page, _show)


def _show(record: AlarmRecord) -> AlarmAnswer:
    return AlarmAnswer(
        id=record.id,
        kind=record.kind,
        tenant_id=record.tenant_id,
        detail=record.detail,
        remedy=record.alarm.remedy,
        raised_at=record.raised_at,
        cleared_at=record.cleared_at,
    )
