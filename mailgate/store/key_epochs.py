"""Key epochs: what survives a month is wrapped anew, and then the key of that month is destroyed.

A backup of the database holds the wrapped data keys of everything that was purged since. They open as long as the key
of their month exists; when that is destroyed, what was purged is noise in every backup, and so is everything else in a
backup that old. For a tenant and a month that is over:

    wrap anew   data keys of copies, blobs and submissions, batch by batch, each one transaction
    retire      write down since when nothing that is stored needs the key                      (transaction)
    wait        `keep` from then on, so that backups of that age can still be restored
    destroy     look again, write down that the key goes, remove its file, log `key.rotate`     (transaction, file,
                                                                                                 transaction)

Each step finds what the last one left, so a cut at any point is finished by the next rotation, with one leaf for each
key. Two rotations at once do no harm; a lease spares them the work.

A key is destroyed a day after its month ended at the earliest: whoever made a data key in the last moment of a month
has committed by then, or was found by a fence to be too late.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Row, Table, bindparam, or_, select, tuple_, update

from mailgate.actors import Actor
from mailgate.clock import DAY, MINUTE, Clock, Instant
from mailgate.errors import ConflictError, NotFoundError
from mailgate.keys import KeyMissingError, KeyRing, KeyUnwrapError, TenantKeys, epoch_at, epoch_end
from mailgate.store import installation, leases, tenants
from mailgate.store.database import Database
from mailgate.store.log import PurgeLog
from mailgate.store.schema import blobs, key_epochs, messages, submissions
from mailgate.store.sending.records import rewrap_prepared
from mailgate.store.sets import among
from mailgate.store.tenants import Tenant
from mailgate.store.transaction import Transaction
from retention.ledger import leaves

BATCH = 500
MARGIN: Instant = DAY
LEASE = "key_rotation"
LEASE_TTL: Instant = 5 * MINUTE
MASTER = "keys.master"
"""The fact under which the name of the master key stands that the logs know."""
PASSED = "keys.rotated_at"
"""The fact under which the time of the last complete rotation stands."""

_E = key_epochs.c
_PAGE = 200
_log = structlog.get_logger("mailgate.keys")


class RotationBusyError(ConflictError):
    """Another process rotates at this moment; it does what was asked for."""

    default_slug = "rotation_running"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One tenant's key of one month; `until` is when it may be destroyed, None when it is not retired."""

    tenant_id: str
    epoch: int
    until: Instant | None = None


@dataclass(slots=True)
class Rotated:
    """What a rotation did. `kept`: keys of past months that were not destroyed, and why not yet. `unreadable`: how many
    rows have a data key that does not open; they hold up the key of their month, and nothing else.
    """

    tenants: int = 0
    unreadable: int = 0
    wrapped: Counter[str] = field(default_factory=Counter)
    destroyed: list[Epoch] = field(default_factory=list)
    kept: list[Epoch] = field(default_factory=list)


def destroy_from(epoch: int, retired_at: Instant, keep: Instant) -> Instant:
    """From when on the key of a month may be destroyed."""
    return max(epoch_end(epoch) + MARGIN, retired_at + keep)


def _nothing(step: str) -> None:
    """Nobody cuts rotations here."""


