"""What the expiry of a tenant's copies hangs on beside the copies themselves: plan days now and as far as they are
known ahead, graces, holds. A reader of the feed who has them hides at every instant what `GET /messages` hides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.store.expiry import Expiry
from mailgate.store.schema import holds
from mailgate.store.sets import among

_MOST_STEPS: Final = 24


@dataclass(frozen=True, slots=True)
class Step:
    """From `at` on copies are kept for so many days; None: the plan is not known, everything stays."""

    at: Instant
    plan: str
    days: int | None


@dataclass(frozen=True, slots=True)
class Terms:
    """The steps from now on, the first one holding now; the rest begin by themselves unless something happens. Graces
    in days, 0 unless set; `shrunk_at` is when the days last became fewer, told only when that has a grace.
    """

    steps: Sequence[Step]
    min_residence_days: int
    plan_shrink_grace_days: int
    unpin_grace_days: int
    shrunk_at: Instant | None


@dataclass(frozen=True, slots=True)
class HoldState:
    """A hold. It protects until `protects_until_at`; None: until it is released."""

    id: str
    scope: str
    mailbox_id: str | None
    protects_until_at: Instant | None


async def terms_of(conn: AsyncConnection, expiry: Expiry, tenant_id: str, now: Instant) -> Terms:
    """The tenant's terms at `now`."""
    rules = await expiry.rules(conn, tenant_id, now)
    steps = [Step(now, rules.plan, rules.days)]
    for at in await expiry.changes_ahead(conn, tenant_id, now, _MOST_STEPS):
        ahead = await expiry.rules(conn, tenant_id, at)
        if (ahead.plan, ahead.days) != (steps[-1].plan, steps[-1].days):
            steps.append(Step(at, ahead.plan, ahead.days))
    graces = rules.graces
    return Terms(steps, graces.after_storing, graces.after_shrink, graces.after_unpin, rules.shrunk_at)


async def holds_of(
    conn: AsyncConnection,
    *,
    tenant_id: str | None = None,
    at: Instant | None = None,
    ids: Collection[str] | None = None,
    sqlite: bool,
) -> list[HoldState]:
    """Holds: those that protect the tenant's copies at an instant, or those with these ids."""
    query = select(holds.c.id, holds.c.scope, holds.c.mailbox_id, holds.c.released_at, holds.c.protects_until_at)
    if ids is not None:
        query = query.where(among(holds.c.id, ids, sqlite=sqlite))
    if tenant_id is not None:
        protecting = or_(holds.c.released_at.is_(None), holds.c.protects_until_at > at)
        query = query.where(holds.c.tenant_id == tenant_id, protecting)
    return [
        HoldState(
            row.id,
            row.scope,
            row.mailbox_id,
            None if row.released_at is None else (row.protects_until_at or row.released_at),
        )
        for row in await conn.execute(query.order_by(holds.c.id))
    ]
