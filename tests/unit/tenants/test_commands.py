"""The commands: what each refuses, with its slug and the earliest time, and what it does where it is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailgate.clock import DAY, Instant, from_rfc3339, to_rfc3339
from mailgate.errors import ConflictError, PreconditionError
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.commands import MOST_SEATS, Command, Situation, Wish, decide, options
from mailgate.tenants.timeline import ChangeKind, Event, EventType, Period, Source, Status, SubscriptionRules, timeline

CATALOGUE = parse_catalogue((Path(__file__).parents[3] / "config" / "plans.toml").read_bytes())


def at(text: str) -> Instant:
    return from_rfc3339(f"{text}T00:00:00Z")


START, END = at("2026-01-01"), at("2026-02-01")
TRIAL = Event("t", EventType.TRIAL_STARTED, START, plan="demo", period_end=at("2026-01-15"))
BOUGHT = Event("p", EventType.PURCHASED, START, plan="standard", term_months=1)
PARTNER = Event("p", EventType.PURCHASED, START, plan="standard", term_months=1, source=Source.PARTNER)
OPEN_ENDED = Event("s", EventType.SET, START, plan="standard")
CANCELED = Event("c", EventType.CANCELED, at("2026-01-10"))


def give(wish: Wish, *events: Event, now: Instant, seats_used: int = 0) -> Event:
    return decide(wish, Situation(timeline(events), CATALOGUE, now, seats_used), f"e{len(events)}")


def after(wish: Wish, *events: Event, now: Instant, later: Instant | None = None) -> Period:
    """The period that holds once the command was given."""
    event = give(wish, *events, now=now)
    return timeline([*events, event]).at(now if later is None else later)


def refused(wish: Wish, *events: Event, now: Instant, seats_used: int = 0) -> tuple[str, str | None]:
    with pytest.raises(ConflictError) as caught:
        give(wish, *events, now=now, seats_used=seats_used)
    return caught.value.slug, caught.value.extra.get("allowed_at")


PURCHASE = Wish(Command.PURCHASE, plan="standard", term_months=1)
RENEW = Wish(Command.RENEW, term_months=3)
RETRY = Wish(Command.RETRY)
UPGRADE = Wish(Command.UPGRADE, plan="professional")
DOWNGRADE = Wish(Command.DOWNGRADE, plan="crm_plus", term_months=1)
CANCEL = Wish(Command.CANCEL)
RESUME = Wish(Command.RESUME)


def test_automatic_renewal_is_on_after_the_first_purchase() -> None:
    for before in ((), (TRIAL,)):
        period = after(PURCHASE, *before, now=at("2026-01-05"))
        assert (period.plan, period.status, period.auto_renew) == ("standard", Status.ACTIVE, True)
        assert period.period_end == at("2026-02-05")


def test_a_trial_can_be_turned_into_a_purchase() -> None:
    assert after(PURCHASE, TRIAL, now=at("2026-01-05")).period_start == at("2026-01-05")


def test_what_a_partner_sold_is_not_renewed_automatically() -> None:
    wish = Wish(Command.PURCHASE, plan="standard", term_months=1, source=Source.PARTNER)
    assert not after(wish, now=START).auto_renew
    assert timeline([PARTNER]).at(END).status is Status.EXPIRED


@pytest.mark.parametrize("term", [1, 3, 12])
def test_a_manual_renewal_is_for_1_3_or_12_months(term: int) -> None:
    wish = Wish(Command.RENEW, term_months=term)
    period = after(wish, BOUGHT, now=at("2026-01-20"), later=END)
    assert (period.plan, period.period_start) == ("standard", END)
    assert period.period_end == {1: at("2026-03-01"), 3: at("2026-05-01"), 12: at("2027-02-01")}[term]
    with pytest.raises(PreconditionError) as caught:
        give(Wish(Command.RENEW, term_months=2), BOUGHT, now=at("2026-01-20"))
    assert caught.value.slug == "term_unknown"


def test_a_manual_renewal_is_possible_from_30_days_before_the_end() -> None:
    opens = END - 30 * DAY
    assert refused(RENEW, BOUGHT, now=opens - 1) == ("renew_too_early", to_rfc3339(opens))
    assert give(RENEW, BOUGHT, now=opens).type is EventType.RENEWAL_BOUGHT


def test_a_manual_renewal_is_possible_once() -> None:
    renewed = give(RENEW, BOUGHT, now=at("2026-01-20"))
    # Again from 30 days before the end of the three months that were bought.
    assert refused(RENEW, BOUGHT, renewed, now=at("2026-01-21")) == (
        "change_pending",
        to_rfc3339(at("2026-05-01") - 30 * DAY),
    )


def test_an_upgrade_is_possible_at_any_time_and_acts_at_once() -> None:
    failed = Event("f", EventType.RENEWAL_FAILED, END)
    for events, now in (
        ((BOUGHT,), START + 1),
        ((BOUGHT,), END - 1),
        ((BOUGHT, CANCELED), at("2026-01-20")),
        ((BOUGHT, failed), END + 9 * DAY),
        ((OPEN_ENDED,), at("2030-01-01")),
    ):
        before, period = timeline(events).at(now), after(UPGRADE, *events, now=now)
        assert (period.plan, period.effective_at) == ("professional", now)
        assert (period.status, period.period_end) == (before.status, before.period_end)


def test_an_upgrade_gives_a_pending_downgrade_up_and_takes_a_bought_renewal_along() -> None:
    now = END - DAY
    lower = give(DOWNGRADE, BOUGHT, now=now)
    assert after(UPGRADE, BOUGHT, lower, now=now + 1).pending is None
    renewed = give(RENEW, BOUGHT, now=now)
    assert after(UPGRADE, BOUGHT, renewed, now=now + 1, later=END).plan == "professional"


def test_a_downgrade_can_be_bought_from_1_day_before_the_end_and_acts_when_the_period_ends() -> None:
    opens = END - DAY
    assert refused(DOWNGRADE, BOUGHT, now=opens - 1) == ("downgrade_too_early", to_rfc3339(opens))
    event = give(DOWNGRADE, BOUGHT, now=opens)
    line = timeline([BOUGHT, event])
    assert line.at(END - 1).plan == "standard"
    assert (line.at(END).plan, line.at(END).status, line.at(END).auto_renew) == ("crm_plus", Status.ACTIVE, True)


def test_there_is_one_pending_change_at_a_time() -> None:
    """What waits keeps the others waiting, and the refusal says from when each is allowed if nothing else happens."""
    now = END - DAY
    bought = Event("p", EventType.PURCHASED, START, plan="standard", term_months=1, seats=3)
    fewer = Wish(Command.SEATS, seats=2)
    may_end = at("2026-05-01")
    for first, renew, downgrade, seats in (
        (RENEW, may_end - 30 * DAY, may_end - DAY, END),
        (DOWNGRADE, END, None, END),  # below the lowest plan there is none
        (Wish(Command.SEATS, seats=1), None, None, END),  # whether the period is paid that follows, nobody knows
    ):
        pending = give(first, bought, now=now)
        for second, allowed_at in ((RENEW, renew), (DOWNGRADE, downgrade), (fewer, seats)):
            found = refused(second, bought, pending, now=now + 1)
            assert found == ("change_pending", None if allowed_at is None else to_rfc3339(allowed_at))
            if allowed_at is not None:
                assert give(second, bought, pending, now=allowed_at)
                if allowed_at > END:
                    assert refused(second, bought, pending, now=allowed_at - 1)


def test_automatic_renewal_can_be_switched_off_the_plan_runs_to_the_end_of_its_period_then_free() -> None:
    event = give(CANCEL, BOUGHT, now=at("2026-01-10"))
    line = timeline([BOUGHT, event])
    assert (line.at(END - 1).plan, line.at(END - 1).status) == ("standard", Status.CANCELED)
    assert (line.at(END).plan, line.at(END).status) == ("free", Status.CANCELED)
    assert refused(CANCEL, BOUGHT, CANCELED, now=at("2026-01-20")) == ("not_renewing", None)
    assert refused(CANCEL, now=START) == ("not_subscribed", None)
    assert refused(CANCEL, TRIAL, now=at("2026-01-05")) == ("not_renewing", None)


def test_what_was_cancelled_is_resumed_until_its_period_ends() -> None:
    period = after(RESUME, BOUGHT, CANCELED, now=END - 1)
    assert (period.status, period.auto_renew) == (Status.ACTIVE, True)
    assert refused(RESUME, BOUGHT, CANCELED, now=END) == ("not_canceled", None)
    assert refused(RESUME, BOUGHT, now=at("2026-01-20")) == ("not_canceled", None)
    partner = Event("s", EventType.SET, START, plan="standard", status=Status.CANCELED, period_end=END)
    sold = Event(
        "p", EventType.PURCHASED, START, plan="standard", period_end=END, source=Source.PARTNER, auto_renew=True
    )
    assert give(RESUME, partner, now=at("2026-01-20")).type is EventType.RESUMED
    assert refused(RESUME, sold, CANCELED, now=at("2026-01-20")) == ("partner_purchase", None)


def test_a_failed_renewal_is_past_due_and_can_be_retried_within_10_days() -> None:
    failed = Event("f", EventType.RENEWAL_FAILED, END)
    period = after(RETRY, BOUGHT, failed, now=END + 10 * DAY - 1)
    assert (period.status, period.period_start, period.period_end) == (Status.ACTIVE, END, at("2026-03-01"))
    assert refused(RETRY, BOUGHT, failed, now=END + 10 * DAY) == ("not_past_due", None)
    assert refused(RETRY, BOUGHT, now=at("2026-01-20")) == ("not_past_due", None)


def test_a_retry_after_a_grace_that_was_longer_than_the_term_begins_now() -> None:
    failed = Event("s", EventType.SET, START, plan="standard", status=Status.PAST_DUE, period_end=START)
    now = at("2026-03-15")
    line = timeline([failed], SubscriptionRules(120))
    event = decide(RETRY, Situation(line, CATALOGUE, now), "e")
    assert timeline([failed, event], SubscriptionRules(120)).at(now).period_end == at("2026-04-15")


def test_more_seats_at_once_fewer_from_the_end_of_the_period() -> None:
    three = Event("p", EventType.PURCHASED, START, plan="standard", term_months=1, seats=3)
    now = at("2026-01-20")
    assert after(Wish(Command.SEATS, seats=5), three, now=now).seats == 5
    fewer = after(Wish(Command.SEATS, seats=2), three, now=now)
    assert fewer.seats == 3
    assert fewer.pending is not None
    assert (fewer.pending.kind, fewer.pending.seats) == (ChangeKind.SEATS, 2)
    assert after(Wish(Command.SEATS, seats=2), three, now=now, later=END).seats == 2
    assert after(Wish(Command.SEATS, seats=2), TRIAL, now=at("2026-01-05")).seats == 2
    assert after(Wish(Command.SEATS, seats=2), OPEN_ENDED, now=now).seats == 2


def test_seats_have_their_bounds() -> None:
    three = Event("p", EventType.PURCHASED, START, plan="standard", term_months=1, seats=3)
    now = at("2026-01-20")
    assert refused(Wish(Command.SEATS, seats=3), three, now=now) == ("seats_unchanged", None)
    assert refused(Wish(Command.SEATS, seats=1), three, now=now, seats_used=2) == ("seats_in_use", None)
    assert refused(Wish(Command.SEATS, seats=11), TRIAL, now=at("2026-01-05")) == ("seats_over_plan", None)
    assert refused(Wish(Command.SEATS, seats=2), now=now) == ("not_subscribed", None)
    for seats, slug in ((0, "seats_invalid"), (1_000_001, "seats_invalid"), (None, "seats_missing")):
        with pytest.raises(PreconditionError) as caught:
            give(Wish(Command.SEATS, seats=seats), three, now=now)
        assert caught.value.slug == slug
    wish = Wish(Command.PURCHASE, plan="standard", term_months=1, seats=1)
    assert refused(wish, now=now, seats_used=2) == ("seats_in_use", None)


Case = tuple[Wish, tuple[Event, ...], Instant, str]
_MID = at("2026-01-20")
_FAILED = Event("f", EventType.RENEWAL_FAILED, END)


@pytest.mark.parametrize(
    ("wish", "events", "now", "slug"),
    [
        (PURCHASE, (BOUGHT,), _MID, "already_subscribed"),
        (PURCHASE, (BOUGHT, _FAILED), END + DAY, "already_subscribed"),
        (Wish(Command.PURCHASE, plan="nfr", term_months=1), (), _MID, "plan_not_on_sale"),
        (Wish(Command.PURCHASE, plan="free", term_months=1), (), _MID, "plan_not_on_sale"),
        (RENEW, (), _MID, "purchase_instead"),
        (RENEW, (TRIAL,), at("2026-01-05"), "purchase_instead"),
        (RENEW, (BOUGHT, _FAILED), END + DAY, "past_due"),
        (RENEW, (OPEN_ENDED,), _MID, "no_period_end"),
        (UPGRADE, (), _MID, "purchase_instead"),
        (UPGRADE, (TRIAL,), at("2026-01-05"), "purchase_instead"),
        (Wish(Command.UPGRADE, plan="standard"), (BOUGHT,), _MID, "not_an_upgrade"),
        (Wish(Command.UPGRADE, plan="crm_plus"), (BOUGHT,), _MID, "not_an_upgrade"),
        (DOWNGRADE, (), _MID, "purchase_instead"),
        (DOWNGRADE, (BOUGHT, _FAILED), END + DAY, "past_due"),
        (DOWNGRADE, (OPEN_ENDED,), _MID, "no_period_end"),
        (Wish(Command.DOWNGRADE, plan="free"), (BOUGHT,), END - 1, "cancel_instead"),
        (Wish(Command.DOWNGRADE, plan="professional"), (BOUGHT,), END - 1, "not_a_downgrade"),
    ],
)
def test_each_refusal_has_a_slug_of_its_own(wish: Wish, events: tuple[Event, ...], now: Instant, slug: str) -> None:
    assert refused(wish, *events, now=now)[0] == slug


def test_a_purchase_says_from_when_it_is_allowed_where_nobody_pays_for_what_follows() -> None:
    assert refused(PURCHASE, BOUGHT, now=_MID) == ("already_subscribed", None)
    assert refused(PURCHASE, BOUGHT, CANCELED, now=_MID) == ("already_subscribed", to_rfc3339(END))
    assert refused(PURCHASE, BOUGHT, _FAILED, now=END) == ("already_subscribed", to_rfc3339(END + 10 * DAY))
    assert refused(PURCHASE, OPEN_ENDED, now=_MID) == ("already_subscribed", None)


def test_values_that_make_no_sense() -> None:
    for wish, slug in ((Wish(Command.PURCHASE), "plan_missing"), (Wish(Command.PURCHASE, plan="gold"), "plan_unknown")):
        with pytest.raises(PreconditionError) as caught:
            give(wish, now=START)
        assert caught.value.slug == slug


def test_a_plan_that_left_the_catalogue_can_be_left() -> None:
    gold = Event("s", EventType.SET, START, plan="gold", period_end=END)
    assert after(UPGRADE, gold, now=_MID).plan == "professional"
    assert give(DOWNGRADE, gold, now=END - 1).plan == "crm_plus"
    assert give(Wish(Command.SEATS, seats=2), gold, now=_MID).seats == 2


def test_an_option_says_what_the_command_would_answer() -> None:
    for events in ((), (TRIAL,), (BOUGHT,), (BOUGHT, CANCELED)):
        for option in options(Situation(timeline(events), CATALOGUE, at("2026-01-12"))):
            wish = {"upgrade": UPGRADE, "downgrade": DOWNGRADE, "purchase": PURCHASE, "renew": RENEW}.get(
                option.command.value, Wish(option.command, seats=1)
            )
            if not option.allowed:
                assert refused(wish, *events, now=at("2026-01-12"))[0] == option.slug


def _allowed(*events: Event, now: Instant) -> dict[str, tuple[bool, str | None, Instant | None]]:
    found = options(Situation(timeline(events), CATALOGUE, now))
    return {option.command.value: (option.allowed, option.slug, option.allowed_at) for option in found}


def test_the_options_say_what_is_allowed_now_and_from_when_the_rest() -> None:
    now = at("2026-01-01") + 1
    found = _allowed(BOUGHT, now=now)
    assert found["purchase"] == (False, "already_subscribed", None)
    assert found["renew"] == (False, "renew_too_early", END - 30 * DAY)
    assert found["downgrade"] == (False, "downgrade_too_early", END - DAY)
    assert [name for name, option in found.items() if option[0]] == ["upgrade", "cancel", "seats"]
    assert [name for name, option in _allowed(now=now).items() if option[0]] == ["purchase"]
    assert _allowed(Event("p", EventType.PURCHASED, START, plan="professional", term_months=1), now=now)["upgrade"] == (
        False,
        "not_an_upgrade",
        None,
    )


def test_the_options_have_an_answer_where_no_seat_can_be_added() -> None:
    most = Event("p", EventType.PURCHASED, START, plan="standard", term_months=1, seats=MOST_SEATS)
    assert _allowed(most, now=START + 1)["seats"] == (False, "seats_unchanged", None)


@pytest.mark.parametrize("make", [lambda: (), lambda: (BOUGHT,), lambda: (TRIAL,), lambda: (BOUGHT, CANCELED)])
@pytest.mark.parametrize("wish", [PURCHASE, RENEW, RETRY, UPGRADE, DOWNGRADE, CANCEL, RESUME])
def test_what_is_allowed_changes_something_and_what_is_refused_nothing(
    wish: Wish, make: Callable[[], tuple[Event, ...]]
) -> None:
    for now in (START + 1, at("2026-01-14"), END - 1, END, END + 9 * DAY, END + 11 * DAY):
        events = tuple(event for event in make() if event.effective_at <= now)
        before = timeline(events)
        try:
            event = give(wish, *events, now=now)
        except ConflictError:
            continue
        assert timeline([*events, event]) != before