class KeyRotation:
    """The rotation as one process does it. `keep`: how long a retired key stays; `step` is told of every step boundary
    (tests cut rotations there).
    """

    def __init__(
        self,
        db: Database,
        ring: KeyRing,
        log: PurgeLog,
        clock: Clock,
        owner: str,
        *,
        keep: Instant,
        batch: int = BATCH,
        step: Callable[[str], None] = _nothing,
    ) -> None:
        self._db = db
        self._ring = ring
        self._log = log
        self._clock = clock
        self._owner = owner
        self._keep = keep
        self._batch = batch
        self._step = step

    async def rotate(self, actor: Actor, *, tenant_id: str | None = None, at_once: bool = False) -> Rotated:
        """Wrap anew what is under keys of past months, and destroy those keys whose time has come; with `at_once` all
        that nothing needs, backups or not. Raises RotationBusyError, NotFoundError.
        """
        only = None if tenant_id is None else await tenants.get(self._db, tenant_id)
        fence = await leases.acquire(self._db, LEASE, self._owner, LEASE_TTL, self._clock())
        if fence is None:
            raise RotationBusyError("another process rotates the keys; it does what is asked for")
        done = Rotated()
        keep = 0 if at_once else self._keep
        try:
            if only is not None:
                await self._tenant(only, actor, keep, fence, done)
                return done
            async for tenant in self._everybody():
                try:
                    await self._tenant(tenant, actor, keep, fence, done)
                except NotFoundError:
                    continue  # it began to be erased meanwhile; the others are as they were
            await installation.put(self._db, PASSED, str(self._clock()))
        finally:
            await leases.release(self._db, LEASE, self._owner, fence)
        return done

    async def look(self, actor: Actor) -> Rotated | None:
        """Rotate if the last time was a day ago or in another month; None when there was no need, or somebody does."""
        now = self._clock()
        async with self._db.read() as conn:
            passed = await installation.read(conn, PASSED)
        if passed is not None and 0 <= now - int(passed) < DAY and epoch_at(int(passed)) == epoch_at(now):
            return None
        try:
            done = await self.rotate(actor)
        except RotationBusyError:
            return None
        if done.wrapped or done.destroyed:
            _log.info("keys_rotated", wrapped=done.wrapped.total(), destroyed=len(done.destroyed))
        return done

    async def announce_master(self, actor: Actor) -> int:
        """Tell every log that the master key is another one than it was; to how many. The first one is not told of."""
        name = self._ring.master_name
        known = await installation.fix(self._db, MASTER, name)
        if known == name:
            return 0
        told = 0
        async for tenant in self._everybody():
            await self._db.transact(partial(self._tell, tenant, actor, "master", known, name))
            told += 1
        await installation.put(self._db, MASTER, name)
        return told

    async def _everybody(self) -> AsyncIterator[Tenant]:
        after: str | None = None
        while True:
            page = await tenants.list_page(self._db, after=after, limit=_PAGE)
            for tenant in page.items:
                yield tenant
            if page.next_key is None:
                return
            after = str(page.next_key[0])

    async def _tenant(self, tenant: Tenant, actor: Actor, keep: Instant, fence: int, done: Rotated) -> None:
        current = epoch_at(self._clock())
        try:
            keys = self._ring.tenant(tenant.ref)
        except KeyMissingError:
            return  # its keys were destroyed: it is being erased
        found = await asyncio.to_thread(self._ring.epochs, tenant.ref)
        past = sorted({epoch for epoch in found if epoch < current} | await self._cut(tenant))
        done.tenants += 1
        if not past:
            return
        for kind, table in _TABLES.items():
            wrapped, unreadable = await self._wrap_anew(tenant, keys, kind, table, current, fence)
            done.wrapped[kind] += wrapped
            done.unreadable += unreadable
        done.wrapped += Counter()  # forgets what is zero
        for epoch in past:
            retired_at = await self._db.transact(partial(self._retire, tenant, epoch))
            if retired_at is None:
                done.kept.append(Epoch(tenant.id, epoch))
                continue
            until = destroy_from(epoch, retired_at, keep)
            if until > self._clock():
                done.kept.append(Epoch(tenant.id, epoch, until))
            elif await self._destroy(tenant, epoch, actor):
                done.destroyed.append(Epoch(tenant.id, epoch))

    async def _cut(self, tenant: Tenant) -> set[int]:
        """Epochs whose destruction was written down and not finished."""
        query = select(_E.epoch).where(
            _E.tenant_id == tenant.id, _E.destroying_at.is_not(None), _E.destroyed_at.is_(None)
        )
        async with self._db.read() as conn:
            return set((await conn.execute(query)).scalars())

    async def _wrap_anew(
        self, tenant: Tenant, keys: TenantKeys, kind: str, table: Table, current: int, fence: int
    ) -> tuple[int, int]:
        """Walk the tenant's rows once, in the order of an index, and wrap what is under an older key than now's. How
        many were, and how many don't open.
        """
        count, unreadable, after = 0, 0, None
        walk = _WALKS[kind]
        stale = table.c.key_epoch < current
        if kind == "submissions":  # what prepares a copy holds the copy's own key, of which the row does not tell
            stale = or_(stale, table.c.prepared.is_not(None))
        while True:
            query = select(table.c.id, *walk).where(table.c.tenant_id == tenant.id, stale)
            if after is not None:
                query = query.where(tuple_(*walk) > tuple_(*after))
            async with self._db.read() as conn:
                rows = (await conn.execute(query.order_by(*walk).limit(self._batch))).all()
            if not rows:
                return count, unreadable
            after = tuple(rows[-1])[1:]
            ids = [row.id for row in rows]
            values, odd = await self._db.transact(partial(self._batch_anew, keys, kind, table, ids), bulk=True)
            count += values
            unreadable += len(odd)
            if odd:
                _log.error("key_unreadable", tenant=tenant.id, what=kind, count=len(odd), first=odd[0])
            self._step(f"wrapped {kind}")
            await leases.renew(self._db, LEASE, self._owner, fence, LEASE_TTL, self._clock())

    async def _batch_anew(
        self, keys: TenantKeys, kind: str, table: Table, ids: Sequence[str], tx: Transaction
    ) -> tuple[int, list[str]]:
        """Wrap these rows anew; how many were, and which don't open."""
        now = self._clock()
        query = select(table).where(among(table.c.id, ids, sqlite=tx.sqlite)).order_by(_LOCKED_BY[kind])
        rows = (await tx.conn.execute(query.with_for_update(key_share=True))).all()
        values, odd = list[dict[str, Any]](), list[str]()
        for row in rows:
            try:
                value = _anew(keys, kind, row, now)
            except (KeyMissingError, KeyUnwrapError):
                odd.append(row.id)  # damaged: it must not keep the keys of everything else from being changed
                continue
            if value is not None:
                values.append(value)
        if values:
            names = {name for value in values for name in value} - {"row"}
            statement = update(table).where(table.c.id == bindparam("row"))
            await tx.conn.execute(statement.values({name: bindparam(name) for name in names}), values)
        return len(values), odd

    async def _retire(self, tenant: Tenant, epoch: int, tx: Transaction) -> Instant | None:
        """Since when nothing needs the epoch's key; None while something does."""
        await tenants.lock(tx, tenant.id, shared=True)
        row = await _row(tx, tenant.id, epoch)
        if await _needed(tx, tenant.id, epoch):
            if row is not None:  # a clock that went back made data keys under it again
                await self._write(tx, tenant.id, epoch, retired_at=None, destroying_at=None, destroyed_at=None)
            return None
        if row is not None and row.retired_at is not None and row.destroyed_at is None:
            retired: Instant = row.retired_at
            return retired
        now = self._clock()
        await self._write(tx, tenant.id, epoch, retired_at=now, destroying_at=None, destroyed_at=None)
        return now

    async def _destroy(self, tenant: Tenant, epoch: int, actor: Actor) -> bool:
        """Destroy the key, and log it once; False when it is needed after all, or another process was first."""

        async def begin(tx: Transaction) -> bool:
            await tenants.lock(tx, tenant.id, shared=True)
            if await _needed(tx, tenant.id, epoch):
                return False
            await self._write(tx, tenant.id, epoch, destroying_at=self._clock())
            return True

        async def end(tx: Transaction) -> bool:
            mine = (_E.tenant_id == tenant.id) & (_E.epoch == epoch) & _E.destroyed_at.is_(None)
            over = update(key_epochs).where(mine).values(destroyed_at=self._clock())
            if (await tx.conn.execute(over)).rowcount == 0:
                return False
            await self._tell(tenant, actor, "tenant_epoch", str(epoch), str(epoch_at(self._clock())), tx)
            return True

        if not await self._db.transact(begin):
            return False
        self._step("destroying")
        await asyncio.to_thread(self._ring.destroy_epoch, tenant.ref, epoch)
        self._step("destroyed")
        return await self._db.transact(end)

    async def _tell(self, tenant: Tenant, actor: Actor, key: str, old: str, new: str, tx: Transaction) -> None:
        self._log.write(
            tx, tenant.id, tenant.ref, leaves.key_rotate, at=self._clock(), actor=actor, key=key, old=old, new=new
        )

    async def _write(self, tx: Transaction, tenant_id: str, epoch: int, **values: Instant | None) -> None:
        row = tx.insert(key_epochs).values(tenant_id=tenant_id, epoch=epoch, **values)
        await tx.conn.execute(row.on_conflict_do_update(index_elements=[_E.tenant_id, _E.epoch], set_=values))


