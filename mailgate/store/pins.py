"""Pins: a CRM record or task refers to a message, and the copy stays as long as one does.

Invariants, tested with real concurrency on both databases:

1. A pin that was accepted is never lost to a purge: both lock the message's row, and who comes second sees what the
   first one did. A foreign key alone would lose that race.
2. A pin that comes too late gets a clear 409: `purged` when retention took the copy, `deleted` when a user deleted it,
   `mailbox_removed` when the mailbox went first.
3. `messages.pins` is the number of rows in `pins`, kept under the message's lock.
4. An expired copy that is not purged yet may be pinned, and is served again.

Lock order: tenant (shared) → mailbox (shared) → message → tenant's head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Row, and_, case, delete, null, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.actors import Actor
from mailgate.clock import Instant, to_rfc3339
from mailgate.errors import ConflictError, NotFoundError, PreconditionError
from mailgate.ids import new_ref
from mailgate.keys import KeyMissingError, KeyRing, KeyUnwrapError
from mailgate.keys.wrap import unwrap, wrap
from mailgate.store import tenants
from mailgate.store.database import Database
from mailgate.store.expiry import COPY_COLUMNS, Expiry
from mailgate.store.log import PurgeLog
from mailgate.store.messages import USER_DELETED
from mailgate.store.paging import Page, cut
from mailgate.store.schema import mailboxes, messages, tombstones
from mailgate.store.schema import pins as table
from mailgate.store.sets import among
from mailgate.store.tenants import Tenant
from mailgate.store.tombstones import RETURNABLE, original_gone
from mailgate.store.transaction import Transaction
from mailgate.store.usage import require_storage
from retention.ledger import leaves
from retention.ledger.commitment import Committer

_P = table.c
_M = messages.c
_BATCH = 500
MAX_ENTITY_ID = 200
MAX_NOTE = 4_000
MOST_PINS = 1_000
RESTORED = "restored:"
"""How the id of a record begins that is known by its commitment in the purge log only, since a backup was restored."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A record's reference to a message."""

    message_id: str
    entity_type: str
    entity_id: str
    note: str | None
    created_at: Instant
    created_by: str


