"""The end of copies: their rows, what was derived from them, their references to blobs. By sets, not one by one.

Shared by everything that ends copies. The caller has locked the messages, judged them, and writes the tombstones and
log entries. Pins are not deleted here: a copy that somebody pins has a row in `pins` that refers to it, and the
foreign key then refuses the whole transaction.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import structlog
from sqlalchemy import Row, func, select, update

from mailgate.clock import Instant
from mailgate.store.bulk import AMONG, Insert, Step, ids_of, in_turn
from mailgate.store.schema import blob_erasures, blobs, messages, submissions
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction

_log = structlog.get_logger("mailgate.store")
_TOLD = 20
"""Blobs that one line of the log names."""

# In the order of content tokens, as everything locks blobs: two transactions never wait for each other.
_LOCK_BLOBS = {
    True: f"SELECT id, refs, stored_size FROM blobs WHERE id {AMONG[True]}",  # noqa: S608 - no values
    False: f"SELECT id, refs, stored_size FROM blobs WHERE id {AMONG[False]} ORDER BY content_token FOR UPDATE",  # noqa: S608 - of our own words
}
_FEWER = {
    True: "UPDATE blobs SET refs = refs - ? WHERE id = ?",
    False: "UPDATE blobs SET refs = refs - $1 WHERE id = $2",
}

_AMONG_IDS = f"message_id {AMONG[False]}"
_END = f"""
WITH aside AS (DELETE FROM quarantine WHERE {_AMONG_IDS}),
places AS (DELETE FROM origins WHERE {_AMONG_IDS}),
links AS (DELETE FROM message_links WHERE {_AMONG_IDS}),
docs AS (DELETE FROM search_docs WHERE {_AMONG_IDS} RETURNING doc, tenant_id),
words AS (INSERT INTO search_leftovers (doc, tenant_id) SELECT doc, tenant_id FROM docs),
freed AS (DELETE FROM blobs WHERE id = ANY(string_to_array($2, ',')) RETURNING id, tenant_id, stored_size),
queue AS (
  INSERT INTO blob_erasures (blob_id, tenant_id, item_ref, run_id, stored_size, queued_at, next_at)
  SELECT id, tenant_id, item_ref, $4, stored_size, $5, $5
  FROM unnest(string_to_array($2, ','), string_to_array($3, ',')) AS last (id, item_ref) JOIN freed USING (id)
)
DELETE FROM messages WHERE id {AMONG[False]}
"""  # noqa: S608 - no values
"""The end of copies on PostgreSQL: in one go, since each statement has its round trip."""
_ASIDE = ThreadPoolExecutor(1, "purge")
"""Writes down what ends while SQLite deletes it, for which it does not hold the interpreter's lock."""
_QUEUE_COLUMNS = ("blob_id", "tenant_id", "item_ref", "run_id", "stored_size", "queued_at", "next_at")


class Ending(Protocol):
    """What a row of a copy that ends must have."""

    @property
    def id(self) -> str:
        """The message's id."""

    @property
    def item_ref(self) -> str:
        """What the purge log calls it."""

    @property
    def blob_id(self) -> str:
        """The blob that it refers to."""

    @property
    def indexed(self) -> bool:
        """Whether its words are in the text index."""


class Freed(NamedTuple):
    """What the end of one copy did to its blob: `freed` 1 when it was the last reference, with its stored bytes."""

    freed: int
    bytes: int


_SHARED = Freed(0, 0)


async def end_copies(
    tx: Transaction, tenant_id: str, copies: Sequence[Ending | Row[Any]], *, now: Instant, run_id: str | None = None
) -> Mapping[str, Freed]:
    """Delete these locked copies; what became of the blob of each, by message id.

    A blob that loses its last reference loses its row, and with it its data key, and is queued to be erased.
    """
    end = await prepare_end(tx, tenant_id, copies, now=now, run_id=run_id)
    await end.carry_out()
    return end.freed


