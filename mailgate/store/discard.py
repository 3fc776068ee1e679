"""The end of copies: their rows, what was derived from them, their references to blobs. By sets, not one by one.

Shared by everything that ends copies. The caller has locked the messages, judged them, and writes the tombstones and
log entries. Pins are not deleted here: a copy that somebody pins has a row in `pins` that refers to it, and the
foreign key then refuses the whole transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import BigInteger, Row, bindparam, column, delete, select, table, update

from mailgate.clock import Instant
from mailgate.store.bulk import insert_many
from mailgate.store.schema import blob_erasures, blobs, messages, origins, quarantine, search_docs
from mailgate.store.sets import among, among_numbers
from mailgate.store.transaction import Transaction

_SEARCH_INDEX = {
    True: table("search_index", column("rowid", BigInteger)),
    False: table("search_index", column("doc", BigInteger)),
}

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


@dataclass(frozen=True, slots=True)
class Freed:
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
    _ids: Sequence[str]
    _indexed: Sequence[str]
    _shared: Sequence[dict[str, Any]]
    _queue: Sequence[tuple[Any, ...]]

    async def carry_out(self) -> None:
        """Delete the rows, drop the references, queue the erasures."""
        tx = self._tx
        await tx.conn.execute(delete(quarantine).where(among(quarantine.c.message_id, self._ids, sqlite=tx.sqlite)))
        await tx.conn.execute(delete(origins).where(among(origins.c.message_id, self._ids, sqlite=tx.sqlite)))
        if self._indexed:  # before the messages: they refer to them
            await forget_words(tx, self._indexed)
        await tx.conn.execute(delete(messages).where(among(messages.c.id, self._ids, sqlite=tx.sqlite)))
        await self._release()

    async def drop_references(self) -> None:
        """The copies stay, with other bytes, and refer to other blobs by now: forget what was derived from the old."""
        if self._indexed:
            await forget_words(self._tx, self._indexed)
        await self._release()

    async def _release(self) -> None:
        tx = self._tx
        if self._shared:
            fewer = update(blobs).where(blobs.c.id == bindparam("blob"))
            await tx.conn.execute(fewer.values(refs=blobs.c.refs - bindparam("count")), list(self._shared))
        if self._queue:
            gone = [row[0] for row in self._queue]
            await tx.conn.execute(delete(blobs).where(among(blobs.c.id, gone, sqlite=tx.sqlite)))
            await insert_many(tx.conn, blob_erasures, _QUEUE_COLUMNS, self._queue, sqlite=tx.sqlite)


async def prepare_end(
    tx: Transaction, tenant_id: str, copies: Sequence[Ending | Row[Any]], *, now: Instant, run_id: str | None = None
) -> End:
    """Lock the blobs of these locked copies and see which lose their last reference."""
    references = Counter(copy.blob_id for copy in copies)
    # In the order of content tokens, as everything locks blobs: two transactions never wait for each other.
    locked = (
        select(blobs.c.id, blobs.c.refs, blobs.c.stored_size)
        .where(among(blobs.c.id, references, sqlite=tx.sqlite))
        .order_by(blobs.c.content_token)
        .with_for_update()
    )
    last: dict[str, int] = {}
    shared: list[dict[str, Any]] = []
    for blob_id, refs, stored_size in (await tx.conn.execute(locked)).all():
        if refs <= references[blob_id]:
            last[blob_id] = stored_size
        else:
            shared.append({"blob": blob_id, "count": references[blob_id]})
    freed = {copy.id: _SHARED for copy in copies}
    queue: list[tuple[Any, ...]] = []
    for copy in reversed(copies):  # a blob shared among them is freed by the last copy that refers to it
        stored_size = last.pop(copy.blob_id, -1)
        if stored_size >= 0:
            freed[copy.id] = Freed(1, stored_size)
            queue.append((copy.blob_id, tenant_id, copy.item_ref, run_id, stored_size, now, now))
    indexed = [copy.id for copy in copies if copy.indexed]
    return End(freed, tx, [copy.id for copy in copies], indexed, shared, queue)


async def forget_words(tx: Transaction, ids: Collection[str]) -> None:
    """Take messages out of the text index."""
    gone = (
        delete(search_docs).where(among(search_docs.c.message_id, ids, sqlite=tx.sqlite)).returning(search_docs.c.doc)
    )
    docs = list((await tx.conn.execute(gone)).scalars())
    if docs:
        index = _SEARCH_INDEX[tx.sqlite]
        key = index.c.rowid if tx.sqlite else index.c.doc
        await tx.conn.execute(delete(index).where(among_numbers(key, docs, sqlite=tx.sqlite)))
