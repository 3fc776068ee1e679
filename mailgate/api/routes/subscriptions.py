"""Subscriptions: the plan that holds, what it entitles to, what is used of it, and how it came about."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import Field

from mailgate.api.paging import Items
from mailgate.api.problems import problems
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.api.services import Services
from mailgate.api.types import Answer, Body, TenantId, Time, TimeIn, text
from mailgate.store import overview
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.store.tenants import Tenant
from mailgate.store.tokens import Scope
from mailgate.tenants.subscription import Status, current_period

router = APIRouter(tags=["subscriptions"], prefix="/v1/tenants/{tenant_id}/subscription")

StatusWord = Literal["trialing", "active", "past_due", "canceled", "expired"]


class SubscriptionBody(Body):
    """What to set; it holds from now on."""

    plan: Annotated[str, text(64)] = Field(description="one of `GET /v1/plans`")
    status: StatusWord = "active"
    period_end: TimeIn | None = Field(default=None, description="null: until it is set anew")
    auto_renew: bool = False
    seats: int | None = Field(default=None, ge=1, le=1_000_000)


class Seats(Answer):
    """Users: owners of connected mailboxes, and how many were bought (null: no limit)."""

    used: int
    max: int | None


class PendingChange(Answer):
    """What begins by itself at a later time."""

    plan: str
    status: StatusWord
    effective_at: Time


class EntitlementsAnswer(Answer):
    """What holds now. `known` is false when the plan is not in the catalogue: nothing is synced or purged then."""

    known: bool
    sync: bool
    retention_days: int | None
    mailboxes_per_user: int | None
    shared_mailboxes: int | None
    storage_bytes: int | None


class Usage(Answer):
    """What is used: sizes of the copies that are served, and mailboxes that are connected."""

    storage_bytes: int
    mailboxes: int


class SubscriptionAnswer(Answer):
    """A tenant's subscription at this moment."""

    plan: str
    status: StatusWord
    period_start: Time | None
    period_end: Time | None
    auto_renew: bool
    seats: Seats
    pending_change: PendingChange | None
    entitlements: EntitlementsAnswer
    usage: Usage


class PeriodAnswer(Answer):
    """One period and the event that caused it."""

    plan: str
    status: StatusWord
    effective_at: Time
    period_end: Time | None
    auto_renew: bool
    seats: int | None
    event_id: str
    event_type: str
    recorded_at: Time
    actor: str


@router.get("", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(404))
async def get_subscription(tenant: TenantOf, parts: Parts) -> SubscriptionAnswer:
    """The plan that holds now, what it entitles to, and what is used of it."""
    return await _show(tenant, parts)


@router.put("", dependencies=[only()], responses=problems(404))
async def put_subscription(
    tenant_id: Annotated[TenantId, Path()], tenant: TenantOf, body: SubscriptionBody, parts: Parts, who: Who
) -> SubscriptionAnswer:
    """Set the subscription, from now on. Becoming free ends every connection and makes unattached copies due."""
    change = SubscriptionChange(body.plan, Status(body.status), body.period_end, body.auto_renew, body.seats)
    await parts.subscriptions.set_outright(tenant_id, change, parts.clock(), who.actor)
    parts.sync.changed()
    return await _show(tenant, parts)


@router.get("/history", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(404))
async def list_history(tenant: TenantOf, parts: Parts) -> Items[PeriodAnswer]:
    """Every period with the event that caused it, the latest first."""
    recorded = await parts.subscriptions.history(tenant.id)
    items = [
        PeriodAnswer(
            plan=entry.period.plan,
            status=entry.period.status.value,
            effective_at=entry.period.effective_at,
            period_end=entry.period.period_end,
            auto_renew=entry.period.auto_renew,
            seats=entry.period.seats,
            event_id=entry.event_id,
            event_type=entry.event_type,
            recorded_at=entry.recorded_at,
            actor=entry.actor,
        )
        for entry in recorded
    ]
    return Items[PeriodAnswer](items=items, next_cursor=None)


async def _show(tenant: Tenant, parts: Services) -> SubscriptionAnswer:
    now = parts.clock()
    recorded = await parts.subscriptions.history(tenant.id)
    timeline = [entry.period for entry in recorded]
    holds = parts.subscriptions.judge(timeline, now)
    period = current_period(timeline, now)
    ended = period is not None and holds.since != period.effective_at  # its time ran out: what holds is Free
    later = min(
        (entry for entry in timeline if entry.effective_at > now), key=lambda entry: entry.effective_at, default=None
    )
    used = await overview.usage(parts.db, parts.expiry, tenant.id, now)
    limits = holds.limits
    return SubscriptionAnswer(
        plan=holds.plan,
        status=holds.status.value,
        period_start=holds.since if period is not None else None,
        period_end=holds.period_end,
        auto_renew=period.auto_renew if period is not None and not ended else False,
        seats=Seats(used=used.owners, max=period.seats if period is not None and not ended else None),
        pending_change=None
        if later is None
        else PendingChange(plan=later.plan, status=later.status.value, effective_at=later.effective_at),
        entitlements=EntitlementsAnswer(
            known=holds.known,
            sync=holds.sync,
            retention_days=holds.retention_days,
            mailboxes_per_user=limits.mailboxes_per_user if limits else None,
            shared_mailboxes=limits.shared_mailboxes if limits else None,
            storage_bytes=limits.storage_bytes if limits else None,
        ),
        usage=Usage(storage_bytes=used.storage_bytes, mailboxes=used.mailboxes),
    )
