"""What a change would cost, prorated. Pure; the gateway quotes, it takes no money.

Amounts are whole numbers of the currency's minor unit. A change during a period is charged for the rest of it, by the
second: (new price − old price) × rest ÷ whole, rounded half up. What begins with the next period costs its full price
then.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailgate.clock import Instant
from mailgate.errors import ConflictError
from mailgate.tenants.catalogue import Catalogue, Plan
from mailgate.tenants.commands import Command
from mailgate.tenants.timeline import ChangeKind, Event, EventType, Period, Timeline


@dataclass(frozen=True, slots=True)
class Quote:
    """`amount` is due at `due_at` for the time from `begins_at` to `ends_at`, of `seats` seats of the plan.

    `full_amount` is the price of the whole term; less is due for the rest of a period that runs.
    """

    command: Command
    plan: str
    seats: int
    term_months: int
    currency: str
    amount: int
    full_amount: int
    due_at: Instant
    begins_at: Instant
    ends_at: Instant


def quote(
    command: Command, event: Event, before: Period, line: Timeline, catalogue: Catalogue, seats_used: int
) -> Quote:
    """The price of the event that `commands.decide` gave, which ends the period `before` and makes this timeline.

    Raises ConflictError: no_price when the plan is not sold for that term, no_period_end when it has no end.
    """
    now = event.effective_at
    after = line.at(now)
    change = after.pending
    if event.type in (EventType.RENEWAL_BOUGHT, EventType.DOWNGRADE_BOUGHT) and change is not None:
        begins, months = _end(before), change.term_months or 1
        seats = _seats(change.seats or before.seats, seats_used)
        full = _price(catalogue, change.plan, months) * seats
        ends = _end(line.at(begins))
        return Quote(command, change.plan, seats, months, catalogue.currency, full, full, now, begins, ends)
    months = after.term_months or before.term_months or 1
    seats = _seats(after.seats, seats_used)
    full = _price(catalogue, after.plan, months) * seats
    begins, ends = after.period_start, _end(after)
    if event.type in (EventType.UPGRADED, EventType.SEATS_CHANGED):
        if change is not None and change.kind is ChangeKind.SEATS:
            amount = 0  # fewer seats, from the next period on
        else:
            old = _price(catalogue, before.plan, months) * _seats(before.seats, seats_used)
            amount = _prorated(full - old, ends - now, ends - begins)
        begins = now
    else:
        amount = full
    return Quote(command, after.plan, seats, months, catalogue.currency, amount, full, now, begins, ends)


def _seats(seats: int | None, used: int) -> int:
    return max(used, 1) if seats is None else seats


def _prorated(difference: int, rest: int, whole: int) -> int:
    """Half a coin is rounded up; never less than nothing. Nothing is left of a period that is over or has no length."""
    return max(0, (2 * difference * rest + whole) // (2 * whole)) if rest > 0 and whole > 0 else 0


def _price(catalogue: Catalogue, name: str, months: int) -> int:
    plan: Plan | None = catalogue.plan(name)
    price = None if plan is None else plan.prices.get(months)
    if price is None:
        raise ConflictError(f"plan {name} has no price for {months} months", slug="no_price")
    return price


def _end(period: Period) -> Instant:
    if period.period_end is None:
        raise ConflictError("this plan has no end: it was set outright", slug="no_period_end")
    return period.period_end
