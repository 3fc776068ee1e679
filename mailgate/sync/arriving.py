"""A message on its way in: the sinks that its bytes go into while they arrive, and what came with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from connectors.model import MessageMeta
from mailgate.blobs import BlobWriter
from mailgate.clock import Instant
from mailgate.keys import DataKey
from mailgate.messages.timed import untimed
from mailgate.sync.identity import Likeness
from mailgate.sync.incoming import Aside, Cause, Draft
from mailgate.sync.views import Purged
from retention.policy import EARLIEST_RECEIVED_AT

HUGE = 1 << 20
"""Larger messages are streamed into the blob store while they arrive, in constant memory."""

HEAD = 2 << 20
"""So much of a huge message is kept to be parsed."""

HEADER = 256 << 10
"""So much of a message that is refused is kept until its header was looked at."""


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

    def __init__(self, data: bytes | bytearray = b"") -> None:
        self.data = data

    def write(self, chunk: memoryview, /) -> None:
        if self.data:
            self.data += chunk
        else:
            self.data = bytearray(chunk)

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def head(self) -> bytes | bytearray:
        return self.data

    def abandon(self) -> None:
        self.data = b""


class RefusedSink:
    """Throws away a message that is larger than the operator's `limit`; keeps its header, to know it again."""

    __slots__ = ("head", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.head = bytearray()
        self.limit = limit
        self.size = 0

    def write(self, chunk: memoryview, /) -> None:
        self.size += len(chunk)
        room = HEADER - len(self.head)
        if room > 0:
            self.head += chunk[:room]

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

    `header_token` and `email_token` are filled in by `Preparer.add_tokens`; `replaces`: it is a new version of that;
    `returns`: it is that, which was purged.
    """

    meta: MessageMeta
    sink: MessageSink
    octets: int
    header_token: bytes = b""
    email_token: bytes | None = None
    replaces: Draft | None = None
    returns: Purged | None = None

    @property
    def refusal(self) -> Aside | None:
        """Why it can't be kept, whatever it says."""
        uid, octets, sink = self.meta.uid, self.octets, self.sink
        if isinstance(sink, RefusedSink):
            reason = f"it has {octets} bytes, more than sync.max_message_bytes allows ({sink.limit})"
            return Aside(uid, reason, Cause.TOO_LARGE, octets, sink.limit)
        if sink.size != octets:
            return Aside(uid, f"the server sent {sink.size} of {octets} bytes", Cause.INCOMPLETE, octets)
        return None

    @property
    def likeness(self) -> Likeness:
        """What it is recognised by."""
        return Likeness(untimed(self.header_token), self.sink.size, received(self.meta.internal_date), self.email_token)


def received(internal_date: Instant | None) -> Instant | None:
    """INTERNALDATE if it makes sense: one before 1990 is a server's way of saying that it does not know."""
    return None if internal_date is None or internal_date < EARLIEST_RECEIVED_AT else internal_date
