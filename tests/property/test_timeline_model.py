"""Whole years of subscriptions: the fold and an independent walk agree at every instant, and the laws hold."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mailgate.clock import DAY, HOUR, Instant, from_datetime
from mailgate.tenants.calendar import LATEST
from mailgate.tenants.timeline import (
    BEGINNING,
    Event,
    EventType,
    Period,
    Source,
    Status,
    SubscriptionRules,
    Timeline,
    timeline,
)
from tests.property.subscription_world import Answer, holds, months_later
from tests.soak import examples

PLANS = st.sampled_from(["demo", "crm_plus", "standard", "professional", "free"])
SOLD = st.sampled_from(["demo", "crm_plus", "standard", "professional"])
STARTS = [
    datetime(2023, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2024, 2, 29, tzinfo=UTC),
    datetime(2023, 12, 30, 12, tzinfo=UTC),
    datetime(2025, 2, 28, 0, 0, 0, 1, tzinfo=UTC),
    datetime(2026, 3, 15, 1, 30, tzinfo=UTC),
]
GRACE = 10 * DAY
SHIFTS = [0, 0, 0, -1, 1, -HOUR, HOUR, GRACE, GRACE - 1, GRACE + 1, 3 * DAY, -DAY, 12 * DAY, 40 * DAY]


@st.composite
def instants(draw: st.DrawFn, start: datetime, months: int = 36) -> Instant:
    """Around the ends of paid months and of graces, and anywhere."""
    end = months_later(from_datetime(start), draw(st.integers(0, months)), start.day)
    return end + draw(st.sampled_from(SHIFTS) | st.integers(0, 31 * DAY))


@st.composite
def an_event(draw: st.DrawFn, start: datetime, number: int) -> Event:
    kind = draw(st.sampled_from(EventType))
    ends = st.none() | instants(start, 48)
    terms = st.sampled_from([None, 1, 1, 3, 12])
    return Event(
        id=f"{draw(st.sampled_from('abc'))}{number}",
        type=kind,
        effective_at=draw(instants(start)),
        plan=draw(st.none() | PLANS),
        status=draw(st.none() | st.sampled_from(Status)) if kind is EventType.SET else None,
        period_end=draw(ends),
        term_months=draw(terms),
        auto_renew=draw(st.none() | st.booleans()),
        seats=draw(st.none() | st.integers(1, 9)),
        source=draw(st.sampled_from([None, None, *Source])),
        at_end=draw(st.booleans()),
        contract=draw(st.sampled_from([None, None, "one", "two"])),
    )


@st.composite
def histories(draw: st.DrawFn, longest: int = 9) -> list[Event]:
    """Any events whatever; half of them begin with something sold, so that what follows finds a plan."""
    start = draw(st.sampled_from(STARTS))
    events = [draw(an_event(start, number)) for number in range(draw(st.integers(1, longest)))]
    if draw(st.booleans()):
        kind = draw(st.sampled_from([EventType.PURCHASED, EventType.TRIAL_STARTED]))
        first = draw(an_event(start, 99))
        at = from_datetime(start)
        end = None if first.period_end is None else at + 14 * DAY
        events.insert(0, replace(first, type=kind, effective_at=at, plan=draw(SOLD), period_end=end))
    return events


ORDER = {"free": 0, "demo": 1, "crm_plus": 2, "standard": 3, "professional": 4}
RULES = st.builds(
    SubscriptionRules,
    st.sampled_from([10, 10, 10, 0, 1, 45]),
    st.sampled_from([ORDER, ORDER, {}, {name: ORDER[name] for name in ("free", "crm_plus", "professional")}]),
)


def _answer(period: Period) -> Answer:
    bought = period.pending
    return (
        period.plan,
        period.status.value,
        period.period_start,
        period.period_end,
        period.auto_renew,
        period.seats,
        None if bought is None else (bought.kind.value, bought.plan, bought.term_months, bought.seats),
    )


def _interesting(line: Timeline, events: list[Event]) -> list[Instant]:
    edges = {period.effective_at for period in line.periods} | {event.effective_at for event in events}
    return sorted({edge + shift for edge in edges for shift in (-1, 0, 1)})


@examples(150)
@given(histories(), RULES, st.lists(instants(STARTS[0], 60), max_size=8))
def test_the_fold_agrees_with_a_walk_step_by_step(
    events: list[Event], rules: SubscriptionRules, anywhere: list[Instant]
) -> None:
    line = timeline(events, rules)
    for now in [*_interesting(line, events), *anywhere]:
        assert _answer(line.at(now)) == holds(events, now, rules.grace_days, rules.ranks), now


@examples(150)
@given(histories(), st.data())
def test_any_order_and_any_repetition_give_the_same_timeline(events: list[Event], data: st.DataObject) -> None:
    again = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=6))))
    assert timeline(again) == timeline(events)


@examples(150)
@given(histories(), RULES)
def test_periods_follow_each_other_without_gap_or_overlap_and_none_is_empty(
    events: list[Event], rules: SubscriptionRules
) -> None:
    periods = timeline(events, rules).periods
    assert periods[0].effective_at == BEGINNING
    assert periods[-1].until_at is None
    for before, after in pairwise(periods):
        assert before.until_at == after.effective_at > before.effective_at
    for period in periods:
        assert period.period_end is None or period.period_start <= period.period_end
        assert period.paid or (period.period_end is None and period.pending is None and not period.auto_renew)


@examples(150)
@given(histories(), RULES)
def test_an_event_changes_nothing_before_its_instant(events: list[Event], rules: SubscriptionRules) -> None:
    *before, late = sorted(events, key=lambda event: event.effective_at)
    for event in (late, events[0]):
        rest = [other for other in events if other is not event]
        with_it, without = timeline(events, rules), timeline(rest, rules)
        for now in _interesting(without, rest):
            if now < event.effective_at:
                assert _answer(with_it.at(now)) == _answer(without.at(now))
                assert with_it.plan_since(now) == without.plan_since(now)
    assert (
        timeline(before, rules).at(late.effective_at - 1).plan == timeline(events, rules).at(late.effective_at - 1).plan
    )


@examples(150)
@given(histories(), RULES)
def test_what_begins_later_is_what_will_hold(events: list[Event], rules: SubscriptionRules) -> None:
    line = timeline(events, rules)
    for now in _interesting(line, events):
        later = line.after(now)
        assert all(period.effective_at > now for period in later)
        if later:
            change = later[0].effective_at
            assert line.at(change) == later[0]
            assert line.at(change - 1) == line.at(now)
        since = line.plan_since(now)
        assert line.at(since).plan == line.at(now).plan
        assert since <= now or now < BEGINNING
        assert since == BEGINNING or line.at(since - 1).plan != line.at(now).plan


@examples(150)
@given(histories())
def test_a_trial_is_never_past_due(events: list[Event]) -> None:
    """A trial ends at its end: what follows it is Free, or was paid for. (Another contract may hold on beside it, and a
    billing system may turn it into a purchase by itself.)
    """
    line = timeline([replace(event, contract=None, auto_renew=None) for event in events])
    for before, after in pairwise(line.periods):
        if before.status is Status.TRIALING and after.cause_type in ("period_ended", "grace_ended") and not after.paid:
            assert after.status is Status.EXPIRED
            assert after.effective_at >= (before.period_end or 0)
        if before.status is Status.TRIALING and after.status is Status.PAST_DUE:
            assert after.cause_type == "set"


EDGES = st.sampled_from([from_datetime(datetime(1, 1, 2, tzinfo=UTC)), -1, 0, LATEST - 31 * DAY, LATEST - 1, LATEST])
FAILURES = st.lists(st.integers(-5 * DAY, 10 * DAY - 1), max_size=6)


@examples(100)
@given(st.sampled_from(STARTS), st.sampled_from([1, 3, 12]), FAILURES, st.data())
def test_past_due_keeps_the_plan_exactly_as_long_as_grace_lasts(
    start: datetime, term: int, failures: list[int], data: st.DataObject
) -> None:
    bought = Event("p", EventType.PURCHASED, from_datetime(start), plan="standard", term_months=term)
    end = months_later(from_datetime(start), term, start.day)
    failed = [Event(f"f{number}", EventType.RENEWAL_FAILED, end + at) for number, at in enumerate(failures)]
    line = timeline(data.draw(st.permutations([bought, *failed])))
    assert line.at(end + GRACE - 1).plan == "standard"
    assert line.at(end).status is Status.PAST_DUE
    assert (line.at(end + GRACE).plan, line.at(end + GRACE).status) == ("free", Status.CANCELED)


@examples(100)
@given(histories(), st.sampled_from(STARTS), st.integers(0, 400 * DAY))
def test_who_has_paid_a_contract_keeps_a_plan_whatever_another_one_does(
    events: list[Event], start: datetime, ends_after: int
) -> None:
    begun = from_datetime(start)
    paid = Event("paid", EventType.PURCHASED, begun, plan="standard", term_months=12, contract="mine")
    other = [
        replace(event, contract="other")
        for event in events
        if event.type is not EventType.SET and event.effective_at >= begun
    ]
    end = months_later(begun, 12, start.day) + GRACE
    line = timeline([paid, *other, Event("over", EventType.ENDED, begun + ends_after, contract="other")])
    for now in [*_interesting(line, other), begun + ends_after, end - 1]:
        assert line.at(now).paid or not begun <= now < end, now


@examples(100)
@given(histories(), st.data())
def test_of_two_contracts_neither_makes_the_plan_lower_than_the_other_one_alone_would_have_it(
    events: list[Event], data: st.DataObject
) -> None:
    rules = SubscriptionRules(10, ORDER)
    names = st.sampled_from(["one", "two"])
    told = [replace(event, contract=data.draw(names)) for event in events if event.type is not EventType.SET]
    both = timeline(told, rules)
    for name in ("one", "two"):
        alone = timeline([event for event in told if event.contract == name], rules)
        for now in _interesting(alone, told):
            assert ORDER[both.at(now).plan] >= ORDER[alone.at(now).plan], (name, now)


@examples(100)
@given(
    st.lists(
        st.builds(
            Event,
            st.sampled_from("abcdef"),
            st.sampled_from(EventType),
            EDGES,
            SOLD,
            period_end=st.none() | EDGES,
            term_months=st.sampled_from([None, 1, 120]),
        ),
        max_size=6,
    )
)
def test_the_end_of_the_calendar_is_no_fault(events: list[Event]) -> None:
    assert all(period.effective_at <= LATEST for period in timeline(events).periods)


RECOVERIES = st.integers(0, 10 * DAY - 1)


@examples(100)
@given(st.sampled_from(STARTS), FAILURES, RECOVERIES, st.data())
def test_who_pays_within_grace_has_lost_nothing(
    start: datetime, failures: list[int], after: int, data: st.DataObject
) -> None:
    """The plan never stopped, and the next period begins where the last one ended."""
    bought = Event("p", EventType.PURCHASED, from_datetime(start), plan="standard", term_months=1)
    end = months_later(from_datetime(start), 1, start.day)
    failed = [Event(f"f{number}", EventType.RENEWAL_FAILED, end + at) for number, at in enumerate(failures)]
    paid = Event("r", EventType.RENEWED, end + after)
    line = timeline(data.draw(st.permutations([bought, *failed, paid])))
    now = line.at(end + 10 * DAY)
    assert line.plan_since(end + 10 * DAY) == from_datetime(start)
    assert now.status is (Status.PAST_DUE if any(at > after for at in failures) else Status.ACTIVE)
    assert (now.period_start, now.period_end) == (end, months_later(end, 1, start.day))


@examples(20)
@given(histories(), st.sampled_from(["Pacific/Kiritimati", "America/New_York", "Asia/Kathmandu"]))
def test_the_time_zone_of_the_machine_changes_nothing(events: list[Event], name: str) -> None:
    here = timeline(events)
    before = os.environ.get("TZ")
    try:
        os.environ["TZ"] = name
        time.tzset()
        assert timeline(events) == here
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()
