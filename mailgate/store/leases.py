"""Leases: one owner at a time for a mailbox, a purge, a signer; with a fencing number that grows with every change of
owner.

A process that stalls and wakes up after its lease ran out finds in its next write that the number moved on
(`require`), so it can't undo what the new owner did. Killing an owner costs at most one lease time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, case, select, update
from sqlalchemy.dialects import postgresql, sqlite

from mailgate.clock import DAY, Instant
from mailgate.errors import ConflictError
from mailgate.store.database import Database
from mailgate.store.schema import leases
from mailgate.store.transaction import Transaction

LONGEST: Instant = 30 * DAY
"""No lease is taken for longer (the longest is one that outlasts the sending of a very large message over a very slow
line): one that reaches farther was taken before the clock was set back, and holds nobody up.
"""

_HELD = (
    select(leases.c.owner, leases.c.fence, leases.c.expires_at)
    .where(leases.c.name == bindparam("lease"))
    .with_for_update(read=True)
)


def _acquiring(insert: postgresql.Insert | sqlite.Insert) -> Any:
    """One statement decides: an insert, or an update that applies only to our own lease or one that ran out."""
    mine = leases.c.owner == bindparam("process")
    return (
        insert.values(name=bindparam("lease"), owner=bindparam("process"), fence=1, expires_at=bindparam("until"))
        .on_conflict_do_update(
            index_elements=[leases.c.name],
            set_={
                "owner": bindparam("process"),
                "fence": leases.c.fence + case((mine, 0), else_=1),
                "expires_at": bindparam("until"),
            },
            where=mine | (leases.c.expires_at <= bindparam("at")) | (leases.c.expires_at > bindparam("farthest")),
        )
        .returning(leases.c.fence)
    )


# Made once, for each database: every mailbox asks for its lease at the start.
_ACQUIRE = {True: _acquiring(sqlite.insert(leases)), False: _acquiring(postgresql.insert(leases))}


def living(now: Instant) -> ColumnElement[bool]:
    """Whether somebody has the lease."""
    return and_(leases.c.expires_at > now, leases.c.expires_at <= now + LONGEST)


class LeaseLostError(ConflictError):
    """Somebody else owns this by now; what was about to be written must not be."""

    default_slug = "lease_lost"


async def acquire(db: Database, name: str, owner: str, ttl: Instant, now: Instant) -> int | None:
    """Take the lease for `ttl` microseconds, or take it again; the fencing number, or None while another owner has
    it.
    """

    async def work(tx: Transaction) -> int | None:
        return await acquire_in(tx, name, owner, ttl, now)

    return await db.transact(work)


async def acquire_in(tx: Transaction, name: str, owner: str, ttl: Instant, now: Instant) -> int | None:
    """`acquire` inside a transaction."""
    wanted = {"lease": name, "process": owner, "until": now + ttl, "at": now, "farthest": now + LONGEST}
    fence: int | None = (await tx.conn.execute(_ACQUIRE[tx.sqlite], wanted)).scalar_one_or_none()
    return fence


async def renew(db: Database, name: str, owner: str, fence: int, ttl: Instant, now: Instant) -> bool:
    """Extend the lease; False when it is no longer ours. A lease that ran out but that nobody took is extended."""

    async def work(tx: Transaction) -> bool:
        mine = (leases.c.name == name) & (leases.c.owner == owner) & (leases.c.fence == fence)
        result = await tx.conn.execute(update(leases).where(mine).values(expires_at=now + ttl))
        return result.rowcount == 1

    return await db.transact(work)


async def release(db: Database, name: str, owner: str, fence: int) -> None:
    """Give the lease back at once. Keeps the row, so that the fencing number never falls."""

    async def work(tx: Transaction) -> None:
        mine = (leases.c.name == name) & (leases.c.owner == owner) & (leases.c.fence == fence)
        await tx.conn.execute(update(leases).where(mine).values(expires_at=0))

    await db.transact(work, at_once=True)


async def release_ended(db: Database, owners: Sequence[str]) -> int:
    """Free everything that these owners had, which are known to have ended; how many leases that were."""
    if not owners:
        return 0

    async def work(tx: Transaction) -> int:
        theirs = leases.c.owner.in_(owners) & (leases.c.expires_at > 0)
        return (await tx.conn.execute(update(leases).where(theirs).values(expires_at=0))).rowcount

    return await db.transact(work)


async def require(tx: Transaction, name: str, owner: str, fence: int, now: Instant) -> None:
    """Check inside a transaction that the lease is still ours, and keep it so until the commit. Raises
    LeaseLostError.
    """
    row = (await tx.conn.execute(_HELD, {"lease": name})).one_or_none()
    if row is None or row.owner != owner or row.fence != fence or row.expires_at <= now:
        raise LeaseLostError(f"the lease {name} has another owner by now")
