"""What everything that works on one connected mailbox shares."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from connectors.errors import NetworkError
from connectors.model import SpecialUse
from connectors.port import Connection
from mailgate.blobs.store import BlobStore
from mailgate.clock import DAY, SECOND, Clock, Instant
from mailgate.settings import SyncSettings
from mailgate.sync.breakers import Breakers
from mailgate.sync.incoming import Applied
from mailgate.sync.ownership import Lease
from mailgate.sync.port import SyncStore
from mailgate.sync.prepare import Preparer
from mailgate.sync.rests import Rests
from mailgate.sync.slices import Slices
from mailgate.sync.state import Backfill, Checkpoint, Entitled, FolderState, MailboxConfig, Owner, Progress
from mailgate.sync.views import Window
from mailgate.sync.workers import Workers
from retention.model import AnchorFrom

PROGRESS_EVERY: Instant = SECOND // 2

STALLED_S: Final = 900.0
"""A server that keeps the line alive for so long and brings nothing is stuck, or means it."""

GRAIN: Final = 0.01
"""By this share of it at least patience is extended."""

CONTRADICTIONS: Final = 2
"""A folder whose identity changed so often in one session, though it was the same, has none."""

SLOWEST: Final = 1_000
"""Octets per second of the slowest line that a large message is waited for on."""


@dataclass(slots=True)
class Meter:
    """Progress of a first import, in messages; written at most twice a second, with a batch that is written anyway.

    `done` and `totals` by folder, folders that earlier attempts brought to their end included: what is done goes on
    from there when the line was cut. A folder's total is what lies inside the window as soon as it was counted.
    """

    started_at: Instant
    totals: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    folder_id: str = ""
    written: Progress | None = None
    written_at: Instant = 0

    def expect(self, folder_id: str, done: int, total: int) -> None:
        """A folder of which so much is known before it is read."""
        self.done[folder_id], self.totals[folder_id] = min(done, total), total

    def begin_folder(self, folder_id: str, done: int, total: int) -> None:
        """A folder begins: `total` messages are inside the window, so many done already."""
        self.folder_id = folder_id
        self.expect(folder_id, done, total)

    def add(self, count: int) -> None:
        """So many messages more of the folder are done."""
        done = self.done[self.folder_id] = self.done.get(self.folder_id, 0) + count
        self.totals[self.folder_id] = max(done, self.totals.get(self.folder_id, 0))

    def leave_out(self, folder_id: str, count: int) -> None:
        """So many messages that were counted are not to be had: gone meanwhile, or outside the window after all."""
        self.totals[folder_id] = max(self.done.get(folder_id, 0), self.totals.get(folder_id, 0) - count)

    def now(self) -> Progress:
        """How far it is."""
        here = self.folder_id
        return Progress(
            folder_done=self.done.get(here, 0),
            folder_total=self.totals.get(here, 0),
            done=sum(self.done.values()),
            total=sum(self.totals.values()),
            started_at=self.started_at,
        )

    def due(self, now: Instant, *, last: bool) -> Progress | None:
        """What to write now, if it is time."""
        if not last and 0 <= now - self.written_at < PROGRESS_EVERY:  # a clock may be set back
            return None
        self.written_at = now
        self.written = self.now()
        return self.written


@dataclass(slots=True)
class Context:
    """One connected mailbox. `looked_at`: when the last complete look at each followed folder began, in this session.
    `passed_through`: when messages were last noticed to have come to a folder and gone again between two looks at it.
    `verified`: folders of which it was made sure, in this session, that UIDs name what they named. `misnamed`: folders
    whose name was met with another identity; the next list of folders finds out where they are. `contradicted`: how
    often it found them where they were.
    `in_step`: the folder that is open as it was opened for its last pass, so that IDLE tells all that changed since.
    `headers_first`: folders with new messages that may have been moved there.
    `push_wanted`: the CRM asked for something, and `push` brings it to the server, in the middle of an import too.
    """

    config: MailboxConfig
    lease: Lease
    source: Connection
    store: SyncStore
    blobs: BlobStore
    preparer: Preparer
    workers: Workers
    settings: SyncSettings
    clock: Clock
    anchor_from: AnchorFrom
    floor_at: Instant
    entitled: Entitled
    folders: dict[str, FolderState] = field(default_factory=dict)
    looked_at: dict[str, Instant] = field(default_factory=dict)
    passed_through: dict[str, Instant] = field(default_factory=dict)
    flags_at: dict[str, Instant] = field(default_factory=dict)
    applied: Applied = field(default_factory=Applied)
    meter: Meter | None = None
    breakers: Breakers = field(default_factory=Breakers)
    rests: Rests = field(default_factory=Rests)
    slices: Slices = field(default_factory=Slices)
    deadline: asyncio.Timeout | None = None
    verified: set[str] = field(default_factory=set)
    misnamed: set[str] = field(default_factory=set)
    contradicted: Counter[str] = field(default_factory=Counter)
    in_step: str | None = None
    headers_first: set[str] = field(default_factory=set)
    push: Callable[[], Awaitable[None]] | None = None
    push_wanted: bool = False
    backfill: Backfill | None = None

    @property
    def owner(self) -> Owner:
        """What goes with every write."""
        return self.lease.owner

    async def own_for(self, seconds: float) -> None:
        """Before each command that changes something at the server: the mailbox is ours until that command's time-out
        of `seconds` is over. Raises OwnershipLostError (`lease_lost`), or what the database raises; the connection is
        closed then, and nothing may be sent.
        """
        try:
            await self.lease.hold(seconds)
        except Exception:
            await self.source.close()
            raise

    def getting_on(self, octets: int = 0) -> None:
        """The server brought something, or begins to bring so many octets: what is being done gets more time."""
        deadline = self.deadline
        if deadline is not None and not deadline.expired():
            due_s = asyncio.get_running_loop().time() + STALLED_S + octets / SLOWEST
            standing_s = deadline.when() or 0.0
            if due_s > standing_s + STALLED_S * GRAIN:  # a timer for every message would cost more than the message
                deadline.reschedule(due_s)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """What is done here ends when the server brings nothing for long, though it keeps the line alive."""
        try:
            async with asyncio.timeout(STALLED_S) as deadline:
                self.deadline = deadline
                try:
                    yield
                finally:
                    self.deadline = None
        except TimeoutError:
            if not deadline.expired():
                raise
            raise NetworkError(f"the server kept the line alive but brought nothing for {STALLED_S:g} s") from None

    def window(self, folder: FolderState | None = None) -> Window:
        """Which messages are fetched, now; of a folder that a backfill has not read to its end purged ones, too."""
        backfill = self.backfill if folder is not None and folder.uidnext is None else None
        return Window(
            now=self.clock(),
            floor_at=self.floor_at,
            days=self.entitled.days,
            entitled=self.entitled.sync,
            anchor_from=self.anchor_from,
            returns_since=None if backfill is None else backfill.floor_at,
        )

    def followed(self) -> list[FolderState]:
        """The folders that are kept in step, INBOX first."""
        return [folder for folder in self.folders.values() if folder.followed and folder.selectable]

    def is_like_another(self, folder: FolderState) -> bool:
        """Whether another folder has the same UIDVALIDITY: then that does not tell them apart."""
        return any(o.uidvalidity == folder.uidvalidity and o.id != folder.id for o in self.folders.values())

    def is_another(self, folder: FolderState, opened: str | None) -> bool:
        """Whether the folder that was opened by this one's name is another by now, as its identity tells (RFC 8474
        §4.2). Then the next list of folders finds out what this one is called.
        """
        if opened is None or folder.object_id in (None, opened) or self.contradicted[folder.id] >= CONTRADICTIONS:
            return False
        self.misnamed.add(folder.id)
        return True

    def inbox(self) -> FolderState | None:
        """The followed folder that new mail arrives in: INBOX, or All Mail where that is followed instead."""
        # Asked in the middle of each folder's pass, of which there may be thousands: INBOX is the first of the list.
        for use in (SpecialUse.INBOX, SpecialUse.ALL):
            for folder in self.folders.values():
                if folder.special_use is use and folder.followed and folder.selectable:
                    return folder
        return None

    def looks(self) -> dict[str, Instant]:
        """`looked_at`, as far as it proves that a message which is missed is in none of these folders (else 0).

        A look in the future was before the clock was set back. One before a message passed through another folder may
        have been too early: the message may have come from there.
        """
        now = self.clock()
        return {
            folder_id: at if at <= now and not self.is_overtaken(folder_id) else 0
            for folder_id, at in self.looked_at.items()
        }

    def is_overtaken(self, folder_id: str) -> bool:
        """Whether a message passed through another folder since this one was looked at: it may stand here now, also one
        that this folder was missing then.
        """
        at = self.looked_at.get(folder_id)
        return at is not None and any(at <= seen for other, seen in self.passed_through.items() if other != folder_id)

    def reached(self, folder: FolderState, checkpoint: Checkpoint) -> FolderState:
        """The folder is known up to here now."""
        state = replace(
            folder,
            uidvalidity=checkpoint.uidvalidity,
            uidnext=checkpoint.uidnext,
            highestmodseq=checkpoint.highestmodseq,
            exists=checkpoint.exists,
            last_error=None,
            unreadable_at=None,
        )
        self.folders[folder.id] = state
        self.looked_at[folder.id] = checkpoint.looked_at
        return state


def import_floor(now: Instant, days: int) -> Instant:
    """Nothing received before is fetched: the plan's days, counted from the first entitled connect."""
    return now - days * DAY
