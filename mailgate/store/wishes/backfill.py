"""What the CRM asks of a whole mailbox: that older mail in the plan's window be fetched again, purged mail included.

A longer plan extends what is kept and brings nothing back by itself; only this does.
"""

from __future__ import annotations

from mailgate.actors import Actor
from mailgate.clock import Instant
from mailgate.errors import ConflictError, PreconditionError
from mailgate.store import backfills
from mailgate.store.database import Database
from mailgate.store.transaction import Transaction
from mailgate.store.wishes.locks import Locks


class Backfills:
    """The use case."""

    def __init__(self, db: Database, locks: Locks) -> None:
        self._db = db
        self._locks = locks

    async def ask(self, tenant_id: str, mailbox_id: str, days: int, now: Instant, actor: Actor) -> str:
        """Ask for the mail of so many days; the id of the run. While one is under way that reaches as far, that one.

        Raises NotFoundError; ConflictError (`mailbox_removed`, `mailbox_disabled`, `not_entitled`, `backfill_running`);
        PreconditionError `days_beyond_plan`.
        """

        async def work(tx: Transaction) -> str:
            mailbox = await self._locks.mailbox(tx, tenant_id, mailbox_id, now)
            mailbox.require_sync()
            holds = await self._locks.subscriptions.allowed_in(tx.conn, tenant_id, now)
            kept = holds.retention_days or 0
            if not 1 <= days <= kept:
                raise PreconditionError(
                    f"plan {holds.plan} keeps mail for {kept} days; ask for 1 to {kept}",
                    slug="days_beyond_plan",
                    plan=holds.plan,
                    most=kept,
                )
            under_way = await backfills.standing(tx.conn, mailbox_id)
            if under_way is None:
                return await backfills.request(tx, tenant_id, mailbox_id, days, now, actor)
            found, reaching = under_way
            if reaching < days:
                raise ConflictError(
                    f"a backfill of {reaching} days is under way; ask again when it is over",
                    slug="backfill_running",
                    run_id=found.run_id,
                )
            return found.run_id

        return await self._db.transact(work)
