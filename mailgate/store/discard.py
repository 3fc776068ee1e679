"""The end of copies: their rows, what was derived from them, their references to blobs. By sets, not one by one.

Shared by everything that ends copies. The caller has locked the messages, judged them, and writes the tombstones and
log entries. Pins are not deleted here: a copy that somebody pins has a row in `pins` that refers to it, and the
foreign key then refuses the whole transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import BigInteger, Row, bindparam, column, delete, select, table, update

from mailgate.clock import Instant
from mailgate.store.bulk import insert_many
from mailgate.store.schema import blob_erasures, blobs, messages, origins, search_docs
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
) -> dict[str, Freed]:
    """Delete these locked copies; what became of the blob of each, by message id.

    A blob that loses its last reference loses its row, and with it its data key, and is queued to be erased.
    """
    ids = [copy.id for copy in copies]
    indexed = [copy.id for copy in copies if copy.indexed]
    if indexed:
        await forget_words(tx, indexed)
    await tx.conn.execute(delete(origins).where(among(origins.c.message_id, ids, sqlite=tx.sqlite)))
    await tx.conn.execute(delete(messages).where(among(messages.c.id, ids, sqlite=tx.sqlite)))
    return await _release(tx, tenant_id, copies, now, run_id)


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


async def _release(
    tx: Transaction, tenant_id: str, copies: Sequence[Ending | Row[Any]], now: Instant, run_id: str | None
) -> dict[str, Freed]:
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
    if shared:
        await tx.conn.execute(
            update(blobs).where(blobs.c.id == bindparam("blob")).values(refs=blobs.c.refs - bindparam("count")), shared
        )
    freed = {copy.id: _SHARED for copy in copies}
    if last:
        await tx.conn.execute(delete(blobs).where(among(blobs.c.id, last, sqlite=tx.sqlite)))
        queue = []
        for copy in reversed(copies):  # a blob shared within the batch is freed by the last copy that refers to it
            stored_size = last.pop(copy.blob_id, -1)
            if stored_size >= 0:
                freed[copy.id] = Freed(1, stored_size)
                queue.append((copy.blob_id, tenant_id, copy.item_ref, run_id, stored_size, now, now))
        await insert_many(tx.conn, blob_erasures, _QUEUE_COLUMNS, queue, sqlite=tx.sqlite)
    return freed
