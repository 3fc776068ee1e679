"""Mailboxes: connected accounts, their settings and secrets. What a running sync writes about them is in
`mailgate.store.sync`.

Secrets are sealed under the service key before they come near a transaction, and destroyed when the mailbox is removed.
`config_version` grows with every change that a running sync has to notice (switches, settings, credentials).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Row, func, insert, literal, select, update

from mailgate.actors import Actor
from mailgate.clock import Instant, to_rfc3339
from mailgate.consents.model import Given
from mailgate.errors import ConflictError, NotFoundError
from mailgate.ids import new_id
from mailgate.keys import KeyRing
from mailgate.store import backfills, consents, operations, plan_limits, tenants
from mailgate.store.database import Database
from mailgate.store.fenced import LEASE_PREFIX
from mailgate.store.paging import Page, page_by_id
from mailgate.store.quarantine import forget_mailbox
from mailgate.store.schema import leases, mailboxes, messages
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.transaction import Transaction
from mailgate.sync.operations import OperationState
from mailgate.sync.state import MailboxState
from mailgate.tenants.limits import Connected

_COLUMNS = mailboxes.c
_TOGETHER = 500
_OWNED_UNTIL = func.coalesce(
    select(leases.c.expires_at)
    .where(leases.c.name == LEASE_PREFIX + _COLUMNS.id)
    .correlate(mailboxes)
    .scalar_subquery(),
    0,
).label("owned_until_at")
TOLD_BY_ITS_PROCESS = frozenset(
    {
        MailboxState.IMPORTING,
        MailboxState.LIVE,
        MailboxState.POLLING,
        MailboxState.BACKOFF,
        MailboxState.NEEDS_APPROVAL,
    }
)


Along = Callable[[Transaction, str], Awaitable[None]]
"""What is done in the transaction that makes a mailbox, given its id."""


@dataclass(frozen=True, slots=True)
class MailboxSpec:
    """What a client gives. `imap` and `smtp`: host, port, security, username; `secrets`: {"imap": {"password": …}, …},
    never shown, or {"imap": {"oauth2": provider}, …} with the consent as `given`.
    """

    address: str
    imap: Mapping[str, Any]
    secrets: Mapping[str, Any] = field(repr=False)
    owner: str | None = None
    shared: bool = False
    enabled: bool = True
    smtp: Mapping[str, Any] | None = None
    folder_rules: Mapping[str, Any] = field(default_factory=dict)
    given: Given | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class MailboxPatch:
    """What to change; None leaves as it is. `secrets` replaces those of the protocols it names, `given` the consent."""

    enabled: bool | None = None
    address: str | None = None
    owner: str | None = None
    shared: bool | None = None
    imap: Mapping[str, Any] | None = None
    smtp: Mapping[str, Any] | None = None
    folder_rules: Mapping[str, Any] | None = None
    secrets: Mapping[str, Any] | None = field(default=None, repr=False)
    given: Given | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox as the API shows it; no secret."""

    id: str
    tenant_id: str
    address: str
    owner: str | None
    shared: bool
    enabled: bool
    imap: Mapping[str, Any]
    smtp: Mapping[str, Any] | None
    folder_rules: Mapping[str, Any]
    state: str
    state_reason: str | None
    state_changed_at: Instant
    import_floor_at: Instant | None
    progress_done: int
    progress_total: int
    progress_started_at: Instant | None
    imported_at: Instant | None
    last_checked_at: Instant | None
    created_at: Instant
    removed_at: Instant | None
    owned_until_at: Instant
    """Until when a process has it, as far as it said; 0: none has."""

    def as_of(self, now: Instant) -> Mailbox:
        """As it is at `now`: what a process says of a mailbox holds while that process has it."""
        until_at = self.owned_until_at
        if until_at > now or self.removed_at is not None:
            return self
        told = self.state in TOLD_BY_ITS_PROCESS
        if not told and (self.state != MailboxState.CONNECTING or self.state_reason is not None or not until_at):
            return self
        reason = "no process has this mailbox" + (f" since {to_rfc3339(until_at)}" if until_at else "")
        return replace(self, state=MailboxState.CONNECTING.value, state_reason=reason)


