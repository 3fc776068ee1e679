"""Gathering: one look at one folder, as cheap as the server allows.

| the server offers | flags | disappearances |
|---|---|---|
| QRESYNC (RFC 7162 §3.2.5) | told with EXAMINE | told with EXAMINE (VANISHED) |
| CONDSTORE (RFC 7162 §3.1.4) | FETCH … CHANGEDSINCE | when the counts don't add up: a full listing of UIDs |
| neither | all, in ranges, at an interval | the same listing, when its count agrees with EXISTS |

Evidence (S8): a disappearance is believed only from VANISHED, or from a listing of all UIDs whose count is EXISTS. A
UID that is merely not mentioned is nothing at all.

Messages that arrive while a look goes on belong to the next one: nothing at or above its UIDNEXT is looked at.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from enum import Enum
from typing import Any, Final, TypeVar, cast

from connectors.errors import ProtocolError
from connectors.model import FlagsChange, FolderStatus, QResync, Selected
from connectors.port import Source
from mailgate.clock import Instant
from mailgate.sync.port import Checkpoint, FolderState

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
        self.began_at = began_at
        self.status = selected.status
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
    def by_modseq(self) -> bool:
        """Whether both this look and the checkpoint have a MODSEQ."""
        return self.status.highestmodseq is not None and self._folder.highestmodseq is not None

    @property
    def checks_flags(self) -> bool:
        """Whether this look sees every change of flags."""
        return self._selected.resynced or self.by_modseq or self._all_flags

    async def changes(self) -> AsyncIterator[Sequence[FlagsChange]]:
        """Flags that changed (or, without CONDSTORE, all) and messages that are new, in bounded batches."""
        if self._selected.resynced:
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
            self._seen = array("L")
        else:
            wanted = range(known, self._top)
        if not wanted or self.status.exists == 0:
            return
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

    def _same(self) -> bool:
        folder, status = self._folder, self.status
        return (status.highestmodseq, status.exists, status.uidnext) == (
            folder.highestmodseq,
            folder.exists,
            folder.uidnext,
        )

    async def gone(self, new: int) -> Sequence[range] | None:
        """UIDs that are gone, with evidence; they may be of messages never known. None: nothing can be said.

        Call it after `changes` was read to its end; `new` is how many new messages that gave.
        """
        if self._selected.resynced:
            return self._selected.vanished
        if self._seen is not None:
            return self.absent(self._seen)
        if self.status.exists == self._folder.exists + new:
            return ()
        return self.absent(await self._source.list_uids())

    def holds_more(self, new: int) -> bool:
        """Whether the folder has more messages than the checkpoint and `new` ones since can explain.

        Then some were left out when they came: the server showed an empty folder for a moment, or what it said of a
        new message could not be read.
        """
        return self.status.exists > self._folder.exists + new

    def absent(self, listing: Sequence[int]) -> Sequence[range] | None:
        """What a listing of all UIDs proves to be gone, or None when its count contradicts EXISTS."""
        present = sorted({uid for uid in listing if uid < self._top})
        if len(present) != self.status.exists:
            return None
        gaps: list[range] = []
        next_uid = 1
        for uid in present:
            if uid > next_uid:
                gaps.append(range(next_uid, uid))
            next_uid = uid + 1
        gaps.append(range(next_uid, LAST_UID))
        return gaps

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
            exists=self.status.exists,
            looked_at=self.began_at,
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
