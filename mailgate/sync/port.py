"""What the sync engine needs of the database.

Implemented by `mailgate.store.sync`. Each method is one transaction (or one read); none waits for the network (S7).
Every write names its owner: the lease with its fencing number is checked inside the transaction, and a process that
lost it gets LeaseLostError and must stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mailgate.clock import Instant
from mailgate.sync.actions import Pending, Settlement
from mailgate.sync.guards import Outcome

if TYPE_CHECKING:
    from mailgate.sync.push.port import PushStore


from mailgate.sync.incoming import Applied, Batch, Draft, Known, Mended, PollStart, Refilled, SentToken, View
from mailgate.sync.state import (
    Checkpoint,
    Entitled,
    FolderState,
    ListingChanges,
    MailboxConfig,
    MailboxHead,
    MailboxState,
    OpenGuard,
    Owner,
    PendingCount,
    Progress,
)


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

    async def refill(self, owner: Owner, came: Refilled, now: Instant) -> bool:
        """The bytes of a copy that had lost them came again; False where they are not the ones that it had."""
        ...


class SyncStore(FolderReader, Settling, QuarantineStore, Protocol):
    """The whole port."""

    @property
    def pushes(self) -> PushStore:
        """For bringing operations to the server."""
        ...

    def outage(self, error: Exception) -> str | None:
        """What is wrong with the database and what to do, if that is why a call raised this."""
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

    async def leased_until(self, mailbox_id: str) -> Instant:
        """When the mailbox's lease runs out; 0 where nobody has had one."""
        ...

    async def release(self, owner: Owner) -> None:
        """Give the lease back."""
        ...

    async def let_go(self, owners: Sequence[Owner], reason: str, now: Instant) -> None:
        """Give these leases back in one transaction; mailboxes that still were theirs say connecting and why."""
        ...

    async def set_state(
        self,
        mailbox_id: str,
        state: MailboxState,
        reason: str | None,
        now: Instant,
        owner: Owner | None = None,
        *,
        config_version: int | None = None,
    ) -> None:
        """Write the state when it differs, with its event. Without an owner: only while nobody owns the mailbox. With a
        `config_version`: only while settings and credentials are those.
        """
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

    async def identified(self, owner: Owner, folder: FolderState, object_id: str, now: Instant) -> FolderState:
        """The server's own identity of the folder (RFC 8474); the folder as it stands then."""
        ...

    async def sample(self, folder_id: str, uidvalidity: int, limit: int) -> dict[int, tuple[bytes, Instant | None]]:
        """Header token and INTERNALDATE of a few copies that stand in the folder and came from the server, newest
        first: to tell a renamed folder, or one of a restored server.
        """
        ...

    async def begin_empty(self, owner: Owner, reached: Mapping[str, Checkpoint], now: Instant) -> set[str]:
        """Folders, by id, that were met as empty ones: up to here they are known. The ids of those to which that was
        written: not to folders of which messages are known by now.
        """
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
