"""What events do to the contract of which they are told. Pure.

Whatever makes no sense where the contract stands (an upgrade of Free, say) changes nothing. Where the order of arrival
is not known, the side is taken that keeps: a payment never shortens what was paid before, what was paid follows what
was paid before, and a plan without end goes on until something ends it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from mailgate.clock import Instant
from mailgate.tenants.calendar import add_months, day_of_month
from mailgate.tenants.catalogue import FREE
from mailgate.tenants.contract import Contract, free, renews_itself
from mailgate.tenants.periods import ChangeKind, Event, EventType, PendingChange, Period, Source, Status


def apply(contract: Contract, event: Event) -> None:
    """What the event does to the period that runs; time was passed until then."""
    match event.type:
        case EventType.SET:
            _set(contract, event)
        case EventType.TRIAL_STARTED:
            _open(contract, event, Status.TRIALING, auto_renew=event.auto_renew is True)
        case EventType.PURCHASED:
            direct = event.source is not Source.PARTNER
            _open(contract, event, Status.ACTIVE, auto_renew=direct if event.auto_renew is None else event.auto_renew)
        case EventType.RENEWED:
            _renew(contract, event)
        case EventType.UPGRADED:
            _upgrade(contract, event)
        case EventType.RENEWAL_BOUGHT:
            _buy(contract, event, ChangeKind.RENEWAL, contract.now.plan)
        case EventType.DOWNGRADE_BOUGHT:
            _buy(contract, event, ChangeKind.DOWNGRADE, event.plan or contract.now.plan)
        case EventType.SEATS_CHANGED:
            _seats(contract, event)
        case EventType.RESUMED:
            _resume(contract, event)
        case EventType.CANCELED:
            _cancel(contract, event)
        case EventType.RENEWAL_FAILED:
            _fail(contract, event)
        case EventType.ENDED:
            if contract.now.paid:
                status = Status.EXPIRED if contract.tried else Status.CANCELED
                contract.lapse(event.effective_at, status, event.id, event.type.value)
        case _:
            assert_never(event.type)


def _set(contract: Contract, event: Event) -> None:
    at, status, end = event.effective_at, event.status or Status.ACTIVE, event.period_end
    plan = event.plan or contract.now.plan
    if plan == FREE or status is Status.EXPIRED:
        contract.become(free(at, status, seats=event.seats), event.id, event.type.value)
        return
    if end is None and status is Status.PAST_DUE:
        end = at
    # A trial and what was cancelled have no automatic renewal; what is past due had one.
    renews = status is Status.PAST_DUE if event.auto_renew is None else event.auto_renew
    renews = renews and status in (Status.ACTIVE, Status.PAST_DUE)
    contract.become(
        _opened(contract, event, plan, status, end, renews, event.seats),
        event.id,
        event.type.value,
    )


def _open(contract: Contract, event: Event, status: Status, *, auto_renew: bool) -> None:
    """A period that begins with the event, whatever went before."""
    at, end, plan = event.effective_at, event.period_end, event.plan
    if plan is None or plan == FREE or (end is not None and end <= at):
        return
    seats = contract.now.seats if event.seats is None else event.seats
    contract.become(_opened(contract, event, plan, status, end, auto_renew, seats), event.id, event.type.value)


def _opened(
    contract: Contract,
    event: Event,
    plan: str,
    status: Status,
    end: Instant | None,
    auto_renew: bool,
    seats: int | None,
) -> Period:
    at = event.effective_at
    contract.day, contract.tried = day_of_month(at), False
    if end is not None:
        end = contract.named(end)
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


def _renew(contract: Contract, event: Event) -> None:
    """The next period is paid. After the plan had lapsed it takes it up again from now on."""
    at, now, named = event.effective_at, contract.now, event.period_end
    running = now if now.paid else _lapsed(contract, event)
    if running is None or event.plan == FREE:
        return
    old_end, months = running.period_end, event.term_months or running.term_months or 1
    if named is not None and named <= (at if old_end is None else old_end):
        # A payment of what was paid already shortens nothing; it may be the one that was said to have failed.
        if named == old_end and at < old_end and now.status is Status.PAST_DUE:
            _change(contract, event, replace(now, status=Status.ACTIVE))
    elif named is None and old_end is None and now.paid and now.status is not Status.TRIALING:
        return  # without an end there is nothing to lengthen
    elif old_end is not None and at < old_end and event.plan not in (None, now.plan):
        _renew_as(contract, event, event.plan or now.plan, months)
    else:
        _continue(contract, event, running, months)


def _lapsed(contract: Contract, event: Event) -> Period | None:
    """What a renewal on Free takes up: the plan that it names, else the last one."""
    last = contract.last_paid
    if last is None and event.plan is not None:
        last = replace(contract.now, plan=event.plan, source=event.source or Source.DIRECT)
    if last is None:
        return None
    return replace(
        last,
        status=Status.ACTIVE,
        period_end=None,
        auto_renew=last.source is Source.DIRECT,
        seats=last.seats if contract.now.seats is None else contract.now.seats,
        pending=None,
    )


def _renew_as(contract: Contract, event: Event, plan: str, months: int) -> None:
    """Paid before the end for another plan: the one that holds was paid until then."""
    now = contract.now
    seats = None if now.pending is None else now.pending.seats
    change = PendingChange(ChangeKind.RENEWAL, plan, months, seats, event.id, event.period_end)
    status = Status.ACTIVE if now.status is Status.PAST_DUE else now.status
    _change(contract, event, replace(now, status=status, pending=change))


def _continue(contract: Contract, event: Event, running: Period, months: int) -> None:
    """The period paid for follows the one that runs, or begins now where that has no end."""
    at, old_end = event.effective_at, running.period_end
    if event.period_end is None:
        begins, end = contract.next_months(running, months, at)
    else:
        if old_end is None:
            contract.day = day_of_month(at)
        begins, end = at if old_end is None else old_end, contract.named(event.period_end)
    if end <= at:
        # What was paid is over as well: still past due, from the later end on.
        _change(contract, event, replace(running, period_start=begins, period_end=end))
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
        auto_renew=renews_itself(running) if event.auto_renew is None else event.auto_renew,
        term_months=months,
    )
    contract.become(renewed, event.id, event.type.value)


def _upgrade(contract: Contract, event: Event) -> None:
    """At once. A downgrade that was bought is given up; a renewal that was bought is of the new plan."""
    if not contract.now.paid or event.plan is None or event.plan == FREE:
        return
    pending = contract.now.pending
    if pending is not None and pending.kind is ChangeKind.DOWNGRADE:
        pending = None
    elif pending is not None:
        pending = replace(pending, plan=event.plan)
    seats = contract.now.seats if event.seats is None else event.seats
    _change(contract, event, replace(contract.now, plan=event.plan, seats=seats, pending=pending))


def _buy(contract: Contract, event: Event, kind: ChangeKind, plan: str) -> None:
    now = contract.now
    if not now.paid or plan == FREE or now.period_end is None:
        return
    months = event.term_months or now.term_months or 1
    seats = event.seats
    if seats is None and now.pending is not None:
        seats = now.pending.seats
    _change(contract, event, replace(now, pending=PendingChange(kind, plan, months, seats, event.id)))


def _seats(contract: Contract, event: Event) -> None:
    now = contract.now
    if event.seats is None:
        return
    if not event.at_end or now.period_end is None or now.period_end <= event.effective_at:
        _change(contract, event, replace(now, seats=event.seats))
        return
    pending = PendingChange(ChangeKind.SEATS, now.plan, None, event.seats, event.id)
    if now.pending is not None and now.pending.kind is not ChangeKind.SEATS:
        pending = replace(now.pending, seats=event.seats)
    _change(contract, event, replace(now, pending=pending))


def _cancel(contract: Contract, event: Event) -> None:
    """No automatic renewal: the plan runs to the end of its period. What is past due keeps its grace."""
    now, end = contract.now, event.period_end
    if not now.paid:
        return
    if end is None or (now.status is Status.PAST_DUE and now.period_end is not None and end < now.period_end):
        end = now.period_end
    else:
        end = contract.named(end)
    status = Status.CANCELED if now.status is Status.ACTIVE else now.status
    _change(contract, event, replace(now, status=status, auto_renew=False, period_end=end))


def _resume(contract: Contract, event: Event) -> None:
    """Automatic renewal is on again. What a partner sold has none, nor a trial unless that is said."""
    now = contract.now
    if not now.paid or (now.status is Status.TRIALING and not event.auto_renew):
        return
    status = Status.ACTIVE if now.status is Status.CANCELED else now.status
    auto_renew = now.auto_renew or now.source is Source.DIRECT
    _change(contract, event, replace(now, status=status, auto_renew=auto_renew))


def _fail(contract: Contract, event: Event) -> None:
    """A renewal was not paid. A trial has no grace, and what was cancelled is not renewed. A failure to pay for
    what was before this period (an old invoice that is still tried) ends nothing that was paid since.
    """
    now, told = contract.now, event.period_end
    if not now.paid or now.status not in (Status.ACTIVE, Status.PAST_DUE):
        return
    if told is not None and told < now.period_start:
        return
    end = now.period_end
    if end is None or (told is not None and told < end):
        end = contract.named(event.effective_at if told is None else told)
    _change(contract, event, replace(now, status=Status.PAST_DUE, period_end=end))


def _change(contract: Contract, event: Event, changed: Period) -> None:
    """Go on as `changed` says, from the event on; nothing begins when nothing is changed."""
    if changed != contract.now:
        contract.become(replace(changed, effective_at=event.effective_at), event.id, event.type.value)
