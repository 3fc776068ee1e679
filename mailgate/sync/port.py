"""What the sync engine needs of the database, and the frozen values that pass between them.

Implemented by `mailgate.store.sync`. Each method is one transaction (or one read); none waits for the network (S7).
Every write names its owner: the lease with its fencing number is checked inside the transaction, and a process that
lost it gets LeaseLostError and must stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from connectors.model import Endpoint, Folder, PasswordAuth, SpecialUse
from mailgate.clock import Instant
from mailgate.messages.returned import Undelivered
from mailgate.sync.actions import Action, Pending, Settlement
from mailgate.sync.guards import Outcome
from mailgate.sync.identity import Likeness
from mailgate.sync.views import Base, Near, Origin

if TYPE_CHECKING:
    from mailgate.sync.push.port import PushStore


UNSURE: Final = -1
"""As a checkpoint's `exists`: the server contradicted itself, and no count is vouched for."""


class MailboxState(StrEnum):
    """What a mailbox says of itself; the words of the API."""

    DISABLED = "disabled"
    NOT_ENTITLED = "not_entitled"
    CONNECTING = "connecting"
    IMPORTING = "importing"
    LIVE = "live"
    POLLING = "polling"
    BACKOFF = "backoff"
    AUTH_FAILED = "auth_failed"
    NEEDS_APPROVAL = "needs_approval"


@dataclass(frozen=True, slots=True)
class Owner:
    """The proof of ownership that goes with every write of a mailbox's sync: lease owner and fencing number."""

    mailbox_id: str
    tenant_id: str
    process: str
    fence: int


@dataclass(frozen=True, slots=True)
class MailboxHead:
    """As much of a mailbox as the supervisor looks at every second."""

    id: str
    tenant_id: str
    enabled: bool
    config_version: int
    state: str
    state_reason: str | None
    plan: str
    entitled: bool


@dataclass(frozen=True, slots=True)
class Backfill:
    """A backfill that was asked for and is not over: nothing received before `floor_at` is brought back by it. `begun`:
    the folders that it has not read to their end have no checkpoint.
    """

    run_id: str
    floor_at: Instant
    begun: bool = False


@dataclass(frozen=True, slots=True)
class MailboxConfig:
    """One mailbox with its decrypted settings; `account_ref` is what tombstones belong to. `repr` shows no secret."""

    id: str
    tenant_id: str
    tenant_ref: str
    account_ref: bytes
    config_version: int
    endpoint: Endpoint
    auth: PasswordAuth
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    import_floor_at: Instant | None
    imported_at: Instant | None
    state: str = MailboxState.CONNECTING
    progress_started_at: Instant | None = None
    backfill: Backfill | None = None


