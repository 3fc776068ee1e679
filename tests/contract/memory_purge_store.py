"""A purge store in memory: the port's promises in the fewest lines, and a place where a run can be cut or refused."""

from __future__ import annotations

import asyncio
import copy as copying
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from retention.model import Brake, Copy, Counts, Cutoffs, Instant, KeptBy, Reason, Rules, Sum, Supposed, Verdict
from retention.policy import cutoffs, judge, of_age
from retention.port import BatchFailedError, Load, Position, Progress, Run, Survey

T = TypeVar("T")


@dataclass
class State:
    """All that a commit keeps. `log` holds (tenant, type, details…) tuples."""

    copies: dict[str, dict[str, Copy]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    rules: dict[str, Rules] = field(default_factory=dict)
    tombstones: list[str] = field(default_factory=list)
    log: list[tuple[Any, ...]] = field(default_factory=list)
    runs: dict[str, tuple[Run, Progress, str]] = field(default_factory=dict)
    asked: dict[tuple[str, str], Load | None] = field(default_factory=dict)  # by tenant and run, as it ended


class MemoryStore:
    """The port over a `State`; units run one at a time on a copy that replaces the state when they return."""

    def __init__(self) -> None:
        self.state = State()
        self.refused: set[str] = set()  # ids whose purge fails
        self.details: dict[str, str] = {}
        self.change_explains: set[str] = set()  # tenants whose plan was changed just now
        self.locked: set[str] = set()  # ids that another transaction has locked
        self.followed = False  # whether the next unit may begin, and wait, while one ends
        self.between: Callable[[State], None] | None = None  # what commits between locking and reading
        self._turn = asyncio.Lock()

    def add(self, tenant_id: str, copy: Copy, size: int = 1) -> None:
        self.state.copies.setdefault(tenant_id, {})[copy.id] = copy
        self.state.sizes[copy.id] = size

    async def begin(self, run: Run) -> None:
        self.state.runs[run.id] = (run, Progress(), "running")

    async def unfinished(self) -> tuple[Run, Progress] | None:
        running = [(run, progress) for run, progress, state in self.state.runs.values() if state == "running"]
        return min(running, key=lambda pair: pair[0].id, default=None)

    async def finish(self, run: Run, progress: Progress, state: str, detail: str | None = None) -> None:
        self.state.runs[run.id] = (run, progress, state)
        self.details[run.id] = detail or ""

    async def tenants_due(self, now: Instant, plans_at: Instant, supposed: Supposed | None = None) -> Sequence[str]:
        due = []
        for tenant, copies in sorted(self.state.copies.items()):
            rules = await self.rules(tenant, plans_at, supposed)
            if rules is not None and any(judge(copy, rules, now).due for copy in copies.values()):
                due.append(tenant)
        return due

    async def transact(
        self, run: Run, tenant_id: str, work: Callable[[Unit], Awaitable[T]], *, ahead: bool = False
    ) -> T:
        async with self._turn:
            draft = copying.deepcopy(self.state)
            result = await work(Unit(self, draft, run, tenant_id))
            self.state = draft
            return result

    async def rules(self, tenant_id: str, at: Instant, supposed: Supposed | None = None) -> Rules | None:
        rules = self.state.rules.get(tenant_id)
        if rules is None or supposed is None:
            return rules
        return replace(rules, plan=supposed.plan, days=supposed.days)

    async def survey(self, tenant_id: str, rules: Rules, now: Instant) -> Survey:
        due, kept, candidates = dict[Reason, Sum](), dict[KeptBy, Sum](), dict[KeptBy, int]()
        bounds = cutoffs(rules, now)
        for copy in self.state.copies.get(tenant_id, {}).values():
            verdict, size = judge(copy, rules, now), Sum(1, self.state.sizes[copy.id])
            if verdict.reason is not None:
                due[verdict.reason] = due.get(verdict.reason, Sum()) + size
            elif verdict.kept_by is not None:
                kept[verdict.kept_by] = kept.get(verdict.kept_by, Sum()) + size
                if bounds is None or of_age(copy, bounds):
                    candidates[verdict.kept_by] = candidates.get(verdict.kept_by, 0) + 1
        return Survey(due, kept, candidates)

    async def surveys(self, now: Instant, supposed: Supposed | None = None) -> Mapping[str, tuple[Rules, Survey]]:
        found = {}
        for tenant in sorted(self.state.rules):
            rules = await self.rules(tenant, now, supposed)
            assert rules is not None
            found[tenant] = rules, await self.survey(tenant, rules, now)
        return found

    async def explained(self, tenant_id: str, now: Instant, limit: int, supposed: Supposed | None = None) -> bool:
        return tenant_id in self.change_explains


class Unit:
    def __init__(self, store: MemoryStore, state: State, run: Run, tenant_id: str) -> None:
        self._store, self._state, self._run, self._tenant_id = store, state, run, tenant_id

    @property
    def _copies(self) -> dict[str, Copy]:
        return self._state.copies.get(self._tenant_id, {})

    def _walk(self, bounds: Cutoffs, after: Position | None) -> list[Copy]:
        found = [
            copy
            for copy in self._copies.values()
            if of_age(copy, bounds) and (after is None or (copy.anchor_at, copy.id) > after)
        ]
        return sorted(found, key=lambda copy: (copy.anchor_at, copy.id))

    async def lock_tenant(self, at: Instant) -> Rules | None:
        return self._state.rules.get(self._tenant_id)

    async def lock_candidates(self, bounds: Cutoffs, after: Position | None, limit: int) -> Sequence[Position]:
        free = [
            (copy.anchor_at, copy.id)
            for copy in self._walk(bounds, after)
            if not copy.pins and not copy.holds and copy.id not in self._store.locked
        ][:limit]
        if self._store.between is not None:
            self._store.between(self._state)
        return free

    async def read(self, candidates: Sequence[Position]) -> Sequence[Copy]:
        return [self._copies[id_] for _, id_ in candidates]

    async def kept_between(
        self, bounds: Cutoffs, after: Position | None, through: Position | None, taken: Sequence[Position]
    ) -> Mapping[str, int]:
        kept = dict[str, int]()
        seen = {id_ for _, id_ in taken}
        for copy in self._walk(bounds, after):
            if copy.id not in seen and (through is None or (copy.anchor_at, copy.id) <= through):
                kept_by = "held" if copy.holds else "pinned" if copy.pins else "locked"
                kept[kept_by] = kept.get(kept_by, 0) + 1
        return kept

    async def kept_after(self, after: Position | None) -> Mapping[str, int]:
        kept = dict[str, int]()
        for copy in self._copies.values():
            if after is None or (copy.anchor_at, copy.id) > after:
                kept_by = "held" if copy.holds else "pinned" if copy.pins else "plan_unknown"
                kept[kept_by] = kept.get(kept_by, 0) + 1
        return kept

    async def prepare(self, due: Sequence[tuple[Copy, Verdict]]) -> None:
        """Nothing else is locked here."""

    async def take_turn(self) -> None:
        """Units come one after the other."""

    async def may_be_followed(self) -> bool:
        return self._store.followed

    async def purge(self, due: Sequence[tuple[Copy, Verdict]], rules: Rules) -> int:
        for copy, verdict in due:
            if copy.id in self._store.refused:
                raise BatchFailedError(copy.id)
            del self._copies[copy.id]
            self._state.tombstones.append(copy.id)
            self._state.log.append((self._tenant_id, "item.purge", self._run.id, copy.id, str(verdict.reason)))
        return sum(self._state.sizes[copy.id] for copy, _ in due)

    async def defer(self, copy: Copy, reason: str) -> None:
        self._state.log.append((self._tenant_id, "item.deferred", self._run.id, copy.id, reason))

    async def load(self, bounds: Cutoffs, brake: Brake, taken: int, after: Position | None) -> Load | None:
        going = taken + sum(not copy.pins and not copy.holds for copy in self._walk(bounds, after))
        if going <= brake.minimum:
            return None
        return Load(going, taken + len(self._copies), self._tenant_id in self._store.change_explains)

    async def open(self) -> None:
        self._state.log.append((self._tenant_id, "run.open", self._run.id))

    async def close(self, counts: Counts, asked: Load | None) -> None:
        self._state.asked[self._tenant_id, self._run.id] = asked
        self._state.log.append((self._tenant_id, "run.close", self._run.id, counts.to_json()))

    async def abort(self, counts: Counts, reason: str, asked: Load | None) -> None:
        self._state.asked[self._tenant_id, self._run.id] = asked
        self._state.log.append((self._tenant_id, "run.abort", self._run.id, reason, counts.to_json()))

    async def record(self, progress: Progress) -> None:
        run, _, state = self._state.runs[self._run.id]
        self._state.runs[run.id] = (run, progress.copy(), state)


def pinned(copy: Copy) -> Copy:
    return copy._replace(pins=1)
