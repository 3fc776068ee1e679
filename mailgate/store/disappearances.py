"""Originals that are gone from their folders and wait: it may be a move. Counting, reading and believing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, and_, case, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.model import SpecialUse
from mailgate.clock import Instant
from mailgate.store import messages
from mailgate.store.holds import active
from mailgate.store.log import PurgeLog
from mailgate.store.recognition import has_gone
from mailgate.store.schema import folders, origins
from mailgate.store.schema import messages as messages_table
from mailgate.store.transaction import Transaction
from mailgate.sync import guards
from mailgate.sync.actions import Detach, Drop, Pending, Remove, Settlement
from mailgate.sync.incoming import Applied
from mailgate.sync.state import Owner, PendingCount


async def counts(conn: AsyncConnection, mailbox_id: str, now: Instant) -> list[PendingCount]:
    """The mailbox's folders when something waits in any of them; gone folders too, when something waits in them."""
    if not await has_gone(conn, mailbox_id):
        return []
    waiting = (origins.c.mailbox_id == mailbox_id) & origins.c.vanished_at.is_not(None)
    evidence = func.count(case((is_evidence(), 1)))
    by_folder = (
        select(origins.c.folder_id, evidence.label("gone"), func.max(origins.c.vanished_at).label("latest"))
        .join(messages_table, messages_table.c.id == origins.c.message_id)
        .where(waiting)
        .group_by(origins.c.folder_id)
    )
    gone = {row.folder_id: row for row in await conn.execute(by_folder)}
    somewhere = folders.c.id.in_(select(origins.c.folder_id).where(waiting))
    query = select(folders.c.id, folders.c.name, folders.c.special_use, folders.c.believed, folders.c.gone_at).where(
        folders.c.mailbox_id == mailbox_id, or_(folders.c.gone_at.is_(None), somewhere)
    )
    rows = (await conn.execute(query.order_by(folders.c.name))).all()
    recent = {row.id: guards.recent(row.believed or (), now) for row in rows}
    known: dict[str, int] = {}
    if sum(recent.values()) + sum(row.gone for row in gone.values()) > guards.FEW:  # else nothing can be refused
        stood = select(origins.c.folder_id, func.count()).join(folders, folders.c.id == origins.c.folder_id)
        by_id = stood.where(folders.c.mailbox_id == mailbox_id).group_by(origins.c.folder_id)
        known = {row[0]: row[1] for row in await conn.execute(by_id)}
    return [
        PendingCount(
            folder_id=row.id,
            folder=row.name,
            special_use=None if row.special_use is None else SpecialUse(row.special_use),
            known=known.get(row.id, 0),
            gone=gone[row.id].gone if row.id in gone else 0,
            latest_at=gone[row.id].latest if row.id in gone else None,
            recent=recent[row.id],
            listed=row.gone_at is None,
        )
        for row in rows
    ]


def is_evidence() -> ColumnElement[bool]:
    """Whether an original of `origins`, gone, with its row of `messages`, tells of a deletion by somebody else: not
    when the CRM asked for it, nor when the copy has another original that stands.
    """
    other = origins.alias("other")
    stands = exists().where(other.c.message_id == messages_table.c.id, other.c.vanished_at.is_(None))
    return and_(messages_table.c.deleted_at.is_(None), messages_table.c.moving_to.is_(None), ~stands)


async def remember(tx: Transaction, believed: Mapping[str, int], now: Instant) -> None:
    """Count what is believed now of each folder, for the guards of the next hour."""
    for folder_id, count in believed.items():
        mine = folders.c.id == folder_id
        before = (await tx.conn.execute(select(folders.c.believed).where(mine))).scalar_one()
        slices = guards.remember(before or (), now, count)
        await tx.conn.execute(update(folders).where(mine).values(believed=slices))


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
        select(
            origins,
            messages_table.c.pins,
            messages_table.c.deleted_at,
            messages_table.c.moving_to,
            standing.label("elsewhere"),
        )
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
            asked=row.deleted_at is not None or row.moving_to is not None,
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
