"""Stripe's lives of a subscription, in both shapes of its objects, and what becomes of the tenant's plan."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.clock import DAY, SECOND, Instant
from mailgate.errors import BadRequestError, PreconditionError
from mailgate.tenants.stripe_events import StripeNews, read_stripe_event
from mailgate.tenants.stripe_objects import Offers
from mailgate.tenants.timeline import Event, EventType, Period, Status, Timeline, timeline
from tests.soak import examples
from tests.unit.tenants.stripe_shapes import (
    NEW,
    OLD,
    STANDARD,
    Document,
    event,
    invoice,
    item,
    line,
    price,
    subscription,
)

PRO, LOW = "price_1QProMonthly", "crm_plus_monthly"
OFFERS = Offers(
    plans={STANDARD: "standard", PRO: "professional", LOW: "crm_plus", "price_1QYearly": "standard"},
    ranks={"free": 0, "demo": 1, "crm_plus": 2, "standard": 3, "professional": 4, "nfr": 4},
)


def _s(year: int, month: int, day: int, hour: int = 0) -> int:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp())


A, B, C = _s(2026, 1, 31), _s(2026, 2, 28), _s(2026, 3, 31)
HOUR, GRACE = 3_600, 10 * DAY
UPDATED = "customer.subscription.updated"
FIRST, SECOND_PERIOD = (A, B), (B, C)


def _read(document: Document) -> StripeNews:
    return read_stripe_event(document, OFFERS)


def _line(*documents: Document) -> Timeline:
    return timeline([told for document in documents for told in _read(document).events])


def _at(line: Timeline, second: int) -> Period:
    return line.at(second * SECOND + 9)


def _holds(line: Timeline, second: int) -> tuple[str, str]:
    period = _at(line, second)
    return period.plan, period.status.value


def _words(line: Timeline) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for period in line.periods:
        word = (period.plan, period.status.value)
        if not found or found[-1] != word:
            found.append(word)
    return found


def _item(period: tuple[int, int], version: str, price_id: str, quantity: int = 5) -> Document:
    return item(period, version, quantity, price=price(price_id))


def _rolled(period: tuple[int, int], before: tuple[int, int], version: str) -> Document:
    """What `previous_attributes` show when a period begins."""
    if version == NEW:
        return {"items": {"data": [item(before, NEW)]}, "latest_invoice": "in_1QBefore"}
    return {"current_period_start": before[0], "current_period_end": before[1], "latest_invoice": "in_1QBefore"}


def _created(version: str = NEW, **changes: Any) -> Document:
    return event("customer.subscription.created", A, subscription(FIRST, version, **changes), version=version)


def _begins(version: str = NEW, **changes: Any) -> Document:
    content = subscription(SECOND_PERIOD, version, **changes)
    return event(UPDATED, B + 3, content, _rolled(SECOND_PERIOD, FIRST, version), version=version)


def _fails(at: int = B + HOUR, version: str = NEW, **changes: Any) -> Document:
    return event("invoice.payment_failed", at, invoice(SECOND_PERIOD, version, **changes), version=version)


def _paid(at: int, period: tuple[int, int] = SECOND_PERIOD, version: str = NEW, **changes: Any) -> Document:
    return event("invoice.paid", at, invoice(period, version, **changes), version=version)


def _past_due(at: int = B + HOUR, version: str = NEW) -> Document:
    content = subscription(SECOND_PERIOD, version, status="past_due")
    return event(UPDATED, at, content, {"status": "active"}, version=version)


BOTH = pytest.mark.parametrize("version", [OLD, NEW])


@BOTH
def test_a_purchase_in_one_second_in_any_order(version: str) -> None:
    """The subscription is created incomplete, its invoice is paid, it becomes active: Stripe's usual three events."""
    documents = [
        event("customer.subscription.created", A, subscription(FIRST, version, status="incomplete")),
        _paid(A, FIRST, version, billing_reason="subscription_create"),
        event(UPDATED, A, subscription(FIRST, version), {"status": "incomplete"}),
    ]
    lines = {_line(*order) for order in permutations(documents)}
    assert len(lines) == 1
    period = _at(lines.pop(), A)
    assert (period.plan, period.status, period.period_end) == ("standard", Status.ACTIVE, B * SECOND)
    assert (period.seats, period.term_months, period.auto_renew) == (5, 1, True)


