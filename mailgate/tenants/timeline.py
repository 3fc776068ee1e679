"""A tenant's subscription over time. Pure: events in, periods out.

Theory. What is kept is a set of *events* (bought, renewed, renewal failed, cancelled, …), each with the instant from
which it counts. The *timeline* is computed from them by one fold in the order of those instants, so the order in which
events arrive, and how often, makes no difference. Between events time itself acts: a period ends, a bought change
begins, a grace runs out. A timeline is therefore finite and total: a list of periods without gaps, whose last one has
no end. What holds at an instant is the period that covers it.

What time does at the end of a period, in this order:

1. a change that was bought (renewal, downgrade) begins; fewer seats that were asked for come into force;
2. a trial ends: Free, `expired`, without grace;
3. without automatic renewal the plan ends: Free, `canceled` when it was cancelled, else `expired`;
4. with automatic renewal, but no word that it was paid: `past_due`. The plan holds for the days of grace, so that
   neither a failed card nor a message of the billing system that comes late costs a tenant its history; then Free,
   `canceled`.

Invariants (property tests):

1. any order and any repetition of the same events give the same timeline;
2. periods follow each other without gap or overlap, and none is empty;
3. an event changes nothing before its own instant.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from mailgate.clock import DAY, Instant
from mailgate.tenants.calendar import add_months, day_of_month
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
    """What can happen to a subscription. The order here decides between events of the same instant."""

    SET = "set"
    TRIAL_STARTED = "trial_started"
    PURCHASED = "purchased"
    RENEWED = "renewed"
    UPGRADED = "upgraded"
    RENEWAL_BOUGHT = "renewal_bought"
    DOWNGRADE_BOUGHT = "downgrade_bought"
    SEATS_CHANGED = "seats_changed"
    RESUMED = "resumed"
    CANCELED = "canceled"
    RENEWAL_FAILED = "renewal_failed"
    ENDED = "ended"


_RANK = {kind: rank for rank, kind in enumerate(EventType)}


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
    | trial_started | plan, period_end, seats |
    | purchased | plan, term_months or period_end, seats, source, auto_renew (as by source if None) |
    | renewed | the next period is paid: period_end, or term_months (else the last term); plan if it is another |
    | renewal_bought | term_months: begins when the period ends |
    | downgrade_bought | plan, term_months, seats: begins when the period ends |
    | upgraded | plan, seats |
    | seats_changed | seats; at_end: when the period ends, not now |
    | renewal_failed | – |
    | canceled | period_end when the billing system names another one |
    | resumed | – |
    | ended | Free from now on |
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


class ChangeKind(StrEnum):
    """What was bought or asked for and begins when the period ends."""

    RENEWAL = "renewal"
    DOWNGRADE = "downgrade"
    SEATS = "seats"


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A change that begins when the current period ends. `term_months` None: seats only; `cause` is the event's id."""

    kind: ChangeKind
    plan: str
    term_months: int | None
    seats: int | None
    cause: str


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
    """Numbers of the rules; days."""

    grace_days: int = 10

    def grace_end(self, period_end: Instant) -> Instant:
        """When a period that was not renewed ends for good."""
        return period_end + self.grace_days * DAY


@dataclass(frozen=True, slots=True)
class Timeline:
    """The periods of a tenant, in order, the first from BEGINNING on."""

    periods: Sequence[Period]

    def at(self, now: Instant) -> Period:
        """The period that holds at `now`."""
        index = bisect_right(self.periods, now, key=lambda period: period.effective_at) - 1
        return self.periods[max(index, 0)]

    def after(self, now: Instant) -> Sequence[Period]:
        """What begins by itself after `now`, in order, as long as no further event comes."""
        index = bisect_right(self.periods, now, key=lambda period: period.effective_at)
        return self.periods[index:]

    def plan_since(self, now: Instant) -> Instant:
        """Since when the plan that holds at `now` has held without a break."""
        index = bisect_right(self.periods, now, key=lambda period: period.effective_at) - 1
        plan = self.periods[index].plan
        while index > 0 and self.periods[index - 1].plan == plan:
            index -= 1
        return self.periods[index].effective_at

    def next_change(self, now: Instant) -> Instant | None:
        """The next instant after `now` at which something begins by itself; None when nothing does."""
        later = self.after(now)
        return later[0].effective_at if later else None


def timeline(events: Iterable[Event], rules: SubscriptionRules = SubscriptionRules()) -> Timeline:
    """The timeline that these events make. Repeated ids count once; the order of the events does not matter.

    It is total: an event that makes no sense where it stands (a renewal of Free, say) changes nothing.
    """
    fold = _Fold(rules)
    known: set[str] = set()
    for event in sorted(events, key=_order):
        if event.id not in known:
            known.add(event.id)
            fold.pass_time(event.effective_at)
            fold.apply(event)
    fold.pass_time(None)
    return Timeline(tuple(fold.finished()))


