"""A tenant's subscription over time. Pure: events in, periods out.

Theory. What is kept is a set of *events* (bought, renewed, renewal failed, cancelled, …), each with the instant from
which it counts. The *timeline* is computed from them by one fold in the order of those instants, so the order in which
events arrive, and how often, makes no difference. Between events time itself acts: a period ends, a bought change
begins, a grace runs out. A timeline is therefore finite and total: a list of periods without gaps, whose last one has
no end. What holds at an instant is the period that covers it.

What time does at the end of a period, in this order:

1. a change that was bought (renewal, downgrade) begins, in place of the automatic renewal of that date; fewer seats
   that were asked for come into force;
2. without automatic renewal the plan ends: Free, `canceled` when it was cancelled, else `expired`. So does a trial,
   without grace;
3. with automatic renewal, but no word that it was paid: `past_due`. The plan holds for the days of grace, so that
   neither a failed card nor a message of the billing system that comes late costs a tenant its history; then Free,
   `canceled`. A failure that was told before the end changes nothing of this. A trial that a billing system turns into
   a paid plan by itself is such a one: it will be paid from its end on, and only the word of it is late.

Where the order of arrival is not known, the fold errs on the side that keeps: a payment never shortens what was paid
before, what was paid follows what was paid before, a plan without end goes on until something ends it, and where a
plan ends beside which another contract still runs (two subscriptions of one customer), that one holds on.

Invariants (property tests):

1. any order and any repetition of the same events give the same timeline;
2. periods follow each other without gap or overlap, and none is empty;
3. an event changes nothing before its own instant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import assert_never

from mailgate.clock import Instant
from mailgate.tenants.calendar import add_months, day_of_month
from mailgate.tenants.catalogue import FREE
from mailgate.tenants.periods import (
    BEGINNING,
    ChangeKind,
    Event,
    EventType,
    PendingChange,
    Period,
    Source,
    Status,
    SubscriptionRules,
    Timeline,
)

__all__ = [
    "BEGINNING",
    "REVISION",
    "ChangeKind",
    "Event",
    "EventType",
    "PendingChange",
    "Period",
    "Source",
    "Status",
    "SubscriptionRules",
    "Timeline",
    "timeline",
]

REVISION = 2
"""Raised whenever the same events and rules make another timeline than before: what is stored is then made anew."""

_USUAL = SubscriptionRules()
_OPENING = frozenset({EventType.SET, EventType.TRIAL_STARTED, EventType.PURCHASED})
_RANK = {kind: rank for rank, kind in enumerate(EventType)}


def timeline(events: Iterable[Event], rules: SubscriptionRules = _USUAL) -> Timeline:
    """The timeline that these events make. Repeated ids count once; the order of the events does not matter.

    It is total: an event that makes no sense where it stands (an upgrade of Free, say) changes nothing. One from before
    BEGINNING counts from there.
    """
    fold = _Fold(rules)
    known: set[str] = set()
    for event in sorted(events, key=_order):
        if event.id not in known:
            known.add(event.id)
            at = max(event.effective_at, BEGINNING)
            fold.pass_time(at)
            fold.apply(replace(event, effective_at=at))
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
        self._contract: str | None = None
        self._tried = False  # past due at the end of a trial: nobody said yet what followed it
        # What was told of each contract, also while another one held.
        self._told: dict[str, list[Event]] = {}

    def finished(self) -> list[Period]:
        return [*self._ended, self._now]

    def pass_time(self, until: Instant | None) -> None:
        """Everything that time does up to and at `until`; None: for ever."""
        while (end := self._end()) is not None and (until is None or end <= until):
            self._period_ends(end)

    def _end(self) -> Instant | None:
        """When time changes the period that holds; one that is past due waits at its end until its grace is over."""
        now, end = self._now, self._now.period_end
        if end is None or not now.paid:
            return None
        if now.status is Status.PAST_DUE and now.pending is None:
            end = self._rules.grace_end(end)
        return max(end, now.effective_at)

    def _period_ends(self, at: Instant) -> None:
        now, change = self._now, self._now.pending
        if change is not None and change.term_months is not None:
            self._begin_bought(change, change.term_months, at)
        elif change is not None:
            # Still this period: what happens to it at its end is decided by the next turn of the loop.
            self._become(replace(now, seats=change.seats, pending=None, effective_at=at), change.cause, "period_ended")
        elif now.status is Status.PAST_DUE:
            self._lapse(at, Status.CANCELED, now.cause, "grace_ended")
        elif now.status in (Status.ACTIVE, Status.TRIALING) and now.auto_renew:
            self._become(replace(now, status=Status.PAST_DUE, effective_at=at), now.cause, "period_ended")
        else:
            status = Status.CANCELED if now.status is Status.CANCELED else Status.EXPIRED
            self._lapse(at, status, now.cause, "period_ended")

    def _begin_bought(self, change: PendingChange, months: int, at: Instant) -> None:
        now = self._now
        begins, end = self._next_months(now, months, at)
        if change.period_end is not None and change.period_end > at:
            end = self._named(change.period_end)
        began = replace(
            now,
            plan=change.plan,
            # Bought for a plan whose automatic renewal was switched off, it ends like that one would have.
            status=now.status if now.status is Status.CANCELED else Status.ACTIVE,
            effective_at=at,
            period_start=begins,
            period_end=end,
            auto_renew=_renews_itself(now),
            seats=now.seats if change.seats is None else change.seats,
            term_months=months,
            pending=None,
        )
        self._become(began, change.cause, "period_ended")

    def _next_months(self, running: Period, months: int, at: Instant) -> tuple[Instant, Instant]:
        """Start and end of the months paid after `running`: they follow it, unless they would be over at `at`."""
        if running.period_end is not None:
            end = add_months(running.period_end, months, day=self._day)
            if end > at:
                return running.period_end, end
        self._day = day_of_month(at)
        return at, add_months(at, months)

    def _named(self, end: Instant) -> Instant:
        """An end that was named, not computed. Later periods end on its day of the month, unless that is only the last
        day of a month too short for the day on which they ended so far.
        """
        if end != add_months(end, 0, day=self._day):
            self._day = day_of_month(end)
        return end

    def apply(self, event: Event) -> None:
        """What the event does to the period that holds."""
        if (event.contract is None and event.type is EventType.ENDED) or event.type is EventType.SET:
            self._told.clear()  # whatever else was running
        if event.contract is not None:
            self._told.setdefault(event.contract, []).append(event)
        if self._is_of_another(event):
            return
        match event.type:
            case EventType.SET:
                self._set(event)
            case EventType.TRIAL_STARTED:
                self._open(event, Status.TRIALING, auto_renew=event.auto_renew is True)
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
                self._resume(event)
            case EventType.CANCELED:
                self._cancel(event)
            case EventType.RENEWAL_FAILED:
                self._fail(event)
            case EventType.ENDED:
                if self._now.paid:
                    status = Status.EXPIRED if self._tried else Status.CANCELED
                    self._lapse(event.effective_at, status, event.id, event.type.value)
            case _:
                assert_never(event.type)

    def _is_of_another(self, event: Event) -> bool:
        """Whether it is told of another contract than the one that holds."""
        if event.contract is None or event.type in _OPENING or not self._now.paid:
            return False
        if event.type is EventType.RENEWED and self._contract is None:
            self._contract = event.contract
        return event.contract != self._contract

    def _lapse(self, at: Instant, status: Status, cause: str | None, cause_type: str) -> None:
        """The plan that holds is over: Free, or another contract that still runs."""
        running = [(fold, contract) for contract in self._told if (fold := self._beside(contract, at)) is not None]
        if not running:
            self._become(_free(at, status), cause, cause_type)
            return
        fold, contract = max(running, key=lambda found: (*_lasts(found[0]._now), found[1]))
        self._become(replace(fold._now, effective_at=at), cause, cause_type)
        self._day, self._contract, self._tried = fold._day, contract, fold._tried

    def _beside(self, contract: str, at: Instant) -> _Fold | None:
        """Where another contract stands at `at`, by what was told of it alone; None when it does not run."""
        if contract == self._contract:
            return None
        fold = _Fold(self._rules)
        for event in self._told[contract]:
            fold.pass_time(event.effective_at)
            fold.apply(event)
        fold.pass_time(at)
        return fold if fold._now.paid else None

    def _set(self, event: Event) -> None:
        at, status, end = event.effective_at, event.status or Status.ACTIVE, event.period_end
        plan = event.plan or self._now.plan
        if plan == FREE or status is Status.EXPIRED:
            self._become(_free(at, status, seats=event.seats), event.id, event.type.value)
            return
        if end is None and status is Status.PAST_DUE:
            end = at
        # A trial and what was cancelled have no automatic renewal; what is past due had one.
        renews = status is Status.PAST_DUE if event.auto_renew is None else event.auto_renew
        renews = renews and status in (Status.ACTIVE, Status.PAST_DUE)
        self._become(
            self._opened(event, plan, status, end, renews, event.seats),
            event.id,
            event.type.value,
        )

    def _open(self, event: Event, status: Status, *, auto_renew: bool) -> None:
        """A period that begins with the event, whatever went before."""
        at, end, plan = event.effective_at, event.period_end, event.plan
        if plan is None or plan == FREE or (end is not None and end <= at):
            return
        seats = self._now.seats if event.seats is None else event.seats
        self._become(self._opened(event, plan, status, end, auto_renew, seats), event.id, event.type.value)

    def _opened(
        self, event: Event, plan: str, status: Status, end: Instant | None, auto_renew: bool, seats: int | None
    ) -> Period:
        at = event.effective_at
        self._day, self._contract, self._tried = day_of_month(at), event.contract, False
        if end is not None:
            end = self._named(end)
        elif event.term_months:
            end = add_months(at, event.term_months)
        return Period(
            plan=plan,
            status=status,
            effective_at=at,
            until_at=None,
            period_start=at if end is None else min(at, end),
            period_end=end,
            auto_renew=auto_renew,
            seats=seats,
            term_months=event.term_months,
            source=event.source or Source.DIRECT,
        )

    def _renew(self, event: Event) -> None:
        """The next period is paid. After the plan had lapsed it takes it up again from now on."""
        at, now, named = event.effective_at, self._now, event.period_end
        running = now if now.paid else self._lapsed(event)
        if running is None or event.plan == FREE:
            return
        old_end, months = running.period_end, event.term_months or running.term_months or 1
        if named is not None and named <= (at if old_end is None else old_end):
            # A payment of what was paid already shortens nothing; it may be the one that was said to have failed.
            if named == old_end and at < old_end and now.status is Status.PAST_DUE:
                self._change(event, replace(now, status=Status.ACTIVE))
        elif named is None and old_end is None and now.paid and now.status is not Status.TRIALING:
            return  # without an end there is nothing to lengthen
        elif old_end is not None and at < old_end and event.plan not in (None, now.plan):
            self._renew_as(event, event.plan or now.plan, months)
        else:
            self._continue(event, running, months)

    def _lapsed(self, event: Event) -> Period | None:
        """What a renewal on Free takes up: the plan that it names, else the last one."""
        last, self._contract = self._last_paid, event.contract
        if last is None and event.plan is not None:
            last = replace(self._now, plan=event.plan, source=event.source or Source.DIRECT)
        if last is None:
            return None
        return replace(
            last,
            status=Status.ACTIVE,
            period_end=None,
            auto_renew=last.source is Source.DIRECT,
            seats=last.seats if self._now.seats is None else self._now.seats,
            pending=None,
        )

    def _renew_as(self, event: Event, plan: str, months: int) -> None:
        """Paid before the end for another plan: the one that holds was paid until then."""
        now = self._now
        seats = None if now.pending is None else now.pending.seats
        change = PendingChange(ChangeKind.RENEWAL, plan, months, seats, event.id, event.period_end)
        status = Status.ACTIVE if now.status is Status.PAST_DUE else now.status
        self._change(event, replace(now, status=status, pending=change))

    def _continue(self, event: Event, running: Period, months: int) -> None:
        """The period paid for follows the one that runs, or begins now where that has no end."""
        at, old_end = event.effective_at, running.period_end
        if event.period_end is None:
            begins, end = self._next_months(running, months, at)
        else:
            if old_end is None:
                self._day = day_of_month(at)
            begins, end = at if old_end is None else old_end, self._named(event.period_end)
        if end <= at:
            # What was paid is over as well: still past due, from the later end on.
            self._change(event, replace(running, period_start=begins, period_end=end))
            return
        canceled = running.status is Status.CANCELED and not event.auto_renew
        renewed = replace(
            running,
            plan=event.plan or running.plan,
            status=Status.CANCELED if canceled else Status.ACTIVE,
            effective_at=at,
            # Paid before the end, it lengthens the period; paid after it, the new one began where the old ended.
            period_start=running.period_start if begins > at else begins,
            period_end=end,
            auto_renew=_renews_itself(running) if event.auto_renew is None else event.auto_renew,
            term_months=months,
        )
        self._become(renewed, event.id, event.type.value)

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
        seats = event.seats
        if seats is None and now.pending is not None:
            seats = now.pending.seats
        self._change(event, replace(now, pending=PendingChange(kind, plan, months, seats, event.id)))

    def _seats(self, event: Event) -> None:
        now = self._now
        if event.seats is None:
            return
        if not event.at_end or now.period_end is None or now.period_end <= event.effective_at:
            self._change(event, replace(now, seats=event.seats))
            return
        pending = PendingChange(ChangeKind.SEATS, now.plan, None, event.seats, event.id)
        if now.pending is not None and now.pending.kind is not ChangeKind.SEATS:
            pending = replace(now.pending, seats=event.seats)
        self._change(event, replace(now, pending=pending))

    def _cancel(self, event: Event) -> None:
        """No automatic renewal: the plan runs to the end of its period. What is past due keeps its grace."""
        now, end = self._now, event.period_end
        if not now.paid:
            return
        if end is None or (now.status is Status.PAST_DUE and now.period_end is not None and end < now.period_end):
            end = now.period_end
        else:
            end = self._named(end)
        status = Status.CANCELED if now.status is Status.ACTIVE else now.status
        self._change(event, replace(now, status=status, auto_renew=False, period_end=end))

    def _resume(self, event: Event) -> None:
        """Automatic renewal is on again. What a partner sold has none, nor a trial unless that is said."""
        now = self._now
        if not now.paid or (now.status is Status.TRIALING and not event.auto_renew):
            return
        status = Status.ACTIVE if now.status is Status.CANCELED else now.status
        auto_renew = now.auto_renew or now.source is Source.DIRECT
        self._change(event, replace(now, status=status, auto_renew=auto_renew))

    def _fail(self, event: Event) -> None:
        """A renewal was not paid. A trial has no grace, and what was cancelled is not renewed. A failure to pay for
        what was before this period (an old invoice that is still tried) ends nothing that was paid since.
        """
        now, told = self._now, event.period_end
        if not now.paid or now.status not in (Status.ACTIVE, Status.PAST_DUE):
            return
        if told is not None and told < now.period_start:
            return
        end = now.period_end
        if end is None or (told is not None and told < end):
            end = self._named(event.effective_at if told is None else told)
        self._change(event, replace(now, status=Status.PAST_DUE, period_end=end))

    def _change(self, event: Event, changed: Period) -> None:
        """Go on as `changed` says, from the event on; nothing begins when nothing is changed."""
        if changed != self._now:
            self._become(replace(changed, effective_at=event.effective_at), event.id, event.type.value)

    def _become(self, period: Period, cause: str | None, cause_type: str) -> None:
        """End the period that holds where this one begins; one that never held is dropped."""
        before = self._now
        if period.status is not Status.PAST_DUE:
            self._tried = period.status is Status.TRIALING
        if before.paid:
            self._last_paid = before
        if before.effective_at < period.effective_at:
            self._ended.append(replace(before, until_at=period.effective_at))
        self._now = replace(period, until_at=None, cause=cause, cause_type=cause_type)


def _free(at: Instant, status: Status, *, seats: int | None = None) -> Period:
    return Period(FREE, status, at, None, at, None, seats=seats)


def _lasts(period: Period) -> tuple[bool, bool, bool, Instant]:
    """Of several the one that is paid, and for longest, comes last."""
    return (
        period.status is not Status.PAST_DUE,
        period.status is not Status.TRIALING,
        period.period_end is None,
        period.period_end or 0,
    )


def _renews_itself(period: Period) -> bool:
    """Whether what is bought after this period renews itself: a trial was no purchase, the first one is."""
    return period.source is Source.DIRECT if period.status is Status.TRIALING else period.auto_renew
