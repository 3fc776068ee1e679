"""A message that the CRM puts into a folder: taken in bounded memory, shown at once, brought to the server behind it.

    check   what can be refused is refused before the body is read, too many at a time as well
    take    bytes into the blob store as they come, with the line ends that mail has            (no transaction)
    put     described as an imported message is, made durable, then rows and operation          (one transaction)

Mail servers keep lines that end in CRLF (RFC 5322 §2.3) and take no NUL (RFC 9051 §4.3): a bare LF becomes CRLF at the
door, and what has a NUL, or does not begin with a header field, is refused. So the stored bytes are those that the
server will have.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass
from typing import Final

from connectors.model import MessageMeta
from mailgate.actors import Actor
from mailgate.blobs import BlobStore
from mailgate.clock import SECOND, Instant
from mailgate.errors import ConflictError, MailgateError, PreconditionError, TooManyRequestsError
from mailgate.keys import KeyRing
from mailgate.reading.suspects import Suspects
from mailgate.store import messages, operations, tenants
from mailgate.store.database import Database
from mailgate.store.expiry import Horizon
from mailgate.store.handed_in import MessageTooLargeError, keep_one, too_large
from mailgate.store.near_folders import find_folder
from mailgate.store.transaction import Transaction
from mailgate.store.wishes.locks import LockedMailbox, Locks
from mailgate.sync.arriving import HUGE, Arrived, MemorySink, MessageSink
from mailgate.sync.operations import OperationKind
from mailgate.sync.prepare import Preparer
from retention.model import AnchorFrom, Copy
from retention.policy import EARLIEST_RECEIVED_AT, anchor, due_at

_TOGETHER: Final = 256 << 10
"""Bytes that go to a worker thread at once."""

_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that came: its bytes in a sink, not durable yet, and their SHA-256."""

    sink: MessageSink
    digest: bytes
    preparer: Preparer

    def abandon(self) -> None:
        """It is not wanted after all."""
        self.sink.abandon()


@dataclass(frozen=True, slots=True)
class Target:
    """Where a message is to go, and as what. `received_at` None: now."""

    mailbox_id: str
    folder_id: str
    flags: tuple[str, ...] = ()
    received_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """The new message and its operation."""

    message_id: str
    operation_id: str


