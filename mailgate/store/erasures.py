"""The queue of blobs to be erased, and what became of each.

A transaction that drops a blob's last reference deletes its row and its data key and queues the object here. Erasing it
talks to the blob store, so it happens outside of any transaction:

    claim     take due entries, make sure that nothing refers to them, push their next attempt back    (transaction)
    erase     remove the objects, make that durable                                                  (no transaction)
    settle    log `blob.erase` with its outcome and forget the entry; or log `erase.failed` and wait   (transaction)

Cut between the last two, the next attempt finds the object missing and records that. An object's name is never used
again, so nothing can come to refer to it in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, exists, func, select, update

from mailgate.actors import SYSTEM
from mailgate.blobs.errors import BlobStoreError
from mailgate.blobs.store import Erased
from mailgate.clock import HOUR, MINUTE, SECOND, Instant
from mailgate.store.database import Database
from mailgate.store.log import PurgeLog
from mailgate.store.schema import blob_erasures, blobs, tenants
from mailgate.store.sets import among
from mailgate.store.transaction import Leaf, Transaction
from retention.ledger import leaves

BATCH = 500
CLAIM: Instant = 5 * MINUTE
"""How long an entry belongs to the worker that claimed it; a killed worker's entries are due again after it."""

_FIRST_PAUSE: Instant = 10 * SECOND
_LONGEST_PAUSE: Instant = 6 * HOUR
_Q = blob_erasures.c


@dataclass(frozen=True, slots=True)
class Claimed:
    """One blob to erase. `tenant_ref` None: the tenant is gone, and its log with it."""

    blob_id: str
    tenant_id: str
    tenant_ref: str | None
    item_ref: str | None
    run_id: str | None
    stored_size: int
    attempts: int


def pause(attempts: int) -> Instant:
    """How long to wait after so many failed attempts (1 and more): twice as long each time, up to six hours."""
    return min(_FIRST_PAUSE << min(attempts - 1, 20), _LONGEST_PAUSE)


class Erasures:
    """The queue's three transactions."""

    def __init__(self, db: Database, log: PurgeLog) -> None:
        self._db = db
        self._log = log

    async def claim(self, now: Instant, limit: int = BATCH) -> list[Claimed]:
        """Due entries, the longest waiting first; until `now` + CLAIM nobody else gets them."""

        async def work(tx: Transaction) -> list[Claimed]:
            due = (
                select(_Q.blob_id)
                .where(_Q.next_at <= now)
                .order_by(_Q.next_at, _Q.blob_id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            ids = list((await tx.conn.execute(due)).scalars())
            if not ids:
                return []
            mine = among(_Q.blob_id, ids, sqlite=tx.sqlite)
            # Never true unless something is broken; then the copy counts for more than the queue (invariant R4).
            await tx.conn.execute(delete(blob_erasures).where(mine, exists().where(blobs.c.id == _Q.blob_id)))
            await tx.conn.execute(update(blob_erasures).where(mine).values(next_at=now + CLAIM))
            query = (
                select(
                    _Q.blob_id,
                    _Q.tenant_id,
                    tenants.c.ref,
                    _Q.item_ref,
                    _Q.run_id,
                    _Q.stored_size,
                    _Q.attempts,
                )
                .outerjoin(tenants, tenants.c.id == _Q.tenant_id)
                .where(mine)
                .order_by(_Q.blob_id)
            )
            return [Claimed(*row) for row in (await tx.conn.execute(query)).all()]

        return await self._db.transact(work)

    async def settle(
        self, claimed: Sequence[Claimed], outcomes: Sequence[Erased | BlobStoreError], now: Instant
    ) -> int:
        """Record what became of them, in the same order; returns how many failed and will be tried again.

        What another worker settled meanwhile is left out: one `blob.erase` leaf per blob.
        """
        pairs = list(zip(claimed, outcomes, strict=True))
        done = [item.blob_id for item, outcome in pairs if isinstance(outcome, Erased)]
        failed = {item.blob_id: outcome for item, outcome in pairs if isinstance(outcome, BlobStoreError)}

        async def work(tx: Transaction) -> None:
            gone = delete(blob_erasures).where(among(_Q.blob_id, done, sqlite=tx.sqlite)).returning(_Q.blob_id)
            settled = set((await tx.conn.execute(gone)).scalars()) if done else set()
            for item, outcome in pairs:
                if isinstance(outcome, Erased):
                    if item.blob_id in settled:
                        self._tell_erased(tx, item, outcome, now)
                else:
                    await self._put_off(tx, item, outcome, now)

        await self._db.transact(work)
        return len(failed)

    async def pending(self) -> tuple[int, Instant | None]:
        """How many are queued, and when the next one is due."""
        async with self._db.read() as conn:
            count, next_at = (await conn.execute(select(func.count(), func.min(_Q.next_at)))).one()
        return count, next_at

    def _tell_erased(self, tx: Transaction, item: Claimed, outcome: Erased, now: Instant) -> None:
        if item.tenant_ref is None:
            return
        body = leaves.blob_erase(
            self._log.common(item.tenant_ref, now, SYSTEM, item.run_id),
            blob_ref=item.blob_id,
            outcome="erased" if outcome is Erased.gone else "missing",
            bytes_=item.stored_size,
        )
        tx.log(item.tenant_id, Leaf(body, "blob.erase", now, item.run_id, item.item_ref))

    async def _put_off(self, tx: Transaction, item: Claimed, error: BlobStoreError, now: Instant) -> None:
        attempt = item.attempts + 1
        again = (
            update(blob_erasures)
            .where(_Q.blob_id == item.blob_id)
            .values(attempts=attempt, next_at=now + pause(attempt), last_error=error.detail[:500])
        )
        if (await tx.conn.execute(again)).rowcount and item.tenant_ref is not None:
            body = leaves.erase_failed(
                self._log.common(item.tenant_ref, now, SYSTEM, item.run_id),
                blob_ref=item.blob_id,
                attempt=attempt,
                error=error.slug,
            )
            tx.log(item.tenant_id, Leaf(body, "erase.failed", now, item.run_id, item.item_ref))
