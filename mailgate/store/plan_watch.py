"""Notices, soon after it happened in whatever process, that a tenant's plan keeps less than before."""

from __future__ import annotations

from sqlalchemy import select

from mailgate.clock import Instant
from mailgate.store.database import Database
from mailgate.store.schema import tenant_heads
from mailgate.store.subscriptions import Subscriptions


class PlanWatch:
    """Compares what the logs were told of plans with what it saw the last time. The first look only remembers: what
    changed while no process ran, the next regular purge covers.
    """

    def __init__(self, db: Database, subscriptions: Subscriptions) -> None:
        self._db = db
        self._subscriptions = subscriptions
        self._days: dict[str, int] | None = None

    async def shrunk(self, now: Instant) -> list[str]:
        """Announce plans that time alone ended; the tenants whose days became fewer since the last call."""
        await self._subscriptions.announce_lapses(now)
        query = select(tenant_heads.c.tenant_id, tenant_heads.c.log_plan).where(tenant_heads.c.log_plan.is_not(None))
        async with self._db.read() as conn:
            days = {row[0]: int(row[1].split(":")[1]) for row in (await conn.execute(query)).all()}
        before, self._days = self._days, days
        if before is None:
            return []
        return sorted(tenant_id for tenant_id, count in days.items() if count < before.get(tenant_id, count))