@BOTH
def test_what_never_began_is_nothing(version: str) -> None:
    for status in ("incomplete", "incomplete_expired"):
        content = subscription(FIRST, version, status=status)
        for kind in ("customer.subscription.created", UPDATED):
            assert _read(event(kind, A, content)).events == ()
    expired = subscription(FIRST, version, status="incomplete_expired")
    assert _read(event("customer.subscription.deleted", A, expired)).events == ()


@BOTH
def test_a_renewal_never_looks_past_due(version: str) -> None:
    line = _line(_created(version), _begins(version), _paid(B + HOUR, version=version))
    assert _words(line)[:2] == [("free", "active"), ("standard", "active")]
    assert [period for period in line.periods if period.effective_at < C * SECOND][-1].status is Status.ACTIVE
    assert (_at(line, B).period_start, _at(line, B).period_end) == (B * SECOND, C * SECOND)
    assert line.plan_since(B * SECOND + DAY) == A * SECOND


@BOTH
@pytest.mark.parametrize("told", [["begins", "fails", "past_due"], ["begins", "fails"], ["fails", "past_due"], []])
def test_a_failed_renewal_has_ten_days_from_the_end_of_what_is_paid(version: str, told: list[str]) -> None:
    each = {"begins": _begins(version), "fails": _fails(version=version), "past_due": _past_due(version=version)}
    line = _line(_created(version), *[each[name] for name in told])
    assert _holds(line, B + HOUR) == ("standard", "past_due")
    assert line.at(B * SECOND + GRACE - 1).plan == "standard"
    assert (line.at(B * SECOND + GRACE).plan, line.at(B * SECOND + GRACE).status) == ("free", Status.CANCELED)


@examples(40)
@given(st.permutations(range(7)), st.lists(st.integers(0, 6), max_size=4), st.sampled_from([OLD, NEW]))
def test_failures_and_a_recovery_converge_in_any_order(order: list[int], again: list[int], version: str) -> None:
    paid_at = B + 7 * 86_400
    documents = [
        _created(version),
        _begins(version),
        _fails(B + HOUR, version),
        _past_due(B + HOUR, version),
        _fails(B + 3 * 86_400, version),
        _paid(paid_at, version=version),
        event(UPDATED, paid_at, subscription(SECOND_PERIOD, version), {"status": "past_due"}, version=version),
    ]
    line = _line(*[documents[number] for number in [*order, *again]])
    assert line == _line(*documents)
    assert _words(line)[:4] == [
        ("free", "active"),
        ("standard", "active"),
        ("standard", "past_due"),
        ("standard", "active"),
    ]
    period = _at(line, paid_at)
    assert (period.period_start, period.period_end) == (B * SECOND, C * SECOND)


def test_a_payment_mends_the_failure_of_the_same_second() -> None:
    documents = [
        _created(),
        _begins(),
        _fails(),
        _past_due(),
        _paid(B + HOUR),
        event(UPDATED, B + HOUR, subscription(SECOND_PERIOD), {"status": "past_due"}, event_id="evt_again"),
    ]
    assert _holds(_line(*documents), B + HOUR) == ("standard", "active")


def test_a_snapshot_of_the_second_of_the_failure_does_not_hide_it() -> None:
    anyhow = event(UPDATED, B + HOUR, subscription(SECOND_PERIOD), {"metadata": {}}, event_id="evt_zzz")
    assert _holds(_line(_created(), _begins(), _fails(), anyhow, _past_due()), B + HOUR) == ("standard", "past_due")


