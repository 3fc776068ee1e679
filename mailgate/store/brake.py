"""Whether a run would take improbably many of a tenant's copies, and whether a change of its plan explains that.

A change explains it when it made the days fewer, no completed run has come after it (and after the grace that a plan
that shrinks may have), and a run by the days before it would not take too many either. So neither a clock that jumps
inside its limits nor a plan that was changed long ago opens the brake.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import ColumnElement, and_, func, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import DAY, Instant
from mailgate.store import runs
from mailgate.store.expiry import Expiry, Horizon
from mailgate.store.schema import log_leaves, messages
from mailgate.store.schema import runs as runs_table
from retention.model import Brake, Supposed
from retention.port import Load, Position

_M = messages.c


async def load(
    conn: AsyncConnection,
    expiry: Expiry,
    horizon: Horizon,
    brake: Brake,
    plans_at: Instant,
    taken: int,
    after: Position | None,
) -> Load | None:
    """What a run by this horizon would take that took some already and stands at this position; None when that is not
    more than `brake.minimum`, which is looked at first since it costs next to nothing.
    """
    which = _going(horizon)
    if after is not None:
        which = and_(which, tuple_(_M.anchor_at, _M.id) > tuple_(literal(after[0]), literal(after[1])))
    some = select(_M.id).where(which).limit(max(brake.minimum + 1 - taken, 1)).subquery()
    if taken + (await conn.execute(select(func.count()).select_from(some))).scalar_one() <= brake.minimum:
        return None
    going = taken + await _count(conn, which)
    copies = taken + await _count(conn, _M.tenant_id == horizon.tenant_id)
    limit = brake.limit(copies)
    return Load(going, copies, going > limit and await explained(conn, expiry, horizon, limit, plans_at))


async def explained_by(conn: AsyncConnection, expiry: Expiry, horizon: Horizon, limit: int, supposed: Supposed) -> bool:
    """The same as `explained` of a plan that is supposed to begin at the horizon's `now`, of which no run has heard."""
    before = await expiry.rules(conn, horizon.tenant_id, horizon.now)
    if before.days is not None and before.days <= supposed.days:
        return await explained(conn, expiry, horizon, limit, horizon.now)
    return await _count(conn, _going(_by(horizon, before.days))) <= limit


async def explained(conn: AsyncConnection, expiry: Expiry, horizon: Horizon, limit: int, plans_at: Instant) -> bool:
    """Whether a change of the plan explains that a run by this horizon takes more than `limit` copies."""
    shrink = await expiry.last_shrink(conn, horizon.tenant_id, plans_at)
    if shrink is None:
        return False
    shrunk_at, days = shrink
    if await _seen_by_a_run(conn, horizon, shrunk_at):
        return False
    return await _count(conn, _going(_by(horizon, days))) <= limit


def _by(horizon: Horizon, days: int | None) -> Horizon:
    """The horizon as it would be by so many days, had they been the plan's for long."""
    return replace(horizon, rules=replace(horizon.rules, days=days, shrunk_at=None))


async def _seen_by_a_run(conn: AsyncConnection, horizon: Horizon, shrunk_at: Instant) -> bool:
    """Whether a completed run of the tenant came after the change, or after the log was told of it: a billing system
    may tell late.
    """
    leaf, run = log_leaves.c, runs_table.c
    heard = select(func.max(leaf.at)).where(leaf.tenant_id == horizon.tenant_id, leaf.type == "plan.effective")
    told_at = (await conn.execute(heard)).scalar_one_or_none() or 0
    last = select(func.max(run.now_at)).where(
        run.kind == runs.PURGE,
        run.state == runs.COMPLETED,
        run.dry_run.is_(False),
        or_(run.tenant_id.is_(None), run.tenant_id == horizon.tenant_id),
    )
    last_run_at = (await conn.execute(last)).scalar_one_or_none()
    since = max(shrunk_at, told_at) + horizon.rules.graces.after_shrink * DAY
    return last_run_at is not None and last_run_at > since


def _going(horizon: Horizon) -> ColumnElement[bool]:
    return and_(_M.tenant_id == horizon.tenant_id, horizon.expired())


async def _count(conn: AsyncConnection, which: ColumnElement[bool]) -> int:
    count: int = (await conn.execute(select(func.count()).select_from(messages).where(which))).scalar_one()
    return count