@dataclass(frozen=True, slots=True)
class End:
    """The end of some copies, decided and not yet carried out: what becomes of the blob of each is known already."""

    freed: Mapping[str, Freed]
    _tx: Transaction
    _run_id: str | None
    _now: Instant
    _ids: Sequence[str]
    _indexed: Sequence[str]
    _shared: Sequence[tuple[int, str]]
    _queue: Sequence[tuple[Any, ...]]

    async def carry_out(self, meanwhile: Callable[[], Sequence[Insert]] = list) -> None:
        """Delete the rows, drop the references, queue the erasures; then insert what `meanwhile` returns, which is
        called while the database deletes: on SQLite in another thread.
        """
        conn, sqlite = self._tx.conn, self._tx.sqlite
        if sqlite:
            # The long ones last: after each the two threads contend for the interpreter's lock.
            await in_turn(conn, self._derived(), sqlite=True)
            aside = _ASIDE.submit(meanwhile)
            try:
                await in_turn(conn, [self._rows(), *self._release()], sqlite=True)
            finally:
                wait([aside])
            also = [Insert(blob_erasures, _QUEUE_COLUMNS, self._queue), *aside.result()]
        else:
            ending = asyncio.create_task(in_turn(conn, self._at_once(), sqlite=False))
            try:
                await asyncio.sleep(0)  # the statement is sent
                also = [*meanwhile()]
            finally:
                await ending
        await in_turn(conn, also, sqlite=sqlite)

    async def drop_references(self) -> None:
        """The copies stay, with other bytes, and refer to other blobs by now: forget what was derived from the old."""
        sqlite = self._tx.sqlite
        words = _forget_words(self._indexed, sqlite=sqlite) if self._indexed else []
        queued = [Insert(blob_erasures, _QUEUE_COLUMNS, self._queue)] if self._queue else []
        await in_turn(self._tx.conn, [*words, *self._release(), *queued], sqlite=sqlite)

    def _derived(self) -> list[Step]:
        ids = (ids_of(self._ids, sqlite=True),)
        gone = f"message_id {AMONG[True]}"
        return [
            Step(f"DELETE FROM quarantine WHERE {gone}", ids),  # noqa: S608 - no values
            Step(f"DELETE FROM origins WHERE {gone}", ids),  # noqa: S608 - of our own words
            Step(f"DELETE FROM message_links WHERE {gone}", ids),  # noqa: S608 - of our own words
            *(_forget_words(self._indexed, sqlite=True) if self._indexed else ()),
        ]

    def _rows(self) -> Step:
        return Step(f"DELETE FROM messages WHERE id {AMONG[True]}", (ids_of(self._ids, sqlite=True),))  # noqa: S608 - of our own words

    def _at_once(self) -> list[Step]:
        freed, items = [row[0] for row in self._queue], [row[2] for row in self._queue]
        together = [ids_of(each, sqlite=False) for each in (self._ids, freed, items)]
        return [Step(_END, (*together, self._run_id, self._now)), *self._fewer()]

    def _release(self) -> list[Step]:
        sqlite = self._tx.sqlite
        steps = self._fewer()
        if self._queue:
            gone = ids_of([row[0] for row in self._queue], sqlite=sqlite)
            steps.append(Step(f"DELETE FROM blobs WHERE id {AMONG[sqlite]}", (gone,)))  # noqa: S608 - no values
        return steps

    def _fewer(self) -> list[Step]:
        return [Step(_FEWER[self._tx.sqlite], self._shared, many=True)] if self._shared else []


async def prepare_end(
    tx: Transaction, tenant_id: str, copies: Sequence[Ending | Row[Any]], *, now: Instant, run_id: str | None = None
) -> End:
    """Lock the blobs of these locked copies and see which lose their last reference."""
    references = Counter([copy.blob_id for copy in copies])
    lock = Step(_LOCK_BLOBS[tx.sqlite], (ids_of(references, sqlite=tx.sqlite),))
    (locked,) = await in_turn(tx.conn, [lock], sqlite=tx.sqlite)
    counted = {row[0]: row[1] for row in locked}
    wrong = [blob_id for blob_id, ends in references.items() if counted.get(blob_id, 0) < ends]
    counted |= await _count_anew(tx, tenant_id, wrong, references, copies) if wrong else {}
    last: dict[str, int] = {}
    shared: list[tuple[int, str]] = []
    for blob_id, _, stored_size in locked:
        if counted[blob_id] <= references[blob_id]:
            last[blob_id] = stored_size
        else:
            shared.append((references[blob_id], blob_id))
    freed = {copy.id: _SHARED for copy in copies}
    queue: list[tuple[Any, ...]] = []
    for copy in reversed(copies):  # a blob shared among them is freed by the last copy that refers to it
        stored_size = last.pop(copy.blob_id, -1)
        if stored_size >= 0:
            freed[copy.id] = Freed(1, stored_size)
            queue.append((copy.blob_id, tenant_id, copy.item_ref, run_id, stored_size, now, now))
    indexed = [copy.id for copy in copies if copy.indexed]
    return End(freed, tx, run_id, now, [copy.id for copy in copies], indexed, shared, queue)


async def _count_anew(
    tx: Transaction,
    tenant_id: str,
    wrong: Collection[str],
    references: Mapping[str, int],
    copies: Sequence[Ending | Row[Any]],
) -> Mapping[str, int]:
    """What really refers to these blobs, whose counts say less than what ends here alone, or which are not there.

    There is no index for it: something is broken, and looking through everything costs less than a copy that stays.
    """
    _log.error("blob_miscounted", tenant=tenant_id, blobs=sorted(wrong)[:_TOLD], detail="run `mailgate doctor`")
    counts = dict(references)
    ending = [copy.id for copy in copies]
    for table in (messages, submissions):
        of, mine = table.c.blob_id, table.c.tenant_id == tenant_id
        others = mine & among(of, wrong, sqlite=tx.sqlite) & ~among(table.c.id, ending, sqlite=tx.sqlite)
        for blob_id, count in await tx.conn.execute(select(of, func.count()).where(others).group_by(of)):
            counts[blob_id] += count
    for blob_id in wrong:
        await tx.conn.execute(update(blobs).where(blobs.c.id == blob_id).values(refs=counts[blob_id]))
    return {blob_id: counts[blob_id] for blob_id in wrong}


async def forget_words(tx: Transaction, ids: Collection[str]) -> None:
    """Let no search find messages by their words any more."""
    await in_turn(tx.conn, _forget_words(ids, sqlite=tx.sqlite), sqlite=tx.sqlite)


def _forget_words(ids: Collection[str], *, sqlite: bool) -> list[Step]:
    """The words themselves go behind this (`mailgate.store.leftovers`)."""
    mine = f"FROM search_docs WHERE message_id {AMONG[sqlite]}"
    parameters = (ids_of(ids, sqlite=sqlite),)
    return [
        Step(f"INSERT INTO search_leftovers (doc, tenant_id) SELECT doc, tenant_id {mine}", parameters),
        Step(f"DELETE {mine}", parameters),
    ]
