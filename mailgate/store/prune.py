"""Housekeeping: forget what no rule needs any more, in small transactions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, delete, exists, select, tuple_, update

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

    async def none_left(step: Callable[..., Awaitable[int]], *given: Any) -> int:
        """Small transactions, one after the other, until one finds less than it could take; how many rows they took."""
        total = 0
        while count := await db.transact(lambda tx: step(tx, *given), bulk=True):
            total += count
            if count < BATCH:
                break
        return total

    await none_left(_unsent_bytes, now)
    await none_left(_recipients_of_purged)
    await forget_removed(db)
    await db.transact(lambda tx: _sent_counts(tx, now))
    await db.transact(lambda tx: _mark_submissions(tx, now))
    await none_left(sign_in_failures.prune, now, BATCH)
    longest = longest_days * DAY
    return Pruned(
        tombstones=await none_left(_older, tombstones.c.anchor_at, now - longest - TOMBSTONE_MARGIN),
        idempotency_keys=await none_left(_answers, now - idempotency_hours * HOUR),
        runs=await none_left(runs.prune, runs.BACKFILL, now - PURGE_RUNS_KEPT, BATCH)
        + await none_left(runs.prune, runs.SYNC, now - SYNC_RUNS_KEPT, BATCH)
        + await none_left(runs.prune, runs.PURGE, now - PURGE_RUNS_KEPT, BATCH),
        guards=await none_left(_older, guards.c.closed_at, now - GUARDS_KEPT),
        alarms=await none_left(_older, alarms.c.cleared_at, now - ALARMS_KEPT),
        operations=await none_left(_older, operations.c.finished_at, now - OPERATIONS_KEPT),
        submissions=await none_left(_submissions, now - SUBMISSIONS_KEPT),
        events=await none_left(feed.prune, now - event_days * DAY, BATCH),
        accesses=await none_left(access_log.prune, now - access_days * DAY, BATCH),
        deliveries=await none_left(deliveries.prune, now - delivery_days * DAY, now, BATCH),
        connect_links=await none_left(connect_links.prune, now - link_days * DAY, BATCH),
        sessions=await none_left(user_sessions.prune, now, idle, BATCH),
    )


async def _older(tx: Transaction, at: Column[Any], before: Instant) -> int:
    """Rows of this column's table, whose key is `id`."""
    table = at.table
    old = select(table.c.id).where(at < before).limit(BATCH)
    return (await tx.conn.execute(delete(table).where(table.c.id.in_(old)))).rowcount


async def _answers(tx: Transaction, before: Instant) -> int:
    key = tuple_(idempotency_keys.c.token_id, idempotency_keys.c.key)
    old = select(idempotency_keys.c.token_id, idempotency_keys.c.key).where(idempotency_keys.c.created_at < before)
    return (await tx.conn.execute(delete(idempotency_keys).where(key.in_(old.limit(BATCH))))).rowcount


async def _unsent_bytes(tx: Transaction, now: Instant) -> int:
    ended = submissions.c.state.in_(("failed", "uncertain")) & submissions.c.blob_id.is_not(None)
    old = select(submissions).where(ended, submissions.c.give_up_at < now - UNSENT_BYTES_KEPT).limit(BATCH)
    rows = (await tx.conn.execute(old.with_for_update(skip_locked=True))).all()
    for row in rows:
        if row.state == "uncertain":
            failed = {"state": "failed", "finished_at": now}
            await tx.conn.execute(update(submissions).where(submissions.c.id == row.id).values(failed))
        await drop_bytes(tx, row, now)
    return len(rows)


async def _recipients_of_purged(tx: Transaction) -> int:
    copy = exists().where(messages.c.id == submissions.c.message_id)
    gone = submissions.c.sent_at.is_not(None) & submissions.c.finished_at.is_not(None) & ~copy
    of = select(submissions.c.id).where(gone, submissions.c.sealed.is_not(None)).limit(BATCH)
    forget = update(submissions).where(submissions.c.id.in_(of)).values(sealed=None)
    return (await tx.conn.execute(forget)).rowcount


async def _mark_submissions(tx: Transaction, now: Instant) -> None:
    """So that what is left can be told from what was never there: the doctor counts what was sent again."""
    before, marked = now - SUBMISSIONS_KEPT, await installation.read(tx.conn, installation.SUBMISSIONS_PRUNED)
    if marked is None or int(marked) < before:
        await installation.put_in(tx, installation.SUBMISSIONS_PRUNED, str(before))


async def _submissions(tx: Transaction, before: Instant) -> int:
    ended = submissions.c.blob_id.is_(None) & submissions.c.file_at.is_(None)
    old = select(submissions.c.id).where(ended, submissions.c.finished_at < before).limit(BATCH)
    return (await tx.conn.execute(delete(submissions).where(submissions.c.id.in_(old)))).rowcount


async def _sent_counts(tx: Transaction, now: Instant) -> None:
    await tx.conn.execute(delete(sent_counts).where(sent_counts.c.day_at < now - SENT_COUNTS_KEPT))
