"""Reading copies: listing, searching, one message, its bytes. What is expired is not there; what was purged says so.

Every read judges by one `Horizon`, so lists, search, threads and parts agree with each other and with the purge. What a
person could read stands sealed in `messages.summary` and in the blob; it is opened here, never compared in SQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from sqlalchemy import Row, case, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from mailgate.blobs import BlobStore
from mailgate.clock import Instant, to_rfc3339
from mailgate.errors import GoneError, MailgateError, NotFoundError
from mailgate.keys import KeyMissingError, KeyRing, KeyUnwrapError, TenantKeys
from mailgate.messages.model import Part, Summary
from mailgate.messages.parser import parse, part_content
from mailgate.messages.summary import SummaryCorruptError, decode_summary, open_summary
from mailgate.reading.html import HtmlReader
from mailgate.reading.suspects import DeadlyError, Suspects
from mailgate.store import pending
from mailgate.store.database import Database
from mailgate.store.expiry import Expiry, Horizon
from mailgate.store.listing import Listing, MessageFilter
from mailgate.store.messages import USER_DELETED
from mailgate.store.near_folders import Renames, renames
from mailgate.store.paging import Page, cut
from mailgate.store.pins import Pin, Pins
from mailgate.store.quarantine import unreadable
from mailgate.store.schema import blobs as blobs_table
from mailgate.store.schema import folders, messages, origins, tombstones
from mailgate.store.sets import among
from mailgate.store.tenants import Tenant
from mailgate.store.tombstones import original_gone
from retention.policy import ClockLimits

T = TypeVar("T")
_M = messages.c
_log = structlog.get_logger("mailgate.reading")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an original stands at the server, or stood when `present` is false. `folder` is the near side's name;
    `listed`: that folder is still there.
    """

    folder_id: str
    folder: str
    special_use: str | None
    uidvalidity: int
    uid: int
    present: bool
    listed: bool


@dataclass(frozen=True, slots=True)
class NearFolder:
    """A folder that the near side has a message in."""

    id: str
    name: str
    special_use: str | None


@dataclass(frozen=True, slots=True)
class MessageView:
    """A copy as clients see it. `expires_at` is None while it is pinned or held, or while the plan is not known.

    `folders` is where the near side has it: a move that is on its way to the server has been made here. `pending`: how
    many operations on it are not finished. `deleted_at`: when a user deleted it; then only compliance sees it.
    """

    id: str
    mailbox_id: str
    thread_id: str
    anchor_at: Instant
    anchor_source: str
    received_at: Instant | None
    stored_at: Instant
    expires_at: Instant | None
    size: int
    flags: Sequence[str]
    labels: Sequence[str]
    held: bool
    summary: Summary
    pins: Sequence[Pin]
    origins: Sequence[Origin]
    folders: Sequence[NearFolder]
    pending: int
    deleted_at: Instant | None

    @property
    def origin_present(self) -> bool:
        """Whether the server has it. What has disappeared is not believed to be gone yet: it may have moved."""
        return any(origin.listed for origin in self.origins)


@dataclass(frozen=True, slots=True)
class _Blob:
    """Where a message's bytes are, and their key."""

    tenant_id: str
    id: str
    key: bytes
    size: int
    unread: bool