@dataclass(frozen=True, slots=True)
class Entitled:
    """What the tenant may do now: `days` None when the plan is not known."""

    sync: bool
    days: int | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Up to where a folder is known: UIDs below `uidnext`, changes up to `highestmodseq`; `exists` at that moment, or
    UNSURE.
    `doubt`: what of the server's answers was impossible and is not believed.
    """

    uidvalidity: int
    uidnext: int
    highestmodseq: int | None
    exists: int
    looked_at: Instant
    doubt: str | None = None


@dataclass(frozen=True, slots=True)
class FolderState:
    """A folder as the store knows it. `uidnext` None: its first import is not complete; `progress_…` of that import, in
    messages. `unreadable_at`: since when it can't be read.
    """

    id: str
    name: str
    special_use: SpecialUse | None
    selectable: bool
    followed: bool
    uidvalidity: int | None = None
    uidnext: int | None = None
    highestmodseq: int | None = None
    exists: int = 0
    delimiter: str | None = None
    last_error: str | None = None
    unreadable_at: Instant | None = None
    progress_done: int = 0
    progress_total: int = 0


@dataclass(frozen=True, slots=True)
class ListingChanges:
    """How the server's folders differ from the store's. `renamed`: folder id → what it is called now."""

    created: Sequence[tuple[Folder, bool]] = ()
    updated: Mapping[str, tuple[Folder, bool]] = field(default_factory=dict)
    renamed: Mapping[str, Folder] = field(default_factory=dict)
    gone: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class View:
    """The two known views of one UID."""

    base: Base | None
    near: Near


@dataclass(frozen=True, slots=True)
class Known:
    """A copy or tombstone whose header token was met at the server.

    `near` is Present, Detached or Tombstoned. `free`: its own address is void, so it may be what was met. Otherwise
    `folder_ids` are the folders where it was last seen to stand, and `origins` its addresses there. `marks`: its
    original was marked to be removed, since its copy stands already where it is moved to.
    """

    near: Near
    key: str
    likeness: Likeness
    free: bool
    folder_ids: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()
    marks: bool = False


@dataclass(slots=True)  # not frozen: to make, and to hand to another process, takes a third of the time
class PreparedBlob:
    """Raw bytes that lie in the blob store already, durably, and are not referred to yet."""

    id: str
    content_token: bytes
    size: int
    stored_size: int
    data_key: bytes
    key_epoch: int


@dataclass(frozen=True, slots=True)
class Bounce:
    """A delivery report: keyed tokens of the Message-IDs of what was not delivered, and to whom."""

    msgid_tokens: tuple[bytes, ...]
    recipients: tuple[Undelivered, ...]


@dataclass(slots=True)  # not frozen: to make, and to hand to another process, takes a third of the time
class PreparedMessage:
    """Everything that a new copy's rows say. `flags` and `labels` sorted, the latter None where the server has no such
    thing; `size` of the bytes that came, not of RFC822.SIZE; `email_token` of the server's own identity of it.
    `replaces`: it is a new version of the copy with that id; `returns`: that copy was purged, and is asked for again.
    `answers`: keyed token of the Message-ID in its In-Reply-To; `bounce`: it reports that another was not delivered.
    """

    uid: int
    id: str
    item_ref: str
    anchor_at: Instant
    anchor_source: str
    internal_date_at: Instant | None
    stored_at: Instant
    size: int
    flags: tuple[str, ...]
    has_files: bool
    thread_id: str
    header_token: bytes
    msgid_token: bytes | None
    content_commit: bytes
    msgid_commit: bytes
    summary: bytes
    data_key: bytes
    key_epoch: int
    blob: PreparedBlob
    labels: tuple[str, ...] | None = None
    email_token: bytes | None = None
    replaces: bool = False
    returns: bool = False
    answers: bytes | None = None
    bounce: Bounce | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A copy of which a new version was saved; `item_ref` is what the purge log calls it."""

    message_id: str
    item_ref: str


@dataclass(frozen=True, slots=True)
class SentToken:
    """What a message that appeared in Sent may be known by: keyed tokens of its Message-ID, and of whom it is to, its
    subject and its files.
    """

    uid: int
    msgid: bytes | None
    likeness: bytes
    internal_date: Instant | None


class Cause(StrEnum):
    """Why a message was set aside. What may change: `too_large` by a raised limit, the others by another version."""

    TOO_LARGE = "too_large"
    INCOMPLETE = "incomplete"
    NOT_SENT = "not_sent"
    ENDS_THE_LINE = "ends_the_line"
    UNREADABLE = "unreadable"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Aside:
    """A message that can't be fetched or stored, and why.

    `size` as announced, `limit` the one that it passed, `header_token` if so much of it came. `message_id`: the copy
    that keeps its bytes all the same.
    """

    uid: int
    reason: str
    cause: Cause = Cause.UNKNOWN
    size: int | None = None
    limit: int | None = None
    header_token: bytes | None = None
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """A message set aside that is to be tried again; `kept` is the copy with its bytes, None when they must be fetched
    again.
    """

    id: str
    folder_id: str
    uidvalidity: int
    uid: int
    kept: KeptCopy | None


@dataclass(frozen=True, slots=True)
class KeptCopy:
    """A copy whose summary is empty since its bytes could not be read; where they are, and its keys."""

    message_id: str
    item_ref: str
    data_key: bytes
    key_epoch: int
    blob: PreparedBlob


