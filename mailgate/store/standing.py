"""How a tenant's copies stand at an instant."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.store.expiry import Horizon, due_by_age_at
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
        func.min(case((and_(served, free), due_by_age_at(horizon.rules, sqlite=sqlite)))),
    ).where(_M.tenant_id == horizon.tenant_id)
    copies, size, pinned, held_count, due, next_due_at = (await conn.execute(query)).one()
    rules = horizon.rules
    return RetentionStatus(rules.plan, rules.days, copies, int(size), pinned, held_count, due, next_due_at)
