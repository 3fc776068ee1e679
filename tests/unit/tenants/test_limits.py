"""Limits of a plan: which mailboxes go on a downgrade, which may be switched on, and how much may be sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.clock import from_rfc3339
from mailgate.tenants.catalogue import Plan, parse_catalogue
from mailgate.tenants.limits import (
    Connected,
    MailboxLimit,
    Purpose,
    SendingLimits,
    SendingRefusal,
    Sent,
    over_limit,
    refusal,
    sending_limits,
    sending_refusal,
)

CATALOGUE = parse_catalogue((Path(__file__).parents[3] / "config" / "plans.toml").read_bytes())
PLAN = Plan("p", "P", 1, True, 30, mailboxes_per_user=2, shared_mailboxes=1)
NOW = from_rfc3339("2026-05-17T15:00:00Z")


@pytest.mark.parametrize(
    ("plan", "each", "shared"),
    [("crm_plus", 5, None), ("standard", 5, None), ("professional", 10, None), ("demo", 10, 3)],
)
def test_mailboxes_per_user_and_shared_mailboxes_by_plan(plan: str, each: int, shared: int | None) -> None:
    found = CATALOGUE.plans[plan]
    assert (found.mailboxes_per_user, found.shared_mailboxes) == (each, shared)


def box(name: str, owner: str | None = "ann", *, shared: bool = False, at: int = 0) -> Connected:
    return Connected(name, owner, shared, at)


def test_the_mailboxes_connected_last_are_switched_off() -> None:
    boxes = [box("c", at=3), box("a", at=1), box("b", at=2), box("x", "bob", at=9)]
    assert over_limit(boxes, PLAN, None) == {"c": MailboxLimit.PER_USER}


def test_shared_mailboxes_have_a_limit_of_their_own() -> None:
    boxes = [box("a", shared=True, at=1), box("b", shared=True, at=2), box("c", at=3), box("d", at=4)]
    assert over_limit(boxes, PLAN, None) == {"b": MailboxLimit.SHARED}


def test_mailboxes_without_owner_are_their_own_users() -> None:
    assert over_limit([box(str(n), None, at=n) for n in range(9)], PLAN, None) == {}


def test_of_more_users_than_seats_those_connected_last_are_switched_off_with_all_their_mailboxes() -> None:
    boxes = [box("a", at=1), box("b", "bob", at=2), box("c", "carl", at=3), box("d", at=4), box("e", "bob", at=5)]
    mine = [*boxes, box("f", None, at=0), box("s", shared=True, at=9)]
    assert over_limit(mine, PLAN, 4) == {}
    assert over_limit(mine, PLAN, 3) == {"c": MailboxLimit.SEATS}
    assert over_limit(mine, PLAN, 2) == dict.fromkeys("bce", MailboxLimit.SEATS)
    assert over_limit(boxes, PLAN, 0) == dict.fromkeys("abcde", MailboxLimit.SEATS)


def test_what_may_be_switched_on() -> None:
    two = [box("a"), box("b")]
    assert refusal(box("c"), two, PLAN, None) is MailboxLimit.PER_USER
    assert refusal(box("b"), two, PLAN, None) is None  # itself does not count
    assert refusal(box("c", "bob"), two, PLAN, 1) is MailboxLimit.SEATS
    assert refusal(box("c", "bob"), two, PLAN, 2) is None
    assert refusal(box("b"), two, PLAN, 1) is None
    assert refusal(box("s", shared=True), two, PLAN, 1) is None
    assert refusal(box("t", shared=True), [box("s", shared=True)], PLAN, None) is MailboxLimit.SHARED
    assert refusal(box("t", shared=True), [box("s", shared=True)], replace(PLAN, shared_mailboxes=None), 0) is None


boxes = st.lists(
    st.builds(
        Connected,
        id=st.uuids().map(str),
        owner=st.sampled_from([None, "ann", "bob", "carl"]),
        shared=st.booleans(),
        connected_at=st.integers(0, 5),
    ),
    unique_by=lambda found: found.id,
)


@given(boxes, st.none() | st.integers(0, 4))
def test_the_rest_is_within_the_limits_and_no_more_than_needed_goes(
    connected: list[Connected], seats: int | None
) -> None:
    off = over_limit(connected, PLAN, seats)
    rest = [found for found in connected if found.id not in off]
    assert over_limit(rest, PLAN, seats) == {}
    assert seats is None or len({found.user for found in rest if not found.shared}) <= seats
    for found in connected:
        if found.id in off:
            assert refusal(found, rest, PLAN, seats) is off[found.id]


SENDING = SendingLimits(per_month=100, per_day=20, service_reserve=10)
MONTH_END = from_rfc3339("2026-06-01T00:00:00Z")
MIDNIGHT = from_rfc3339("2026-05-18T00:00:00Z")


def test_service_mail_has_its_reserve_of_the_month() -> None:
    sent = Sent(month_user=91)
    assert sending_refusal(SENDING, sent, Purpose.USER, NOW) == SendingRefusal("month_without_reserve", 90, MONTH_END)
    assert sending_refusal(SENDING, sent, Purpose.SERVICE, NOW) is None
    assert sending_refusal(SENDING, Sent(month_user=90), Purpose.USER, NOW) is None


def test_the_month_is_the_most_for_both() -> None:
    for purpose in Purpose:
        assert sending_refusal(SENDING, Sent(50, 51), purpose, NOW) == SendingRefusal("month", 100, MONTH_END)


def test_the_day_frees_up_at_midnight() -> None:
    for purpose in Purpose:
        assert sending_refusal(SENDING, Sent(today=21), purpose, NOW) == SendingRefusal("day", 20, MIDNIGHT)
        assert sending_refusal(SENDING, Sent(today=20), purpose, NOW) is None


def test_no_limit_is_no_limit() -> None:
    assert sending_refusal(SendingLimits(), Sent(10**9, 10**9, 10**9), Purpose.USER, NOW) is None
    assert sending_limits(PLAN) == SendingLimits()
    assert sending_limits(CATALOGUE.plans["demo"]) == SendingLimits(1_000, 100, 100)
