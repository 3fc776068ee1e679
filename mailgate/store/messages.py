"""Copies coming and going: the rows of new copies, and the end of copies whose originals were deleted.

Coming: the bytes lie durably in the blob store before (`PreparedMessage.blob`); equal bytes within a tenant share one
blob (unique by keyed token), and the object that was put in vain is queued to be erased.

Going: judged under the messages' locks, so that a pin or hold that was accepted keeps its copy. What goes: the row with
its wrapped data key, everything derived from it, the reference to the blob, and with the last reference the blob's
key. One `item.remove` leaf and one event each.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, delete, or_, select, update

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.store import tenants, threads
from mailgate.store.bulk import insert_many
from mailgate.store.discard import end_copies
from mailgate.store.expiry import Horizon
from mailgate.store.holds import active
from mailgate.store.log import PurgeLog
from mailgate.store.schema import blob_erasures, blobs, messages, origins
from mailgate.store.sets import among, among_tokens, tokens_of
from mailgate.store.tombstones import bury
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import PreparedBlob, PreparedMessage
from retention.ledger import leaves
from retention.model import Copy
from retention.policy import due_at

CHUNK = 500
"""How many values one IN list holds at most."""

_MESSAGE_COLUMNS = (
    "id",
    "tenant_id",
    "mailbox_id",
    "item_ref",
    "anchor_at",
    "anchor_source",
    "internal_date_at",
    "stored_at",
    "size",
    "flags",
    "seen",
    "flagged",
    "has_files",
    "thread_id",
    "header_token",
    "msgid_token",
    "content_commit",
    "msgid_commit",
    "summary",
    "data_key",
    "key_epoch",
    "blob_id",
    "labels",
    "email_token",
)
_ORIGIN_COLUMNS = ("folder_id", "uid", "uidvalidity", "tenant_id", "mailbox_id", "message_id", "flags", "labels")
_ERASURE_COLUMNS = ("blob_id", "tenant_id", "stored_size", "queued_at", "next_at")
_BLOB_COLUMNS = (
    "id",
    "tenant_id",
    "content_token",
    "size",
    "stored_size",
    "data_key",
    "key_epoch",
    "refs",
    "created_at",
)
_STANDING = select(blobs.c.content_token, blobs.c.id).where(
    blobs.c.tenant_id == bindparam("tenant"), among_tokens(blobs.c.content_token, sqlite=True)
)
_TOKEN = _BLOB_COLUMNS.index("content_token")
_REFS = _BLOB_COLUMNS.index("refs")

USER_DELETED = "user_deleted"
"""The reason in the purge log's `item.remove` when a user of the CRM deleted the message."""

_METHOD = "data_key_destroyed"  # as a purge ends copies

SERVER = Actor("system", "mail_server")


@dataclass(frozen=True, slots=True)
class Place:
    """Where new copies were found. `uidvalidity` None: on their way there, not at the server yet; `folder_id` None:
    nowhere at the server.
    """

    tenant_id: str
    mailbox_id: str
    folder_id: str | None
    uidvalidity: int | None


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The values in pieces that fit an IN list."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


