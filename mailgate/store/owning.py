"""What the supervisor asks of the database: which mailboxes may run, who owns them, and how they say they are.

It asks every second, for all mailboxes of the installation. So the list of them is read again only when a mark over it
changed, and what is written for many mailboxes goes into one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, case, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import SECOND, Instant
from mailgate.store import backfills, leases, sync_runs
from mailgate.store.database import Database
from mailgate.store.fenced import Fenced, lease_name
from mailgate.store.log import PurgeLog
from mailgate.store.messages import chunks
from mailgate.store.outages import outage
from mailgate.store.schema import leases as leases_table
from mailgate.store.schema import mailboxes, operations, subscription_events
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.transaction import Transaction
from mailgate.sync.state import MailboxHead, MailboxState, Owner, Progress
from mailgate.tenants.entitlements import Entitlements

_RECHECK = 10 * SECOND
"""How long what was read is trusted while its mark stands: entitlements also change by mere passing of time."""

_C = mailboxes.c

# Each such change raises config_version; a new mailbox has the highest id, or else is one more.
_COUNTED = select(func.count(), func.sum(_C.config_version), func.max(_C.id)).where(_C.removed_at.is_(None))
_RECORDED = select(func.count(), func.max(subscription_events.c.id))
_ASKED = (
    select(operations.c.mailbox_id, func.max(operations.c.seq))
    .where(operations.c.finished_at.is_(None))
    .group_by(operations.c.mailbox_id)
)
_SAID = (
    select(_C.tenant_id, _C.state, _C.state_reason, _C.config_version)
    .where(
        _C.id == bindparam("mailbox"),
        _C.removed_at.is_(None),
        _C.enabled == bindparam("on"),
    )
    .with_for_update(key_share=True)
)

_SAY = (
    update(mailboxes)
    .where(_C.id == bindparam("mailbox"))
    .values(
        state=bindparam("now_state"),
        state_reason=bindparam("reason"),
        state_changed_at=case((_C.state == bindparam("now_state"), _C.state_changed_at), else_=bindparam("now")),
    )
)


class SqlOwning(Fenced):
    """The part of `SyncStore` that concerns mailboxes as a whole."""

    def __init__(self, db: Database, log: PurgeLog, subscriptions: Subscriptions) -> None:
        super().__init__(db, log)
        self._subscriptions = subscriptions
        self._heads: tuple[object, Instant, Sequence[MailboxHead]] = (None, 0, ())

    async def heads(self, now: Instant) -> Sequence[MailboxHead]:
        """Every mailbox that was not removed; the same sequence again while nothing changed that the supervisor has to
        notice, at most ten seconds old.
        """

        async def marked(conn: AsyncConnection) -> object:
            return (*(await conn.execute(_COUNTED)).one(), *(await conn.execute(_RECORDED)).one())

        mark = await self._db.query(marked)
        if self._heads[0] != mark or not 0 <= now - self._heads[1] < _RECHECK:
            self._heads = (mark, now, await self._read_heads(now))
        return self._heads[2]

    async def _read_heads(self, now: Instant) -> Sequence[MailboxHead]:
        query = select(_C.id, _C.tenant_id, _C.enabled, _C.config_version, _C.state, _C.state_reason)
        async with self._db.read() as conn:
            rows = (await conn.execute(query.where(_C.removed_at.is_(None)))).all()
        holds = await self._subscriptions.all_allowed(now)
        return [self._head(row, holds) for row in rows]

    @staticmethod
    def _head(row: Any, of_tenants: Mapping[str, Entitlements]) -> MailboxHead:
        holds = of_tenants.get(row.tenant_id)
        return MailboxHead(
            id=row.id,
            tenant_id=row.tenant_id,
            enabled=row.enabled,
            config_version=row.config_version,
            state=row.state,
            state_reason=row.state_reason,
            plan=holds.plan if holds else "free",
            entitled=holds is not None and holds.known and holds.sync,
        )

    @staticmethod
    def outage(error: Exception) -> str | None:
        """What is wrong with the database and what to do, if that is why a call raised this."""
        return outage(error)

    # Ownership.

    async def acquire(self, mailbox_id: str, tenant_id: str, process: str, ttl: Instant, now: Instant) -> Owner | None:
        """Take the mailbox's lease; None while another process has it."""

        async def work(tx: Transaction) -> Owner | None:
            fence = await leases.acquire_in(tx, lease_name(mailbox_id), process, ttl, now)
            if fence is None:
                return None
            await sync_runs.fail_cut(tx, mailbox_id, now)
            return Owner(mailbox_id, tenant_id, process, fence)

        return await self._db.transact(work, at_once=True)

    async def renew(self, owners: Sequence[Owner], ttl: Instant, now: Instant) -> list[Owner]:
        """Extend these leases, in one transaction; returns those that were lost."""
        table = leases_table

        async def work(tx: Transaction) -> list[Owner]:
            kept: set[tuple[str, str, int]] = set()
            # By name, so that two processes that renew at once lock rows in the same order.
            for chunk in chunks(sorted(owners, key=lambda owner: owner.mailbox_id)):
                held = [(lease_name(owner.mailbox_id), owner.process, owner.fence) for owner in chunk]
                mine = tuple_(table.c.name, table.c.owner, table.c.fence).in_(held)
                extend = update(table).where(mine).values(expires_at=now + ttl)
                renewed = await tx.conn.execute(extend.returning(table.c.name, table.c.owner, table.c.fence))
                kept.update((row.name, row.owner, row.fence) for row in renewed)
            return [o for o in owners if (lease_name(o.mailbox_id), o.process, o.fence) not in kept]

        return await self._db.transact(work, at_once=True)

    async def leased_until(self, mailbox_id: str) -> Instant:
        """When the mailbox's lease runs out; 0 where nobody has had one."""
        table = leases_table.c
        async with self._db.read() as conn:
            query = select(table.expires_at).where(table.name == lease_name(mailbox_id))
            return (await conn.execute(query)).scalar_one_or_none() or 0

    async def release(self, owner: Owner) -> None:
        """Give the lease back."""
        await leases.release(self._db, lease_name(owner.mailbox_id), owner.process, owner.fence)

    async def let_go(self, owners: Sequence[Owner], reason: str, now: Instant) -> None:
        """Give these leases back in one transaction; mailboxes that still were theirs say connecting and why."""
        values = {"state": MailboxState.CONNECTING.value, "state_reason": reason, "state_changed_at": now}

        async def work(tx: Transaction) -> None:
            for owner in sorted(owners, key=lambda owner: owner.mailbox_id):
                try:
                    await leases.require(tx, lease_name(owner.mailbox_id), owner.process, owner.fence, now)
                except leases.LeaseLostError:
                    continue
                ours = (_C.id == owner.mailbox_id) & _C.enabled & _C.removed_at.is_(None)
                told = await tx.conn.execute(update(mailboxes).where(ours).values(values))
                if told.rowcount:
                    payload = {"state": MailboxState.CONNECTING.value, "reason": reason}
                    tx.emit(
                        owner.tenant_id,
                        "mailbox.state_changed",
                        at=now,
                        mailbox_id=owner.mailbox_id,
                        payload=payload,
                    )
                free = update(leases_table).where(leases_table.c.name == lease_name(owner.mailbox_id))
                await tx.conn.execute(free.values(expires_at=0))

        if owners:
            await self._db.transact(work, at_once=True)

    # What the mailbox says of itself.

    async def set_state(
        self,
        mailbox_id: str,
        state: MailboxState,
        reason: str | None,
        now: Instant,
        owner: Owner | None = None,
        *,
        config_version: int | None = None,
    ) -> None:
        """Write the state when it differs, with its event."""
        text = None if reason is None else reason[:500]

        async def work(tx: Transaction) -> None:
            if owner is not None:
                await leases.require(tx, lease_name(mailbox_id), owner.process, owner.fence, now)
            told = {"mailbox": mailbox_id, "on": state is not MailboxState.DISABLED}
            row = (await tx.conn.execute(_SAID, told)).one_or_none()
            if row is None or (row.state, row.state_reason) == (state.value, text):
                return
            if config_version is not None and config_version != row.config_version:
                return
            said = {"mailbox": mailbox_id, "now_state": state.value, "reason": text, "now": now}
            await tx.conn.execute(_SAY, said)
            if state is MailboxState.NOT_ENTITLED:
                # A plan that comes later brings nothing back by itself: who wants it asks again.
                await backfills.end(tx, mailbox_id, now, f"the mailbox was not entitled: {text}")
            if row.state != state.value:
                payload = {"state": state.value} if text is None else {"state": state.value, "reason": text}
                tx.emit(row.tenant_id, "mailbox.state_changed", at=now, mailbox_id=mailbox_id, payload=payload)

        await self._db.transact(work, at_once=True)

    async def checked(self, owner: Owner, now: Instant, *, imported: bool) -> None:
        """All folders agreed with the server at `now`; `imported`: the first import is complete (told once)."""
        columns = mailboxes.c

        async def work(tx: Transaction) -> None:
            mine = columns.id == owner.mailbox_id
            await tx.conn.execute(update(mailboxes).where(mine).values(last_checked_at=now))
            if not imported:
                return
            first = update(mailboxes).where(mine, columns.imported_at.is_(None)).values(imported_at=now)
            if (await tx.conn.execute(first)).rowcount == 1:
                tx.emit(owner.tenant_id, "mailbox.import_finished", at=now, mailbox_id=owner.mailbox_id)

        await self._owned(owner, now, work)

    async def open_operations(self) -> dict[str, int]:
        """Mailboxes with changes that the CRM asked for and that are not finished: the number of the last of them."""

        async def look(conn: AsyncConnection) -> dict[str, int]:
            return {row[0]: row[1] for row in (await conn.execute(_ASKED)).all()}

        return await self._db.query(look)

    async def checked_many(self, checked: Mapping[Owner, Instant]) -> None:
        """These mailboxes agreed with their servers, each at its instant; whoever lost its lease is passed over."""
        held = leases_table.c
        mine = (
            select(held.name)
            .where(
                held.name == bindparam("lease"),
                held.owner == bindparam("process"),
                held.fence == bindparam("number"),
                held.expires_at > bindparam("at"),
            )
            .exists()
        )
        statement = update(mailboxes).where(_C.id == bindparam("mailbox"), mine).values(last_checked_at=bindparam("at"))
        rows = [
            {
                "mailbox": owner.mailbox_id,
                "lease": lease_name(owner.mailbox_id),
                "process": owner.process,
                "number": owner.fence,
                "at": at,
            }
            for owner, at in sorted(checked.items(), key=lambda item: item[0].mailbox_id)
        ]

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(statement, rows)

        if rows:
            await self._db.transact(work, at_once=True)

    async def progress(self, owner: Owner, progress: Progress, now: Instant) -> None:
        """How far the first import is, before its first batch is there."""
        values = {
            "progress_done": progress.done,
            "progress_total": progress.total,
            "progress_started_at": progress.started_at,
        }

        async def work(tx: Transaction) -> None:
            await tx.conn.execute(update(mailboxes).where(_C.id == owner.mailbox_id).values(values))

        await self._owned(owner, now, work)
