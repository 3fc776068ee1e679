"""Copies whose bytes are no longer in the blob store: they are set aside, and fetched from their mail servers again.

That happens where a backup of the database was restored: it refers to bytes of before a purge, though the copy was
brought back since, with bytes of which the backup knows nothing; and where a disk lost them (`mailgate doctor
--repair`). The copy keeps its id, its pins and what it says of itself; only where its bytes are changes.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence

from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate import __version__
from mailgate.clock import Instant
from mailgate.ids import new_id
from mailgate.store import messages as copies
from mailgate.store.database import Database
from mailgate.store.schema import blobs, folders, messages, origins, quarantine, submissions
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import Cause, KeptCopy, PreparedBlob, Refilled, Retry

_M = messages.c
_Q = quarantine.c

ATTEMPTS = 5
"""So often a message is asked for by itself: the mailbox may be behind when it is asked for first. Then on request."""

_REASON = "its bytes are not in the blob store any more; they are fetched from the mail server again"


async def set_aside(tx: Transaction, message_ids: Collection[str], now: Instant) -> int:
    """Note that the bytes of these copies are lost; how many have an original from which they may come.

    Their blobs stand for their content no more: what arrives with the same content keeps its own bytes.
    """
    mine = select(_M.blob_id).where(_M.id.in_(message_ids))
    lost = (await tx.conn.execute(select(blobs.c.id).where(blobs.c.id.in_(mine)).with_for_update())).scalars().all()
    for blob_id in lost:
        nobodys = secrets.token_bytes(32)
        await tx.conn.execute(update(blobs).where(blobs.c.id == blob_id).values(content_token=nobodys))
    first = func.min(origins.c.folder_id).label("folder_id")
    standing = select(origins.c.message_id, first).where(origins.c.message_id.in_(message_ids))
    places = standing.group_by(origins.c.message_id).subquery()
    query = (
        select(origins)
        .join(places, (places.c.message_id == origins.c.message_id) & (places.c.folder_id == origins.c.folder_id))
        .order_by(origins.c.message_id, origins.c.uid)
    )
    found = {row.message_id: row for row in (await tx.conn.execute(query)).all()}
    for row in found.values():
        entry = {
            "id": new_id(now),
            "tenant_id": row.tenant_id,
            "mailbox_id": row.mailbox_id,
            "folder_id": row.folder_id,
            "uidvalidity": row.uidvalidity,
            "uid": row.uid,
            "cause": Cause.LOST.value,
            "reason": _REASON,
            "message_id": row.message_id,
            "attempts": 0,
            "build": __version__,
            "first_seen_at": now,
            "last_seen_at": now,
        }
        statement = tx.insert(quarantine).values(entry)
        address = [_Q.folder_id, _Q.uidvalidity, _Q.uid]
        # Whoever asks again is not refused because it was asked for so often by itself.
        asked = statement.on_conflict_do_update(
            index_elements=address, set_={"retry_at": now}, where=_Q.cause == Cause.LOST.value
        )
        await tx.conn.execute(asked)
    return len(found)


async def set_aside_of(db: Database, blob_ids: Collection[str], now: Instant) -> tuple[int, int]:
    """The same of all copies whose bytes these blobs were: how many, and how many have an original."""
    copies_of, coming = 0, 0
    for chunk in copies.chunks(sorted(blob_ids)):
        mine = select(_M.id).where(_M.blob_id.in_(chunk)).order_by(_M.id).with_for_update()

        async def work(tx: Transaction, mine: Select[str] = mine) -> tuple[int, int]:
            ids = (await tx.conn.execute(mine)).scalars().all()
            return len(ids), await set_aside(tx, ids, now)

        done = await db.transact(work)
        copies_of, coming = copies_of + done[0], coming + done[1]
    return copies_of, coming


async def retries(conn: AsyncConnection, mailbox_id: str, limit: int) -> list[Retry]:
    """Those to be fetched now, each where it stands by now, by folder."""
    query = (
        select(_Q.id, _M.id.label("message_id"), _M.item_ref, _M.data_key, _M.key_epoch, _M.blob_id)
        .add_columns(origins.c.folder_id, origins.c.uidvalidity, origins.c.uid)
        .add_columns(blobs.c.content_token, blobs.c.size, blobs.c.stored_size)
        .add_columns(blobs.c.data_key.label("blob_key"), blobs.c.key_epoch.label("blob_epoch"))
        .select_from(quarantine)
        .join(messages, _M.id == _Q.message_id)
        .join(blobs, blobs.c.id == _M.blob_id)
        .join(origins, origins.c.message_id == _M.id)
        .join(folders, folders.c.id == origins.c.folder_id)
        .where(
            _Q.mailbox_id == mailbox_id,
            _Q.cause == Cause.LOST.value,
            or_(_Q.retry_at.is_not(None), _Q.attempts < ATTEMPTS),
            folders.c.followed,
            folders.c.gone_at.is_(None),
            folders.c.uidvalidity == origins.c.uidvalidity,
            origins.c.vanished_at.is_(None),
        )
        .order_by(origins.c.folder_id, _Q.id)
        .limit(limit)
    )
    found: dict[str, Retry] = {}
    for row in await conn.execute(query):
        blob = PreparedBlob(row.blob_id, row.content_token, row.size, row.stored_size, row.blob_key, row.blob_epoch)
        kept = KeptCopy(row.message_id, row.item_ref, row.data_key, row.key_epoch, blob)
        found.setdefault(row.id, Retry(row.id, row.folder_id, row.uidvalidity, row.uid, kept, lost=True))
    return list(found.values())


async def refill(tx: Transaction, tenant_id: str, came: Refilled, now: Instant) -> bool:
    """The bytes of a copy came again. False, with nothing changed, where they are not those that it had."""
    mine = select(_M.blob_id, _M.content_commit).where(_M.id == came.message_id).with_for_update()
    row = (await tx.conn.execute(mine)).one_or_none()
    if row is None or row.content_commit != came.content_commit:  # purged meanwhile, or another message
        await copies.discard(tx, tenant_id, [came.blob], now)
        return row is None
    stands = (await copies.refer(tx, tenant_id, [came.blob], now))[came.blob.content_token]
    ids: Sequence[str] = [came.message_id]
    if stands != row.blob_id:
        ids = await _sharing(tx, tenant_id, row.blob_id, came.message_id)
        await _replace(tx, row.blob_id, stands, ids)
    await tx.conn.execute(delete(quarantine).where(_Q.cause == Cause.LOST.value, _Q.message_id.in_(ids)))
    return True


async def _sharing(tx: Transaction, tenant_id: str, lost: str, message_id: str) -> Sequence[str]:
    """The copies of these bytes, hardly ever more than one: looking for others goes through all of the tenant."""
    counted = select(blobs.c.refs).where(blobs.c.id == lost).with_for_update()
    if (await tx.conn.execute(counted)).scalar_one() == 1:
        return [message_id]
    others = select(_M.id).where(_M.tenant_id == tenant_id, _M.blob_id == lost).order_by(_M.id).with_for_update()
    return (await tx.conn.execute(others)).scalars().all()


async def _replace(tx: Transaction, lost: str, stands: str, message_ids: Sequence[str]) -> None:
    """Whatever referred to the one refers to the other, which counts one of them already."""
    refs = select(blobs.c.refs).where(blobs.c.id == lost).scalar_subquery()
    for chunk in copies.chunks(message_ids):
        await tx.conn.execute(update(messages).where(_M.id.in_(chunk)).values(blob_id=stands))
    await tx.conn.execute(update(submissions).where(submissions.c.blob_id == lost).values(blob_id=stands))
    await tx.conn.execute(update(blobs).where(blobs.c.id == stands).values(refs=blobs.c.refs + refs - 1))
    await tx.conn.execute(delete(blobs).where(blobs.c.id == lost))