def test_a_proration_that_is_not_paid_costs_nothing_of_what_is() -> None:
    failed = _fails(A + 20 * 86_400, billing_reason="subscription_update")
    due = event(UPDATED, A + 20 * 86_400, subscription(FIRST, status="past_due"), {"status": "active"})
    line = _line(_created(), failed, due)
    assert line.at(B * SECOND + GRACE - 1).plan == "standard"
    mended = event(UPDATED, A + 21 * 86_400, subscription(FIRST), {"status": "past_due"})
    assert _holds(_line(_created(), failed, due, mended), A + 21 * 86_400) == ("standard", "active")


def test_an_invoice_that_is_sent_or_was_held_back_keeps_its_grace() -> None:
    sent = _fails(B + 15 * 86_400, collection_method="send_invoice")
    assert _read(sent).events == ()
    late = B + 20 * 86_400
    held = _fails(late + 60, status_transitions={"finalized_at": late, "paid_at": None})
    assert [told.period_end for told in _read(held).events] == [late * SECOND]
    draft = _fails(status_transitions={"finalized_at": None, "paid_at": None})
    assert [told.period_end for told in _read(draft).events] == [B * SECOND]


def _trial(version: str = NEW, **changes: Any) -> Document:
    content = subscription(FIRST, version, status="trialing", trial_start=A, trial_end=B, **changes)
    return event("customer.subscription.created", A, content, version=version)


@BOTH
def test_a_trial_that_is_bought_has_no_gap(version: str) -> None:
    first = _paid(A + 1, FIRST, version, billing_reason="subscription_create", total=0)
    bought = subscription(SECOND_PERIOD, version, trial_start=A, trial_end=B)
    active = event(UPDATED, B + 40, bought, {"status": "trialing", **_rolled(SECOND_PERIOD, FIRST, version)})
    line = _line(_trial(version), first, active, _paid(B + HOUR, version=version))
    assert _words(line)[:3] == [("free", "active"), ("standard", "trialing"), ("standard", "active")]
    assert (_at(line, B).effective_at, _at(line, B).auto_renew) == (B * SECOND, True)
    assert line.plan_since(B * SECOND + DAY) == A * SECOND
    failed = _line(_trial(version), first, active, _fails(version=version))
    assert _holds(failed, B + HOUR) == ("standard", "past_due")
    assert failed.at(B * SECOND + GRACE).plan == "free"


def test_a_trial_ends_without_grace() -> None:
    assert _line(_trial(cancel_at_period_end=True)).at(B * SECOND).status is Status.EXPIRED
    off = subscription(FIRST, status="trialing", trial_start=A, trial_end=B, cancel_at_period_end=True)
    canceled = event(UPDATED, A + 60, off, {"cancel_at_period_end": False})
    assert _line(_trial(), canceled).at(B * SECOND).status is Status.EXPIRED
    back = subscription(FIRST, status="trialing", trial_start=A, trial_end=B)
    resumed = event(UPDATED, A + 90, back, {"cancel_at_period_end": True})
    assert _line(_trial(), canceled, resumed).at(B * SECOND).plan == "standard"
    will_end = event("customer.subscription.trial_will_end", B - 3 * 86_400, _trial()["data"]["object"])
    assert _read(will_end).events == ()
    for kind in ("customer.subscription.paused", UPDATED):
        paused = event(kind, B, subscription(FIRST, status="paused", trial_end=B), {"status": "trialing"})
        assert _holds(_line(_trial(), paused), B) == ("free", "expired")
    resumed = event("customer.subscription.resumed", B + HOUR, subscription(SECOND_PERIOD))
    assert _holds(_line(_trial(), paused, resumed), B + HOUR) == ("standard", "active")


def test_a_trial_that_becomes_paid_waits_for_the_word_of_it() -> None:
    """Stripe makes it active at its end by itself. Until that is told, hours later perhaps, nothing is taken."""
    line = _line(_trial())
    assert _holds(line, B) == ("standard", "past_due")
    assert (line.at(B * SECOND + GRACE - 1).plan, line.at(B * SECOND + GRACE).plan) == ("standard", "free")
    active = event(UPDATED, B + 5, subscription(SECOND_PERIOD, trial_start=A, trial_end=B), {"status": "trialing"})
    assert _holds(_line(_trial(), active), B + 5) == ("standard", "active")
    over = event("customer.subscription.deleted", B, subscription(FIRST, status="canceled", trial_end=B, ended_at=B))
    assert _holds(_line(_trial(), over), B) == ("free", "expired")


