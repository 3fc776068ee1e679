"""A tenant leaves: everything of it goes, but its purge log.

    begin     under the tenant's lock: no hold stands; mark it. From now on nothing finds the tenant: requests, purges,
              imports and holds are refused by the lock. Credentials and tokens are gone, what waited to be sent is not
    copies    batch by batch: pins, copies and what was derived from them, an `item.purge` each, in a run of its own
    keys      write down that they go, destroy them, log it: what backups still hold is noise
    rows      everything that names the tenant, table by table, as the schema has it
    blobs     the erase worker has recorded what became of every object
    erased    only the log is left, and the row that says whose it is, without a name

Each step finds what the last one left, so a cut at any point is finished by whoever works next, with one leaf for each
copy. A hold beats erasure: it is refused with 409 as long as one protects anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Row, Table, delete, exists, literal, select, tuple_, update

from mailgate.actors import Actor
from mailgate.clock import MINUTE, Clock, Instant
from mailgate.errors import ConflictError, NotFoundError
from mailgate.ids import new_id
from mailgate.keys import KeyRing
from mailgate.store import connect_links, holds, installation, leases
from mailgate.store.database import Database
from mailgate.store.discard import end_copies
from mailgate.store.fenced import LEASE_PREFIX
from mailgate.store.hooks.endpoints import pausing
from mailgate.store.log import PurgeLog
from mailgate.store.schema import (
    blob_erasures,
    consent_flows,
    consents,
    hold_messages,
    idempotency_keys,
    log_checkpoints,
    log_leaves,
    log_tiles,
    mailboxes,
    messages,
    metadata,
    pins,
    search_leftovers,
    submissions,
    tenant_heads,
    tenants,
    tokens,
    user_recovery_codes,
    user_sessions,
    users,
    webhooks,
)
from mailgate.store.schema import holds as holds_table
from mailgate.store.schema import leases as leases_table
from mailgate.store.sending.filing import drop_bytes
from mailgate.store.sending.queue import SENDER
from mailgate.store.sets import among
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.transaction import Transaction
from mailgate.webhooks.model import PauseReason
from retention.ledger import leaves
from retention.policy import ClockLimits, clock_fault

BATCH = 500
ROWS = 1_000
METHOD = "data_key_destroyed"
LEASE = "tenant_erasure"
LEASE_TTL: Instant = 2 * MINUTE

KEPT = frozenset({tenants, tenant_heads, log_leaves, log_tiles, log_checkpoints})
"""What stays of an erased tenant: its log, which tells of items by random references only."""

LEFT_TO_WORKERS = (blob_erasures, search_leftovers)
"""What is to be erased: a row goes when that was done, by the worker that does it."""

_T = tenants.c
_M = messages.c
_log = structlog.get_logger("mailgate.erasure")


class Reason(StrEnum):
    """Why a tenant is erased; the reason of each of its purges in the log."""

    OFFBOARDING = "offboarding"
    ERASURE_REQUEST = "erasure_request"


class Stage(StrEnum):
    """What an erasure is about to do."""

    COPIES = "copies"
    KEYS = "keys"
    ROWS = "rows"


class TenantHeldError(ConflictError):
    """A hold protects something of the tenant. Release it first; then it protects for its delay."""

    default_slug = "held"


@dataclass(frozen=True, slots=True)
class Erasure:
    """How far a tenant's erasure is; `erased_at` None: it goes on."""

    tenant_id: str
    reason: Reason
    run_id: str
    begun_at: Instant
    erased_at: Instant | None
    purged: int
    bytes: int


def _nothing(*_: object) -> None:
    """Nobody listens."""


