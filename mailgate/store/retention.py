"""The use cases around retention, for the interface, the commands and the scheduler: run now, queue a run, work off the
queue, preview, and how a tenant stands.

A run is asked for by a row (`queued`); whichever process has the purge's lease does it (`work`). A run that was cut off
stays `running` and is finished first by whoever has the lease next. Before anything is purged the clock is compared
with the latest time on record: when it jumped, the run only counts what it would have done and is `halted`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from sqlalchemy import func, select

from mailgate.actors import Actor
from mailgate.alarms import Alarm, Kind
from mailgate.clock import Clock, Instant
from mailgate.errors import ConflictError, NotFoundError, PreconditionError
from mailgate.ids import new_id
from mailgate.store import raised, runs, tenants
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry, Horizon
from mailgate.store.latest_time import LatestTime, SteadyClock, jumped
from mailgate.store.log import PurgeLog
from mailgate.store.paging import Page
from mailgate.store.preview import Example, examples
from mailgate.store.purge import SqlPurgeStore
from mailgate.store.purge_lease import PurgeLease
from mailgate.store.runs import RunRecord
from mailgate.store.schema import runs as runs_table
from mailgate.store.schema import tenants as tenants_table
from mailgate.store.standing import RetentionStatus, standing
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.transaction import Transaction
from retention.engine import APPROVED_BRAKE, BATCH, Engine, Preview, Step, no_step
from retention.model import Actor as RetentionActor
from retention.model import Counts, Supposed
from retention.policy import ClockLimits, Policy
from retention.port import EVERY_TENANT, Run

_log = structlog.get_logger("mailgate.retention")

CLOCK_APPROVED = "clock"


class PurgeBusyError(ConflictError):
    """Another process purges at this moment; ask for a run instead, or try again."""

    default_slug = "purge_running"


class RetentionService:
    """One process's retention. Its methods may be called concurrently; purges run one at a time."""

    def __init__(
        self,
        db: Database,
        log: PurgeLog,
        subscriptions: Subscriptions,
        expiry: Expiry,
        policy: Policy,
        clock: Clock,
        owner: str,
        *,
        batch: int = BATCH,
        limits: ClockLimits | None = None,
        step: Step = no_step,
    ) -> None:
        """`owner` names the process in leases; `step` is told of every step boundary (tests cut runs there)."""
        self._db = db
        self._subscriptions = subscriptions
        self._expiry = expiry
        self.policy = policy
        """What decides a purge; replaced as a whole by `adopt`."""
        self._clock = clock
        limits = limits or ClockLimits()
        self.time = LatestTime(db, limits)
        """The latest time on record."""
        self._lease = PurgeLease(owner)
        self.on_purged: Callable[[], None] = _nothing
        """Called after each commit that queued blobs to be erased."""
        self.on_requested: Callable[[], None] = _nothing
        """Called when this process queued a run."""
        self._store = SqlPurgeStore(
            db, log, subscriptions, expiry, clock, self._lease, on_purged=lambda: self.on_purged()
        )
        self._steady = SteadyClock(clock, limits)
        self._make_engine = partial(Engine, self._store, self._steady, batch=batch, step=step)
        self._engine = self._make_engine(brake=policy.brake)
        self._turn = asyncio.Lock()

    async def run(
        self,
        *,
        actor: Actor,
        tenant_id: str | None = None,
        dry_run: bool = False,
        at: Instant | None = None,
        trigger: str = "request",
        approve_clock: bool = False,
        approve_brake: bool = False,
        approve_up_to: int | Mapping[str, int] | None = None,
    ) -> RunRecord:
        """Purge now and come back with the finished run. A dry run only counts, writes nothing, and may look at a later
        time `at`. `approve_brake` is of `approve_up_to` copies of each tenant, or of as many as were shown: those that
        are given by tenant, else what the last purge halted at. Raises PurgeBusyError, PreconditionError,
        NotFoundError.
        """
        approved = await self._approved(tenant_id, clock=approve_clock, brake=approve_brake, up_to=approve_up_to)
        record = await self._new(actor, tenant_id, dry_run, at, trigger, approved)
        if dry_run:
            return await self._counted(record)
        async with self._turn, self._leased() as mine:
            if not mine:
                raise PurgeBusyError("another process is purging; try again in a moment")
            await self._finish_cut_runs()
            return await self._purge(record)

    async def request_run(
        self,
        *,
        actor: Actor,
        tenant_id: str | None = None,
        dry_run: bool = False,
        at: Instant | None = None,
        trigger: str = "request",
        approve_clock: bool = False,
        approve_brake: bool = False,
        approve_up_to: int | Mapping[str, int] | None = None,
    ) -> RunRecord:
        """Queue a run; one that waits already for the same is returned instead. Raises as `run` does."""
        approved = await self._approved(tenant_id, clock=approve_clock, brake=approve_brake, up_to=approve_up_to)
        record = await self._new(actor, tenant_id, dry_run, at, trigger, approved)

        async def work(tx: Transaction) -> RunRecord:
            columns = runs_table.c
            same = select(runs_table).where(
                columns.kind == runs.PURGE,
                columns.state == runs.QUEUED,
                columns.dry_run == dry_run,
                columns.tenant_id.is_not_distinct_from(tenant_id),
            )
            for row in (await tx.conn.execute(same)).all():
                known = runs.record(row)
                if not dry_run and known.policy == record.policy:
                    return known
            await runs.create(tx, record)
            return record

        queued = await self._db.transact(work)
        self.on_requested()
        return queued

    async def overdue(self, interval: Instant) -> bool:
        """Whether no purge over all tenants was asked for within the interval, while there were tenants."""
        run = runs_table.c
        last = select(func.max(run.started_at)).where(run.kind == runs.PURGE, ~run.dry_run, run.tenant_id.is_(None))
        first = select(func.min(tenants_table.c.created_at))
        async with self._db.read() as conn:
            asked_at = (await conn.execute(last)).scalar_one() or 0
            since = (await conn.execute(first)).scalar_one()
        return since is not None and self._clock() - max(asked_at, since) >= interval

    async def work(self) -> int:
        """Finish what was cut off, then do what is queued; how many runs came to an end. 0 also while another process
        has the lease.
        """
        if not await self._has_work():
            return 0
        async with self._turn, self._leased() as mine:
            if not mine:
                return 0
            done = await self._finish_cut_runs()
            while (record := await self._next_queued()) is not None:
                await (self._count_queued(record) if record.dry_run else self._purge(record))
                done += 1
            return done

    async def adopt(self, policy: Policy) -> None:
        """Judge by another policy from now on; a purge that runs in this process ends first."""
        async with self._turn:
            self.policy = policy
            self._engine = self._make_engine(brake=policy.brake)

    async def preview(self, tenant_id: str | None, at: Instant | None = None, plan: str | None = None) -> Preview:
        """What a run over this tenant, or over all, would do: now or at a later time, by the plan that holds then or as
        if this one began then. Reads only. Raises NotFoundError, PreconditionError (plan_unknown, at_in_the_past).
        """
        supposed = self._supposed(plan)
        now = self._clock()
        _check_not_past(at, now)
        then, fault = now if at is None else at, await self.time.fault(now)
        if tenant_id is None:
            return await self._engine.preview_all(then, fault, supposed)
        await tenants.get(self._db, tenant_id)
        return await self._engine.preview(tenant_id, then, fault, supposed)

    async def examples(
        self, tenant_id: str | None, at: Instant | None = None, plan: str | None = None, *, limit: int
    ) -> list[Example]:
        """Copies of age at that time: at most `limit` that would go, the oldest first, and as many that would stay. Of
        all tenants: those of the first ones that have any. Raises as `preview` does.
        """
        supposed = self._supposed(plan)
        now = self._clock()
        then, fault = now if at is None else at, await self.time.fault(now)
        ids = await self._store.tenants_due(then, then, supposed) if tenant_id is None else [tenant_id]
        found: list[Example] = []
        for each in ids:
            rules = await self._store.rules(each, then, supposed)
            if rules is None:
                raise NotFoundError(f"there is no tenant {each!r}", slug="tenant_not_found")
            async with self._db.read() as conn:
                horizon = await Horizon.under(conn, each, replace(rules, clock_fault=fault), then)
                found += await examples(conn, horizon, limit - len(found), sqlite=self._db.sqlite)
            if len(found) >= limit:
                break
        return found

    async def get(self, run_id: str, *, tenant_id: str | None = None) -> RunRecord:
        """A purge run. Raises NotFoundError."""
        return await runs.get(self._db, run_id, tenant_id=tenant_id)

    async def list_page(
        self, *, tenant_id: str | None = None, after: str | None = None, limit: int = 50
    ) -> Page[RunRecord]:
        """Purge runs, newest first; the page's key is (id,)."""
        return await runs.list_page(self._db, kind=runs.PURGE, tenant_id=tenant_id, after=after, limit=limit)

    async def status(self, tenant_id: str) -> RetentionStatus:
        """How the tenant stands now. Raises NotFoundError."""
        await tenants.get(self._db, tenant_id)
        now = self._clock()
        fault = await self.time.fault(now)
        async with self._db.read() as conn:
            horizon = await self._expiry.horizon(conn, tenant_id, now, clock_fault=fault)
            return await standing(conn, horizon, sqlite=self._db.sqlite)

    async def note_time(self, now: Instant) -> str | None:
        """Record that it is `now`, unless the clock jumped; what is wrong with it then."""
        fault = await self.time.fault(now)
        if fault is None:
            await self.time.mark(now)
        return fault

    async def _new(
        self,
        actor: Actor,
        tenant_id: str | None,
        dry_run: bool,
        at: Instant | None,
        trigger: str,
        approved: Mapping[str, Any],
    ) -> RunRecord:
        if at is not None and not dry_run:
            raise PreconditionError(
                "`at` is for dry runs only: a purge judges by the time it runs", slug="at_needs_dry_run"
            )
        if tenant_id is not None:
            await tenants.get(self._db, tenant_id)
        now = self._clock()
        _check_not_past(at, now)
        return RunRecord(
            id=new_id(now),
            kind=runs.PURGE,
            tenant_id=tenant_id,
            mailbox_id=None,
            state=runs.QUEUED,
            trigger=trigger,
            actor=actor,
            dry_run=dry_run,
            now_at=now if at is None else at,
            started_at=now,
            counts=Counts().to_json(),
            policy={"version": self.policy.version, "sha256": self.policy.sha256, **approved},
        )

    async def _approved(
        self, tenant_id: str | None, *, clock: bool, brake: bool, up_to: int | Mapping[str, int] | None
    ) -> Mapping[str, Any]:
        """What a run's record and its opening leaf name, and of how many copies of which tenant. Raises
        PreconditionError for a number that approves nothing.
        """
        if isinstance(up_to, int) and not brake:
            raise PreconditionError(
                "`approve_up_to` says of how many copies `approve_brake` is: give both", slug="approval_incomplete"
            )
        names = [name for name, given in ((APPROVED_BRAKE, brake), (CLOCK_APPROVED, clock)) if given]
        if not brake:
            return {"approved": names}
        if isinstance(up_to, int):
            return {"approved": names, "approved_up_to": {EVERY_TENANT: up_to}}
        some = self.policy.brake.minimum  # so many more may have become due since: that is never improbable
        shown = up_to or await self._shown(tenant_id)
        return {"approved": names, "approved_up_to": {id_: going + some for id_, going in shown.items()}}

    async def _shown(self, tenant_id: str | None) -> Mapping[str, int]:
        """Of each tenant the number that its last purge halted at; when that did not halt, what would go now."""
        shown = await runs.stopped(self._db, tenant_id)
        if shown:
            return shown
        if tenant_id is not None:
            return {tenant_id: (await self._engine.preview(tenant_id, self._clock())).going.copies}
        surveys = await self._store.surveys(self._clock())
        return {id_: sum(of.copies for of in survey.due.values()) for id_, (_, survey) in surveys.items()}

    async def _purge(self, record: RunRecord) -> RunRecord:
        now = self._clock()
        policy = record.policy or {}
        approved = tuple(policy.get("approved", ()))
        fault = await self.time.fault(now)
        if fault is not None and CLOCK_APPROVED not in approved:
            return await self._halt(replace(record, now_at=now, started_at=now), fault)
        await self.time.mark(now, force=fault is not None)
        if fault is not None:
            await self._finish_cut_runs()  # they waited for that
        self._steady.last_at = now
        run = Run(
            id=record.id,
            tenant_id=record.tenant_id,
            now_at=now,
            started_at=now,
            trigger=record.trigger,
            actor=RetentionActor(record.actor.kind, record.actor.ref),
            policy_version=self.policy.version,
            policy_sha256=self.policy.sha256,
            approved=approved,
            approved_up_to=policy.get("approved_up_to"),
        )
        async with self._db.roomy():
            await self._engine.run(run)
        await self._empty_wal()
        return await runs.get(self._db, record.id)

    async def _empty_wal(self) -> None:
        if not await self._db.truncate_wal():
            _log.warning("wal_not_emptied", detail="somebody reads the database; the next run tries again")

    async def _finish_cut_runs(self) -> int:
        """Not while the clock is wrong: they go on by the plans that hold by it, and it might end those early."""
        if await self.time.fault(self._clock()) is not None:
            return 0
        done = 0
        self._steady.last_at = self._clock()
        while await self._resume():
            await self._empty_wal()
            done += 1
        return done

    async def _resume(self) -> bool:
        async with self._db.roomy():
            return await self._engine.resume(self.policy.sha256) is not None

    async def _counted(self, record: RunRecord) -> RunRecord:
        """What a dry run finds."""
        fault = await self.time.fault(self._clock())
        if record.tenant_id is None:
            preview = await self._engine.preview_all(record.now_at, fault)
        else:
            preview = await self._engine.preview(record.tenant_id, record.now_at, fault)
        counts = {**preview.counts.to_json(), "stopped": dict(preview.halted_at)}
        return replace(record, state=runs.COMPLETED, finished_at=self._clock(), counts=counts)

    async def _count_queued(self, record: RunRecord) -> RunRecord:
        counted = await self._counted(record)

        async def work(tx: Transaction) -> None:
            await runs.change(
                tx, record.id, state=counted.state, finished_at=counted.finished_at, counts=dict(counted.counts)
            )

        await self._db.transact(work)
        return counted

    async def _halt(self, record: RunRecord, fault: str) -> RunRecord:
        counted = await self._counted(record)
        words = jumped(fault, record.now_at, await self.time.last())
        detail = f"{words}. Set the clock right, or approve it (approve_clock)."
        halted = replace(counted, state=runs.HALTED, detail=detail)

        async def work(tx: Transaction) -> None:
            await self._lease.keep(tx, self._clock())
            await tx.conn.execute(runs_table.delete().where(runs_table.c.id == record.id))
            await runs.create(tx, halted)
            alarm, told = Alarm(Kind.CLOCK_ANOMALY, None, words), record.trigger == runs.COMMAND
            await raised.halted(tx, [alarm], self._clock(), told=told)

        await self._db.transact(work)
        return halted

    async def _has_work(self) -> bool:
        columns = runs_table.c
        query = select(columns.id).where(columns.kind == runs.PURGE, columns.state.in_((runs.QUEUED, runs.RUNNING)))
        async with self._db.read() as conn:
            return (await conn.execute(query.limit(1))).one_or_none() is not None

    async def _next_queued(self) -> RunRecord | None:
        async with self._db.read() as conn:
            row = await runs.oldest(conn, runs.PURGE, runs.QUEUED)
        return None if row is None else runs.record(row)

    def _supposed(self, plan: str | None) -> Supposed | None:
        if plan is None:
            return None
        found = self._subscriptions.plan(plan)
        return Supposed(found.name, found.retention_days)

    def _leased(self) -> _Leased:
        return _Leased(self._lease, self._db, self._clock)


def _check_not_past(at: Instant | None, now: Instant) -> None:
    if at is not None and at < now:
        raise PreconditionError("`at` lies in the past", slug="at_in_the_past")


def _nothing() -> None:
    """Nobody listens."""


class _Leased:
    """Holds the purge's lease for a while, if nobody else has it."""

    def __init__(self, lease: PurgeLease, db: Database, clock: Clock) -> None:
        self._lease = lease
        self._db = db
        self._clock = clock

    async def __aenter__(self) -> bool:
        return await self._lease.acquire(self._db, self._clock())

    async def __aexit__(self, *_: object) -> None:
        await self._lease.release(self._db)
