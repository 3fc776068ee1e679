"""Endpoints at a glance: how far each is behind, and who of them has an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_, select

from mailgate.clock import Instant
from mailgate.store.database import Database
from mailgate.store.hooks.rows import Delivery, Endpoint, delivery_of, endpoint_of
from mailgate.store.paging import Page, cut
from mailgate.store.schema import events, webhook_deliveries, webhook_lanes, webhooks
from mailgate.webhooks.model import EndpointState

_W = webhooks.c
_L = webhook_lanes.c
_D = webhook_deliveries.c
_MOST_ENDPOINTS = 100


@dataclass(frozen=True, slots=True)
class Standing:
    """An endpoint, what waits for it, and since when. `waiting`: deliveries that are sent or tried again; `behind`:
    mailboxes whose events wait because of those; `next_at`: when the next is tried; `oldest_at`: the first event that
    the endpoint has not come to.
    """

    endpoint: Endpoint
    waiting: int
    behind: int
    next_at: Instant | None
    oldest_at: Instant | None


async def list_page(
    db: Database, *, tenant_id: str | None, state: EndpointState | None, after: str | None, limit: int
) -> Page[Standing]:
    """Endpoints, newest first; of a tenant, in a state. The page's key is (id,)."""
    query = select(webhooks).order_by(_W.id.desc()).limit(limit + 1)
    if tenant_id is not None:
        query = query.where(_W.tenant_id == tenant_id)
    if state is not None:
        query = query.where(_W.state == state.value)
    if after is not None:
        query = query.where(_W.id < after)
    async with db.read() as conn:
        rows, more = cut((await conn.execute(query)).all(), limit)
    found = await standing(db, [endpoint_of(row) for row in rows])
    return Page(found, (rows[-1].id,) if more else None)


async def count_states(db: Database, tenant_id: str | None) -> dict[str, int]:
    """How many there are in each state."""
    query = select(_W.state, func.count()).group_by(_W.state)
    if tenant_id is not None:
        query = query.where(_W.tenant_id == tenant_id)
    async with db.read() as conn:
        return {row[0]: row[1] for row in await conn.execute(query)}


async def standing(db: Database, endpoints: Sequence[Endpoint]) -> list[Standing]:
    """How far these are."""
    ids = [endpoint.id for endpoint in endpoints]
    open_ = (
        select(_D.webhook_id, func.count())
        .where(_D.webhook_id.in_(ids), _D.finished_at.is_(None))
        .group_by(_D.webhook_id)
    )
    behind = select(_L.webhook_id, func.count(), func.min(_L.next_at)).where(_L.webhook_id.in_(ids))
    first = (
        select(events.c.at)
        .where(events.c.position > _W.position)
        .order_by(events.c.position)
        .limit(1)
        .scalar_subquery()
    )
    oldest = select(_W.id, first).where(_W.id.in_(ids))
    async with db.read() as conn:
        waits = {row[0]: row[1] for row in await conn.execute(open_)}
        lanes = {row[0]: (row[1], row[2]) for row in await conn.execute(behind.group_by(_L.webhook_id))}
        olds = {row[0]: row[1] for row in await conn.execute(oldest)}
    return [
        Standing(
            endpoint,
            waits.get(endpoint.id, 0),
            lanes.get(endpoint.id, (0, None))[0],
            lanes.get(endpoint.id, (0, None))[1] or None,
            olds.get(endpoint.id),
        )
        for endpoint in endpoints
    ]


async def of_event(
    db: Database, event_id: str, position: int, tenant_id: str | None
) -> list[tuple[Endpoint, Delivery]]:
    """What became of an event at the endpoints (of one tenant, or all) since each was last replayed."""
    same = and_(_D.webhook_id == _W.id, _D.generation == _W.generation, _D.position == position)
    mine: ColumnElement[bool] = or_(_W.tenant_id.is_(None), _W.tenant_id == event_id.rpartition(":")[0])
    if tenant_id is not None:
        mine = _W.tenant_id == tenant_id
    theirs = select(webhooks).where(mine).order_by(_W.id.desc()).limit(_MOST_ENDPOINTS)
    async with db.read() as conn:
        endpoints = {row.id: endpoint_of(row) for row in await conn.execute(theirs)}
        given = select(webhook_deliveries).join(webhooks, same).where(_W.id.in_(endpoints), _D.event_id == event_id)
        found = [delivery_of(row) for row in await conn.execute(given.order_by(_D.id.desc()))]
    return [(endpoints[each.webhook_id], each) for each in found]