class Pins:
    """The use cases around pins."""

    def __init__(self, db: Database, ring: KeyRing, log: PurgeLog, expiry: Expiry, *, most: int = MOST_PINS) -> None:
        """`most`: how many pins a client may give one message."""
        self._db = db
        self._most = most
        self._ring = ring
        self._log = log
        self._expiry = expiry

    async def put(
        self,
        tenant_id: str,
        message_id: str,
        entity_type: str,
        entity_id: str,
        *,
        note: str | None,
        now: Instant,
        actor: Actor,
    ) -> tuple[Pin, bool]:
        """Pin a message to a record; (the pin, whether it is new). Repeating it only replaces a note, if one is given.

        Raises NotFoundError, ConflictError (`purged`, `deleted`, `mailbox_removed`, `storage_exceeded`,
        `too_many_pins`), PreconditionError.
        """
        check_pin(entity_id, note)

        async def work(tx: Transaction) -> tuple[Pin, bool]:
            tenant = await tenants.lock(tx, tenant_id, shared=True)
            made = await self.put_in(tx, tenant, message_id, entity_type, entity_id, note=note, now=now, actor=actor)
            if made[1]:
                await self._refuse_many(tx, message_id)
            return made

        return await self._db.transact(work)

    async def put_in(
        self,
        tx: Transaction,
        tenant: Tenant,
        message_id: str,
        entity_type: str,
        entity_id: str,
        *,
        note: str | None,
        now: Instant,
        actor: Actor,
    ) -> tuple[Pin, bool]:
        """The same within a transaction, of values that `check_pin` has passed."""
        row, removed = await self._lock(tx, tenant.id, message_id)
        sealed = None if note is None else self._seal(tenant, row, note, entity_type, entity_id)
        known = await self._find(tx.conn, message_id, entity_type, entity_id)
        if known is not None:
            if sealed is not None:
                await tx.conn.execute(update(table).where(_is(message_id, entity_type, entity_id)).values(note=sealed))
            return self._pin(tenant, known, row, note), False
        placeholder = await self._recognised(tx.conn, tenant, row, entity_type, entity_id)
        if placeholder is not None:  # it was pinned to this record all the time: the log says so
            again = {"entity_id": entity_id, "note": sealed}
            await tx.conn.execute(update(table).where(table.c.ref == placeholder.ref).values(again))
            return Pin(message_id, entity_type, entity_id, note, placeholder.created_at, placeholder.created_by), False
        if removed:
            raise ConflictError("the message's mailbox was removed", slug="mailbox_removed", message_id=message_id)
        await require_storage(tx.conn, self._expiry, tenant.id, message_id, now)
        pin_ref = new_ref()
        values = {
            "tenant_id": tenant.id,
            "message_id": message_id,
            "entity_type": entity_type,
            "entity_id": entity_id,
            "ref": pin_ref,
            "note": sealed,
            "created_at": now,
            "created_by": str(actor),
        }
        await tx.conn.execute(table.insert().values(values))
        await tx.conn.execute(update(messages).where(_M.id == message_id).values(pins=_M.pins + 1, unpinned_at=null()))
        self._log.write(
            tx,
            tenant.id,
            tenant.ref,
            leaves.pin_add,
            at=now,
            actor=actor,
            item_ref=row.item_ref,
            pin_ref=pin_ref,
            entity_type=entity_type,
            entity_commit=self._committer(tenant).commit(row.item_ref, "entity", entity_id.encode()),
        )
        _emit(tx, "message.pinned", tenant.id, row, now, entity_type, entity_id, None)
        return Pin(message_id, entity_type, entity_id, note, now, str(actor)), True

    async def _refuse_many(self, tx: Transaction, message_id: str) -> None:
        """Every answer and event that has the message has all its pins."""
        count = (await tx.conn.execute(select(_M.pins).where(_M.id == message_id))).scalar_one()
        if count > self._most:
            raise ConflictError(
                f"{self._most} records refer to the message, and no more may (limits.pins_per_message)",
                slug="too_many_pins",
                message_id=message_id,
            )

    async def inherit(
        self, tx: Transaction, tenant: Tenant, parent_id: str, message_id: str, *, now: Instant, actor: Actor
    ) -> int:
        """Pin a copy, made in this transaction, to what its parent is pinned to; to how many records. Their notes are
        about the parent and are not taken along.
        """
        parent = (_M.id == parent_id) & (_M.tenant_id == tenant.id)
        await tx.conn.execute(select(_M.id).where(parent).with_for_update(key_share=True))
        query = select(_P.entity_type, _P.entity_id).where(_P.message_id == parent_id, _P.tenant_id == tenant.id)
        records = (await tx.conn.execute(query.order_by(_P.entity_type, _P.entity_id))).all()
        for kind, id_ in records:
            await self.put_in(tx, tenant, message_id, kind, id_, note=None, now=now, actor=actor)
        return len(records)

    async def remove(
        self, tenant_id: str, message_id: str, entity_type: str, entity_id: str, *, now: Instant, actor: Actor
    ) -> bool:
        """Unpin; False when there was no such pin. From the last one on, the copy's age counts again."""
        if not _storable(entity_id):
            return False

        async def work(tx: Transaction) -> bool:
            tenant = await tenants.lock(tx, tenant_id, shared=True)
            return await self._remove(tx, tenant, [message_id], entity_type, entity_id, "unpinned", now, actor) == 1

        return await self._db.transact(work)

    async def remove_record(
        self, tenant_id: str, entity_type: str, entity_id: str, *, now: Instant, actor: Actor
    ) -> int:
        """The record is gone: remove all its pins, in batches; returns how many. Raises NotFoundError for a tenant."""
        if not _storable(entity_id):
            return 0
        query = (
            select(_P.message_id)
            .where(_P.tenant_id == tenant_id, _P.entity_type == entity_type, _P.entity_id == entity_id)
            .order_by(_P.message_id)
            .limit(_BATCH)
        )
        removed = 0
        while True:

            async def work(tx: Transaction) -> tuple[int, int]:
                tenant = await tenants.lock(tx, tenant_id, shared=True)
                ids = (await tx.conn.execute(query)).scalars().all()
                return len(ids), await self._remove(
                    tx, tenant, ids, entity_type, entity_id, "record_deleted", now, actor
                )

            found, gone = await self._db.transact(work)
            removed += gone
            if found < _BATCH:
                return removed

    async def list_page(
        self,
        tenant_id: str,
        *,
        entity_type: str | None = None,
        entity_id: str | None = None,
        after: tuple[str, str, str] | None = None,
        limit: int = 50,
    ) -> Page[Pin]:
        """The tenant's pins by record. The page's key is (entity_type, entity_id, message_id)."""
        key = (_P.entity_type, _P.entity_id, _P.message_id)
        query = self._query(tenant_id).order_by(*key).limit(limit + 1)
        if entity_type is not None:
            query = query.where(_P.entity_type == entity_type)
        if entity_id is not None:
            if not _storable(entity_id):
                return Page([])
            query = query.where(_P.entity_id == entity_id)
        if after is not None:
            query = query.where(tuple_(*key) > tuple_(*after))
        async with self._db.read() as conn:
            rows, more = cut((await conn.execute(query)).all(), limit)
        tenant = await tenants.get(self._db, tenant_id)
        last = rows[-1] if more else None
        return Page(
            [self._pin(tenant, row, row, None) for row in rows],
            None if last is None else (last.entity_type, last.entity_id, last.message_id),
        )

    async def of_messages(
        self, conn: AsyncConnection, tenant: Tenant, ids: Sequence[str]
    ) -> Mapping[str, Sequence[Pin]]:
        """The pins of these messages, in the order they were made; messages without any are left out."""
        query = self._query(tenant.id).where(among(_P.message_id, ids, sqlite=self._db.sqlite))
        found: dict[str, list[Pin]] = {}
        for row in (await conn.execute(query.order_by(_P.created_at, _P.entity_type, _P.entity_id))).all():
            found.setdefault(row.message_id, []).append(self._pin(tenant, row, row, None))
        return found

    async def _lock(self, tx: Transaction, tenant_id: str, message_id: str) -> tuple[Any, bool]:
        """The message's row, locked, and whether its mailbox was removed. Raises when there is nothing to pin."""
        mine = and_(_M.id == message_id, _M.tenant_id == tenant_id)
        mailbox_id = (await tx.conn.execute(select(_M.mailbox_id).where(mine))).scalar_one_or_none()
        if mailbox_id is not None:
            removed = select(mailboxes.c.removed_at).where(mailboxes.c.id == mailbox_id).with_for_update(read=True)
            removed_at = (await tx.conn.execute(removed)).scalar_one_or_none()
            # A purge that holds this lock is waited for; what it took is then not found.
            query = select(*COPY_COLUMNS, _M.item_ref, _M.data_key, _M.key_epoch, _M.deleted_at).where(mine)
            row = (await tx.conn.execute(query.with_for_update(key_share=True))).one_or_none()
            if row is not None and row.deleted_at is not None:
                raise _deleted(message_id)
            if row is not None:
                return row, removed_at is not None
        raise await self._why_not(tx.conn, tenant_id, message_id)

    async def _why_not(self, conn: AsyncConnection, tenant_id: str, message_id: str) -> Exception:
        query = select(tombstones).where(tombstones.c.tenant_id == tenant_id, tombstones.c.message_id == message_id)
        graves = (await conn.execute(query.order_by(tombstones.c.id))).all()
        if not graves:
            return NotFoundError(f"there is no message {message_id!r}", slug="message_not_found")
        row = graves[0]
        if row.reason == USER_DELETED:
            return _deleted(message_id)
        purged_at = to_rfc3339(row.created_at)
        slug = "mailbox_removed" if row.reason == "mailbox_removed" else "purged"
        return ConflictError(
            f"the copy was purged at {purged_at} ({row.reason}); {_way_back(message_id, graves)}",
            slug=slug,
            message_id=message_id,
            purged_at=purged_at,
            reason=row.reason,
            original_gone=original_gone(graves),
        )

    async def _remove(
        self,
        tx: Transaction,
        tenant: Tenant,
        ids: Sequence[str],
        entity_type: str,
        entity_id: str,
        reason: str,
        now: Instant,
        actor: Actor,
    ) -> int:
        if not ids:
            return 0
        mine = and_(_M.tenant_id == tenant.id, among(_M.id, ids, sqlite=tx.sqlite))
        await tx.conn.execute(select(_M.id).where(mine).order_by(_M.id).with_for_update(key_share=True))
        gone = (
            delete(table)
            .where(among(_P.message_id, ids, sqlite=tx.sqlite), _P.tenant_id == tenant.id)
            .where(_P.entity_type == entity_type, _P.entity_id == entity_id)
            .returning(_P.message_id, _P.ref)
        )
        refs = {row[0]: row[1] for row in (await tx.conn.execute(gone)).all()}
        if not refs:
            return 0
        touched = among(_M.id, refs, sqlite=tx.sqlite)
        await tx.conn.execute(
            update(messages)
            .where(touched)
            .values(pins=_M.pins - 1, unpinned_at=case((_M.pins == 1, now), else_=_M.unpinned_at))
        )
        horizon = await self._expiry.horizon(tx.conn, tenant.id, now)
        rows = (await tx.conn.execute(select(*COPY_COLUMNS, _M.item_ref).where(touched).order_by(_M.id))).all()
        holds = await horizon.holds.count(tx.conn, {row.id: row.mailbox_id for row in rows}, sqlite=tx.sqlite)
        for row in rows:
            self._log.write(
                tx,
                tenant.id,
                tenant.ref,
                leaves.pin_remove,
                at=now,
                actor=actor,
                item_ref=row.item_ref,
                pin_ref=refs[row.id],
                reason=reason,
            )
            expires_at = horizon.expires_at(row, holds[row.id])
            _emit(tx, "message.unpinned", tenant.id, row, now, entity_type, entity_id, expires_at)
        return len(rows)

    async def _recognised(
        self, conn: AsyncConnection, tenant: Tenant, row: Any, entity_type: str, entity_id: str
    ) -> Row[Any] | None:
        """The pin that stands for this record since a backup was restored: the log knows it, its id not in clear."""
        commit = self._committer(tenant).commit(row.item_ref, "entity", entity_id.encode())
        return await self._find(conn, row.id, entity_type, RESTORED + commit)

    async def _find(self, conn: AsyncConnection, message_id: str, entity_type: str, entity_id: str) -> Row[Any] | None:
        row: Row[Any] | None = (
            await conn.execute(select(table).where(_is(message_id, entity_type, entity_id)))
        ).one_or_none()
        return row

    def _query(self, tenant_id: str) -> Any:
        return (
            select(table, _M.data_key, _M.key_epoch)
            .join(messages, _M.id == _P.message_id)
            .where(_P.tenant_id == tenant_id)
        )

    def _pin(self, tenant: Tenant, row: Any, keyed: Any, note: str | None) -> Pin:
        """The pin that a row is; `keyed` has the message's data key, `note` is one that was given just now."""
        if note is None and row.note is not None:
            # Where nothing of the message opens any more, its note is lost with it; that it is pinned is not.
            with contextlib.suppress(KeyMissingError, KeyUnwrapError):
                key = AESGCM(self._ring.tenant(tenant.ref).unwrap(keyed.data_key, keyed.key_epoch))
                note = unwrap(key, row.note, _context(row.message_id, row.entity_type, row.entity_id)).decode()
        return Pin(row.message_id, row.entity_type, row.entity_id, note, row.created_at, row.created_by)

    def _seal(self, tenant: Tenant, row: Any, note: str, entity_type: str, entity_id: str) -> bytes:
        key = AESGCM(self._ring.tenant(tenant.ref).unwrap(row.data_key, row.key_epoch))
        return wrap(key, note.encode(), _context(row.id, entity_type, entity_id))

    def _committer(self, tenant: Tenant) -> Committer:
        return Committer(self._ring.tenant(tenant.ref).ledger_key)


