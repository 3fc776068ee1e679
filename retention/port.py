"""What a store must offer to a purge. The engine knows nothing else of it: no SQL, no tables, no gateway.

A store gives one unit of work per transaction (`PurgeStore.transact`). Whatever a unit did is committed as a whole when
the work returns, and not at all when it raises; log entries are part of it, so a log that can't be written means that
nothing is purged. The run's own record (its position and its counts) is written in the same unit: a cut run goes on
exactly where its last commit left it.

What a store promises beyond that, and the contract suite checks:

1. `lock_tenant` keeps the tenant's plan from changing until the end of the unit, and names the rules by what is
   committed now.
2. `lock_candidates` locks copies that are of age, unpinned and unheld, and skips, without waiting, those that another
   transaction has locked. From then on no pin, hold or change of these copies commits before the unit ends.
3. `read` reads them anew, in a statement that begins after the locks were taken: what committed in between is seen.
4. `purge` takes everything of a copy: derived rows, the reference to its blob (the last reference takes the blob's
   key and queues its erasing); it leaves a tombstone and exactly one log entry per copy.
5. A unit that began ahead changes nothing before `take_turn`: up to there it only locks and reads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

from retention.model import Actor, Brake, Copy, Counts, Cutoffs, Instant, KeptBy, Reason, Rules, Sum, Supposed, Verdict

T = TypeVar("T")

Position: TypeAlias = tuple[Instant, str]
"""Where a walk stands: (anchor_at, id) of the last copy it saw. Copies are walked in this order."""


EVERY_TENANT = "*"


class BatchFailedError(Exception):
    """The store refused this unit, but is itself in order: a smaller one may pass."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run as it was opened. `tenant_id` None: all tenants. `now_at` was read once and judges every copy's age.

    `approved` names what a person allowed it to pass: `clock`, `brake`. `approved_up_to`: of each tenant's copies the
    brake lets pass at most so many (`EVERY_TENANT`: of any tenant's); None: whatever it would take.
    """

    id: str
    tenant_id: str | None
    now_at: Instant
    started_at: Instant
    trigger: str
    actor: Actor
    policy_version: int
    policy_sha256: str
    approved: tuple[str, ...] = ()
    approved_up_to: Mapping[str, int] | None = None

    def approved_of(self, tenant_id: str) -> int | None:
        """How many of this tenant's copies the approval is of; None: no number was named."""
        bounds = self.approved_up_to
        return None if bounds is None else bounds.get(tenant_id, bounds.get(EVERY_TENANT, 0))


@dataclass(slots=True)
class Progress:
    """How far a run is; part of every unit that moves it.

    `totals` are the finished tenants' counts. `tenant_id` is the one in work (its `run.open` stands in its log),
    with its own counts and position; tenants up to `done_through` (in order of ids) are finished. `allowed` is how many
    copies of the one in work may go before the brake is asked again; None: whatever it would take. `asked`: what the
    brake saw there when it last let the run go on; None: not more than it always lets. `halted` says for which tenants
    the run stopped, and why; `stopped`, how many more of their copies it would have taken. `gone`: the one tenant that
    the run was for began to be erased before it ended there.
    """

    totals: Counts = field(default_factory=Counts)
    tenants: int = 0
    done_through: str | None = None
    tenant_id: str | None = None
    counts: Counts = field(default_factory=Counts)
    position: Position | None = None
    allowed: int | None = 0
    asked: Load | None = None
    halted: list[str] = field(default_factory=list)
    stopped: dict[str, int] = field(default_factory=dict)
    gone: bool = False

    def copy(self) -> Progress:
        """An independent copy."""
        return Progress(
            self.totals.copy(),
            self.tenants,
            self.done_through,
            self.tenant_id,
            self.counts.copy(),
            self.position,
            self.allowed,
            self.asked,
            list(self.halted),
            dict(self.stopped),
            self.gone,
        )


@dataclass(frozen=True, slots=True)
class Survey:
    """All copies of a tenant by their fate at an instant. Each counts once, as `retention.policy.judge` would say, but
    for the clock: that is the caller's.

    `due` go, by reason; `kept` stay, by what keeps them. `candidates` are those of the kept that a run counts: of age,
    but held or pinned; all of them when the plan is not known.
    """

    due: Mapping[Reason, Sum] = field(default_factory=dict)
    kept: Mapping[KeptBy, Sum] = field(default_factory=dict)
    candidates: Mapping[KeptBy, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """What a run takes of a tenant: `going` of its `copies`, what it took already among both. `explained`: a recorded
    change of its plan, which no run has seen yet, makes the difference.
    """

    going: int
    copies: int
    explained: bool

    def improbable(self, brake: Brake, approved: int = 0) -> bool:
        """Whether a run that was approved to take so many stops here."""
        return not self.explained and self.going > max(approved, brake.limit(self.copies))


class PurgeUnit(Protocol):
    """One transaction over one tenant."""

    async def lock_tenant(self, at: Instant) -> Rules | None:
        """The tenant's rules at `at`, which stay so until the unit ends. None when it is gone or leaves."""

    async def lock_candidates(self, bounds: Cutoffs, after: Position | None, limit: int) -> Sequence[Position]:
        """Lock at most `limit` copies that may be due, in order of position, after `after`; skip what is locked."""

    async def read(self, candidates: Sequence[Position]) -> Sequence[Copy]:
        """The locked copies as they are now, in the order given."""

    async def kept_between(
        self, bounds: Cutoffs, after: Position | None, through: Position | None, taken: Sequence[Position]
    ) -> Mapping[str, int]:
        """How many copies of age in (after, through] are not in `taken`, by what keeps them: held, pinned or locked."""

    async def kept_after(self, after: Position | None) -> Mapping[str, int]:
        """How many copies of any age the tenant has after this position, by what keeps them while its plan is not
        known: held, pinned or plan_unknown.
        """

    async def prepare(self, due: Sequence[tuple[Copy, Verdict]]) -> None:
        """Lock and read whatever else `purge` of these locked copies needs."""

    async def take_turn(self) -> None:
        """Everything before this unit is committed: from here on it may change something. Once, before it does."""

    async def may_be_followed(self) -> bool:
        """Whether the next unit of this tenant may begin while this one ends: nobody else waits for the tenant."""

    async def purge(self, due: Sequence[tuple[Copy, Verdict]], rules: Rules) -> int:
        """Purge these prepared copies; returns the sum of their originals' sizes."""

    async def defer(self, copy: Copy, reason: str) -> None:
        """Log that this copy should have gone and could not."""

    async def load(self, bounds: Cutoffs, brake: Brake, taken: int, after: Position | None) -> Load | None:
        """What the run would take after this position beside those that it took; None when all that is not more than
        the brake allows whatever the tenant has.
        """

    async def open(self) -> None:
        """Log that the run begins in this tenant."""

    async def close(self, counts: Counts, asked: Load | None) -> None:
        """Log that the run ended in this tenant, with balanced counts, and by what the brake let it pass."""

    async def abort(self, counts: Counts, reason: str, asked: Load | None) -> None:
        """Log that the run stops in this tenant after so much, and, where the brake stops it, of how many copies it was
        approved; also in the log of a tenant that leaves.
        """

    async def record(self, progress: Progress) -> None:
        """Write down how far the run is."""


class PurgeStore(Protocol):
    """Where the copies, the runs and the logs are."""

    async def begin(self, run: Run) -> None:
        """Write down that the run exists and is running."""

    async def unfinished(self) -> tuple[Run, Progress] | None:
        """The oldest run that began and neither finished nor was aborted."""

    async def finish(self, run: Run, progress: Progress, state: str, detail: str | None = None) -> None:
        """Write down how the run ended: `completed`, `halted` or `failed`."""

    async def tenants_due(self, now: Instant, plans_at: Instant, supposed: Supposed | None = None) -> Sequence[str]:
        """The ids, in order, of the tenants that may have something to purge at `now` by their plans at `plans_at`, or
        by the supposed one.
        """

    async def transact(
        self, run: Run, tenant_id: str, work: Callable[[PurgeUnit], Awaitable[T]], *, ahead: bool = False
    ) -> T:
        """Do `work` in one transaction; it may be called again when the store undid it to resolve a conflict. `ahead`:
        it begins while the unit before is not committed, and waits for that before it calls `take_turn`.

        Raises BatchFailedError when the store refused it for what it contains.
        """

    async def rules(self, tenant_id: str, at: Instant, supposed: Supposed | None = None) -> Rules | None:
        """The tenant's rules at `at`, without a lock; with `supposed` as if that plan began then. None when there is no
        such tenant.
        """

    async def survey(self, tenant_id: str, rules: Rules, now: Instant) -> Survey:
        """All copies of the tenant by what becomes of them at `now`. Reads only."""

    async def surveys(self, now: Instant, supposed: Supposed | None = None) -> Mapping[str, tuple[Rules, Survey]]:
        """Of each tenant, in order of ids: the rules at `now`, and that. Reads only."""

    async def explained(self, tenant_id: str, now: Instant, limit: int, supposed: Supposed | None = None) -> bool:
        """Whether a recorded change of the plan, or the supposed one that begins at `now`, explains that a run then
        takes more than `limit` copies of this tenant. Reads only.
        """
