"""From a message's bytes to everything that its rows say: tokens, commitments, summary, and the stored blob.

Runs in worker threads, a batch at a time, away from the event loop. The bytes themselves are stored exactly as they
came (R4); what is read from them is only read. A message that no parser reads is kept all the same, with an empty
summary.

Order matters: every blob is put, then one `settle` makes all of them durable, and only then may rows refer to them.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from connectors.model import MessageMeta
from mailgate.blobs.batch import BlobBatch
from mailgate.blobs.store import BlobStore
from mailgate.clock import Instant
from mailgate.errors import MailgateError
from mailgate.ids import new_id
from mailgate.keys import DataKey, KeyMaterial, TenantKeys
from mailgate.messages.headers import header_block, header_digest_input
from mailgate.messages.likeness import sent_likeness
from mailgate.messages.model import Summary
from mailgate.messages.parser import parse_summary
from mailgate.messages.returned import Returned, read_report
from mailgate.messages.summary import encode_summary, seal_summary
from mailgate.messages.threads import thread_links
from mailgate.messages.timed import HOUR, hour_of, untimed
from mailgate.reading.suspects import DeadlyError, Suspects
from mailgate.sync.arriving import HEAD, HUGE, Arrived, MemorySink, MessageSink, RefusedSink, StreamSink, received
from mailgate.sync.identity import Likeness
from mailgate.sync.incoming import (
    Aside,
    Bounce,
    Cause,
    KeptCopy,
    Mended,
    PreparedBlob,
    PreparedMessage,
    SentToken,
)
from mailgate.sync.views import Purged
from retention.ledger.commitment import Committer
from retention.model import AnchorFrom, AnchorSource
from retention.policy import anchor

UNREAD: Final = Summary(defects=("unread",))
"""What is said of a message that broke whatever read it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of a batch: messages whose blobs are stored, and those that can't be kept."""

    messages: Sequence[PreparedMessage]
    aside: Sequence[Aside]


@dataclass(frozen=True, slots=True)
class Job:
    """What another process has to know to prepare messages: whose they are, where they go, and what came."""

    tenant_id: str
    keys: KeyMaterial
    directory: str
    anchor_from: AnchorFrom
    now: Instant
    messages: Sequence[tuple[MessageMeta, int, bytes, Purged | None]]
    """Metadata, octets and header token of each, and the purged copy that it is."""


