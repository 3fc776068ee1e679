"""Alarms on record: gathered from what the store knows, decided by `mailgate.alarms`, applied in one transaction.

Any process may look, and several at once: the index over alarms that stand lets one of them raise each, and one clear
it. While nothing can be written, the alarm that says so stands in the process's memory; it is put on record as soon as
that is possible again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Row, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.alarms import (
    ERASE_ATTEMPTS,
    LONGEST_DETAIL,
    Alarm,
    Facts,
    Failing,
    Key,
    Kind,
    Limits,
    WordsLeft,
    changes,
    decide,
)
from mailgate.clock import Instant
from mailgate.ids import new_id
from mailgate.store import leftovers, purge_lease, raised, runs
from mailgate.store.database import Database
from mailgate.store.leases import living
from mailgate.store.log_reading import LogReader
from mailgate.store.outages import OUTAGES
from mailgate.store.overview import unwritable
from mailgate.store.paging import Page, page_by_id
from mailgate.store.retention import RetentionService
from mailgate.store.schema import (
    alarms,
    blob_erasures,
    leases,
    log_checkpoints,
    log_leaves,
    tenant_heads,
    tenants,
    webhooks,
)
from mailgate.store.schema import runs as runs_table
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.transaction import Transaction
from mailgate.webhooks.calling import host_of
from mailgate.webhooks.model import EndpointState, PauseReason
from retention.ledger.tree import leaf_hash

_log = structlog.get_logger("mailgate.alarms")

_A = alarms.c
_RUNS_LOOKED_AT = 1_000
_STANDING_SHOWN = 1_000
_HOOKS_TOLD = (PauseReason.FAILING.value, PauseReason.GONE.value, PauseReason.EXPIRED.value)


@dataclass(frozen=True, slots=True)
class AlarmRecord:
    """An alarm that was raised; `cleared_at` None: it stands."""

    id: str
    kind: Kind
    tenant_id: str | None
    detail: str
    raised_at: Instant
    cleared_at: Instant | None = None

    @property
    def alarm(self) -> Alarm:
        """What it says."""
        return Alarm(self.kind, self.tenant_id, self.detail)


class Alarms:
    """The alarms as one process looks at them. `stamps`: whether an authority is configured for time-stamps;
    `plans_fault` says what is wrong with the file of the plans as it is now.
    """

    def __init__(
        self,
        db: Database,
        retention: RetentionService,
        subscriptions: Subscriptions,
        log_reader: LogReader,
        limits: Limits | None = None,
        *,
        stamps: bool = False,
        plans_fault: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._db = db
        self._retention = retention
        self._subscriptions = subscriptions
        self._log_reader = log_reader
        self._limits = limits or Limits()
        self._stamps = stamps
        self._plans_fault = plans_fault
        self._diverged: dict[str, str] = {}
        self._damaged: dict[str, int] = {}
        log_reader.on_damage = self.damaged
        self._unwritable: AlarmRecord | None = None
        self._next_words: int | None = None
        self._words_moved: bool | None = None
        self._words_since: Instant = 0

    def damaged(self, tenant_id: str, index: int) -> None:
        """An entry of a tenant's log, read by somebody, is not what was hashed; so it stays until it is whole again."""
        if tenant_id not in self._damaged:
            _log.error("log_entry_damaged", tenant=tenant_id, index=index)
        self._damaged[tenant_id] = index

    def signing(self, diverged: Mapping[str, str]) -> None:
        """What signing found: tenants whose log is not the one that was signed before, and why."""
        self._diverged = dict(diverged)

    async def look(self, now: Instant) -> None:
        """Raise what has come up, clear what is over: rows, events and lines of the log."""
        fault = await self.unwritable(now)
        if fault is not None:
            self._remember(fault, now)
            return
        wanted, standing = await self.judge(now)
        wants = changes(standing, wanted)
        was_unwritable, tell = self._unwritable, list[Callable[[], None]]()

        async def work(tx: Transaction) -> None:
            tell.clear()
            if was_unwritable is not None:
                await raised.put(tx, was_unwritable.alarm, was_unwritable.raised_at)
                tell.extend(await raised.clear(tx, was_unwritable.alarm, now))
            for alarm in wants.raised:
                tell.extend(await raised.put(tx, alarm, now))
            for alarm in wants.reworded:
                await raised.reword(tx, alarm)
            for key in wants.cleared:
                tell.extend(await raised.clear(tx, Alarm(*key, standing[key]), now))

        if wants.raised or wants.reworded or wants.cleared or was_unwritable is not None:
            await self._db.transact(work)
        self._unwritable = None
        for line in tell:
            line()

    async def judge(self, now: Instant) -> tuple[list[Alarm], Mapping[Key, str]]:
        """The alarms that should stand now, and the details of those that do. Reads only."""
        # In this order: an alarm that a run raises in between, as it halts, is not taken for one that is over.
        standing = {record.alarm.key: record.detail for record in await self._on_record()}
        facts = await self._gather(now)
        return decide(facts, standing, now, self._limits), standing

    async def standing(self) -> list[AlarmRecord]:
        """The alarms that stand, the newest first; with the one that says that nothing can be written or read."""
        try:
            found = await self._on_record()
        except OUTAGES:
            found = []
        return found if self._unwritable is None else [self._unwritable, *found]

    async def page(
        self,
        *,
        tenant_id: str | None = None,
        standing: bool | None = None,
        kind: Kind | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[AlarmRecord]:
        """Alarms, newest first, cleared ones too. The page's key is (id,)."""
        query = select(alarms)
        if tenant_id is not None:
            query = query.where(_A.tenant_id == tenant_id)
        if standing is not None:
            query = query.where(_A.cleared_at.is_(None) if standing else _A.cleared_at.is_not(None))
        if kind is not None:
            query = query.where(_A.kind == kind)
        return await page_by_id(self._db, query, _A.id, _record, after=after, limit=limit)

    async def _on_record(self) -> list[AlarmRecord]:
        query = select(alarms).where(_A.cleared_at.is_(None)).order_by(_A.id.desc()).limit(_STANDING_SHOWN)
        async with self._db.read() as conn:
            return [_record(row) for row in (await conn.execute(query)).all()]

    async def unwritable(self, now: Instant) -> Alarm | None:
        """The alarm that nothing can be committed, which no row can tell of: found by writing a mark."""
        fault = await unwritable(self._db, now)
        return None if fault is None else Alarm(Kind.LOG_UNWRITABLE, None, fault[:LONGEST_DETAIL])

    def _remember(self, alarm: Alarm, now: Instant) -> None:
        if self._unwritable is None:
            self._unwritable = AlarmRecord(new_id(now), alarm.kind, None, alarm.detail, now)
            raised.say(alarm)

    async def _gather(self, now: Instant) -> Facts:
        entitled = await self._subscriptions.all_entitlements(now)
        clock = await self._retention.time.anomaly(now)
        witness = await asyncio.to_thread(lambda: self._log_reader.witness_fault)
        lost = await self._log_reader.lost()
        async with self._db.read() as conn:
            last_run_at, halted = await _runs(conn)
            return Facts(
                first_tenant_at=(await conn.execute(select(func.min(tenants.c.created_at)))).scalar_one(),
                last_run_at=last_run_at,
                clock=clock,
                witness=witness,
                plans=self._plans_fault(),
                halted={tenant_id: why for tenant_id, why in halted.items() if tenant_id in entitled},
                failing=await _failing(conn, entitled),
                plans_unknown={tenant_id: held.plan for tenant_id, held in entitled.items() if not held.known},
                unsigned=await _unsigned(conn),
                diverged=await self._still_damaged(conn) | self._diverged,
                unstamped=await _unstamped(conn) if self._stamps else {},
                hooks=await _hooks(conn, entitled),
                lost=lost,
                words_left=await self._words_left(conn, now),
                cut_since=await _cut_since(conn, now),
            )

    async def _words_left(self, conn: AsyncConnection, now: Instant) -> WordsLeft | None:
        """They are taken out in the order of their numbers: while the first stays the same, nothing moves."""
        copies, first = await leftovers.waiting(conn)
        if first != self._next_words:
            self._next_words, self._words_moved, self._words_since = first, self._words_moved is not None, now
        return None if first is None else WordsLeft(copies, self._words_since, bool(self._words_moved))

    async def _still_damaged(self, conn: AsyncConnection) -> dict[str, str]:
        leaf = log_leaves.c
        for tenant_id, index in list(self._damaged.items()):
            mine = select(leaf.body, leaf.hash).where(leaf.tenant_id == tenant_id, leaf.idx == index)
            row = (await conn.execute(mine)).one_or_none()
            if row is not None and leaf_hash(row.body) == row.hash:
                del self._damaged[tenant_id]
        return {
            tenant_id: f"entry {index} of the purge log is not what was hashed: compare the database with its backups, "
            "ledger.witness and exports"
            for tenant_id, index in self._damaged.items()
        }


async def _runs(conn: AsyncConnection) -> tuple[Instant | None, dict[str, str]]:
    """When the last purge over all tenants ended, and of which tenants the last run over them took nothing."""
    run = runs_table.c
    ended = (
        select(run.id, run.tenant_id, run.finished_at, run.counts)
        .where(run.kind == runs.PURGE, ~run.dry_run, run.state.in_((runs.COMPLETED, runs.HALTED)))
        .order_by(run.id.desc())
    )
    last_run_at, halted, newer = None, dict[str, str](), set[str]()
    over_all = None
    for row in (await conn.execute(ended.where(run.tenant_id.is_(None)).limit(_RUNS_LOOKED_AT))).all():
        if "tenants" in row.counts:  # else the clock halted it before it began
            over_all, last_run_at = row, row.finished_at
            break
    since = ended.where(run.tenant_id.is_not(None), run.id > ("" if over_all is None else over_all.id))
    for row in [*(await conn.execute(since.limit(_RUNS_LOOKED_AT))).all(), *([over_all] if over_all else [])]:
        if "tenants" not in row.counts:
            continue
        for why in row.counts.get("halted", ()):
            alarm = raised.of_halted(row.id, why)
            if alarm.tenant_id is not None and alarm.tenant_id not in newer:
                halted[alarm.tenant_id] = alarm.detail
        if row.tenant_id is not None:
            newer.add(row.tenant_id)
    return last_run_at, halted


async def _cut_since(conn: AsyncConnection, now: Instant) -> Instant | None:
    """When the purge began that is under way by its record, and that nobody has the lease for."""
    lease = leases.c
    held = select(lease.name).where(lease.name == purge_lease.NAME, living(now))
    row = await runs.oldest(conn, runs.PURGE, runs.RUNNING)
    return None if row is None or (await conn.execute(held)).first() is not None else row.started_at


async def _failing(conn: AsyncConnection, known: Container[str]) -> dict[str | None, Failing]:
    """By tenant; what was of tenants that are gone, together."""
    queue = blob_erasures.c
    query = (
        select(queue.tenant_id, func.count(), func.min(queue.queued_at), func.max(queue.last_error))
        .where(queue.attempts >= ERASE_ATTEMPTS)
        .group_by(queue.tenant_id)
    )
    found: dict[str | None, Failing] = {}
    for tenant_id, blobs, since_at, error in (await conn.execute(query)).all():
        whose = tenant_id if tenant_id in known else None
        more = found.get(whose, Failing(0, since_at, error or ""))
        found[whose] = Failing(more.blobs + blobs, min(more.since_at, since_at), more.error)
    return found


async def _unsigned(conn: AsyncConnection) -> dict[str, Instant]:
    """Logs whose newest checkpoint is not of all entries, nor of more than there are, and since when. What is not there
    counts too: rows may have been changed by others.
    """
    signed = (
        select(
            log_checkpoints.c.tenant_id,
            func.max(log_checkpoints.c.size).label("size"),
            func.max(log_checkpoints.c.signed_at).label("at"),
        )
        .group_by(log_checkpoints.c.tenant_id)
        .subquery()
    )
    size = func.coalesce(signed.c.size, 0)
    first = and_(log_leaves.c.tenant_id == tenant_heads.c.tenant_id, log_leaves.c.idx == size)
    query = (
        select(tenant_heads.c.tenant_id, func.coalesce(log_leaves.c.at, signed.c.at, tenants.c.created_at))
        .join(tenants, tenants.c.id == tenant_heads.c.tenant_id)
        .outerjoin(signed, signed.c.tenant_id == tenant_heads.c.tenant_id)
        .outerjoin(log_leaves, first)
        .where(tenant_heads.c.log_size != size)
    )
    return {row[0]: row[1] for row in (await conn.execute(query)).all()}


async def _unstamped(conn: AsyncConnection) -> dict[str, str]:
    """Logs whose newest checkpoint the authority did not stamp when it was asked."""
    point = log_checkpoints.c
    newest = select(point.tenant_id, func.max(point.size).label("size")).group_by(point.tenant_id).subquery()
    query = select(point.tenant_id, point.size, point.stamp_error).join(
        newest, and_(newest.c.tenant_id == point.tenant_id, newest.c.size == point.size)
    )
    failed = query.where(point.stamp.is_(None), point.stamp_error.is_not(None))
    return {row[0]: f"the checkpoint of {row[1]} entries: {row[2]}" for row in (await conn.execute(failed)).all()}


async def _hooks(conn: AsyncConnection, known: Container[str]) -> dict[str | None, str]:
    """Webhooks that were paused because they can't be delivered to, by tenant."""
    hook = webhooks.c
    query = (
        select(hook.tenant_id, hook.url, hook.id, hook.detail)
        .where(hook.state == EndpointState.PAUSED.value, hook.reason.in_(_HOOKS_TOLD))
        .order_by(hook.id)
    )
    found: dict[str | None, list[str]] = {}
    for row in (await conn.execute(query)).all():
        if row.tenant_id is None or row.tenant_id in known:
            said = f"webhook {row.id} to {host_of(row.url)}: {row.detail}"
            found.setdefault(row.tenant_id, []).append(said)
    return {whose: "; ".join(said) for whose, said in found.items()}


def _record(row: Row[Any]) -> AlarmRecord:
    return AlarmRecord(row.id, Kind(row.kind), row.tenant_id, row.detail, row.raised_at, row.cleared_at)
