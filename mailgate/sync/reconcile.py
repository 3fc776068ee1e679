"""What to do, as a pure function of what was seen: the decision table of sync.

For each message, three views: *base* is the state on which both sides last agreed, *near* the gateway's side, *far* the
server's side as one look at the folder showed it. Every cell of the table is a branch below and has a test of its name.

    base  near        far           meaning                                 action
    –     –           present       new at the server                       Pull, when inside the window
    –     –           gone          nothing on any side                     none
    –     tombstone   present       purged earlier                          none, or Rebury when it was found elsewhere
    –     tombstone   gone          purged, and its original went too       MarkGone (the tombstone may be pruned)
    –     set aside   present       could not be stored; retried by request none
    –     set aside   gone          its reason went with it                 Forget
    –     present     present       moved here, or renumbered               Link
    –     detached    present       the original is back                    Link
    –     near only   gone          the original went earlier               none
    yes   –           any           the copy went meanwhile                 Forget
    yes   tombstone   any           purged since                            Forget (the server is never touched: S1)
    yes   present     present       flags differ from base                  Merge; if it had vanished: Reappear
    yes   present     gone          gone at the server                      Vanish: pending, it may be a move

`settle` decides pending disappearances once every other folder was looked at since: Remove, Detach or Forget.

Invariants:
* S1: no action of this module reaches the server's side.
* S2, R11: where a tombstone stands, nothing is pulled.
* S5: a base of another UIDVALIDITY never meets a far side here; the caller recognises by content (`identity`) first.
* S6: what the tenant is not entitled to is decided here (`Window.entitled`), not below.
* S8: only evidence makes FAR_GONE; FAR_UNKNOWN, the mere absence from an answer, leads to no action at all.

The near states of changes that the CRM asked for join `Near`; `assert_never` then names every place that must decide
about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias, assert_never

from mailgate.clock import DAY, Instant
from retention.model import AnchorFrom, AnchorSource
from retention.policy import anchor

NO_FLAGS: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Window:
    """Which messages are fetched at all. `days` None: the plan is not known, nothing is fetched."""

    now: Instant
    floor_at: Instant
    days: int | None
    entitled: bool
    anchor_from: AnchorFrom = AnchorFrom.RECEIVED

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
    """The state on which both sides last agreed; `vanished`: seen gone, not yet settled."""

    flags: frozenset[str]
    vanished: bool = False


@dataclass(frozen=True, slots=True)
class Present:
    """A copy with an original, here or, when base is absent, elsewhere: it was moved or renumbered."""

    message_id: str
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Detached:
    """A copy whose original is gone; recognised by content when it is met again."""

    message_id: str
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Tombstoned:
    """Purged. `elsewhere`: recognised by content, its own address is void."""

    tombstone_id: str
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class SetAside:
    """In quarantine: it could not be fetched or stored."""


Near: TypeAlias = Present | Detached | Tombstoned | SetAside | None


@dataclass(frozen=True, slots=True)
class FarPresent:
    """At the server now. `internal_date` None: the server gave none, or it makes no sense."""

    flags: frozenset[str]
    internal_date: Instant | None = None


class FarAbsent(Enum):
    """Not at the server: with evidence, or merely not mentioned (S8)."""

    GONE = "gone"
    UNKNOWN = "unknown"


FAR_GONE: Final = FarAbsent.GONE
FAR_UNKNOWN: Final = FarAbsent.UNKNOWN
Far: TypeAlias = FarPresent | FarAbsent


@dataclass(frozen=True, slots=True)
class Entry:
    """One message as the three views show it; `uid` is valid under the folder's UIDVALIDITY of this look."""

    uid: int
    base: Base | None
    near: Near
    far: Far


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one look at one folder showed: the part of it that may need something done."""

    window: Window
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Pull:
    """Fetch the message and keep a copy."""

    uid: int

    def __str__(self) -> str:
        return f"pull {self.uid}"


@dataclass(frozen=True, slots=True)
class Link:
    """The message at this UID is the copy that we have; its flags become these."""

    uid: int
    message_id: str
    base_flags: frozenset[str]
    near_flags: frozenset[str]

    def __str__(self) -> str:
        return f"link {self.uid} to {self.message_id}"


@dataclass(frozen=True, slots=True)
class Merge:
    """Flags changed: these are what both sides agree on now, and these the near side's (changes of the CRM stay)."""

    uid: int
    message_id: str
    base_flags: frozenset[str]
    near_flags: frozenset[str]

    def __str__(self) -> str:
        return f"flags of {self.uid} ({self.message_id}): {' '.join(sorted(self.near_flags)) or 'none'}"


@dataclass(frozen=True, slots=True)
class Vanish:
    """The original is gone, with evidence; what that means is settled when all other folders were looked at."""

    uid: int

    def __str__(self) -> str:
        return f"vanished {self.uid}"


