"""Tenants, and the plans they may be on."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.api.types import Answer, Body, TenantId, Time, text
from mailgate.errors import NotFoundError
from mailgate.store import tenants
from mailgate.store.tenants import Tenant
from mailgate.store.tokens import Scope

router = APIRouter(tags=["tenants"])


class TenantBody(Body):
    """What a tenant is made of."""

    name: Annotated[str, text(200)]


class TenantAnswer(Answer):
    """A tenant."""

    id: str
    name: str
    created_at: Time


class PlanAnswer(Answer):
    """What a plan entitles to; a limit of null means no limit."""

    name: str
    title: str
    rank: int
    sync: bool
    retention_days: int
    mailboxes_per_user: int | None
    shared_mailboxes: int | None
    storage_bytes: int | None
    trial_days: int | None


class PlansAnswer(Answer):
    """The comparison of plans."""

    version: int
    sha256: str
    items: list[PlanAnswer]


@router.put(
    "/v1/tenants/{tenant_id}",
    dependencies=[only(Scope.CRM)],
    responses={201: {"model": TenantAnswer, "description": "Made"}, **problems(404)},
)
async def put_tenant(
    tenant_id: Annotated[TenantId, Path()], body: TenantBody, parts: Parts, who: Who, response: Response
) -> TenantAnswer:
    """Make a tenant, or rename it. New tenants are on plan free."""
    if not who.reaches(tenant_id):
        raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
    tenant, made = await tenants.put(parts.db, parts.ring, parts.log, tenant_id, body.name, parts.clock(), who.actor)
    response.status_code = 201 if made else 200
    return _show(tenant)


@router.get("/v1/tenants", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(400))
async def list_tenants(query: Annotated[PageQuery, Query()], parts: Parts, who: Who) -> Items[TenantAnswer]:
    """All tenants by id; for a token that is bound to one, that one."""
    if who.tenant_id is not None:
        own = await tenants.find(parts.db, who.tenant_id)
        return Items[TenantAnswer](items=[] if own is None else [_show(own)], next_cursor=None)
    cursors = Cursors("tenants", (str,))
    page = await tenants.list_page(parts.db, after=cursors.after(query.cursor), limit=query.limit)
    return cursors.page(page, _show)


@router.get("/v1/tenants/{tenant_id}", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(404))
async def get_tenant(tenant: TenantOf) -> TenantAnswer:
    """One tenant."""
    return _show(tenant)


@router.get("/v1/plans", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)])
async def list_plans(parts: Parts) -> PlansAnswer:
    """The comparison of plans, from the lowest to the highest."""
    catalogue = parts.catalogue
    plans = sorted(catalogue.plans.values(), key=lambda plan: (plan.rank, plan.name))
    return PlansAnswer(
        version=catalogue.version,
        sha256=catalogue.sha256,
        items=[
            PlanAnswer.model_validate({name: getattr(plan, name) for name in PlanAnswer.model_fields}) for plan in plans
        ],
    )


def _show(tenant: Tenant) -> TenantAnswer:
    return TenantAnswer(id=tenant.id, name=tenant.name, created_at=tenant.created_at)
