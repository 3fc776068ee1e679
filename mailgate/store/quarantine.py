"""The rows of what was set aside: found, tried again, followed, listed. An entry is one of two kinds.

no bytes     `message_id` null; the entry hangs on the original's address and goes with it
bytes        `message_id` names a copy with an empty summary; the entry goes with the copy. That is a copy like any
             other: it has an anchor, is pinned and held, is purged with its own entry in the purge log

or it is of a copy that is whole but for its bytes (`mailgate.store.lost`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, delete, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate import __version__
from mailgate.clock import Instant
from mailgate.errors import NotFoundError
from mailgate.ids import new_id
from mailgate.messages.timed import untimed
from mailgate.store import lost, threads
from mailgate.store.database import Database
from mailgate.store.discard import forget_words
from mailgate.store.expiry import COPY_COLUMNS, Expiry
from mailgate.store.fenced import Fenced
from mailgate.store.messages import chunks
from mailgate.store.paging import Page, page_by_id
from mailgate.store.schema import blobs, folders, messages, quarantine
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import Aside, Batch, Cause, KeptCopy, Mended, PreparedBlob, Refilled, Retry
from mailgate.sync.state import Owner

_Q = quarantine.c
_ANY = select(_Q.id).where(_Q.mailbox_id == bindparam("mailbox")).limit(1)
# Made once: it is asked with each new message, and making it took longer than all else that is written of one.
_RESOLVED = delete(quarantine).where(
    _Q.folder_id == bindparam("folder"),
    _Q.message_id.is_(None),
    _Q.uidvalidity == bindparam("number"),
    _Q.uid.in_(bindparam("uids", expanding=True)),
)

BUILD = __version__
"""What failed with another version is tried once with this one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What was set aside, as clients see it. `retry_at`: a retry was asked for then, and waits."""

    id: str
    mailbox_id: str
    folder_id: str
    folder: str
    uidvalidity: int
    uid: int
    cause: Cause
    reason: str
    size: int | None
    message_id: str | None
    attempts: int
    first_seen_at: Instant
    last_seen_at: Instant
    retry_at: Instant | None


# Written with a batch.


async def set_aside(tx: Transaction, owner: Owner, batch: Batch, items: Sequence[Aside], kept: Collection[str]) -> None:
    """Put messages into quarantine, or say how the last attempt failed. `kept`: ids of the copies that were written
    now; of those that were not, somebody else has a copy already.
    """
    for item in items:
        if item.message_id is not None and item.message_id not in kept:
            continue
        values = {
            "reason": _text(item.reason),
            "cause": item.cause.value,
            "size": item.size,
            "header_token": item.header_token,
            "message_id": item.message_id,
            "build": BUILD,
            "limit_bytes": item.limit,
            "last_seen_at": batch.now,
        }
        if await _follow(tx, batch, item, values):
            continue
        statement = tx.insert(quarantine).values(
            id=new_id(batch.now),
            tenant_id=owner.tenant_id,
            mailbox_id=owner.mailbox_id,
            folder_id=batch.folder.id,
            uidvalidity=batch.uidvalidity,
            uid=item.uid,
            attempts=1,
            first_seen_at=batch.now,
            **values,
        )
        address = [_Q.folder_id, _Q.uidvalidity, _Q.uid]
        await tx.conn.execute(statement.on_conflict_do_update(index_elements=address, set_=values))


async def _follow(tx: Transaction, batch: Batch, item: Aside, values: dict[str, Any]) -> bool:
    """After a UIDVALIDITY change: the message is known by its header, and its entry moves to the new number."""
    if item.header_token is None or batch.folder.uidvalidity in (None, batch.uidvalidity):
        return False
    other = quarantine.alias("other")
    before = (
        select(_Q.id)
        .where(
            _Q.folder_id == batch.folder.id,
            _Q.uidvalidity != batch.uidvalidity,
            _Q.header_token.in_([item.header_token, untimed(item.header_token)]),
            _Q.message_id.is_(None),
            ~exists().where(
                other.c.folder_id == batch.folder.id, other.c.uidvalidity == batch.uidvalidity, other.c.uid == item.uid
            ),
        )
        .order_by(_Q.id)
        .limit(1)
    )
    entry_id = (await tx.conn.execute(before)).scalar_one_or_none()
    if entry_id is None:
        return False
    moved = update(quarantine).where(_Q.id == entry_id)
    at = {"uidvalidity": batch.uidvalidity, "uid": item.uid, "attempts": _Q.attempts + 1}
    await tx.conn.execute(moved.values({**values, **at}))
    return True


async def resolve(tx: Transaction, batch: Batch, uids: Sequence[int]) -> None:
    """These stand in the folder and have a copy or a tombstone now."""
    for chunk in chunks(uids):
        here = {"folder": batch.folder.id, "number": batch.uidvalidity, "uids": chunk}
        await tx.conn.execute(_RESOLVED, here)


async def forget_folder(tx: Transaction, folder_id: str, *, but: int | None = None) -> None:
    """What was set aside in the folder is void, except under this UIDVALIDITY; if it is there, it is found again."""
    mine = _at(folder_id)
    await tx.conn.execute(delete(quarantine).where(mine if but is None else mine & (_Q.uidvalidity != but)))


async def forget_mailbox(tx: Transaction, mailbox_id: str) -> None:
    """The account is no longer connected: nothing is left to fetch."""
    await tx.conn.execute(delete(quarantine).where(_Q.mailbox_id == mailbox_id, _Q.message_id.is_(None)))


def _text(reason: str) -> str:
    """What a server said may be part of it: no character that a database or a terminal would stumble over."""
    return "".join(character if character.isprintable() else " " for character in reason[:500])


def _at(folder_id: str) -> ColumnElement[bool]:
    return and_(_Q.folder_id == folder_id, _Q.message_id.is_(None))


def unreadable(message_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether the copy could not be read, and may end whoever reads it."""
    return exists().where(_Q.message_id == message_id, _Q.cause == Cause.UNREADABLE.value)


