"""What each event does in each state, by name; and the stories that the rules of the service tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mailgate.clock import DAY, HOUR, Instant, from_datetime
from mailgate.tenants.timeline import (
    BEGINNING,
    ChangeKind,
    Event,
    EventType,
    Period,
    Source,
    Status,
    SubscriptionRules,
    timeline,
)


def _on(year: int, month: int, day: int, hour: int = 0) -> Instant:
    return from_datetime(datetime(year, month, day, hour, tzinfo=UTC))


START, END, LATER = _on(2026, 1, 31), _on(2026, 2, 28), _on(2026, 6, 15)
GRACE = 10 * DAY
TRIAL = Event("0", EventType.TRIAL_STARTED, START, plan="demo", period_end=END, seats=3)
BOUGHT = Event("0", EventType.PURCHASED, START, plan="standard", term_months=1, seats=3)
SWITCHED_OFF = Event("1", EventType.CANCELED, START + DAY)
ENDLESS = Event("0", EventType.SET, START, plan="standard", seats=3)

STATES: dict[str, tuple[Sequence[Event], Instant]] = {
    "free": ([], START + 5 * DAY),
    "trialing": ([TRIAL], START + 5 * DAY),
    "active": ([BOUGHT], START + 5 * DAY),
    "canceled": ([BOUGHT, SWITCHED_OFF], START + 5 * DAY),
    "past_due": ([BOUGHT], END + 5 * DAY),
    "failed_early": ([BOUGHT, Event("1", EventType.RENEWAL_FAILED, START + DAY)], START + 5 * DAY),
    "endless": ([ENDLESS], START + 5 * DAY),
    "endless_trial": ([Event("0", EventType.TRIAL_STARTED, START, plan="demo", seats=3)], START + 5 * DAY),
}


def _then(state: str, kind: EventType, **fields: Any) -> Period:
    before, now = STATES[state]
    event = Event("x", kind, now, **fields)
    return timeline([*before, event]).at(now)


def _unchanged(state: str, kind: EventType, **fields: Any) -> bool:
    before, now = STATES[state]
    event = Event("x", kind, now, **fields)
    return timeline([*before, event]) == timeline(before)


FREE_CANCELED = ("free", "canceled", None, False, None)
SET_TO = ("professional", "active", LATER, False, None)
ON_TRIAL = ("demo", "trialing", LATER, False, None)
SOLD_EARLY = ("professional", "active", _on(2026, 5, 5), True, None)
CELLS: dict[EventType, tuple[dict[str, object], dict[str, tuple[object, ...] | None]]] = {
    # Each cell: plan, status, period_end, auto_renew, what is pending; None: the event changes nothing.
    EventType.SET: (
        {"plan": "professional", "period_end": LATER},
        dict.fromkeys(STATES, SET_TO),
    ),
    EventType.TRIAL_STARTED: (
        {"plan": "demo", "period_end": LATER},
        dict.fromkeys(STATES, ON_TRIAL),
    ),
    EventType.PURCHASED: (
        {"plan": "professional", "term_months": 3},
        {**dict.fromkeys(STATES, SOLD_EARLY), "past_due": ("professional", "active", _on(2026, 6, 5), True, None)},
    ),
    EventType.RENEWED: (
        {},
        {
            "free": None,
            "trialing": ("demo", "active", _on(2026, 3, 31), True, None),
            "active": ("standard", "active", _on(2026, 3, 31), True, None),
            "canceled": ("standard", "canceled", _on(2026, 3, 31), False, None),
            "past_due": ("standard", "active", _on(2026, 3, 31), True, None),
            "failed_early": ("standard", "active", _on(2026, 3, 31), True, None),
            "endless": None,
            "endless_trial": ("demo", "active", _on(2026, 3, 5), True, None),
        },
    ),
    EventType.UPGRADED: (
        {"plan": "professional"},
        {
            "free": None,
            "trialing": ("professional", "trialing", END, False, None),
            "active": ("professional", "active", END, True, None),
            "canceled": ("professional", "canceled", END, False, None),
            "past_due": ("professional", "past_due", END, True, None),
            "failed_early": ("professional", "past_due", END, True, None),
            "endless": ("professional", "active", None, False, None),
            "endless_trial": ("professional", "trialing", None, False, None),
        },
    ),
    EventType.RENEWAL_BOUGHT: (
        {"term_months": 3},
        {
            "free": None,
            "trialing": ("demo", "trialing", END, False, ("renewal", "demo", 3, None)),
            "active": ("standard", "active", END, True, ("renewal", "standard", 3, None)),
            "canceled": ("standard", "canceled", END, False, ("renewal", "standard", 3, None)),
            "past_due": ("standard", "active", _on(2026, 5, 31), True, None),
            "failed_early": ("standard", "past_due", END, True, ("renewal", "standard", 3, None)),
            "endless": None,
            "endless_trial": None,
        },
    ),
    EventType.DOWNGRADE_BOUGHT: (
        {"plan": "crm_plus"},
        {
            "free": None,
            "trialing": ("demo", "trialing", END, False, ("downgrade", "crm_plus", 1, None)),
            "active": ("standard", "active", END, True, ("downgrade", "crm_plus", 1, None)),
            "canceled": ("standard", "canceled", END, False, ("downgrade", "crm_plus", 1, None)),
            "past_due": ("crm_plus", "active", _on(2026, 3, 31), True, None),
            "failed_early": ("standard", "past_due", END, True, ("downgrade", "crm_plus", 1, None)),
            "endless": None,
            "endless_trial": None,
        },
    ),
    EventType.SEATS_CHANGED: (
        {"seats": 2, "at_end": True},
        {
            "free": ("free", "active", None, False, None),
            "trialing": ("demo", "trialing", END, False, ("seats", "demo", None, 2)),
            "active": ("standard", "active", END, True, ("seats", "standard", None, 2)),
            "canceled": ("standard", "canceled", END, False, ("seats", "standard", None, 2)),
            "past_due": ("standard", "past_due", END, True, None),
            "failed_early": ("standard", "past_due", END, True, ("seats", "standard", None, 2)),
            "endless": ("standard", "active", None, False, None),
            "endless_trial": ("demo", "trialing", None, False, None),
        },
    ),
    EventType.RESUMED: (
        {},
        {
            **dict.fromkeys(STATES, None),
            "canceled": ("standard", "active", END, True, None),
            "endless": ("standard", "active", None, True, None),
        },
    ),
    EventType.CANCELED: (
        {},
        {
            **dict.fromkeys(STATES, None),
            "active": ("standard", "canceled", END, False, None),
            "past_due": ("standard", "past_due", END, False, None),
            "failed_early": ("standard", "past_due", END, False, None),
            "endless": ("standard", "canceled", None, False, None),
        },
    ),
    EventType.RENEWAL_FAILED: (
        {},
        {
            **dict.fromkeys(STATES, None),
            "active": ("standard", "past_due", END, True, None),
            "endless": ("standard", "past_due", START + 5 * DAY, False, None),
        },
    ),
    EventType.ENDED: (
        {},
        {
            **dict.fromkeys(STATES, FREE_CANCELED),
            "free": None,
            "trialing": ("free", "expired", None, False, None),
            "endless_trial": ("free", "expired", None, False, None),
        },
    ),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", EventType)
def test_cell(kind: EventType, state: str) -> None:
    fields, cells = CELLS[kind]
    expected = cells[state]
    if expected is None:
        assert _unchanged(state, kind, **fields)
        return
    period = _then(state, kind, **fields)
    pending = period.pending and (
        period.pending.kind.value,
        period.pending.plan,
        period.pending.term_months,
        period.pending.seats,
    )
    assert (period.plan, period.status.value, period.period_end, period.auto_renew, pending) == expected
    assert (period.cause, period.effective_at) == ("x", STATES[state][1]) or period.cause_type == "period_ended"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (EventType.TRIAL_STARTED, {}),
        (EventType.TRIAL_STARTED, {"plan": "free"}),
        (EventType.PURCHASED, {"plan": "standard", "period_end": START}),
        (EventType.RENEWED, {"plan": "free"}),
        (EventType.RENEWED, {"period_end": START + 4 * DAY}),
        (EventType.UPGRADED, {}),
        (EventType.UPGRADED, {"plan": "free"}),
        (EventType.DOWNGRADE_BOUGHT, {"plan": "free"}),
        (EventType.SEATS_CHANGED, {}),
    ],
)
def test_what_makes_no_sense_changes_nothing(state: str, kind: EventType, fields: dict[str, object]) -> None:
    assert _unchanged(state, kind, **fields)


def _line(*events: Event, grace_days: int = 10) -> list[tuple[str, str, Instant]]:
    periods = timeline(events, SubscriptionRules(grace_days)).periods
    return [(period.plan, period.status.value, period.effective_at) for period in periods]


BEGUN = ("free", "active", BEGINNING)


def test_without_events_a_tenant_is_on_free_for_ever() -> None:
    assert _line() == [BEGUN]
    empty = timeline([])
    assert (list(empty.after(START)), empty.plan_since(START), empty.plan_since(-1)) == ([], BEGINNING, BEGINNING)
    assert empty.at(-1) == empty.at(START)


def test_what_happened_before_the_beginning_counts_from_there() -> None:
    assert timeline([Event("0", EventType.SET, -5, plan="nfr")]).periods[0].effective_at == BEGINNING


def test_a_trial_ends_to_the_microsecond_without_grace() -> None:
    line = timeline([TRIAL, Event("1", EventType.RENEWAL_FAILED, END - 1), Event("2", EventType.CANCELED, END - 1)])
    assert (line.at(END - 1).plan, line.at(END).plan, line.at(END).status) == ("demo", "free", Status.EXPIRED)


def test_a_trial_that_becomes_a_purchase_by_itself_waits_for_the_word_of_it() -> None:
    converts = replace(TRIAL, auto_renew=True)
    line = timeline([converts])
    assert (line.at(END).plan, line.at(END).status) == ("demo", Status.PAST_DUE)
    assert (line.at(END + GRACE).plan, line.at(END + GRACE).status) == ("free", Status.CANCELED)
    bought = Event("1", EventType.RENEWED, END + DAY, term_months=1)
    assert timeline([converts, bought]).at(END + DAY).period_start == END
    over = Event("1", EventType.ENDED, END + DAY)
    assert timeline([converts, over]).at(END + DAY).status is Status.EXPIRED
    off, on = Event("2", EventType.CANCELED, START + DAY), Event("3", EventType.RESUMED, START + 2 * DAY)
    assert timeline([converts, off]).at(END).status is Status.EXPIRED
    assert timeline([converts, off, on]).at(END).status is Status.EXPIRED
    assert timeline([converts, off, replace(on, auto_renew=True)]).at(END).status is Status.PAST_DUE


def test_nobody_renewed_costs_the_plan_after_grace() -> None:
    active, due = ("standard", "active", START), ("standard", "past_due", END)
    assert _line(BOUGHT) == [BEGUN, active, due, ("free", "canceled", END + GRACE)]
    assert _line(BOUGHT, grace_days=0) == [BEGUN, active, ("free", "canceled", END)]


def test_what_a_partner_sold_ends_with_its_period() -> None:
    sold = Event("0", EventType.PURCHASED, START, plan="standard", term_months=1, source=Source.PARTNER)
    assert _line(sold)[-1] == ("free", "expired", END)
    assert _line(sold, SWITCHED_OFF)[-1] == ("free", "canceled", END)
    resumed = Event("2", EventType.RESUMED, START + 2 * DAY)
    assert _line(sold, SWITCHED_OFF, resumed)[-1] == ("free", "expired", END)


def test_a_canceled_plan_runs_to_its_end() -> None:
    assert _line(BOUGHT, SWITCHED_OFF)[1:] == [
        ("standard", "active", START),
        ("standard", "canceled", START + DAY),
        ("free", "canceled", END),
    ]
    outright = Event("0", EventType.SET, START, plan="nfr", status=Status.CANCELED, period_end=END, auto_renew=True)
    assert _line(outright) == [BEGUN, ("nfr", "canceled", START), ("free", "canceled", END)]


def test_a_canceled_plan_ends_when_the_billing_system_says() -> None:
    sooner = Event("1", EventType.CANCELED, START + DAY, period_end=START + 2 * DAY)
    assert _line(BOUGHT, sooner)[-1] == ("free", "canceled", START + 2 * DAY)
    past = Event("1", EventType.CANCELED, START + DAY, period_end=START)
    assert _line(BOUGHT, past)[-1] == ("free", "canceled", START + DAY)


def test_cancelling_takes_no_grace_away() -> None:
    in_grace = Event("1", EventType.CANCELED, END + DAY, period_end=END - DAY)
    assert _line(BOUGHT, in_grace)[-1] == ("free", "canceled", END + GRACE)
    longer = Event("1", EventType.CANCELED, END + DAY, period_end=END + DAY)
    assert _line(BOUGHT, longer)[-1] == ("free", "canceled", END + DAY + GRACE)


def test_a_change_of_mind_in_grace_brings_automatic_renewal_back() -> None:
    line = timeline(
        [
            BOUGHT,
            Event("1", EventType.CANCELED, END + DAY),
            Event("2", EventType.RESUMED, END + 2 * DAY),
            Event("3", EventType.RENEWED, END + 3 * DAY),
        ]
    )
    assert line.at(END + 3 * DAY).auto_renew
    assert line.at(_on(2026, 3, 31)).status is Status.PAST_DUE


def test_a_downgrade_takes_the_place_of_the_renewal_of_that_date() -> None:
    line = timeline(
        [
            BOUGHT,
            Event("1", EventType.DOWNGRADE_BOUGHT, END - DAY, plan="crm_plus", term_months=3, seats=2),
            Event("2", EventType.RENEWAL_FAILED, END - HOUR),
        ]
    )
    assert line.at(END - 1).plan == "standard"
    began = line.at(END)
    assert (began.plan, began.status, began.seats, began.cause) == ("crm_plus", Status.ACTIVE, 2, "1")
    assert (began.period_start, began.period_end) == (END, _on(2026, 5, 31))


def test_an_upgrade_gives_a_downgrade_up_and_takes_a_renewal_along() -> None:
    down = Event("1", EventType.DOWNGRADE_BOUGHT, END - DAY, plan="crm_plus")
    renew = Event("1", EventType.RENEWAL_BOUGHT, END - DAY, term_months=12)
    fewer = Event("1", EventType.SEATS_CHANGED, END - DAY, seats=1, at_end=True)
    up = Event("2", EventType.UPGRADED, END - HOUR, plan="professional", seats=7)
    assert timeline([BOUGHT, down, up]).at(END - HOUR).pending is None
    then = timeline([BOUGHT, renew, up]).at(END)
    assert (then.plan, then.status, then.seats, then.period_end) == (
        "professional",
        Status.ACTIVE,
        7,
        _on(2027, 2, 28),
    )
    assert timeline([BOUGHT, fewer, up]).at(END).seats == 1


def test_the_later_of_two_bought_changes_counts() -> None:
    renew = Event("1", EventType.RENEWAL_BOUGHT, END - 2 * DAY, term_months=12)
    down = Event("2", EventType.DOWNGRADE_BOUGHT, END - DAY, plan="crm_plus", term_months=1)
    pending = timeline([BOUGHT, renew, down]).at(END - DAY).pending
    assert pending is not None
    assert (pending.kind, pending.cause) == (ChangeKind.DOWNGRADE, "2")


@pytest.mark.parametrize("first", ["seats", "renewal"])
def test_fewer_seats_and_a_bought_renewal_come_together(first: str) -> None:
    fewer = Event("1", EventType.SEATS_CHANGED, END - (2 if first == "seats" else 1) * DAY, seats=1, at_end=True)
    renew = Event("2", EventType.RENEWAL_BOUGHT, END - (1 if first == "seats" else 2) * DAY, term_months=1)
    line = timeline([BOUGHT, fewer, renew])
    assert line.at(END - 1).seats == 3
    assert (line.at(END).seats, line.at(END).status) == (1, Status.ACTIVE)


@pytest.mark.parametrize("failed_at", [END - DAY, END + HOUR])
def test_fewer_seats_come_into_force_at_the_end_also_when_payment_fails(failed_at: Instant) -> None:
    fewer = Event("1", EventType.SEATS_CHANGED, START + DAY, seats=1, at_end=True)
    line = timeline([BOUGHT, fewer, Event("2", EventType.RENEWAL_FAILED, failed_at)])
    assert (line.at(END - 1).seats, line.at(END).seats) == (3, 1)
    assert (line.at(END + GRACE - 1).plan, line.at(END + GRACE).plan) == ("standard", "free")


def test_more_seats_count_at_once() -> None:
    line = timeline([BOUGHT, Event("1", EventType.SEATS_CHANGED, START + DAY, seats=8)])
    assert (line.at(START + DAY - 1).seats, line.at(START + DAY).seats) == (3, 8)


def test_a_trial_that_is_bought_renews_itself() -> None:
    """By its first payment, or by a purchase that begins when the trial ends; the months count from there."""
    for event in (
        Event("1", EventType.RENEWED, END, term_months=1),
        Event("1", EventType.RENEWAL_BOUGHT, END - DAY, term_months=1),
        Event("1", EventType.DOWNGRADE_BOUGHT, END - DAY, plan="crm_plus", term_months=1),
    ):
        end = _on(2026, 3, 31)
        line = timeline([TRIAL, event])
        if event.type is EventType.RENEWED:
            # At the trial's end the trial is over; this takes it up from the same instant on.
            end = _on(2026, 3, 28)
        assert (line.at(END).status, line.at(END).auto_renew, line.at(END).period_end) == (Status.ACTIVE, True, end)
        assert line.at(end).status is Status.PAST_DUE


def test_months_follow_the_day_on_which_a_named_end_lies() -> None:
    """A trial from the 15th that ends on the 29th is paid for until the 29th, not the 15th, of the next month."""
    trial = Event("0", EventType.TRIAL_STARTED, _on(2026, 5, 15), plan="demo", period_end=_on(2026, 5, 29))
    paid = Event("1", EventType.RENEWED, _on(2026, 5, 28))
    assert timeline([trial, paid]).at(_on(2026, 5, 28)).period_end == _on(2026, 6, 29)


def test_periods_from_the_31st_do_not_drift() -> None:
    renewed = [Event(str(number), EventType.RENEWED, END + number * DAY) for number in range(1, 4)]
    assert timeline([BOUGHT, *renewed]).at(END + 3 * DAY).period_end == _on(2026, 5, 31)
    named = Event("0", EventType.PURCHASED, START, plan="standard", period_end=END)
    assert timeline([named, renewed[0]]).at(END + DAY).period_end == _on(2026, 3, 31)


def test_a_leap_day_comes_back() -> None:
    bought = Event("0", EventType.PURCHASED, _on(2024, 2, 29), plan="standard", term_months=12)
    renewed = [Event(str(year), EventType.RENEWED, _on(year, 2, 28)) for year in (2025, 2026, 2027)]
    line = timeline([bought, *renewed])
    assert line.at(_on(2024, 3, 1)).period_end == _on(2025, 2, 28)
    assert line.at(_on(2027, 3, 1)).period_end == _on(2028, 2, 29)


def test_a_payment_never_shortens_what_was_paid() -> None:
    twice = [Event("1", EventType.RENEWED, END - DAY, period_end=LATER)]
    stale = Event("2", EventType.RENEWED, END, period_end=_on(2026, 3, 31))
    assert timeline([BOUGHT, *twice, stale]) == timeline([BOUGHT, *twice])


def test_a_payment_mends_the_failure_that_was_told_for_the_same_period() -> None:
    failed = Event("1", EventType.RENEWAL_FAILED, START + HOUR)
    paid = Event("2", EventType.RENEWED, START + 2 * HOUR, period_end=END)
    line = timeline([BOUGHT, failed, paid])
    assert (line.at(START + 2 * HOUR).status, line.at(START + 2 * HOUR).period_end) == (Status.ACTIVE, END)
    both = timeline([BOUGHT, Event("1", EventType.RENEWAL_FAILED, END), Event("2", EventType.RENEWED, END)])
    assert both.at(END).status is Status.ACTIVE


def test_another_plan_that_is_paid_early_begins_with_its_period() -> None:
    paid = Event("1", EventType.RENEWED, END - HOUR, plan="crm_plus", period_end=_on(2026, 3, 30))
    line = timeline([BOUGHT, Event("f", EventType.RENEWAL_FAILED, END - DAY), paid])
    assert (line.at(END - 1).plan, line.at(END - 1).status) == ("standard", Status.ACTIVE)
    assert (line.at(END).plan, line.at(END).period_end) == ("crm_plus", _on(2026, 3, 30))
    fewer = Event("2", EventType.SEATS_CHANGED, END - DAY, seats=1, at_end=True)
    assert timeline([BOUGHT, fewer, paid]).at(END).seats == 1


def test_who_pays_after_the_grace_has_the_plan_again_from_then_on() -> None:
    again = Event("1", EventType.RENEWED, END + GRACE)
    assert _line(BOUGHT, again)[3:5] == [
        ("standard", "active", END + GRACE),
        ("standard", "past_due", _on(2026, 4, 10)),
    ]
    line = timeline([BOUGHT, again])
    assert line.plan_since(END + GRACE) == START


def test_a_payment_takes_up_a_plan_that_was_never_seen_before() -> None:
    """The billing system was connected later than its subscription began."""
    paid = Event("1", EventType.RENEWED, START, plan="standard", period_end=LATER)
    period = timeline([paid]).at(START)
    assert (period.plan, period.period_end, period.auto_renew) == ("standard", LATER, True)
    named = Event("1", EventType.RENEWED, LATER, plan="professional", seats=4)
    assert timeline([BOUGHT, named]).at(LATER).plan == "professional"
    seats = Event("s", EventType.SEATS_CHANGED, END + 2 * GRACE, seats=5)
    assert timeline([BOUGHT, seats, named]).at(LATER).seats == 5


def test_a_short_period_paid_too_late_leaves_the_plan_past_due_from_its_end() -> None:
    late = Event("1", EventType.RENEWED, END + 9 * DAY, period_end=END + 7 * DAY)
    line = timeline([BOUGHT, late])
    assert line.at(END + 9 * DAY).status is Status.PAST_DUE
    assert (line.at(END + 7 * DAY + GRACE - 1).plan, line.at(END + 7 * DAY + GRACE).plan) == ("standard", "free")


def test_a_month_paid_after_a_long_grace_is_a_whole_one() -> None:
    paid = Event("1", EventType.RENEWED, END + 40 * DAY)
    assert timeline([BOUGHT, paid], SubscriptionRules(45)).at(END + 40 * DAY).period_end == _on(2026, 5, 9)


def test_a_plan_without_end_takes_the_end_that_a_payment_names() -> None:
    paid = Event("1", EventType.RENEWED, START + DAY, period_end=LATER, auto_renew=True)
    period = timeline([ENDLESS, paid]).at(START + DAY)
    assert (period.period_start, period.period_end, period.auto_renew) == (START + DAY, LATER, True)


def test_a_renewal_may_switch_automatic_renewal_on_again() -> None:
    paid = Event("2", EventType.RENEWED, START + 2 * DAY, auto_renew=True)
    period = timeline([BOUGHT, SWITCHED_OFF, paid]).at(START + 2 * DAY)
    assert (period.status, period.auto_renew) == (Status.ACTIVE, True)


def test_setting_outright() -> None:
    assert _line(BOUGHT, Event("1", EventType.SET, START + DAY, plan="free", seats=1))[-1] == (
        "free",
        "active",
        START + DAY,
    )
    assert _line(BOUGHT, Event("1", EventType.SET, START + DAY, status=Status.EXPIRED))[-1][:2] == ("free", "expired")
    due = Event("1", EventType.SET, START + DAY, status=Status.PAST_DUE)
    assert _line(BOUGHT, due)[-2:] == [
        ("standard", "past_due", START + DAY),
        ("free", "canceled", START + DAY + GRACE),
    ]
    ended = Event("1", EventType.SET, START + DAY, plan="nfr", period_end=START)
    assert _line(ended) == [BEGUN, ("free", "expired", START + DAY)]
    term = Event("1", EventType.SET, START, plan="nfr", term_months=1)
    assert timeline([term]).at(START).period_end == END


def test_months_that_a_billing_system_named_otherwise_fall_back_to_those_bought() -> None:
    """The end it named is over before the period begins, which a cancellation had put off."""
    paid = Event("1", EventType.RENEWED, START + DAY, plan="crm_plus", period_end=_on(2026, 3, 5))
    off = Event("2", EventType.CANCELED, START + 2 * DAY, period_end=_on(2026, 3, 10))
    period = timeline([BOUGHT, paid, off]).at(_on(2026, 3, 10))
    assert (period.plan, period.period_end) == ("crm_plus", _on(2026, 4, 10))


def test_repeated_deliveries_count_once() -> None:
    again = Event("1", EventType.RENEWED, START + DAY)
    assert timeline([again, BOUGHT, again, BOUGHT]) == timeline([BOUGHT, again])


def test_a_subscription_that_replaces_another_in_the_same_instant_holds() -> None:
    line = timeline([BOUGHT, Event("a", EventType.ENDED, END), Event("b", EventType.PURCHASED, END, plan="nfr")])
    assert line.at(END).plan == "nfr"


def test_the_end_of_an_old_contract_does_not_end_the_one_that_replaced_it() -> None:
    old = Event("0", EventType.PURCHASED, START, plan="standard", period_end=END, contract="sub_1")
    new = Event("1", EventType.PURCHASED, START + DAY, plan="professional", period_end=LATER, contract="sub_2")
    late = [
        Event(str(number), kind, START + (1 + number) * DAY, contract="sub_1")
        for number, kind in enumerate([EventType.RENEWAL_FAILED, EventType.CANCELED, EventType.ENDED], start=2)
    ]
    assert timeline([old, new, *late]) == timeline([old, new])
    ended = Event("9", EventType.ENDED, START + 9 * DAY, contract="sub_2")
    assert timeline([old, new, *late, ended]).at(START + 9 * DAY).plan == "free"
    without = Event("9", EventType.ENDED, START + 9 * DAY)
    assert timeline([old, new, without]).at(START + 9 * DAY).plan == "free"


SUB_1 = Event("0", EventType.PURCHASED, START, plan="standard", period_end=LATER, contract="sub_1")
SUB_2 = Event("1", EventType.PURCHASED, START + DAY, plan="standard", period_end=END, contract="sub_2")


@pytest.mark.parametrize(
    "how", [[Event("2", EventType.ENDED, END, contract="sub_2")], [Event("2", EventType.CANCELED, END - 1)]]
)
def test_where_one_of_two_contracts_ends_the_other_one_holds_on(how: list[Event]) -> None:
    """Subscribed twice by mistake, and the second one given back: what the first one paid is kept."""
    line = timeline([SUB_1, SUB_2, *how])
    now = line.at(END)
    assert (now.plan, now.status, now.period_end, now.auto_renew) == ("standard", Status.ACTIVE, LATER, True)
    assert line.plan_since(END) == START
    # It is the first one that holds now: its own events count again, those of the other one no more.
    paid = Event("3", EventType.RENEWED, LATER - 1, contract="sub_1", period_end=LATER + 30 * DAY)
    late = Event("4", EventType.ENDED, END + DAY, contract="sub_2")
    assert timeline([SUB_1, SUB_2, *how, paid, late]).at(LATER).period_end == LATER + 30 * DAY


RANKED = SubscriptionRules(ranks={"free": 0, "demo": 1, "standard": 2, "professional": 3})
HIGH = Event("0", EventType.PURCHASED, START, plan="professional", period_end=LATER, contract="high")
LOW = Event("1", EventType.PURCHASED, START + DAY, plan="standard", period_end=END, contract="low")


def test_of_two_contracts_the_one_with_the_higher_plan_holds_whichever_began_last() -> None:
    for high, low in ((HIGH, LOW), (replace(HIGH, effective_at=START + 2 * DAY), replace(LOW, effective_at=START))):
        line = timeline([high, low], RANKED)
        assert {line.at(at).plan for at in (START + 2 * DAY, END, LATER - 1)} == {"professional"}
        given_back = Event("2", EventType.ENDED, START + 3 * DAY, contract="high")
        after = timeline([high, low, given_back], RANKED)
        assert (after.at(START + 3 * DAY - 1).plan, after.at(START + 3 * DAY).plan) == ("professional", "standard")
        assert (after.at(START + 3 * DAY).cause, after.at(START + 3 * DAY).cause_type) == ("2", "ended")
        assert after.at(END).status is Status.PAST_DUE
    assert timeline([HIGH, LOW]).at(START + DAY).plan == "standard"  # without an order the last one holds


def test_a_change_of_the_contract_beside_counts_for_that_one() -> None:
    up = Event("2", EventType.UPGRADED, START + 2 * DAY, plan="professional", contract="low")
    down = Event("3", EventType.DOWNGRADE_BOUGHT, LATER - DAY, plan="demo", contract="high")
    paid = Event("4", EventType.RENEWED, END, contract="low", period_end=LATER + DAY)
    line = timeline([HIGH, LOW, down, paid], RANKED)
    assert (line.at(LATER - 1).plan, line.at(LATER).plan, line.at(LATER + DAY).status) == (
        "professional",
        "standard",
        Status.PAST_DUE,
    )
    assert (line.at(LATER).cause, line.at(LATER).cause_type) == ("3", "period_ended")
    # After its grace the demo that was bought for the other one is left.
    assert line.at(LATER + DAY + GRACE).plan == "demo"
    both = timeline([HIGH, LOW, up, Event("5", EventType.ENDED, START + 3 * DAY, contract="high")], RANKED)
    assert both.plan_since(START + 3 * DAY) == START
    raised = timeline([replace(HIGH, plan="demo"), replace(LOW, plan="demo"), replace(up, contract="high")], RANKED)
    assert (raised.at(START + 2 * DAY).plan, raised.at(START + 2 * DAY).cause) == ("professional", "2")


def test_a_bought_change_of_the_contract_beside_may_make_it_the_higher_one() -> None:
    next_year = Event("2", EventType.RENEWED, END - DAY, plan="professional", period_end=LATER, contract="low")
    line = timeline([replace(HIGH, plan="standard"), replace(LOW, plan="demo"), next_year], RANKED)
    assert (line.at(END - 1).plan, line.at(END).plan) == ("standard", "professional")
    assert (line.at(END).cause, line.at(END).cause_type) == ("2", "period_ended")


def test_what_is_told_of_no_contract_is_told_of_the_one_that_holds_and_stays_with_it() -> None:
    more = Event("2", EventType.SEATS_CHANGED, START + 2 * DAY, seats=9)
    higher = Event("3", EventType.PURCHASED, START + 3 * DAY, plan="nfr", period_end=END, contract="given")
    ended = Event("4", EventType.ENDED, START + 4 * DAY, contract="given")
    line = timeline([HIGH, LOW, more, higher, ended], RANKED)
    assert line.at(START + 3 * DAY).plan == "nfr"  # not known: it keeps everything
    assert (line.at(START + 4 * DAY).plan, line.at(START + 4 * DAY).seats) == ("professional", 9)


def test_a_contract_that_lapsed_is_taken_up_as_it_was_and_another_one_from_what_held_last() -> None:
    over = Event("2", EventType.ENDED, START + 3 * DAY, contract="high")
    lapsed = [HIGH, LOW, over, Event("3", EventType.ENDED, END - DAY, contract="low")]
    for contract, plan in (("high", "professional"), ("low", "standard"), ("new", "standard"), (None, "standard")):
        paid = Event("4", EventType.RENEWED, END, contract=contract)
        assert timeline([*lapsed, paid], RANKED).at(END).plan == plan
    beside = Event("4", EventType.RENEWED, START + 5 * DAY, contract="high", period_end=LATER)
    assert timeline([HIGH, LOW, over, beside], RANKED).at(START + 5 * DAY).plan == "professional"


def test_a_contract_takes_the_place_of_a_plan_that_was_given_without_one() -> None:
    given = replace(ENDLESS, plan="professional")
    assert timeline([given, LOW], RANKED).at(START + DAY).plan == "standard"
    assert timeline([HIGH, replace(ENDLESS, id="9", effective_at=START + DAY)], RANKED).at(LATER).plan == "standard"
    bought = replace(BOUGHT, id="9", effective_at=START + 2 * DAY, plan="demo", period_end=END, auto_renew=False)
    line = timeline([HIGH, bought], RANKED)
    assert (line.at(START + 2 * DAY).plan, line.at(END).plan) == ("demo", "professional")


def test_a_contract_beside_the_one_that_holds_goes_on_by_its_own_events() -> None:
    between = Event("2", EventType.RENEWED, START + 5 * DAY, contract="sub_1", period_end=LATER + DAY)
    over = Event("3", EventType.ENDED, END, contract="sub_2")
    assert timeline([SUB_1, SUB_2, between, over]).at(END).period_end == LATER + DAY
    failed = Event("4", EventType.RENEWAL_FAILED, START + 5 * DAY, contract="sub_1", period_end=END - DAY)
    held = timeline([SUB_1, SUB_2, failed, over])
    assert (held.at(END).status, held.at(END - DAY + GRACE - 1).plan) == (Status.PAST_DUE, "standard")
    assert held.at(END - DAY + GRACE).plan == "free"


@pytest.mark.parametrize(
    "ends", [Event("2", EventType.ENDED, START + 3 * DAY), Event("2", EventType.SET, START + 3 * DAY, plan="free")]
)
def test_what_is_told_of_no_contract_ends_them_all(ends: Event) -> None:
    assert timeline([SUB_1, SUB_2, ends]).at(START + 3 * DAY).plan == "free"
    again = Event("3", EventType.PURCHASED, START + 4 * DAY, plan="demo", term_months=1, contract="sub_3")
    over = Event("4", EventType.ENDED, START + 5 * DAY, contract="sub_3")
    assert timeline([SUB_1, SUB_2, ends, again, over]).at(START + 5 * DAY).plan == "free"


def test_a_payment_brings_its_contract_to_a_plan_that_has_none() -> None:
    ended = Event("9", EventType.ENDED, START + 9 * DAY, contract="sub_1")
    assert timeline([BOUGHT, ended]) == timeline([BOUGHT])
    paid = Event("1", EventType.RENEWED, START + DAY, period_end=END, contract="sub_1")
    assert timeline([BOUGHT, paid, ended]).at(START + 9 * DAY).plan == "free"
    taken_up = Event("1", EventType.RENEWED, START, plan="nfr", period_end=LATER, contract="sub_1")
    assert timeline([taken_up, ended]).at(START + 9 * DAY).plan == "free"


def test_a_failure_may_tell_that_the_period_which_had_begun_is_not_paid() -> None:
    begun = Event("1", EventType.RENEWED, END, period_end=_on(2026, 3, 31))
    failed = Event("2", EventType.RENEWAL_FAILED, END + HOUR, period_end=END)
    vague = Event("3", EventType.RENEWAL_FAILED, END + HOUR)
    for failures in ([failed], [failed, vague], [vague, failed]):
        line = timeline([BOUGHT, begun, *failures])
        assert (line.at(END + GRACE - 1).plan, line.at(END + GRACE).plan) == ("standard", "free")
    paid = Event("4", EventType.RENEWED, END + DAY, period_end=_on(2026, 3, 31))
    line = timeline([BOUGHT, begun, failed, vague, paid])
    assert (line.at(END + DAY).status, line.at(END + DAY).period_start) == (Status.ACTIVE, END)
    # An old invoice that is still tried, long after a later period was paid.
    old = Event("5", EventType.RENEWAL_FAILED, END + 20 * DAY, period_end=START)
    assert timeline([BOUGHT, begun, failed, paid, old]) == timeline([BOUGHT, begun, failed, paid])
    endless = timeline([ENDLESS, Event("1", EventType.RENEWAL_FAILED, END + HOUR, period_end=END)])
    assert endless.at(END + HOUR).period_end == END
