"""The end of an operation that asked for a purged copy: the copy, its pins and their entries in one transaction.

A note of a pin that is to be made waits sealed in the operation, since the key that it will stand under is made with
the copy.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from mailgate.clock import DAY
from mailgate.errors import MailgateError
from mailgate.keys import KeyRing
from mailgate.store import messages as copies
from mailgate.store import quarantine
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry, Horizon
from mailgate.store.log import PurgeLog
from mailgate.store.operations import requested_by
from mailgate.store.pins import Pins
from mailgate.store.returns import Return, bring_back
from mailgate.store.schema import messages, tenants
from mailgate.store.tenants import Tenant
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import Batch
from mailgate.sync.operations import Operation
from mailgate.sync.push.model import Failed
from mailgate.sync.push.port import Returned
from mailgate.sync.state import Owner


class Returns:
    """Writes what came of them."""

    def __init__(self, db: Database, ring: KeyRing, log: PurgeLog, expiry: Expiry) -> None:
        self._log = log
        self._notes = Notes(ring)
        self._pins = Pins(db, ring, log, expiry)

    async def write(
        self,
        tx: Transaction,
        owner: Owner,
        tenant_ref: str,
        operation: Operation,
        returned: Returned | None,
        horizon: Horizon,
    ) -> Failed | None:
        """The copy, unless it is here by now, and the pins; why it can't be, or None."""
        message_id, now = operation.message_id or "", horizon.now
        pins = operation.detail["pins"]
        actor = (await requested_by(tx.conn, [operation.id], sqlite=tx.sqlite))[operation.id]
        if returned is not None:
            until_at = now + horizon.rules.graces.rehydrated * DAY
            place = copies.Place(owner.tenant_id, owner.mailbox_id, returned.folder.id, returned.uidvalidity)
            asked = Return(actor, until_at, len(pins))
            if await bring_back(tx, self._log, tenant_ref, place, returned.message, asked, horizon):
                await self._set_aside(tx, owner, returned, horizon)
            else:
                await copies.discard(tx, owner.tenant_id, [returned.message.blob], now)
        here = select(messages.c.id).where(messages.c.id == message_id, messages.c.tenant_id == owner.tenant_id)
        if (await tx.conn.execute(here)).one_or_none() is None:
            return Failed("gone_at_server", "it can't be brought back any more")
        tenant = await _tenant(tx, owner.tenant_id)
        for pin in pins:
            note = self._notes.open(message_id, pin)
            try:
                await self._pins.put_in(
                    tx, tenant, message_id, pin["entity_type"], pin["entity_id"], note=note, now=now, actor=actor
                )
            except MailgateError as error:  # here, but deleted by a user
                return Failed(error.slug, error.detail)
        return None

    @staticmethod
    async def _set_aside(tx: Transaction, owner: Owner, returned: Returned, horizon: Horizon) -> None:
        if returned.aside is not None:
            batch = Batch(returned.folder, returned.uidvalidity, horizon.now)
            await quarantine.set_aside(tx, owner, batch, [returned.aside], {returned.message.id})


class Notes:
    """Notes of pins that wait."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def seal(self, message_id: str, entity_type: str, entity_id: str, note: str | None) -> dict[str, Any]:
        """A pin as the operation's `detail` has it."""
        sealed = None
        if note is not None:
            context = _context(message_id, entity_type, entity_id)
            sealed = base64.b64encode(self._ring.seal(note.encode(), context)).decode()
        return {"entity_type": entity_type, "entity_id": entity_id, "note": sealed}

    def open(self, message_id: str, pin: Mapping[str, Any]) -> str | None:
        """The note of such a pin."""
        if pin["note"] is None:
            return None
        context = _context(message_id, pin["entity_type"], pin["entity_id"])
        return self._ring.open_sealed(base64.b64decode(pin["note"]), context).decode()


def _context(message_id: str, entity_type: str, entity_id: str) -> str:
    return f"note/{message_id}/{entity_type}/{entity_id}"


async def _tenant(tx: Transaction, tenant_id: str) -> Tenant:
    """The tenant, without a lock: its plan decides nothing here, and the mailbox is locked already."""
    row = (await tx.conn.execute(select(tenants).where(tenants.c.id == tenant_id))).one()
    return Tenant(row.id, row.ref, row.name, row.created_at)