@dataclass(frozen=True, slots=True)
class Reappear:
    """The original is there after all."""

    uid: int

    def __str__(self) -> str:
        return f"reappeared {self.uid}"


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing of ours hangs on this address any more."""

    uid: int

    def __str__(self) -> str:
        return f"forget {self.uid}"


@dataclass(frozen=True, slots=True)
class Rebury:
    """The purged message stands at this address now; its tombstone goes with it."""

    uid: int
    tombstone_id: str

    def __str__(self) -> str:
        return f"rebury {self.tombstone_id} at {self.uid}"


@dataclass(frozen=True, slots=True)
class MarkGone:
    """The original of a purged message is gone too."""

    uid: int
    tombstone_id: str

    def __str__(self) -> str:
        return f"original of {self.tombstone_id} gone"


Action: TypeAlias = Pull | Link | Merge | Vanish | Reappear | Forget | Rebury | MarkGone


def reconcile(snapshot: Snapshot) -> list[Action]:
    """The actions, in the order of the entries; at most one each."""
    if not snapshot.window.entitled:
        return []
    found = (decide(entry, snapshot.window) for entry in snapshot.entries)
    return [action for action in found if action is not None]


def decide(entry: Entry, window: Window) -> Action | None:
    """One row of the table."""
    return _known(entry, entry.base) if entry.base is not None else _unknown(entry, window)


def _unknown(entry: Entry, window: Window) -> Action | None:
    """Base is absent: both sides never agreed on anything at this address."""
    uid, near, far = entry.uid, entry.near, entry.far
    if far is FAR_UNKNOWN:
        return None
    match near:
        case None:
            return Pull(uid) if isinstance(far, FarPresent) and window.admits(far.internal_date) else None
        case Tombstoned(tombstone_id, elsewhere):
            if not isinstance(far, FarPresent):
                return MarkGone(uid, tombstone_id)
            return Rebury(uid, tombstone_id) if elsewhere else None
        case SetAside():
            return None if isinstance(far, FarPresent) else Forget(uid)
        case Present(message_id, _) | Detached(message_id, _):
            return Link(uid, message_id, far.flags, far.flags) if isinstance(far, FarPresent) else None
        case _:  # pragma: no cover - unreachable, kept by mypy
            assert_never(near)


def _known(entry: Entry, base: Base) -> Action | None:
    """Base is there: both sides once agreed that this message stands at this address."""
    uid, near, far = entry.uid, entry.near, entry.far
    match near:
        case None | Tombstoned() | SetAside() | Detached():
            return Forget(uid)
        case Present(message_id, flags):
            if isinstance(far, FarPresent):
                if base.vanished:
                    return Reappear(uid)
                return _merge(uid, message_id, base.flags, flags, far.flags)
            return Vanish(uid) if far is FAR_GONE and not base.vanished else None
        case _:  # pragma: no cover - unreachable, kept by mypy
            assert_never(near)


def _merge(uid: int, message_id: str, base: frozenset[str], near: frozenset[str], far: frozenset[str]) -> Merge | None:
    """Three-way: each flag is a boolean, so two sides that changed it changed it to the same. The near side's own
    changes stay in the difference between near and base, from where they are brought to the server.
    """
    if far == base:
        return None
    merged = (far - (base - near)) | (near - base)
    return Merge(uid, message_id, far, merged)


@dataclass(frozen=True, slots=True)
class Pending:
    """A disappearance that waits. `kept`: pinned or held; `other_origin`: the copy has another original that stands."""

    folder_id: str
    uid: int
    uidvalidity: int
    message_id: str
    vanished_at: Instant
    kept: bool
    other_origin: bool


@dataclass(frozen=True, slots=True)
class Remove:
    """The original was deleted and nothing keeps the copy: it goes."""

    message_id: str

    def __str__(self) -> str:
        return f"remove {self.message_id}"


@dataclass(frozen=True, slots=True)
class Detach:
    """The original was deleted, but the copy is pinned or held: it stays, without an original."""

    message_id: str

    def __str__(self) -> str:
        return f"detach {self.message_id}"


@dataclass(frozen=True, slots=True)
class Drop:
    """The message was moved or stands elsewhere too: only this address goes."""

    folder_id: str
    uid: int
    uidvalidity: int
    message_id: str

    def __str__(self) -> str:
        return f"drop the address {self.uid} of {self.message_id}"


Settlement: TypeAlias = Remove | Detach | Drop


def settle(
    pending: Iterable[Pending], looked_at: Mapping[str, Instant], refused: frozenset[str] = frozenset()
) -> list[Settlement]:
    """Which pending disappearances may be believed now.

    `looked_at`: for every followed folder of the mailbox, when its last complete pass began (0: none yet). A
    disappearance waits until all *other* folders were looked at after it: until then it may be a move. `refused`:
    folders whose guard said no.
    """
    decided: list[Settlement] = []
    for item in pending:
        if item.other_origin:
            decided.append(Drop(item.folder_id, item.uid, item.uidvalidity, item.message_id))
            continue
        if item.folder_id in refused or not may_settle(item, looked_at):
            continue
        decided.append(Detach(item.message_id) if item.kept else Remove(item.message_id))
    return decided


def may_settle(item: Pending, looked_at: Mapping[str, Instant]) -> bool:
    """Whether every other folder was looked at since."""
    return all(at > item.vanished_at for folder_id, at in looked_at.items() if folder_id != item.folder_id)