class Mailboxes:
    """The use cases of connected accounts."""

    def __init__(self, db: Database, ring: KeyRing, subscriptions: Subscriptions) -> None:
        self._db = db
        self._ring = ring
        self._subscriptions = subscriptions

    @property
    def ring(self) -> KeyRing:
        """The keys that seal the secrets of mailboxes, and of what is asked of them."""
        return self._ring

    async def create(
        self, tenant_id: str, spec: MailboxSpec, now: Instant, actor: Actor, *, along: Along | None = None
    ) -> Mailbox:
        """Keep the settings; the supervisor connects. `along` is done in the same transaction, with the new mailbox'
        id, after the tenant was locked. Raises what that raises, and ConflictError: not_entitled, mailbox_exists, and
        where the plan's limits are reached mailbox_limit, shared_mailbox_limit, seat_limit; NotFoundError.
        """
        tenant = await tenants.get(self._db, tenant_id)
        mailbox_id = new_id(now)
        account_ref = self._account_ref(tenant.ref, spec.imap)
        sealed = self._seal(mailbox_id, spec.secrets)

        async def work(tx: Transaction) -> Mailbox:
            await tenants.lock(tx, tenant_id)
            if along is not None:
                await along(tx, mailbox_id)
            holds = await self._subscriptions.allowed_in(tx.conn, tenant_id, now)
            if not holds.sync:
                raise ConflictError(
                    f"plan {holds.plan} has no synchronization: a mailbox can be connected on a paid plan or a trial",
                    slug="not_entitled",
                    plan=holds.plan,
                )
            await self._refuse_twice(tx, tenant_id, account_ref, None)
            new = Connected(mailbox_id, spec.owner, spec.shared, now)
            if spec.enabled:
                await plan_limits.require_room(tx.conn, tenant_id, new, holds)
            values = {
                "id": mailbox_id,
                "tenant_id": tenant_id,
                "address": spec.address,
                "owner": spec.owner,
                "shared": spec.shared,
                "enabled": spec.enabled,
                "imap": dict(spec.imap),
                "smtp": None if spec.smtp is None else dict(spec.smtp),
                "folder_rules": dict(spec.folder_rules),
                "secrets": sealed,
                "account_ref": account_ref,
                "state": "connecting" if spec.enabled else "disabled",
                "state_changed_at": now,
                "created_at": now,
            }
            # Nobody has it yet. (In an INSERT's RETURNING the subquery would read all mailboxes' leases.)
            nobody = literal(0).label(_OWNED_UNTIL.name)
            row = (await tx.conn.execute(insert(mailboxes).values(values).returning(mailboxes, nobody))).one()
            if spec.given is not None:
                await consents.put(tx, self._ring.tenant(tenant.ref), tenant_id, mailbox_id, spec.given, now)
            tx.emit(
                tenant_id, "mailbox.state_changed", at=now, mailbox_id=mailbox_id, payload={"state": values["state"]}
            )
            return mailbox_of(row)

        return await self._db.transact(work)

    async def get(self, tenant_id: str, mailbox_id: str) -> Mailbox:
        """The mailbox, a removed one too. Raises NotFoundError, also for another tenant's."""
        query = select(mailboxes, _OWNED_UNTIL).where(_COLUMNS.id == mailbox_id, _COLUMNS.tenant_id == tenant_id)
        async with self._db.read() as conn:
            row = (await conn.execute(query)).one_or_none()
        if row is None:
            raise NotFoundError(f"tenant {tenant_id} has no mailbox {mailbox_id}", slug="mailbox_not_found")
        return mailbox_of(row)

    async def list_page(self, tenant_id: str, *, after: str | None, limit: int) -> Page[Mailbox]:
        """The tenant's mailboxes that are not removed, by id. The page's key is (id,)."""
        query = select(mailboxes, _OWNED_UNTIL).where(_COLUMNS.tenant_id == tenant_id, _COLUMNS.removed_at.is_(None))
        return await page_by_id(self._db, query, _COLUMNS.id, mailbox_of, after=after, limit=limit, newest_first=False)

    async def update(self, tenant_id: str, mailbox_id: str, patch: MailboxPatch, now: Instant, actor: Actor) -> Mailbox:
        """Change settings. Raises ConflictError (mailbox_removed, mailbox_exists, and where switching on would pass the
        plan's limits mailbox_limit, shared_mailbox_limit, seat_limit), NotFoundError.
        """
        tenant = await tenants.get(self._db, tenant_id)
        old = await self.get(tenant_id, mailbox_id)

        async def work(tx: Transaction) -> Mailbox:
            placed = patch.enabled or patch.owner is not None or patch.shared is not None
            row = await self._lock(tx, tenant_id, mailbox_id, alone=bool(placed))
            values: dict[str, Any] = {"config_version": row.config_version + 1}
            for name in ("address", "owner", "shared", "folder_rules", "imap", "smtp"):
                value = getattr(patch, name)
                if value is not None:
                    values[name] = dict(value) if isinstance(value, Mapping) else value
            if patch.secrets is not None:
                merged = {**self._open(mailbox_id, row.secrets), **patch.secrets}
                values["secrets"] = self._seal(mailbox_id, merged)
                if not any("oauth2" in secret for secret in merged.values()):
                    await consents.forget(tx, mailbox_id)
            if patch.given is not None:
                await consents.put(tx, self._ring.tenant(tenant.ref), tenant_id, mailbox_id, patch.given, now)
            if patch.imap is not None:
                values["account_ref"] = self._account_ref(tenant.ref, patch.imap)
                await self._refuse_twice(tx, tenant_id, values["account_ref"], mailbox_id)
            values |= await self._switch(tx, row, patch, now)
            changed = (
                await tx.conn.execute(
                    update(mailboxes).where(_COLUMNS.id == mailbox_id).values(values).returning(mailboxes, _OWNED_UNTIL)
                )
            ).one()
            if changed.state != row.state:
                payload = {"state": changed.state}
                if changed.state_reason is not None:
                    payload["reason"] = changed.state_reason
                tx.emit(tenant_id, "mailbox.state_changed", at=now, mailbox_id=mailbox_id, payload=payload)
            return mailbox_of(changed)

        if patch == MailboxPatch():
            return old
        return await self._db.transact(work)

    async def remove(self, tenant_id: str, mailbox_id: str, now: Instant, actor: Actor) -> None:
        """Forget the account: credentials are destroyed, the row stays as removed, copies become due
        (`mailbox_removed`) unless pinned or held, and what was to be brought to the server has failed.

        Takes the mailbox's lock: a pin accepted before keeps its message, one after is refused. Repeating it changes
        nothing.
        """

        async def work(tx: Transaction) -> None:
            query = select(mailboxes).where(_COLUMNS.id == mailbox_id, _COLUMNS.tenant_id == tenant_id)
            row = (await tx.conn.execute(query.with_for_update(key_share=True))).one_or_none()
            if row is None:
                raise NotFoundError(f"tenant {tenant_id} has no mailbox {mailbox_id}", slug="mailbox_not_found")
            if row.removed_at is not None:
                return
            values = {
                "removed_at": now,
                "enabled": False,
                "secrets": None,
                "state": "disabled",
                "state_reason": "removed",
                "state_changed_at": now,
                "config_version": row.config_version + 1,
            }
            await tx.conn.execute(update(mailboxes).where(_COLUMNS.id == mailbox_id).values(values))
            await consents.forget(tx, mailbox_id)
            await forget_mailbox(tx, mailbox_id)
            await backfills.end(tx, mailbox_id, now, "the mailbox was removed")
            tx.emit(tenant_id, "mailbox.state_changed", at=now, mailbox_id=mailbox_id, payload={"state": "removed"})
            why = {"code": "mailbox_removed", "reason": "the mailbox was removed"}
            while left := await operations.open_of(tx.conn, mailbox_id, _TOGETHER):
                await operations.finish_many(tx, tenant_id, left, OperationState.FAILED, now, **why)
            coming = (messages.c.mailbox_id == mailbox_id) & messages.c.moving_to.is_not(None)
            in_order = select(messages.c.id).where(coming).order_by(messages.c.id)
            await tx.conn.execute(in_order.with_for_update(key_share=True))
            await tx.conn.execute(update(messages).where(coming).values(moving_to=None))

        await self._db.transact(work)

    async def secrets(self, mailbox_id: str) -> Mapping[str, Any]:
        """The credentials in clear, for the connector only. Raises NotFoundError when removed."""
        async with self._db.read() as conn:
            sealed = (
                await conn.execute(select(_COLUMNS.secrets).where(_COLUMNS.id == mailbox_id))
            ).scalar_one_or_none()
        return self.unsealed(mailbox_id, sealed)

    def unsealed(self, mailbox_id: str, sealed: bytes | None) -> Mapping[str, Any]:
        """The credentials of a row, in clear. Raises NotFoundError when the mailbox was removed."""
        if sealed is None:
            raise NotFoundError(f"mailbox {mailbox_id} has no credentials", slug="mailbox_not_found")
        return self._open(mailbox_id, sealed)

    async def _switch(self, tx: Transaction, row: Row[Any], patch: MailboxPatch, now: Instant) -> dict[str, Any]:
        """The state that a change of the switch, settings or credentials leads to at once; the supervisor goes on from
        there.
        """
        enabled = row.enabled if patch.enabled is None else patch.enabled
        if not enabled:
            if not row.enabled and patch.enabled is None:
                return {}  # it stays off for the reason that it has
            off = {"enabled": False, "limited_by": None, "state": "disabled", "state_reason": "switched off"}
            return {**off, "state_changed_at": now}
        retried = patch.imap is not None or patch.secrets is not None or patch.given is not None
        owner = row.owner if patch.owner is None else patch.owner
        shared = row.shared if patch.shared is None else patch.shared
        placed = not row.enabled or (owner, shared) != (row.owner, row.shared)
        if not placed and not retried:
            return {}
        holds = await self._subscriptions.allowed_in(tx.conn, row.tenant_id, now)
        if placed and holds.sync:
            new = Connected(row.id, owner, shared, row.created_at)
            await plan_limits.require_room(tx.conn, row.tenant_id, new, holds)
        if row.enabled and not retried:
            return {}
        if not holds.sync:
            reason = f"plan {holds.plan} has no synchronization"
            on = {"enabled": True, "limited_by": None, "state": "not_entitled", "state_reason": reason}
            return {**on, "state_changed_at": now}
        on = {"enabled": True, "limited_by": None, "state": "connecting", "state_reason": None}
        return {**on, "state_changed_at": now}

    async def _lock(self, tx: Transaction, tenant_id: str, mailbox_id: str, *, alone: bool) -> Row[Any]:
        """The mailbox's row, locked; `alone`: with the tenant's, since its mailboxes are going to be counted."""
        await tenants.lock(tx, tenant_id, shared=not alone)
        query = select(mailboxes).where(_COLUMNS.id == mailbox_id, _COLUMNS.tenant_id == tenant_id)
        row = (await tx.conn.execute(query.with_for_update(key_share=True))).one_or_none()
        if row is None:
            raise NotFoundError(f"tenant {tenant_id} has no mailbox {mailbox_id}", slug="mailbox_not_found")
        if row.removed_at is not None:
            raise ConflictError(f"mailbox {mailbox_id} was removed; connect the account again", slug="mailbox_removed")
        return row

    async def _refuse_twice(self, tx: Transaction, tenant_id: str, account_ref: bytes, own_id: str | None) -> None:
        query = select(_COLUMNS.id).where(
            _COLUMNS.tenant_id == tenant_id,
            _COLUMNS.account_ref == account_ref,
            _COLUMNS.removed_at.is_(None),
            _COLUMNS.id.is_distinct_from(own_id),
        )
        other = (await tx.conn.execute(query.limit(1))).scalar_one_or_none()
        if other is not None:
            raise ConflictError("this account is connected already", slug="mailbox_exists", mailbox_id=other)

    def _account_ref(self, tenant_ref: str, imap: Mapping[str, Any]) -> bytes:
        account = f"{imap['host']}\n{imap['username']}".casefold().encode()
        return self._ring.tenant(tenant_ref).mac("account", account)

    def _seal(self, mailbox_id: str, secrets: Mapping[str, Any]) -> bytes:
        return self._ring.seal(json.dumps(dict(secrets)).encode(), f"mailbox:{mailbox_id}")

    def _open(self, mailbox_id: str, sealed: bytes) -> dict[str, Any]:
        opened: dict[str, Any] = json.loads(self._ring.open_sealed(sealed, f"mailbox:{mailbox_id}"))
        return opened


def mailbox_of(row: Row[Any]) -> Mailbox:
    """The mailbox that a row with `owned_until_at` is."""
    return Mailbox(**{name: value for name, value in row._mapping.items() if name in Mailbox.__slots__})
