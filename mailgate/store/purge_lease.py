"""The lease under which one process at a time purges, checked and extended in every transaction of a run."""

from __future__ import annotations

from sqlalchemy import update

from mailgate.clock import SECOND, Instant
from mailgate.store import leases
from mailgate.store.database import Database
from mailgate.store.leases import LeaseLostError
from mailgate.store.schema import leases as table
from mailgate.store.transaction import Transaction

NAME = "purge"
TTL: Instant = 60 * SECOND


class PurgeLease:
    """The purge's lease as one process holds it, or does not."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._fence: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process believes that it has the lease; only a transaction proves it."""
        return self._fence is not None

    async def acquire(self, db: Database, now: Instant) -> bool:
        """Take the lease; False while another process has it."""
        self._fence = await leases.acquire(db, NAME, self._owner, TTL, now)
        return self._fence is not None

    async def release(self, db: Database) -> None:
        """Give it back."""
        if self._fence is not None:
            fence, self._fence = self._fence, None
            await leases.release(db, NAME, self._owner, fence)

    async def keep(self, tx: Transaction, now: Instant) -> None:
        """Extend the lease in the transaction that does the work. Raises LeaseLostError when it is another's."""
        mine = (table.c.name == NAME) & (table.c.owner == self._owner) & (table.c.fence == self._fence)
        extended = update(table).where(mine, table.c.expires_at > 0).values(expires_at=now + TTL)
        if self._fence is None or (await tx.conn.execute(extended)).rowcount != 1:
            self._fence = None
            raise LeaseLostError("another process purges by now")