@dataclass(frozen=True, slots=True)
class Raw:
    """A message's bytes as they were stored: how many, and the chunks in order. `tag` changes when they do: never."""

    size: int
    tag: str
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a message says: its text, and its HTML made safe to show."""

    text: str
    html: str


class TooLargeToParseError(MailgateError):
    """The message is served raw only."""

    status = 422
    default_slug = "too_large_to_parse"


@dataclass(frozen=True, slots=True)
class Found(Page[MessageView]):
    """A page of messages. `complete`: false where words of some messages are not written yet, so that a look for words
    may have missed them.
    """

    complete: bool = True


class MessageReader:
    """Reads the copies of tenants. `limits` bound a clock that can be believed; `parse_bytes` what is taken apart."""

    def __init__(
        self,
        db: Database,
        ring: KeyRing,
        blobs: BlobStore,
        expiry: Expiry,
        pins: Pins,
        *,
        clock_limits: ClockLimits,
        parse_bytes: int,
        parses_at_once: int,
        suspects: Suspects | None = None,
    ) -> None:
        self._db = db
        self._ring = ring
        self._blobs = blobs
        self._expiry = expiry
        self._pins = pins
        self._clock_limits = clock_limits
        self._parse_bytes = parse_bytes
        self._suspects = Suspects() if suspects is None else suspects
        self._parsing = asyncio.Semaphore(parses_at_once)
        self._html = HtmlReader()
        self._showing: dict[str, asyncio.Task[Shown]] = {}

    async def list_page(
        self,
        tenant: Tenant,
        wanted: MessageFilter,
        *,
        after: tuple[Instant, str] | None = None,
        limit: int,
        now: Instant,
    ) -> Found:
        """Copies that are served, the newest anchor first. The page's key is (anchor_at, id). It may hold fewer than
        `limit`, even none, though others follow (see `mailgate.store.listing`).
        Raises PreconditionError (`prefix_invalid`).
        """
        async with self._db.read() as conn:
            horizon = await self._expiry.served(conn, tenant.id, now, self._clock_limits)
            complete = True
            if wanted.words:
                unwritten = select(_M.id).where(_M.tenant_id == tenant.id, ~_M.indexed).limit(1)
                complete = (await conn.execute(unwritten)).first() is None  # before the look: what comes now is no gap
            keys = self._ring.tenant(tenant.ref)
            listing = Listing(conn, tenant.id, keys, wanted, horizon.visible(), after, sqlite=self._db.sqlite)
            found = await listing.newest(limit + 1)
            rows, more = cut(found.rows, limit)
            views = await self._views(conn, tenant, horizon, rows)
        further = None if found.further is None else (found.further, "")
        return Found(views, (rows[-1].anchor_at, rows[-1].id) if more else further, complete)

    async def thread_page(
        self,
        tenant: Tenant,
        thread_id: str,
        *,
        after: tuple[Instant, str] | None = None,
        deleted: bool = False,
        limit: int,
        now: Instant,
    ) -> Page[MessageView]:
        """A thread's copies that are served, the oldest first; those that a user deleted only with `deleted`."""
        async with self._db.read() as conn:
            horizon = await self._expiry.served(conn, tenant.id, now, self._clock_limits)
            query = select(messages).where(_M.tenant_id == tenant.id, _M.thread_id == thread_id, horizon.visible())
            if not deleted:
                query = query.where(_M.deleted_at.is_(None))
            if after is not None:
                query = query.where(tuple_(_M.anchor_at, _M.id) > tuple_(*after))
            query = query.order_by(_M.anchor_at, _M.id).limit(limit + 1)
            rows, more = cut((await conn.execute(query)).all(), limit)
            views = await self._views(conn, tenant, horizon, rows)
        return Page(views, (rows[-1].anchor_at, rows[-1].id) if more else None)

    async def get(self, tenant: Tenant, message_id: str, now: Instant, *, deleted: bool = False) -> MessageView:
        """One copy; one that a user deleted only with `deleted`. Raises NotFoundError, GoneError (`expired`,
        `purged`).
        """
        async with self._db.read() as conn:
            horizon, row = await self._served(conn, tenant.id, message_id, now, deleted=deleted)
            (view,) = await self._views(conn, tenant, horizon, [row])
        return view

    async def raw(self, tenant: Tenant, message_id: str, now: Instant) -> Raw:
        """The bytes as the server gave them, streamed in constant memory. Raises as `get` does."""
        blob = await self._blob(tenant, message_id, now)
        chunks = self._blobs.read(blob.tenant_id, blob.id, blob.key, blob.size)
        return Raw(blob.size, blob.id, chunks)

    async def shown(self, tenant: Tenant, message_id: str, now: Instant) -> Shown | None:
        """The message taken apart, once for all who ask meanwhile; None when it is too large for that, or can't be
        read. Raises as `get` does.
        """
        blob = await self._blob(tenant, message_id, now)
        if blob.size > self._parse_bytes or blob.unread:
            return None
        showing = self._showing.get(blob.id)
        if showing is None:
            showing = asyncio.create_task(self._parse(message_id, blob, lambda data: self._shown(blob, data)))
            self._showing[blob.id] = showing
            showing.add_done_callback(lambda done: self._is_shown(blob.id, done))
        try:
            return await asyncio.shield(showing)
        except DeadlyError:
            return None

    def _is_shown(self, blob_id: str, done: asyncio.Task[Shown]) -> None:
        del self._showing[blob_id]
        if not done.cancelled():
            done.exception()  # told whoever still waits for it

    def _shown(self, blob: _Blob, data: bytes) -> Shown:
        parsed = parse(data)
        return Shown(parsed.text, self._html.safe(blob.id, parsed.html))

    async def part(self, tenant: Tenant, message_id: str, part_id: str, now: Instant) -> tuple[Part, bytes]:
        """One part and its decoded bytes. Raises as `get` does, NotFoundError for a part that the message does not
        have, TooLargeToParseError.
        """
        blob = await self._blob(tenant, message_id, now)
        if blob.size > self._parse_bytes:
            raise TooLargeToParseError(
                f"the message has {blob.size} bytes and is served raw only (limits.parse_bytes is {self._parse_bytes})"
            )
        try:
            if not blob.unread:
                return await self._parse(message_id, blob, lambda data: part_content(data, part_id))
        except DeadlyError:
            pass
        raise TooLargeToParseError("the message can't be read and is served raw only")

    async def _parse(self, message_id: str, blob: _Blob, work: Callable[[bytes], T]) -> T:
        def read() -> T:
            data = self._blobs.read_bytes(blob.tenant_id, blob.id, blob.key, blob.size, limit=self._parse_bytes)
            return self._suspects.read(message_id, data, lambda: work(data))

        async with self._parsing:  # each holds a whole message in memory
            return await asyncio.to_thread(read)

    async def _served(
        self, conn: AsyncConnection, tenant_id: str, message_id: str, now: Instant, *, deleted: bool = False
    ) -> tuple[Horizon, Row[Any]]:
        horizon = await self._expiry.served(conn, tenant_id, now, self._clock_limits)
        over = case((horizon.expired(), 1), else_=0).label("over")
        query = select(messages, over).where(_M.id == message_id, _M.tenant_id == tenant_id)
        row = (await conn.execute(query)).one_or_none()
        if row is None:
            raise await why_gone(conn, tenant_id, message_id)
        if row.deleted_at is not None and not deleted:
            raise not_there(message_id)
        if row.over:
            raise expired(message_id)
        return horizon, row

    async def _blob(self, tenant: Tenant, message_id: str, now: Instant) -> _Blob:
        async with self._db.read() as conn:
            _, message = await self._served(conn, tenant.id, message_id, now)
            unread = unreadable(literal(message_id)).label("unread")
            query = select(blobs_table, unread).where(blobs_table.c.id == message.blob_id)
            row = (await conn.execute(query)).one_or_none()
            if row is None:  # purged since the statement before
                raise await why_gone(conn, tenant.id, message_id)
        key = self._ring.tenant(tenant.ref).unwrap(row.data_key, row.key_epoch)
        return _Blob(tenant.id, row.id, key, row.size, row.unread)

    async def _views(
        self, conn: AsyncConnection, tenant: Tenant, horizon: Horizon, rows: Sequence[Row[Any]]
    ) -> list[MessageView]:
        ids = [row.id for row in rows]
        held = await horizon.holds.count(conn, {row.id: row.mailbox_id for row in rows}, sqlite=self._db.sqlite)
        pinned = [row.id for row in rows if row.pins]
        pins = await self._pins.of_messages(conn, tenant, pinned) if pinned else {}
        renamed = await renames(conn, {row.mailbox_id for row in rows})
        standing = await self._origins(conn, ids, renamed, horizon.removed)
        places = await self._places(conn, rows, standing, renamed)
        open_ = await pending.of_messages(conn, ids, sqlite=self._db.sqlite)
        keys = self._ring.tenant(tenant.ref)
        return [
            MessageView(
                id=row.id,
                mailbox_id=row.mailbox_id,
                thread_id=row.thread_id,
                anchor_at=row.anchor_at,
                anchor_source=row.anchor_source,
                received_at=row.internal_date_at,
                stored_at=row.stored_at,
                expires_at=horizon.expires_at(row, held[row.id]),
                size=row.size,
                flags=row.flags,
                labels=row.labels,
                held=held[row.id] > 0,
                summary=_summary(keys, row),
                pins=pins.get(row.id, ()),
                origins=standing.get(row.id, ()),
                folders=places[row.id],
                pending=open_.get(row.id, 0),
                deleted_at=row.deleted_at,
            )
            for row in rows
        ]

    async def _places(
        self,
        conn: AsyncConnection,
        rows: Sequence[Row[Any]],
        standing: Mapping[str, Sequence[Origin]],
        renamed: Renames,
    ) -> Mapping[str, Sequence[NearFolder]]:
        """Where the near side has each message: where it is moved to, else where its originals stand."""
        ids = {row.moving_to for row in rows if row.moving_to is not None}
        query = select(folders).where(among(folders.c.id, ids, sqlite=self._db.sqlite))
        targets = {
            row.id: NearFolder(row.id, renamed.name_of(row.id, row.mailbox_id, row.name), row.special_use)
            for row in (await conn.execute(query) if ids else ())
        }
        found: dict[str, Sequence[NearFolder]] = {}
        for row in rows:
            known = standing.get(row.id, ())
            # What has disappeared is not believed to be gone yet: until then it is where it was.
            counted = [origin for origin in known if origin.present] or [origin for origin in known if origin.listed]
            stands = {
                origin.folder_id: NearFolder(origin.folder_id, origin.folder, origin.special_use) for origin in counted
            }
            found[row.id] = [targets[row.moving_to]] if row.moving_to in targets else list(stands.values())
        return found

    async def _origins(
        self, conn: AsyncConnection, ids: Sequence[str], renamed: Renames, removed: Collection[str]
    ) -> Mapping[str, Sequence[Origin]]:
        """Where originals stand or stood. Of the `removed` mailboxes nobody knows any more: none is present."""
        query = (
            select(
                origins.c.message_id,
                origins.c.folder_id,
                origins.c.uidvalidity,
                origins.c.uid,
                origins.c.vanished_at,
                folders.c.mailbox_id,
                folders.c.name,
                folders.c.special_use,
                folders.c.gone_at,
            )
            .join(folders, folders.c.id == origins.c.folder_id)
            .where(among(origins.c.message_id, ids, sqlite=self._db.sqlite))
            .order_by(origins.c.message_id, folders.c.name, origins.c.uid)
        )
        found: dict[str, list[Origin]] = {}
        for row in await conn.execute(query):
            listed = row.gone_at is None and row.mailbox_id not in removed
            present = listed and row.vanished_at is None
            name = renamed.name_of(row.folder_id, row.mailbox_id, row.name)
            origin = Origin(row.folder_id, name, row.special_use, row.uidvalidity, row.uid, present, listed)
            found.setdefault(row.message_id, []).append(origin)
        return found