def test_a_lower_plan_chosen_in_a_trial_begins_when_it_is_bought() -> None:
    shown = [_item(FIRST, NEW, LOW)]
    change = {"items": {"data": [_item(FIRST, NEW, STANDARD)]}}
    down = event(UPDATED, A + 60, subscription(FIRST, status="trialing", trial_end=B, items=shown), change)
    assert _words(_line(_trial(), down)) == _words(_line(_trial()))
    bought = subscription(SECOND_PERIOD, items=[_item(SECOND_PERIOD, NEW, LOW)], trial_end=B)
    active = event(UPDATED, B + 2, bought, {"status": "trialing", "items": {"data": shown}})
    assert _line(_trial(), down, active).at(B * SECOND).plan == "crm_plus"


def test_a_trial_can_be_moved_and_changed() -> None:
    content = subscription((A, B + 86_400), status="trialing", trial_start=A, trial_end=B + 86_400, quantity=7)
    longer = event(UPDATED, A, content, {"trial_end": B})
    assert _at(_line(longer, _trial()), A).period_end == (B + 86_400) * SECOND
    more = event(UPDATED, A + HOUR, content, {"quantity": 5})
    assert (_at(_line(_trial(), more), A + HOUR).seats, _holds(_line(_trial(), more), A + HOUR)[1]) == (7, "trialing")


@BOTH
def test_cancelled_and_taken_back(version: str) -> None:
    off = event(
        UPDATED, A + 60, subscription(FIRST, version, cancel_at_period_end=True), {"cancel_at_period_end": False}
    )
    on = event(UPDATED, A + 90, subscription(FIRST, version), {"cancel_at_period_end": True})
    ends = event("customer.subscription.deleted", B, subscription(FIRST, version, status="canceled", ended_at=B))
    line = _line(_created(version), off)
    assert _holds(line, A + 60) == ("standard", "canceled")
    assert _words(line)[-1] == ("free", "canceled")
    assert line.at(B * SECOND).plan == "free"
    assert _line(_created(version), off, ends) == line
    assert _line(_created(version), off, on, off) == _line(_created(version), on, off)
    assert (
        _holds(_line(_created(version), off, on), A + 90),
        _at(_line(_created(version), off, on), A + 90).auto_renew,
    ) == (
        ("standard", "active"),
        True,
    )


def test_cancelled_for_a_day_within_the_period_or_later() -> None:
    sooner = event(UPDATED, A + 60, subscription(FIRST, cancel_at=A + 86_400), {"cancel_at": None})
    assert _line(_created(), sooner).at((A + 86_400) * SECOND).plan == "free"
    back = event(UPDATED, A + 90, subscription(FIRST), {"cancel_at": A + 86_400})
    line = _line(_created(), sooner, back)
    assert (_holds(line, A + 90), _at(line, A + 90).period_end) == (("standard", "active"), B * SECOND)
    later = event(UPDATED, A + 60, subscription(FIRST, cancel_at=C), {"cancel_at": None})
    assert _holds(_line(_created(), later), A + 60) == ("standard", "active")
    created_so = _created(cancel_at_period_end=True)
    assert _holds(_line(created_so), A) == ("standard", "canceled")


def test_ended_at_once() -> None:
    content = subscription(FIRST, status="canceled", ended_at=A + HOUR)
    for kind in ("customer.subscription.deleted", UPDATED):
        assert _holds(_line(_created(), event(kind, A + HOUR, content)), A + HOUR) == ("free", "canceled")


def test_stripes_end_of_patience_takes_no_grace_away() -> None:
    content = subscription(SECOND_PERIOD, status="canceled")
    content["cancellation_details"]["reason"] = "payment_failed"
    gone = event("customer.subscription.deleted", B + 5 * 86_400, content)
    line = _line(_created(), _begins(), _fails(), gone)
    assert line.at(B * SECOND + GRACE - 1).plan == "standard"
    assert line.at(B * SECOND + GRACE).plan == "free"
    unpaid = event(UPDATED, B + 5 * 86_400, subscription(SECOND_PERIOD, status="unpaid"), {"status": "past_due"})
    assert _line(_created(), _begins(), _fails(), unpaid) == _line(_created(), _begins(), _fails())


