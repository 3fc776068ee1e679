"""Subscriptions: the plan that holds, what it entitles to, what is used of it, how it came about, what will happen."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from mailgate.api.paging import Items
from mailgate.api.problems import problems
from mailgate.api.routes.subscription_models import (
    EntitlementsAnswer,
    NoticeAnswer,
    OptionAnswer,
    PendingChange,
    PeriodAnswer,
    Seats,
    SubscriptionAnswer,
    SubscriptionBody,
    UsageAnswer,
)
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.clock import Instant
from mailgate.errors import PreconditionError
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.store.tenants import Tenant
from mailgate.store.timelines import RecordedPeriod
from mailgate.store.tokens import Scope
from mailgate.tenants.catalogue import FREE
from mailgate.tenants.timeline import BEGINNING, Period, Status
from mailgate.usecases import subscriptions
from mailgate.usecases.parts import Services
from mailgate.usecases.types import TenantId

router = APIRouter(tags=["subscriptions"], prefix="/v1/tenants/{tenant_id}/subscription")


@router.get("", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(404))
async def get_subscription(tenant: TenantOf, parts: Parts) -> SubscriptionAnswer:
    """The plan that holds now, what it entitles to, and what is used of it."""
    return await show(tenant, parts)


@router.put("", dependencies=[only()], responses=problems(404))
async def put_subscription(
    tenant_id: Annotated[TenantId, Path()], tenant: TenantOf, body: SubscriptionBody, parts: Parts, who: Who
) -> SubscriptionAnswer:
    """Set the subscription, from now on. Becoming free ends every connection and makes unattached copies due."""
    if body.plan != FREE and body.status == "expired":
        raise PreconditionError("what is expired is on plan free: set that", slug="status_contradicts_plan")
    change = SubscriptionChange(body.plan, Status(body.status), body.period_end, body.auto_renew, body.seats)
    await parts.subscriptions.set_outright(tenant_id, change, parts.clock(), who.actor)
    parts.sync.changed()
    return await show(tenant, parts)


@router.get("/history", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(404))
async def list_history(tenant: TenantOf, parts: Parts) -> Items[PeriodAnswer]:
    """Every period with the event that caused it, the latest first."""
    recorded = await parts.subscriptions.history(tenant.id, parts.clock())
    return Items[PeriodAnswer](items=[_period(entry) for entry in recorded], next_cursor=None)


@router.get("/options", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(404))
async def list_options(tenant: TenantOf, parts: Parts) -> Items[OptionAnswer]:
    """The commands, and which of them the rules allow now; for the others why not, and from when."""
    options = await parts.subscriptions.options(tenant.id, parts.clock())
    items = [
        OptionAnswer(
            command=option.command.value,
            allowed=option.allowed,
            reason=option.slug,
            detail=option.detail,
            allowed_at=option.allowed_at,
        )
        for option in options
    ]
    return Items[OptionAnswer](items=items, next_cursor=None)


@router.get("/notices", dependencies=[only(Scope.CRM, Scope.COMPLIANCE)], responses=problems(404))
async def list_notices(tenant: TenantOf, parts: Parts) -> Items[NoticeAnswer]:
    """What will happen by itself within the days ahead that `plans.notice_days` names, and how many copies and
    mailboxes it touches.
    """
    found = await subscriptions.coming(parts, tenant.id)
    items = [
        NoticeAnswer(
            kind=notice.what.kind.value,
            at=notice.what.at,
            plan=notice.what.before.plan,
            plan_after=notice.what.after.plan,
            status_after=notice.what.after.status.value,
            retention_days_after=notice.retention_days,
            copies_due=notice.copies_due,
            bytes_due=notice.bytes_due,
            mailboxes_switched_off=list(notice.switched_off),
        )
        for notice in found
    ]
    return Items[NoticeAnswer](items=items, next_cursor=None)


async def show(tenant: Tenant, parts: Services, *, after: Instant = BEGINNING) -> SubscriptionAnswer:
    """The subscription as it is now, with all that was recorded up to `after`."""
    found = await subscriptions.standing(parts, tenant.id, after=after)
    period, holds, used, limits = found.period, found.holds, found.used, found.holds.limits
    return SubscriptionAnswer(
        plan=holds.plan,
        status=holds.status.value,
        since=found.since,
        period_start=found.period_start,
        period_end=period.period_end,
        auto_renew=period.auto_renew,
        term_months=period.term_months,
        source=period.source.value,
        seats=Seats(used=used.users, max=found.seats),
        pending_change=_pending(period),
        entitlements=EntitlementsAnswer(
            known=holds.known,
            sync=holds.sync,
            retention_days=holds.retention_days,
            mailboxes_per_user=limits.mailboxes_per_user if limits else None,
            shared_mailboxes=limits.shared_mailboxes if limits else None,
            storage_bytes=found.storage_bytes,
            sent_per_month=limits.sent_per_month if limits else None,
            sent_per_day=limits.sent_per_day if limits else None,
            sent_reserved=limits.sent_reserved if limits else None,
        ),
        usage=UsageAnswer(
            storage_bytes=used.storage_bytes,
            storage_exceeded=found.storage_exceeded,
            mailboxes=used.mailboxes,
            sent_this_month=used.sent,
            sent_left_this_month=found.sent_left,
        ),
    )


def _pending(period: Period) -> PendingChange | None:
    change = period.pending
    if change is None:
        return None
    return PendingChange(
        kind=change.kind.value,
        plan=change.plan,
        term_months=change.term_months,
        seats=change.seats,
        effective_at=period.period_end,
    )


def _period(entry: RecordedPeriod) -> PeriodAnswer:
    period = entry.period
    return PeriodAnswer(
        plan=period.plan,
        status=period.status.value,
        effective_at=period.effective_at,
        until_at=period.until_at,
        period_start=period.period_start,
        period_end=period.period_end,
        auto_renew=period.auto_renew,
        term_months=period.term_months,
        seats=period.seats,
        source=period.source.value,
        pending_change=_pending(period),
        event_id=period.cause,
        event_type=period.cause_type or "beginning",
        recorded_at=entry.recorded_at,
        actor=entry.actor,
    )
