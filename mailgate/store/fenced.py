"""Writing for a mailbox's sync: only while its lease is ours, and only while the mailbox is switched on.

Lock order of every write: the lease (shared) → the mailbox → messages by id → heads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from sqlalchemy import bindparam, select

from mailgate.clock import Instant
from mailgate.errors import ConflictError
from mailgate.store import leases
from mailgate.store.database import Database
from mailgate.store.log import PurgeLog
from mailgate.store.schema import mailboxes, tenants
from mailgate.store.transaction import Transaction
from mailgate.sync.state import Owner

T = TypeVar("T")


LEASE_PREFIX: Final = "mailbox:"

_SWITCH = (
    select(mailboxes.c.enabled, mailboxes.c.removed_at)
    .where(mailboxes.c.id == bindparam("mailbox"))
    .with_for_update(key_share=True)
)


def lease_name(mailbox_id: str) -> str:
    """The lease of a mailbox's sync."""
    return LEASE_PREFIX + mailbox_id


class MailboxOffError(ConflictError):
    """The mailbox was switched off or removed meanwhile; nothing more is written for its sync."""

    default_slug = "mailbox_disabled"


class Fenced:
    """Base of what implements the sync engine's ports."""

    def __init__(self, db: Database, log: PurgeLog) -> None:
        self._db = db
        self._log = log
        self._accounts: dict[str, tuple[str, bytes]] = {}

    async def _owned(
        self, owner: Owner, now: Instant, work: Callable[[Transaction], Awaitable[T]], *, long: bool = False
    ) -> T:
        """One fenced transaction: the lease is ours until the commit, and the mailbox is still switched on. `work`
        awaits nothing but its statements. `long`: it writes so much that no other should be committed with it.
        """

        async def guarded(tx: Transaction) -> T:
            await leases.require(tx, lease_name(owner.mailbox_id), owner.process, owner.fence, now)
            row = (await tx.conn.execute(_SWITCH, {"mailbox": owner.mailbox_id})).one_or_none()
            if row is None or row.removed_at is not None or not row.enabled:
                raise MailboxOffError(f"mailbox {owner.mailbox_id} was switched off")
            return await work(tx)

        return await self._db.transact(guarded, at_once=True, long=long)

    async def _account(self, mailbox_id: str) -> tuple[str, bytes]:
        """Tenant reference and account reference of a mailbox; read once, and again by each `load`."""
        known = self._accounts.get(mailbox_id)
        if known is None:
            query = (
                select(tenants.c.ref, mailboxes.c.account_ref)
                .join(tenants, tenants.c.id == mailboxes.c.tenant_id)
                .where(mailboxes.c.id == mailbox_id)
            )
            async with self._db.read() as conn:
                row = (await conn.execute(query)).one()
            known = self._accounts[mailbox_id] = (row.ref, row.account_ref)
        return known