@dataclass(frozen=True, slots=True)
class Mended:
    """What such a copy says now that its bytes could be read."""

    message_id: str
    has_files: bool
    thread_id: str
    msgid_token: bytes | None
    msgid_commit: bytes
    summary: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """Of the folder and of the whole mailbox; counted in messages."""

    folder_done: int
    folder_total: int
    done: int
    total: int
    started_at: Instant


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction writes about one folder, in this order; the checkpoint goes with the last effect it covers.

    `initial`: the messages belong to a first import, or to a backfill; `backfill`: that run, by which purged ones may
    come back. `others_gone`: every message of the folder was looked at under
    this UIDVALIDITY, so what stands under another one has vanished.
    `discarded`: blobs that were prepared but are not needed, to be erased.
    """

    folder: FolderState
    uidvalidity: int
    now: Instant
    actions: Sequence[Action] = ()
    messages: Sequence[PreparedMessage] = ()
    aside: Sequence[Aside] = ()
    discarded: Sequence[PreparedBlob] = ()
    checkpoint: Checkpoint | None = None
    progress: Progress | None = None
    initial: bool = False
    others_gone: bool = False
    backfill: str | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What a transaction did, in messages."""

    created: int = 0
    changed: int = 0
    vanished: int = 0
    removed: int = 0

    def __add__(self, other: Applied) -> Applied:
        return Applied(
            self.created + other.created,
            self.changed + other.changed,
            self.vanished + other.vanished,
            self.removed + other.removed,
        )

    def __sub__(self, other: Applied) -> Applied:
        return Applied(
            self.created - other.created,
            self.changed - other.changed,
            self.vanished - other.vanished,
            self.removed - other.removed,
        )

    def to_json(self) -> dict[str, int]:
        """For a run's row."""
        return {"new": self.created, "changed": self.changed, "gone": self.vanished, "removed": self.removed}


@dataclass(frozen=True, slots=True)
class PendingCount:
    """How many of a folder's `known` copies wait as disappeared, and when the latest was seen gone (None: nothing is).

    `gone` leaves out what the CRM asked for and what has another original. `known` is counted only where it could
    matter. `recent`: believed shortly before; `listed`: the server still lists the folder.
    """

    folder_id: str
    folder: str
    special_use: SpecialUse | None
    known: int
    gone: int
    latest_at: Instant | None
    recent: int = 0
    listed: bool = True


@dataclass(frozen=True, slots=True)
class OpenGuard:
    """A folder's guard that is not closed. `through_at`: it was approved and found valid; what was seen gone until then
    may be believed.
    """

    id: str
    folder_id: str
    reason: str
    gone: int
    raised_at: Instant
    approved: bool
    through_at: Instant | None

    def names(self, count: PendingCount) -> bool:
        """Whether it is sure, without looking at each, that the guard names what is gone now: nothing went since it
        was raised, and as many as then are gone.
        """
        return count.latest_at is not None and count.latest_at <= self.raised_at and count.gone == self.gone


@dataclass(frozen=True, slots=True)
class PollStart:
    """What a poll begins with, as of one moment. `asked`: whether the CRM waits for anything, brought to the server or
    not.
    """

    folders: Sequence[FolderState]
    entitled: Entitled
    retries: Sequence[Retry]
    asked: bool


