"""Recorded executions of sync and purge: made, moved on, listed.

A purge's row carries how far it is (`counts.progress`, see `retention.port.Progress`), written in the transaction that
moved it: a cut run goes on from there. What is shown of a run are its counts, which balance at every moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

from sqlalchemy import Row, Select, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import NotFoundError
from mailgate.store.database import Database
from mailgate.store.paging import Page, page_by_id
from mailgate.store.schema import runs
from mailgate.store.transaction import Transaction
from retention.model import Counts
from retention.port import Load, Progress

PURGE = "purge"
SYNC = "sync"
BACKFILL = "backfill"

QUEUED = "queued"
RUNNING = "running"
COMPLETED = "completed"
HALTED = "halted"
FAILED = "failed"

COMMAND = "command"
"""The trigger of a run that somebody started in a terminal, and waits for."""

_PROGRESS = "progress"
_COLUMNS = runs.c


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. `tenant_id` None: all tenants. `policy` holds version and sha256; `detail` says why it ended so; `days`:
    how far a backfill reaches.
    """

    id: str
    kind: str
    tenant_id: str | None
    mailbox_id: str | None
    state: str
    trigger: str
    actor: Actor
    dry_run: bool
    now_at: Instant
    started_at: Instant
    finished_at: Instant | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] | None = None
    detail: str | None = None
    days: int | None = None


async def create(tx: Transaction, run: RunRecord) -> None:
    """Record a new run."""
    await tx.conn.execute(
        insert(runs).values(
            id=run.id,
            kind=run.kind,
            tenant_id=run.tenant_id,
            mailbox_id=run.mailbox_id,
            state=run.state,
            trigger=run.trigger,
            actor=str(run.actor),
            dry_run=run.dry_run,
            now_at=run.now_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
            counts=dict(run.counts),
            policy=None if run.policy is None else dict(run.policy),
            detail=run.detail,
        )
    )


async def change(tx: Transaction, run_id: str, **values: Any) -> None:
    """Set columns of a run."""
    await tx.conn.execute(update(runs).where(_COLUMNS.id == run_id).values(values))


async def get(db: Database, run_id: str, *, tenant_id: str | None = None) -> RunRecord:
    """The run; with `tenant_id` only if it is that tenant's own. Raises NotFoundError."""
    found = await find(db, run_id)
    if found is None or tenant_id not in (None, found.tenant_id):
        raise NotFoundError(f"there is no run {run_id!r}", slug="run_not_found")
    return found


async def find(db: Database, run_id: str) -> RunRecord | None:
    """The run; None when it is not recorded (any more): the purge logs may know of it."""
    async with db.read() as conn:
        row = (await conn.execute(select(runs).where(_COLUMNS.id == run_id))).one_or_none()
    return None if row is None else record(row)


async def list_page(
    db: Database,
    *,
    kind: str | Sequence[str] | None = None,
    tenant_id: str | None = None,
    mailbox_id: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Page[RunRecord]:
    """Runs, newest first. The page's key is (id,); `after` is the id that the last page ended with."""
    query = select(runs)
    if kind is not None:
        query = query.where(_COLUMNS.kind.in_([kind] if isinstance(kind, str) else kind))
    for column, value in ((_COLUMNS.tenant_id, tenant_id), (_COLUMNS.mailbox_id, mailbox_id)):
        if value is not None:
            query = query.where(column == value)
    return await page_by_id(db, query, _COLUMNS.id, record, after=after, limit=limit)


async def oldest(conn: AsyncConnection, kind: str, state: str) -> Row[Any] | None:
    """The row of the oldest run of this kind in this state."""
    query: Select[Any] = select(runs).where(_COLUMNS.kind == kind, _COLUMNS.state == state).order_by(_COLUMNS.id)
    row: Row[Any] | None = (await conn.execute(query.limit(1))).one_or_none()
    return row


async def unfinished(db: Database) -> list[str]:
    """The ids of purges that began and did not end: one is under way, or was cut off."""
    query = select(_COLUMNS.id).where(_COLUMNS.kind == PURGE, _COLUMNS.state == RUNNING).order_by(_COLUMNS.id)
    async with db.read() as conn:
        return list((await conn.execute(query)).scalars())


async def prune(tx: Transaction, kind: str, finished_before: Instant, limit: int) -> int:
    """Forget runs that ended before then, at most so many; returns how many. Their log entries stay."""
    old = select(_COLUMNS.id).where(_COLUMNS.kind == kind, _COLUMNS.finished_at < finished_before).limit(limit)
    return (await tx.conn.execute(delete(runs).where(_COLUMNS.id.in_(old)))).rowcount


def progress_to_json(progress: Progress) -> dict[str, Any]:
    """What stands in `counts` while the run is under way: counts so far, and the position to go on from."""
    total = progress.totals.copy()
    total.add(progress.counts)
    return {
        **total.to_json(),
        "tenants": progress.tenants,
        _PROGRESS: {
            "totals": progress.totals.to_json(),
            "done_through": progress.done_through,
            "tenant_id": progress.tenant_id,
            "counts": progress.counts.to_json(),
            "position": progress.position,
            "allowed": progress.allowed,
            "asked": None if progress.asked is None else astuple(progress.asked),
            "halted": progress.halted,
            "stopped": progress.stopped,
            "gone": progress.gone,
        },
    }


def progress_from_json(counts: Mapping[str, Any]) -> Progress:
    """The progress that a row of a running purge holds; a run that just began has none."""
    saved = counts.get(_PROGRESS)
    if saved is None:
        return Progress()
    position = saved["position"]
    return Progress(
        totals=Counts.from_json(saved["totals"]),
        tenants=counts["tenants"],
        done_through=saved["done_through"],
        tenant_id=saved["tenant_id"],
        counts=Counts.from_json(saved["counts"]),
        position=None if position is None else (int(position[0]), str(position[1])),
        allowed=saved.get("allowed", 0),
        asked=None if saved.get("asked") is None else Load(*saved["asked"]),
        halted=list(saved.get("halted", ())),  # a run that an older version began has none
        stopped=dict(saved.get("stopped", {})),
        gone=saved.get("gone", False),
    )


async def stopped(db: Database, tenant_id: str | None) -> Mapping[str, int]:
    """Of the tenant, or of all, how many copies the last purge would have taken where the brake stopped it."""
    run = runs.c
    query = select(run.counts).where(run.kind == PURGE, run.dry_run.is_(False), run.finished_at.is_not(None))
    if tenant_id is not None:
        query = query.where(or_(run.tenant_id.is_(None), run.tenant_id == tenant_id))
    async with db.read() as conn:
        counts = (await conn.execute(query.order_by(run.id.desc()).limit(1))).scalar_one_or_none() or {}
    return {id_: going for id_, going in counts.get("stopped", {}).items() if tenant_id in (None, id_)}


def actor_from_text(text: str) -> Actor:
    """What `str(actor)` gave."""
    kind, _, ref = text.partition(":")
    return Actor(kind, ref)


def record(row: Row[Any]) -> RunRecord:
    """The run that a row is; its position stays inside."""
    return RunRecord(
        id=row.id,
        kind=row.kind,
        tenant_id=row.tenant_id,
        mailbox_id=row.mailbox_id,
        state=row.state,
        trigger=row.trigger,
        actor=actor_from_text(row.actor),
        dry_run=row.dry_run,
        now_at=row.now_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        counts={name: value for name, value in row.counts.items() if name != _PROGRESS},
        policy=row.policy,
        detail=row.detail,
        days=row.days,
    )
