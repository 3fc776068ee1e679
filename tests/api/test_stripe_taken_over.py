"""Stripe's webhooks from the door to the subscription: signed documents in, plans and mailboxes changed."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from itertools import product
from typing import Any

from mailgate.clock import DAY, HOUR, SECOND, to_rfc3339
from tests.api.conftest import START, Gateway
from tests.unit.tenants.stripe_shapes import NEW, OLD, STANDARD, event, invoice, line, subscription

SECRET = "whsec_of_the_tests"
AT = START // SECOND
MONTH = 30 * 86_400


def listen(gateway: Gateway) -> None:
    """Set Stripe up, with one price for `standard`."""
    gateway.app.state.stripe_door = replace(gateway.app.state.stripe_door, secrets=(SECRET,))
    object.__setattr__(gateway.core.subscriptions.catalogue.plans["standard"], "stripe_prices", (STANDARD,))


async def deliver(gateway: Gateway, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    body = json.dumps(document).encode()
    at = gateway.clock() // SECOND
    mac = hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"content-type": "application/json", "stripe-signature": f"t={at},v1={mac}"}
    async with gateway.with_token(None) as stripe:
        answer = await stripe.post("/v1/billing/stripe", content=body, headers=headers)
    return answer.status_code, answer.json()


async def plan(gateway: Gateway) -> tuple[str, str]:
    found = (await gateway.client.get("/v1/tenants/acme/subscription")).json()
    return found["plan"], found["status"]


async def test_a_subscription_at_stripe_is_followed(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    listen(gateway)
    period = (AT, AT + MONTH)
    created = event("customer.subscription.created", AT, subscription(period))
    assert await deliver(gateway, created) == (200, {"changed": True})
    assert await deliver(gateway, created) == (200, {"changed": False})
    assert await plan(gateway) == ("standard", "active")
    assert gateway.sync.woken[-1:] == [None]

    gateway.clock.forward(31 * DAY)
    failed = event("invoice.payment_failed", AT + MONTH + 3_600, invoice((AT + MONTH, AT + 2 * MONTH)))
    assert (await deliver(gateway, failed))[0] == 200
    assert await plan(gateway) == ("standard", "past_due")
    gateway.clock.forward(10 * DAY)
    assert (await plan(gateway))[0] == "free"
    late = event("invoice.paid", AT + MONTH + 2 * 86_400, invoice((AT + MONTH, AT + 2 * MONTH)))
    assert await deliver(gateway, late) == (200, {"changed": True})
    assert await plan(gateway) == ("standard", "active")


async def test_news_of_nobody_are_refused_so_that_stripe_comes_again(gateway: Gateway) -> None:
    listen(gateway)
    status, problem = await deliver(gateway, event("customer.subscription.created", AT, subscription((AT, AT + MONTH))))
    assert (status, problem["type"]) == (404, "tenant_not_found")
    await gateway.tenant("acme", "free")
    assert (await deliver(gateway, event("customer.subscription.created", AT, subscription((AT, AT + MONTH)))))[
        0
    ] == 200
    assert await plan(gateway) == ("standard", "active")


async def test_who_pays_for_something_else_on_the_same_account_buys_no_plan(gateway: Gateway) -> None:
    """An invoice of a customer of ours that names neither a tenant nor a price of ours."""
    await gateway.tenant("acme", "free")
    listen(gateway)
    await deliver(gateway, event("customer.subscription.created", AT, subscription((AT, AT + MONTH))))
    gateway.clock.forward(DAY)
    ended = subscription((AT, AT + MONTH), status="canceled")
    await deliver(gateway, event("customer.subscription.deleted", AT + 5, ended))
    assert await plan(gateway) == ("free", "canceled")
    for version in (OLD, NEW):
        other = invoice((AT + 9, AT + MONTH), version, subscription="sub_other", subscription_details=None)
        other["lines"]["data"] = [line((AT + 9, AT + MONTH), version, price_id="price_of_a_mug")]
        other["lines"]["data"][0]["metadata"] = {}
        other["parent"] = None
        paid = event("invoice.paid", AT + 9, other, event_id=f"evt_{version}")
        assert (await deliver(gateway, paid))[0] == 404
        assert await plan(gateway) == ("free", "canceled")


async def test_a_subscription_that_was_known_by_its_customer_is_known_by_itself(gateway: Gateway) -> None:
    """Its metadata name nobody; its invoices do not name the price either, only its id."""
    await gateway.tenant("acme", "free")
    listen(gateway)
    await deliver(gateway, event("customer.subscription.created", AT, subscription((AT, AT + MONTH))))
    gateway.clock.forward(DAY)
    second = subscription((AT + 5, AT + MONTH), metadata={}, id="sub_second")
    assert (await deliver(gateway, event("customer.subscription.created", AT + 5, second)))[0] == 200
    details = {"metadata": {}, "subscription": "sub_second"}
    paid = invoice((AT + MONTH, AT + 2 * MONTH), parent={"subscription_details": details})
    paid["lines"]["data"][0] |= {"metadata": {}, "pricing": None}
    assert await deliver(gateway, event("invoice.paid", AT + 6, paid)) == (200, {"changed": True})
    found = (await gateway.client.get("/v1/tenants/acme/subscription")).json()
    assert found["period_end"] == to_rfc3339((AT + 2 * MONTH) * SECOND)


async def test_nothing_is_purged_while_the_word_that_a_trial_was_bought_is_on_its_way(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    listen(gateway)
    trial = {"status": "trialing", "trial_start": AT, "trial_end": AT + MONTH}
    await deliver(gateway, event("customer.subscription.created", AT, subscription((AT, AT + MONTH), **trial)))
    gateway.clock.forward(30 * DAY + 2 * HOUR)
    assert await plan(gateway) == ("standard", "past_due")
    assert (await gateway.client.get("/v1/tenants/acme/retention")).json()["days"] == 60
    bought = subscription((AT + MONTH, AT + 2 * MONTH), trial_start=AT, trial_end=AT + MONTH)
    before = {"status": "trialing", "current_period_end": AT + MONTH}
    told = event("customer.subscription.updated", AT + MONTH + 3, bought, before)
    assert await deliver(gateway, told) == (200, {"changed": True})
    assert await plan(gateway) == ("standard", "active")
    changes = (await gateway.client.get("/v1/tenants/acme/subscription/history")).json()["items"]
    assert [(item["plan"], item["status"]) for item in changes] == [("standard", "active"), ("standard", "trialing")]


async def test_two_subscriptions_and_one_given_back_keep_the_plan(gateway: Gateway) -> None:
    """Nothing becomes due: the other one is paid."""
    await gateway.tenant("acme", "free")
    listen(gateway)
    await deliver(gateway, event("customer.subscription.created", AT, subscription((AT, AT + MONTH))))
    gateway.clock.forward(DAY)
    twice = subscription((AT + 60, AT + MONTH), id="sub_twice")
    await deliver(gateway, event("customer.subscription.created", AT + 60, twice))
    await deliver(gateway, event("customer.subscription.deleted", AT + 600, twice | {"status": "canceled"}))
    assert await plan(gateway) == ("standard", "active")
    assert (await gateway.client.get("/v1/tenants/acme/retention")).json()["days"] == 60


async def test_what_no_database_keeps_is_refused(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    listen(gateway)
    for text, place in product(("a\0b", "\ud800", "x" * 300), ("event", "id", "customer", "metadata")):
        value = {"mailgate_tenant": text} if place == "metadata" else text
        changes = {} if place == "event" else {place: value}
        document = event("customer.subscription.created", AT, subscription((AT, AT + MONTH), **changes))
        if place == "event":
            document["id"] = text
        status, problem = await deliver(gateway, document)
        assert (status, problem["type"]) == (400, "stripe_event_malformed"), (place, text)
    assert await plan(gateway) == ("free", "active")