class FolderReader(Protocol):
    """What is known of a folder's messages."""

    async def views(self, owner: Owner, folder: FolderState, uidvalidity: int, uids: Sequence[int]) -> dict[int, View]:
        """The views of these UIDs; UIDs of which nothing is known are missing. Vanished ones included."""
        ...

    async def standing(self, owner: Owner, folder: FolderState, uidvalidity: int, above: int, limit: int) -> list[int]:
        """UIDs above that of copies that are believed to stand in the folder (not vanished), ascending."""
        ...

    async def marked(self, owner: Owner, folder: FolderState, uidvalidity: int) -> list[int]:
        """UIDs of tombstones whose original is not known to be gone, and of messages set aside, ascending."""
        ...

    async def has_gone(self, owner: Owner) -> bool:
        """Whether any original of the mailbox is gone and waits, since it may have been moved."""
        ...

    async def has_free(self, owner: Owner, folder: FolderState, uidvalidity: int) -> bool:
        """Whether anything waits to be recognised: vanished or detached copies, tombstones without a valid address."""
        ...

    async def recognisable(
        self, owner: Owner, folder: FolderState, uidvalidity: int, tokens: Iterable[bytes]
    ) -> list[Known]:
        """Copies of the mailbox and tombstones of its account that have one of these header tokens."""
        ...

    async def sent_unfiled(self, owner: Owner, now: Instant) -> bool:
        """Whether anything that was sent from here stands nowhere yet."""
        ...

    async def pair_sent(self, owner: Owner, tokens: Sequence[SentToken], now: Instant) -> dict[int, Draft]:
        """Which of what was sent each of these messages is, by UID."""
        ...

    async def drafts_gone(
        self, owner: Owner, folder: FolderState, uidvalidity: int, msgid_tokens: Iterable[bytes]
    ) -> dict[bytes, Draft]:
        """Drafts with these Message-IDs that went from the folder and stand nowhere."""
        ...


class Settling(Protocol):
    """Disappearances that wait, and the guards that refuse them."""

    async def unsettled(self, mailbox_id: str, now: Instant) -> tuple[list[PendingCount], list[OpenGuard]]:
        """The mailbox's folders when something waits in any of them, gone folders too, else none; and its guards that
        are not closed.
        """
        ...

    async def pending(self, folder_id: str, before: Instant, now: Instant, limit: int) -> list[Pending]:
        """Disappearances of a folder, seen before that instant, oldest first; also those with another origin."""
        ...

    async def settle(
        self, owner: Owner, settlements: Sequence[Settlement], now: Instant, believed: Mapping[str, int]
    ) -> Applied:
        """Believe disappearances: judged again under the messages' locks, so a pin that was accepted is never lost.
        `believed`: how many of them, by folder, count towards what the folder's guard is judged by.
        """
        ...

    async def guard(self, owner: Owner, count: PendingCount, reason: str, now: Instant) -> OpenGuard:
        """The folder's guard for exactly what is gone from it now: the one that stands, or a new one in its place, with
        its event. One that was approved has `through_at` from here on.
        """
        ...

    async def close_guard(self, owner: Owner, guard_id: str, outcome: Outcome, now: Instant) -> None:
        """The guard is over, with its event."""
        ...


class QuarantineStore(Protocol):
    """What was set aside, to be tried again."""

    async def begin_retry(self, owner: Owner, entry_id: str, max_bytes: int, now: Instant) -> None:
        """One more attempt: written before it is made, so that what ends the line is not tried for ever."""
        ...

    async def mend(self, owner: Owner, mended: Mended, now: Instant) -> None:
        """The copy can be read now: it says so, and is no longer set aside."""
        ...

    async def still_unreadable(self, owner: Owner, entry_id: str, reason: str, now: Instant) -> None:
        """The attempt failed, and why."""
        ...


