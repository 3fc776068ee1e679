"""Stripe's webhooks from the door to the subscription: signed documents in, plans and mailboxes changed."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

from mailgate.clock import DAY, SECOND
from tests.api.conftest import START, Gateway
from tests.unit.tenants.stripe_shapes import STANDARD, event, invoice, subscription

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