async def retries(conn: AsyncConnection, mailbox_id: str, max_bytes: int, limit: int) -> list[Retry]:
    """What is to be tried again now, by folder."""
    if (await conn.execute(_ANY, {"mailbox": mailbox_id})).first() is None:
        return []
    too_large = _Q.cause == Cause.TOO_LARGE.value
    # What can't be asked for now would stand in the way of the others.
    there = and_(folders.c.followed, folders.c.gone_at.is_(None), folders.c.uidvalidity == _Q.uidvalidity)
    query = (
        select(
            quarantine,
            messages.c.item_ref,
            messages.c.data_key,
            messages.c.key_epoch,
            messages.c.blob_id,
            blobs.c.content_token,
            blobs.c.size.label("blob_size"),
            blobs.c.stored_size,
            blobs.c.data_key.label("blob_key"),
            blobs.c.key_epoch.label("blob_epoch"),
        )
        .join(folders, folders.c.id == _Q.folder_id)
        .outerjoin(messages, messages.c.id == _Q.message_id)
        .outerjoin(blobs, blobs.c.id == messages.c.blob_id)
        .where(
            _Q.mailbox_id == mailbox_id,
            _Q.cause != Cause.LOST.value,
            or_(_Q.message_id.is_not(None), there),
            or_(
                _Q.retry_at.is_not(None),
                and_(~too_large, _Q.build.is_distinct_from(BUILD)),
                and_(too_large, _Q.limit_bytes < max_bytes, _Q.size <= max_bytes),
            ),
        )
        .order_by(_Q.folder_id, _Q.id)
        .limit(limit)
    )
    found = [_retry(row) for row in await conn.execute(query)]
    return found + await lost.retries(conn, mailbox_id, limit)


