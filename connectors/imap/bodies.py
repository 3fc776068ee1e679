"""Messages in pipelined batches: how many at once, and what becomes of those that the server refuses."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from connectors.errors import ProtocolError, ServerError
from connectors.imap.collect import FetchStream
from connectors.imap.refusal import command_error
from connectors.imap.responses import Body, Fetch
from connectors.imap.uidset import format_sets, ranges_of
from connectors.model import MessageMeta
from connectors.port import Sink

if TYPE_CHECKING:
    from connectors.imap.session import Session

T = TypeVar("T")

FIRST_BATCH: Final = 8
"""Few, so that the first message is there at once and the mean size gets known."""

LARGEST_BATCH: Final = 500
BATCH_BYTES: Final = 4 << 20
"""What one FETCH should bring, by the mean size so far."""

HALVES_BYTES: Final = 32 << 20
"""Bodies that wait for their flags; a server that sends so many of them will not send the flags any more."""

MAX_REFUSED: Final = 20
"""So many messages refused one after the other, and it is not about the messages."""

MAX_BAD: Final = 4
"""Fewer while the server says BAD to everything: rather our command is wrong, and servers hang up at the sixth."""


class _Reader(Generic[T]):
    """FETCH → (metadata, body), for UIDs that were asked for and have not come yet.

    Some servers answer flags and body in two responses (RFC 9051 §7.5.2 allows it): halves are kept until they make a
    whole.
    """

    def __init__(self, uids: Sequence[int], section: str, make: Callable[[MessageMeta, Body], T]) -> None:
        self.wanted = set(uids)
        self._section = section
        self._make = make
        self._halves: dict[int, Fetch] = {}
        self._halves_bytes = 0

    def read(self, fetch: Fetch) -> T | None:
        # Without a UID nobody can say whose bytes these are; with one that was not asked for they are nobody's (RFC
        # 9051 §6.4.9).
        uid = fetch.uid
        if uid is None or uid not in self.wanted:
            return None
        body = fetch.bodies.get(self._section)
        if self._halves or body is None or fetch.flags is None:
            fetch = self._join(uid, fetch)
            body = fetch.bodies.get(self._section)
        if body is None or body.sink is None or fetch.flags is None:
            return None
        self.wanted.discard(uid)
        if self._halves.pop(uid, None) is not None:
            self._halves_bytes -= body.octets
        size = fetch.size if fetch.size is not None else body.octets
        meta = MessageMeta(uid, fetch.flags, fetch.internal_date, size, fetch.modseq, fetch.email_id, fetch.labels)
        return self._make(meta, body)

    def _join(self, uid: int, fetch: Fetch) -> Fetch:
        self._halves_bytes += sum(body.octets for body in fetch.bodies.values())
        if self._halves_bytes > HALVES_BYTES and len(self._halves) > 1:
            raise ProtocolError("the server sends bodies without the flags that were asked for")
        half = self._halves.get(uid)
        if half is None:
            self._halves[uid] = fetch
            return fetch
        for name in ("flags", "internal_date", "size", "modseq", "email_id", "labels"):
            value = getattr(fetch, name)
            if value is not None:
                setattr(half, name, value)
        half.bodies.update(fetch.bodies)
        return half


class _Batches:
    """Which UIDs go into the next command."""

    def __init__(self, uids: Sequence[int]) -> None:
        self._todo = deque(dict.fromkeys(uids))
        self._parts: deque[tuple[str, list[range]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._parts or self._todo)

    def next(self, stream: FetchStream[Any]) -> tuple[str, list[range]] | None:
        if not self._parts and self._todo:
            if stream.count:
                count = max(1, min(LARGEST_BATCH, BATCH_BYTES * stream.count // max(1, stream.octets)))
            else:
                count = FIRST_BATCH
            batch = [self._todo.popleft() for _ in range(min(count, len(self._todo)))]
            self._parts.extend(format_sets(ranges_of(batch)))
        return self._parts.popleft() if self._parts else None

    def one_by_one(self, uids: Sequence[int]) -> None:
        """Asks again for each of these alone."""
        self._parts.extend((str(uid), [range(uid, uid + 1)]) for uid in uids)


async def fetch_messages(
    session: Session,
    uids: Sequence[int],
    meta_items: str,
    body_item: str,
    section: str,
    open_sink: Callable[[int], Sink],
    make: Callable[[MessageMeta, Body], T],
    *,
    depth: int,
) -> AsyncIterator[T]:
    """UID FETCH of metadata and one section, `depth` commands in flight; yields what `make` makes of each message.

    What came complete is yielded, also when the line drops behind it; only then the error is raised. A command that is
    refused is asked again message by message, so that one broken message does not hide its neighbours; a message that
    is refused alone is missing. Some say BAD where they cannot read what they hold (hoodiecrow).
    """
    reader = _Reader(uids, section, make)
    stream = FetchStream(session, reader.read, reader.wanted, section=section, open_sink=open_sink)
    batches = _Batches(uids)
    refused = 0
    try:
        while True:
            while len(stream.running) < depth and (part := batches.next(stream)) is not None:
                stream.start(part[1], part[0], f"({meta_items} {body_item})")
            item = stream.take()
            if item is not None:
                refused = 0
                yield item
                continue
            stream.check()
            while stream.finished:
                command, what, status = stream.finished.pop(0)
                if status.condition == "OK":
                    continue
                error = command_error(status, command.name)
                missing = [uid for r in what for uid in r if uid in reader.wanted]
                if not isinstance(error, ServerError):
                    raise error  # the server wants a pause: no message's fault
                if sum(len(r) for r in what) > 1:
                    batches.one_by_one(missing)
                else:
                    refused += 1
                    if refused >= (MAX_BAD if status.condition == "BAD" and not stream.count else MAX_REFUSED):
                        raise error
            if batches and len(stream.running) < depth:
                continue
            if not stream.running:
                return
            await stream.wait()
    finally:
        stream.close()