def _summary(keys: TenantKeys, row: Row[Any]) -> Summary:
    """What a listing says of a copy. One that can't be opened (its key was destroyed before the backup that brought it
    was restored; its row is damaged) says nothing of its content, like one that could not be read: it must not hide all
    the others.
    """
    try:
        return decode_summary(open_summary(keys.unwrap(row.data_key, row.key_epoch), row.id, row.summary))
    except (KeyMissingError, KeyUnwrapError, SummaryCorruptError) as error:
        _log.error("message_not_opened", message_id=row.id, slug=error.slug, detail=error.detail)
        return Summary()


def not_there(message_id: str) -> MailgateError:
    """The error for a message that is not here, or that a user deleted: nobody can tell them apart."""
    return NotFoundError(f"there is no message {message_id!r}", slug="message_not_found")


def expired(message_id: str) -> MailgateError:
    """The error for a copy whose time is over and that was not purged yet."""
    why = "this copy's time is over and it will be purged; a pin that comes before keeps it"
    return GoneError(why, slug="expired", message_id=message_id)


async def why_gone(conn: AsyncConnection, tenant_id: str, message_id: str) -> MailgateError:
    """The error for a message without a row: purged by retention, or never there (or deleted by a person)."""
    query = select(tombstones).where(tombstones.c.tenant_id == tenant_id, tombstones.c.message_id == message_id)
    graves = (await conn.execute(query.order_by(tombstones.c.id))).all()
    if not graves or graves[0].reason == USER_DELETED:
        return not_there(message_id)
    row = graves[0]
    return GoneError(
        f"this copy was purged at {to_rfc3339(row.created_at)} ({row.reason})",
        slug="purged",
        message_id=message_id,
        purged_at=to_rfc3339(row.created_at),
        reason=row.reason,
        original_gone=original_gone(graves),
    )
