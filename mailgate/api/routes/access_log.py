"""The access log: who read or changed what, over the interface and on the pages, and who signed in."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, Who, only
from mailgate.errors import NotFoundError
from mailgate.store import access_log
from mailgate.store.access_log import Access
from mailgate.store.tokens import Scope
from mailgate.usecases.types import Answer, Parameters, TenantId, Time, TimeIn, text

router = APIRouter(tags=["access log"])

KindWord = Literal["change", "read", "sign_in"]


class AccessQuery(PageQuery, Parameters):
    """Which entries to list."""

    tenant: TenantId | None = None
    actor: Annotated[str, text(200)] | None = Field(default=None, examples=["token:01J8Z0000000000000000000AB"])
    kind: KindWord | None = None
    since: TimeIn | None = Field(default=None, description="began at or after")
    until: TimeIn | None = Field(default=None, description="began before")


class AccessAnswer(Answer):
    """An entry. `targets` are the ids that stood in the path."""

    id: str
    at: Time
    kind: KindWord
    actor: str = Field(description="`token:<id>`, `user:<id>`; `user:unknown` for a name that nobody has")
    tenant_id: str | None
    method: str
    route: str
    targets: dict[str, str]
    status: int = Field(description="of the answer: what was refused is here too")
    count: int = Field(description="reads that are counted together; 1 for everything else")
    until_at: Time | None = Field(description="the last of those reads")
    address: str | None


@router.get("/v1/access-log", dependencies=[only(Scope.COMPLIANCE)], responses=problems(400, 404))
async def list_accesses(query: Annotated[AccessQuery, Query()], parts: Parts, who: Who) -> Items[AccessAnswer]:
    """Who changed what, who read messages, and who signed in, newest first. Reads are counted together and appear
    within a minute.
    """
    if query.tenant is not None and not who.reaches(query.tenant):
        raise NotFoundError(f"there is no tenant {query.tenant!r}", slug="tenant_not_found")
    tenant_id = query.tenant or who.tenant_id
    cursors = Cursors("accesses", (str,), tenant_id, query.actor, query.kind, query.since, query.until)
    page = await access_log.list_page(
        parts.db,
        tenant_id=tenant_id,
        actor=query.actor,
        kind=query.kind,
        since=query.since,
        until=query.until,
        after=cursors.after(query.cursor),
        limit=query.limit,
    )
    return cursors.page(page, _show)


def _show(access: Access) -> AccessAnswer:
    values = {name: getattr(access, name) for name in AccessAnswer.model_fields}
    return AccessAnswer.model_validate(values | {"kind": access.kind.value})
