"""The port through which the gateway reads and changes a mail account: one `Connection` is one authenticated line, a
`Source` that reads and a `Target` that writes.

Implementations: `connectors.imap` (real) and `connectors.memory` (tests); both pass `tests/contract`.

Rules that every implementation keeps:
* reading marks nothing as seen (BODY.PEEK only; folders are opened with EXAMINE);
* writing touches exactly the messages that are named: never a bare EXPUNGE or CLOSE;
* a mutating command is sent once; when its answer is lost that is a `NetworkError`, and the caller finds out what was
  done;
* a dropped line fails everything in flight at once with `NetworkError`;
* `close()` may be called at any time, from any task, ends everything in flight, and never raises;
* no body is ever kept whole: its bytes go to a sink that the caller supplies.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Generic, Protocol, TypeVar

from connectors.model import (
    FlagsChange,
    Folder,
    FolderStatus,
    Instant,
    MessageMeta,
    Namespace,
    QResync,
    Selected,
    SpecialUse,
)
from connectors.searches import Searches


class Sink(Protocol):
    """Receives one literal, in order, in chunks of any size; a chunk is only valid during the call."""

    def write(self, chunk: memoryview, /) -> None: ...


S_co = TypeVar("S_co", bound=Sink, covariant=True)
S = TypeVar("S", bound=Sink)


@dataclass(frozen=True, slots=True)
class Fetched(Generic[S_co]):
    """A message whose bytes went into `sink`; `octets` is how many the server announced and sent."""

    meta: MessageMeta
    sink: S_co
    octets: int


@dataclass(frozen=True, slots=True)
class FolderChange:
    """What IDLE said: the folder that is open changed (new mail, flags or expunged). Details come from a pass, never
    from here.
    """

    exists: int | None = None
    expunged: bool = False
    flags: bool = False


class Source(Protocol):
    """One authenticated connection. At most one folder is open at a time; methods that need it say so."""

    access_until: Instant | None
    """Until when the access token is good that the line was logged in with; None with a password. Some servers end the
    line then.
    """

    searches: Searches
    """What became of searches on lines before; whoever connects may put there what the last line knew."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Upper case, as of after login (RFC 9051 §7.2.2)."""
        ...

    async def list_folders(self) -> list[Folder]:
        """All folders, INBOX first, then by name. Special uses by RFC 6154, names as the fallback."""
        ...

    async def status(self, names: Sequence[str]) -> dict[str, FolderStatus | None]:
        """The status of each folder, LIST-STATUS where offered (RFC 5819), else pipelined STATUS.

        None: the server says that there is no such folder. A folder is missing here when the server told nothing of it
        or refused for another reason, which says nothing about whether it is there.
        """
        ...

    async def open(self, name: str, qresync: QResync | None = None) -> Selected:
        """EXAMINE; with QRESYNC parameters when offered and given. Raises FolderGoneError."""
        ...

    async def search_since(self, since: date) -> list[int]:
        """UIDs in the open folder with INTERNALDATE on or after `since` (the server's own time zone: ask for one day
        more).
        """
        ...

    async def list_uids(self) -> list[int]:
        """All UIDs of the open folder, ascending (UID SEARCH ALL; ESEARCH where offered)."""
        ...

    def fetch_meta(
        self, uids: Iterable[range], *, changed_since: int | None = None
    ) -> AsyncIterator[list[MessageMeta]]:
        """Metadata in bounded batches. With `changed_since` (CONDSTORE) only messages changed after that MODSEQ."""
        ...

    def fetch_flags(
        self, uids: Iterable[range], *, changed_since: int | None = None
    ) -> AsyncIterator[list[FlagsChange]]:
        """UID and FLAGS in bounded batches (at most ~45 bytes a message on the wire)."""
        ...

    def fetch_bodies(self, uids: Sequence[int], open_sink: Callable[[int], S]) -> AsyncIterator[Fetched[S]]:
        """Whole messages (BODY.PEEK[]) with their metadata, pipelined, in the server's order.

        `open_sink(octets)` is called when a literal begins. A UID that the server does not answer is simply missing (it
        may have been
        expunged meanwhile). Reading from the socket pauses while the caller has not taken what came (bounded by the
        session's window).
        """
        ...

    def fetch_headers(self, uids: Sequence[int]) -> AsyncIterator[tuple[MessageMeta, bytes]]:
        """BODY.PEEK[HEADER] with metadata; headers over 1 MiB are cut there."""
        ...

    async def idle(self, timeout_s: float) -> FolderChange | None:
        """Wait in IDLE (RFC 2177) on the open folder for a change, at most `timeout_s`; None when nothing came.

        Without IDLE at the server: NOOP once a while within the time. Cancelling is safe: DONE is sent and answered, or
        the line dropped.
        """
        ...

    async def noop(self) -> None:
        """Prove that the line is alive."""
        ...

    async def close(self) -> None:
        """LOGOUT if that is quick, then drop the line."""
        ...


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a command put messages (RFC 4315: COPYUID, APPENDUID): UID there by UID here; for APPEND the key is 0."""

    uidvalidity: int
    uids: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the server can do, as far as a change depends on it. `places`: it tells new UIDs (UIDPLUS)."""

    move: bool
    """MOVE (RFC 6851): at once or not at all, for each message."""
    expunge: bool
    """UID EXPUNGE (RFC 4315): some messages only."""
    places: bool
    labels: bool
    """X-GM-EXT-1."""


