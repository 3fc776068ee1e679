"""Webhooks of billing systems. Open without a token: the signature tells who sends them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Header, Request

from mailgate.api import stripe_signature
from mailgate.api.problems import problems
from mailgate.clock import Clock
from mailgate.errors import BadRequestError, NotFoundError
from mailgate.tenants.stripe_events import StripeNews, read_stripe_event
from mailgate.tenants.stripe_objects import Offers
from mailgate.usecases.types import Answer

STRIPE_PATH = "/v1/billing/stripe"


router = APIRouter(tags=["subscriptions"])


class ApplyStripe(Protocol):
    """Records what Stripe told, once: the events of one document are taken over together, or not at all. Returns
    whether anything was new. `news` has events; where its tenant is None, it is the one that has had its subscription
    or customer before. Raises NotFoundError (tenant_not_found) when there is no such tenant.
    """

    async def __call__(self, news: StripeNews) -> bool: ...


@dataclass(frozen=True, slots=True)
class StripeDoor:
    """What the route needs, as `app.state.stripe_door`: the endpoint's signing secrets (several while one is rotated;
    none: not set up), the clock,
    the prices as the catalogue has them now, and where events go.
    """

    secrets: Sequence[str] = field(repr=False)
    clock: Clock
    offers: Callable[[], Offers]
    apply: ApplyStripe
    tolerance_s: int = stripe_signature.TOLERANCE_S


class Received(Answer):
    """What became of a webhook: `changed` is false for what was known already, or concerns no plan."""

    changed: bool


@router.post(
    STRIPE_PATH,
    responses=problems(400, 404, 422),
    openapi_extra={
        "security": [],
        "requestBody": {
            "required": True,
            "description": "an event of Stripe, as it signed it",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
    },
)
async def receive_stripe(
    request: Request, stripe_signature_header: Annotated[str | None, Header(alias="Stripe-Signature")] = None
) -> Received:
    """Take over what Stripe tells of subscriptions and their invoices. Repeated and late events are welcome."""
    door: StripeDoor = request.app.state.stripe_door
    if not door.secrets:
        raise NotFoundError("Stripe is not set up here: set billing.stripe_secrets", slug="stripe_not_set_up")
    body = await request.body()
    stripe_signature.verify(body, stripe_signature_header, door.secrets, door.clock(), tolerance_s=door.tolerance_s)
    news = read_stripe_event(_document(body), door.offers())
    return Received(changed=bool(news.events) and await door.apply(news))


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("the body is no JSON", slug="stripe_event_malformed") from error
    if not isinstance(document, dict):
        raise BadRequestError("the body is no event of Stripe", slug="stripe_event_malformed")
    return document
