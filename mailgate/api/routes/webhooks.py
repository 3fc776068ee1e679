"""Webhooks: endpoints to which events are sent, and what became of each delivery."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from mailgate.api.paging import Cursors, Items, PageQuery
from mailgate.api.problems import problems
from mailgate.api.security import Parts, Who, only
from mailgate.clock import HOUR
from mailgate.errors import ForbiddenError, PreconditionError
from mailgate.events.types import FILTER_PATTERN
from mailgate.store.hooks import deliveries
from mailgate.store.hooks.endpoints import Change
from mailgate.store.hooks.rows import Delivery, Endpoint
from mailgate.store.tokens import Scope
from mailgate.usecases import hooks
from mailgate.usecases.types import Answer, Body, ObjectId, TenantId, Time, TimeIn, text
from mailgate.webhooks.calling import LONGEST_URL
from mailgate.webhooks.model import DeliveryKind, DeliveryState, EndpointState, PauseReason

router = APIRouter(tags=["webhooks"], prefix="/v1/webhooks", dependencies=[only(Scope.CRM)])

WebhookId = Annotated[ObjectId, Path()]
DeliveryId = Annotated[ObjectId, Path()]
Url = Annotated[str, text(LONGEST_URL), Field(description="https, without user or password", examples=[
    "https://crm.example/hooks/mail"
])]  # fmt: skip
TypeWord = Annotated[str, text(64), Field(json_schema_extra={"pattern": FILTER_PATTERN})]
Types = Annotated[
    list[TypeWord],
    Field(max_length=100, description="whole names, and areas like message.*; empty: all", examples=[["message.*"]]),
]


class WebhookBody(Body):
    """An endpoint to make. It gets what happens from then on."""

    url: Url
    tenant_id: TenantId | None = Field(default=None, description="only this tenant's events; null: all tenants'")
    types: Types = Field(default=[])
    description: Annotated[str, text(200, 0)] = ""


class WebhookChange(Body):
    """What to change; what is left out stays."""

    url: Url | None = None
    types: Types | None = None
    description: Annotated[str, text(200, 0)] | None = None
    state: Literal["enabled", "paused"] | None = Field(
        default=None, description="enabled again, it goes on where it stopped"
    )


class RotateBody(Body):
    """How long the secret before signs as well."""

    overlap_hours: int = Field(default=24, ge=0, le=168)


class ReplayBody(Body):
    """From where to deliver again: one of both."""

    after: Annotated[str, text(100)] | None = Field(
        default=None, description="a cursor of the feed: what stands after it; `latest`: leave out what waits"
    )
    since: TimeIn | None = Field(default=None, description="from the first event of this instant or later")


class WebhookAnswer(Answer):
    """An endpoint without its secret."""

    id: str
    tenant_id: str | None
    url: str
    description: str
    types: list[str]
    state: EndpointState
    reason: PauseReason | None = Field(description="why it is paused")
    detail: str | None = Field(description="the same in words")
    paused_at: Time | None
    old_secret_until_at: Time | None = Field(description="until then the secret before signs as well")
    created_at: Time
    delivered_at: Time | None = Field(description="when an event was last delivered")
    failures: int = Field(description="attempts that failed since then")


class NewSecretAnswer(WebhookAnswer):
    """An endpoint with its new secret."""

    secret: str = Field(description="`whsec_…`; it is shown only this once")


class DeliveryAnswer(Answer):
    """One event for one endpoint, with the last attempt. `waiting`: it failed and is tried again at `next_at`."""

    id: str
    webhook_id: str
    tenant_id: str | None
    kind: DeliveryKind
    event_id: str | None = Field(description="as in the feed; null: a test")
    message_ref: str = Field(description="`webhook-id`: the same at every attempt")
    event_type: str
    mailbox_id: str | None
    state: DeliveryState
    attempts: int
    created_at: Time
    started_at: Time = Field(description="the last attempt")
    next_at: Time | None
    finished_at: Time | None
    status: int | None = Field(description="of the receiver's last answer")
    error: str | None = Field(description="why there was no answer")
    response: str | None = Field(description="the first 200 bytes of the last answer")


class DeliveryQuery(PageQuery):
    """Which deliveries to list."""

    state: DeliveryState | None = None


@router.post("", status_code=201, responses=problems(404, 409))
async def create_webhook(body: WebhookBody, parts: Parts, who: Who) -> NewSecretAnswer:
    """Make an endpoint. A token that is bound to a tenant can only make endpoints bound to the same."""
    if who.tenant_id is not None and body.tenant_id != who.tenant_id:
        raise ForbiddenError(f"a token of tenant {who.tenant_id} can only make webhooks of that tenant (tenant_id)")
    endpoint, secret = await parts.webhooks.create(
        url=body.url, tenant_id=body.tenant_id, types=body.types, description=body.description
    )
    return NewSecretAnswer(**_fields(endpoint), secret=secret)


@router.get("", responses=problems(400))
async def list_webhooks(query: Annotated[PageQuery, Query()], parts: Parts, who: Who) -> Items[WebhookAnswer]:
    """Endpoints, newest first."""
    cursors = Cursors("webhooks", (str,), who.tenant_id)
    page = await parts.webhooks.page(tenant_id=who.tenant_id, after=cursors.after(query.cursor), limit=query.limit)
    return cursors.page(page, _show)


@router.get("/{webhook_id}", responses=problems(404))
async def get_webhook(webhook_id: WebhookId, parts: Parts, who: Who) -> WebhookAnswer:
    """One endpoint."""
    return _show(await parts.webhooks.get(webhook_id, who.tenant_id))


@router.patch("/{webhook_id}", responses=problems(404, 410))
async def change_webhook(webhook_id: WebhookId, body: WebhookChange, parts: Parts, who: Who) -> WebhookAnswer:
    """Change an endpoint, pause it, or enable it again. `410 cursor_expired`: what it has not delivered is not kept any
    more; replay from another place first.
    """
    state = None if body.state is None else EndpointState(body.state)
    change = Change(body.url, body.description, body.types, state)
    return _show(await parts.webhooks.change(webhook_id, who.tenant_id, change))


@router.delete("/{webhook_id}", status_code=204, responses=problems(404))
async def remove_webhook(webhook_id: WebhookId, parts: Parts, who: Who) -> None:
    """Remove an endpoint with its deliveries."""
    await parts.webhooks.remove(webhook_id, who.tenant_id)


@router.post("/{webhook_id}/rotate-secret", responses=problems(404))
async def rotate_webhook_secret(
    webhook_id: WebhookId, parts: Parts, who: Who, body: RotateBody | None = None
) -> NewSecretAnswer:
    """Make a new secret. For `overlap_hours` requests carry the signatures of both."""
    body = body or RotateBody()
    endpoint, secret = await parts.webhooks.rotate(webhook_id, who.tenant_id, body.overlap_hours * HOUR)
    return NewSecretAnswer(**_fields(endpoint), secret=secret)


@router.post("/{webhook_id}/replay", status_code=202, responses=problems(400, 404, 410))
async def replay_webhook(webhook_id: WebhookId, body: ReplayBody, parts: Parts, who: Who) -> WebhookAnswer:
    """Deliver events again, each with the `webhook-id` that it had, from a place in the feed on. A paused endpoint
    stays paused, and begins there when it is enabled.
    """
    if (body.after is None) == (body.since is None):
        raise PreconditionError("give one of `after` and `since`", slug="replay_invalid")
    return _show(await parts.webhooks.replay(webhook_id, who.tenant_id, after=body.after, since=body.since))


@router.post("/{webhook_id}/test", responses=problems(404))
async def try_webhook(webhook_id: WebhookId, parts: Parts, who: Who) -> DeliveryAnswer:
    """Send an event of type `webhook.test` now, and see what the receiver answers; it is not tried again."""
    endpoint = await parts.webhooks.get(webhook_id, who.tenant_id)
    return _show_delivery(await hooks.send_test(parts, endpoint))


@router.get("/{webhook_id}/deliveries", responses=problems(400, 404))
async def list_deliveries(
    webhook_id: WebhookId, query: Annotated[DeliveryQuery, Query()], parts: Parts, who: Who
) -> Items[DeliveryAnswer]:
    """Deliveries, newest first; those that are over are kept for `webhooks.keep_days`."""
    await parts.webhooks.get(webhook_id, who.tenant_id)
    cursors = Cursors("deliveries", (str,), webhook_id, query.state)
    page = await deliveries.page(
        parts.db, webhook_id, state=query.state, after=cursors.after(query.cursor), limit=query.limit
    )
    return cursors.page(page, _show_delivery)


@router.post("/{webhook_id}/deliveries/{delivery_id}/retry", responses=problems(404, 409, 410))
async def retry_delivery(webhook_id: WebhookId, delivery_id: DeliveryId, parts: Parts, who: Who) -> DeliveryAnswer:
    """Try a delivery again at once. What waits goes ahead in its place; what is over is sent once more, now, and
    answers as a delivery of its own.
    """
    endpoint = await parts.webhooks.get(webhook_id, who.tenant_id)
    delivery = await deliveries.get(parts.db, webhook_id, delivery_id)
    return _show_delivery(await hooks.send_again(parts, endpoint, delivery))


def _show(endpoint: Endpoint) -> WebhookAnswer:
    return WebhookAnswer(**_fields(endpoint))


def _fields(endpoint: Endpoint) -> dict[str, Any]:
    fields = {name: getattr(endpoint, name) for name in WebhookAnswer.model_fields}
    return fields | {"types": list(endpoint.types or ())}


def _show_delivery(delivery: Delivery) -> DeliveryAnswer:
    return DeliveryAnswer(**{name: getattr(delivery, name) for name in DeliveryAnswer.model_fields})
