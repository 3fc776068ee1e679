"""Gathering: one look at one folder, as cheap as the server allows.

| the server offers | flags | disappearances |
|---|---|---|
| QRESYNC (RFC 7162 §3.2.5) | told with EXAMINE | told with EXAMINE (VANISHED) |
| CONDSTORE (RFC 7162 §3.1.4) | FETCH … CHANGEDSINCE | when the counts don't add up: a full listing of UIDs |
| neither | all, in ranges, at an interval | the same listing, when its count agrees with EXISTS |

Evidence (S8): a disappearance is believed only from VANISHED, or from a listing of all UIDs whose count is EXISTS. A
UID that is merely not mentioned is nothing at all. Where VANISHED and the counts contradict each other, a listing
decides; where that contradicts the count too, nothing is believed, and the folder says why. A folder that is suddenly
empty is asked for with STATUS as well.

Messages that arrive while a look goes on belong to the next one: nothing at or above its UIDNEXT is looked at.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import date
from enum import Enum
from typing import Any, Final, TypeVar, cast

from connectors.errors import ProtocolError
from connectors.model import FlagsChange, FolderStatus, QResync, Selected
from connectors.port import Source
from mailgate.clock import Instant, to_datetime
from mailgate.sync.arriving import received
from mailgate.sync.state import UNSURE, Checkpoint, FolderState
from mailgate.sync.uids import ascending, ranges
from mailgate.sync.views import Window

T = TypeVar("T")

SLACK: Final = 10_000
"""So many messages may come while a look goes on; more answers than that beyond EXISTS are a lie that would only fill
our memory.
"""

LAST_UID: Final = 1 << 32
"""UIDs are 32 bits (RFC 9051 §2.3.1.1)."""


def closing(iterator: AsyncIterator[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]:
    """Ends a source's answer when it is left early: every implementation of the port is a generator."""
    return aclosing(cast("Any", iterator))


class Kind(Enum):
    """What a look is about: a folder never read to its end, one that was renumbered, or what changed since."""

    FIRST = "first"
    RESET = "reset"
    DELTA = "delta"


