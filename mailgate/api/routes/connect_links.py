"""Connect links: a single-use page where a person enters the credentials of their mailbox."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.responses import Response

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.clock import Instant
from mailgate.store.connect_links import ConnectLink, LinkState
from mailgate.store.tokens import Scope
from mailgate.usecases import connect_links
from mailgate.usecases.connect_links import ConnectLinkBody
from mailgate.usecases.parts import Services
from mailgate.usecases.types import Answer, ObjectId, Time

router = APIRouter(tags=["onboarding"], dependencies=[only(Scope.CRM)])

_LINKS = "/v1/tenants/{tenant_id}/connect-links"
LinkId = Annotated[ObjectId, Path()]


class ConnectLinkAnswer(Answer):
    """A link without its secret."""

    id: str
    tenant_id: str
    state: LinkState
    owner: str | None
    address: str | None
    shared: bool
    return_url: str | None
    created_by: str
    created_at: Time
    expires_at: Time
    attempts: int = Field(description="look-ups and checks that were asked for by it")
    used_at: Time | None
    revoked_at: Time | None
    mailbox_id: str | None = Field(description="what was connected")


class NewConnectLinkAnswer(ConnectLinkAnswer):
    """A link that was just made."""

    url: str = Field(description="the page; whoever has this may use it, and it is shown only this once")


@router.post(_LINKS, status_code=201, responses=problems(404, 409))
async def create_connect_link(
    tenant: TenantOf, parts: Parts, who: Who, response: Response, body: ConnectLinkBody | None = None
) -> NewConnectLinkAnswer:
    """Make a link, good once and until it expires, by which a person connects their mailbox themselves. A plan without
    sync answers 409 `not_entitled`.
    """
    link, url = await connect_links.make(parts, tenant.id, body or ConnectLinkBody(), who.actor)
    response.headers["location"] = f"/v1/tenants/{tenant.id}/connect-links/{link.id}"
    return NewConnectLinkAnswer(**_fields(link, parts, parts.clock()), url=url)


@router.get(_LINKS, responses=problems(400, 404))
async def list_connect_links(
    tenant: TenantOf, query: Annotated[PageQuery, Query()], parts: Parts
) -> Items[ConnectLinkAnswer]:
    """The tenant's links, newest first; those that are over are listed for onboarding.link_keep_days."""
    cursors = Cursors("connect_links", (str,), tenant.id)
    page = await parts.links.list_page(tenant.id, after=cursors.after(query.cursor), limit=query.limit)
    now = parts.clock()
    return cursors.page(page, lambda link: ConnectLinkAnswer(**_fields(link, parts, now)))


@router.get(_LINKS + "/{connect_link_id}", responses=problems(404))
async def get_connect_link(tenant: TenantOf, connect_link_id: LinkId, parts: Parts) -> ConnectLinkAnswer:
    """One link, and what became of it."""
    link = await parts.links.get(tenant.id, connect_link_id)
    return ConnectLinkAnswer(**_fields(link, parts, parts.clock()))


@router.delete(_LINKS + "/{connect_link_id}", status_code=204, responses=problems(404))
async def revoke_connect_link(tenant: TenantOf, connect_link_id: LinkId, parts: Parts) -> None:
    """End a link at once. What was connected by it stays."""
    await parts.links.revoke(tenant.id, connect_link_id, parts.clock())


def _fields(link: ConnectLink, parts: Services, now: Instant) -> dict[str, Any]:
    given = {name: getattr(link, name) for name in ConnectLinkAnswer.model_fields if name != "state"}
    return given | {"state": link.state(now, parts.links.most_attempts)}