@BOTH
def test_a_higher_plan_at_once_a_lower_one_at_the_end(version: str) -> None:
    up = event(
        UPDATED,
        A + 60,
        subscription(FIRST, version, items=[_item(FIRST, version, PRO, 8)]),
        {"items": {"data": [_item(FIRST, version, STANDARD)]}},
    )
    period = _at(_line(_created(version), up), A + 60)
    assert (period.plan, period.seats, period.period_end) == ("professional", 8, B * SECOND)

    lower = price("price_1QX", lookup_key=LOW)
    down = event(
        UPDATED,
        A + 120,
        subscription(FIRST, version, items=[item(FIRST, version, price=lower)]),
        {"items": {"data": [_item(FIRST, version, PRO)]}},
    )
    line = _line(_created(version), up, down)
    assert _holds(line, B - 1) == ("professional", "active")
    assert (line.at(B * SECOND).plan, line.at(B * SECOND).status) == ("crm_plus", Status.ACTIVE)
    items = [item(SECOND_PERIOD, version, price=lower)]
    begins = _begins(version, items=items)
    assert (_at(_line(_created(version), up, down, begins), B).period_end) == C * SECOND
    assert _words(_line(_created(version), up, down, begins, _fails(version=version)))[-2:] == [
        ("crm_plus", "past_due"),
        ("free", "canceled"),
    ]


def test_a_lower_plan_that_begins_with_the_period() -> None:
    """As a subscription schedule, or the customer portal, changes it."""
    begins = _begins(items=[_item(SECOND_PERIOD, NEW, LOW)])
    assert [told.type for told in _read(begins).events] == [EventType.RENEWED, EventType.SEATS_CHANGED]
    line = _line(_created(), begins)
    assert (line.at(B * SECOND - 1).plan, line.at(B * SECOND).plan) == ("standard", "crm_plus")


def test_the_old_plan_attribute_tells_of_a_change_too() -> None:
    content = subscription(FIRST, OLD, items=[_item(FIRST, OLD, PRO)])
    up = event(UPDATED, A + 60, content, {"plan": {"id": STANDARD, "object": "plan"}})
    assert _holds(_line(_created(OLD), up), A + 60) == ("professional", "active")


def test_more_and_fewer_seats() -> None:
    more = event(UPDATED, A, subscription(FIRST, quantity=9), {"items": {"data": [item(FIRST, NEW)]}, "quantity": 5})
    assert _at(_line(more, _created()), A).seats == 9
    fewer = event(UPDATED, A + 60, subscription(FIRST, quantity=2), {"quantity": 9})
    assert _at(_line(more, _created(), fewer), A + 60).seats == 2


def test_the_end_of_a_replaced_subscription_ends_nothing() -> None:
    """Also when it comes in the same second, or late."""
    new = subscription((A, B), id="sub_1QB", items=[_item(FIRST, NEW, PRO)])
    began = event("customer.subscription.created", A + 60, new, event_id="evt_new")
    for at in (A + 60, A + 600):
        ended = event("customer.subscription.deleted", at, subscription(FIRST, status="canceled"))
        line = _line(_created(), began, ended)
        assert _holds(line, A + 600) == ("professional", "active")
        assert line.plan_since((A + 600) * SECOND) == (A + 60) * SECOND


def test_a_snapshot_makes_good_for_what_was_never_told() -> None:
    anyhow = event(UPDATED, A + 60, subscription(FIRST), {"default_payment_method": None})
    assert _holds(_line(anyhow), A + 60) == ("standard", "active")
    late = event(UPDATED, B + 2 * 86_400, subscription(SECOND_PERIOD), {"default_payment_method": None})
    line = _line(_created(), late)
    assert (_holds(line, B + 2 * 86_400), line.plan_since(B * SECOND + 3 * DAY)) == (("standard", "active"), A * SECOND)


