"""Copies coming and going: the rows of new copies, and the end of copies whose originals were deleted.

Coming: the bytes lie durably in the blob store before (`PreparedMessage.blob`); equal bytes within a tenant share one
blob (unique by keyed token), and the object that was put in vain is queued to be erased.

Going: judged under the messages' locks, so that a pin or hold that was accepted keeps its copy. What goes: the row with
its wrapped data key, everything derived from it, the reference to the blob, and with the last reference the blob's
key. One `item.remove` leaf and one event each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.store.log import PurgeLog
from mailgate.store.schema import (
    blob_erasures,
    blobs,
    hold_messages,
    holds,
    messages,
    origins,
    search_docs,
)
from mailgate.store.transaction import Transaction
from mailgate.sync.port import PreparedBlob, PreparedMessage
from retention.ledger import leaves
from retention.model import Copy, Rules
from retention.policy import due_at

CHUNK = 500
"""How many values one IN list holds at most."""

METHOD = "data_key_destroyed"

SERVER = Actor("system", "mail_server")


@dataclass(frozen=True, slots=True)
class Place:
    """Where new copies were found."""

    tenant_id: str
    mailbox_id: str
    folder_id: str
    uidvalidity: int


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The values in pieces that fit an IN list."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


async def add(
    tx: Transaction, place: Place, prepared: Sequence[PreparedMessage], *, now: Instant, rules: Rules, initial: bool
) -> None:
    """Write the rows of new copies, their events and usage. The caller made sure that their UIDs are not known yet."""
    if not prepared:
        return
    blob_ids = await _refer(tx, place.tenant_id, [message.blob for message in prepared], now)
    await tx.conn.execute(
        insert(messages),
        [_message_row(place, message, blob_ids[message.blob.content_token], now) for message in prepared],
    )
    await tx.conn.execute(
        insert(origins),
        [
            {
                "folder_id": place.folder_id,
                "uid": message.uid,
                "uidvalidity": place.uidvalidity,
                "tenant_id": place.tenant_id,
                "mailbox_id": place.mailbox_id,
                "message_id": message.id,
                "flags": message.flags,
                "vanished_at": None,
            }
            for message in prepared
        ],
    )
    for message in prepared:
        payload: dict[str, Any] = {
            "anchor_at": message.anchor_at,
            "expires_at": due_at(Copy(message.id, message.anchor_at, now), rules),
            "folder_id": place.folder_id,
        }
        if initial:
            payload["initial"] = True
        tx.emit(
            place.tenant_id,
            "message.created",
            at=now,
            mailbox_id=place.mailbox_id,
            message_id=message.id,
            payload=payload,
        )
    tx.count(place.tenant_id, copies=len(prepared), storage_bytes=sum(message.size for message in prepared))


async def discard(tx: Transaction, tenant_id: str, unused: Iterable[PreparedBlob], now: Instant) -> None:
    """Queue objects that no row will ever refer to."""
    rows = [{"blob_id": blob.id, "tenant_id": tenant_id, "queued_at": now, "next_at": now} for blob in unused]
    if rows:
        await tx.conn.execute(insert(blob_erasures), rows)


async def _refer(
    tx: Transaction, tenant_id: str, prepared: Sequence[PreparedBlob], now: Instant
) -> dict[bytes, str]:
    """Add references to blobs by content; the id of the blob that stands for each content token."""
    first: dict[bytes, PreparedBlob] = {}
    for blob in prepared:
        first.setdefault(blob.content_token, blob)
    references = Counter(blob.content_token for blob in prepared)
    rows = [
        {
            "id": first[token].id,
            "tenant_id": tenant_id,
            "content_token": token,
            "size": first[token].size,
            "stored_size": first[token].stored_size,
            "data_key": first[token].data_key,
            "key_epoch": first[token].key_epoch,
            "refs": references[token],
            "created_at": now,
        }
        for token in sorted(first)  # the same order in every transaction, so that two never wait for each other
    ]
    statement = tx.insert(blobs)
    upsert = statement.on_conflict_do_update(
        index_elements=[blobs.c.tenant_id, blobs.c.content_token],
        set_={"refs": blobs.c.refs + statement.excluded.refs},
    ).returning(blobs.c.content_token, blobs.c.id)
    standing = {row.content_token: row.id for row in await tx.conn.execute(upsert, rows)}
    await discard(tx, tenant_id, [blob for blob in prepared if standing[blob.content_token] != blob.id], now)
    return standing


def _message_row(place: Place, message: PreparedMessage, blob_id: str, now: Instant) -> dict[str, Any]:
    return {
        "id": message.id,
        "tenant_id": place.tenant_id,
        "mailbox_id": place.mailbox_id,
        "item_ref": message.item_ref,
        "anchor_at": message.anchor_at,
        "anchor_source": message.anchor_source,
        "internal_date_at": message.internal_date_at,
        "stored_at": now,
        "size": message.size,
        "flags": message.flags,
        "seen": "\\Seen" in message.flags,
        "flagged": "\\Flagged" in message.flags,
        "has_files": message.has_files,
        "thread_id": message.thread_id,
        "header_token": message.header_token,
        "msgid_token": message.msgid_token,
        "content_commit": message.content_commit,
        "msgid_commit": message.msgid_commit,
        "summary": message.summary,
        "data_key": message.data_key,
        "key_epoch": message.key_epoch,
        "blob_id": blob_id,
    }


async def held(
    conn: AsyncConnection, tenant_id: str, mailbox_id: str, ids: Sequence[str], now: Instant
) -> dict[str, int]:
    """How many holds protect each of these messages of one mailbox at `now`; those without are missing."""
    stands = or_(holds.c.released_at.is_(None), holds.c.protects_until_at > now)
    scoped = or_(holds.c.scope == "tenant", (holds.c.scope == "mailbox") & (holds.c.mailbox_id == mailbox_id))
    general = (
        await conn.execute(select(func.count()).where(holds.c.tenant_id == tenant_id, stands, scoped))
    ).scalar_one()
    counts = dict.fromkeys(ids, general) if general else {}
    for chunk in chunks(ids):
        query = (
            select(hold_messages.c.message_id, func.count().label("n"))
            .join(holds, holds.c.id == hold_messages.c.hold_id)
            .where(hold_messages.c.message_id.in_(chunk), holds.c.tenant_id == tenant_id, stands)
            .group_by(hold_messages.c.message_id)
        )
        for row in await conn.execute(query):
            counts[row.message_id] = counts.get(row.message_id, 0) + row.n
    return counts


async def remove(
    tx: Transaction,
    log: PurgeLog,
    *,
    tenant_id: str,
    tenant_ref: str,
    mailbox_id: str,
    ids: Sequence[str],
    reason: str,
    now: Instant,
) -> tuple[list[str], list[str]]:
    """End the copies whose originals were deleted; (removed, kept). Kept: pinned or held by now; they lose their
    originals and stay. Ids that are gone by now are in neither.
    """
    # Lock first, then judge in a new statement: what committed while this waited for the locks is seen.
    await tx.conn.execute(
        select(messages.c.id).where(messages.c.id.in_(ids)).order_by(messages.c.id).with_for_update()
    )
    columns = messages.c
    rows = (
        await tx.conn.execute(
            select(
                columns.id,
                columns.item_ref,
                columns.pins,
                columns.size,
                columns.blob_id,
                columns.content_commit,
                columns.msgid_commit,
                columns.anchor_at,
            )
            .where(columns.id.in_(ids))
            .order_by(columns.id)
        )
    ).all()
    protected = await held(tx.conn, tenant_id, mailbox_id, [row.id for row in rows], now)
    kept = [row.id for row in rows if row.pins or protected.get(row.id)]
    keeping = set(kept)
    going = [row for row in rows if row.id not in keeping]
    gone_ids = [row.id for row in going]
    await tx.conn.execute(delete(origins).where(origins.c.message_id.in_([row.id for row in rows])))
    await forget_derived(tx, gone_ids)
    await tx.conn.execute(delete(messages).where(messages.c.id.in_(gone_ids)))
    freed = await release_blobs(tx, tenant_id, Counter(row.blob_id for row in going), now)
    for row in going:
        log.write(
            tx,
            tenant_id,
            tenant_ref,
            leaves.item_remove,
            at=now,
            actor=SERVER,
            item_ref=row.item_ref,
            mailbox_ref=mailbox_id,
            content_commit=row.content_commit.hex(),
            msgid_commit=row.msgid_commit.hex(),
            reason=reason,
            pins=0,
            holds=0,
            blobs=leaves.Blobs(1, 1 if row.blob_id in freed else 0, freed.pop(row.blob_id, 0)),
            method=METHOD,
        )
        tx.emit(tenant_id, "message.deleted", at=now, mailbox_id=mailbox_id, message_id=row.id)
    for message_id in kept:
        payload = {"origin_present": False}
        tx.emit(
            tenant_id, "message.updated", at=now, mailbox_id=mailbox_id, message_id=message_id, payload=payload
        )
    tx.count(tenant_id, copies=-len(going), storage_bytes=-sum(row.size for row in going))
    return gone_ids, kept


async def forget_derived(tx: Transaction, ids: Sequence[str]) -> None:
    """Delete what was made from these messages: their words in the text index."""
    for chunk in chunks(ids):
        docs = select(search_docs.c.doc).where(search_docs.c.message_id.in_(chunk))
        found = list((await tx.conn.execute(docs)).scalars())
        if found:
            key = "rowid" if tx.sqlite else "doc"
            await tx.conn.execute(
                text(f"DELETE FROM search_index WHERE {key} = :doc"),  # noqa: S608 - one of two constants
                [{"doc": doc} for doc in found],
            )
            await tx.conn.execute(delete(search_docs).where(search_docs.c.doc.in_(found)))


async def release_blobs(
    tx: Transaction, tenant_id: str, references: Counter[str], now: Instant
) -> dict[str, int]:
    """Drop references. Blobs that lost their last one lose row and key, and are queued to be erased; id → stored size."""
    freed: dict[str, int] = {}
    for blob_id in sorted(references):
        row = (
            await tx.conn.execute(
                update(blobs)
                .where(blobs.c.id == blob_id)
                .values(refs=blobs.c.refs - references[blob_id])
                .returning(blobs.c.refs, blobs.c.stored_size)
            )
        ).one()
        if row.refs == 0:
            freed[blob_id] = row.stored_size
    if freed:
        await tx.conn.execute(delete(blobs).where(blobs.c.id.in_(list(freed))))
        await tx.conn.execute(
            insert(blob_erasures),
            [{"blob_id": blob_id, "tenant_id": tenant_id, "queued_at": now, "next_at": now} for blob_id in freed],
        )
    return freed