class FolderLook:
    """One folder, opened. `all_flags`: without CONDSTORE, compare all flags this time."""

    def __init__(
        self, source: Source, folder: FolderState, selected: Selected, began_at: Instant, *, all_flags: bool
    ) -> None:
        self._source = source
        self._folder = folder
        self._selected = selected
        self._all_flags = all_flags
        self._seen: array[int] | None = None
        self._doubtful = False
        self.doubt: str | None = None
        """What of the server's answers is impossible, for a person."""
        self.unlisted: Sequence[range] = ()
        """In a doubtful look: the UIDs that the list of all lacked."""
        self.began_at = began_at
        self.status = selected.status
        self.object_id = selected.object_id
        if folder.uidvalidity is not None and folder.uidvalidity != self.status.uidvalidity:
            self.kind = Kind.RESET
        else:
            self.kind = Kind.FIRST if folder.uidnext is None else Kind.DELTA
        self._uidnext = _believable(self.status, None if self.kind is Kind.RESET else folder.uidnext)
        self._top = self._uidnext or LAST_UID
        self._highest = (folder.uidnext or 1) - 1

    @property
    def uidvalidity(self) -> int:
        """Of this look."""
        return self.status.uidvalidity

    @property
    def doubtful(self) -> bool:
        """Whether the server's answers contradicted each other, so that nothing could be said of what has gone."""
        return self._doubtful

    @property
    def by_modseq(self) -> bool:
        """Whether both this look and the checkpoint have a MODSEQ."""
        return self.status.highestmodseq is not None and self._folder.highestmodseq is not None

    def passed_through(self, new: int) -> bool:
        """Whether more UIDs were given than the `new` messages that stand here: what came has gone again, or the server
        leaves UIDs out.
        """
        known = self._folder.uidnext
        return self._uidnext is not None and known is not None and self._uidnext - known > new

    @property
    def checks_flags(self) -> bool:
        """Whether this look sees every change of flags."""
        return self._selected.resynced or self.by_modseq or self._all_flags

    async def changes(self) -> AsyncIterator[Sequence[FlagsChange]]:
        """Flags that changed (or, without CONDSTORE, all) and messages that are new, in bounded batches."""
        if self._selected.resynced:
            if self._selected.changed:
                yield self._below(self._selected.changed)
            return
        known = self._folder.uidnext or 1
        since: int | None = None
        if self.by_modseq:
            if self._same():
                return
            wanted, since = range(1, self._top), self._folder.highestmodseq
        elif self._all_flags:
            wanted = range(1, self._top)
        else:
            wanted = range(known, self._top)
        if not wanted or self.status.exists == 0:
            return
        if self._all_flags and not self.by_modseq:
            self._seen = array("L")
        heard = 0
        async with closing(self._source.fetch_flags([wanted], changed_since=since)) as batches:
            async for batch in batches:
                heard += len(batch)
                if heard > self.status.exists + SLACK:
                    raise ProtocolError("the server tells of more messages than there are")
                below = self._below(batch)
                if self._seen is not None:
                    self._seen.extend(change.uid for change in below)
                yield below

    def _below(self, changes: Sequence[FlagsChange]) -> Sequence[FlagsChange]:
        found = [change for change in changes if change.uid < self._top]
        if found:
            self._highest = max(self._highest, max(change.uid for change in found))
        return found

    @property
    def same(self) -> bool:
        """Whether the folder's MODSEQ proves that nothing changed since the checkpoint."""
        return self.by_modseq and self._same()

    def _same(self) -> bool:
        folder, status = self._folder, self.status
        return (status.highestmodseq, status.exists, status.uidnext) == (
            folder.highestmodseq,
            folder.exists,
            folder.uidnext,
        )

    async def gone(self, new: Collection[int]) -> tuple[Sequence[range] | None, Sequence[int]]:
        """UIDs that are gone, with evidence (they may be of messages never known; None: nothing can be said), and
        UIDs of new messages that the server did not tell of.

        Call it after `changes` was read to its end; `new` are the new messages which that told.
        """
        if self._selected.resynced:
            vanished = self._selected.vanished
            if self._all_told(new, vanished) and self._adds_up(new, vanished):
                return vanished, ()
            listing = await self.listing()
            return self.absent(listing), self._untold(new, listing)
        if self._seen is not None:
            gone = self.absent(self._seen)
            if gone is not None:
                return gone, ()
        elif self.status.exists == self._folder.exists + len(new) and self._all_told(new, ()):
            return (), ()
        listing = await self.listing()
        return self.absent(listing), self._untold(new, listing)

    def _all_told(self, new: Collection[int], vanished: Sequence[range]) -> bool:
        """Whether the server accounted for each UID that it gave since the checkpoint. Counts alone don't tell: one
        message gone and one come that can't be read leave them as they were.
        """
        first, top = self._folder.uidnext or 1, self._uidnext
        if top is None:
            return True
        went = sum(max(0, min(gap.stop, top) - max(gap.start, first)) for gap in vanished)
        return len(new) + went >= top - first

    def _adds_up(self, new: Collection[int], vanished: Sequence[range]) -> bool:
        """Whether what is told of disappearances explains how many messages there are now. VANISHED may name UIDs that
        were gone long ago (RFC 7162 §3.2.10.1).
        """
        return self._folder.exists != UNSURE and 0 <= self._fewer(len(new)) <= sum(map(len, vanished))

    def overstates(self, missing: int, new: int) -> bool:
        """Whether so many of our copies can't be gone: the server tells of them, but counts on as if they stood."""
        return self._selected.resynced and self._folder.exists != UNSURE and missing > self._fewer(new)

    def _fewer(self, new: int) -> int:
        return self._folder.exists + new - self.status.exists

    def _untold(self, new: Collection[int], listing: Sequence[int]) -> Sequence[int]:
        first, known = self._folder.uidnext or 1, set(new)
        return [uid for uid in listing if uid >= first and uid not in known]

    def holds_more(self, new: int) -> bool:
        """Whether the folder has more messages than the checkpoint and `new` ones since can explain.

        Then some were left out when they came: the server showed an empty folder for a moment, or what it said of a
        new message could not be read.
        """
        return self.status.exists > self._folder.exists + new

    async def listing(self) -> list[int]:
        """All UIDs of the folder that belong to this look, ascending. An empty folder is asked, too: EXISTS alone is no
        evidence (S8).
        """
        return self.below_top(await self._source.list_uids())

    def absent(self, listing: Sequence[int]) -> Sequence[range] | None:
        """What a listing of all UIDs proves to be gone, or None when its count contradicts EXISTS: then the checkpoint
        vouches for no count, and the next look lists again.
        """
        gaps: list[range] = []
        count, next_uid = 0, 1
        for uid in ascending(listing):
            if uid >= self._top:
                break
            if uid > next_uid:
                gaps.append(range(next_uid, uid))
            count, next_uid = count + 1, uid + 1
        self._doubtful = count != self.status.exists
        if not self._doubtful:
            self.unlisted = ()
            return [*gaps, range(next_uid, LAST_UID)]
        self.unlisted = [*gaps, range(next_uid, max(next_uid, self._top))]
        if self._folder.exists == UNSURE:  # once, it may be what another client did between two answers
            self.doubt = (
                f"the server counts {self.status.exists} messages but lists {count}; "
                "until it agrees with itself, nothing is believed to be deleted"
            )
        return None

    async def denied(self) -> bool:
        """Whether the folder was opened as an empty one, and STATUS says otherwise (RFC 9051 §6.3.11): it counts more
        messages than can have come since.
        """
        if self.status.exists:
            return False
        known = (await self._source.status([self._folder.name])).get(self._folder.name)
        if known is None or known.exists <= self._came_until(known):
            return False
        self._doubtful = True
        self.doubt = (
            f"the server opens the folder as an empty one, but says that it holds {known.exists} messages; "
            "nothing is believed to be deleted"
        )
        return True

    def _came_until(self, later: FolderStatus) -> int:
        """How many messages at most came since the folder was opened: each got a UID of its own."""
        opened = self.status
        if opened.uidnext is None or later.uidnext is None or later.uidvalidity != opened.uidvalidity:
            return 0
        return max(0, later.uidnext - opened.uidnext)

    async def was_set_back(self) -> bool:
        """Whether the server shows an earlier state of the folder than the checkpoint, under the same UIDVALIDITY: a
        backup was restored, and UIDs may have been given again. Neither UIDNEXT (RFC 9051 §2.3.1.1) nor HIGHESTMODSEQ
        (RFC 7162 §3.1.2.1) ever falls otherwise.
        """
        if self.kind is not Kind.DELTA:
            return False
        known, status = self._folder, self.status
        if self.by_modseq and (status.highestmodseq or 0) < (known.highestmodseq or 0):
            return True
        if status.uidnext is None or not status.exists < status.uidnext < (known.uidnext or 1):
            return False
        return all(uid < status.uidnext for uid in await self._source.list_uids())  # else UIDNEXT is a mere lie

    def saw(self, uids: Sequence[int]) -> None:
        """These UIDs stand in the folder (for servers that tell no UIDNEXT)."""
        if uids:
            self._highest = max(self._highest, max(uids))

    def below_top(self, uids: Sequence[int]) -> list[int]:
        """Those that belong to this look."""
        return [uid for uid in uids if uid < self._top]

    def checkpoint(self) -> Checkpoint:
        """Up to where the folder is known once everything that this look showed is written."""
        return Checkpoint(
            uidvalidity=self.status.uidvalidity,
            uidnext=self._uidnext or self._highest + 1,
            highestmodseq=self.status.highestmodseq,
            exists=UNSURE if self._doubtful else self.status.exists,
            looked_at=self.began_at,
            doubt=self.doubt,
        )


