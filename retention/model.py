"""What retention judges, what it decides, and what a run counts. Frozen data that says what it is.

Instants are integers: microseconds since the epoch in UTC. `now` is always an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias

Instant: TypeAlias = int

SECOND: Instant = 1_000_000
DAY: Instant = 86_400 * SECOND


class Reason(StrEnum):
    """Why a copy is purged."""

    AGE = "age"
    PLAN_END = "plan_end"
    ERASURE_REQUEST = "erasure_request"
    MAILBOX_REMOVED = "mailbox_removed"
    OFFBOARDING = "offboarding"


class KeptBy(StrEnum):
    """Why a copy stays."""

    HELD = "held"
    PINNED = "pinned"
    PLAN_UNKNOWN = "plan_unknown"
    CLOCK = "clock"
    NOT_DUE = "not_due"
    BRAKE = "brake"  # the run would have taken improbably many: it stops until somebody looks
    LOCKED = "locked"  # another transaction works on it at this moment: the next run judges it


class AnchorSource(StrEnum):
    """Where a copy's age counts from: INTERNALDATE, or the moment of storing. REHYDRATED: from where it did before the
    copy was purged and, on request, brought back; whatever its age it stays for the time that it was brought back for.
    """

    INTERNALDATE = "internaldate"
    STORED = "stored"
    REHYDRATED = "rehydrated"


class AnchorFrom(StrEnum):
    """The setting: from when a copy's age counts."""

    RECEIVED = "received"  # at the mail server, never later than stored here
    STORED = "stored"  # here


class Copy(NamedTuple):
    """One kept copy as the policy sees it.

    `holds` counts the holds that protect it at the instant of judging; `unpinned_at` is when its last pin went;
    `removed_at` is when its mailbox was removed, None while the mailbox stands; `keep_until_at` is until when it stays
    whatever its age, since it was brought back for so long.
    """

    id: str
    anchor_at: Instant
    stored_at: Instant
    pins: int = 0
    holds: int = 0
    unpinned_at: Instant | None = None
    removed_at: Instant | None = None
    keep_until_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Graces:
    """Days by which a purge waits longer than the plan says; 0 means not at all.

    `after_release` is counted by the hold itself (it protects until then), `past_due` by the subscription, and
    `rehydrated` once, when a purged copy is brought back: they stand here because every value that moves a purge is
    part of the policy's hash.
    """

    after_storing: int = 0
    after_shrink: int = 0
    after_unpin: int = 0
    after_release: int = 30
    past_due: int = 10
    rehydrated: int = 7


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for one tenant at one instant.

    `days` is the plan's retention in days, None when the plan or the entitlement is not known (then everything stays).
    `shrunk_at` is when the days last became fewer, None when they never did. `clock_fault` names what is wrong with the
    clock, None when it is sane.
    """

    plan: str
    days: int | None
    graces: Graces = Graces()
    shrunk_at: Instant | None = None
    clock_fault: str | None = None


class Verdict(NamedTuple):
    """What the policy says about one copy: `due` with its `reason`, or kept with `kept_by`.

    `due_at` is when it becomes due if nothing keeps it, None when that is not known: a pinned or held copy has one too.
    """

    due: bool
    due_at: Instant | None
    reason: Reason | None = None
    kept_by: KeptBy | None = None

    def __str__(self) -> str:
        return f"purge ({self.reason})" if self.due else f"keep ({self.kept_by})"


@dataclass(frozen=True, slots=True)
class Sum:
    """So many copies, whose originals have so many bytes together."""

    copies: int = 0
    bytes: int = 0

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.copies + other.copies, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class Brake:
    """A run that would take more of a tenant's copies than both of these halts for that tenant, unless a recorded
    change of its plan or a person's approval explains it. `share`: percent of all its copies.
    """

    minimum: int = 1_000
    share: int = 20

    def limit(self, copies: int) -> int:
        """How many of so many copies a run takes without asking."""
        return max(self.minimum, copies * self.share // 100)


@dataclass(frozen=True, slots=True)
class Supposed:
    """A plan that a preview supposes to begin at the instant it looks at."""

    plan: str
    days: int


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """The set form: what is of age, as bounds for one statement. All bounds are inclusive.

    A copy is of age when its anchor, its storing, its last unpinning and the time for which it was brought back are not
    after these, or when its mailbox was removed not after `removed_at`. `anchor_at` None: nobody is of age by the plan;
    for the others None means that the condition does not apply.
    """

    anchor_at: Instant | None
    removed_at: Instant
    stored_at: Instant | None = None
    unpinned_at: Instant | None = None
    keep_until_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asked for it. `kind`: user, token, scheduler, command; `ref` is an id, never an address."""

    kind: str
    ref: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.ref}"


SCHEDULER = Actor("scheduler", "mailgate")


@dataclass(slots=True)
class Counts:
    """What a run did; candidates = purged + kept + failed. `bytes` is the sum of the purged originals' sizes."""

    candidates: int = 0
    purged: int = 0
    failed: int = 0
    bytes: int = 0
    kept: dict[str, int] = field(default_factory=dict)

    @property
    def kept_total(self) -> int:
        """All that stayed, whatever the reason."""
        return sum(self.kept.values())

    @property
    def balanced(self) -> bool:
        """Whether every candidate has exactly one fate."""
        return self.candidates == self.purged + self.kept_total + self.failed

    def purge(self, count: int, size: int) -> None:
        """Count copies that were purged, `size` bytes of originals together."""
        self.candidates += count
        self.purged += count
        self.bytes += size

    def keep(self, kept_by: str, count: int = 1) -> None:
        """Count copies that stayed."""
        if count:
            self.candidates += count
            self.kept[kept_by] = self.kept.get(kept_by, 0) + count

    def fail(self, count: int = 1) -> None:
        """Count copies whose purge went wrong: they are still there."""
        self.candidates += count
        self.failed += count

    def add(self, other: Counts) -> None:
        """Add another's counts to these."""
        self.candidates += other.candidates
        self.purged += other.purged
        self.failed += other.failed
        self.bytes += other.bytes
        for kept_by, count in other.kept.items():
            self.kept[kept_by] = self.kept.get(kept_by, 0) + count

    def copy(self) -> Counts:
        """An independent copy."""
        return Counts(self.candidates, self.purged, self.failed, self.bytes, dict(self.kept))

    def to_json(self) -> dict[str, object]:
        """For a run's row and its closing leaf."""
        return {
            "candidates": self.candidates,
            "purged": self.purged,
            "failed": self.failed,
            "bytes": self.bytes,
            "kept": dict(sorted(self.kept.items())),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Counts:
        """What `to_json` gave."""
        kept = data["kept"]
        if not isinstance(kept, Mapping):
            raise TypeError("kept must be a table")
        numbers = [data[name] for name in ("candidates", "purged", "failed", "bytes")]
        if not all(isinstance(number, int) for number in numbers):
            raise TypeError("counts must be whole numbers")
        candidates, purged, failed, size = (int(str(number)) for number in numbers)
        return cls(candidates, purged, failed, size, {str(key): int(value) for key, value in kept.items()})
