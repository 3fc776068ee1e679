"""Subscriptions: the timeline of a tenant's plans, and what the purge log was told of it.

What holds at an instant is computed (`mailgate.tenants.subscription`), never stored. The log gets a `plan.effective`
leaf whenever what holds differs from what it last heard, also when a period merely ran out: `announce` is called by
each change, by the scheduler's tick and before a purge judges, so that the log alone shows under which plan each copy
was judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Row, bindparam, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.actors import SYSTEM, Actor
from mailgate.clock import Instant
from mailgate.errors import PreconditionError
from mailgate.ids import new_id
from mailgate.store import tenants
from mailgate.store.database import Database
from mailgate.store.log import PurgeLog
from mailgate.store.schema import subscription_periods, tenant_heads
from mailgate.store.schema import tenants as tenants_table
from mailgate.store.tenants import Tenant
from mailgate.store.transaction import Transaction
from mailgate.tenants.catalogue import Catalogue, Plan
from mailgate.tenants.subscription import Entitlements, Period, Status, SubscriptionRules, entitlements
from retention.ledger import leaves

_COLUMNS = subscription_periods.c

_TIMELINE = select(subscription_periods).where(_COLUMNS.tenant_id == bindparam("tenant")).order_by(_COLUMNS.seq)


@dataclass(frozen=True, slots=True)
class RecordedPeriod:
    """A period with the event that caused it."""

    period: Period
    event_id: str
    event_type: str
    recorded_at: Instant
    actor: str


@dataclass(frozen=True, slots=True)
class SubscriptionChange:
    """What `set_outright` sets; the period begins now."""

    plan: str
    status: Status = Status.ACTIVE
    period_end: Instant | None = None
    auto_renew: bool = False
    seats: int | None = None


class Subscriptions:
    """The use cases around timelines, with the catalogue and rules that one process works by."""

    def __init__(self, db: Database, log: PurgeLog, catalogue: Catalogue, rules: SubscriptionRules) -> None:
        self._db = db
        self._log = log
        self._catalogue = catalogue
        self._rules = rules

    async def entitlements(self, tenant_id: str, now: Instant) -> Entitlements:
        """What the tenant may do at `now`; a tenant without periods, or an unknown one, is on Free."""
        return await self._db.query(lambda conn: self.entitlements_in(conn, tenant_id, now))

    async def entitlements_in(self, conn: AsyncConnection, tenant_id: str, now: Instant) -> Entitlements:
        """The same on a connection, inside a transaction that holds the tenant's lock."""
        return self.judge(await timeline(conn, tenant_id), now)

    async def all_entitlements(self, now: Instant) -> Mapping[str, Entitlements]:
        """For every tenant; one query."""
        query = select(subscription_periods).order_by(_COLUMNS.tenant_id, _COLUMNS.seq)
        lines: dict[str, list[Period]] = {}
        async with self._db.read() as conn:
            for tenant_id in (await conn.execute(select(tenants_table.c.id))).scalars():
                lines[tenant_id] = []
            for row in await conn.execute(query):
                lines.setdefault(row.tenant_id, []).append(_period(row))
        return {tenant_id: self.judge(line, now) for tenant_id, line in lines.items()}

    def plan(self, name: str) -> Plan:
        """The catalogue's plan of that name. Raises PreconditionError (plan_unknown)."""
        found = self._catalogue.plan(name)
        if found is None:
            known = ", ".join(sorted(self._catalogue.plans))
            raise PreconditionError(f"there is no plan {name!r}; the plans are {known}", slug="plan_unknown")
        return found

    def judge(self, line: Sequence[Period], now: Instant) -> Entitlements:
        """The pure function with this process's catalogue and rules."""
        return entitlements(line, self._catalogue, now, self._rules)

    async def set_outright(
        self, tenant_id: str, change: SubscriptionChange, now: Instant, actor: Actor
    ) -> Entitlements:
        """Begin a new period now, whatever went before. Raises PreconditionError (plan_unknown), NotFoundError."""
        if self._catalogue.plan(change.plan) is None:
            known = ", ".join(sorted(self._catalogue.plans))
            raise PreconditionError(f"there is no plan {change.plan!r}; the plans are {known}", slug="plan_unknown")

        async def work(tx: Transaction) -> Entitlements:
            tenant = await tenants.lock(tx, tenant_id)
            last_seq = select(func.coalesce(func.max(_COLUMNS.seq), 0)).where(_COLUMNS.tenant_id == tenant_id)
            seq = (await tx.conn.execute(last_seq)).scalar_one() + 1
            period_id = new_id(now)
            await tx.conn.execute(
                insert(subscription_periods).values(
                    id=period_id,
                    tenant_id=tenant_id,
                    seq=seq,
                    plan=change.plan,
                    status=change.status.value,
                    effective_at=now,
                    period_end=change.period_end,
                    auto_renew=change.auto_renew,
                    seats=change.seats,
                    event_id=period_id,
                    event_type="set",
                    recorded_at=now,
                    actor=str(actor),
                )
            )
            return await self.announce(tx, tenant, now, actor=actor, cause="set", event_ref=period_id)

        return await self._db.transact(work)

    async def announce(
        self,
        tx: Transaction,
        tenant: Tenant,
        now: Instant,
        *,
        actor: Actor = SYSTEM,
        cause: str = "time",
        event_ref: str = "none",
    ) -> Entitlements:
        """What holds at `now`; told to the log and the feed if they have not heard of it. The caller holds the
        tenant's lock, shared is enough.
        """
        holds = await self.entitlements_in(tx.conn, tenant.id, now)
        if not holds.known or holds.retention_days is None:
            return holds  # nothing can be purged under it, so there is nothing to prove
        mark = f"{holds.plan}:{holds.retention_days}:{holds.since}"
        heard = select(tenant_heads.c.log_plan).where(tenant_heads.c.tenant_id == tenant.id)
        if (await tx.conn.execute(heard)).scalar_one() == mark:
            return holds
        self._log.write(
            tx,
            tenant.id,
            tenant.ref,
            leaves.plan_effective,
            at=now,
            actor=actor,
            plan=holds.plan,
            days=holds.retention_days,
            effective_at=holds.since,
            cause=cause,
            event_ref=event_ref,
        )
        tx.set_head(tenant.id, log_plan=mark)
        tx.emit(
            tenant.id,
            "subscription.changed",
            at=now,
            payload={"plan": holds.plan, "status": holds.status.value, "effective_at": holds.since},
        )
        return holds

    async def announce_lapses(self, now: Instant) -> int:
        """The scheduler's tick: announce what changed by mere passing of time. Returns for how many tenants."""
        marks: dict[str, str | None] = {}
        async with self._db.read() as conn:
            for row in await conn.execute(select(tenant_heads.c.tenant_id, tenant_heads.c.log_plan)):
                marks[row.tenant_id] = row.log_plan
        changed = 0
        for tenant_id, holds in (await self.all_entitlements(now)).items():
            if holds.known and marks.get(tenant_id) != f"{holds.plan}:{holds.retention_days}:{holds.since}":

                async def work(tx: Transaction, tenant_id: str = tenant_id) -> None:
                    await self.announce(tx, await tenants.lock(tx, tenant_id), now)

                await self._db.transact(work)
                changed += 1
        return changed

    async def history(self, tenant_id: str) -> list[RecordedPeriod]:
        """Every period with its event, the latest effective one first."""
        query = (
            select(subscription_periods)
            .where(_COLUMNS.tenant_id == tenant_id)
            .order_by(_COLUMNS.effective_at.desc(), _COLUMNS.seq.desc())
        )
        async with self._db.read() as conn:
            rows = (await conn.execute(query)).all()
        return [RecordedPeriod(_period(row), row.event_id, row.event_type, row.recorded_at, row.actor) for row in rows]


async def timeline(conn: AsyncConnection, tenant_id: str) -> list[Period]:
    """The tenant's periods in the order of recording."""
    return [_period(row) for row in await conn.execute(_TIMELINE, {"tenant": tenant_id})]


def _period(row: Row[tuple[object, ...]]) -> Period:
    return Period(
        plan=row.plan,
        status=Status(row.status),
        effective_at=row.effective_at,
        period_end=row.period_end,
        seq=row.seq,
        auto_renew=row.auto_renew,
        seats=row.seats,
    )