_TABLES = {"messages": messages, "blobs": blobs, "submissions": submissions}
_WALKS: dict[str, tuple[Any, ...]] = {
    "messages": (messages.c.anchor_at, messages.c.id),
    "blobs": (blobs.c.content_token,),
    "submissions": (submissions.c.id,),
}
_LOCKED_BY: dict[str, Any] = {
    "messages": messages.c.id,
    "blobs": blobs.c.content_token,
    "submissions": submissions.c.id,
}


def _anew(keys: TenantKeys, kind: str, row: Row[Any], now: Instant) -> dict[str, Any] | None:
    """The row's new columns; None when it is under the current key by now."""
    prepared = None
    if kind == "submissions" and row.prepared is not None:
        prepared = rewrap_prepared(keys, row, now)
    if row.key_epoch >= epoch_at(now) and prepared is None:
        return None
    fresh = keys.wrap_anew(row.data_key, row.key_epoch, now)
    value: dict[str, Any] = {"row": row.id, "data_key": fresh.wrapped, "key_epoch": fresh.epoch}
    if kind == "submissions":
        value["prepared"] = row.prepared if prepared is None else prepared
    return value


async def _needed(tx: Transaction, tenant_id: str, epoch: int) -> bool:
    for table in _TABLES.values():
        query = select(table.c.id).where(table.c.tenant_id == tenant_id, table.c.key_epoch == epoch).limit(1)
        if (await tx.conn.execute(query)).first() is not None:
            return True
    return False


async def _row(tx: Transaction, tenant_id: str, epoch: int) -> Row[Any] | None:
    query = select(key_epochs).where(_E.tenant_id == tenant_id, _E.epoch == epoch)
    return (await tx.conn.execute(query)).one_or_none()