async def add(
    tx: Transaction,
    place: Place,
    prepared: Sequence[PreparedMessage],
    *,
    horizon: Horizon,
    initial: bool,
    told: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the rows of new copies, their events and usage. The caller made sure that their UIDs are not known yet.
    `told`: what else the event of a message says, by its id.
    """
    if not prepared:
        return
    held = horizon.holds.tenant + horizon.holds.mailboxes.get(place.mailbox_id, 0)
    await write(tx, place, prepared, horizon.now)
    for message in prepared:
        more = told.get(message.id) if told else None
        _tell_created(tx, place, message, horizon, held=held, initial=initial, more=more)


async def write(tx: Transaction, place: Place, prepared: Sequence[PreparedMessage], now: Instant) -> None:
    """The rows of copies that were not here, and usage; told to nobody, but that threads were joined."""
    thread_ids = await threads.place(tx, place.tenant_id, prepared, now)
    blob_ids = await refer(tx, place.tenant_id, [message.blob for message in prepared], now)
    flags = {flags: json.dumps(flags) for flags in {message.flags for message in prepared}}  # a handful, for hundreds
    rows = [
        _message_row(place, message, blob_ids[message.blob.content_token], thread_ids[message.id], flags[message.flags])
        for message in prepared
    ]
    await insert_many(tx.conn, messages, _MESSAGE_COLUMNS, rows, sqlite=tx.sqlite)
    await threads.link(tx, place.tenant_id, prepared)
    if place.uidvalidity is None:
        coming = among(messages.c.id, [message.id for message in prepared], sqlite=tx.sqlite)
        await tx.conn.execute(update(messages).where(coming).values(moving_to=place.folder_id))
    else:
        await _add_origins(tx, place, place.uidvalidity, prepared, flags)
    tx.count(place.tenant_id, copies=len(prepared), storage_bytes=sum(message.size for message in prepared))


async def replace(tx: Transaction, place: Place, uidvalidity: int, message: PreparedMessage, now: Instant) -> None:
    """The locked copy with this id has these bytes now and stands there. Its old blob is still referred to."""
    await threads.unlink(tx, message.id)
    before = (await tx.conn.execute(select(messages.c.thread_id).where(messages.c.id == message.id))).scalar_one()
    thread_ids = await threads.place(tx, place.tenant_id, [message], now, stays_in=before)
    blob_ids = await refer(tx, place.tenant_id, [message.blob], now)
    flags = {message.flags: json.dumps(message.flags)}
    row = _message_row(
        place, message, blob_ids[message.blob.content_token], thread_ids[message.id], flags[message.flags]
    )
    values = dict(zip(_MESSAGE_COLUMNS, row, strict=True))
    values |= {"flags": list(message.flags), "labels": list(message.labels or ()), "indexed": False}
    await tx.conn.execute(update(messages).where(messages.c.id == message.id).values(values))
    await threads.link(tx, place.tenant_id, [message])
    await tx.conn.execute(delete(origins).where(origins.c.message_id == message.id))
    await _add_origins(tx, place, uidvalidity, [message], flags)


async def _add_origins(
    tx: Transaction,
    place: Place,
    uidvalidity: int,
    prepared: Sequence[PreparedMessage],
    flags: Mapping[tuple[str, ...], str],
) -> None:
    addresses = [
        (
            place.folder_id,
            message.uid,
            uidvalidity,
            place.tenant_id,
            place.mailbox_id,
            message.id,
            flags[message.flags],
            None if message.labels is None else json.dumps(message.labels),
        )
        for message in prepared
    ]
    await insert_many(tx.conn, origins, _ORIGIN_COLUMNS, addresses, sqlite=tx.sqlite)


def _tell_created(
    tx: Transaction,
    place: Place,
    message: PreparedMessage,
    horizon: Horizon,
    *,
    held: int,
    initial: bool,
    more: Mapping[str, Any] | None,
) -> None:
    copy = Copy(message.id, message.anchor_at, message.stored_at)
    payload: dict[str, Any] = {
        "anchor_at": message.anchor_at,
        "expires_at": None if held else due_at(copy, horizon.rules),
        "folder_id": place.folder_id,
    }
    if initial:
        payload["initial"] = True
    payload |= more or {}
    tx.emit(
        place.tenant_id,
        "message.created",
        at=horizon.now,
        mailbox_id=place.mailbox_id,
        message_id=message.id,
        payload=payload,
    )


async def discard(tx: Transaction, tenant_id: str, unused: Iterable[PreparedBlob], now: Instant) -> None:
    """Queue objects that no row will ever refer to."""
    rows = [(blob.id, tenant_id, blob.stored_size, now, now) for blob in unused]
    await insert_many(tx.conn, blob_erasures, _ERASURE_COLUMNS, rows, sqlite=tx.sqlite)


async def refer(tx: Transaction, tenant_id: str, prepared: Sequence[PreparedBlob], now: Instant) -> dict[bytes, str]:
    """Add references to blobs by content; the id of the blob that stands for each content token."""
    first: dict[bytes, PreparedBlob] = {}
    for blob in prepared:
        first.setdefault(blob.content_token, blob)
    references = Counter(blob.content_token for blob in prepared)
    # In the order of content tokens, as everything locks blobs: two transactions never wait for each other.
    rows = [_blob_row(tenant_id, first[token], references[token], now) for token in sorted(first)]
    standing = await (_refer_alone if tx.sqlite else _refer_among_others)(tx, tenant_id, rows)
    await discard(tx, tenant_id, [blob for blob in prepared if standing[blob.content_token] != blob.id], now)
    return standing


async def _refer_alone(tx: Transaction, tenant_id: str, rows: Sequence[tuple[Any, ...]]) -> dict[bytes, str]:
    """On SQLite nobody else writes: looking first and inserting past SQLAlchemy is faster."""
    standing: dict[bytes, str] = {}
    for chunk in chunks(rows):
        wanted = {"tenant": tenant_id, **tokens_of([row[_TOKEN] for row in chunk], sqlite=True)}
        standing.update({row.content_token: row.id for row in await tx.conn.execute(_STANDING, wanted)})
    more = [{"b_id": standing[row[_TOKEN]], "b_refs": row[_REFS]} for row in rows if row[_TOKEN] in standing]
    if more:
        count = update(blobs).where(blobs.c.id == bindparam("b_id")).values(refs=blobs.c.refs + bindparam("b_refs"))
        await tx.conn.execute(count, more)
    new = [row for row in rows if row[_TOKEN] not in standing]
    await insert_many(tx.conn, blobs, _BLOB_COLUMNS, new, sqlite=True)
    standing.update({row[_TOKEN]: row[0] for row in new})
    return standing


async def _refer_among_others(tx: Transaction, _tenant_id: str, rows: Sequence[tuple[Any, ...]]) -> dict[bytes, str]:
    """One statement decides between transactions that store the same content at the same moment."""
    statement = tx.insert(blobs)
    upsert = statement.on_conflict_do_update(
        index_elements=[blobs.c.tenant_id, blobs.c.content_token],
        set_={"refs": blobs.c.refs + statement.excluded.refs},
    ).returning(blobs.c.content_token, blobs.c.id)
    values = [dict(zip(_BLOB_COLUMNS, row, strict=True)) for row in rows]
    return {row.content_token: row.id for row in await tx.conn.execute(upsert, values)}


def _blob_row(tenant_id: str, blob: PreparedBlob, references: int, now: Instant) -> tuple[Any, ...]:
    return (
        blob.id,
        tenant_id,
        blob.content_token,
        blob.size,
        blob.stored_size,
        blob.data_key,
        blob.key_epoch,
        references,
        now,
    )


def _message_row(place: Place, message: PreparedMessage, blob_id: str, thread_id: str, flags: str) -> tuple[Any, ...]:
    return (
        message.id,
        place.tenant_id,
        place.mailbox_id,
        message.item_ref,
        message.anchor_at,
        message.anchor_source,
        message.internal_date_at,
        message.stored_at,
        message.size,
        flags,
        "\\Seen" in message.flags,
        "\\Flagged" in message.flags,
        message.has_files,
        thread_id,
        message.header_token,
        message.msgid_token,
        message.content_commit,
        message.msgid_commit,
        message.summary,
        message.data_key,
        message.key_epoch,
        blob_id,
        json.dumps(message.labels or ()),
        message.email_token,
    )


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
    actor: Actor = SERVER,
    original: str | None = None,
    tombstone: bool = False,
) -> tuple[list[str], list[str]]:
    """End copies otherwise than by retention; (removed, kept). Kept: pinned or held by now; they lose their originals
    and stay. Ids that are gone by now are in neither.

    `reason` and `original` are those of `retention.ledger.leaves.item_remove`. With `tombstone` what is still at the
    server is not downloaded again. Of copies that a user deleted before, that is the reason, and their events were told
    then: they go, or stay, in silence.
    """
    columns = messages.c
    wanted = among(columns.id, ids, sqlite=tx.sqlite)
    # Lock first, then judge in a new statement: what committed while this waited for the locks is seen. The tenant's
    # lock keeps away a hold on the tenant or the mailbox, which locks no message.
    await tenants.lock(tx, tenant_id, shared=True)
    await tx.conn.execute(select(columns.id).where(wanted).order_by(columns.id).with_for_update())
    protecting = await active(tx.conn, tenant_id, now)
    query = select(
        columns.id,
        columns.mailbox_id,
        columns.item_ref,
        columns.header_token,
        columns.anchor_at,
        columns.blob_id,
        columns.indexed,
        columns.size,
        columns.content_commit,
        columns.msgid_commit,
        columns.deleted_at,
        or_(columns.pins > 0, protecting.held()).label("kept"),
    )
    rows = (await tx.conn.execute(query.where(wanted).order_by(columns.id))).all()
    kept = [row for row in rows if row.kept]
    going = [row for row in rows if not row.kept]
    if going and tombstone:
        await bury(tx, tenant_id, going, [reason] * len(going), at=now)
    freed = await end_copies(tx, tenant_id, going, now=now) if going else {}
    if kept:
        left = among(origins.c.message_id, [row.id for row in kept], sqlite=tx.sqlite)
        await tx.conn.execute(delete(origins).where(left))
    for row in going:
        log.write(
            tx,
            tenant_id,
            tenant_ref,
            leaves.item_remove,
            at=now,
            actor=actor,
            item_ref=row.item_ref,
            mailbox_ref=mailbox_id,
            content_commit=row.content_commit.hex(),
            msgid_commit=row.msgid_commit.hex(),
            reason=reason if row.deleted_at is None else USER_DELETED,
            pins=0,
            holds=0,
            blobs=leaves.Blobs(1, freed[row.id].freed, freed[row.id].bytes),
            method=_METHOD,
            original=original,
        )
        if row.deleted_at is None:
            ages = {"anchor_at": row.anchor_at}
            tx.emit(tenant_id, "message.deleted", at=now, mailbox_id=mailbox_id, message_id=row.id, payload=ages)
    payload = {"origin_present": False, "expires_at": None}
    for row in kept:
        if row.deleted_at is None:
            tx.emit(tenant_id, "message.updated", at=now, mailbox_id=mailbox_id, message_id=row.id, payload=payload)
    tx.count(tenant_id, copies=-len(going), storage_bytes=-sum(row.size for row in going))
    return [row.id for row in going], [row.id for row in kept]
