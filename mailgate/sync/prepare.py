"""From a message's bytes to everything that its rows say: tokens, commitments, summary, and the stored blob.

Runs in worker threads, a batch at a time, away from the event loop. The bytes themselves are stored exactly as they
came (R4); what is read from them is only read. A message that no parser reads is kept all the same, with an empty
summary.

Order matters: every blob is put, then one `settle` makes all of them durable, and only then may rows refer to them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from connectors.model import MessageMeta
from mailgate.blobs.store import BlobStore, BlobWriter
from mailgate.clock import Instant
from mailgate.errors import MailgateError
from mailgate.ids import new_id, new_ref
from mailgate.keys import DataKey, TenantKeys
from mailgate.messages.headers import header_digest_input
from mailgate.messages.model import Summary
from mailgate.messages.parser import parse_summary
from mailgate.messages.summary import encode_summary, seal_summary
from mailgate.messages.threads import thread_root
from mailgate.sync.identity import Likeness
from mailgate.sync.port import Aside, PreparedBlob, PreparedMessage
from retention.ledger.commitment import Committer
from retention.model import AnchorFrom
from retention.policy import EARLIEST_RECEIVED_AT, anchor

T = TypeVar("T")

HUGE = 1 << 20
"""Larger messages are streamed into the blob store while they arrive, in constant memory."""

HEAD = 2 << 20
"""So much of a huge message is kept to be parsed."""


class MessageSink(Protocol):
    """What a message's bytes go into while they arrive."""

    def write(self, chunk: memoryview, /) -> None:
        """Take the next bytes."""

    @property
    def size(self) -> int:
        """Bytes taken so far."""

    @property
    def head(self) -> bytes | bytearray:
        """As much of its beginning as is looked at."""

    def abandon(self) -> None:
        """The message will not be kept: leave nothing behind."""


class MemorySink:
    """Keeps a message of ordinary size."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, chunk: memoryview, /) -> None:
        self.data += chunk

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def head(self) -> bytearray:
        return self.data

    def abandon(self) -> None:
        self.data = bytearray()


class RefusedSink:
    """Throws away a message that is larger than the operator allows."""

    __slots__ = ("head", "size")

    def __init__(self) -> None:
        self.head = b""
        self.size = 0

    def write(self, chunk: memoryview, /) -> None:
        self.size += len(chunk)

    def abandon(self) -> None:
        """Nothing was kept."""


class StreamSink:
    """Sends a huge message into the blob store as it arrives; keeps its head for the parser."""

    def __init__(self, writer: BlobWriter, blob_id: str, key: DataKey) -> None:
        self.blob_id = blob_id
        self.key = key
        self.head = bytearray()
        self.digest = hashlib.sha256()
        self.size = 0
        self._writer = writer

    def write(self, chunk: memoryview, /) -> None:
        self._writer.write(chunk)
        self.digest.update(chunk)
        self.size += len(chunk)
        room = HEAD - len(self.head)
        if room > 0:
            self.head += chunk[:room]

    def finish(self) -> int:
        """The object is complete; its stored size."""
        return self._writer.finish()

    def abandon(self) -> None:
        self._writer.abort()


@dataclass(slots=True)
class Arrived:
    """A message as it came: metadata, its bytes in a sink, and how many bytes the server announced.

    `header_token` is filled in by `Preparer.add_tokens`.
    """

    meta: MessageMeta
    sink: MessageSink
    octets: int
    header_token: bytes = b""

    @property
    def refusal(self) -> str | None:
        """Why it can't be kept, whatever it says."""
        if isinstance(self.sink, RefusedSink):
            return f"it has {self.octets} bytes, more than sync.max_message_bytes allows"
        if self.sink.size != self.octets:
            return f"the server sent {self.sink.size} of {self.octets} bytes"
        return None

    @property
    def likeness(self) -> Likeness:
        """What it is recognised by."""
        return Likeness(self.header_token, self.sink.size, received(self.meta.internal_date))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of a batch: messages whose blobs are stored, and those that can't be kept."""

    messages: Sequence[PreparedMessage]
    aside: Sequence[Aside]


