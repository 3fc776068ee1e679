"""What a tenant uses of what its plan allows, counted exactly."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.errors import ConflictError
from mailgate.store import plan_limits
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry
from mailgate.store.schema import mailboxes, messages, tenant_heads
from mailgate.store.sending import allowance


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of the copies that are served, connected mailboxes, how many users (seats) they have, and how many messages
    were accepted for sending in this calendar month.
    """

    storage_bytes: int
    mailboxes: int
    users: int
    sent: int


async def usage(db: Database, expiry: Expiry, tenant_id: str, now: Instant) -> Usage:
    """What is used now; what is expired but not purged yet no longer counts."""
    connected = (mailboxes.c.tenant_id == tenant_id) & mailboxes.c.removed_at.is_(None)
    async with db.read() as conn:
        size = await storage(conn, expiry, tenant_id, now)
        count = (await conn.execute(select(func.count()).where(connected))).scalar_one()
        sent = sum(await allowance.used(conn, tenant_id, now))
        return Usage(size, int(count), await plan_limits.users(conn, tenant_id), sent)


async def storage(conn: AsyncConnection, expiry: Expiry, tenant_id: str, now: Instant) -> int:
    """Bytes of the copies that are served: the sum of their originals' sizes."""
    kept = select(tenant_heads.c.storage_bytes).where(tenant_heads.c.tenant_id == tenant_id)
    horizon = await expiry.horizon(conn, tenant_id, now)
    gone = select(func.coalesce(func.sum(messages.c.size), 0)).where(
        messages.c.tenant_id == tenant_id, horizon.expired()
    )
    return int((await conn.execute(kept)).scalar_one()) - int((await conn.execute(gone)).scalar_one())


async def require_storage(conn: AsyncConnection, expiry: Expiry, tenant_id: str, message_id: str, now: Instant) -> None:
    """Raise ConflictError (storage_exceeded) when a tenant without a paid plan uses more than it may, with this copy
    if it does not count yet because it is expired: then all can be read and deleted, and nothing added.

    On a plan with synchronization nothing is refused: mail comes in whatever the limit says, and `usage` shows it.
    """
    holds = await expiry.subscriptions.allowed_in(conn, tenant_id, now)
    allowed = None if holds.limits is None else holds.limits.storage_bytes
    if holds.sync or allowed is None:
        return
    horizon = await expiry.horizon(conn, tenant_id, now)
    uncounted = select(messages.c.size).where(messages.c.id == message_id, horizon.expired())
    comes_back = (await conn.execute(uncounted)).scalar_one_or_none() or 0
    used = await storage(conn, expiry, tenant_id, now) + int(comes_back)
    if used > allowed:
        raise ConflictError(
            f"plan {holds.plan} allows {allowed} bytes, and this would make it {used}: delete messages, or upgrade",
            slug="storage_exceeded",
            storage_bytes=used,
            allowed_bytes=allowed,
        )
