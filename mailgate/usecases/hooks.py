"""Requests to a receiver that somebody asked for: a test, and a delivery that is made again. Their outcome is answered.

Written down before the request and after it, as every delivery is, but beside the order of the feed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailgate import __version__
from mailgate.clock import to_rfc3339
from mailgate.errors import ConflictError, GoneError
from mailgate.ids import new_id
from mailgate.store.hooks import deliveries
from mailgate.store.hooks.rows import Delivery, Endpoint
from mailgate.store.transaction import GATEWAY
from mailgate.usecases.parts import Services
from mailgate.webhooks import signing
from mailgate.webhooks.model import DeliveryKind, DeliveryState

TEST_TYPE = "webhook.test"


async def send_test(parts: Services, endpoint: Endpoint) -> Delivery:
    """Send a signed event of type `webhook.test`, to a paused endpoint as well. Raises NotFoundError."""
    now = parts.clock()
    ref = f"test_{new_id(now)}"
    shown = {
        "id": ref,
        "tenant_id": endpoint.tenant_id,
        "type": TEST_TYPE,
        "at": to_rfc3339(now),
        "data": {"webhook_id": endpoint.id},
    }
    id_ = await deliveries.begin_once(
        parts.db,
        endpoint,
        DeliveryKind.TEST,
        tenant_id=endpoint.tenant_id,
        event_id=None,
        message_ref=f"msg_{ref}",
        event_type=TEST_TYPE,
        mailbox_id=None,
        now=now,
    )
    return await _send(parts, endpoint, id_, f"msg_{ref}", shown)


async def send_again(parts: Services, endpoint: Endpoint, delivery: Delivery) -> Delivery:
    """Try a delivery again: what waits is due at once; what is over is sent once more, under the same `webhook-id`, as
    a delivery of its own. Raises ConflictError (`delivery_under_way`, `webhook_paused`, `not_an_event`), GoneError
    `event_expired`.
    """
    now = parts.clock()
    if delivery.state is DeliveryState.SENDING:
        raise ConflictError("it is being sent at this moment; look at it again soon", slug="delivery_under_way")
    if delivery.state is DeliveryState.WAITING:
        await deliveries.hurry(parts.db, endpoint, delivery, now)
        parts.webhooks.on_changed()
        return await deliveries.get(parts.db, endpoint.id, delivery.id)
    if delivery.event_id is None:
        raise ConflictError("this was a test; make another (POST …/test)", slug="not_an_event")
    event = await parts.feed.reader.find(delivery.event_id)
    if event is None:
        raise GoneError("this event is not kept any more (events.keep_days)", slug="event_expired")
    head = await parts.feed.reader.head()
    (shown,) = await parts.feed.items(head.ref, [event], now)
    id_ = await deliveries.begin_once(
        parts.db,
        endpoint,
        DeliveryKind.AGAIN,
        tenant_id=delivery.tenant_id or GATEWAY,
        event_id=delivery.event_id,
        message_ref=delivery.message_ref,
        event_type=delivery.event_type,
        mailbox_id=delivery.mailbox_id,
        now=now,
    )
    return await _send(parts, endpoint, id_, delivery.message_ref, shown)


async def _send(parts: Services, endpoint: Endpoint, id_: str, ref: str, shown: Mapping[str, Any]) -> Delivery:
    body = signing.body_of(shown)
    headers = signing.headers(await parts.webhooks.secrets(endpoint.id), ref, parts.clock(), body)
    answer = await parts.call(endpoint.url, {**headers, "user-agent": f"mailgate/{__version__}"}, body.encode())
    await deliveries.finish_once(parts.db, id_, answer, parts.clock())
    return await deliveries.get(parts.db, endpoint.id, id_)