class SqlQuarantine(Fenced):
    """The sync engine's port for retries (`mailgate.sync.port.QuarantineStore`)."""

    _expiry: Expiry

    async def begin_retry(self, owner: Owner, entry_id: str, max_bytes: int, now: Instant) -> None:
        """One more attempt."""
        tried = {"attempts": _Q.attempts + 1, "build": BUILD, "last_seen_at": now, "retry_at": None}
        limit = {"limit_bytes": max_bytes}

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(update(quarantine).where(_Q.id == entry_id).values({**tried, **limit}))

        await self._owned(owner, now, work)

    async def mend(self, owner: Owner, mended: Mended, now: Instant) -> None:
        """The copy says what its bytes say, is indexed anew, and is no longer set aside."""
        values = {
            "has_files": mended.has_files,
            "msgid_token": mended.msgid_token,
            "msgid_commit": mended.msgid_commit,
            "summary": mended.summary,
            "indexed": False,
        }
        mine = messages.c.id == mended.message_id

        async def work(tx: Transaction) -> None:
            await threads.lock(tx, owner.tenant_id)
            await tx.conn.execute(select(messages.c.id).where(mine).with_for_update())
            await tx.conn.execute(delete(quarantine).where(_Q.message_id == mended.message_id))
            row = (await tx.conn.execute(select(*COPY_COLUMNS).where(mine))).one_or_none()
            if row is None:
                return  # purged meanwhile
            await forget_words(tx, [row.id])
            await threads.unlink(tx, row.id)
            placed = await threads.place(tx, owner.tenant_id, [mended], now)
            await tx.conn.execute(update(messages).where(mine).values(values | {"thread_id": placed[row.id]}))
            await threads.link(tx, owner.tenant_id, [mended])
            horizon = await self._expiry.horizon(tx.conn, owner.tenant_id, now)
            holds = await horizon.holds.count(tx.conn, {row.id: row.mailbox_id}, sqlite=tx.sqlite)
            tx.emit(
                owner.tenant_id,
                "message.updated",
                at=now,
                mailbox_id=owner.mailbox_id,
                message_id=row.id,
                payload={"anchor_at": row.anchor_at, "expires_at": horizon.expires_at(row, holds[row.id])},
            )

        await self._owned(owner, now, work)

    async def refill(self, owner: Owner, came: Refilled, now: Instant) -> bool:
        """The bytes of a copy that had lost them came again; False where they are not the ones that it had."""
        fits = False

        async def work(tx: Transaction) -> None:
            nonlocal fits
            fits = await lost.refill(tx, owner.tenant_id, came, now)

        await self._owned(owner, now, work)
        return fits

    async def still_unreadable(self, owner: Owner, entry_id: str, reason: str, now: Instant) -> None:
        """The attempt failed, and why."""

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(update(quarantine).where(_Q.id == entry_id).values(reason=_text(reason)))

        await self._owned(owner, now, work)


def _retry(row: Row[Any]) -> Retry:
    kept = None
    if row.message_id is not None and row.blob_id is not None:
        blob = PreparedBlob(
            row.blob_id, row.content_token, row.blob_size, row.stored_size, row.blob_key, row.blob_epoch
        )
        kept = KeptCopy(row.message_id, row.item_ref, row.data_key, row.key_epoch, blob)
    return Retry(row.id, row.folder_id, row.uidvalidity, row.uid, kept)


# For the interface.


async def ask(db: Database, tenant_id: str, mailbox_id: str, entry_id: str, now: Instant) -> Entry:
    """Note that a retry is wanted; the mailbox's next pass makes it. Raises NotFoundError."""

    async def work(tx: Transaction) -> None:
        mine = (_Q.id == entry_id) & (_Q.mailbox_id == mailbox_id) & (_Q.tenant_id == tenant_id)
        wanted = update(quarantine).where(mine).values(retry_at=now)
        if (await tx.conn.execute(wanted)).rowcount != 1:
            raise _unknown(entry_id)

    await db.transact(work)
    return await get(db, tenant_id, mailbox_id, entry_id)


async def get(db: Database, tenant_id: str, mailbox_id: str, entry_id: str) -> Entry:
    """One entry. Raises NotFoundError."""
    async with db.read() as conn:
        query = _view(tenant_id, mailbox_id).where(_Q.id == entry_id)
        row = (await conn.execute(query)).one_or_none()
    if row is None:
        raise _unknown(entry_id)
    return _show(row)


async def list_page(
    db: Database, tenant_id: str, mailbox_id: str, *, after: str | None = None, limit: int
) -> Page[Entry]:
    """What of the mailbox is set aside, newest first."""
    query = _view(tenant_id, mailbox_id)
    return await page_by_id(db, query, _Q.id, _show, after=after, limit=limit)


def _view(tenant_id: str, mailbox_id: str) -> Select[Any]:
    query = select(quarantine, folders.c.name.label("folder")).join(folders, folders.c.id == _Q.folder_id)
    return query.where(_Q.tenant_id == tenant_id, _Q.mailbox_id == mailbox_id)


def _show(row: Row[Any]) -> Entry:
    return Entry(
        id=row.id,
        mailbox_id=row.mailbox_id,
        folder_id=row.folder_id,
        folder=row.folder,
        uidvalidity=row.uidvalidity,
        uid=row.uid,
        cause=Cause(row.cause),
        reason=row.reason,
        size=row.size,
        message_id=row.message_id,
        attempts=row.attempts,
        first_seen_at=row.first_seen_at,
        last_seen_at=row.last_seen_at,
        retry_at=row.retry_at,
    )


def _unknown(entry_id: str) -> NotFoundError:
    return NotFoundError(f"nothing is set aside as {entry_id}; perhaps a retry succeeded", slug="entry_not_found")
