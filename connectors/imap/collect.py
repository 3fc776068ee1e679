"""Collectors: what a command gathers from the untagged responses that come while it is in flight."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Collection, Container
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from connectors.errors import ProtocolError
from connectors.imap.command import Argument
from connectors.imap.inflight import Command
from connectors.imap.responses import (
    Esearch,
    Exists,
    Fetch,
    FolderFlags,
    ListItem,
    Namespaces,
    Recent,
    Response,
    Search,
    Status,
    StatusItem,
    Unparsed,
    Vanished,
)
from connectors.imap.tokens import MAX_NUMBER
from connectors.imap.uidset import size
from connectors.model import FlagsChange
from connectors.port import Sink

if TYPE_CHECKING:
    from connectors.imap.session import Session

T = TypeVar("T")

ITEM_COST: Final = 512
"""What an item without a body counts in the window: about what its values take in memory."""


_WORD: Final = 128
"""A word by itself, and its place in what holds it."""

MANY_RANGES: Final = 200_000
CHANGES_BYTES: Final = 128 << 20
"""What the changes that EXAMINE tells of may take: a quarter of a million messages."""

_OBJECT_ID: Final = re.compile(rb"\(([A-Za-z0-9_-]{1,255})\)")

GATHERED: Final = 200_000
"""No account has so many folders: more responses of one kind to one command only fill our memory."""
GATHERED_BYTES: Final = 128 << 20
"""What they may take: that many, with names as long as names are."""


class Gather(Generic[T]):
    """All responses of the given kinds. `words` are the kinds' names, for responses of theirs that could not be read:
    with `strict` such a one is a ProtocolError, since the answer is then not known; else it is left out.
    """

    def __init__(self, kinds: type[T] | tuple[type, ...], words: frozenset[str], *, strict: bool) -> None:
        self.found: list[T] = []
        self._kinds = kinds
        self._words = words
        self._strict = strict
        self._weight = 0

    def claim(self, response: Response, /) -> bool:
        if isinstance(response, self._kinds):
            self.found.append(response)  # type: ignore[arg-type]  # _kinds are the members of T
            self._weight += ITEM_COST + _weight(response)
            if len(self.found) > GATHERED:
                raise ProtocolError(f"the server answered with more than {GATHERED} lines")
            if self._weight > GATHERED_BYTES:
                raise ProtocolError("the server answered with more than anybody can take")
            return True
        if isinstance(response, Unparsed) and response.word in self._words:
            if self._strict:
                raise ProtocolError(f"{response.word} could not be read: {response.reason}")
            return True
        return False

    def literal(self, uid: int | None, section: str, octets: int, /) -> tuple[bool, Sink | None]:
        return False, None


def _words_weight(words: Collection[str | bytes]) -> int:
    """What words take in memory."""
    return sum(map(len, words)) + _WORD * len(words)


def _weight(response: Response) -> int:
    """About what takes memory beside a response itself: its texts."""
    match response:
        case ListItem():
            return len(response.name) + _words_weight(response.attributes)
        case StatusItem():
            return len(response.name) + _words_weight(response.items)
        case Namespaces():
            return _words_weight([prefix for prefix, _ in response.personal])
        case _:
            return 0


class Hits:
    """The UIDs that a search found: SEARCH in any number of parts, or ESEARCH (RFC 4731 §3.1).

    More than `limit`, a count that contradicts the list, sequence numbers in place of UIDs, and what could not be
    read are ProtocolErrors: a wrong list of UIDs looks like deletions.
    """

    def __init__(self, limit: int) -> None:
        self.uids: set[int] = set()
        self.answered = False
        self._limit = limit

    def claim(self, response: Response, /) -> bool:
        if isinstance(response, Search):
            self.uids.update(response.numbers)
        elif isinstance(response, Esearch):
            count = size(response.found)
            if not response.uid or (response.count is not None and response.count != count):
                raise ProtocolError("the server's answer to a search contradicts itself")
            if count <= self._limit:
                self.uids.update(uid for r in response.found for uid in r)
            else:
                self._refuse()
        elif isinstance(response, Unparsed) and response.word in ("SEARCH", "ESEARCH"):
            raise ProtocolError(f"{response.word} could not be read: {response.reason}")
        else:
            return False
        if len(self.uids) > self._limit:
            self._refuse()
        self.answered = True
        return True

    def _refuse(self) -> None:
        raise ProtocolError("the server claims to have found more messages than there are")

    def literal(self, uid: int | None, section: str, octets: int, /) -> tuple[bool, Sink | None]:
        return False, None


class Opening:
    """What EXAMINE says of the folder (RFC 9051 §6.3.3), and with QRESYNC what changed (RFC 7162 §3.2.5)."""

    def __init__(self) -> None:
        self.exists: int | None = None
        self.uidvalidity: int | None = None
        self.uidnext: int | None = None
        self.highestmodseq: int | None = None
        self.permanent_flags: bytes | None = None
        self.object_id: str | None = None
        self.vanished: list[range] = []
        self.changed: dict[int, FlagsChange] = {}
        self.unread: str | None = None
        self._weight = 0

    def claim(self, response: Response, /) -> bool:
        if isinstance(response, Exists):
            self.exists = response.count
        elif isinstance(response, Status) and response.tag is None and response.condition == "OK":
            self._code(response)
        elif isinstance(response, Vanished):
            self.vanished += response.uids
            if len(self.vanished) > MANY_RANGES:
                self.vanished.clear()
                self.unread = "VANISHED"  # more than is worth keeping: a listing of what stands says the same
        elif isinstance(response, Fetch):
            if response.uid is not None and response.flags is not None:
                self.changed[response.uid] = FlagsChange(response.uid, response.flags, response.modseq)
                self._weight += ITEM_COST + response.weight
                if self._weight > CHANGES_BYTES:
                    raise ProtocolError("the server answered EXAMINE with more changes than anybody can take")
        elif isinstance(response, Unparsed):
            self.unread = response.word
        else:
            return isinstance(response, FolderFlags | Recent)
        return True

    def _code(self, status: Status) -> None:
        if status.code == "CLOSED":
            # What came before belongs to the folder that was open until now (RFC 7162 §3.2.11).
            self.__init__()  # type: ignore[misc]  # a fresh start is meant
        elif status.code == "UIDVALIDITY":
            self.uidvalidity = _code_number(status)
        elif status.code == "UIDNEXT":
            self.uidnext = _code_number(status)
        elif status.code == "HIGHESTMODSEQ":
            self.highestmodseq = _code_number(status)
        elif status.code == "NOMODSEQ":
            self.highestmodseq = None
        elif status.code == "PERMANENTFLAGS":
            self.permanent_flags = status.arguments
        elif status.code == "MAILBOXID":
            self.object_id = _object_id(status)

    def literal(self, uid: int | None, section: str, octets: int, /) -> tuple[bool, Sink | None]:
        return False, None


def _code_number(status: Status) -> int | None:
    """The number of a response code; None when it is none or no number can be so large, which counts as not said."""
    number = int(status.arguments) if status.arguments.isdigit() and len(status.arguments) < 20 else None
    return number if number is not None and number <= MAX_NUMBER else None


def _object_id(status: Status) -> str | None:
    """The identifier of `MAILBOXID (…)` (RFC 8474 §7); what is none counts as not said."""
    match = _OBJECT_ID.fullmatch(status.arguments)
    return match[1].decode("ascii") if match is not None else None


class FetchStream(Generic[T]):
    """The answers to pipelined UID FETCH commands on their way to one caller, with back-pressure.

    `read` makes an item of a FETCH, or None when it is not (yet) an answer to what was asked. What has come and was
    not taken counts against the session's window; over it, reading pauses until half of it was taken. A body that is
    still coming never counts, so a message larger than the window passes.
    """

    def __init__(
        self,
        session: Session,
        read: Callable[[Fetch], T | None],
        wanted: Container[int],
        *,
        section: str | None = None,
        open_sink: Callable[[int], Sink] | None = None,
    ) -> None:
        self.running: dict[Command, list[range]] = {}
        self.finished: list[tuple[Command, list[range], Status]] = []
        self.count = 0
        self.octets = 0
        self._session = session
        self._read = read
        self._wanted = wanted
        self._section = section
        self._open_sink = open_sink
        self._ready: deque[tuple[T, int]] = deque()
        self._untaken = 0
        self._window = session.limits.window_bytes
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._closed = False

    def start(self, what: list[range], *arguments: Argument) -> None:
        """Sends one UID FETCH, whose set is `what`."""
        command = self._session.start("UID FETCH", *arguments, collector=self)
        self.running[command] = what
        command.future.add_done_callback(lambda future: self._ended(command, future))

    def claim(self, response: Response, /) -> bool:
        if not isinstance(response, Fetch):
            # A FETCH that could not be read is a message without an answer: missing, as the port says.
            return isinstance(response, Unparsed) and response.word == "FETCH"
        item = self._read(response)
        if item is None:
            return False
        if self._closed:
            return True
        octets = 0
        for body in response.bodies.values():  # no sum(): this runs for every message, and a generator costs
            octets += body.octets
        self.count += 1
        self.octets += octets
        cost = octets + ITEM_COST + response.weight
        self._untaken += cost
        self._ready.append((item, cost))
        if self._untaken > self._window:
            self._session.pause()
        if self._waiter is not None:
            self._wake()
        return True

    def literal(self, uid: int | None, section: str, octets: int, /) -> tuple[bool, Sink | None]:
        if section != self._section or (uid is not None and uid not in self._wanted):
            return False, None
        if self._closed or self._open_sink is None:
            return True, None
        return True, self._open_sink(octets)

    def take(self) -> T | None:
        """The next item that has come, if any."""
        if not self._ready:
            return None
        item, cost = self._ready.popleft()
        self._untaken -= cost
        if self._untaken <= self._window // 2:
            self._session.resume()
        return item

    def take_many(self, limit: int) -> list[T]:
        """At most `limit` items that have come."""
        items: list[T] = []
        while self._ready and len(items) < limit:
            item, cost = self._ready.popleft()
            self._untaken -= cost
            items.append(item)
        if self._untaken <= self._window // 2:
            self._session.resume()
        return items

    async def wait(self) -> None:
        """Until an item has come or a command ended. Raises what ended a command otherwise than by an answer."""
        if self._ready or self.finished:
            return
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def check(self) -> None:
        """Raises what ended a command otherwise than by an answer."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """The caller takes no more: what is still to come is dropped as it comes."""
        self._closed = True
        self._ready.clear()
        self._untaken = 0
        for command in list(self.running):
            self._session.abandon(command)
        self._session.resume()

    def _ended(self, command: Command, future: asyncio.Future[Status]) -> None:
        what = self.running.pop(command)
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self.finished.append((command, what, future.result()))
        elif self._error is None:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