class Preparer:
    """Prepares the messages of one mailbox. All but `open_sink` and `read` are for worker threads."""

    def __init__(
        self,
        tenant_id: str,
        keys: TenantKeys,
        blobs: BlobStore,
        *,
        max_bytes: int,
        anchor_from: AnchorFrom,
        suspects: Suspects | None = None,
    ) -> None:
        """`suspects`: of this process; without, nothing is marked that is read."""
        self._tenant_id = tenant_id
        self._keys = keys
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._anchor_from = anchor_from
        self.suspects = Suspects() if suspects is None else suspects
        self._committer = Committer(keys.ledger_key)

    def open_sink(self, octets: int, now: Instant) -> MessageSink:
        """The sink for a message of so many bytes."""
        if octets > self._max_bytes:
            return RefusedSink(self._max_bytes)
        if octets <= HUGE:
            return MemorySink()
        blob_id, key = new_id(now), self._keys.new_data_key(now)
        return StreamSink(self._blobs.writer(self._tenant_id, blob_id, key.key), blob_id, key)

    @classmethod
    def of(cls, job: Job, keys: TenantKeys, blobs: BlobStore) -> Preparer:
        """The same in another process."""
        return cls(job.tenant_id, keys, blobs, max_bytes=0, anchor_from=job.anchor_from)

    def job(self, batch: Sequence[Arrived], now: Instant) -> tuple[Job, list[bytes | bytearray]] | None:
        """What another process needs to do `prepare`, and the bytes; None when it has to be done here.

        Raises KeyMissingError when the tenant's keys were destroyed.
        """
        directory = self._blobs.shared_directory
        if directory is None:
            return None
        bodies: list[bytes | bytearray] = []
        for arrived in batch:
            if not isinstance(arrived.sink, MemorySink) or arrived.refusal is not None:
                return None
            bodies.append(arrived.sink.data)
        messages = [(arrived.meta, arrived.octets, arrived.header_token, arrived.returns) for arrived in batch]
        return Job(self._tenant_id, self._keys.share(now), str(directory), self._anchor_from, now, messages), bodies

    def header_tokens(self, headers: Sequence[bytes]) -> list[bytes]:
        """The timed token of each header block."""
        return [self._header_token(header) for header in headers]

    def msgid_tokens(self, headers: Sequence[bytes]) -> list[bytes | None]:
        """The keyed token of each header block's Message-ID; None where there is none, or it can't be read."""
        tokens: list[bytes | None] = []
        for header in headers:
            try:
                (token,) = self.header_tokens([header])
                msgid = self.suspects.read(token, header, partial(parse_summary, header)).rfc_message_id
            except Exception:  # noqa: BLE001 - whatever a hostile message breaks
                msgid = None
            tokens.append(None if msgid is None else self._keys.mac("msgid", msgid.encode()))
        return tokens

    def sent_tokens(self, batch: Sequence[Arrived]) -> list[SentToken]:
        """What each of these may be known by as something that was sent; those that can't be read are left out."""
        tokens: list[SentToken] = []
        for arrived in batch:
            try:
                head = bytes(arrived.sink.head)
                summary = self.suspects.read(
                    arrived.header_token, head, partial(parse_summary, head), size=arrived.sink.size
                )
            except Exception:  # noqa: BLE001, S112 - whatever a hostile message breaks
                continue
            msgid = summary.rfc_message_id
            token = None if msgid is None else self._keys.mac("msgid", msgid.encode())
            likeness = self._keys.mac("sent", sent_likeness(summary))
            tokens.append(SentToken(arrived.meta.uid, token, likeness, received(arrived.meta.internal_date)))
        return tokens

    def read(self, blob_id: str, data_key: bytes, key_epoch: int, size: int) -> AsyncIterator[bytes]:
        """The bytes of a copy, in chunks. Raises the errors of `mailgate.blobs` and `mailgate.keys`."""
        return self._blobs.read(self._tenant_id, blob_id, self._keys.unwrap(data_key, key_epoch), size)

    def add_tokens(self, batch: Sequence[Arrived]) -> None:
        """Fill in the tokens."""
        for arrived in batch:
            arrived.header_token = self._header_token(arrived.sink.head)
            arrived.email_token = self._email_token(arrived.meta)

    def likeness(self, meta: MessageMeta, header_token: bytes) -> Likeness:
        """What a message is recognised by of which only the header was read."""
        return Likeness(untimed(header_token), meta.size, received(meta.internal_date), self._email_token(meta))

    def _header_token(self, header: bytes | bytearray | memoryview) -> bytes:
        digested = header_digest_input(header)
        return hour_of(digested) + self._keys.mac("header", digested)

    def _email_token(self, meta: MessageMeta) -> bytes | None:
        """Of X-GM-MSGID, which comes with labels. EMAILID names no message: servers may derive it from the content, so
        that two deliveries of the same bytes have the same (RFC 8474 §5.1; Cyrus does).
        """
        if meta.email_id is None or meta.labels is None:
            return None
        return self._keys.mac("email", meta.email_id.encode())

    def prepare(self, batch: Sequence[Arrived], now: Instant) -> Prepared:
        """Store and describe messages; nothing is durable before `settle`.

        Raises BlobStoreError, KeyMissingError and the like when nothing can be stored now. What is wrong with one
        message alone puts that one aside; if it is only that it can't be read, its bytes are kept all the same.
        """
        messages: list[PreparedMessage] = []
        aside: list[Aside] = []
        store = self._blobs.batch(self._tenant_id, now, len(batch))
        for arrived in batch:
            refusal = arrived.refusal
            if refusal is None:
                try:
                    message, unread = self._prepare(arrived, now, store)
                except (MailgateError, MemoryError, OSError):  # of the machine, not of the message
                    raise
                except Exception as error:  # noqa: BLE001 - whatever a hostile message breaks, the others go on
                    reason = f"it can't be stored: {type(error).__name__}"
                    refusal = Aside(arrived.meta.uid, reason, Cause.UNREADABLE, arrived.octets)
                else:
                    messages.append(message)
                    if unread is not None:
                        aside.append(unread)
                    continue
            elif refusal.cause is Cause.TOO_LARGE:
                refusal = replace(refusal, header_token=self.header_tokens([bytes(arrived.sink.head)])[0])
            arrived.sink.abandon()
            aside.append(refusal)
        store.finish()
        return Prepared(messages, aside)

    def unread(self, arrived: Arrived, now: Instant) -> Prepared:
        """Keep the bytes of what ended the process that read it, and set it aside. Raises as `prepare`."""
        store = self._blobs.batch(self._tenant_id, now, 1)
        message, aside = self._prepare(arrived, now, store, _deadly)
        store.finish()
        return Prepared((message,), () if aside is None else (aside,))

    def settle(self, messages: Sequence[PreparedMessage]) -> None:
        """Make their blobs durable: rows may refer to them now."""
        if len(messages) == 1:
            self._blobs.settle_one(messages[0].blob.id)
        elif messages:
            self._blobs.settle()

    def bare(self, message: PreparedMessage) -> PreparedMessage:
        """The same bytes with nothing that was read from them: for a database that refuses what they say."""
        key = self._keys.unwrap(message.data_key, message.key_epoch)
        return replace(
            message,
            has_files=False,
            links=(),
            msgid_token=None,
            msgid_commit=self._commit(message.item_ref, "msgid", b""),
            summary=seal_summary(key, message.id, encode_summary(UNREAD)),
        )

    async def head_of(self, blob: PreparedBlob) -> bytes:
        """As much of stored bytes as is looked at. Raises BlobStoreError, KeyMissingError."""
        key = self._keys.unwrap(blob.data_key, blob.key_epoch)
        head = bytearray()
        async for chunk in self._blobs.read(self._tenant_id, blob.id, key, blob.size):
            head += chunk
            if len(head) >= HEAD:
                break
        return bytes(head[:HEAD])

    def mend(self, kept: KeptCopy, raw: bytes) -> Mended:
        """Read the bytes of a copy again. Raises whatever reading them raises."""
        size = kept.blob.size
        reading = self.suspects.read(kept.message_id, raw, partial(_read, raw, size), size=size, again=True)
        msgid = reading.msgid
        return Mended(
            message_id=kept.message_id,
            has_files=reading.has_files,
            msgid_token=None if msgid is None else self._keys.mac("msgid", msgid),
            msgid_commit=self._commit(kept.item_ref, "msgid", msgid or b""),
            summary=seal_summary(self._keys.unwrap(kept.data_key, kept.key_epoch), kept.message_id, reading.summary),
            links=self._links(reading),
        )

    def _prepare(
        self, arrived: Arrived, now: Instant, store: BlobBatch, read: Callable[[bytes, int], _Reading] | None = None
    ) -> tuple[PreparedMessage, Aside | None]:
        sink, meta, keys, hour = arrived.sink, arrived.meta, self._keys, arrived.header_token[:HOUR]
        if isinstance(sink, StreamSink):
            raw = bytes(sink.head)
            digest = sink.digest.digest()
            blob = self._blob(sink.blob_id, hour, digest, sink.size, sink.finish(), sink.key)
        else:
            raw = bytes(sink.head)
            sink.abandon()
            digest = hashlib.sha256(raw).digest()
            key = keys.new_data_key(now)
            blob_id, stored = store.put(raw, key.key)
            blob = self._blob(blob_id, hour, digest, len(raw), stored, key)
        known, purged, data_key = arrived.replaces or arrived.returns, arrived.returns, keys.new_data_key(now)
        message_id, item_ref = (new_id(now), new_id(now)) if known is None else (known.message_id, known.item_ref)
        unread = None
        try:
            work = partial(read or _read, raw, blob.size)
            reading = work() if read else self.suspects.read(arrived.header_token, raw, work, size=blob.size)
        except Exception as error:  # noqa: BLE001 - whatever a hostile message breaks, its bytes are kept
            reading = _Reading(None, False, encode_summary(UNREAD))
            reason = f"it can't be read: {type(error).__name__}; its bytes are kept"
            unread = Aside(meta.uid, reason, Cause.UNREADABLE, blob.size, None, arrived.header_token, message_id)
        received_at = received(meta.internal_date)
        anchor_at, source = anchor(received_at, now, self._anchor_from)
        if purged is not None:
            anchor_at = purged.anchor_at
            source = AnchorSource.INTERNALDATE if anchor_at == received_at else AnchorSource.STORED
        msgid = reading.msgid
        message = PreparedMessage(
            uid=meta.uid,
            id=message_id,
            item_ref=item_ref,
            anchor_at=anchor_at,
            anchor_source=str(source),
            internal_date_at=received_at,
            stored_at=now,
            size=blob.size,
            flags=tuple(sorted(meta.flags)),
            has_files=reading.has_files,
            header_token=arrived.header_token,
            msgid_token=None if msgid is None else keys.mac("msgid", msgid),
            content_commit=self._commit(item_ref, "content", digest),
            msgid_commit=self._commit(item_ref, "msgid", msgid or b""),
            summary=seal_summary(data_key.key, message_id, reading.summary),
            data_key=data_key.wrapped,
            key_epoch=data_key.epoch,
            blob=blob,
            replaces=arrived.replaces is not None,
            returns=purged is not None,
            answers=None if reading.answers is None else keys.mac("msgid", reading.answers),
            bounce=self._bounce(reading.returned),
            links=self._links(reading),
        )
        return message, unread

    def _bounce(self, returned: Returned | None) -> Bounce | None:
        if returned is None:
            return None
        tokens = tuple(self._keys.mac("msgid", id_.encode()) for id_ in returned.message_ids)
        return Bounce(tokens, returned.recipients)

    def _commit(self, item_ref: str, what: str, value: bytes) -> bytes:
        return bytes.fromhex(self._committer.commit(item_ref, what, value))

    def _links(self, reading: _Reading) -> tuple[bytes, ...]:
        return tuple([self._keys.mac("msgid", id_) for id_ in reading.links])

    def _blob(self, blob_id: str, hour: bytes, digest: bytes, size: int, stored: int, key: DataKey) -> PreparedBlob:
        # The token of the digest, not of the bytes: one walk over them serves this and the purge log's commitment.
        token = hour + self._keys.mac("content", digest)
        return PreparedBlob(blob_id, token, size, stored, key.wrapped, key.epoch)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a message says, as far as rows say it: Message-ID, whether it has files, its summary, and the ids by which
    it joins a thread.
    """

    msgid: bytes | None
    has_files: bool
    summary: bytes
    answers: bytes | None = None
    links: tuple[bytes, ...] = ()
    returned: Returned | None = None


def _deadly(*_: object) -> _Reading:
    raise DeadlyError


def _read(raw: bytes, size: int) -> _Reading:
    """`raw`: the message, or the beginning of one of so many bytes."""
    parsed = parse_summary(raw, whole_size=size)
    msgid = parsed.rfc_message_id
    return _Reading(
        msgid=None if msgid is None else msgid.encode(),
        has_files=parsed.has_files,
        summary=encode_summary(parsed),
        answers=parsed.in_reply_to[0].encode() if parsed.in_reply_to else None,
        links=tuple([id_.encode() for id_ in thread_links(parsed)]),
        returned=read_report(raw, header_block(raw)),
    )
