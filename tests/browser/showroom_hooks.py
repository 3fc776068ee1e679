"""Webhooks of the showroom: one that is delivered to, one whose receiver fails, one that was given up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert, select, update

from mailgate.app.core import Core
from mailgate.clock import DAY, HOUR, MINUTE, SECOND, Instant
from mailgate.ids import new_id
from mailgate.store.feed import Publisher
from mailgate.store.schema import events, webhook_deliveries, webhook_lanes, webhooks
from mailgate.store.transaction import Transaction
from mailgate.webhooks.signing import message_id, new_secret


async def furnish_hooks(core: Core, tenant_ids: Sequence[str], now: Instant) -> list[str]:
    """The ids of the endpoints: delivered to, failing, given up."""
    publisher = Publisher(core.db, "showroom")
    while await publisher.publish(now):
        pass
    await publisher.release()
    head = await core.feed.reader.head()
    common = {"generation": 0, "version": 0, "position": head.position}
    fine, failing, gone = (new_id(now - days * DAY) for days in (80, 40, 20))
    given_up = "no answer within 15 s; mailbox.state_changed is not delivered"
    rows: list[dict[str, Any]] = [
        {
            **common,
            "id": fine,
            "tenant_id": tenant_ids[2],
            "types": ["message.*", "mailbox.*", "hold.*"],
            "url": "https://crm.example/hooks/mail",
            "description": "the CRM",
            "state": "enabled",
            "created_at": now - 80 * DAY,
            "delivered_at": now - 4 * SECOND,
        },
        {
            **common,
            "id": failing,
            "tenant_id": tenant_ids[0],
            "url": "https://hooks.example/T0/B1/x7",
            "description": "alerts for the team",
            "types": ["mailbox.*", "alarm.*"],
            "state": "enabled",
            "created_at": now - 40 * DAY,
            "delivered_at": now - 3 * HOUR,
            "failures": 7,
        },
        {
            **common,
            "id": gone,
            "tenant_id": tenant_ids[1],
            "url": "https://old.example/in",
            "description": "before the move",
            "types": ["message.*"],
            "state": "paused",
            "reason": "failing",
            "detail": given_up,
            "paused_at": now - 6 * DAY,
            "created_at": now - 20 * DAY,
            "delivered_at": now - 9 * DAY,
            "failures": 31,
        },
    ]

    async def work(tx: Transaction) -> None:
        for row in rows:
            secret = core.ring.seal(new_secret().encode(), f"webhook/{row['id']}")
            await tx.conn.execute(insert(webhooks).values(row | {"secret": secret}))
        for webhook_id, tenant_id, state in ((fine, tenant_ids[2], "delivered"), (failing, tenant_ids[0], "waiting")):
            query = select(events).where(events.c.position.is_not(None)).order_by(events.c.position.desc())
            query = query.where(events.c.tenant_id == tenant_id, events.c.type == "mailbox.state_changed")
            found = (await tx.conn.execute(query.limit(12))).all()
            if state == "waiting":
                found = list({event.mailbox_id: event for event in found}.values())
            for number, event in enumerate(found):
                at = now - (number * 50 + 4) * SECOND
                await tx.conn.execute(insert(webhook_deliveries).values(_delivery(webhook_id, state, event, at, now)))
                if state == "waiting":
                    await tx.conn.execute(insert(webhook_lanes).values(_lane(webhook_id, event, now)))
        await tx.conn.execute(update(webhooks).where(webhooks.c.id == gone).values(generation=1))

    await core.db.transact(work)
    return [fine, failing, gone]


def _delivery(webhook_id: str, state: str, event: Any, at: Instant, now: Instant) -> dict[str, Any]:
    done = state == "delivered"
    answer = {"status": 204} if done else {"status": 503, "response": "<h1>Service Unavailable</h1>"}
    return {
        **answer,
        "id": new_id(at),
        "webhook_id": webhook_id,
        "tenant_id": event.tenant_id,
        "kind": "event",
        "generation": 0,
        "position": event.position,
        "event_id": f"{event.tenant_id}:{event.seq}",
        "message_ref": message_id(f"{event.tenant_id}:{event.seq}", event.at),
        "event_type": event.type,
        "mailbox_id": event.mailbox_id,
        "state": state,
        "attempts": 1 if done else 7,
        "created_at": at if done else at - 3 * HOUR,
        "started_at": at,
        "finished_at": at if done else None,
        "next_at": None if done else now + 42 * MINUTE,
    }


def _lane(webhook_id: str, event: Any, now: Instant) -> dict[str, Any]:
    return {
        "webhook_id": webhook_id,
        "lane": f"{event.tenant_id}/{event.mailbox_id}",
        "tenant_id": event.tenant_id,
        "position": event.position - 1,
        "attempts": 7,
        "since_at": now - 3 * HOUR,
        "next_at": now + 42 * MINUTE,
    }
