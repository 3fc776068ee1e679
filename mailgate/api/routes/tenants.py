"""Tenants, and the plans they may be on."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import LogOf, Parts, TenantOf, Who, only
from mailgate.errors import NotFoundError
from mailgate.store import tenants
from mailgate.store.tenant_erasure import Reason
from mailgate.store.tenants import Tenant
from mailgate.store.tokens import Scope
from mailgate.tenants.catalogue import Plan
from mailgate.usecases.types import Answer, Body, TenantId, Time, text

router = APIRouter(tags=["tenants"])


class TenantBody(Body):
    """What a tenant is made of."""

    name: Annotated[str, text(200)]


class TenantAnswer(Answer):
    """A tenant."""

    id: str
    name: str
    created_at: Time


class ErasureQuery(Body):
    """Why."""

    reason: Literal["offboarding", "erasure_request"] = Field(
        "offboarding",
        description="`offboarding`, or `erasure_request` (GDPR article 17); it stands in the purge log",
    )


class ErasureAnswer(Answer):
    """How far the erasure of a tenant is."""

    tenant_id: str
    state: Literal["erasing", "erased"]
    reason: Reason
    run_id: str = Field(description="the run of its purges in the purge log")
    begun_at: Time
    erased_at: Time | None = Field(description="since when only its purge log is left")
    purged: int = Field(description="copies purged so far")
    bytes: int


class PriceAnswer(Answer):
    """What one seat costs for a whole term, in the currency's smallest coin."""

    term_months: int
    amount: int


class PlanAnswer(Answer):
    """What a plan entitles to; a limit of null means no limit."""

    name: str
    title: str
    rank: int
    on_sale: bool
    sync: bool
    retention_days: int
    mailboxes_per_user: int | None
    shared_mailboxes: int | None
    seats: int | None
    storage_bytes: int | None
    sent_per_month: int | None
    sent_per_day: int | None
    sent_reserved: int | None = Field(description="the part of sent_per_month that only service mail may use")
    trial_days: int | None
    prices: list[PriceAnswer]


class PlansAnswer(Answer):
    """The comparison of plans."""

    version: int
    sha256: str
    currency: str
    terms: list[int] = Field(description="for how many months a plan can be bought")
    items: list[PlanAnswer]


@router.put(
    "/v1/tenants/{tenant_id}",
    dependencies=[only(Scope.CRM)],
    responses={201: {"model": TenantAnswer, "description": "Made"}, **problems(404, 409)},
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


@router.delete(
    "/v1/tenants/{tenant_id}",
    status_code=202,
    dependencies=[only(Scope.CRM)],
    responses={200: {"model": ErasureAnswer, "description": "It is erased"}, **problems(404, 409)},
)
async def erase_tenant(
    tenant: LogOf, query: Annotated[ErasureQuery, Query()], parts: Parts, who: Who, response: Response
) -> ErasureAnswer:
    """Erase a tenant: everything of it goes, but its purge log. There is no way back.

    Connections are closed and credentials destroyed at once, and nothing of the tenant is served any more. Its copies
    are purged and its keys destroyed right after; repeat the request to see how far it is. A hold forbids it.
    """
    found = await parts.tenant_erasures.begin(tenant.id, Reason(query.reason), who.actor)
    if found.erased_at is not None:
        response.status_code = 200
    return ErasureAnswer(
        tenant_id=found.tenant_id,
        state="erasing" if found.erased_at is None else "erased",
        reason=found.reason,
        run_id=found.run_id,
        begun_at=found.begun_at,
        erased_at=found.erased_at,
        purged=found.purged,
        bytes=found.bytes,
    )


@router.get("/v1/plans", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)])
async def list_plans(parts: Parts) -> PlansAnswer:
    """The comparison of plans, from the lowest to the highest."""
    catalogue = parts.subscriptions.catalogue
    return PlansAnswer(
        version=catalogue.version,
        sha256=catalogue.sha256,
        currency=catalogue.currency,
        terms=list(catalogue.terms),
        items=[_plan(plan) for plan in catalogue.ranked()],
    )


def _plan(plan: Plan) -> PlanAnswer:
    values = {name: getattr(plan, name) for name in PlanAnswer.model_fields}
    prices = [PriceAnswer(term_months=months, amount=amount) for months, amount in sorted(plan.prices.items())]
    return PlanAnswer.model_validate(values | {"prices": prices})


def _show(tenant: Tenant) -> TenantAnswer:
    return TenantAnswer(id=tenant.id, name=tenant.name, created_at=tenant.created_at)
