"""The words of messages that are gone: taken out of the text index behind what ended them.

Where a message ends, the row goes that says which message a number in the index is of, and the number is put on a list
(`mailgate.store.discard`). From then on no search finds it, and what is left of it are keyed tokens that nothing ties
to a message. To take those out costs SQLite several times what the rest of a purge does, since FTS5 writes each of
seven hundred tokens anew to say that it is gone; so it is done afterwards, a little at a time, and nobody waits for it.

A number on the list is not given out again before its words went: it still stands in the index, which refuses a second.
"""

from __future__ import annotations

import json

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.store import runs
from mailgate.store.bulk import Step, in_turn
from mailgate.store.database import Database
from mailgate.store.schema import search_leftovers
from mailgate.store.transaction import Transaction

_PIECE = {True: 50, False: 500}
"""Messages at once, by whether it is SQLite: there others wait for the one writer meanwhile."""
_AMONG = {True: "rowid IN (SELECT value FROM json_each(?))", False: "doc = ANY($1::bigint[])"}
_L = search_leftovers.c


async def sweep(db: Database, *, pieces: int | None = None) -> int:
    """Take words out, at most so many pieces of them; of how many messages. 0 while a purge runs, which is not to wait
    for this.
    """
    swept = 0
    while (pieces is None or pieces > 0) and not await _purging(db):
        some = await db.transact(_sweep, bulk=True)
        if not some:
            break
        swept += some
        pieces = None if pieces is None else pieces - 1
    return swept


async def waiting(conn: AsyncConnection) -> tuple[int, int | None]:
    """Of how many messages words still stand there, and the number whose are taken out next; None: none are left."""
    copies, first = (await conn.execute(select(func.count(), func.min(_L.doc)).select_from(search_leftovers))).one()
    return copies, first


async def _purging(db: Database) -> bool:
    async with db.read() as conn:
        return await runs.oldest(conn, runs.PURGE, runs.RUNNING) is not None


async def _sweep(tx: Transaction) -> int:
    query = select(_L.doc).order_by(_L.doc).limit(_PIECE[tx.sqlite]).with_for_update(skip_locked=True)
    docs = list((await tx.conn.execute(query)).scalars())
    if docs:
        numbers = (json.dumps(docs) if tx.sqlite else docs,)
        among = _AMONG[tx.sqlite]
        steps = [
            Step(f"DELETE FROM search_index WHERE {among}", numbers),  # noqa: S608 - no values
            Step(f"DELETE FROM search_leftovers WHERE {among}", numbers),  # noqa: S608 - of our own words
        ]
        await in_turn(tx.conn, steps, sqlite=tx.sqlite)
    return len(docs)
