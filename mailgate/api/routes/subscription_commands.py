"""What may be done to a subscription: the commands with the rules of purchase, quotes, and another system's events.

A refusal is 409 with a slug of its own; where time will allow it, `allowed_at` says from when. It changes nothing.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mailgate.api.problems import problems
from mailgate.api.routes.subscription_models import (
    DowngradeBody,
    EventBody,
    NoBody,
    PurchaseBody,
    QuoteAnswer,
    QuoteBody,
    RecordedAnswer,
    RenewBody,
    SeatsBody,
    SubscriptionAnswer,
    UpgradeBody,
)
from mailgate.api.routes.subscriptions import show
from mailgate.api.security import Parts, TenantOf, Who, only
from mailgate.errors import PreconditionError
from mailgate.store.tokens import Scope
from mailgate.tenants.catalogue import FREE
from mailgate.tenants.commands import Command, Wish
from mailgate.tenants.timeline import Event, EventType, Source, Status
from mailgate.usecases import subscriptions
from mailgate.usecases.types import Body

router = APIRouter(tags=["subscriptions"], prefix="/v1/tenants/{tenant_id}/subscription")


@router.post("/purchase", dependencies=[only(Scope.CRM)], responses=problems(404))
async def purchase_subscription(tenant: TenantOf, body: PurchaseBody, parts: Parts, who: Who) -> SubscriptionAnswer:
    """A plan was bought, from Free or out of a trial. It holds at once, renewed by itself unless a partner sold it."""
    return await _do(Command.PURCHASE, body, tenant, parts, who)


@router.post("/renew", dependencies=[only(Scope.CRM)], responses=problems(404))
async def renew_subscription(
    tenant: TenantOf, parts: Parts, who: Who, body: RenewBody | None = None
) -> SubscriptionAnswer:
    """The next term was bought by hand: from 30 days before the end, once. It begins when the period ends."""
    return await _do(Command.RENEW, body, tenant, parts, who)


@router.post("/retry", dependencies=[only(Scope.CRM)], responses=problems(404))
async def retry_subscription(
    tenant: TenantOf, parts: Parts, who: Who, body: NoBody | None = None
) -> SubscriptionAnswer:
    """The renewal that had failed was paid after all, within the days of grace."""
    return await _do(Command.RETRY, body, tenant, parts, who)


@router.post("/upgrade", dependencies=[only(Scope.CRM)], responses=problems(404))
async def upgrade_subscription(tenant: TenantOf, body: UpgradeBody, parts: Parts, who: Who) -> SubscriptionAnswer:
    """A higher plan was bought. It holds at once, keeps what is not purged yet, and brings nothing back by itself."""
    return await _do(Command.UPGRADE, body, tenant, parts, who)


@router.post("/downgrade", dependencies=[only(Scope.CRM)], responses=problems(404))
async def downgrade_subscription(tenant: TenantOf, body: DowngradeBody, parts: Parts, who: Who) -> SubscriptionAnswer:
    """A lower plan was bought for the time after the period's end: from 1 day before it."""
    return await _do(Command.DOWNGRADE, body, tenant, parts, who)


@router.post("/cancel", dependencies=[only(Scope.CRM)], responses=problems(404))
async def cancel_subscription(
    tenant: TenantOf, parts: Parts, who: Who, body: NoBody | None = None
) -> SubscriptionAnswer:
    """Automatic renewal is switched off: the plan runs to the end of its period, then Free."""
    return await _do(Command.CANCEL, body, tenant, parts, who)


@router.post("/resume", dependencies=[only(Scope.CRM)], responses=problems(404))
async def resume_subscription(
    tenant: TenantOf, parts: Parts, who: Who, body: NoBody | None = None
) -> SubscriptionAnswer:
    """What was cancelled and still runs is renewed automatically again."""
    return await _do(Command.RESUME, body, tenant, parts, who)


@router.post("/seats", dependencies=[only(Scope.CRM)], responses=problems(404))
async def change_seats(tenant: TenantOf, body: SeatsBody, parts: Parts, who: Who) -> SubscriptionAnswer:
    """So many users: more at once, fewer from the period's end on, never fewer than are in use."""
    return await _do(Command.SEATS, body, tenant, parts, who)


@router.post("/quote", dependencies=[only(Scope.CRM)], responses=problems(404))
async def quote_change(tenant: TenantOf, body: QuoteBody, parts: Parts) -> QuoteAnswer:
    """What a command would cost, prorated for the rest of the period. It changes nothing; what the rules forbid has no
    price.
    """
    wish = Wish(Command(body.command), body.plan, body.term_months, body.seats)
    found = await parts.subscriptions.quote(tenant.id, wish, parts.clock())
    values = {name: getattr(found, name) for name in QuoteAnswer.model_fields}
    return QuoteAnswer.model_validate(values | {"command": found.command.value})


@router.post("/events", dependencies=[only()], responses=problems(404))
async def tell_event(tenant: TenantOf, body: EventBody, parts: Parts, who: Who) -> RecordedAnswer:
    """What a billing system knows. Events count from their `effective_at`: any order of arrival and any number of
    repeats make the same timeline. One that comes late changes the past, and says so.
    """
    recorded = await parts.subscriptions.tell(tenant.id, [_event(body)], parts.clock(), who.actor)
    if recorded.new:
        parts.sync.changed()
    return RecordedAnswer(
        applied=recorded.new > 0, changed_past=recorded.changed_past, subscription=await show(tenant, parts)
    )


async def _do(command: Command, body: Body | None, tenant: TenantOf, parts: Parts, who: Who) -> SubscriptionAnswer:
    values: dict[str, Any] = {} if body is None else body.model_dump()
    if "source" in values:
        values["source"] = Source(values["source"])
    at = await subscriptions.command(parts, tenant.id, Wish(command, **values), who.actor)
    return await show(tenant, parts, after=at)


_BEGINS = frozenset({"set", "trial_started", "purchased"})
_NEEDS_PLAN = frozenset({"set", "trial_started", "purchased", "upgraded", "downgrade_bought"})


def _event(body: EventBody) -> Event:
    """The event that was told. Raises PreconditionError for one that lacks what its type needs, or would mean nothing
    wherever it stood.
    """
    values = body.model_dump()
    if body.type in _NEEDS_PLAN and body.plan is None:
        raise PreconditionError(f"an event of type {body.type} needs `plan`", slug="plan_missing")
    if body.type not in ("set", "ended") and body.plan == FREE:
        raise PreconditionError("Free is not sold: tell `canceled` or `ended`", slug="plan_not_on_sale")
    if body.type == "seats_changed" and body.seats is None:
        raise PreconditionError("an event of type seats_changed needs `seats`", slug="seats_missing")
    if body.type == "purchased" and body.period_end is None and body.term_months is None:
        raise PreconditionError(
            "say until when it was bought: `period_end` or `term_months`", slug="period_end_missing"
        )
    begins = body.type in _BEGINS and body.plan != FREE and body.status not in ("past_due", "expired")
    if begins and body.period_end is not None and body.period_end <= body.effective_at:
        raise PreconditionError("`period_end` must lie after `effective_at`, when it begins", slug="period_end_invalid")
    for name, kind in (("type", EventType), ("status", Status), ("source", Source)):
        if values[name] is not None:
            values[name] = kind(values[name])
    return Event(**values)