class TenantErasures:
    """The erasing of tenants as one process does it. `step` is told of every step boundary (tests cut there)."""

    def __init__(
        self,
        db: Database,
        ring: KeyRing,
        log: PurgeLog,
        subscriptions: Subscriptions,
        clock: Clock,
        owner: str,
        *,
        limits: ClockLimits | None = None,
        batch: int = BATCH,
        step: Callable[[str], None] = _nothing,
    ) -> None:
        self._db = db
        self._ring = ring
        self._log = log
        self._subscriptions = subscriptions
        self._clock = clock
        self._owner = owner
        self._limits = limits or ClockLimits()
        self._batch = batch
        self._step = step
        self.on_begun: Callable[[], None] = _nothing
        """Called when a tenant was marked, after the commit."""
        self.on_purged: Callable[[], None] = _nothing
        """Called after each commit that queued blobs to be erased."""

    async def begin(self, tenant_id: str, reason: Reason, actor: Actor) -> Erasure:
        """Mark the tenant, or see how far its erasure is. Raises TenantHeldError, NotFoundError."""
        now = self._clock()
        run_id = new_id(now)

        async def work(tx: Transaction) -> Erasure:
            row = await _locked(tx, tenant_id)
            if row.erasing_at is not None:
                return _erasure(row)
            # A clock that jumped ahead ends no delay of a hold: there is no way back from here.
            latest = await installation.latest_time(tx.conn)
            at = now if clock_fault(now, latest, self._limits) is None else min(now, latest or now)
            if not (await holds.active(tx.conn, tenant_id, at)).none:
                raise TenantHeldError(
                    f"a hold protects copies of tenant {tenant_id}: it can't be erased before the hold was released "
                    f"and its delay has passed; see GET /v1/tenants/{tenant_id}/holds"
                )
            entitled = await self._subscriptions.entitlements_in(tx.conn, tenant_id, now)
            await _mark(tx, tenant_id, reason, run_id, now, actor, entitled.plan, entitled.retention_days or 0)
            self._tell(tx, row, actor, leaves.run_open, now, run_id, now=now, trigger=reason.value, approved=())
            tx.emit(None, "tenant.erasure_begun", at=now, payload={"tenant": tenant_id, "reason": reason.value})
            tx.after_commit(self.on_begun)
            return Erasure(tenant_id, reason, run_id, now, None, 0, 0)

        return await self._db.transact(work)

    async def recover(
        self, tx: Transaction, tenant_id: str, reason: Reason, run_id: str, at: Instant, actor: Actor
    ) -> None:
        """An erasure that the log knows to have begun, and a restored database does not. Writes nothing to the log."""
        if (await _locked(tx, tenant_id)).erasing_at is None:
            entitled = await self._subscriptions.entitlements_in(tx.conn, tenant_id, at)
            await _mark(tx, tenant_id, reason, run_id, at, actor, entitled.plan, entitled.retention_days or 0)
            tx.after_commit(self.on_begun)

    async def recover_closed(self, tx: Transaction, tenant_id: str, run_id: str, purged: int, size: int) -> None:
        """The same: its run is over, if it is this one."""
        state = (await _locked(tx, tenant_id)).erasing
        if state is not None and state["run"] == run_id and state["stage"] == Stage.COPIES:
            await self._release_unsent(tx, tenant_id, self._clock())
            await _put(tx, tenant_id, {**state, "stage": Stage.KEYS.value, "purged": purged, "bytes": size})

    async def recover_shredded(self, tx: Transaction, tenant_id: str) -> None:
        """The same: its keys were destroyed."""
        state = (await _locked(tx, tenant_id)).erasing
        if state is not None and state["stage"] == Stage.KEYS:
            await _put(tx, tenant_id, {**state, "stage": Stage.ROWS.value})

    async def look(self, tenant_id: str) -> Erasure | None:
        """How far the tenant's erasure is; None when there is no such tenant, or it is not being erased."""
        async with self._db.read() as conn:
            row = (await conn.execute(select(tenants).where(_T.id == tenant_id))).one_or_none()
        return None if row is None or row.erasing_at is None else _erasure(row)

    async def work(self) -> int:
        """Go on with every erasure that is not over; how many came to their end. 0 also while another process does."""
        query = select(_T.id).where(_T.erasing_at.is_not(None), _T.erased_at.is_(None)).order_by(_T.id)
        async with self._db.read() as conn:
            open_ = list((await conn.execute(query)).scalars())
        if not open_:
            return 0
        fence = await leases.acquire(self._db, LEASE, self._owner, LEASE_TTL, self._clock())
        if fence is None:
            return 0
        try:
            return sum([await self._erase(tenant_id, fence) for tenant_id in open_])
        finally:
            await leases.release(self._db, LEASE, self._owner, fence)

    async def _erase(self, tenant_id: str, fence: int) -> bool:
        """Everything that can be done now for one tenant; whether nothing is left to do."""
        while not await self._db.transact(partial(self._copies, tenant_id), bulk=True):
            self.on_purged()
            self._step("copies")
            await leases.renew(self._db, LEASE, self._owner, fence, LEASE_TTL, self._clock())
        async with self._db.read() as conn:
            row = (await conn.execute(select(tenants).where(_T.id == tenant_id))).one()
        if row.erasing["stage"] == Stage.COPIES:
            return False  # something is on its way to a mail server, and waits for the answer
        self._step("keys")
        await asyncio.to_thread(self._ring.destroy_tenant, row.ref)
        self._step("keys gone")
        await self._db.transact(partial(self._keys_gone, tenant_id))
        self._step("keys told")
        # What belongs to the tenant by way of another table goes before that one does, references before their targets.
        for table in (hold_messages, idempotency_keys, *reversed(metadata.sorted_tables)):
            while await self._db.transact(partial(_wipe, table, tenant_id), bulk=True):
                self._step(f"rows of {table.name}")
                await leases.renew(self._db, LEASE, self._owner, fence, LEASE_TTL, self._clock())
        self._step("rows gone")
        over = await self._db.transact(partial(self._over, tenant_id))
        if over:
            _log.info("tenant_erased", tenant=tenant_id, purged=row.erasing["purged"])
        return over

    async def _copies(self, tenant_id: str, tx: Transaction) -> bool:
        """End one batch of copies; True when there is nothing to do here (any more, or yet)."""
        row = await _locked(tx, tenant_id)
        state = dict(row.erasing)
        if state["stage"] != Stage.COPIES or await _sending(tx, tenant_id, self._clock()):
            return True
        query = select(messages).where(_M.tenant_id == tenant_id).order_by(_M.anchor_at, _M.id).limit(self._batch)
        copies = (await tx.conn.execute(query.with_for_update())).all()
        actor = Actor(*state["actor"])
        now = self._clock()
        if not copies:
            await self._release_unsent(tx, tenant_id, now)
            counts = {"candidates": state["purged"], "purged": state["purged"], "kept": {}, "failed": 0}
            self._tell(tx, row, actor, leaves.run_close, now, state["run"], **counts, bytes_=state["bytes"])
            await _put(tx, tenant_id, state | {"stage": Stage.KEYS.value})
            return True
        await tx.conn.execute(delete(pins).where(among(pins.c.message_id, [c.id for c in copies], sqlite=tx.sqlite)))
        freed = await end_copies(tx, tenant_id, copies, now=now, run_id=state["run"])
        for copy in copies:
            self._tell(
                tx,
                row,
                actor,
                leaves.item_purge,
                now,
                state["run"],
                item_ref=copy.item_ref,
                mailbox_ref=copy.mailbox_id,
                content_commit=copy.content_commit.hex(),
                msgid_commit=copy.msgid_commit.hex(),
                anchor=leaves.Anchor(copy.anchor_at, copy.anchor_source),
                plan=state["plan"],
                days=state["days"],
                due_at=row.erasing_at,
                reason=state["reason"],
                pins=copy.pins,
                holds=0,
                blobs=leaves.Blobs(1, freed[copy.id].freed, freed[copy.id].bytes),
                method=METHOD,
            )
        size = sum(copy.size for copy in copies)
        tx.count(tenant_id, copies=-len(copies), storage_bytes=-size)
        await _put(tx, tenant_id, state | {"purged": state["purged"] + len(copies), "bytes": state["bytes"] + size})
        return False

    async def _release_unsent(self, tx: Transaction, tenant_id: str, now: Instant) -> None:
        """What was never sent refers to bytes as well."""
        query = select(submissions).where(submissions.c.tenant_id == tenant_id, submissions.c.blob_id.is_not(None))
        for row in (await tx.conn.execute(query.order_by(submissions.c.id).with_for_update())).all():
            await drop_bytes(tx, row, now)

    async def _keys_gone(self, tenant_id: str, tx: Transaction) -> None:
        row = await _locked(tx, tenant_id)
        state = dict(row.erasing)
        if state["stage"] == Stage.KEYS:
            now, actor = self._clock(), Actor(*state["actor"])
            self._tell(tx, row, actor, leaves.key_rotate, now, None, key="tenant", old=row.ref, new="destroyed")
            await _put(tx, tenant_id, state | {"stage": Stage.ROWS.value})

    async def _over(self, tenant_id: str, tx: Transaction) -> bool:
        row = await _locked(tx, tenant_id)
        for table in LEFT_TO_WORKERS:
            left = select(table.c.tenant_id).where(table.c.tenant_id == tenant_id).limit(1)
            if (await tx.conn.execute(left)).first() is not None:
                return False
        now = self._clock()
        end = update(tenants).where(_T.id == tenant_id, _T.erased_at.is_(None))
        if (await tx.conn.execute(end.values(erased_at=now, name=""))).rowcount:
            payload = {"tenant": tenant_id, "reason": row.erasing["reason"]}
            tx.emit(None, "tenant.erased", at=now, payload=payload)
        tx.set_head(tenant_id, log_plan=None, feed_plan=None)
        return True

    def _tell(
        self,
        tx: Transaction,
        row: Row[Any],
        actor: Actor,
        make: Callable[..., bytes],
        at: Instant,
        run: str | None,
        **fields: Any,
    ) -> None:
        self._log.write(tx, row.id, row.ref, make, at=at, actor=actor, run=run, **fields)


