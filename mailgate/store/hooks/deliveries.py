"""Deliveries as they are listed, tried again, and made on request beside the order of the feed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, delete, exists, func, insert, select, update

from mailgate.clock import MINUTE, Instant
from mailgate.errors import ConflictError, NotFoundError
from mailgate.ids import new_id
from mailgate.store.database import Database
from mailgate.store.hooks.journal import answered
from mailgate.store.hooks.rows import Delivery, Endpoint, delivery_of
from mailgate.store.paging import Page, page_by_id
from mailgate.store.schema import events, webhook_deliveries, webhook_lanes, webhooks
from mailgate.store.transaction import GATEWAY, Transaction
from mailgate.webhooks.model import Answer, DeliveryKind, DeliveryState, EndpointState

_W = webhooks.c
_L = webhook_lanes.c
_D = webhook_deliveries.c
_CUT: Final[Instant] = 10 * MINUTE
"""What was made on request and is not over by then, was cut."""


async def page(
    db: Database, webhook_id: str, *, state: DeliveryState | None, after: str | None, limit: int
) -> Page[Delivery]:
    """Deliveries, newest first. The page's key is (id,)."""
    query = select(webhook_deliveries).where(_D.webhook_id == webhook_id)
    if state is not None:
        query = query.where(_D.state == state.value)
    return await page_by_id(db, query, _D.id, delivery_of, after=after, limit=limit)


async def get(db: Database, webhook_id: str, id_: str) -> Delivery:
    """One of them. Raises NotFoundError."""
    async with db.read() as conn:
        row = (await conn.execute(select(webhook_deliveries).where(_one(webhook_id, id_)))).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no delivery {id_!r}", slug="delivery_not_found")
    return delivery_of(row)


async def hurry(db: Database, endpoint: Endpoint, delivery: Delivery, now: Instant) -> None:
    """What waits to be tried again is due now. Raises ConflictError `webhook_paused`."""

    async def work(tx: Transaction) -> None:
        row = (await tx.conn.execute(select(_W.state).where(_W.id == endpoint.id).with_for_update())).one_or_none()
        if row is None or row.state != EndpointState.ENABLED.value:
            raise ConflictError(
                "this webhook is paused; enable it (PATCH state), and it goes on", slug="webhook_paused"
            )
        lane = f"{delivery.tenant_id or GATEWAY}/{delivery.mailbox_id or ''}"
        mine = (_L.webhook_id == endpoint.id) & (_L.lane == lane)
        await tx.conn.execute(update(webhook_lanes).where(mine).values(next_at=now))
        await tx.conn.execute(update(webhook_deliveries).where(_one(endpoint.id, delivery.id)).values(next_at=now))
        await tx.conn.execute(update(webhooks).where(_W.id == endpoint.id).values(version=_W.version + 1))

    await db.transact(work)


async def begin_once(
    db: Database,
    endpoint: Endpoint,
    kind: DeliveryKind,
    *,
    tenant_id: str | None,
    event_id: str | None,
    message_ref: str,
    event_type: str,
    mailbox_id: str | None,
    now: Instant,
) -> str:
    """Write down a delivery that is made on request, before it is; its id. Raises NotFoundError."""
    id_ = new_id(now)

    async def work(tx: Transaction) -> None:
        living = select(_W.id).where(_W.id == endpoint.id).with_for_update(read=True)
        if (await tx.conn.execute(living)).one_or_none() is None:
            raise NotFoundError(f"there is no webhook {endpoint.id!r}", slug="webhook_not_found")
        values = {
            "id": id_,
            "webhook_id": endpoint.id,
            "tenant_id": tenant_id,
            "kind": kind.value,
            "generation": endpoint.generation,
            "event_id": event_id,
            "message_ref": message_ref,
            "event_type": event_type,
            "mailbox_id": mailbox_id,
            "state": DeliveryState.SENDING.value,
            "attempts": 1,
            "created_at": now,
            "started_at": now,
        }
        await tx.conn.execute(insert(webhook_deliveries).values(values))

    await db.transact(work)
    return id_


async def finish_once(db: Database, id_: str, answer: Answer, now: Instant) -> None:
    """Write down what became of it."""
    state = DeliveryState.DELIVERED if answer.delivered else DeliveryState.FAILED

    async def work(tx: Transaction) -> None:
        over = {"state": state.value, "finished_at": now, **answered(answer)}
        await tx.conn.execute(update(webhook_deliveries).where(_D.id == id_).values(over))

    await db.transact(work)


async def prune(tx: Transaction, before: Instant, now: Instant, limit: int) -> int:
    """Forget deliveries that were over before then; what was cut while it was made on request is over. How many
    went.
    """
    cut_ = (_D.kind != DeliveryKind.EVENT.value) & (_D.state == DeliveryState.SENDING.value)
    failed = {"state": DeliveryState.FAILED.value, "finished_at": now, "error": "cut: the process ended meanwhile"}
    await tx.conn.execute(update(webhook_deliveries).where(cut_, _D.started_at < now - _CUT).values(failed))
    replayed = exists().where(_W.id == _D.webhook_id, _W.generation > _D.generation)
    passed = {"state": DeliveryState.CANCELED.value, "finished_at": now, "next_at": None}
    waiting = update(webhook_deliveries).where(_D.state == DeliveryState.WAITING.value, replayed)
    await tx.conn.execute(waiting.values(passed))
    old = select(_D.id).where(_D.finished_at < before).limit(limit)
    return (await tx.conn.execute(delete(webhook_deliveries).where(_D.id.in_(old)))).rowcount


async def figures(db: Database, now: Instant) -> dict[str, float]:
    """For /metrics: endpoints by state, deliveries that wait, mailboxes that are behind, and the age of the oldest
    event that an enabled endpoint has not looked at.
    """
    enabled = _W.state == EndpointState.ENABLED.value
    async with db.read() as conn:
        states = (await conn.execute(select(_W.state, func.count()).group_by(_W.state))).all()
        counts: dict[str, int] = {row[0]: row[1] for row in states}
        open_ = select(func.count()).where(_D.finished_at.is_(None))
        lanes = select(func.count()).select_from(webhook_lanes)
        first = select(func.min(_W.position)).where(enabled).scalar_subquery()
        oldest = select(events.c.at).where(events.c.position > first).order_by(events.c.position).limit(1)
        at: Instant | None = (await conn.execute(oldest)).scalar_one_or_none()
        return {
            "enabled": counts.get(EndpointState.ENABLED.value, 0),
            "paused": counts.get(EndpointState.PAUSED.value, 0),
            "waiting": (await conn.execute(open_)).scalar_one(),
            "behind": (await conn.execute(lanes)).scalar_one(),
            "lag": 0 if at is None else max(0, now - at),
        }


def _one(webhook_id: str, id_: str) -> ColumnElement[bool]:
    return (_D.webhook_id == webhook_id) & (_D.id == id_)
