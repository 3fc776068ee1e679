"""Originals that are gone from their folders and wait: it may be a move. Counting, reading and believing them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.model import SpecialUse
from mailgate.clock import Instant
from mailgate.store import messages
from mailgate.store.holds import active
from mailgate.store.log import PurgeLog
from mailgate.store.schema import folders, origins
from mailgate.store.schema import messages as messages_table
from mailgate.store.transaction import Transaction
from mailgate.sync.actions import Detach, Drop, Pending, Remove, Settlement
from mailgate.sync.port import Applied, Owner, PendingCount


async def counts(conn: AsyncConnection, mailbox_id: str) -> list[PendingCount]:
    """Folders with disappearances that wait; gone folders too."""
    waiting = (
        select(origins.c.folder_id)
        .where(origins.c.mailbox_id == mailbox_id, origins.c.vanished_at.is_not(None))
        .distinct()
    )
    query = (
        select(
            folders.c.id,
            folders.c.name,
            folders.c.special_use,
            func.count().label("known"),
            func.count(origins.c.vanished_at).label("gone"),
            func.max(origins.c.vanished_at).label("latest"),
        )
        .join(folders, folders.c.id == origins.c.folder_id)
        .where(origins.c.folder_id.in_(waiting))
        .group_by(folders.c.id, folders.c.name, folders.c.special_use)
        .order_by(folders.c.name)
    )
    if (await conn.execute(waiting.limit(1))).first() is None:
        return []
    return [
        PendingCount(
            folder_id=row.id,
            folder=row.name,
            special_use=None if row.special_use is None else SpecialUse(row.special_use),
            known=row.known,
            gone=row.gone,
            latest_at=row.latest,
        )
        for row in await conn.execute(query)
    ]


async def pending(
    conn: AsyncConnection, folder_id: str, before: Instant, now: Instant, limit: int, *, sqlite: bool
) -> list[Pending]:
    """Disappearances of a folder, seen before that instant, oldest first."""
    other = origins.alias("other")
    standing = (
        select(other.c.uid)
        .where(other.c.message_id == origins.c.message_id, other.c.vanished_at.is_(None))
        .correlate(origins)
        .exists()
    )
    query = (
        select(origins, messages_table.c.pins, standing.label("elsewhere"))
        .join(messages_table, messages_table.c.id == origins.c.message_id)
        .where(origins.c.folder_id == folder_id, origins.c.vanished_at < before)
        .order_by(origins.c.vanished_at, origins.c.uid)
        .limit(limit)
    )
    rows = (await conn.execute(query)).all()
    if not rows:
        return []
    holding = await active(conn, rows[0].tenant_id, now)
    held = await holding.count(conn, {row.message_id: row.mailbox_id for row in rows}, sqlite=sqlite)
    return [
        Pending(
            folder_id=row.folder_id,
            uid=row.uid,
            uidvalidity=row.uidvalidity,
            message_id=row.message_id,
            vanished_at=row.vanished_at,
            kept=row.pins > 0 or held[row.message_id] > 0,
            other_origin=row.elsewhere,
        )
        for row in rows
    ]


async def settle(
    tx: Transaction, log: PurgeLog, owner: Owner, tenant_ref: str, settlements: Sequence[Settlement], now: Instant
) -> Applied:
    """Believe disappearances. Pins and holds are judged again under the messages' locks."""
    for item in settlements:
        if isinstance(item, Drop):
            await tx.conn.execute(
                delete(origins).where(
                    origins.c.folder_id == item.folder_id,
                    origins.c.uid == item.uid,
                    origins.c.uidvalidity == item.uidvalidity,
                    origins.c.vanished_at.is_not(None),
                )
            )
    ids = sorted({item.message_id for item in settlements if isinstance(item, Remove | Detach)})
    if not ids:
        return Applied()
    gone, _kept = await messages.remove(
        tx,
        log,
        tenant_id=owner.tenant_id,
        tenant_ref=tenant_ref,
        mailbox_id=owner.mailbox_id,
        ids=ids,
        reason="remote_expunged",
        now=now,
    )
    return Applied(removed=len(gone))
