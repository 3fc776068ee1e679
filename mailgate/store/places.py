"""Telling of messages whose folders changed though nothing else did: an original of several came or went, a folder with
all that is in it. What the feed shows of a message includes its folders, so each such change has its event.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, exists, select

from mailgate.clock import Instant
from mailgate.store.schema import messages, origins
from mailgate.store.sets import among
from mailgate.store.transaction import Transaction


def has_another() -> ColumnElement[bool]:
    """Whether the message of a row of `origins` has another original, standing or not."""
    other = origins.alias("another")
    apart = (other.c.folder_id != origins.c.folder_id) | (other.c.uid != origins.c.uid)
    return exists().where(other.c.message_id == origins.c.message_id, apart).correlate(origins)


async def tell(
    tx: Transaction, tenant_id: str, mailbox_id: str, where: Any, now: Instant, *, moving: bool = False
) -> None:
    """An event for each message with an original of which this holds, but for those that users deleted, and those that
    are on their way somewhere: they show in that folder only, wherever their originals are meanwhile. With `moving`
    these too: whether the server has them at all changed.
    """
    query = (
        select(messages.c.id)
        .join(origins, origins.c.message_id == messages.c.id)
        .where(where, messages.c.deleted_at.is_(None))
        .distinct()
        .order_by(messages.c.id)
    )
    if not moving:
        query = query.where(messages.c.moving_to.is_(None))
    for message_id in (await tx.conn.execute(query)).scalars().all():
        tx.emit(tenant_id, "message.updated", at=now, mailbox_id=mailbox_id, message_id=message_id)


async def tell_of(tx: Transaction, tenant_id: str, mailbox_id: str, ids: Collection[str], now: Instant) -> None:
    """An event for each of these messages that is there, but for those that users deleted."""
    wanted = among(messages.c.id, ids, sqlite=tx.sqlite)
    query = select(messages.c.id).where(wanted, messages.c.deleted_at.is_(None)).order_by(messages.c.id)
    for message_id in (await tx.conn.execute(query)).scalars().all() if ids else ():
        tx.emit(tenant_id, "message.updated", at=now, mailbox_id=mailbox_id, message_id=message_id)


async def tell_arrived(
    tx: Transaction, tenant_id: str, mailbox_id: str, folder_of: Mapping[str, str], now: Instant
) -> None:
    """An event for each of these messages, which were on their way to a folder and are no more, that stands in another
    folder as well: from now on it shows there, too.
    """
    query = (
        select(origins.c.message_id, origins.c.folder_id)
        .join(messages, messages.c.id == origins.c.message_id)
        .where(among(origins.c.message_id, folder_of, sqlite=tx.sqlite))
        .where(origins.c.vanished_at.is_(None), messages.c.moving_to.is_(None))
    )
    rows = (await tx.conn.execute(query)).all() if folder_of else ()
    elsewhere = {row.message_id for row in rows if row.folder_id != folder_of[row.message_id]}
    await tell_of(tx, tenant_id, mailbox_id, elsewhere, now)
