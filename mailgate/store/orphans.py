"""Objects in the blob store that no row refers to: what a kill between writing bytes and committing their rows leaves.

Harmless (their keys were never stored, so nobody can read them) but they take space. An object's id is a ULID, so its
age is known without asking the store; one that is younger than any transaction can last is left alone.
"""

from __future__ import annotations

import asyncio
import itertools

from sqlalchemy import select

from mailgate.blobs import BlobStore, Erased, made_at
from mailgate.clock import Instant
from mailgate.store.database import Database
from mailgate.store.schema import blob_erasures, blobs

_A_LOOK = 500


async def sweep(db: Database, store: BlobStore, before: Instant) -> int:
    """Erase objects made before that instant that nothing refers to and nothing has queued. Returns how many went."""
    ids = store.list_ids()
    swept = 0
    while chunk := await asyncio.to_thread(lambda: list(itertools.islice(ids, _A_LOOK))):
        old = [blob_id for blob_id in chunk if made_at(blob_id) < before]
        known: set[str] = set()
        async with db.read() as conn:
            for column in (blobs.c.id, blob_erasures.c.blob_id):
                known.update((await conn.execute(select(column).where(column.in_(old)))).scalars())
        outcomes = await store.erase_many([blob_id for blob_id in old if blob_id not in known])
        swept += sum(1 for outcome in outcomes if isinstance(outcome, Erased))
    return swept
