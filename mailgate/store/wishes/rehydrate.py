"""What the CRM asks of a copy that was purged: that it be fetched from the mail server again, and pinned if it says so.

Here nothing but the operation is written: the copy comes back when the server has sent its bytes, in one transaction
with its pins and its entry in the purge log (`mailgate.store.pushes.returns`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update

from mailgate.actors import Actor
from mailgate.clock import Instant, to_rfc3339
from mailgate.errors import ConflictError, GoneError
from mailgate.keys import KeyRing
from mailgate.store import operations, tenants
from mailgate.store.database import Database
from mailgate.store.messages import USER_DELETED
from mailgate.store.pins import check_pin
from mailgate.store.pushes.returns import Notes
from mailgate.store.reading import not_there
from mailgate.store.schema import mailboxes, messages
from mailgate.store.schema import operations as operations_table
from mailgate.store.tombstones import RETURNABLE, of_messages, original_gone
from mailgate.store.transaction import Transaction
from mailgate.store.wishes.locks import Locks, open_operations
from mailgate.store.wishes.messages import Asked
from mailgate.sync.operations import OperationKind


@dataclass(frozen=True, slots=True)
class PinWanted:
    """A pin that the copy is to have as soon as it is here."""

    entity_type: str
    entity_id: str
    note: str | None = None


class Rehydrations:
    """The use case."""

    def __init__(self, db: Database, ring: KeyRing, locks: Locks) -> None:
        self._db = db
        self._locks = locks
        self._notes = Notes(ring)

    async def ask(
        self, tenant_id: str, message_id: str, pins: Sequence[PinWanted], now: Instant, actor: Actor
    ) -> Asked:
        """Ask for a purged copy. While that is on its way, asking again adds pins to the same operation.

        Raises NotFoundError, also for what a user deleted; GoneError (`original_gone`, `gone` when its end was asked
        for); ConflictError (`not_purged`, `mailbox_removed`, `mailbox_disabled`, `not_entitled`); PreconditionError.
        """
        for pin in pins:
            check_pin(pin.entity_id, pin.note)

        async def work(tx: Transaction) -> Asked:
            tenant = await tenants.lock(tx, tenant_id, shared=True)
            await _refuse_living(tx, tenant_id, message_id)
            graves = (await of_messages(tx.conn, tenant_id, [message_id], sqlite=tx.sqlite)).get(message_id, [])
            _refuse_gone(message_id, graves)
            mailbox_id = await _mailbox_of(tx, tenant_id, message_id, graves[0])
            mailbox = await self._locks.mailbox_of(tx, tenant, mailbox_id, now)
            mailbox.require_sync()
            wanted = {(pin.entity_type, pin.entity_id): pin.note for pin in pins}
            for row in await open_operations(tx, message_id):
                if row.kind == OperationKind.REHYDRATE.value:
                    await self._add_pins(tx, row, wanted)
                    return Asked(row.mailbox_id, (row.id,))
            detail = {"pins": [self._notes.seal(message_id, *record, note) for record, note in wanted.items()]}
            operation_id = await operations.ask(
                tx,
                tenant_id=tenant_id,
                mailbox_id=mailbox_id,
                kind=OperationKind.REHYDRATE,
                now=now,
                actor=actor,
                message_id=message_id,
                detail=detail,
            )
            return Asked(mailbox_id, (operation_id,))

        return await self._db.transact(work)

    async def _add_pins(self, tx: Transaction, row: Row[Any], wanted: dict[tuple[str, str], str | None]) -> None:
        """Pins that the operation has not yet; a note that is given replaces an earlier one."""
        standing = {(pin["entity_type"], pin["entity_id"]): pin for pin in row.detail["pins"]}
        for record, note in wanted.items():
            if note is not None or record not in standing:
                standing[record] = self._notes.seal(row.message_id, *record, note)
        mine = operations_table.c.id == row.id
        await tx.conn.execute(update(operations_table).where(mine).values(detail={"pins": list(standing.values())}))


async def _refuse_living(tx: Transaction, tenant_id: str, message_id: str) -> None:
    mine = (messages.c.id == message_id) & (messages.c.tenant_id == tenant_id)
    row = (await tx.conn.execute(select(messages.c.deleted_at).where(mine))).one_or_none()
    if row is None:
        return
    if row.deleted_at is not None:
        raise not_there(message_id)
    raise ConflictError(
        "this copy was not purged, it is here; a pin keeps it: PUT …/pins/{entity_type}/{entity_id}",
        slug="not_purged",
        message_id=message_id,
    )


def _refuse_gone(message_id: str, graves: Sequence[Row[Any]]) -> None:
    if not graves or any(grave.reason == USER_DELETED for grave in graves):
        raise not_there(message_id)
    grave = graves[0]
    told = {"message_id": message_id, "purged_at": to_rfc3339(grave.created_at), "reason": grave.reason}
    if not all(grave.reason in RETURNABLE for grave in graves):
        raise GoneError(f"the end of this copy was asked for ({grave.reason}); it can't be brought back", **told)
    if original_gone(graves):
        raise GoneError("the original at the mail server is gone, too", slug="original_gone", **told)


async def _mailbox_of(tx: Transaction, tenant_id: str, message_id: str, grave: Row[Any]) -> str:
    """The mailbox that the account of the original is connected as now: tombstones belong to the account."""
    query = select(mailboxes.c.id).where(
        mailboxes.c.tenant_id == tenant_id,
        mailboxes.c.account_ref == grave.account_ref,
        mailboxes.c.removed_at.is_(None),
    )
    found: str | None = (await tx.conn.execute(query.limit(1))).scalar_one_or_none()
    if found is None:
        raise ConflictError(
            "the message's mailbox was removed; connect the account again",
            slug="mailbox_removed",
            message_id=message_id,
        )
    return found
