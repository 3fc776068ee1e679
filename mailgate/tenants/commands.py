"""What a tenant may do to its subscription now, by the rules of purchase. Pure.

Each command either gives the event that it is, or is refused with a reason of its own (`slug`), what to do instead,
and, where time will allow it, from when. Nothing else changes. The gateway takes no money: a command says that
something was bought, and the caller is who sold it.

| command | allowed |
|---|---|
| purchase | on Free or in a trial |
| renew | from 30 days before the end, once, for a term that is sold |
| retry | past due, until the days of grace are over |
| upgrade | at any time on a paid plan, to a higher plan; acts at once |
| downgrade | from 1 day before the end, to a lower paid plan; acts at the end |
| cancel | while automatic renewal is on; the plan runs to the end of its period |
| resume | cancelled, until the end of its period; not what a partner sold |
| seats | more: at once; fewer: at the end of the period (in a trial at once), not below those in use |

There is one pending change at a time: renew, downgrade and fewer seats are refused while one waits. An upgrade acts at
once and gives a pending downgrade up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Never

from mailgate.clock import DAY, Instant, from_rfc3339, to_rfc3339
from mailgate.errors import ConflictError, PreconditionError
from mailgate.tenants.calendar import add_months
from mailgate.tenants.catalogue import FREE, Catalogue, Plan
from mailgate.tenants.timeline import ChangeKind, Event, EventType, Period, Source, Status, Timeline

RENEW_BEFORE: Instant = 30 * DAY
"""How long before the end of a period it can be renewed by hand."""
DOWNGRADE_BEFORE: Instant = 1 * DAY
"""How long before the end of a period a lower plan can be bought for the next one."""
MOST_SEATS = 1_000_000
_PENDING = "change_pending"
_SUBSCRIBED = "already_subscribed"


class Command(StrEnum):
    """What can be asked for."""

    PURCHASE = "purchase"
    RENEW = "renew"
    RETRY = "retry"
    UPGRADE = "upgrade"
    DOWNGRADE = "downgrade"
    CANCEL = "cancel"
    RESUME = "resume"
    SEATS = "seats"


@dataclass(frozen=True, slots=True)
class Wish:
    """A command with what it needs: purchase (plan, term_months, seats, source), renew (term_months), upgrade (plan),
    downgrade (plan, term_months, seats), seats (seats).
    """

    command: Command
    plan: str | None = None
    term_months: int | None = None
    seats: int | None = None
    source: Source = Source.DIRECT


@dataclass(frozen=True, slots=True)
class Situation:
    """Where a command is given: the timeline, the catalogue, the time, and how many seats are in use."""

    line: Timeline
    catalogue: Catalogue
    now: Instant
    seats_used: int = 0

    @property
    def period(self) -> Period:
        """The period that holds."""
        return self.line.at(self.now)


def decide(wish: Wish, situation: Situation, event_id: str) -> Event:
    """The event that the command is, counting from now. Raises ConflictError (409, with `allowed_at` in its extra where
    time will allow it) when the rules forbid it, PreconditionError (422) when a value makes no sense.
    """
    try:
        made = _DECISIONS[wish.command](wish, situation)
    except ConflictError as refused:
        if refused.slug == _PENDING or (refused.slug == _SUBSCRIBED and _ends_by_itself(situation.period)):
            _refuse(refused.slug, refused.detail, _allowed_after(wish, situation))
        raise
    return Event(id=event_id, effective_at=situation.now, **made)


def _ends_by_itself(period: Period) -> bool:
    """Whether nobody is expected to pay for what follows."""
    return not period.auto_renew or period.status is Status.PAST_DUE


def _allowed_after(wish: Wish, situation: Situation) -> Instant | None:
    """From when the command will be allowed if nothing else happens: what was bought begins by itself, and the rules
    then count from its own end; what is not renewed ends. None: by time alone never.
    """
    edges: set[Instant] = set()
    for period in situation.line.after(situation.now):
        edges.add(period.effective_at)
        if period.period_end is not None:
            edges |= {period.period_end - RENEW_BEFORE, period.period_end - DOWNGRADE_BEFORE}
    for at in sorted(edge for edge in edges if edge > situation.now):
        try:
            _DECISIONS[wish.command](wish, replace(situation, now=at))
        except ConflictError:
            continue
        return at
    return None


@dataclass(frozen=True, slots=True)
class Option:
    """Whether a command would be allowed now; if not, why (`slug`, `detail`) and from when, if time will allow it."""

    command: Command
    allowed: bool
    slug: str | None = None
    detail: str | None = None
    allowed_at: Instant | None = None


def options(situation: Situation) -> list[Option]:
    """What could be asked for now, for a page with its buttons: each command with the first values that make sense."""
    return [_option(command, situation) for command in Command]


def _option(command: Command, situation: Situation) -> Option:
    catalogue, period = situation.catalogue, situation.period
    current = catalogue.plan(period.plan)
    rank = -1 if current is None else current.rank
    on_sale = [plan for plan in catalogue.ranked() if plan.on_sale]
    # The plan that makes the command possible; where none does, the one that is nearest to it.
    plan = {
        Command.PURCHASE: on_sale[-1:],
        Command.UPGRADE: [plan for plan in on_sale if plan.rank > rank][-1:] or on_sale[-1:],
        Command.DOWNGRADE: [plan for plan in on_sale if plan.rank < rank][-1:] or on_sale[:1],
    }.get(command)
    if plan == []:
        return Option(command, False, "plan_not_on_sale", "no plan is on sale")
    more = min(max(situation.seats_used, (period.seats or 0) + 1), MOST_SEATS)
    seats = more if command is Command.SEATS else None
    wish = Wish(command, plan[0].name if plan else None, catalogue.terms[0], seats)
    try:
        decide(wish, situation, "option")
    except ConflictError as refused:
        at = refused.extra.get("allowed_at")
        return Option(command, False, refused.slug, refused.detail, None if at is None else from_rfc3339(at))
    return Option(command, True)


def _purchase(wish: Wish, situation: Situation) -> Mapping[str, Any]:
    period = situation.period
    if period.paid and period.status is not Status.TRIALING:
        _refuse(
            _SUBSCRIBED,
            f"plan {period.plan} runs already; upgrade, downgrade or renew it"
            + (", or retry the payment that failed" if period.status is Status.PAST_DUE else ""),
        )
    plan = _sold(wish.plan, situation.catalogue)
    _check_seats(wish.seats, plan, situation, period.seats)
    return {
        "type": EventType.PURCHASED,
        "plan": plan.name,
        "term_months": _term(wish, situation.catalogue),
        "seats": wish.seats,
        "source": wish.source,
    }


def _renew(wish: Wish, situation: Situation) -> Mapping[str, Any]:
    period = _bought(situation, "renew")
    end = _end(period)
    _no_pending(period)
    if situation.now < end - RENEW_BEFORE:
        _refuse("renew_too_early", "it can be renewed from 30 days before its end", end - RENEW_BEFORE)
    return {"type": EventType.RENEWAL_BOUGHT, "term_months": _term(wish, situation.catalogue)}


def _retry(wish: Wish, situation: Situation) -> Mapping[str, Any]:
    period = situation.period
    if period.status is not Status.PAST_DUE:
        _refuse("not_past_due", "no payment has failed, or its days of grace are over; then purchase a plan anew")
    end, months = _end(period), period.term_months or 1
    # Paid late, the new period began where the old one ended. After a long grace it may be over already: then from now.
    later = add_months(end, months)
    return {
        "type": EventType.RENEWED,
        "term_months": months,
        "period_end": None if later > situation.now else add_months(situation.now, months),
    }


def _upgrade(wish: Wish, situation: Situation) -> Mapping[str, Any]:
    period = _subscribed(situation, "upgrade")
    plan, current = _sold(wish.plan, situation.catalogue), situation.catalogue.plan(period.plan)
    if current is not None and plan.rank <= current.rank:
        _refuse("not_an_upgrade", f"{plan.name} is not above {current.name}; downgrade acts when the period ends")
    _check_seats(wish.seats, plan, situation, period.seats)
    return {"type": EventType.UPGRADED, "plan": plan.name, "seats": wish.seats}


def _downgrade(wish: Wish, situation: Situation) -> Mapping[str, Any]:
    if wish.plan == FREE:
        _refuse("cancel_instead", "Free is not bought: cancel, and the plan runs to the end of its period")
    period = _bought(situation, "downgrade")
    plan, current = _sold(wish.plan, situation.catalogue), situation.catalogue.plan(period.plan)
    if current is not None and plan.rank >= current.rank:
        _refuse("not_a_downgrade", f"{plan.name} is not below {current.name}; upgrade acts at once")
    end = _end(period)
    _no_pending(period)
    if situation.now < end - DOWNGRADE_BEFORE:
        _refuse("downgrade_too_early", "it can be bought from 1 day before the period's end", end - DOWNGRADE_BEFORE)
    _check_seats(wish.seats, plan, situation, period.seats)
    return {
        "type": EventType.DOWNGRADE_BOUGHT,
        "plan": plan.name,
        "term_months": _term(wish, situation.catalogue),
        "seats": wish.seats,
    }


def _cancel(wish: Wish, situation: Situation) -> Mapping[str, Any]:
    period = situation.period
    if not period.paid:
        _refuse("not_subscribed", "there is nothing to cancel on Free")
    if not period.auto_renew:
        _refuse("not_renewing", "automatic renewal is off already: the plan runs to the end of its period")
    return {"type": EventType.CANCELED}


def _resume(wish: Wish, situation: Situation) -> Mapping[str, Any]:
    period = situation.period
    if not period.paid or period.status is not Status.CANCELED:
        _refuse("not_canceled", "only what was cancelled and still runs can be resumed")
    if period.source is Source.PARTNER:
        _refuse("partner_purchase", "what a partner sold has no automatic renewal; renew it by hand")
    return {"type": EventType.RESUMED}


def _seats(wish: Wish, situation: Situation) -> Mapping[str, Any]:
    period, seats = situation.period, wish.seats
    if not period.paid:
        _refuse("not_subscribed", "seats are bought with a plan: purchase one")
    if seats is None:
        raise PreconditionError("say how many seats there shall be", slug="seats_missing")
    plan = situation.catalogue.plan(period.plan)
    if plan is not None:
        _check_seats(seats, plan, situation, None)
    before = period.seats if period.seats is not None else (plan.seats if plan is not None else None)
    if seats == before:
        _refuse("seats_unchanged", f"there are {seats} seats already")
    fewer = before is None or seats < before
    at_end = fewer and period.status is not Status.TRIALING and period.period_end is not None
    if at_end:
        _no_pending(period)
    return {"type": EventType.SEATS_CHANGED, "seats": seats, "at_end": at_end}


_DECISIONS: Mapping[Command, Callable[[Wish, Situation], Mapping[str, Any]]] = {
    Command.PURCHASE: _purchase,
    Command.RENEW: _renew,
    Command.RETRY: _retry,
    Command.UPGRADE: _upgrade,
    Command.DOWNGRADE: _downgrade,
    Command.CANCEL: _cancel,
    Command.RESUME: _resume,
    Command.SEATS: _seats,
}


def _subscribed(situation: Situation, verb: str) -> Period:
    """A paid plan that is no trial."""
    period = situation.period
    if not period.paid or period.status is Status.TRIALING:
        what = "a trial" if period.paid else "Free"
        _refuse("purchase_instead", f"there is nothing to {verb} on {what}: purchase a plan")
    return period


def _bought(situation: Situation, verb: str) -> Period:
    """A paid plan whose payments are in order."""
    period = _subscribed(situation, verb)
    if period.status is Status.PAST_DUE:
        _refuse("past_due", "the last renewal was not paid: retry it first")
    return period


def _end(period: Period) -> Instant:
    if period.period_end is None:
        _refuse("no_period_end", "this plan has no end: it was set outright, and is changed by who set it")
    return period.period_end


def _no_pending(period: Period) -> None:
    change, end = period.pending, period.period_end
    if change is not None:
        when = "" if end is None else f", on {to_rfc3339(end)}"
        what = f"{change.seats} seats" if change.kind is ChangeKind.SEATS else f"{change.kind.value} to {change.plan}"
        _refuse(_PENDING, f"one change waits already for the end of the period{when}: {what}")


def _sold(name: str | None, catalogue: Catalogue) -> Plan:
    known = ", ".join(plan.name for plan in catalogue.ranked() if plan.on_sale)
    if name is None:
        raise PreconditionError(f"say which plan: {known}", slug="plan_missing")
    plan = catalogue.plan(name)
    if plan is None:
        raise PreconditionError(f"there is no plan {name!r}; on sale are {known}", slug="plan_unknown")
    if not plan.on_sale:
        _refuse("plan_not_on_sale", f"plan {name} can't be bought; on sale are {known}")
    return plan


def _term(wish: Wish, catalogue: Catalogue) -> int:
    months = catalogue.terms[0] if wish.term_months is None else wish.term_months
    if months not in catalogue.terms:
        terms = ", ".join(str(term) for term in catalogue.terms)
        raise PreconditionError(f"a term has {terms} months", slug="term_unknown")
    return months


def _check_seats(wanted: int | None, plan: Plan, situation: Situation, kept: int | None) -> None:
    """The seats that there would be: those that are asked for, else those that there are."""
    seats = kept if wanted is None else wanted
    if seats is None:
        return
    if not 1 <= seats <= MOST_SEATS:
        raise PreconditionError(f"seats are from 1 to {MOST_SEATS}", slug="seats_invalid")
    if plan.seats is not None and seats > plan.seats:
        _refuse("seats_over_plan", f"plan {plan.name} has at most {plan.seats} seats, not {seats}")
    if seats < situation.seats_used:
        _refuse("seats_in_use", f"{situation.seats_used} seats are in use; disconnect mailboxes of some users first")


def _refuse(slug: str, detail: str, allowed_at: Instant | None = None) -> Never:
    if allowed_at is None:
        raise ConflictError(detail, slug=slug)
    at = to_rfc3339(allowed_at)
    raise ConflictError(f"{detail}; allowed from {at} on", slug=slug, allowed_at=at)
