"""Placing and releasing holds: a stop on purging for a compliance matter.

Invariants, tested with real concurrency on both databases:

1. A hold that was accepted is never overtaken: it takes the tenant's lock alone, which whoever ends copies takes
   shared, and locks the messages that it names. Who comes second sees what the first one did.
2. A hold that comes too late says so: 409 `purged` or `deleted` names the copies that are gone.
3. Holds overlap; each has a life of its own, and a copy stays as long as one protects it.
4. Released, a hold goes on protecting for the days of grace that the policy names.

Lock order: tenant (alone) → messages by id → tenant's head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select, update

from mailgate.actors import Actor
from mailgate.clock import DAY, Instant, to_rfc3339
from mailgate.errors import ConflictError, MailgateError, NotFoundError, PreconditionError
from mailgate.ids import new_id
from mailgate.keys import KeyRing
from mailgate.store import installation, tenants
from mailgate.store.database import Database
from mailgate.store.expiry import COPY_COLUMNS, Expiry
from mailgate.store.log import PurgeLog
from mailgate.store.messages import USER_DELETED
from mailgate.store.paging import Page, page_by_id
from mailgate.store.schema import hold_messages, holds, mailboxes, messages, tombstones
from mailgate.store.schema import tenants as tenants_table
from mailgate.store.sets import among
from mailgate.store.tenants import Tenant
from mailgate.store.transaction import Transaction
from retention.ledger import leaves
from retention.ledger.commitment import Committer
from retention.ledger.schema import MAX_COVER, is_text

_H = holds.c
_M = messages.c

MAX_MESSAGES = 10_000
"""Messages that one hold names at most; more of them are a mailbox, or several holds."""
MAX_MATTER = 200
MAX_REASON = 1_000
_NAMED = 20
"""Ids of missing messages in one refusal, at most."""


def _nobody() -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a hold covers: a mailbox, named messages, or, with neither, the whole tenant. What arrives in the mailbox or
    for the tenant later is covered too.
    """

    mailbox_id: str | None = None
    message_ids: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """As the store and the log call it: tenant, mailbox, messages."""
        return "messages" if self.message_ids else "tenant" if self.mailbox_id is None else "mailbox"


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold as it stands. `messages` is how many it names; None unless that is its scope. `protects_until_at` is set
    by its release.
    """

    id: str
    kind: str
    mailbox_id: str | None
    messages: int | None
    matter: str
    reason: str
    placed_at: Instant
    placed_by: str
    released_at: Instant | None = None
    released_by: str | None = None
    release_reason: str | None = None
    protects_until_at: Instant | None = None


class LegalHolds:
    """The use cases around holds. `release_days`: how long a released one goes on protecting."""

    def __init__(self, db: Database, ring: KeyRing, log: PurgeLog, expiry: Expiry, *, release_days: int) -> None:
        self._db = db
        self._ring = ring
        self._log = log
        self._expiry = expiry
        self._release_days = release_days
        self.on_logged: Callable[[], None] = _nobody
        """Called when one was placed or released: it is signed soon, so that no restored backup forgets it."""

    async def place(
        self, tenant_id: str, scope: Scope, *, matter: str, reason: str, now: Instant, actor: Actor
    ) -> Hold:
        """Place a hold. Raises NotFoundError for a tenant, mailbox or message that there never was, ConflictError
        (`purged`, `deleted`) for messages that are gone, PreconditionError.
        """
        if not is_text(matter):
            raise PreconditionError(
                f"matter must have 1 to {MAX_MATTER} printable characters: it stands in the purge log",
                slug="matter_invalid",
            )
        _check_reason(reason)
        ids = tuple(sorted(set(scope.message_ids)))
        if len(ids) > MAX_MESSAGES:
            raise PreconditionError(
                f"a hold names at most {MAX_MESSAGES} messages; hold the mailbox, or place several holds",
                slug="too_many_messages",
            )

        async def work(tx: Transaction) -> Hold:
            tenant = await tenants.lock(tx, tenant_id)
            if scope.mailbox_id is not None:
                await _known_mailbox(tx, tenant_id, scope.mailbox_id)
            found = await self._lock(tx, tenant_id, ids)
            hold = Hold(
                new_id(now),
                scope.kind,
                scope.mailbox_id,
                len(ids) or None,
                matter,
                reason,
                now,
                str(actor),
            )
            await tx.conn.execute(insert(holds).values(_row(tenant_id, hold)))
            if ids:
                named = [{"hold_id": hold.id, "message_id": id_} for id_ in ids]
                await tx.conn.execute(insert(hold_messages), named)
            self._tell_placed(tx, tenant, hold, found, now, actor)
            tx.after_commit(self.on_logged)
            return hold

        return await self._db.transact(work)

    async def release(self, tenant_id: str, hold_id: str, *, reason: str, now: Instant, actor: Actor) -> Hold:
        """Release a hold; it protects for `release_days` more. Raises NotFoundError, ConflictError (hold_released)."""
        _check_reason(reason)

        async def work(tx: Transaction) -> Hold:
            tenant = await tenants.lock(tx, tenant_id)
            query = select(holds).where(_H.id == hold_id, _H.tenant_id == tenant_id)
            row = (await tx.conn.execute(query)).one_or_none()
            if row is None:
                raise _no_hold(hold_id)
            if row.released_at is not None:
                raise ConflictError(
                    f"this hold was released at {to_rfc3339(row.released_at)} and protects until "
                    f"{to_rfc3339(row.protects_until_at)}",
                    slug="hold_released",
                )
            # By a clock that went back the days would be over before they began.
            seen = await installation.read(tx.conn, installation.CLOCK_MARK)
            until = max(now, 0 if seen is None else int(seen)) + self._release_days * DAY
            values = {
                "released_at": now,
                "released_by": str(actor),
                "release_reason": reason,
                "protects_until_at": until,
            }
            await tx.conn.execute(update(holds).where(_H.id == hold_id).values(values))
            self._log.write(
                tx,
                tenant_id,
                tenant.ref,
                leaves.hold_release,
                at=now,
                actor=actor,
                hold_ref=hold_id,
                matter=row.matter,
                reason_commit=self._committer(tenant).commit(hold_id, "reason", reason.encode()),
                grace_until=until,
            )
            payload = {"hold_id": hold_id, "scope": row.scope, "protects_until_at": until}
            tx.emit(tenant_id, "hold.released", at=now, mailbox_id=row.mailbox_id, payload=payload)
            await self._tell_messages(tx, tenant_id, hold_id, now)
            tx.after_commit(self.on_logged)
            return await self._hold(tx.conn, tenant_id, hold_id)

        return await self._db.transact(work)

    async def get(self, tenant_id: str, hold_id: str) -> tuple[Hold, Sequence[str]]:
        """A hold, and the messages that it names. Raises NotFoundError."""
        named = select(hold_messages.c.message_id).where(hold_messages.c.hold_id == hold_id)
        async with self._db.read() as conn:
            hold = await self._hold(conn, tenant_id, hold_id)
            return hold, (await conn.execute(named.order_by(hold_messages.c.message_id))).scalars().all()

    async def list_page(
        self, tenant_id: str, *, standing: bool | None = None, after: str | None = None, limit: int = 50
    ) -> Page[Hold]:
        """The tenant's holds, newest first; only standing or only released ones if asked. The page's key is (id,)."""
        query = _query(tenant_id)
        if standing is not None:
            query = query.where(_H.released_at.is_(None) if standing else _H.released_at.is_not(None))
        return await page_by_id(self._db, query, _H.id, _shown, after=after, limit=limit)

    async def standing(self, limit: int) -> Sequence[tuple[str, str, int]]:
        """Tenants with holds that are not released, at most so many: id, name, how many holds."""
        query = (
            select(tenants_table.c.id, tenants_table.c.name, func.count())
            .join(holds, _H.tenant_id == tenants_table.c.id)
            .where(_H.released_at.is_(None))
            .group_by(tenants_table.c.id, tenants_table.c.name)
            .order_by(tenants_table.c.id)
            .limit(limit)
        )
        async with self._db.read() as conn:
            return [(id_, name, count) for id_, name, count in (await conn.execute(query)).all()]

    async def _hold(self, conn: Any, tenant_id: str, hold_id: str) -> Hold:
        row = (await conn.execute(_query(tenant_id).where(_H.id == hold_id))).one_or_none()
        if row is None:
            raise _no_hold(hold_id)
        return _shown(row)

    async def _lock(self, tx: Transaction, tenant_id: str, ids: Sequence[str]) -> Sequence[Any]:
        """The named messages, locked. Raises when one is not there (any more)."""
        if not ids:
            return []
        mine = select(*COPY_COLUMNS, _M.item_ref, _M.deleted_at).where(
            _M.tenant_id == tenant_id, among(_M.id, ids, sqlite=tx.sqlite)
        )
        rows: Sequence[Any] = (await tx.conn.execute(mine.order_by(_M.id).with_for_update(key_share=True))).all()
        missing = sorted(set(ids) - {row.id for row in rows})
        if missing:
            raise await _why_not(tx, tenant_id, missing)
        return rows

    def _tell_placed(
        self, tx: Transaction, tenant: Tenant, hold: Hold, covered: Sequence[Any], now: Instant, actor: Actor
    ) -> None:
        self._log.write(
            tx,
            tenant.id,
            tenant.ref,
            leaves.hold_place,
            at=now,
            actor=actor,
            hold_ref=hold.id,
            matter=hold.matter,
            reason_commit=self._committer(tenant).commit(hold.id, "reason", hold.reason.encode()),
            mailbox_ref=hold.mailbox_id,
            items=hold.messages,
        )
        for start in range(0, len(covered), MAX_COVER):
            items = [row.item_ref for row in covered[start : start + MAX_COVER]]
            self._log.write(
                tx, tenant.id, tenant.ref, leaves.hold_cover, at=now, actor=actor, hold_ref=hold.id, items=items
            )
        payload = {"hold_id": hold.id, "scope": hold.kind}
        tx.emit(tenant.id, "hold.placed", at=now, mailbox_id=hold.mailbox_id, payload=payload)
        for row in covered:
            _tell_expiry(tx, tenant.id, row, None, now)

    async def _tell_messages(self, tx: Transaction, tenant_id: str, hold_id: str, now: Instant) -> None:
        """When the messages that a released hold names will expire: null as long as anything protects them."""
        named = select(hold_messages.c.message_id).where(hold_messages.c.hold_id == hold_id)
        query = select(*COPY_COLUMNS, _M.deleted_at).where(_M.id.in_(named)).order_by(_M.id)
        rows = (await tx.conn.execute(query)).all()
        if not rows:
            return
        horizon = await self._expiry.horizon(tx.conn, tenant_id, now)
        protecting = await horizon.holds.count(tx.conn, {row.id: row.mailbox_id for row in rows}, sqlite=tx.sqlite)
        for row in rows:  # while anything protects them they were told so already
            if not protecting[row.id]:
                _tell_expiry(tx, tenant_id, row, horizon.expires_at(row), now)

    def _committer(self, tenant: Tenant) -> Committer:
        return Committer(self._ring.tenant(tenant.ref).ledger_key)


async def _known_mailbox(tx: Transaction, tenant_id: str, mailbox_id: str) -> None:
    """A removed one too: it has copies until they are purged."""
    query = select(mailboxes.c.id).where(mailboxes.c.id == mailbox_id, mailboxes.c.tenant_id == tenant_id)
    if (await tx.conn.execute(query)).one_or_none() is None:
        raise NotFoundError(f"tenant {tenant_id} has no mailbox {mailbox_id}", slug="mailbox_not_found")


async def _why_not(tx: Transaction, tenant_id: str, missing: Sequence[str]) -> MailgateError:
    t = tombstones.c
    query = select(t.message_id, t.reason, t.created_at).where(
        t.tenant_id == tenant_id, among(t.message_id, missing, sqlite=tx.sqlite)
    )
    gone = {row.message_id: row for row in (await tx.conn.execute(query)).all()}
    unknown = [id_ for id_ in missing if id_ not in gone]
    if unknown:
        return NotFoundError(
            f"there is no message {unknown[0]!r}", slug="message_not_found", message_ids=unknown[:_NAMED]
        )
    first = gone[missing[0]]
    if first.reason == USER_DELETED:
        return ConflictError(
            f"a user deleted message {first.message_id}; nothing of it is left to hold",
            slug="deleted",
            message_ids=missing[:_NAMED],
        )
    return ConflictError(
        f"the copy of {first.message_id} was purged at {to_rfc3339(first.created_at)} ({first.reason}); nothing of it "
        f"is left to hold. Leave out what is gone ({len(missing)} of them), or bring it back first",
        slug="purged",
        message_ids=missing[:_NAMED],
    )


def _tell_expiry(tx: Transaction, tenant_id: str, row: Any, expires_at: Instant | None, now: Instant) -> None:
    if row.deleted_at is None:
        payload = {"anchor_at": row.anchor_at, "expires_at": expires_at}
        tx.emit(tenant_id, "message.updated", at=now, mailbox_id=row.mailbox_id, message_id=row.id, payload=payload)


def _check_reason(reason: str) -> None:
    if not 0 < len(reason) <= MAX_REASON or "\0" in reason:
        raise PreconditionError(f"reason must have 1 to {MAX_REASON} characters", slug="reason_invalid")


def _no_hold(hold_id: str) -> NotFoundError:
    return NotFoundError(f"there is no hold {hold_id!r}", slug="hold_not_found")


def _query(tenant_id: str) -> Any:
    named = select(func.count()).where(hold_messages.c.hold_id == _H.id).scalar_subquery()
    return select(holds, named.label("named")).where(_H.tenant_id == tenant_id)


def _row(tenant_id: str, hold: Hold) -> dict[str, Any]:
    return {
        "id": hold.id,
        "tenant_id": tenant_id,
        "scope": hold.kind,
        "mailbox_id": hold.mailbox_id,
        "matter": hold.matter,
        "reason": hold.reason,
        "placed_at": hold.placed_at,
        "placed_by": hold.placed_by,
    }


def _shown(row: Any) -> Hold:
    return Hold(
        id=row.id,
        kind=row.scope,
        mailbox_id=row.mailbox_id,
        messages=row.named if row.scope == "messages" else None,
        matter=row.matter,
        reason=row.reason,
        placed_at=row.placed_at,
        placed_by=row.placed_by,
        released_at=row.released_at,
        released_by=row.released_by,
        release_reason=row.release_reason,
        protects_until_at=row.protects_until_at,
    )
