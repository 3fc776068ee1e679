"""An endpoint and a delivery, as rows say them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from mailgate.clock import Instant
from mailgate.store.transaction import GATEWAY
from mailgate.webhooks.model import DeliveryKind, DeliveryState, EndpointState, PauseReason


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint without its secret. `tenant_id` None: all tenants; `types` None: all; `reason`, `detail` and
    `paused_at` say why and since when it is paused. `old_secret_until_at`: until when the secret before signs as well.
    `delivered_at`: when an event was last delivered; `failures`: attempts that failed since then.
    """

    id: str
    tenant_id: str | None
    url: str
    description: str
    types: Sequence[str] | None
    state: EndpointState
    reason: PauseReason | None
    detail: str | None
    paused_at: Instant | None
    old_secret_until_at: Instant | None
    position: int
    generation: int
    version: int
    created_at: Instant
    delivered_at: Instant | None
    failures: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery. `event_id` None: a test; `message_ref` is its `webhook-id`."""

    id: str
    webhook_id: str
    tenant_id: str | None
    kind: DeliveryKind
    event_id: str | None
    message_ref: str
    event_type: str
    mailbox_id: str | None
    state: DeliveryState
    attempts: int
    created_at: Instant
    started_at: Instant
    next_at: Instant | None
    finished_at: Instant | None
    status: int | None
    error: str | None
    response: str | None


def endpoint_of(row: Row[Any]) -> Endpoint:
    """The endpoint that a row is."""
    reason = None if row.reason is None else PauseReason(row.reason)
    return Endpoint(
        id=row.id,
        tenant_id=row.tenant_id,
        url=row.url,
        description=row.description,
        types=row.types,
        state=EndpointState(row.state),
        reason=reason,
        detail=row.detail,
        paused_at=row.paused_at,
        old_secret_until_at=row.old_secret_until_at,
        position=row.position,
        generation=row.generation,
        version=row.version,
        created_at=row.created_at,
        delivered_at=row.delivered_at,
        failures=row.failures,
    )


def delivery_of(row: Row[Any]) -> Delivery:
    """The delivery that a row is."""
    return Delivery(
        id=row.id,
        webhook_id=row.webhook_id,
        tenant_id=None if row.tenant_id == GATEWAY else row.tenant_id,
        kind=DeliveryKind(row.kind),
        event_id=row.event_id,
        message_ref=row.message_ref,
        event_type=row.event_type,
        mailbox_id=row.mailbox_id,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        created_at=row.created_at,
        started_at=row.started_at,
        next_at=row.next_at,
        finished_at=row.finished_at,
        status=row.status,
        error=row.error,
        response=row.response,
    )
