"""Copies as somebody else's table would hold them: ids, places, flags, pins, ages. No content, so nothing is opened.

The feed shows with each event the state of its message as it is at the time of reading, and a snapshot is made of the
same states. So whoever applies events in order, each replacing the state before, ends with what the last reading saw,
wherever they began and however often they apply one again.

A copy that is expired but not purged yet has a state: a pin, or a larger plan, serves it again, and a reader who had
dropped it would never hear of that. One that a user deleted has none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import and_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.clock import Instant
from mailgate.store.database import Database
from mailgate.store.expiry import COPY_COLUMNS, Expiry, Horizon
from mailgate.store.folders import AnyRow
from mailgate.store.paging import cut
from mailgate.store.schema import folders, hold_messages, mailboxes, messages, origins, pins
from mailgate.store.sets import among
from mailgate.store.terms import HoldState, Terms, holds_of, terms_of
from retention.policy import ClockLimits

_M = messages.c
_COLUMNS = (
    *COPY_COLUMNS,
    _M.tenant_id,
    _M.thread_id,
    _M.anchor_source,
    _M.internal_date_at,
    _M.size,
    _M.flags,
    _M.labels,
    _M.has_files,
    _M.moving_to,
    _M.deleted_at,
)


@dataclass(frozen=True, slots=True)
class MessageState:
    """One copy. `folder_ids`: where the near side has it. `hold_ids`: holds that name it; `held` counts those of its
    mailbox and tenant as well. `mailbox_removed_at`: its mailbox is gone since then.
    """

    id: str
    tenant_id: str
    mailbox_id: str
    folder_ids: Sequence[str]
    thread_id: str
    flags: Sequence[str]
    labels: Sequence[str]
    pins: Sequence[tuple[str, str]]
    size: int
    has_files: bool
    anchor_at: Instant
    anchor_source: str
    received_at: Instant | None
    stored_at: Instant
    unpinned_at: Instant | None
    keep_until_at: Instant | None
    expires_at: Instant | None
    held: bool
    hold_ids: Sequence[str]
    mailbox_removed_at: Instant | None
    origin_present: bool


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """A page of a snapshot. On the first one `terms` and `holds`: what expiry hangs on beside the states."""

    states: Sequence[MessageState]
    next_key: tuple[Instant, str] | None
    terms: Terms | None
    holds: Sequence[HoldState]


class MessageStates:
    """Reads states."""

    def __init__(self, db: Database, expiry: Expiry, clock_limits: ClockLimits) -> None:
        self._db = db
        self._expiry = expiry
        self._limits = clock_limits

    async def of(self, ids: Mapping[str, Collection[str]], now: Instant) -> dict[str, MessageState]:
        """The states of these messages, by tenant; those without a state are missing."""
        found: dict[str, MessageState] = {}
        async with self._db.read() as conn:
            for tenant_id, wanted in ids.items():
                mine = and_(_M.tenant_id == tenant_id, among(_M.id, wanted, sqlite=self._db.sqlite))
                rows = (await conn.execute(select(*_COLUMNS).where(mine, _M.deleted_at.is_(None)))).all()
                if rows:
                    horizon = await self._expiry.served(conn, tenant_id, now, self._limits)
                    found.update((state.id, state) for state in await self._states(conn, horizon, rows))
        return found

    async def terms(self, tenant_ids: Collection[str], now: Instant) -> dict[str, Terms]:
        """What the expiry of each tenant's copies hangs on."""
        async with self._db.read() as conn:
            return {tenant_id: await terms_of(conn, self._expiry, tenant_id, now) for tenant_id in tenant_ids}

    async def holds(self, hold_ids: Collection[str]) -> dict[str, HoldState]:
        """These holds, as they are now."""
        async with self._db.read() as conn:
            return {hold.id: hold for hold in await holds_of(conn, ids=hold_ids, sqlite=self._db.sqlite)}

    async def page(
        self, tenant_id: str, *, after: tuple[Instant, str] | None, limit: int, now: Instant
    ) -> SnapshotPage:
        """States by age, the oldest anchor first: neither anchor nor id ever changes, so nothing that stands is missed
        or told twice, however long the pages take.
        """
        key = tuple_(_M.anchor_at, _M.id)
        query = select(*_COLUMNS).where(_M.tenant_id == tenant_id, _M.deleted_at.is_(None))
        if after is not None:
            query = query.where(key > tuple_(*after))
        async with self._db.read() as conn:
            rows, more = cut((await conn.execute(query.order_by(_M.anchor_at, _M.id).limit(limit + 1))).all(), limit)
            horizon = await self._expiry.served(conn, tenant_id, now, self._limits)
            states = await self._states(conn, horizon, rows)
            next_key = (rows[-1].anchor_at, rows[-1].id) if more else None
            if after is not None:
                return SnapshotPage(states, next_key, None, ())
            terms = await terms_of(conn, self._expiry, tenant_id, now)
            holds = await holds_of(conn, tenant_id=tenant_id, at=now, sqlite=self._db.sqlite)
        return SnapshotPage(states, next_key, terms, holds)

    async def _states(self, conn: AsyncConnection, horizon: Horizon, rows: Sequence[AnyRow]) -> list[MessageState]:
        ids = [row.id for row in rows]
        held = await horizon.holds.count(conn, {row.id: row.mailbox_id for row in rows}, sqlite=self._db.sqlite)
        naming = await self._naming(conn, horizon, ids)
        pinned = await self._pins(conn, [row.id for row in rows if row.pins])
        removed = await self._removed(conn, {row.mailbox_id for row in rows})
        standing = await self._places(conn, ids, removed)
        return [
            MessageState(
                id=row.id,
                tenant_id=row.tenant_id,
                mailbox_id=row.mailbox_id,
                folder_ids=standing.get(row.id, ()) if row.moving_to is None else (row.moving_to,),
                thread_id=row.thread_id,
                flags=row.flags,
                labels=row.labels,
                pins=pinned.get(row.id, ()),
                size=row.size,
                has_files=row.has_files,
                anchor_at=row.anchor_at,
                anchor_source=row.anchor_source,
                received_at=row.internal_date_at,
                stored_at=row.stored_at,
                unpinned_at=row.unpinned_at,
                keep_until_at=row.keep_until_at,
                expires_at=horizon.expires_at(row, held[row.id]),
                held=held[row.id] > 0,
                hold_ids=naming.get(row.id, ()),
                mailbox_removed_at=removed.get(row.mailbox_id),
                origin_present=row.id in standing,
            )
            for row in rows
        ]

    async def _naming(self, conn: AsyncConnection, horizon: Horizon, ids: Sequence[str]) -> dict[str, list[str]]:
        if not horizon.holds.on_messages or not ids:
            return {}
        named = among(hold_messages.c.message_id, ids, sqlite=self._db.sqlite)
        query = select(hold_messages).where(named, hold_messages.c.hold_id.in_(horizon.holds.on_messages))
        found: dict[str, list[str]] = {}
        for row in await conn.execute(query.order_by(hold_messages.c.hold_id)):
            found.setdefault(row.message_id, []).append(row.hold_id)
        return found

    async def _pins(self, conn: AsyncConnection, ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
        if not ids:
            return {}
        query = select(pins.c.message_id, pins.c.entity_type, pins.c.entity_id).where(
            among(pins.c.message_id, ids, sqlite=self._db.sqlite)
        )
        found: dict[str, list[tuple[str, str]]] = {}
        for row in await conn.execute(query.order_by(pins.c.created_at, pins.c.entity_type, pins.c.entity_id)):
            found.setdefault(row.message_id, []).append((row.entity_type, row.entity_id))
        return found

    async def _removed(self, conn: AsyncConnection, mailbox_ids: Collection[str]) -> dict[str, Instant]:
        mine = among(mailboxes.c.id, mailbox_ids, sqlite=self._db.sqlite)
        query = select(mailboxes.c.id, mailboxes.c.removed_at).where(mine, mailboxes.c.removed_at.is_not(None))
        return {row.id: row.removed_at for row in await conn.execute(query)}

    async def _places(
        self, conn: AsyncConnection, ids: Sequence[str], removed: Mapping[str, Instant]
    ) -> dict[str, list[str]]:
        """Folders of those whose original is present, as `mailgate.store.reading` shows them."""
        query = (
            select(origins.c.message_id, origins.c.folder_id, origins.c.vanished_at, origins.c.mailbox_id)
            .join(folders, folders.c.id == origins.c.folder_id)
            .where(among(origins.c.message_id, ids, sqlite=self._db.sqlite), folders.c.gone_at.is_(None))
            .order_by(origins.c.message_id, origins.c.folder_id)
        )
        stands: dict[str, list[str]] = {}
        stood: dict[str, list[str]] = {}
        for row in await conn.execute(query):
            if row.mailbox_id not in removed:
                of = stands if row.vanished_at is None else stood
                of.setdefault(row.message_id, []).append(row.folder_id)
        # What has disappeared is not believed to be gone yet: until then it is where it was.
        return {id_: sorted(set(found)) for id_, found in {**stood, **stands}.items()}
