"""The queue of blobs to be erased, and what became of each.

A transaction that drops a blob's last reference deletes its row and its data key and queues the object here. Erasing it
talks to the blob store, so it happens outside of any transaction:

    due       read what is to be erased and has no row in `blobs`, under the worker's lease            (a read)
    erase     remove the objects, make that durable                                            (no transaction)
    settle    log `blob.erase` with its outcome and forget the entry; or log `erase.failed` and wait (transaction)

Cut between the last two, the next attempt finds the object missing and records that. An object's name is never used
again, so nothing can come to refer to it in between. One worker at a time erases (a lease); a worker that lost it finds
in `settle` that the entry is gone, and records nothing twice.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.actors import SYSTEM
from mailgate.blobs import Erased, place_of, span
from mailgate.blobs.errors import BlobStoreError
from mailgate.clock import HOUR, MINUTE, SECOND, Instant
from mailgate.ids import new_ids
from mailgate.store import leases
from mailgate.store.bulk import AMONG, Step, ids_of, in_turn
from mailgate.store.database import Database
from mailgate.store.log import PurgeLog
from mailgate.store.schema import blob_erasures
from mailgate.store.transaction import Leaf, Transaction, hashed
from retention.ledger import leaves as ledger

BATCH = 5_000
"""Objects between two calls that make removals durable: those wait for the whole disk."""

SETTLED_TOGETHER = 1_500
"""Outcomes recorded in one transaction: it takes about as long as a purge's batch, and so keeps up with one."""

LEASE = "erase"
LEASE_TTL: Instant = 2 * MINUTE

_FIRST_PAUSE: Instant = 10 * SECOND
_LONGEST_PAUSE: Instant = 6 * HOUR
_Q = blob_erasures.c
_DUE = """
SELECT q.blob_id, q.tenant_id, t.ref, q.item_ref, q.run_id, q.stored_size, q.attempts
FROM blob_erasures q LEFT JOIN tenants t ON t.id = q.tenant_id
WHERE (q.next_at <= {0} OR q.next_at > {1}) AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.id = q.blob_id)
ORDER BY q.next_at, q.blob_id LIMIT {2}
"""
"""What waits for longer than any does was put off before the clock was set back (`mailgate.clock.is_over`).

Those that share a file come together: then removing them is one call.

The condition on `blobs` is never false unless something is broken; then the copy counts for more than the queue
(invariant R4).
"""
_DUE_OF = {True: _DUE.format("?", "?", "?"), False: _DUE.format("$1", "$2", "$3")}
_BESIDE = {
    True: "SELECT b.id, b.stored_size FROM json_each(?) s CROSS JOIN blobs b "
    "ON b.id BETWEEN json_extract(s.value, '$[0]') AND json_extract(s.value, '$[1]')",
    False: "SELECT b.id, b.stored_size FROM unnest(string_to_array($1, ','), string_to_array($2, ',')) s (low, high) "
    "JOIN blobs b ON b.id BETWEEN s.low AND s.high",
}
_FORGET = {
    sqlite: f"DELETE FROM blob_erasures WHERE blob_id {AMONG[sqlite]} RETURNING blob_id"  # noqa: S608 - no values
    for sqlite in (True, False)
}


class Queued(NamedTuple):
    """One blob to erase. `tenant_ref` None: the tenant is gone, and its log with it."""

    blob_id: str
    tenant_id: str
    tenant_ref: str | None
    item_ref: str | None
    run_id: str | None
    stored_size: int
    attempts: int


_Pair: TypeAlias = tuple[Queued, Erased | BlobStoreError]
_Entry: TypeAlias = tuple[Leaf, bytes]


def pause(attempts: int) -> Instant:
    """How long to wait after so many failed attempts (1 and more): twice as long each time, up to six hours."""
    return min(_FIRST_PAUSE << min(attempts - 1, 20), _LONGEST_PAUSE)


async def beside(conn: AsyncConnection, blob_ids: Collection[str], *, sqlite: bool) -> Mapping[str, int]:
    """The blobs with a row that share files with these, with their stored sizes."""
    packs = {place[0] for blob_id in blob_ids if (place := place_of(blob_id)) is not None}
    if not packs:
        return {}
    spans = [span(pack) for pack in packs]
    parameters = (json.dumps(spans),) if sqlite else tuple(",".join(ends) for ends in zip(*spans, strict=True))
    (found,) = await in_turn(conn, [Step(_BESIDE[sqlite], parameters)], sqlite=sqlite)
    return {row[0]: row[1] for row in found}