class Workers:
    """Threads that prepare: some for imports, one for new mail, so that an import never holds up new mail for long.

    Two for imports: while one waits for the disk or compresses, which needs no interpreter, the other parses.
    """

    BULK: Final = 2

    def __init__(self) -> None:
        self._bulk = ThreadPoolExecutor(self.BULK, thread_name_prefix="mailgate-import")
        self._live = ThreadPoolExecutor(1, thread_name_prefix="mailgate-live")

    async def run(self, work: Callable[[], T], *, bulk: bool) -> T:
        """Call `work` in a thread of its kind."""
        return await asyncio.get_running_loop().run_in_executor(self._bulk if bulk else self._live, work)

    async def prepare(self, preparer: Preparer, batch: Sequence[Arrived], now: Instant, *, bulk: bool) -> Prepared:
        """`Preparer.prepare` and `settle` for a batch, shared out between the threads; in order."""
        if not batch:
            return Prepared((), ())
        size = -(-len(batch) // self.BULK) if bulk else len(batch)
        pieces = [batch[start : start + size] for start in range(0, len(batch), size)]
        done = await asyncio.gather(
            *(self.run(partial(preparer.prepare, piece, now), bulk=bulk) for piece in pieces), return_exceptions=True
        )
        failed = next((item for item in done if isinstance(item, BaseException)), None)
        if failed is not None:
            raise failed
        found = [item for item in done if isinstance(item, Prepared)]
        messages = [message for item in found for message in item.messages]
        await self.run(partial(preparer.settle, messages), bulk=bulk)
        return Prepared(messages, [aside for item in found for aside in item.aside])

    def close(self) -> None:
        """End the threads once their work is done."""
        self._bulk.shutdown()
        self._live.shutdown()


class Preparer:
    """Prepares the messages of one mailbox. All but `open_sink` and `read` are for worker threads."""

    def __init__(
        self, tenant_id: str, keys: TenantKeys, blobs: BlobStore, *, max_bytes: int, anchor_from: AnchorFrom
    ) -> None:
        self._tenant_id = tenant_id
        self._keys = keys
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._anchor_from = anchor_from
        self._committer = Committer(keys.ledger_key)

    def open_sink(self, octets: int, now: Instant) -> MessageSink:
        """The sink for a message of so many bytes."""
        if octets > self._max_bytes:
            return RefusedSink()
        if octets <= HUGE:
            return MemorySink()
        blob_id, key = new_id(now), self._keys.new_data_key(now)
        return StreamSink(self._blobs.writer(self._tenant_id, blob_id, key.key), blob_id, key)

    def header_tokens(self, headers: Sequence[bytes]) -> list[bytes]:
        """The keyed token of each header block."""
        return [self._keys.mac("header", header_digest_input(header)) for header in headers]

    def msgid_tokens(self, headers: Sequence[bytes]) -> list[bytes | None]:
        """The keyed token of each header block's Message-ID; None where there is none."""
        ids = [parse_summary(header).rfc_message_id for header in headers]
        return [None if msgid is None else self._keys.mac("msgid", msgid.encode()) for msgid in ids]

    def read(self, blob_id: str, data_key: bytes, key_epoch: int, size: int) -> AsyncIterator[bytes]:
        """The bytes of a copy, in chunks. Raises the errors of `mailgate.blobs` and `mailgate.keys`."""
        return self._blobs.read(self._tenant_id, blob_id, self._keys.unwrap(data_key, key_epoch), size)

    def add_tokens(self, batch: Sequence[Arrived]) -> None:
        """Fill in the header tokens."""
        for arrived in batch:
            arrived.header_token = self._keys.mac("header", header_digest_input(arrived.sink.head))

    def prepare(self, batch: Sequence[Arrived], now: Instant) -> Prepared:
        """Store and describe messages; nothing is durable before `settle`.

        Raises BlobStoreError, KeyMissingError and the like when nothing can be stored now; what is wrong with one
        message alone puts that one aside.
        """
        messages: list[PreparedMessage] = []
        aside: list[Aside] = []
        for arrived in batch:
            reason = arrived.refusal
            if reason is None:
                try:
                    messages.append(self._prepare(arrived, now))
                    continue
                except MailgateError:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever a hostile message breaks, the others go on
                    reason = f"it can't be stored: {type(error).__name__}"
            arrived.sink.abandon()
            aside.append(Aside(arrived.meta.uid, reason))
        return Prepared(messages, aside)

    def settle(self, messages: Sequence[PreparedMessage]) -> None:
        """Make their blobs durable: rows may refer to them now."""
        if len(messages) == 1:
            self._blobs.settle_one(messages[0].blob.id)
        elif messages:
            self._blobs.settle()

    def _prepare(self, arrived: Arrived, now: Instant) -> PreparedMessage:
        sink, meta, keys = arrived.sink, arrived.meta, self._keys
        if isinstance(sink, StreamSink):
            raw = bytes(sink.head)
            digest = sink.digest.digest()
            blob = self._blob(sink.blob_id, digest, sink.size, sink.finish(), sink.key)
        else:
            raw = bytes(sink.head)
            sink.abandon()
            digest = hashlib.sha256(raw).digest()
            blob_id, key = new_id(now), keys.new_data_key(now)
            stored = self._blobs.put(self._tenant_id, blob_id, raw, key.key)
            blob = self._blob(blob_id, digest, len(raw), stored, key)
        parsed = parse_summary(raw)
        message_id, item_ref, data_key = new_id(now), new_ref(), keys.new_data_key(now)
        received_at = received(meta.internal_date)
        anchor_at, source = anchor(received_at, now, self._anchor_from)
        msgid = parsed.rfc_message_id
        root = thread_root(parsed)
        commit = self._committer.commit
        return PreparedMessage(
            uid=meta.uid,
            id=message_id,
            item_ref=item_ref,
            anchor_at=anchor_at,
            anchor_source=str(source),
            internal_date_at=received_at,
            stored_at=now,
            size=blob.size,
            flags=tuple(sorted(meta.flags)),
            has_files=parsed.has_files,
            thread_id=message_id if root is None else _thread_id(keys.mac("thread", root.encode())),
            header_token=arrived.header_token,
            msgid_token=None if msgid is None else keys.mac("msgid", msgid.encode()),
            content_commit=bytes.fromhex(commit(item_ref, "content", digest)),
            msgid_commit=bytes.fromhex(commit(item_ref, "msgid", (msgid or "").encode())),
            summary=self._seal(parsed, message_id, data_key),
            data_key=data_key.wrapped,
            key_epoch=data_key.epoch,
            blob=blob,
        )

    @staticmethod
    def _seal(parsed: Summary, message_id: str, key: DataKey) -> bytes:
        return seal_summary(key.key, message_id, encode_summary(parsed))

    def _blob(self, blob_id: str, digest: bytes, size: int, stored: int, key: DataKey) -> PreparedBlob:
        # The token of the digest, not of the bytes: one walk over them serves this and the purge log's commitment.
        return PreparedBlob(blob_id, self._keys.mac("content", digest), size, stored, key.wrapped, key.epoch)


def received(internal_date: Instant | None) -> Instant | None:
    """INTERNALDATE if it makes sense: one before 1990 is a server's way of saying that it does not know."""
    return None if internal_date is None or internal_date < EARLIEST_RECEIVED_AT else internal_date


_TO_CROCKFORD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def _thread_id(token: bytes) -> str:
    """A keyed token in the form of an id (`mailgate.ids`): the same root gives the same thread, and tells nobody
    which.
    """
    bits = bytes([token[0] & 0x3F]) + token[1:16]
    return base64.b32encode(bits)[:26].translate(_TO_CROCKFORD).decode()