class Appends:
    """The use case. `at_once`: how many messages are taken apart at the same time; `uploads`: how many may be on their
    way in, which bounds the memory that they take.
    """

    def __init__(
        self,
        db: Database,
        ring: KeyRing,
        blobs: BlobStore,
        locks: Locks,
        *,
        max_bytes: int,
        anchor_from: AnchorFrom,
        at_once: int,
        uploads: int,
        suspects: Suspects | None = None,
    ) -> None:
        self._db = db
        self._ring = ring
        self._blobs = blobs
        self._locks = locks
        self._max_bytes = max_bytes
        self._anchor_from = anchor_from
        self._preparing = asyncio.Semaphore(at_once)
        self._uploads = uploads
        self._suspects = suspects
        self._coming = 0

    @contextlib.contextmanager
    def coming(self) -> Iterator[None]:
        """Around taking and putting a message. Raises TooManyRequestsError before anything is read when too many are on
        their way already: whoever waited here would keep a line, and a slow client would keep the others waiting.
        """
        if self._coming >= self._uploads:
            why = f"{self._coming} messages are being appended already (limits.uploads_at_once); send it again later"
            raise TooManyRequestsError(why, slug="too_many_uploads", retry_after_s=5)
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def check(self, tenant_id: str, target: Target, announced: int | None, now: Instant) -> None:
        """Refuse what could not be kept, whatever the message is. `announced`: its size as the client says.

        Raises NotFoundError (also `folder_not_found`), ConflictError (`mailbox_removed`, `mailbox_disabled`,
        `not_entitled`, `folder_not_followed`), PreconditionError `received_at_invalid`, MessageTooLargeError.
        """
        await self._db.transact(lambda tx: self._lock(tx, tenant_id, target, now))
        if announced is not None and announced > self._max_bytes:
            raise _too_large(self._max_bytes)

    async def take(self, tenant_id: str, chunks: AsyncIterable[bytes], now: Instant) -> Taken:
        """The message's bytes, in bounded memory. Raises MessageTooLargeError, PreconditionError `message_invalid`,
        BlobStoreError, and what reading the chunks raises; then nothing is left behind.
        """
        tenant = await tenants.get(self._db, tenant_id)
        keys = self._ring.tenant(tenant.ref)
        preparer = Preparer(
            tenant_id,
            keys,
            self._blobs,
            max_bytes=self._max_bytes,
            anchor_from=self._anchor_from,
            suspects=self._suspects,
        )
        intake = _Intake(preparer, self._max_bytes, now)
        try:
            together = bytearray()
            async for chunk in chunks:
                together += chunk
                if len(together) >= _TOGETHER:
                    await asyncio.to_thread(intake.write, together)
                    together = bytearray()
            await asyncio.to_thread(intake.write, together)
            intake.finish()
        except BaseException:
            intake.sink.abandon()
            raise
        return Taken(intake.sink, intake.digest.digest(), preparer)

    async def put(self, tenant_id: str, target: Target, taken: Taken, now: Instant, actor: Actor) -> Appended:
        """Keep a message that was taken, and ask for it to be brought to the server. Raises as `check` does."""
        received_at = _whole_second(target.received_at, now)
        flags = frozenset(target.flags)
        arrived = Arrived(MessageMeta(0, flags, received_at, taken.sink.size), taken.sink, taken.sink.size)
        try:
            async with self._preparing:
                message = await asyncio.to_thread(keep_one, taken.preparer, arrived, now)
        except BaseException:
            taken.abandon()
            raise

        async def work(tx: Transaction) -> Appended:
            mailbox, horizon = await self._lock(tx, tenant_id, target, now)
            place = messages.Place(tenant_id, mailbox.id, target.folder_id, None)
            await messages.add(tx, place, [message], horizon=horizon, initial=False)
            operation_id = await operations.ask(
                tx,
                tenant_id=tenant_id,
                mailbox_id=mailbox.id,
                kind=OperationKind.APPEND,
                now=now,
                actor=actor,
                message_id=message.id,
                folder_id=target.folder_id,
                detail={"flags": sorted(flags), "received_at": received_at},
            )
            return Appended(message.id, operation_id)

        try:
            return await self._db.transact(work)
        except MailgateError:
            await self._db.transact(lambda tx: messages.discard(tx, tenant_id, [message.blob], now))
            raise

    async def _lock(
        self, tx: Transaction, tenant_id: str, target: Target, now: Instant
    ) -> tuple[LockedMailbox, Horizon]:
        mailbox = await self._locks.mailbox(tx, tenant_id, target.mailbox_id, now)
        mailbox.require_sync()
        folder = await find_folder(tx.conn, mailbox.id, target.folder_id)
        if not folder.followed:
            why = "this folder is left out by the mailbox's rules"
            raise ConflictError(why, slug="folder_not_followed", folder_id=target.folder_id)
        if target.received_at is not None and target.received_at < EARLIEST_RECEIVED_AT:
            why = "received_at: no message was received then; leave it out if you do not know when it was"
            raise PreconditionError(why, slug="received_at_invalid")
        horizon = await self._locks.expiry.served(tx.conn, tenant_id, now, self._locks.clock_limits)
        anchor_at, _ = anchor(_whole_second(target.received_at, now), now, self._anchor_from)
        due = due_at(Copy("", anchor_at, now), horizon.rules)
        if due is not None and due <= now:
            raise PreconditionError(
                f"received_at: a message received then is older than the {horizon.rules.days} days of plan "
                f"{horizon.rules.plan}, and its copy would be purged at once",
                slug="received_at_invalid",
            )
        return mailbox, horizon


def _too_large(most: int) -> MessageTooLargeError:
    return too_large(most, "sync.max_message_bytes")


def _whole_second(received_at: Instant | None, now: Instant) -> Instant:
    """INTERNALDATE knows whole seconds, and one in the future is not believed."""
    at = now if received_at is None else min(received_at, now)
    return at - at % SECOND


class _Intake:
    """Takes bytes as they come: line ends, limits, and from memory into the blob store when there are many."""

    def __init__(self, preparer: Preparer, max_bytes: int, now: Instant) -> None:
        self.sink: MessageSink = MemorySink()
        self.digest = hashlib.sha256()
        self._preparer = preparer
        self._max_bytes = max_bytes
        self._now = now
        self._checked = False
        self._held = b""  # a CR at the end of a piece: what follows tells whether it ends a line

    def write(self, piece: bytes | bytearray) -> None:
        """Take the next bytes. Raises MessageTooLargeError, PreconditionError, BlobStoreError."""
        if b"\0" in piece:
            raise PreconditionError("a message must not have a NUL character", slug="message_invalid")
        data = self._held + piece
        self._held = b"\r" if data.endswith(b"\r") else b""
        if self._held:
            data = data[:-1]
        self._take(data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))

    def finish(self) -> None:
        """No more comes."""
        self._take(self._held)
        if not _FIELD.match(self.sink.head):
            why = "a message begins with its header: a name, a colon, a value (RFC 5322 §2.2)"
            raise PreconditionError(why, slug="message_invalid")

    def _take(self, data: bytes) -> None:
        if self.sink.size + len(data) > self._max_bytes:
            raise _too_large(self._max_bytes)
        if isinstance(self.sink, MemorySink) and self.sink.size + len(data) > HUGE:
            before, self.sink = self.sink, self._preparer.open_sink(HUGE + 1, self._now)
            self.sink.write(memoryview(before.data))
        self.digest.update(data)
        self.sink.write(memoryview(data))