class SyncStore(FolderReader, Settling, QuarantineStore, Protocol):
    """The whole port."""

    @property
    def pushes(self) -> PushStore:
        """For bringing operations to the server."""
        ...

    async def heads(self, now: Instant) -> Sequence[MailboxHead]:
        """Every mailbox that was not removed; the state of each may be some seconds old."""
        ...

    async def load(self, mailbox_id: str) -> MailboxConfig | None:
        """The mailbox with its secrets; None when it was removed."""
        ...

    async def entitled(self, tenant_id: str, now: Instant) -> Entitled:
        """What the tenant may do at `now`."""
        ...

    async def acquire(self, mailbox_id: str, tenant_id: str, process: str, ttl: Instant, now: Instant) -> Owner | None:
        """Take the mailbox's lease; None while another process has it."""
        ...

    async def renew(self, owners: Sequence[Owner], ttl: Instant, now: Instant) -> list[Owner]:
        """Extend these leases, in one transaction; returns those that were lost."""
        ...

    async def release(self, owner: Owner) -> None:
        """Give the lease back."""
        ...

    async def let_go(self, owners: Sequence[Owner], reason: str, now: Instant) -> None:
        """Give these leases back in one transaction; mailboxes that still were theirs say connecting and why."""
        ...

    async def set_state(
        self, mailbox_id: str, state: MailboxState, reason: str | None, now: Instant, owner: Owner | None = None
    ) -> None:
        """Write the state when it differs, with its event. Without an owner: only while nobody owns the mailbox."""
        ...

    async def set_floor(self, owner: Owner, floor_at: Instant, now: Instant) -> Instant:
        """Fix the import floor at the first entitled connect; returns the one that stands."""
        ...

    async def begin_backfill(self, owner: Owner, run_id: str, now: Instant) -> list[FolderState]:
        """The backfill begins: the folders, to be read as if for the first time."""
        ...

    async def end_backfill(self, owner: Owner, now: Instant, failure: str | None) -> None:
        """The backfill is over; `failure` says why it is not complete."""
        ...

    async def checked(self, owner: Owner, now: Instant, *, imported: bool) -> None:
        """All folders agreed with the server at `now`; `imported`: the first import is complete (told once)."""
        ...

    async def checked_many(self, checked: Mapping[Owner, Instant]) -> None:
        """The same of many, each at its instant, after it was told that its import is complete; whoever lost its lease
        is passed over.
        """
        ...

    async def progress(self, owner: Owner, progress: Progress, now: Instant) -> None:
        """How far the first import is, before its first batch is there."""
        ...

    async def poll_start(self, owner: Owner, max_bytes: int, limit: int, now: Instant) -> PollStart:
        """What a poll begins with. Of what was set aside, so many at most, that is to be tried again now: asked for, or
        once since the program's version or `max_bytes` changed.
        """
        ...

    async def folders(self, mailbox_id: str) -> list[FolderState]:
        """The folders that the server lists, as last seen."""
        ...

    async def save_listing(self, owner: Owner, listing: ListingChanges, now: Instant) -> list[FolderState]:
        """Write what changed in the list of folders, with events; originals in gone folders have vanished."""
        ...

    async def folder_error(self, owner: Owner, folder_id: str, error: str | None, now: Instant) -> None:
        """Why the folder can't be read, or None when it can again."""
        ...

    async def distrust(self, owner: Owner, folder: FolderState, now: Instant) -> FolderState:
        """The server gave UIDs again: what is known of the folder by UID is void; the folder as it stands then. The
        next look at it is a reset.
        """
        ...

    async def sample(self, folder_id: str, uidvalidity: int, limit: int) -> dict[int, bytes]:
        """Header tokens of a few copies that stand in the folder, newest first: to tell a renamed folder."""
        ...

    async def commit(self, owner: Owner, batch: Batch) -> Applied:
        """Write a batch about one folder."""
        ...

    async def request_run(self, mailbox_id: str, tenant_id: str, actor: str, now: Instant) -> str:
        """Queue one pass over the mailbox; the id of the run. One that is queued already is returned again."""
        ...

    async def open_operations(self) -> dict[str, int]:
        """Mailboxes with changes that the CRM asked for and that are not finished: the number of the last of them."""
        ...

    async def queued_runs(self) -> dict[str, list[str]]:
        """Runs that wait, by mailbox."""
        ...

    async def begin_runs(self, owner: Owner, run_ids: Sequence[str], now: Instant) -> list[str]:
        """The runs begin; those that did: the others were begun before."""
        ...

    async def finish_runs(
        self, run_ids: Sequence[str], now: Instant, counts: Mapping[str, Any], failure: str | None
    ) -> None:
        """The runs ended; `failure` says why they failed."""
        ...


class BatchRefusedError(Exception):
    """The database refused the values of a batch: a smaller one may pass. Nothing of it was written."""
