"""What requests and answers about subscriptions are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mailgate.usecases.types import Answer, Body, Time, TimeIn, text

StatusWord = Literal["trialing", "active", "past_due", "canceled", "expired"]
SourceWord = Literal["direct", "partner"]
EventWord = Literal[
    "set",
    "trial_started",
    "purchased",
    "renewed",
    "upgraded",
    "renewal_bought",
    "downgrade_bought",
    "seats_changed",
    "resumed",
    "canceled",
    "renewal_failed",
    "ended",
]

PlanName = Annotated[str, text(32)]
SeatCount = Annotated[int, Field(ge=1, le=1_000_000)]
Months = Annotated[int, Field(ge=1, le=120, description="a term that is sold, see GET /v1/plans")]
_Term = Annotated[
    Months | None, Field(default=None, description="one of the `terms` of GET /v1/plans; the shortest if left out")
]


class SubscriptionBody(Body):
    """What to set; it holds from now on."""

    plan: PlanName = Field(description="one of `GET /v1/plans`")
    status: StatusWord = "active"
    period_end: TimeIn | None = Field(default=None, description="null: until it is set anew")
    auto_renew: bool = False
    seats: SeatCount | None = None


class PurchaseBody(Body):
    """What was bought, from Free or out of a trial."""

    plan: PlanName
    term_months: _Term
    seats: SeatCount | None = Field(default=None, description="null: as many as there were")
    source: SourceWord = Field(default="direct", description="a partner's sale has no automatic renewal")


class RenewBody(Body):
    """What was bought for the time after the period's end."""

    term_months: _Term


class UpgradeBody(Body):
    """The higher plan, from now on."""

    plan: PlanName
    seats: SeatCount | None = None


class DowngradeBody(Body):
    """The lower plan, from the period's end on."""

    plan: PlanName
    term_months: _Term
    seats: SeatCount | None = None


class SeatsBody(Body):
    """How many users there shall be: more at once, fewer from the period's end on."""

    seats: SeatCount


class NoBody(Body):
    """Nothing needs to be said."""


class QuoteBody(Body):
    """The command whose price is asked for, with its values."""

    command: Literal["purchase", "renew", "upgrade", "downgrade", "seats"]
    plan: PlanName | None = None
    term_months: Months | None = None
    seats: SeatCount | None = None


class EventBody(Body):
    """What another system knows of a subscription; in any order, as often as it likes."""

    id: Annotated[str, text(190)] = Field(description="the other system's own id of the event: repeats are ignored")
    type: EventWord
    effective_at: TimeIn = Field(description="from when on it counts")
    plan: PlanName | None = None
    status: StatusWord | None = Field(default=None, description="for `set`")
    period_end: TimeIn | None = None
    term_months: Months | None = None
    auto_renew: bool | None = None
    seats: SeatCount | None = None
    source: SourceWord | None = None
    at_end: bool = Field(default=False, description="for `seats_changed`: from the period's end on")
    contract: Annotated[str, text(200)] | None = Field(
        default=None,
        description="the other system's id of what was sold: what is told of another contract than the one that holds "
        "changes nothing",
    )


class Seats(Answer):
    """Users: owners of connected mailboxes, and how many there may be (null: no limit)."""

    used: int
    max: int | None


class PendingChange(Answer):
    """What was bought or asked for and begins when the period ends."""

    kind: Literal["renewal", "downgrade", "seats"]
    plan: str
    term_months: int | None
    seats: int | None
    effective_at: Time | None


class EntitlementsAnswer(Answer):
    """What holds now. `known` is false when the plan is not in the catalogue: nothing is synced or purged then."""

    known: bool
    sync: bool
    retention_days: int | None
    mailboxes_per_user: int | None
    shared_mailboxes: int | None
    storage_bytes: int | None
    sent_per_month: int | None
    sent_per_day: int | None
    sent_reserved: int | None


class UsageAnswer(Answer):
    """What is used: sizes of the copies that are served, connected mailboxes, messages accepted for sending."""

    storage_bytes: int
    storage_exceeded: bool
    mailboxes: int
    sent_this_month: int
    sent_left_this_month: int | None = Field(description="null: no limit")


class OptionAnswer(Answer):
    """A command, and whether the rules allow it now; if not, why, and from when if time will allow it."""

    command: Literal["purchase", "renew", "retry", "upgrade", "downgrade", "cancel", "resume", "seats"]
    allowed: bool
    reason: str | None = Field(description="the slug of the 409 that it would answer")
    detail: str | None
    allowed_at: Time | None


class SubscriptionAnswer(Answer):
    """A tenant's subscription at this moment."""

    plan: str
    status: StatusWord
    since: Time | None = Field(description="since when the plan has held without a break; null: from the beginning")
    period_start: Time | None
    period_end: Time | None
    auto_renew: bool
    term_months: int | None
    source: SourceWord
    seats: Seats
    pending_change: PendingChange | None
    entitlements: EntitlementsAnswer
    usage: UsageAnswer


class RecordedAnswer(Answer):
    """What came of an event: whether it was new, and whether it changed what was thought to hold in the past."""

    applied: bool
    changed_past: bool
    subscription: SubscriptionAnswer


class PeriodAnswer(Answer):
    """One period and the event that caused it. `event_type` may also be what time did: `period_ended`, `grace_ended`;
    `event_id` is then of the event by which it came so.
    """

    plan: str
    status: StatusWord
    effective_at: Time
    until_at: Time | None
    period_start: Time
    period_end: Time | None
    auto_renew: bool
    term_months: int | None
    seats: int | None
    source: SourceWord
    pending_change: PendingChange | None = Field(description="what was bought by then for the time after `period_end`")
    event_id: str | None
    event_type: str
    recorded_at: Time | None
    actor: str | None


class QuoteAnswer(Answer):
    """A price; amounts are whole numbers of the currency's smallest coin."""

    command: Literal["purchase", "renew", "upgrade", "downgrade", "seats"]
    plan: str
    seats: int
    term_months: int
    currency: str
    amount: int = Field(description="due at `due_at`, for the rest of the period where one runs")
    full_amount: int = Field(description="for the whole term")
    due_at: Time
    begins_at: Time
    ends_at: Time


class NoticeAnswer(Answer):
    """What will happen by itself, and how much it touches of what there is now."""

    kind: Literal["trial_ends", "period_ends", "renewal_due", "change_begins", "grace_ends"]
    at: Time
    plan: str
    plan_after: str
    status_after: StatusWord
    retention_days_after: int | None
    copies_due: int = Field(description="copies that become due at that moment because of it")
    bytes_due: int
    mailboxes_switched_off: list[str] = Field(description="ids; beyond the limits of the plan that follows")
