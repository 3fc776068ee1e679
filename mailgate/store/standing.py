"""How a tenant's copies stand at an instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import DAY, Instant
from mailgate.store.expiry import Horizon
from mailgate.store.schema import messages

_M = messages.c


@dataclass(frozen=True, slots=True)
class RetentionStatus:
    """How a tenant stands: what is served, what of it is pinned or held, what is due and when the next copy will be.

    `days` None: the plan is not known and everything is kept.
    """

    plan: str
    days: int | None
    copies: int
    bytes: int
    pinned: int
    held: int
    due_now: int
    next_due_at: Instant | None


async def standing(conn: AsyncConnection, horizon: Horizon, *, sqlite: bool) -> RetentionStatus:
    """How the horizon's tenant stands."""
    held = horizon.holds.held()
    served, free = horizon.visible(), and_(_M.pins == 0, ~held)
    query = select(
        func.count(case((served, 1))),
        func.coalesce(func.sum(case((served, _M.size), else_=0)), 0),
        func.count(case((_M.pins > 0, 1))),
        func.count(case((held, 1))),
        func.count(case((horizon.expired(), 1))),
        func.min(case((and_(served, free), _due_at(horizon, sqlite=sqlite)))),
    ).where(_M.tenant_id == horizon.tenant_id)
    copies, size, pinned, held_count, due, next_due_at = (await conn.execute(query)).one()
    rules = horizon.rules
    return RetentionStatus(rules.plan, rules.days, copies, int(size), pinned, held_count, due, next_due_at)


def _due_at(horizon: Horizon, *, sqlite: bool) -> ColumnElement[Any]:
    """`retention.policy.due_by_age_at` in SQL."""
    rules = horizon.rules
    if rules.days is None:
        return literal(None)
    graces = rules.graces
    parts: list[ColumnElement[Any]] = [_M.anchor_at + rules.days * DAY, func.coalesce(_M.keep_until_at, 0)]
    if graces.after_storing:
        parts.append(_M.stored_at + graces.after_storing * DAY)
    if graces.after_shrink and rules.shrunk_at is not None:
        parts.append(literal(rules.shrunk_at + graces.after_shrink * DAY))
    if graces.after_unpin:
        parts.append(func.coalesce(_M.unpinned_at, 0) + graces.after_unpin * DAY)
    return func.max(*parts) if sqlite else func.greatest(*parts)
