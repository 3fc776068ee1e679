"""Housekeeping: forget what no rule needs any more, in small transactions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy import delete, exists, select, tuple_, update

from mailgate.clock import DAY, HOUR, Instant
from mailgate.store import access_log, connect_links, feed, installation, runs, sign_in_failures, user_sessions
from mailgate.store.database import Database
from mailgate.store.hooks import deliveries
from mailgate.store.hooks.endpoints import forget_removed
from mailgate.store.schema import (
    alarms,
    guards,
    idempotency_keys,
    messages,
    operations,
    sent_counts,
    submissions,
    tombstones,
)
from mailgate.store.sending.filing import drop_bytes
from mailgate.store.transaction import Transaction

BATCH = 1_000
TOMBSTONE_MARGIN: Instant = 30 * DAY
SYNC_RUNS_KEPT: Instant = 30 * DAY
PURGE_RUNS_KEPT: Instant = 400 * DAY
GUARDS_KEPT: Instant = 400 * DAY
ALARMS_KEPT: Instant = 400 * DAY
OPERATIONS_KEPT: Instant = 90 * DAY
SUBMISSIONS_KEPT: Instant = 90 * DAY
UNSENT_BYTES_KEPT: Instant = 7 * DAY
"""For so long what failed, or is uncertain, may be asked for again."""
SENT_COUNTS_KEPT: Instant = 400 * DAY


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows of each kind went."""

    tombstones: int
    idempotency_keys: int
    runs: int
    guards: int
    alarms: int
    operations: int
    submissions: int
    events: int
    accesses: int
    sessions: int
    deliveries: int
    connect_links: int


