"""The purge's port (`retention.port`) on SQLite and PostgreSQL: runs on record, tenants that are due, units of work
under the purge's lease. What a unit does stands in `mailgate.store.purge_unit`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Row, exists, func, select
from sqlalchemy.exc import DataError, IntegrityError

from mailgate.clock import Clock, Instant
from mailgate.store import brake, raised, runs
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry, Horizon
from mailgate.store.holds import ahead as holds_ahead
from mailgate.store.log import PurgeLog
from mailgate.store.preview import surveys
from mailgate.store.purge_lease import PurgeLease
from mailgate.store.purge_unit import SqlPurgeUnit
from mailgate.store.schema import mailboxes, messages
from mailgate.store.schema import runs as runs_table
from mailgate.store.schema import tenants as tenants_table
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.tenants import LIVING
from mailgate.store.transaction import Transaction
from retention.model import Actor, Rules, Supposed
from retention.policy import cutoffs
from retention.port import BatchFailedError, Progress, PurgeUnit, Run, Survey

T = TypeVar("T")

_M = messages.c


class SqlPurgeStore:
    """One process's purge store. `lease` proves in every transaction that no other process purges."""

    def __init__(
        self,
        db: Database,
        log: PurgeLog,
        subscriptions: Subscriptions,
        expiry: Expiry,
        clock: Clock,
        lease: PurgeLease,
        *,
        on_purged: Callable[[], None] | None = None,
    ) -> None:
        """`on_purged` is called after each commit that queued blobs to be erased."""
        self._db = db
        self._log = log
        self._subscriptions = subscriptions
        self._expiry = expiry
        self._clock = clock
        self._lease = lease
        self._on_purged = on_purged

    async def begin(self, run: Run) -> None:
        """Record the run as running; one that was queued before is taken up."""
        values = {
            "state": runs.RUNNING,
            "now_at": run.now_at,
            "policy": {
                "version": run.policy_version,
                "sha256": run.policy_sha256,
                "approved": list(run.approved),
                **({} if run.approved_up_to is None else {"approved_up_to": dict(run.approved_up_to)}),
            },
            "counts": runs.progress_to_json(Progress()),
        }

        async def work(tx: Transaction) -> None:
            await self._lease.keep(tx, self._clock())
            fresh = tx.insert(runs_table).values(
                id=run.id,
                kind=runs.PURGE,
                tenant_id=run.tenant_id,
                trigger=run.trigger,
                actor=str(run.actor),
                dry_run=False,
                started_at=run.started_at,
                **values,
            )
            await tx.conn.execute(fresh.on_conflict_do_update(index_elements=[runs_table.c.id], set_=values))

        await self._db.transact(work)

    async def unfinished(self) -> tuple[Run, Progress] | None:
        """The oldest purge that is recorded as running."""
        async with self._db.read() as conn:
            row = await runs.oldest(conn, runs.PURGE, runs.RUNNING)
        return None if row is None else (_run(row), runs.progress_from_json(row.counts))

    async def finish(self, run: Run, progress: Progress, state: str, detail: str | None = None) -> None:
        """Record how the run ended, and tell the feed of each tenant's run; all tenants' runs are told to nobody."""
        now = self._clock()
        stopped = {"halted": list(progress.halted), "stopped": dict(progress.stopped)}
        counts = progress.totals.to_json() | {"tenants": progress.tenants} | stopped

        async def work(tx: Transaction) -> None:
            await self._lease.keep(tx, now)
            await runs.change(tx, run.id, state=state, finished_at=now, counts=counts, detail=detail)
            found = [raised.of_halted(run.id, why) for why in progress.halted]
            await raised.halted(tx, found, now, told=run.trigger == runs.COMMAND)

        await self._db.transact(work)

    async def tenants_due(self, now: Instant, plans_at: Instant, supposed: Supposed | None = None) -> Sequence[str]:
        """Tenants whose oldest unpinned copy is of age, and those with copies of removed mailboxes."""
        oldest = (
            select(func.min(_M.anchor_at)).where(_M.tenant_id == tenants_table.c.id, _M.pins == 0).scalar_subquery()
        )
        left = exists().where(
            mailboxes.c.tenant_id == tenants_table.c.id,
            mailboxes.c.removed_at <= now,
            _M.mailbox_id == mailboxes.c.id,
            _M.pins == 0,
        )
        entitled = await self._subscriptions.all_entitlements(plans_at)
        due = []
        async with self._db.read() as conn:
            query = select(tenants_table.c.id, oldest, left).where(LIVING).order_by(tenants_table.c.id)
            rows = (await conn.execute(query)).all()
            held = await holds_ahead(conn, [row.id for row in rows], now)
            for tenant_id, anchor_at, has_left in rows:
                if anchor_at is None or tenant_id not in entitled:
                    continue
                if supposed is None:
                    rules = await self._expiry.rules_of(conn, tenant_id, entitled[tenant_id], plans_at)
                else:
                    rules = await self._expiry.supposed(conn, tenant_id, supposed, plans_at)
                bounds = cutoffs(rules, now)
                whole = tenant_id in held and held[tenant_id].at(now).tenant
                of_plan = bounds is not None and bounds.anchor_at is not None and anchor_at <= bounds.anchor_at
                if bounds is not None and (of_plan or has_left) and not whole:
                    due.append(tenant_id)
        return due

    async def transact(
        self, run: Run, tenant_id: str, work: Callable[[PurgeUnit], Awaitable[T]], *, ahead: bool = False
    ) -> T:
        """Do the work in one transaction under the run's lease; it is repeated when PostgreSQL resolved a deadlock."""

        async def attempt(tx: Transaction) -> T:
            async def keep_lease() -> None:
                await self._lease.keep(tx, self._clock())

            if not ahead:
                await keep_lease()
            return await work(
                SqlPurgeUnit(
                    tx,
                    self._log,
                    self._subscriptions,
                    self._expiry,
                    run,
                    tenant_id,
                    self._on_purged,
                    keep_lease if ahead else None,
                )
            )

        try:
            return await self._db.transact(attempt, at_once=True, bulk=True)
        except (IntegrityError, DataError) as error:
            raise BatchFailedError(str(error.orig)) from error

    async def rules(self, tenant_id: str, at: Instant, supposed: Supposed | None = None) -> Rules | None:
        """The tenant's rules; None when there is no such tenant."""
        async with self._db.read() as conn:
            known = select(tenants_table.c.id).where(tenants_table.c.id == tenant_id, LIVING)
            if (await conn.execute(known)).one_or_none() is None:
                return None
            if supposed is not None:
                return await self._expiry.supposed(conn, tenant_id, supposed, at)
            return await self._expiry.rules(conn, tenant_id, at)

    async def survey(self, tenant_id: str, rules: Rules, now: Instant) -> Survey:
        """Sums over all copies (`mailgate.store.preview`)."""
        async with self._db.read() as conn:
            return (await surveys(conn, [await Horizon.under(conn, tenant_id, rules, now)]))[tenant_id]

    async def surveys(self, now: Instant, supposed: Supposed | None = None) -> Mapping[str, tuple[Rules, Survey]]:
        """The same of everybody, by their rules at `now`."""
        async with self._db.read() as conn:
            query = select(tenants_table.c.id).where(LIVING).order_by(tenants_table.c.id)
            tenant_ids = (await conn.execute(query)).scalars().all()
            horizons = await self._expiry.horizons(conn, tenant_ids, [now], supposed)
            at_now = {tenant_id: horizon for tenant_id, ((_, horizon),) in horizons.items()}
            found = await surveys(conn, at_now.values())
        return {tenant_id: (horizon.rules, found[tenant_id]) for tenant_id, horizon in at_now.items()}

    async def explained(self, tenant_id: str, now: Instant, limit: int, supposed: Supposed | None = None) -> bool:
        """Whether a change of the plan makes so many due (`mailgate.store.brake`)."""
        async with self._db.read() as conn:
            if supposed is None:
                horizon = await self._expiry.horizon(conn, tenant_id, now)
                return await brake.explained(conn, self._expiry, horizon, limit, now)
            rules = await self._expiry.supposed(conn, tenant_id, supposed, now)
            horizon = await Horizon.under(conn, tenant_id, rules, now)
            return await brake.explained_by(conn, self._expiry, horizon, limit, supposed)


def _run(row: Row[Any]) -> Run:
    actor = runs.actor_from_text(row.actor)
    return Run(
        id=row.id,
        tenant_id=row.tenant_id,
        now_at=row.now_at,
        started_at=row.started_at,
        trigger=row.trigger,
        actor=Actor(actor.kind, actor.ref),
        policy_version=row.policy["version"],
        policy_sha256=row.policy["sha256"],
        approved=tuple(row.policy["approved"]),
        approved_up_to=row.policy.get("approved_up_to"),
    )
