"""What a subscription's timeline is made of: events, and the periods that they open. Pure.

`mailgate.tenants.timeline` computes the one from the other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from mailgate.clock import DAY, Instant
from mailgate.tenants.calendar import LATEST
from mailgate.tenants.catalogue import FREE

BEGINNING: Instant = 0
"""Where every timeline begins: on Free."""


class Status(StrEnum):
    """A subscription's status, in the words that billing systems use."""

    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    CANCELED = "canceled"
    EXPIRED = "expired"


class EventType(StrEnum):
    """What can happen to a subscription. The order here decides between events of the same instant: what begins comes
    after what ends (a subscription that replaces another), a payment after the failure that it mends, a change of mind
    after the cancellation.
    """

    ENDED = "ended"
    SET = "set"
    TRIAL_STARTED = "trial_started"
    PURCHASED = "purchased"
    RENEWAL_FAILED = "renewal_failed"
    RENEWED = "renewed"
    UPGRADED = "upgraded"
    RENEWAL_BOUGHT = "renewal_bought"
    DOWNGRADE_BOUGHT = "downgrade_bought"
    SEATS_CHANGED = "seats_changed"
    CANCELED = "canceled"
    RESUMED = "resumed"


class Source(StrEnum):
    """Who sold it. What a partner sold is not renewed automatically."""

    DIRECT = "direct"
    PARTNER = "partner"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a subscription, counting from `effective_at`. `id` is unique within the tenant.

    Which of the other fields count depends on the type:

    | type | fields |
    |---|---|
    | set | all: what holds from now on, whatever went before; period_end None is without end |
    | trial_started | plan, period_end or term_months, seats; auto_renew: becomes a purchase by itself |
    | purchased | plan, term_months or period_end, seats, source, auto_renew (as by source if None) |
    | renewed | the next period is paid: period_end, or term_months (else the last term); auto_renew; plan if another |
    | renewal_bought | term_months: begins when the period ends |
    | downgrade_bought | plan, term_months, seats: begins when the period ends |
    | upgraded | plan, seats |
    | seats_changed | seats; at_end: when the period ends, not now |
    | renewal_failed | period_end: when what is paid ended, if the billing system had begun the next period already |
    | canceled | period_end when the billing system names another one; without any end the plan runs until `ended` |
    | resumed | automatic renewal is on again; a partner's has none, a trial with auto_renew only |
    | ended | Free from now on |

    `renewed` before the end lengthens the period, and another plan begins with the next one; after it, the next period
    begins where the last one ended. On Free it takes up the plan that is named, else the one that lapsed.

    `contract` is the billing system's own id of what was sold. What opens a plan (set, trial_started, purchased, a
    renewal of Free) brings its contract along; whatever else is told of it concerns it alone, so that the end of an old
    one does not end the one that replaced it. Of those that run, the one with the highest plan holds, among equals the
    one that began last. `set`, and `ended` without a contract, end them all.
    """

    id: str
    type: EventType
    effective_at: Instant
    plan: str | None = None
    status: Status | None = None
    period_end: Instant | None = None
    term_months: int | None = None
    auto_renew: bool | None = None
    seats: int | None = None
    source: Source | None = None
    at_end: bool = False
    contract: str | None = None


class ChangeKind(StrEnum):
    """What was bought or asked for and begins when the period ends."""

    RENEWAL = "renewal"
    DOWNGRADE = "downgrade"
    SEATS = "seats"


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A change that begins when the current period ends. `term_months` None: seats only; `cause` is the event's id.
    `period_end` where a billing system named the end of what begins.
    """

    kind: ChangeKind
    plan: str
    term_months: int | None
    seats: int | None
    cause: str
    period_end: Instant | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """What holds from `effective_at` until `until_at` (None: for ever).

    `period_start` and `period_end` are of the paid period, which may span several of these; `period_end` None is
    without end. `cause` is the id of the event that opened it, `cause_type` its type, or what time did: `period_ended`,
    `grace_ended`; None for the beginning.
    """

    plan: str
    status: Status
    effective_at: Instant
    until_at: Instant | None
    period_start: Instant
    period_end: Instant | None
    auto_renew: bool = False
    seats: int | None = None
    term_months: int | None = None
    source: Source = Source.DIRECT
    pending: PendingChange | None = None
    cause: str | None = None
    cause_type: str | None = None

    @property
    def paid(self) -> bool:
        """Whether it is a plan that was sold or given, not Free."""
        return self.plan != FREE


@dataclass(frozen=True, slots=True)
class SubscriptionRules:
    """Numbers of the rules: days of grace, and the ranks of plans in the catalogue."""

    grace_days: int = 10
    ranks: Mapping[str, int] = field(default_factory=dict)

    def rank(self, plan: str) -> float:
        """What is higher keeps more; a plan that is not known keeps everything."""
        return self.ranks.get(plan, inf)

    def grace_end(self, period_end: Instant) -> Instant:
        """When a period that was not renewed ends for good."""
        return min(period_end + self.grace_days * DAY, LATEST)


@dataclass(frozen=True, slots=True)
class Timeline:
    """The periods of a tenant, in order, the first from BEGINNING on."""

    periods: Sequence[Period]

    def at(self, now: Instant) -> Period:
        """The period that holds at `now`."""
        return self.periods[self._index(now)]

    def after(self, now: Instant) -> Sequence[Period]:
        """What begins by itself after `now`, in order, as long as no further event comes."""
        return self.periods[self._index(now) + 1 :]

    def plan_since(self, now: Instant) -> Instant:
        """Since when the plan that holds at `now` has held without a break."""
        index = self._index(now)
        plan = self.periods[index].plan
        while index > 0 and self.periods[index - 1].plan == plan:
            index -= 1
        return self.periods[index].effective_at

    def _index(self, now: Instant) -> int:
        return max(bisect_right(self.periods, now, key=lambda period: period.effective_at) - 1, 0)