def _way_back(message_id: str, graves: Sequence[Any]) -> str:
    if not all(grave.reason in RETURNABLE for grave in graves):
        return "its end was asked for, and nothing brings it back"
    if original_gone(graves):
        return "the original at the mail server is gone as well, and nothing brings it back"
    return f"POST …/messages/{message_id}/rehydrate brings it back, with this pin if it names it"


def _deleted(message_id: str) -> ConflictError:
    return ConflictError("a user deleted this message", slug="deleted", message_id=message_id)


def _emit(
    tx: Transaction,
    type_: str,
    tenant_id: str,
    row: Any,
    now: Instant,
    entity_type: str,
    entity_id: str,
    expires_at: Instant | None,
) -> None:
    payload = {
        "anchor_at": row.anchor_at,
        "expires_at": expires_at,
        "entity_type": entity_type,
        "entity_id": entity_id,
    }
    tx.emit(tenant_id, type_, at=now, mailbox_id=row.mailbox_id, message_id=row.id, payload=payload)


def _is(message_id: str, entity_type: str, entity_id: str) -> Any:
    return and_(_P.message_id == message_id, _P.entity_type == entity_type, _P.entity_id == entity_id)


def _context(message_id: str, entity_type: str, entity_id: str) -> bytes:
    return b"\0".join((b"mailgate note", message_id.encode(), entity_type.encode(), entity_id.encode()))


def check_pin(entity_id: str, note: str | None) -> None:
    """Raise PreconditionError for what no pin can say."""
    _check_text("entity_id", entity_id, MAX_ENTITY_ID)
    if note is not None:
        _check_text("note", note, MAX_NOTE)


def _check_text(name: str, text: str, most: int) -> None:
    if not text or len(text) > most:
        raise PreconditionError(f"{name} must have 1 to {most} characters", slug=f"{name}_invalid")
    if not _storable(text):
        raise PreconditionError(f"{name} has a character that can't be stored", slug=f"{name}_invalid")


def _storable(text: str) -> bool:
    """Whether both databases can hold the text: PostgreSQL has no NUL, UTF-8 no surrogates."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)