def _order(event: Event) -> tuple[Instant, int, str]:
    return event.effective_at, _RANK[event.type], event.id


class _Fold:
    """The period that holds so far, and those that ended before it."""

    def __init__(self, rules: SubscriptionRules) -> None:
        self._rules = rules
        self._ended: list[Period] = []
        self._now = _free(BEGINNING, Status.ACTIVE)
        self._last_paid: Period | None = None
        self._day = 1

    def finished(self) -> list[Period]:
        return [*self._ended, self._now]

    def pass_time(self, until: Instant | None) -> None:
        """Everything that time does up to and at `until`; None: for ever."""
        while (end := self._end()) is not None and (until is None or end <= until):
            self._period_ends(end)

    def _end(self) -> Instant | None:
        """When time changes the period that holds; a past due one lasts until its grace is over."""
        end = self._now.period_end
        if end is None or not self._now.paid:
            return None
        bought = self._now.pending is not None and self._now.pending.term_months is not None
        if self._now.status is Status.PAST_DUE and not bought:
            end = self._rules.grace_end(end)
        return max(end, self._now.effective_at)

    def _period_ends(self, at: Instant) -> None:
        now, change = self._now, self._now.pending
        if change is not None and change.term_months is not None:
            self._begin_bought(change, change.term_months, at)
        elif now.status is Status.PAST_DUE:
            self._become(_free(at, Status.CANCELED), now.cause, "grace_ended")
        elif change is not None:
            # Still this period: what happens to it at its end is decided by the next turn of the loop.
            self._become(replace(now, seats=change.seats, pending=None, effective_at=at), change.cause, "period_ended")
        elif now.status is Status.TRIALING:
            self._become(_free(at, Status.EXPIRED), now.cause, "period_ended")
        elif not now.auto_renew:
            status = Status.CANCELED if now.status is Status.CANCELED else Status.EXPIRED
            self._become(_free(at, status), now.cause, "period_ended")
        else:
            self._become(replace(now, status=Status.PAST_DUE, effective_at=at), now.cause, "period_ended")

    def _begin_bought(self, change: PendingChange, months: int, at: Instant) -> None:
        now = self._now
        began = replace(
            now,
            plan=change.plan,
            # Bought for a plan whose automatic renewal was switched off, it ends like that one would have.
            status=now.status if now.status is Status.CANCELED else Status.ACTIVE,
            effective_at=at,
            period_start=at,
            period_end=add_months(at, months, day=self._day),
            seats=now.seats if change.seats is None else change.seats,
            term_months=months,
            pending=None,
        )
        self._become(began, change.cause, "period_ended")

    def apply(self, event: Event) -> None:
        """What the event does to the period that holds."""
        match event.type:
            case EventType.SET:
                self._set(event)
            case EventType.TRIAL_STARTED:
                self._open(event, Status.TRIALING, auto_renew=False)
            case EventType.PURCHASED:
                direct = event.source is not Source.PARTNER
                self._open(event, Status.ACTIVE, auto_renew=direct if event.auto_renew is None else event.auto_renew)
            case EventType.RENEWED:
                self._renew(event)
            case EventType.UPGRADED:
                self._upgrade(event)
            case EventType.RENEWAL_BOUGHT:
                self._buy(event, ChangeKind.RENEWAL, self._now.plan)
            case EventType.DOWNGRADE_BOUGHT:
                self._buy(event, ChangeKind.DOWNGRADE, event.plan or self._now.plan)
            case EventType.SEATS_CHANGED:
                self._seats(event)
            case EventType.RESUMED:
                if self._now.paid and self._now.status is Status.CANCELED:
                    self._change(event, replace(self._now, status=Status.ACTIVE, auto_renew=True))
            case EventType.CANCELED:
                self._cancel(event)
            case EventType.RENEWAL_FAILED:
                self._fail(event)
            case EventType.ENDED:
                if self._now.paid:
                    trial = self._now.status is Status.TRIALING
                    status = Status.EXPIRED if trial else Status.CANCELED
                    self._become(_free(event.effective_at, status), event.id, event.type.value)
            case _:
                assert_never(event.type)

    def _set(self, event: Event) -> None:
        status = event.status or Status.ACTIVE
        plan = event.plan or self._now.plan
        if plan == FREE or status is Status.EXPIRED:
            self._become(_free(event.effective_at, status, seats=event.seats), event.id, event.type.value)
            return
        end = event.period_end
        if end is None and status is Status.PAST_DUE:
            end = event.effective_at
        self._open(replace(event, plan=plan, period_end=end), status, auto_renew=bool(event.auto_renew))

    def _open(self, event: Event, status: Status, *, auto_renew: bool) -> None:
        """A period that begins with the event, whatever went before."""
        at, end, outright = event.effective_at, event.period_end, event.type is EventType.SET
        if end is None and event.term_months is not None:
            end = add_months(at, event.term_months)
        if event.plan is None or event.plan == FREE or (end is not None and end <= at and not outright):
            return
        self._day = day_of_month(at)
        opened = Period(
            plan=event.plan,
            status=status,
            effective_at=at,
            until_at=None,
            period_start=at,
            period_end=end,
            auto_renew=auto_renew,
            seats=self._now.seats if event.seats is None and not outright else event.seats,
            term_months=event.term_months,
            source=event.source or Source.DIRECT,
        )
        self._become(opened, event.id, event.type.value)

    def _renew(self, event: Event) -> None:
        """The next period is paid. After the plan had lapsed it takes it up again from now on."""
        at, now = event.effective_at, self._now
        running = now if now.paid else self._last_paid
        if running is None:
            return
        months = event.term_months or running.term_months or 1
        old_end = running.period_end if now.paid else None
        begins = at if old_end is None else old_end
        if old_end is None:
            self._day = day_of_month(at)
        end = event.period_end or add_months(begins, months, day=self._day)
        if end <= at:
            return
        # What was a trial is bought by this: automatic renewal is on after the first purchase.
        by_itself = running.auto_renew or running.status is Status.TRIALING
        self._become(
            replace(
                running,
                plan=event.plan or running.plan,
                status=Status.ACTIVE,
                effective_at=at,
                # Paid before the end, it lengthens the period; paid after it, the new one began where the old ended.
                period_start=running.period_start if begins > at else begins,
                period_end=end,
                auto_renew=by_itself if event.auto_renew is None else event.auto_renew,
                term_months=months,
                pending=now.pending if now.paid else None,
            ),
            event.id,
            event.type.value,
        )

    def _upgrade(self, event: Event) -> None:
        """At once. A downgrade that was bought is given up; a renewal that was bought is of the new plan."""
        if not self._now.paid or event.plan is None or event.plan == FREE:
            return
        pending = self._now.pending
        if pending is not None and pending.kind is ChangeKind.DOWNGRADE:
            pending = None
        elif pending is not None:
            pending = replace(pending, plan=event.plan)
        seats = self._now.seats if event.seats is None else event.seats
        self._change(event, replace(self._now, plan=event.plan, seats=seats, pending=pending))

    def _buy(self, event: Event, kind: ChangeKind, plan: str) -> None:
        now = self._now
        if not now.paid or plan == FREE or now.period_end is None:
            return
        months = event.term_months or now.term_months or 1
        self._change(event, replace(now, pending=PendingChange(kind, plan, months, event.seats, event.id)))

    def _seats(self, event: Event) -> None:
        now = self._now
        if event.seats is None:
            return
        if not event.at_end or now.period_end is None or not now.paid:
            self._change(event, replace(now, seats=event.seats))
            return
        pending = PendingChange(ChangeKind.SEATS, now.plan, None, event.seats, event.id)
        if now.pending is not None and now.pending.kind is not ChangeKind.SEATS:
            pending = replace(now.pending, seats=event.seats)
        self._change(event, replace(now, pending=pending))

    def _cancel(self, event: Event) -> None:
        """No automatic renewal: the plan runs to the end of its period. What is past due keeps its grace."""
        now = self._now
        if not now.paid:
            return
        end = event.period_end or now.period_end
        if end is None:
            self._become(_free(event.effective_at, Status.CANCELED), event.id, event.type.value)
            return
        status = Status.CANCELED if now.status is Status.ACTIVE else now.status
        self._change(event, replace(now, status=status, auto_renew=False, period_end=end))

    def _fail(self, event: Event) -> None:
        """A renewal was not paid. A trial has no grace, and what was cancelled is not renewed."""
        now = self._now
        if now.paid and now.status is Status.ACTIVE:
            end = now.period_end or event.effective_at
            self._change(event, replace(now, status=Status.PAST_DUE, period_end=end))

    def _change(self, event: Event, changed: Period) -> None:
        """Go on as `changed` says, from the event on; nothing begins when nothing is changed."""
        if changed != self._now:
            self._become(replace(changed, effective_at=event.effective_at), event.id, event.type.value)

    def _become(self, period: Period, cause: str | None, cause_type: str) -> None:
        """End the period that holds where this one begins; one that never held is dropped."""
        before = self._now
        if before.paid:
            self._last_paid = before
        if before.effective_at < period.effective_at:
            self._ended.append(replace(before, until_at=period.effective_at))
        self._now = replace(period, until_at=None, cause=cause, cause_type=cause_type)


def _free(at: Instant, status: Status, *, seats: int | None = None) -> Period:
    return Period(FREE, status, at, None, at, None, seats=seats)
