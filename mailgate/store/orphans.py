"""Objects in the blob store that no row refers to: what a kill between writing bytes and committing their rows leaves.

Harmless (their keys were never stored, so nobody can read them) but they take space. An object's id is a ULID, so its
age is known without asking the store; one that is younger than any transaction can last is left alone.

In a file that blobs share nothing is erased, and it does not go as a whole, where rows refer to blobs of which it tells
something else, or nothing: its table may be what is wrong.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.blobs import BlobStore, BlobStoreError, Erased, UnreadablePack, made_at, members
from mailgate.clock import Instant
from mailgate.store.database import Database
from mailgate.store.erasures import beside
from mailgate.store.schema import blob_erasures, blobs

_log = structlog.get_logger("mailgate.orphans")

_A_LOOK = 500


async def sweep(db: Database, store: BlobStore, before: Instant) -> int:
    """Erase objects made before that instant that nothing refers to and nothing has queued. Returns how many went."""
    unreadable: list[UnreadablePack] = []
    ids = store.list_ids(unreadable.append)
    swept = 0
    while chunk := await asyncio.to_thread(lambda: list(itertools.islice(ids, _A_LOOK))):
        swept += await _sweep(db, store, [blob_id for blob_id in chunk if made_at(blob_id) < before])
    for pack in unreadable:
        swept += await _sweep_unreadable(db, store, pack, before)
    return swept


async def unreferred(conn: AsyncConnection, unreadable: Sequence[UnreadablePack]) -> list[UnreadablePack]:
    """Those of these files that hold nothing that a row refers to. What is queued to be erased does not count."""
    return [pack for pack in unreadable if not await _referred(conn, members(pack.name))]


async def _sweep(db: Database, store: BlobStore, old: Sequence[str]) -> int:
    async with db.read() as conn:
        known = await _referred(conn, old)
        known.update((await conn.execute(select(_QUEUED).where(_QUEUED.in_(old)))).scalars())
        orphans = [blob_id for blob_id in old if blob_id not in known]
        living = await beside(conn, orphans, sqlite=db.sqlite)
    outcomes = await store.erase_many(orphans, living)
    for outcome in outcomes:
        if isinstance(outcome, BlobStoreError):
            _log.warning("orphan_not_swept", detail=outcome.detail)
    return sum(1 for outcome in outcomes if isinstance(outcome, Erased))


async def _sweep_unreadable(db: Database, store: BlobStore, pack: UnreadablePack, before: Instant) -> int:
    if not pack.damaged or made_at(members(pack.name)[0]) >= before:
        return 0
    async with db.read() as conn:
        if not await unreferred(conn, [pack]):
            return 0
    try:
        return int(await asyncio.to_thread(store.remove_damaged, pack.name))
    except BlobStoreError as error:
        _log.warning("orphan_not_swept", detail=error.detail)
        return 0


_QUEUED = blob_erasures.c.blob_id


async def _referred(conn: AsyncConnection, blob_ids: Sequence[str]) -> set[str]:
    """Those of these that are somebody's. A copy and a submission have their blob's row, with its key, or nothing."""
    return set((await conn.execute(select(blobs.c.id).where(blobs.c.id.in_(blob_ids)))).scalars())