async def prune(
    db: Database,
    now: Instant,
    *,
    longest_days: int,
    idempotency_hours: int,
    event_days: int = 30,
    access_days: int = 400,
    delivery_days: int = 14,
    idle: Instant = HOUR,
    link_days: int = 30,
) -> Pruned:
    """Forget tombstones that no plan's window reaches any more, answers kept for repeats, old runs, closed guards,
    alarms that are over, operations that ended, events of the feed, old entries of the access log, deliveries
    of webhooks that are over, sessions that are over, and of what was sent: the bytes that nobody asked for again, who
    got what was purged since.

    A tombstone blocks a second download of mail that was purged: once anchor + the longest retention of any plan + 30
    days has passed, nothing would import that mail again. Runs are pruned, their entries in the purge log never.
    """

    async def old_tombstones(tx: Transaction) -> int:
        before = now - longest_days * DAY - TOMBSTONE_MARGIN
        old = select(tombstones.c.id).where(tombstones.c.anchor_at < before).limit(BATCH)
        return (await tx.conn.execute(delete(tombstones).where(tombstones.c.id.in_(old)))).rowcount

    async def old_keys(tx: Transaction) -> int:
        key = tuple_(idempotency_keys.c.token_id, idempotency_keys.c.key)
        before = now - idempotency_hours * HOUR
        old = select(idempotency_keys.c.token_id, idempotency_keys.c.key).where(idempotency_keys.c.created_at < before)
        return (await tx.conn.execute(delete(idempotency_keys).where(key.in_(old.limit(BATCH))))).rowcount

    async def old_sync_runs(tx: Transaction) -> int:
        backfills = await runs.prune(tx, runs.BACKFILL, now - PURGE_RUNS_KEPT, BATCH)
        return backfills + await runs.prune(tx, runs.SYNC, now - SYNC_RUNS_KEPT, BATCH)

    async def old_purge_runs(tx: Transaction) -> int:
        return await runs.prune(tx, runs.PURGE, now - PURGE_RUNS_KEPT, BATCH)

    async def old_guards(tx: Transaction) -> int:
        old = select(guards.c.id).where(guards.c.closed_at < now - GUARDS_KEPT).limit(BATCH)
        return (await tx.conn.execute(delete(guards).where(guards.c.id.in_(old)))).rowcount

    async def old_alarms(tx: Transaction) -> int:
        old = select(alarms.c.id).where(alarms.c.cleared_at < now - ALARMS_KEPT).limit(BATCH)
        return (await tx.conn.execute(delete(alarms).where(alarms.c.id.in_(old)))).rowcount

    async def old_operations(tx: Transaction) -> int:
        columns = operations.c
        old = select(columns.id).where(columns.finished_at < now - OPERATIONS_KEPT).limit(BATCH)
        return (await tx.conn.execute(delete(operations).where(columns.id.in_(old)))).rowcount

    async def unsent_bytes(tx: Transaction) -> int:
        ended = submissions.c.state.in_(("failed", "uncertain")) & submissions.c.blob_id.is_not(None)
        old = select(submissions).where(ended, submissions.c.give_up_at < now - UNSENT_BYTES_KEPT).limit(BATCH)
        rows = (await tx.conn.execute(old.with_for_update(skip_locked=True))).all()
        for row in rows:
            if row.state == "uncertain":
                failed = {"state": "failed", "finished_at": now}
                await tx.conn.execute(update(submissions).where(submissions.c.id == row.id).values(failed))
            await drop_bytes(tx, row, now)
        return len(rows)

    async def recipients_of_purged(tx: Transaction) -> int:
        copy = exists().where(messages.c.id == submissions.c.message_id)
        gone = submissions.c.sent_at.is_not(None) & submissions.c.finished_at.is_not(None) & ~copy
        of = select(submissions.c.id).where(gone, submissions.c.sealed.is_not(None)).limit(BATCH)
        forget = update(submissions).where(submissions.c.id.in_(of)).values(sealed=None)
        return (await tx.conn.execute(forget)).rowcount

    async def mark_submissions(tx: Transaction) -> None:
        """So that what is left can be told from what was never there: the doctor counts what was sent again."""
        before, marked = now - SUBMISSIONS_KEPT, await installation.read(tx.conn, installation.SUBMISSIONS_PRUNED)
        if marked is None or int(marked) < before:
            await installation.put_in(tx, installation.SUBMISSIONS_PRUNED, str(before))

    async def old_submissions(tx: Transaction) -> int:
        ended = submissions.c.blob_id.is_(None) & submissions.c.file_at.is_(None)
        old = select(submissions.c.id).where(ended, submissions.c.finished_at < now - SUBMISSIONS_KEPT).limit(BATCH)
        return (await tx.conn.execute(delete(submissions).where(submissions.c.id.in_(old)))).rowcount

    async def old_counts(tx: Transaction) -> int:
        old = delete(sent_counts).where(sent_counts.c.day_at < now - SENT_COUNTS_KEPT)
        return (await tx.conn.execute(old)).rowcount

    await _until_none(db, unsent_bytes)
    await _until_none(db, recipients_of_purged)
    await forget_removed(db)
    await db.transact(old_counts)
    await db.transact(mark_submissions)
    await _until_none(db, lambda tx: sign_in_failures.prune(tx, now, BATCH))
    return Pruned(
        tombstones=await _until_none(db, old_tombstones),
        idempotency_keys=await _until_none(db, old_keys),
        runs=await _until_none(db, old_sync_runs) + await _until_none(db, old_purge_runs),
        guards=await _until_none(db, old_guards),
        alarms=await _until_none(db, old_alarms),
        operations=await _until_none(db, old_operations),
        submissions=await _until_none(db, old_submissions),
        events=await _until_none(db, lambda tx: feed.prune(tx, now - event_days * DAY, BATCH)),
        accesses=await _until_none(db, lambda tx: access_log.prune(tx, now - access_days * DAY, BATCH)),
        deliveries=await _until_none(db, lambda tx: deliveries.prune(tx, now - delivery_days * DAY, now, BATCH)),
        connect_links=await _until_none(db, lambda tx: connect_links.prune(tx, now - link_days * DAY, BATCH)),
        sessions=await _until_none(db, lambda tx: user_sessions.prune(tx, now, idle, BATCH)),
    )


async def _until_none(db: Database, step: Callable[[Transaction], Awaitable[int]]) -> int:
    total = 0
    while count := await db.transact(step, bulk=True):
        total += count
        if count < BATCH:
            break
    return total