def _believable(status: FolderStatus, known: int | None) -> int | None:
    """UIDNEXT, or None when it can't be true: each message has a UID of its own below it, and it never falls (RFC 9051
    §2.3.1.1). Believing it would leave out whatever stands above.
    """
    uidnext = status.uidnext
    if uidnext is None or uidnext <= status.exists or (known is not None and uidnext < known):
        return None
    return uidnext


async def look(source: Source, folder: FolderState, now: Instant, *, all_flags: bool) -> FolderLook:
    """Open the folder, asking for what changed since the checkpoint where the server can tell."""
    since = None
    if folder.uidvalidity is not None and folder.uidnext is not None and folder.highestmodseq is not None:
        since = QResync(folder.uidvalidity, folder.highestmodseq)
    selected = await source.open(folder.name, since)
    return FolderLook(source, folder, selected, now, all_flags=all_flags)


async def inside(source: Source, seen: FolderLook, window: Window) -> list[int]:
    """UIDs of the messages of an opened folder inside the window, ascending.

    SEARCH SINCE compares whole days in the server's own zone, so it is asked for one day more; which messages of the
    days in doubt are meant, their INTERNALDATE tells.
    """
    if not seen.status.exists:
        return []
    uids = seen.below_top(await source.search_since(_day(window.search_since)))
    if not uids:
        return []
    certain = set(await source.search_since(_day(window.certain_since)))
    doubtful = [uid for uid in uids if uid not in certain]
    outside: set[int] = set()
    async with closing(source.fetch_meta(ranges(doubtful))) as batches:
        async for batch in batches:
            outside.update(meta.uid for meta in batch if not window.admits(received(meta.internal_date)))
    return [uid for uid in uids if uid not in outside]


def _day(at: Instant) -> date:
    return to_datetime(max(at, 0)).date()