class Target(Protocol):
    """The writing side. At most one folder is open; those that change messages need it opened by `select`.

    Refusals are ServerError with the server's words and response code (OVERQUOTA, TOOBIG, ALREADYEXISTS, NOPERM, …),
    and `retry`: NEVER when it means that, LATER when something broke there, NOW when only somebody else's expunge was
    in the way (EXPUNGEISSUED). FolderGoneError: the folder that is named is not there (NONEXISTENT, TRYCREATE).
    ThrottledError (also INUSE, UNAVAILABLE) and NetworkError as when reading. ValueError, with nothing sent: what can't
    be asked for. UIDs that are not there any more are passed over in silence (RFC 9051 §6.4.9).
    """

    @property
    def abilities(self) -> Abilities:
        """As of after the login."""
        ...

    def longest_s(self, messages: int | None = 1, octets: int = 0) -> float:
        """How long a change to so many messages may take, in seconds; None: to a folder. What is not answered within
        has lost its line, so whoever owns the mailbox need not hold it for longer.

        APPEND takes effect with its last octet and is over that long after it: `octets` is the message's size. While
        its chunks are asked for no time passes.
        """
        ...

    async def namespace(self) -> Namespace:
        """Where the user's own folders stand (RFC 2342 NAMESPACE, else told from LIST). Names at this port are full:
        `namespace.name_of("Work")` is what to create.
        """
        ...

    async def select(self, name: str) -> Selected:
        """SELECT: opened for writing. `read_only` tells when the server does not allow it; `permanent_flags` which
        flags it keeps (RFC 9051 §7.1).
        """
        ...

    async def store_flags(
        self, uids: Sequence[int], *, add: frozenset[str] = frozenset(), remove: frozenset[str] = frozenset()
    ) -> dict[int, frozenset[str]]:
        """UID STORE +FLAGS, then -FLAGS; all flags of each message afterwards, as the server tells them. UIDs that are
        gone are missing. Raises ValueError for what is no flag (see `connectors.flags`), for `\\Recent`, and where
        `\\Deleted` is added: removing is `expunge`.
        """
        ...

    async def store_labels(
        self, uids: Sequence[int], *, add: frozenset[str] = frozenset(), remove: frozenset[str] = frozenset()
    ) -> None:
        """UID STORE ±X-GM-LABELS; needs `abilities.labels`."""
        ...

    async def move(self, uids: Sequence[int], to: str) -> Placed | None:
        """UID MOVE; needs `abilities.move`. None when the server does not say where to."""
        ...

    async def copy(self, uids: Sequence[int], to: str) -> Placed | None:
        """UID COPY."""
        ...

    async def expunge(self, uids: Sequence[int]) -> None:
        """+FLAGS.SILENT (\\Deleted) and UID EXPUNGE of exactly these; needs `abilities.expunge`. They are gone then:
        what the server keeps in spite of its OK is a refusal (`NOPERM`).
        """
        ...

    async def append(
        self,
        name: str,
        size: int,
        chunks: AsyncIterable[bytes],
        *,
        flags: frozenset[str] = frozenset(),
        internal_date: Instant | None = None,
    ) -> Placed | None:
        """APPEND of exactly `size` bytes, streamed in bounded memory; needs no open folder.

        Without `internal_date` it is the server's now. When the chunks make another size (ValueError), or end in an
        error, nothing is stored, and the line may be dropped. ServerError with code UNKNOWN-CTE: it holds NUL, and the
        server takes none (RFC 3516).
        """
        ...

    async def create_folder(self, name: str, special_use: SpecialUse | None = None) -> None:
        """CREATE, with USE where offered (RFC 6154 §3), and SUBSCRIBE. A folder that is there already is a ServerError
        with code ALREADYEXISTS where the server says so.
        """
        ...

    async def rename_folder(self, name: str, to: str) -> None:
        """RENAME (its inferiors go along, RFC 9051 §6.3.6), and the subscriptions."""
        ...

    async def delete_folder(self, name: str) -> None:
        """DELETE: the folder with all its messages, and the subscription."""
        ...

    async def resubscribe(self, before: str | None, name: str | None) -> None:
        """What the three above do beside: mail programs show a folder that is new (`before` is None), renamed, or none
        any more (`name` is None), where somebody else did that, or the line dropped on the way. What the server says
        is no reason to fail.
        """
        ...


class Connection(Source, Target, Protocol):
    """One authenticated line, for one task at a time; only `close` may be called from anywhere."""


class Connect(Protocol):
    """Opens a connection: resolves, checks the address, connects, secures, logs in. Raises the errors of
    `connectors.errors`.
    """

    async def __call__(self) -> Connection: ...