async def _locked(tx: Transaction, tenant_id: str) -> Row[Any]:
    query = select(tenants).where(_T.id == tenant_id).with_for_update(key_share=True)
    row: Row[Any] | None = (await tx.conn.execute(query)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no tenant {tenant_id!r}", slug="tenant_not_found")
    return row


async def _mark(
    tx: Transaction, tenant_id: str, reason: Reason, run_id: str, now: Instant, actor: Actor, plan: str, days: int
) -> None:
    state = {
        "reason": reason.value,
        "actor": [actor.kind, actor.ref],
        "run": run_id,
        "stage": Stage.COPIES.value,
        "plan": plan,
        "days": days,
        "purged": 0,
        "bytes": 0,
    }
    await tx.conn.execute(update(tenants).where(_T.id == tenant_id).values(erasing_at=now, erasing=state))
    await _cut_off(tx, tenant_id, now)


async def _put(tx: Transaction, tenant_id: str, state: Mapping[str, Any]) -> None:
    await tx.conn.execute(update(tenants).where(_T.id == tenant_id).values(erasing=dict(state)))


async def _cut_off(tx: Transaction, tenant_id: str, now: Instant) -> None:
    """Nothing works for the tenant any more: its mailboxes are removed, their credentials gone, its tokens revoked, its
    own people out, its webhooks paused, and what waited to be sent is canceled.
    """
    off = {
        "removed_at": now,
        "enabled": False,
        "secrets": None,
        "smtp": None,
        "state": "disabled",
        "state_reason": "removed",
        "state_changed_at": now,
        "config_version": mailboxes.c.config_version + 1,
    }
    mine = (mailboxes.c.tenant_id == tenant_id) & mailboxes.c.removed_at.is_(None)
    locked = select(mailboxes.c.id).where(mine).order_by(mailboxes.c.id).with_for_update(key_share=True)
    await tx.conn.execute(locked)
    await tx.conn.execute(update(mailboxes).where(mine).values(off))
    for table in (consents, consent_flows):
        await tx.conn.execute(delete(table).where(table.c.tenant_id == tenant_id))
    theirs = (tokens.c.tenant_id == tenant_id) & tokens.c.revoked_at.is_(None)
    await tx.conn.execute(update(tokens).where(theirs).values(revoked_at=now))
    people = (users.c.tenant_id == tenant_id) & users.c.disabled_at.is_(None)
    await tx.conn.execute(update(users).where(people).values(disabled_at=now))
    hooks = update(webhooks).where(webhooks.c.tenant_id == tenant_id)
    await tx.conn.execute(hooks.values(version=webhooks.c.version + 1, **pausing(PauseReason.TENANT_ERASED, None, now)))
    await connect_links.revoke_all(tx, tenant_id, now)
    queued = (submissions.c.tenant_id == tenant_id) & (submissions.c.state == "queued")
    await tx.conn.execute(update(submissions).where(queued).values(state="canceled", finished_at=now))
    await tx.conn.execute(update(submissions).where(submissions.c.tenant_id == tenant_id).values(file_at=None))


async def _sending(tx: Transaction, tenant_id: str, now: Instant) -> bool:
    """Whether a living process is handing something of the tenant to a mail server."""
    alive = exists().where(leases_table.c.name == literal(SENDER) + submissions.c.claimed_by, leases.living(now))
    query = select(submissions.c.id).where(
        submissions.c.tenant_id == tenant_id, submissions.c.state == "sending", alive
    )
    return (await tx.conn.execute(query.limit(1))).first() is not None


async def _wipe(table: Table, tenant_id: str, tx: Transaction) -> bool:
    """Delete some rows of the tenant; whether there may be more."""
    mine = _of(table, tenant_id)
    if mine is None:
        return False
    if table is mailboxes:
        names = select(literal(LEASE_PREFIX) + mailboxes.c.id).where(mine)
        await tx.conn.execute(delete(leases_table).where(leases_table.c.name.in_(names)))
        await tx.conn.execute(delete(leases_table).where(leases_table.c.name == f"signer:{tenant_id}"))
    key = tuple_(*table.primary_key.columns)
    some = select(*table.primary_key.columns).where(mine).limit(ROWS)
    return (await tx.conn.execute(delete(table).where(key.in_(some)))).rowcount == ROWS


def _of(table: Table, tenant_id: str) -> ColumnElement[bool] | None:
    """Which rows of a table are the tenant's to be deleted; None where none are."""
    column: ColumnElement[Any]
    if table is hold_messages:
        return hold_messages.c.hold_id.in_(select(holds_table.c.id).where(holds_table.c.tenant_id == tenant_id))
    if table is idempotency_keys:
        return idempotency_keys.c.token_id.in_(select(tokens.c.id).where(tokens.c.tenant_id == tenant_id))
    if table is user_sessions or table is user_recovery_codes:
        column = table.c.user_id
        return column.in_(select(users.c.id).where(users.c.tenant_id == tenant_id))
    if table in KEPT or table in LEFT_TO_WORKERS or "tenant_id" not in table.c:
        return None
    column = table.c.tenant_id
    return column == tenant_id


def _erasure(row: Row[Any]) -> Erasure:
    state = row.erasing
    return Erasure(
        row.id,
        Reason(state["reason"]),
        state["run"],
        row.erasing_at,
        row.erased_at,
        state["purged"],
        state["bytes"],
    )
