"""Prices of changes, prorated to the second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.clock import DAY, Instant, from_rfc3339
from mailgate.errors import ConflictError
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.commands import Command, Situation, Wish, decide
from mailgate.tenants.quote import Quote, quote
from mailgate.tenants.timeline import Event, EventType, Status, Timeline, timeline

CATALOGUE = parse_catalogue((Path(__file__).parents[3] / "config" / "plans.toml").read_bytes())
START, END = from_rfc3339("2026-04-01T00:00:00Z"), from_rfc3339("2026-05-01T00:00:00Z")  # 30 days
HALF = START + 15 * DAY
STANDARD = Event("p", EventType.PURCHASED, START, plan="standard", term_months=1, seats=4)


def price(wish: Wish, *events: Event, now: Instant, used: int = 0) -> Quote:
    line = timeline(events)
    event = decide(wish, Situation(line, CATALOGUE, now, used), "q")
    return quote(wish.command, event, line.at(now), timeline([*events, event]), CATALOGUE, used)


def test_a_purchase_costs_the_whole_term() -> None:
    found = price(Wish(Command.PURCHASE, "standard", 12, 4), now=START)
    assert (found.amount, found.full_amount, found.seats) == (4 * 20_500, 4 * 20_500, 4)
    assert (found.begins_at, found.ends_at) == (START, from_rfc3339("2027-04-01T00:00:00Z"))
    assert price(Wish(Command.PURCHASE, "standard", 1), now=START, used=3).amount == 3 * 1_900


def test_an_upgrade_costs_the_difference_for_the_rest_of_the_period() -> None:
    found = price(Wish(Command.UPGRADE, "professional"), STANDARD, now=HALF)
    assert found.amount == 4 * (3_900 - 1_900) // 2
    assert (found.due_at, found.begins_at, found.ends_at) == (HALF, HALF, END)


def test_seats_cost_their_price_for_the_rest_of_the_period_and_fewer_nothing_now() -> None:
    assert price(Wish(Command.SEATS, seats=6), STANDARD, now=HALF).amount == 1_900
    fewer = price(Wish(Command.SEATS, seats=2), STANDARD, now=HALF)
    assert (fewer.amount, fewer.seats) == (0, 4)


def test_what_begins_with_the_next_period_costs_its_full_price() -> None:
    renewed = price(Wish(Command.RENEW, term_months=3), STANDARD, now=HALF)
    assert (renewed.amount, renewed.begins_at) == (4 * 5_400, END)
    lower = price(Wish(Command.DOWNGRADE, "crm_plus", 1, 2), STANDARD, now=END - 1)
    assert (lower.amount, lower.plan, lower.begins_at) == (2 * 900, "crm_plus", END)


def test_a_quoted_term_ends_when_the_bought_one_will() -> None:
    """Bought on the 31st: the renewal from the end of February on lasts until the 31st again."""
    january = Event("p", EventType.PURCHASED, from_rfc3339("2026-01-31T00:00:00Z"), plan="standard", term_months=1)
    found = price(Wish(Command.RENEW, term_months=1), january, now=from_rfc3339("2026-02-20T00:00:00Z"))
    assert (found.begins_at, found.ends_at) == (
        from_rfc3339("2026-02-28T00:00:00Z"),
        from_rfc3339("2026-03-31T00:00:00Z"),
    )


def test_nothing_is_left_to_pay_of_a_period_without_length() -> None:
    """Past due from its very beginning, as a billing system may set it."""
    due = Event("s", EventType.SET, START, plan="standard", status=Status.PAST_DUE, term_months=1)
    assert price(Wish(Command.UPGRADE, "professional"), due, now=START).amount == 0
    assert price(Wish(Command.UPGRADE, "professional"), due, now=START + DAY).amount == 0


def test_what_has_no_price_or_no_end() -> None:
    nfr = Event("s", EventType.SET, START, plan="nfr", period_end=END, seats=2)
    open_ended = Event("s", EventType.SET, START, plan="standard", seats=2)
    for event, wish, slug in (
        (nfr, Wish(Command.SEATS, seats=3), "no_price"),
        (open_ended, Wish(Command.SEATS, seats=3), "no_period_end"),
    ):
        with pytest.raises(ConflictError) as caught:
            price(wish, event, now=HALF)
        assert caught.value.slug == slug


def test_a_plan_that_left_the_catalogue_has_no_price() -> None:
    line = timeline([STANDARD])
    event = decide(Wish(Command.SEATS, seats=6), Situation(line, CATALOGUE, HALF), "q")
    gone = replace(line.at(HALF), plan="gold")
    with pytest.raises(ConflictError, match="no price"):
        quote(Command.SEATS, event, gone, Timeline([gone]), CATALOGUE, 0)


@given(st.integers(min_value=1, max_value=(END - START) - 1), st.integers(1, 50), st.integers(1, 50))
def test_the_rest_of_a_period_never_costs_more_than_all_of_it(passed: int, before: int, more: int) -> None:
    event = replace(STANDARD, seats=before)
    found = price(Wish(Command.SEATS, seats=before + more), event, now=START + passed)
    exact = more * 1_900 * (END - START - passed) / (END - START)
    assert 0 <= found.amount <= more * 1_900
    assert abs(found.amount - exact) <= 0.5
