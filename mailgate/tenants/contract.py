"""One contract by itself: where it stands, and what time does to it. Pure.

What time does at the end of a period, in this order:

1. a change that was bought (renewal, downgrade) begins, in place of the automatic renewal of that date; fewer seats
   that were asked for come into force;
2. without automatic renewal the plan ends: Free, `canceled` when it was cancelled, else `expired`. So does a trial,
   without grace;
3. with automatic renewal, but no word that it was paid: `past_due`. The plan holds for the days of grace, so that
   neither a failed card nor a message of the billing system that comes late costs a tenant its history; then Free,
   `canceled`. A failure that was told before the end changes nothing of this. A trial that a billing system turns into
   a paid plan by itself is such a one: it will be paid from its end on, and only the word of it is late.

What events do to it: `mailgate.tenants.contract_events`.
"""

from __future__ import annotations

from dataclasses import replace

from mailgate.clock import Instant
from mailgate.tenants.calendar import add_months, day_of_month
from mailgate.tenants.catalogue import FREE
from mailgate.tenants.periods import BEGINNING, PendingChange, Period, Source, Status, SubscriptionRules


class Contract:
    """Where it stands, as far as it was told. Before it is sold and after it ended it stands on Free."""

    def __init__(self, rules: SubscriptionRules, *, seats: int | None = None, last_paid: Period | None = None) -> None:
        self.rules = rules
        self.now = free(BEGINNING, Status.ACTIVE, seats=seats)
        """The period that runs; each change makes another one, with the event or the work of time that caused it."""
        self.last_paid = last_paid
        """What a renewal takes up after it lapsed."""
        self.day = 1
        """The day of the month on which periods end."""
        self.tried = False
        """Past due at the end of a trial: nobody said yet what followed it."""
        self.opened = 0
        """How many events had been told when it was sold: of two, the one that began last has the higher number."""

    @property
    def end(self) -> Instant | None:
        """When time changes it next; one that is past due waits at its end until its grace is over."""
        now, end = self.now, self.now.period_end
        if end is None or not now.paid:
            return None
        if now.status is Status.PAST_DUE and now.pending is None:
            end = self.rules.grace_end(end)
        return max(end, now.effective_at)

    def pass_time(self, until: Instant) -> None:
        """Everything that time does up to and at `until`."""
        while (end := self.end) is not None and end <= until:
            self._period_ends(end)

    def _period_ends(self, at: Instant) -> None:
        now, change = self.now, self.now.pending
        if change is not None and change.term_months is not None:
            self._begin_bought(change, change.term_months, at)
        elif change is not None:
            # Still this period: what happens to it at its end is decided by the next turn of the loop.
            self.become(replace(now, seats=change.seats, pending=None, effective_at=at), change.cause, "period_ended")
        elif now.status is Status.PAST_DUE:
            self.lapse(at, Status.CANCELED, now.cause, "grace_ended")
        elif now.status in (Status.ACTIVE, Status.TRIALING) and now.auto_renew:
            self.become(replace(now, status=Status.PAST_DUE, effective_at=at), now.cause, "period_ended")
        else:
            status = Status.CANCELED if now.status is Status.CANCELED else Status.EXPIRED
            self.lapse(at, status, now.cause, "period_ended")

    def _begin_bought(self, change: PendingChange, months: int, at: Instant) -> None:
        now = self.now
        begins, end = self.next_months(now, months, at)
        if change.period_end is not None and change.period_end > at:
            end = self.named(change.period_end)
        began = replace(
            now,
            plan=change.plan,
            # Bought for a plan whose automatic renewal was switched off, it ends like that one would have.
            status=now.status if now.status is Status.CANCELED else Status.ACTIVE,
            effective_at=at,
            period_start=begins,
            period_end=end,
            auto_renew=renews_itself(now),
            seats=now.seats if change.seats is None else change.seats,
            term_months=months,
            pending=None,
        )
        self.become(began, change.cause, "period_ended")

    def next_months(self, running: Period, months: int, at: Instant) -> tuple[Instant, Instant]:
        """Start and end of the months paid after `running`: they follow it, unless they would be over at `at`."""
        if running.period_end is not None:
            end = add_months(running.period_end, months, day=self.day)
            if end > at:
                return running.period_end, end
        self.day = day_of_month(at)
        return at, add_months(at, months)

    def named(self, end: Instant) -> Instant:
        """An end that was named, not computed. Later periods end on its day of the month, unless that is only the last
        day of a month too short for the day on which they ended so far.
        """
        if end != add_months(end, 0, day=self.day):
            self.day = day_of_month(end)
        return end

    def lapse(self, at: Instant, status: Status, cause: str | None, cause_type: str) -> None:
        """The plan is over: Free."""
        self.become(free(at, status), cause, cause_type)

    def become(self, period: Period, cause: str | None, cause_type: str) -> None:
        """Another period runs, from its `effective_at` on."""
        if period.status is not Status.PAST_DUE:
            self.tried = period.status is Status.TRIALING
        if self.now.paid:
            self.last_paid = self.now
        self.now = replace(period, until_at=None, cause=cause, cause_type=cause_type)


def free(at: Instant, status: Status, *, seats: int | None = None) -> Period:
    """Free from `at` on."""
    return Period(FREE, status, at, None, at, None, seats=seats)


def renews_itself(period: Period) -> bool:
    """Whether what is bought after this period renews itself: a trial was no purchase, the first one is."""
    return period.source is Source.DIRECT if period.status is Status.TRIALING else period.auto_renew
