"""What one look at a folder showed of each message, from three sides, as frozen values. Pure.

*Base* is the state on which both sides last agreed, *near* the gateway's side, *far* the server's. Flags and labels
have no part in near: the near side's are always the base's with the open operations carried out, in order (`wished`),
so what the server changed and what the CRM changed never meet as whole sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from mailgate.clock import DAY, Instant
from retention.model import AnchorFrom, AnchorSource
from retention.policy import anchor

NO_FLAGS: Final[frozenset[str]] = frozenset()
TO_BE_REMOVED: Final[frozenset[str]] = frozenset({"\\Deleted"})
"""What a client marks with before it removes (RFC 9051 §2.3.2). By itself it is a flag like any other."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which messages are fetched at all. `days` None: the plan is not known, nothing is fetched. `returns_since`: by a
    backfill, purged ones come back whose anchor is not before; None: no purged one ever does (S2).
    """

    now: Instant
    floor_at: Instant
    days: int | None
    entitled: bool
    anchor_from: AnchorFrom = AnchorFrom.RECEIVED
    returns_since: Instant | None = None

    def returns(self, purged: Purged | None) -> bool:
        """Whether a purged message that is admitted may be brought back: it would not be due at once."""
        if purged is None or self.returns_since is None or self.days is None:
            return False
        return purged.anchor_at >= self.returns_since and purged.anchor_at + self.days * DAY > self.now

    def admits(self, internal_date: Instant | None) -> bool:
        """Whether a message received then is inside: not before the import floor, and not due at once."""
        if not self.entitled or self.days is None:
            return False
        received, source = anchor(internal_date, self.now)
        if source is AnchorSource.INTERNALDATE and received < self.floor_at:
            return False
        counted, _ = anchor(internal_date, self.now, self.anchor_from)
        return counted + self.days * DAY > self.now

    @property
    def since_at(self) -> Instant:
        """Nothing received before is admitted."""
        if self.days is None or self.anchor_from is not AnchorFrom.RECEIVED:
            return self.floor_at
        return max(self.floor_at, self.now - self.days * DAY)

    @property
    def search_since(self) -> Instant:
        """What SEARCH SINCE is asked for: one day more, since it compares dates in the server's own zone."""
        return self.since_at - DAY

    @property
    def certain_since(self) -> Instant:
        """From the day of this instant on, whatever the server's zone, all messages are inside."""
        return self.since_at + 2 * DAY


@dataclass(frozen=True, slots=True)
class Base:
    """The state on which both sides last agreed; `vanished`: seen gone, not yet settled. `labels` None: the server
    has no such thing.
    """

    flags: frozenset[str]
    vanished: bool = False
    labels: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Present:
    """A copy with an original, here or, when base is absent, elsewhere: it was moved or renumbered."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Detached:
    """A copy whose original is gone; recognised by content when it is met again."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Moving:
    """A copy that the CRM moved to this folder; its original was not brought there yet."""

    message_id: str
    folder_id: str


@dataclass(frozen=True, slots=True)
class Deleting:
    """A copy that a user deleted for ever; its original was not expunged yet."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Appending:
    """A copy that the CRM added to this folder; it never had an original."""

    message_id: str
    folder_id: str


@dataclass(frozen=True, slots=True)
class Purged:
    """A copy that was purged and may be brought back: its id, what the purge log calls it, and its anchor."""

    message_id: str
    item_ref: str
    anchor_at: Instant


@dataclass(frozen=True, slots=True)
class Tombstoned:
    """Purged. `elsewhere`: recognised by content, its own address is void. `purged`: what a backfill needs to know of
    the copy to bring it back; None where it may not: a user deleted it, or it is not told.
    """

    tombstone_id: str
    elsewhere: bool = False
    purged: Purged | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """In quarantine: it could not be fetched or stored."""


Near: TypeAlias = Present | Detached | Moving | Deleting | Appending | Tombstoned | SetAside | None


@dataclass(frozen=True, slots=True)
class FarPresent:
    """At the server now. `internal_date` None: the server gave none, or it makes no sense. `labels` None: it told none
    this time.
    """

    flags: frozenset[str]
    internal_date: Instant | None = None
    labels: frozenset[str] | None = None


class FarAbsent(Enum):
    """Not at the server: with evidence, or merely not mentioned (S8)."""

    GONE = "gone"
    UNKNOWN = "unknown"


FAR_GONE: Final = FarAbsent.GONE
FAR_UNKNOWN: Final = FarAbsent.UNKNOWN
Far: TypeAlias = FarPresent | FarAbsent


@dataclass(frozen=True, slots=True)
class Origin:
    """The address of an original at the server."""

    folder_id: str
    uidvalidity: int
    uid: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One message as the three views show it; `uid` is valid under the folder's UIDVALIDITY of this look. `left`: where
    it was believed to stand until it was met here.
    """

    uid: int
    base: Base | None
    near: Near
    far: Far
    left: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one look at one folder showed: the part of it that may need something done."""

    window: Window
    entries: Sequence[Entry]


def wished(base: frozenset[str], changes: Iterable[tuple[Iterable[str], Iterable[str]]]) -> frozenset[str]:
    """The near side's flags, or labels: the base's with the changes that the CRM made and the server did not yet, each
    (added, removed), in order. A flag is a boolean, so two sides that changed it changed it to the same.
    """
    found = base
    for added, removed in changes:
        found = (found - frozenset(removed)) | frozenset(added)
    return found