class Erasures:
    """The queue, as one process works it off."""

    def __init__(self, db: Database, log: PurgeLog) -> None:
        self._db = db
        self._log = log
        self._fence: int | None = None

    async def acquire(self, owner: str, now: Instant) -> bool:
        """Become the one worker that erases, or stay it; False while another process is."""
        self._fence = await leases.acquire(self._db, LEASE, owner, LEASE_TTL, now)
        return self._fence is not None

    async def release(self, owner: str) -> None:
        """Let another process erase."""
        if self._fence is not None:
            await leases.release(self._db, LEASE, owner, self._fence)
            self._fence = None

    async def due(self, now: Instant, limit: int = BATCH) -> list[Queued]:
        """Entries whose time has come, the longest waiting first."""
        look = Step(_DUE_OF[self._db.sqlite], (now, now + _LONGEST_PAUSE, limit))
        async with self._db.read() as conn:
            (found,) = await in_turn(conn, [look], sqlite=self._db.sqlite)
        return [Queued(*row) for row in found]

    async def beside(self, queued: Sequence[Queued]) -> Mapping[str, int]:
        """The blobs that stay in the files that these share with others, with their stored sizes. One that is purged
        since is still there: nobody else erases.
        """
        async with self._db.read() as conn:
            return await beside(conn, [item.blob_id for item in queued], sqlite=self._db.sqlite)

    async def settle(self, queued: Sequence[Queued], outcomes: Sequence[Erased | BlobStoreError], now: Instant) -> int:
        """Record what became of them, in the same order; returns how many failed and will be tried again.

        What another worker settled meanwhile is left out: one `blob.erase` leaf per blob.
        """
        pairs = list(zip(queued, outcomes, strict=True))
        for start in range(0, len(pairs), SETTLED_TOGETHER):
            piece = pairs[start : start + SETTLED_TOGETHER]
            entries = await asyncio.to_thread(self._entries, piece, now)  # nobody waits for the database meanwhile
            await self._db.transact(partial(self._settle, piece, entries, now), at_once=True, bulk=True)
        return sum(not isinstance(outcome, Erased) for outcome in outcomes)

    def _entries(self, pairs: Sequence[_Pair], now: Instant) -> Mapping[str, _Entry]:
        """The `blob.erase` entries of those that are gone, by blob."""
        templates: dict[tuple[str, str | None], _Template] = {}
        made: dict[str, Leaf] = {}
        for id_, (item, outcome) in zip(new_ids(now, len(pairs)), pairs, strict=True):
            if isinstance(outcome, Erased) and item.tenant_ref is not None:
                of = item.tenant_ref, item.run_id
                if of not in templates:
                    templates[of] = _Template(self._log.common(item.tenant_ref, now, SYSTEM, item.run_id))
                body = templates[of].leaf(id_, item.blob_id, outcome, item.stored_size)
                made[item.blob_id] = Leaf(body, "blob.erase", now, item.run_id, item.item_ref)
        return dict(zip(made, hashed(made.values()), strict=True))

    async def _settle(
        self, pairs: Sequence[_Pair], entries: Mapping[str, _Entry], now: Instant, tx: Transaction
    ) -> None:
        done = [item.blob_id for item, outcome in pairs if isinstance(outcome, Erased)]
        forget = Step(_FORGET[tx.sqlite], (ids_of(done, sqlite=tx.sqlite),))
        settled = {row[0] for row in (await in_turn(tx.conn, [forget], sqlite=tx.sqlite))[0]} if done else set()
        of_tenants: defaultdict[str, list[_Entry]] = defaultdict(list)
        for item, outcome in pairs:
            if not isinstance(outcome, Erased):
                await self._put_off(tx, item, outcome, now)
            elif item.blob_id in settled and item.blob_id in entries:
                of_tenants[item.tenant_id].append(entries[item.blob_id])
        for tenant_id, leaves in of_tenants.items():
            tx.log_hashed(tenant_id, leaves)

    async def pending(self) -> tuple[int, Instant | None]:
        """How many are queued, and when the next one is due."""
        async with self._db.read() as conn:
            count, next_at = (await conn.execute(select(func.count(), func.min(_Q.next_at)))).one()
        return count, next_at

    async def failed(self, tenant_id: str | None = None) -> tuple[int, str | None]:
        """How many of the queued ones could not be erased so far (of this tenant; None: of all), and the last error of
        one of them.
        """
        query = select(func.count(), func.max(_Q.last_error)).where(_Q.attempts > 0)
        if tenant_id is not None:
            query = query.where(_Q.tenant_id == tenant_id)
        async with self._db.read() as conn:
            count, error = (await conn.execute(query)).one()
        return count, error

    async def _put_off(self, tx: Transaction, item: Queued, error: BlobStoreError, now: Instant) -> None:
        attempt = item.attempts + 1
        again = (
            update(blob_erasures)
            .where(_Q.blob_id == item.blob_id)
            .values(attempts=attempt, next_at=now + pause(attempt), last_error=error.detail[:500])
        )
        if (await tx.conn.execute(again)).rowcount and item.tenant_ref is not None:
            body = ledger.erase_failed(
                self._log.common(item.tenant_ref, now, SYSTEM, item.run_id),
                blob_ref=item.blob_id,
                attempt=attempt,
                error=error.slug,
            )
            tx.log(item.tenant_id, Leaf(body, "erase.failed", now, item.run_id, item.item_ref))


class _Template:
    """`blob.erase` leaves by the hundred: what they have in common is serialised once, by the constructor itself.

    A test holds the bytes equal to `leaves.blob_erase`.
    """

    __slots__ = ("_parts",)

    def __init__(self, common: ledger.Common) -> None:
        whole = ledger.blob_erase(common, blob_ref=_BLOB, outcome="erased", bytes_=_BYTES).decode()
        # The marks stand in the order of the fields' names: blob_ref, bytes, id, outcome.
        head, rest = whole.split(f'"{_BLOB}"')
        size, rest = rest.split(str(_BYTES))
        id_, rest = rest.split(f'"id":"{common.id}"')
        outcome, tail = rest.split('"outcome":"erased"')
        self._parts = (head, size, id_, outcome, tail)

    def leaf(self, id_: str, blob_id: str, outcome: Erased, size: int) -> bytes:
        """The leaf's canonical bytes. The ids are our own, so that nothing needs escaping."""
        head, before_size, before_id, before_outcome, tail = self._parts
        word = "erased" if outcome is Erased.gone else "missing"
        return (
            f'{head}"{blob_id}"{before_size}{size}{before_id}"id":"{id_}"{before_outcome}"outcome":"{word}"{tail}'
        ).encode()


_BLOB = "mark-of-a-blob"
_BYTES = 8_765_432_109_876_543
