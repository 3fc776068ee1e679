"""Time-stamps beside checkpoints: which are missing, what came of asking for them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, desc, func, select, update

from mailgate.store.database import Database
from mailgate.store.schema import log_checkpoints
from mailgate.store.transaction import Transaction

_P = log_checkpoints.c
_LONGEST_ERROR = 500


@dataclass(frozen=True, slots=True)
class Unstamped:
    """The newest checkpoint of a log, without a stamp."""

    tenant_id: str
    size: int
    note: bytes


@dataclass(frozen=True, slots=True)
class Stamped:
    """A checkpoint, and the authority's answer about its bytes."""

    size: int
    note: bytes
    stamp: bytes


async def missing(db: Database) -> list[Unstamped]:
    """Logs whose newest checkpoint has no stamp. Older ones don't need one: the newest covers what they do."""
    newest = select(_P.tenant_id, func.max(_P.size).label("size")).group_by(_P.tenant_id).subquery()
    query = (
        select(_P.tenant_id, _P.size, _P.note)
        .join(newest, and_(newest.c.tenant_id == _P.tenant_id, newest.c.size == _P.size))
        .where(_P.stamp.is_(None))
        .order_by(_P.tenant_id)
    )
    async with db.read() as conn:
        return [Unstamped(row.tenant_id, row.size, row.note.encode()) for row in (await conn.execute(query)).all()]


async def keep(db: Database, of: Unstamped, stamp: bytes | None, error: str | None) -> None:
    """Record what came of asking: the stamp, or why there is none."""
    values = {"stamp": stamp, "stamp_error": None if error is None else error[:_LONGEST_ERROR]}

    async def work(tx: Transaction) -> None:
        same = and_(_P.tenant_id == of.tenant_id, _P.size == of.size, _P.stamp.is_(None))
        await tx.conn.execute(update(log_checkpoints).where(same).values(values))

    await db.transact(work)


async def newest(db: Database, tenant_id: str, size: int) -> Stamped | None:
    """The newest checkpoint of a log that has a stamp, of those up to this size."""
    query = (
        select(_P.size, _P.note, _P.stamp)
        .where(_P.tenant_id == tenant_id, _P.size <= size, _P.stamp.is_not(None))
        .order_by(desc(_P.size))
        .limit(1)
    )
    async with db.read() as conn:
        row = (await conn.execute(query)).one_or_none()
    return None if row is None else Stamped(row.size, row.note.encode(), row.stamp)
