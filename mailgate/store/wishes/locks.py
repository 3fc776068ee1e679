"""What a change that the CRM asks for begins with: the locks, in order, and the refusals that hang on what they show.

Lock order: the tenant (shared: its plan stands still) → the mailbox → the message → heads. Whoever changes the near
side of a mailbox holds the mailbox's row, so wishes of one mailbox come one after the other, and `seq` is their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, case, select

from mailgate.clock import Instant
from mailgate.errors import ConflictError, NotFoundError
from mailgate.store import tenants
from mailgate.store.expiry import Expiry, Horizon
from mailgate.store.log import PurgeLog
from mailgate.store.reading import why_gone
from mailgate.store.schema import folders, mailboxes, messages, operations, origins
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.tenants import Tenant
from mailgate.store.transaction import Transaction
from mailgate.tenants.entitlements import Entitlements
from retention.policy import ClockLimits

_M = messages.c


@dataclass(frozen=True, slots=True)
class LockedMailbox:
    """A mailbox, locked. `refusal`: why nothing of it can be brought to the server now; None: it can."""

    tenant: Tenant
    row: Row[Any]
    refusal: ConflictError | None

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.row.id)

    def require_sync(self) -> None:
        """Raise ConflictError (`mailbox_removed`, `mailbox_disabled`, `not_entitled`) unless changes can be brought."""
        if self.refusal is not None:
            raise self.refusal


@dataclass(frozen=True, slots=True)
class Stand:
    """Where an original of a message stands, or stood when `vanished`."""

    folder_id: str
    special_use: str | None
    vanished: bool
    labelled: bool


@dataclass(frozen=True, slots=True)
class LockedMessage:
    """A copy, locked; perhaps one that a user deleted (`row.deleted_at`), or whose time is `over`. `stands`: its
    originals, those that stand first; `holds`: how many protect it.
    """

    mailbox: LockedMailbox
    row: Row[Any]
    horizon: Horizon
    holds: int
    stands: Sequence[Stand]
    over: bool

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.row.id)

    @property
    def folder_id(self) -> str | None:
        """Where the near side has it; None: it has no original, and none is on its way."""
        if self.row.moving_to is not None:
            return str(self.row.moving_to)
        return self.stands[0].folder_id if self.stands else None

    @property
    def ages(self) -> dict[str, Any]:
        """What events of a message carry."""
        return {"anchor_at": self.row.anchor_at, "expires_at": self.horizon.expires_at(self.row, self.holds)}

    def emit(self, tx: Transaction, type_: str, now: Instant, payload: dict[str, Any]) -> None:
        """Tell the feed about it."""
        tenant_id = self.mailbox.tenant.id
        tx.emit(tenant_id, type_, at=now, mailbox_id=self.mailbox.id, message_id=self.id, payload=payload)


@dataclass(frozen=True, slots=True)
class Locks:
    """Takes the locks."""

    subscriptions: Subscriptions
    expiry: Expiry
    clock_limits: ClockLimits
    log: PurgeLog

    async def mailbox(self, tx: Transaction, tenant_id: str, mailbox_id: str, now: Instant) -> LockedMailbox:
        """The mailbox. Raises NotFoundError."""
        tenant = await tenants.lock(tx, tenant_id, shared=True)
        return await self.mailbox_of(tx, tenant, mailbox_id, now)

    async def message(self, tx: Transaction, tenant_id: str, message_id: str, now: Instant) -> LockedMessage:
        """The message and its mailbox. Raises NotFoundError, GoneError `purged`."""
        tenant = await tenants.lock(tx, tenant_id, shared=True)
        mine = and_(_M.id == message_id, _M.tenant_id == tenant_id)
        mailbox_id = (await tx.conn.execute(select(_M.mailbox_id).where(mine))).scalar_one_or_none()
        if mailbox_id is None:
            raise await why_gone(tx.conn, tenant_id, message_id)
        mailbox = await self.mailbox_of(tx, tenant, mailbox_id, now)
        await tx.conn.execute(select(_M.id).where(mine).with_for_update())
        # A purge that held the lock was waited for: what is left is read, and judged, in a statement begun after it.
        horizon = await self.expiry.served(tx.conn, tenant_id, now, self.clock_limits)
        over = case((horizon.expired(), 1), else_=0).label("over")
        row = (await tx.conn.execute(select(messages, over).where(mine))).one_or_none()
        if row is None:
            raise await why_gone(tx.conn, tenant_id, message_id)
        holds = await horizon.holds.count(tx.conn, {row.id: row.mailbox_id}, sqlite=tx.sqlite)
        return LockedMessage(mailbox, row, horizon, holds[row.id], await _stands(tx, message_id), bool(row.over))

    async def mailbox_of(self, tx: Transaction, tenant: Tenant, mailbox_id: str, now: Instant) -> LockedMailbox:
        """The same of a tenant that is locked."""
        query = select(mailboxes).where(mailboxes.c.id == mailbox_id, mailboxes.c.tenant_id == tenant.id)
        row = (await tx.conn.execute(query.with_for_update(key_share=True))).one_or_none()
        if row is None:
            raise NotFoundError(f"tenant {tenant.id} has no mailbox {mailbox_id}", slug="mailbox_not_found")
        holds = await self.subscriptions.allowed_in(tx.conn, tenant.id, now)
        refusal = None
        if row.removed_at is not None:
            refusal = ConflictError(
                f"mailbox {mailbox_id} was removed; connect the account again", slug="mailbox_removed"
            )
        elif not row.enabled:
            refusal = ConflictError("this mailbox is switched off; switch it on with PATCH", slug="mailbox_disabled")
        elif not (holds.known and holds.sync):
            refusal = ConflictError(_no_sync(holds), slug="not_entitled", plan=holds.plan)
        return LockedMailbox(tenant, row, refusal)


def _no_sync(holds: Entitlements) -> str:
    """Why nothing can be brought to the server, nor had from there, and until when."""
    if not holds.known:
        return f"plan {holds.plan!r} is not in the catalogue: nothing is synchronized until an operator mends that"
    return (
        f"plan {holds.plan} has no synchronization: nothing is fetched from the mail server, and nothing changed "
        "there, until the tenant is on a plan that has it"
    )


async def _stands(tx: Transaction, message_id: str) -> list[Stand]:
    query = (
        select(origins.c.folder_id, origins.c.vanished_at, origins.c.labels, folders.c.special_use, folders.c.gone_at)
        .join(folders, folders.c.id == origins.c.folder_id)
        .where(origins.c.message_id == message_id)
        .order_by(folders.c.name, origins.c.uid)
    )
    found = [
        Stand(
            folder_id=row.folder_id,
            special_use=row.special_use,
            vanished=row.vanished_at is not None or row.gone_at is not None,
            labelled=row.labels is not None,
        )
        for row in await tx.conn.execute(query)
    ]
    return sorted(found, key=lambda stand: stand.vanished)


async def open_operations(tx: Transaction, message_id: str) -> Sequence[Row[Any]]:
    """Operations on a message that are not finished, in order."""
    mine = operations.c.message_id == message_id
    query = select(operations).where(mine, operations.c.finished_at.is_(None)).order_by(operations.c.seq)
    return (await tx.conn.execute(query)).all()
