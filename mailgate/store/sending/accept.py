"""From a request to a queued submission: checked, composed, durable; then canceled or asked for again.

check     what can be refused is refused before anything is read
compose   bytes, in memory up to sending.max_message_bytes                    (no transaction)
keep      stored and described as an imported message is, made durable; then the row with its
          reference to the bytes, and what it counts                          (one transaction)
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Row, insert, select, update

from connectors.model import MessageMeta
from mailgate.actors import Actor
from mailgate.blobs import BlobStore
from mailgate.clock import HOUR, Instant
from mailgate.errors import ConflictError, MailgateError, NotFoundError, PreconditionError
from mailgate.ids import new_id, new_ref
from mailgate.keys import KeyRing
from mailgate.messages import parse_summary
from mailgate.messages.likeness import sent_likeness
from mailgate.reading.suspects import DeadlyError, Suspects
from mailgate.store import messages as copies
from mailgate.store.database import Database
from mailgate.store.handed_in import MessageTooLargeError, keep_one, too_large
from mailgate.store.paging import Page, page_by_id
from mailgate.store.reading import MessageReader
from mailgate.store.schema import messages, submissions
from mailgate.store.sending.allowance import Allowance
from mailgate.store.sending.filing import drop_bytes, filed_of
from mailgate.store.sending.records import Envelope, Submission, seal_prepared, submission_of
from mailgate.store.tenants import Tenant
from mailgate.store.transaction import Transaction
from mailgate.store.wishes.locks import LockedMailbox, Locks
from mailgate.submissions import decide
from mailgate.submissions.addresses import Mailbox, check_address, check_name
from mailgate.submissions.compose import File, Letter, Outgoing, Parent, compose, new_message_id
from mailgate.submissions.model import Recipient, RecipientState, SubmissionState, accepted
from mailgate.submissions.received import receive
from mailgate.sync.arriving import Arrived, MemorySink
from mailgate.sync.incoming import PreparedMessage
from mailgate.sync.prepare import Preparer
from mailgate.tenants.limits import Purpose
from retention.model import AnchorFrom

MOST_WAIT: Final[Instant] = 366 * 24 * HOUR
"""How far ahead `send_at` may lie."""

_S = submissions.c


@dataclass(frozen=True, slots=True)
class FileOf:
    """A part of a message that is kept here, to be attached."""

    message_id: str
    part_id: str
    filename: str | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class LetterRequest:
    """A letter as a client gives it: (name, address) pairs that are not checked yet."""

    sender: tuple[str, str] | None = None
    to: tuple[tuple[str, str], ...] = ()
    cc: tuple[tuple[str, str], ...] = ()
    bcc: tuple[tuple[str, str], ...] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    files: tuple[File | FileOf, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """How to send: now or later, as whom, in answer to what."""

    mailbox_id: str
    purpose: Purpose = Purpose.USER
    send_at: Instant | None = None
    parent_id: str | None = None
    pin_to_parent: bool = False


@dataclass(frozen=True, slots=True)
class _Kept:
    """A message that lies durably in the blob store, described."""

    message: PreparedMessage
    likeness: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Given:
    """What a client gave: its SHA-256, what makes a message of it, and its bytes if it is one already."""

    digest: bytes = field(repr=False)
    made: Callable[[], Outgoing]
    raw: bytes | None = field(default=None, repr=False)


class Submissions:
    """The use cases of clients. `at_once`: how many messages are put together at the same time."""

    def __init__(
        self,
        db: Database,
        ring: KeyRing,
        blobs: BlobStore,
        locks: Locks,
        reader: MessageReader,
        allowance: Allowance,
        *,
        max_bytes: int,
        max_recipients: int,
        give_up: Instant,
        anchor_from: AnchorFrom,
        at_once: int,
        suspects: Suspects | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.on_queued: Callable[[], None] = lambda: None
        self._db = db
        self._ring = ring
        self._blobs = blobs
        self._locks = locks
        self._reader = reader
        self._allowance = allowance
        self._max_recipients = max_recipients
        self._give_up = give_up
        self._anchor_from = anchor_from
        self._composing = asyncio.Semaphore(at_once)
        self._suspects = Suspects() if suspects is None else suspects

    async def check(self, tenant: Tenant, wish: Wish, announced: int | None, now: Instant) -> str:
        """Refuse what could not be sent, whatever it is; the mailbox's address. `announced`: bytes, as the client says.

        Raises NotFoundError, ConflictError (`mailbox_removed`, `mailbox_disabled`, `not_entitled`, `no_smtp`),
        PreconditionError `send_at_invalid`, MessageTooLargeError.
        """
        mailbox = await self._db.transact(lambda tx: self._sendable(tx, tenant.id, wish, now))
        if announced is not None and announced > self.max_bytes:
            raise self.too_large()
        return str(mailbox.row.address)

    def too_large(self) -> MessageTooLargeError:
        """The error for what is larger than the operator allows."""
        return too_large(self.max_bytes, "sending.max_message_bytes")

    async def send_letter(
        self, tenant: Tenant, wish: Wish, request: LetterRequest, now: Instant, actor: Actor
    ) -> Submission:
        """Put a letter together and queue it. Raises as `check` does, and PreconditionError that names the field."""
        address = await self.check(tenant, wish, None, now)
        letter = Letter(
            sender=_mailbox(request.sender or ("", address), "from"),
            to=_mailboxes(request.to, "to"),
            cc=_mailboxes(request.cc, "cc"),
            bcc=_mailboxes(request.bcc, "bcc"),
            subject=request.subject,
            text=request.text,
            html=request.html,
            files=await self._files(tenant, request.files, now),
            parent=await self._parent(tenant, wish.parent_id, now),
        )
        message_id = new_message_id(new_ref(), letter.sender.address)

        def made() -> Outgoing:
            return compose(letter, message_id=message_id, at=now, most_recipients=self._max_recipients)

        return await self._send(tenant, wish, _Given(letter.digest(), made), now, actor)

    async def send_raw(self, tenant: Tenant, wish: Wish, raw: bytes, now: Instant, actor: Actor) -> Submission:
        """Queue a whole message. Raises as `send_letter` does."""
        address = check_address(await self.check(tenant, wish, len(raw), now), "from")
        parent = await self._parent(tenant, wish.parent_id, now)
        message_id = new_message_id(new_ref(), address)

        def made() -> Outgoing:
            return receive(
                raw,
                default_sender=address,
                message_id=message_id,
                at=now,
                most_recipients=self._max_recipients,
                parent=parent,
            )

        return await self._send(tenant, wish, _Given(hashlib.sha256(raw).digest(), made, raw), now, actor)

    # Afterwards.

    async def get(self, tenant: Tenant, mailbox_id: str, submission_id: str) -> Submission:
        """One submission. Raises NotFoundError."""
        query = self._query(tenant, mailbox_id).where(_S.id == submission_id)
        async with self._db.read() as conn:
            row = (await conn.execute(query)).one_or_none()
        if row is None:
            raise _not_found(submission_id)
        return self._show(tenant, row)

    async def list_page(
        self,
        tenant: Tenant,
        mailbox_id: str,
        *,
        state: SubmissionState | None = None,
        after: str | None = None,
        limit: int,
    ) -> Page[Submission]:
        """The mailbox's submissions, newest first. The page's key: the id."""
        query = self._query(tenant, mailbox_id)
        if state is not None:
            query = query.where(_S.state == state.value)
        return await page_by_id(self._db, query, _S.id, lambda row: self._show(tenant, row), after=after, limit=limit)

    async def cancel(self, tenant: Tenant, mailbox_id: str, submission_id: str, now: Instant) -> Submission:
        """It, or what of it still waits, is not sent. Raises NotFoundError, ConflictError `not_queued`."""

        async def work(tx: Transaction) -> None:
            row = await self._lock(tx, tenant, mailbox_id, submission_id)
            if row.state != SubmissionState.QUEUED.value:
                why = f"this submission is {row.state}: only what is queued can be canceled"
                raise ConflictError(why, slug="not_queued", state=row.state)
            key = self._ring.tenant(tenant.ref).unwrap(row.data_key, row.key_epoch)
            envelope = Envelope.open(key, row.id, row.sealed)
            left = tuple(
                replace(item, state=RecipientState.CANCELED) if item.state is RecipientState.WAITING else item
                for item in envelope.recipients
            )
            partly = bool(accepted(left))
            values: dict[str, Any] = {
                "state": (SubmissionState.SENT if partly else SubmissionState.CANCELED).value,
                "code": None,
                "claimed_by": None,
                "finished_at": now,
                "sealed": replace(envelope, recipients=left).seal(key, row.id),
            }
            if not partly and row.charged_at is not None:
                values["charged_at"] = None
                await self._allowance.give_back(tx, tenant.id, Purpose(row.purpose), 1, row.charged_at)
            await tx.conn.execute(update(submissions).where(_S.id == row.id).values(values))
            await drop_bytes(tx, row, now)

        await self._db.transact(work)
        return await self.get(tenant, mailbox_id, submission_id)

    async def retry(self, tenant: Tenant, wish: Wish, submission_id: str, now: Instant) -> Submission:
        """Try again for everybody who did not get it for sure: of what is `uncertain`, somebody may get it twice.

        Raises NotFoundError, ConflictError (`not_retryable`, and as `check` does), TooManyRequestsError.
        """

        async def work(tx: Transaction) -> None:
            await self._sendable(tx, tenant.id, wish, now)
            row = await self._lock(tx, tenant, wish.mailbox_id, submission_id)
            if row.state not in (SubmissionState.FAILED.value, SubmissionState.UNCERTAIN.value) or row.blob_id is None:
                why = f"this submission is {row.state}" + ("" if row.blob_id else " and its bytes are not kept")
                raise ConflictError(f"{why}: it can't be tried again", slug="not_retryable", state=row.state)
            filed = filed_of(submissions).where(_S.id == row.id, _S.sent_at.is_(None)).limit(1)
            if (await tx.conn.execute(filed)).first() is not None:
                why = "the server has filed it in Sent meanwhile: it was sent, and will say so in a moment"
                raise ConflictError(why, slug="not_retryable", state=row.state)
            key = self._ring.tenant(tenant.ref).unwrap(row.data_key, row.key_epoch)
            envelope = Envelope.open(key, row.id, row.sealed)
            values: dict[str, Any] = {
                "state": SubmissionState.QUEUED.value,
                "code": None,
                "claimed_by": None,
                "next_at": now,
                "give_up_at": now + self._give_up,
                # An answer to the last attempt that is still on its way is not for this one.
                "attempts": row.attempts + 1,
                "sending_at": None,
                "finished_at": None,
                "sealed": replace(envelope, recipients=decide.again(envelope.recipients)).seal(key, row.id),
            }
            if row.charged_at is None:
                await self._allowance.charge(tx, tenant.id, Purpose(row.purpose), 1, now)
                values["charged_at"] = now
            await tx.conn.execute(update(submissions).where(_S.id == row.id).values(values))
            tx.after_commit(self.on_queued)

        await self._db.transact(work)
        return await self.get(tenant, wish.mailbox_id, submission_id)

    # What sending is made of.

    async def _send(self, tenant: Tenant, wish: Wish, given: _Given, now: Instant, actor: Actor) -> Submission:
        async with self._composing:  # each holds a whole message in memory, more than once
            outgoing, kept = await asyncio.to_thread(self._take, tenant, given, now)
        submission_id = new_id(now)
        try:
            await self._db.transact(
                lambda tx: self._insert(tx, tenant, wish, submission_id, outgoing, kept, now, actor)
            )
        except MailgateError:
            await self._db.transact(lambda tx: copies.discard(tx, tenant.id, [kept.message.blob], now))
            raise
        return await self.get(tenant, wish.mailbox_id, submission_id)

    def _take(self, tenant: Tenant, given: _Given, now: Instant) -> tuple[Outgoing, _Kept]:
        """In a worker thread: made, and kept. If that ends this process, who gives it again is told."""
        # Not by its header: each time it may have another date and Message-ID.
        name = self._ring.tenant(tenant.ref).mac("content", given.digest)
        outgoing = given.made() if given.raw is None else None

        def take() -> tuple[Outgoing, _Kept]:
            made = given.made() if outgoing is None else outgoing
            if len(made.content) > self.max_bytes:
                raise self.too_large()
            return made, self._keep(tenant, made, now)

        raw = given.raw if outgoing is None else outgoing.content
        try:
            return self._suspects.read(name, raw or b"", take)
        except DeadlyError:
            why = "this message can't be kept: whoever reads it ends"
            raise PreconditionError(why, slug="message_invalid") from None

    def _keep(self, tenant: Tenant, outgoing: Outgoing, now: Instant) -> _Kept:
        """Described, stored, durable."""
        keys = self._ring.tenant(tenant.ref)
        content = outgoing.content
        preparer = Preparer(tenant.id, keys, self._blobs, max_bytes=self.max_bytes, anchor_from=self._anchor_from)
        arrived = Arrived(MessageMeta(0, frozenset(), now, len(content)), MemorySink(content), len(content))
        message = keep_one(preparer, arrived, now)
        return _Kept(message, keys.mac("sent", sent_likeness(parse_summary(content))))

    async def _insert(
        self,
        tx: Transaction,
        tenant: Tenant,
        wish: Wish,
        submission_id: str,
        outgoing: Outgoing,
        kept: _Kept,
        now: Instant,
        actor: Actor,
    ) -> None:
        await self._sendable(tx, tenant.id, wish, now)
        message = kept.message
        standing = await copies.refer(tx, tenant.id, [message.blob], now)
        await self._allowance.charge(tx, tenant.id, wish.purpose, 1, now)
        keys = self._ring.tenant(tenant.ref)
        key = keys.new_data_key(now)
        envelope = Envelope(
            sender=outgoing.sender,
            rfc_message_id=outgoing.message_id,
            recipients=tuple(Recipient(address) for address in outgoing.recipients),
            utf8=outgoing.utf8,
            eight_bit=outgoing.eight_bit,
        )
        begins = max(now, wish.send_at or now)
        await tx.conn.execute(
            insert(submissions).values(
                id=submission_id,
                tenant_id=tenant.id,
                mailbox_id=wish.mailbox_id,
                state=SubmissionState.QUEUED.value,
                purpose=wish.purpose.value,
                requested_at=now,
                requested_by=str(actor),
                next_at=begins,
                give_up_at=begins + self._give_up,
                size=len(outgoing.content),
                blob_id=standing[message.blob.content_token],
                data_key=key.wrapped,
                key_epoch=key.epoch,
                sealed=envelope.seal(key.key, submission_id),
                message_id=message.id,
                prepared=seal_prepared(key, submission_id, message),
                parent_id=wish.parent_id,
                pin_to_parent=wish.pin_to_parent,
                msgid_token=keys.mac("msgid", outgoing.message_id.encode()),
                likeness_token=kept.likeness,
                charged_at=now,
            )
        )
        tx.after_commit(self.on_queued)

    async def _sendable(self, tx: Transaction, tenant_id: str, wish: Wish, now: Instant) -> LockedMailbox:
        mailbox = await self._locks.mailbox(tx, tenant_id, wish.mailbox_id, now)
        mailbox.require_sync()
        if mailbox.row.smtp is None:
            why = "this mailbox has no settings for sending; give it `smtp` with PATCH"
            raise ConflictError(why, slug="no_smtp", mailbox_id=mailbox.id)
        if wish.send_at is not None and wish.send_at > now + MOST_WAIT:
            raise PreconditionError("send_at: at most a year ahead", slug="send_at_invalid")
        if wish.pin_to_parent and wish.parent_id is None:
            raise PreconditionError("pin_to_parent needs in_reply_to_message_id", slug="no_parent")
        return mailbox

    async def _parent(self, tenant: Tenant, parent_id: str | None, now: Instant) -> Parent | None:
        if parent_id is None:
            return None
        view = await self._reader.get(tenant, parent_id, now)
        said = view.summary
        return Parent(said.rfc_message_id, said.references or said.in_reply_to)

    async def _files(self, tenant: Tenant, files: Sequence[File | FileOf], now: Instant) -> tuple[File, ...]:
        found: list[File] = []
        size = 0
        for file in files:
            if isinstance(file, FileOf):
                part, content = await self._reader.part(tenant, file.message_id, file.part_id, now)
                name = file.filename or part.filename or "attachment"
                file = File(name, file.content_type or part.content_type, content)
            size += len(file.content)
            if size > self.max_bytes:
                raise self.too_large()
            found.append(file)
        return tuple(found)

    def _query(self, tenant: Tenant, mailbox_id: str) -> Any:
        copy = select(messages.c.id).where(messages.c.id == _S.message_id).exists().label("kept")
        return select(submissions, copy).where(_S.tenant_id == tenant.id, _S.mailbox_id == mailbox_id)

    def _show(self, tenant: Tenant, row: Row[Any]) -> Submission:
        # Recipients are part of what a purged copy said.
        readable = row.sent_at is None or bool(row.kept)
        return submission_of(row, self._ring.tenant(tenant.ref), readable=readable)

    @staticmethod
    async def _lock(tx: Transaction, tenant: Tenant, mailbox_id: str, submission_id: str) -> Row[Any]:
        mine = (_S.id == submission_id) & (_S.tenant_id == tenant.id) & (_S.mailbox_id == mailbox_id)
        row = (await tx.conn.execute(select(submissions).where(mine).with_for_update())).one_or_none()
        if row is None:
            raise _not_found(submission_id)
        found: Row[Any] = row
        return found


def _not_found(submission_id: str) -> NotFoundError:
    return NotFoundError(f"this mailbox has no submission {submission_id}", slug="submission_not_found")


def _mailboxes(pairs: Sequence[tuple[str, str]], where: str) -> tuple[Mailbox, ...]:
    return tuple(_mailbox(pair, f"{where}/{number}") for number, pair in enumerate(pairs))


def _mailbox(pair: tuple[str, str], where: str) -> Mailbox:
    name, address = pair
    return Mailbox(check_name(name, where), check_address(address, where))
