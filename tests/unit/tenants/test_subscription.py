"""What a timeline entitles to at an instant: every status, at both sides of each boundary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.clock import DAY, Instant
from mailgate.tenants.catalogue import Catalogue, Plan
from mailgate.tenants.subscription import Period, Status, current_period, entitlements, next_change

CATALOGUE = Catalogue(
    1,
    "0" * 64,
    {
        "free": Plan("free", "Free", 0, sync=False, retention_days=0),
        "standard": Plan("standard", "Standard", 3, sync=True, retention_days=60),
        "professional": Plan("professional", "Professional", 4, sync=True, retention_days=90),
    },
)
START = 10_000 * DAY
END = START + 30 * DAY


def _period(
    plan: str = "standard",
    status: Status = Status.ACTIVE,
    start: Instant = START,
    end: Instant | None = END,
    seq: int = 1,
) -> Period:
    return Period(plan, status, start, end, seq)


def test_a_tenant_without_a_timeline_is_free() -> None:
    holds = entitlements([], CATALOGUE, START)
    assert (holds.plan, holds.sync, holds.retention_days, holds.known) == ("free", False, 0, True)
    assert next_change([], START) is None


def test_nothing_holds_before_it_begins() -> None:
    assert entitlements([_period()], CATALOGUE, START - 1).plan == "free"
    assert entitlements([_period()], CATALOGUE, START).plan == "standard"
    assert next_change([_period()], START - 1) == START


@pytest.mark.parametrize(
    ("status", "days_after_end", "then"),
    [
        (Status.TRIALING, 0, Status.EXPIRED),
        (Status.ACTIVE, 0, Status.EXPIRED),
        (Status.EXPIRED, 0, Status.EXPIRED),
        (Status.CANCELED, 0, Status.CANCELED),
        (Status.PAST_DUE, 10, Status.CANCELED),
    ],
)
def test_a_period_ends_to_the_microsecond(status: Status, days_after_end: int, then: Status) -> None:
    line, last = [_period(status=status)], END + days_after_end * DAY
    before = entitlements(line, CATALOGUE, last - 1)
    assert (before.plan, before.status, before.sync, before.retention_days) == ("standard", status, True, 60)
    after = entitlements(line, CATALOGUE, last)
    assert (after.plan, after.status, after.sync, after.retention_days, after.since) == ("free", then, False, 0, last)
    assert next_change(line, last - 1) == last
    assert next_change(line, last) is None


def test_an_open_period_runs_until_the_next() -> None:
    line = [_period(end=None), _period("professional", start=END, end=None, seq=2)]
    assert entitlements(line, CATALOGUE, END - 1).plan == "standard"
    assert entitlements(line, CATALOGUE, END).plan == "professional"
    assert next_change(line, START) == END
    assert next_change(line, END) is None


def test_of_two_that_begin_together_the_later_recorded_holds() -> None:
    line = [_period("professional", seq=2), _period("standard", seq=1)]
    current = current_period(line, START)
    assert current is not None
    assert current.plan == "professional"


def test_a_plan_that_nobody_knows_is_no_reason_to_sync_or_purge() -> None:
    holds = entitlements([_period("gold")], CATALOGUE, START)
    assert (holds.plan, holds.known, holds.sync, holds.retention_days) == ("gold", False, False, None)


periods = st.builds(
    Period,
    plan=st.sampled_from(["free", "standard", "professional", "gold"]),
    status=st.sampled_from(Status),
    effective_at=st.integers(START, START + 400 * DAY),
    period_end=st.none() | st.integers(START, START + 500 * DAY),
    seq=st.integers(1, 50),
)


@given(
    st.lists(periods, max_size=8, unique_by=lambda p: p.seq), st.integers(START - DAY, START + 600 * DAY), st.randoms()
)
def test_the_order_in_which_periods_are_told_does_not_matter(line: list[Period], now: Instant, random: object) -> None:
    shuffled = sorted(line, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert entitlements(line, CATALOGUE, now) == entitlements(shuffled, CATALOGUE, now)


@given(st.lists(periods, max_size=8, unique_by=lambda p: p.seq), st.integers(START - DAY, START + 600 * DAY))
def test_nothing_changes_before_the_next_change(line: list[Period], now: Instant) -> None:
    change = next_change(line, now)
    later = START + 700 * DAY if change is None else change - 1
    assert change is None or change > now
    assert entitlements(line, CATALOGUE, now) == entitlements(line, CATALOGUE, later)