def test_a_claim_of_what_is_known_changes_nothing() -> None:
    anyhow = event(UPDATED, A + 60, subscription(FIRST), {"description": None})
    assert _line(_created(), anyhow) == _line(_created())


def test_a_period_that_begins_in_the_future_of_the_event_counts_from_the_event() -> None:
    early = event(UPDATED, B - 60, subscription(SECOND_PERIOD), _rolled(SECOND_PERIOD, FIRST, NEW))
    assert [told.effective_at // SECOND for told in _read(early).events] == [B - 60, B - 60]


def test_yearly_weekly_and_metered_prices() -> None:
    def first(recurring: Document, quantity: int | None = 5) -> Event:
        shown = item(FIRST, NEW, quantity, price=price(recurring=recurring))
        return _read(_created(items=[shown])).events[0]

    assert first({"interval": "year", "interval_count": 1}).term_months == 12
    assert first({"interval": "month", "interval_count": 3}).term_months == 3
    assert first({"interval": "week", "interval_count": 2}).term_months is None
    assert first({"interval": "year", "interval_count": 11}).term_months is None
    assert first({"interval": "month", "interval_count": "1"}).term_months is None
    assert first({"interval": "month", "interval_count": 1}, None).seats is None
    metered = event(UPDATED, A + 60, subscription(FIRST, items=[item(FIRST, NEW, None)]), {"description": None})
    assert [told.type for told in _read(metered).events] == [EventType.RENEWED]


def test_prices_are_found_by_id_lookup_key_or_metadata() -> None:
    for shown, plan in (
        (price(PRO), "professional"),
        (price("price_1QX", lookup_key=LOW), "crm_plus"),
        (price("price_1QX", metadata={"mailgate_plan": "nfr"}), "nfr"),
        (price(PRO, metadata={"mailgate_plan": "unheard of"}), "professional"),
    ):
        assert _read(_created(items=[item(FIRST, NEW, price=shown)])).events[0].plan == plan


def test_of_several_items_the_highest_plan_counts_and_extras_are_none() -> None:
    items = [_item(FIRST, NEW, "price_1QStorage", 99), _item(FIRST, NEW, STANDARD, 3), _item(FIRST, NEW, PRO, 4)]
    told = _read(_created(items=items)).events[0]
    assert (told.plan, told.seats) == ("professional", 4)


def test_an_unknown_price_is_told_and_changes_nothing() -> None:
    with pytest.raises(PreconditionError, match=r"'price_1QX'.*stripe_prices") as refused:
        _read(_created(items=[_item(FIRST, NEW, "price_1QX")]))
    assert refused.value.slug == "stripe_price_unknown"
    empty = subscription(FIRST)
    empty["items"] = None
    with pytest.raises(PreconditionError, match="none"):
        _read(event(UPDATED, A, empty))
    change = {"items": {"data": [_item(FIRST, NEW, "price_1QX")]}}
    known_now = event(UPDATED, A + 60, subscription(FIRST), change)
    assert EventType.UPGRADED not in {told.type for told in _read(known_now).events}


def test_another_business_on_the_same_account_is_no_news() -> None:
    news = _read(_created(items=[_item(FIRST, NEW, "price_1QShoes")], metadata={}))
    assert (news.events, news.tenant, news.subscription, news.customer) == ((), None, "sub_1QA", "cus_QAcme")


def test_who_is_concerned() -> None:
    customer = {"id": "cus_QAcme", "object": "customer", "metadata": {"mailgate_tenant": "umbrella"}}
    for metadata, sent, tenant in (
        ({"mailgate_tenant": "acme"}, customer, "acme"),
        ({}, customer, "umbrella"),
        ({}, "cus_QAcme", None),
    ):
        news = _read(_created(metadata=metadata, customer=sent))
        assert (news.tenant, news.customer, news.subscription) == (tenant, "cus_QAcme", "sub_1QA")
        assert {told.contract for told in news.events} == {"sub_1QA"}
    for version in (OLD, NEW):
        news = _read(_paid(B, version=version))
        assert (news.tenant, news.customer, news.subscription) == ("acme", "cus_QAcme", "sub_1QA")
    bare = _paid(B, parent=None, subscription={"id": "sub_1QC", "object": "subscription"}, customer=customer)
    news = _read(bare)
    assert (news.tenant, news.subscription) == ("umbrella", "sub_1QC")
    by_line = _read(_paid(B, version=OLD, subscription_details=None))
    assert by_line.tenant == "acme"


def test_an_invoice_of_no_period_is_no_news() -> None:
    prorated = {"data": [line(FIRST, NEW, proration=True)]}
    alone = {"data": [{"object": "line_item", "type": "invoiceitem", "period": {"start": A, "end": B}}]}
    for changes in (
        {"billing_reason": "manual"},
        {"billing_reason": "subscription_update"},
        {"parent": None},
        {"lines": prorated},
        {"lines": alone},
        {"lines": None},
    ):
        for kind in ("invoice.paid", "invoice.payment_succeeded", "invoice.payment_failed"):
            assert _read(event(kind, B, invoice(SECOND_PERIOD, **changes))).events == ()
    assert _read(event("invoice.created", B, invoice(SECOND_PERIOD))).events == ()
    first = invoice(FIRST, billing_reason="subscription_create")
    assert _read(event("invoice.payment_failed", A, first)).events == ()


@BOTH
def test_an_invoice_tells_the_plan_where_it_names_a_price_that_is_known(version: str) -> None:
    for price_id, plan in ((PRO, "professional"), ("price_1QX", None)):
        lines = {"data": [line(SECOND_PERIOD, version, price_id=price_id)]}
        assert _read(_paid(B, version=version, lines=lines)).events[0].plan == plan
    expanded = line(SECOND_PERIOD, NEW)
    expanded["pricing"]["price_details"]["price"] = price("price_1QX", lookup_key=LOW)
    assert _read(_paid(B, lines={"data": [expanded]})).events[0].plan == "crm_plus"


def test_both_names_of_a_paid_invoice_say_the_same() -> None:
    again = event("invoice.payment_succeeded", B + HOUR, invoice(SECOND_PERIOD))
    assert _line(_created(), _paid(B + HOUR), again) == _line(_created(), _paid(B + HOUR))


def test_other_events_are_no_news() -> None:
    for kind in ("customer.created", "customer.subscription.pending_update_applied", "charge.refunded"):
        assert _read(event(kind, A, subscription(FIRST))).events == ()


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"object": "event", "id": "evt_1", "created": A},
        {"object": "event", "type": UPDATED, "created": A},
        {"object": "list", "id": "evt_1", "type": UPDATED},
        event(UPDATED, A, {}),
        event(UPDATED, True, subscription(FIRST)),
        event(UPDATED, -1, subscription(FIRST)),
        event(UPDATED, 10**18, subscription(FIRST)),
        event("customer.subscription.created", A, subscription(FIRST, OLD, current_period_end=None)),
        event("customer.subscription.created", A, subscription(FIRST, status="trialing")),
        event(UPDATED, A, subscription(FIRST, status=None)),
        event(UPDATED, A, subscription(FIRST, cancel_at="tomorrow")),
        event("invoice.paid", A, invoice(FIRST, lines={"data": [line((A, 10**18), NEW)]})),
        event("invoice.payment_failed", A, invoice(FIRST, status_transitions={"finalized_at": "now"})),
    ],
)
def test_another_shape_than_documented_is_refused(document: Document) -> None:
    with pytest.raises(BadRequestError) as refused:
        _read(document)
    assert refused.value.slug == "stripe_event_malformed"


def test_ids_and_instants_do_not_depend_on_the_delivery() -> None:
    first, second = _read(_begins()), _read(_begins())
    assert first == second
    ids: list[str] = [told.id for told in first.events]
    assert len(set(ids)) == len(ids)
    assert all(identifier.startswith(first.id) for identifier in ids)
    instants: list[Instant] = [told.effective_at for told in first.events]
    assert instants == [B * SECOND, (B + 3) * SECOND + 4]
