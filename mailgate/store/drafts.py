"""Drafts that a mail program saved again: a new UID with the Message-ID of one that just went is the same message, with
the same id and pins and other bytes. Mail programs save every few seconds; each time would be a message of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.errors import ConflictError
from mailgate.store import messages as copies
from mailgate.store.discard import prepare_end
from mailgate.store.expiry import COPY_COLUMNS, Horizon
from mailgate.store.schema import messages, origins
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import Draft, PreparedMessage
from mailgate.sync.state import FolderState

_M = messages.c


async def gone(
    conn: AsyncConnection, mailbox_id: str, folder: FolderState, uidvalidity: int, msgid_tokens: Iterable[bytes]
) -> dict[bytes, Draft]:
    """Drafts with these Message-IDs that went from the folder and stand nowhere, by keyed token."""
    other = origins.alias("other")
    stands = exists().where(other.c.message_id == _M.id, other.c.vanished_at.is_(None))
    found: dict[bytes, Draft] = {}
    for chunk in copies.chunks(sorted(set(msgid_tokens))):
        query = (
            select(_M.msgid_token, _M.id, _M.item_ref)
            .join(origins, origins.c.message_id == _M.id)
            .where(
                _M.mailbox_id == mailbox_id,
                _M.msgid_token.in_(chunk),
                _M.deleted_at.is_(None),
                origins.c.folder_id == folder.id,
                origins.c.uidvalidity == uidvalidity,
                origins.c.vanished_at.is_not(None),
                ~stands,
            )
            .order_by(origins.c.uid)
        )
        for row in await conn.execute(query):
            found[row.msgid_token] = Draft(row.id, row.item_ref)
    return found


async def replace(
    tx: Transaction, place: copies.Place, uidvalidity: int, prepared: Sequence[PreparedMessage], horizon: Horizon
) -> None:
    """These are new versions of copies. Raises ConflictError when one of them is gone by now: the next pass fetches its
    new version as a message of its own.
    """
    for message in prepared:
        mine = _M.id == message.id
        await tx.conn.execute(select(_M.id).where(mine).with_for_update())
        columns = (*COPY_COLUMNS, _M.item_ref, _M.blob_id, _M.size, _M.indexed)
        row = (await tx.conn.execute(select(*columns).where(mine))).one_or_none()
        if row is None:
            raise ConflictError("a draft went while its new version was read", slug="draft_gone")
        await copies.replace(tx, place, uidvalidity, message, horizon.now)
        end = await prepare_end(tx, place.tenant_id, [row], now=horizon.now)
        await end.drop_references()
        tx.count(place.tenant_id, copies=0, storage_bytes=message.size - row.size)
        now_row = (await tx.conn.execute(select(*COPY_COLUMNS).where(mine))).one()
        holds = await horizon.holds.count(tx.conn, {row.id: row.mailbox_id}, sqlite=tx.sqlite)
        expires_at = horizon.expires_at(now_row, holds[row.id])
        tx.emit(
            place.tenant_id,
            "message.updated",
            at=horizon.now,
            mailbox_id=place.mailbox_id,
            message_id=message.id,
            payload={"anchor_at": now_row.anchor_at, "expires_at": expires_at, "content_changed": True},
        )
