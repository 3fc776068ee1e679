"""The sync engine's port for disappearances and their guards (`mailgate.sync.port.Settling`) on the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.store import disappearances, guards
from mailgate.store.fenced import Fenced
from mailgate.store.transaction import Transaction
from mailgate.sync.actions import Pending, Settlement
from mailgate.sync.guards import Outcome
from mailgate.sync.incoming import Applied
from mailgate.sync.state import OpenGuard, Owner, PendingCount


class SqlSettling(Fenced):
    """Each method one transaction or one read."""

    async def unsettled(self, mailbox_id: str, now: Instant) -> tuple[list[PendingCount], list[OpenGuard]]:
        """The mailbox's folders when something waits in any of them, gone folders too, else none; and its guards that
        are not closed.
        """

        async def look(conn: AsyncConnection) -> tuple[list[PendingCount], list[OpenGuard]]:
            return await disappearances.counts(conn, mailbox_id, now), await guards.open_of(conn, mailbox_id)

        return await self._db.query(look)

    async def pending(self, folder_id: str, before: Instant, now: Instant, limit: int) -> list[Pending]:
        """Disappearances of a folder, seen before that instant, oldest first."""
        async with self._db.read() as conn:
            return await disappearances.pending(conn, folder_id, before, now, limit, sqlite=self._db.sqlite)

    async def settle(
        self, owner: Owner, settlements: Sequence[Settlement], now: Instant, believed: Mapping[str, int]
    ) -> Applied:
        """Believe disappearances. Pins and holds are judged again under the messages' locks."""
        tenant_ref, _ = await self._account(owner.mailbox_id)

        async def work(tx: Transaction) -> Applied:
            await disappearances.remember(tx, believed, now)
            return await disappearances.settle(tx, self._log, owner, tenant_ref, settlements, now)

        return await self._owned(owner, now, work)

    async def guard(self, owner: Owner, count: PendingCount, reason: str, now: Instant) -> OpenGuard:
        """The folder's guard for exactly what is gone from it now."""
        return await self._owned(owner, now, lambda tx: guards.stand(tx, owner, count, reason, now))

    async def close_guard(self, owner: Owner, guard_id: str, outcome: Outcome, now: Instant) -> None:
        """The guard is over."""
        await self._owned(owner, now, lambda tx: guards.close(tx, owner.tenant_id, guard_id, outcome, now))
