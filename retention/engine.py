"""A purge run: from its opening to its balanced closing, in small transactions, through a port.

    for each tenant that has something to purge
        open      log run.open                                                       ┐
        batch     lock tenant → lock candidates → read anew → judge → purge          │ one transaction each,
        …         until no candidate is left                                         │ the run's position in it
        close     log run.close: candidates = purged + kept + failed                 ┘
    finish

Where the store allows it, a batch locks, reads and judges while the one before it deletes and commits; it waits with
all that it changes until the other one is committed, and is undone when that ended elsewhere than it supposed.

Invariants:

1. Every copy of age has one fate in a run of its tenant, decided in the transaction that moves the position past it.
2. A copy is purged only by a verdict over what was read after its lock was taken, under rules read after the tenant's.
3. Cut anywhere, `resume` goes on from the last commit and ends as an uncut run would have.
4. What the store refuses shrinks the batch down to one copy; that copy is deferred, logged and counted as failed, and
   the walk goes on.
5. A run that would take improbably many of a tenant's copies takes none of them, or, where it meets so many only on
   its way, none beyond what was allowed: it says so in the tenant's log, goes on with the next tenant, and ends as
   halted.
6. An error that is not the batch's own (disk, connection, log) ends the work and leaves the run unfinished, to be
   resumed: nothing is counted that did not commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from retention.model import Brake, Copy, Counts, Cutoffs, Instant, KeptBy, Reason, Rules, Sum, Supposed, Verdict
from retention.policy import clock_fault, cutoffs, judge
from retention.port import BatchFailedError, Load, Position, Progress, PurgeStore, PurgeUnit, Run, Survey

BATCH = 1_000
"""Copies per transaction, at most: about 100 ms of work, so that nobody waits long. By 500 each copy took a tenth
longer, for what a batch costs whatever its size, and for pages of the database that are written once a batch.
"""

APPROVED_BRAKE = "brake"
"""What a run names that a person allowed to take improbably many copies."""

TENANT_GONE = "tenant_erased"
"""Why a run stopped in the log of a tenant that began to be erased meanwhile."""

_LONGEST_DETAIL = 900

Step = Callable[[str], None]
"""Called with the name of each step boundary that was reached; tests cut a run there."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run at `now_at` would do to one tenant, or to all (`tenant_id` None), and why.

    `counts` are the run's: copies of age. `due` and `kept` are all copies, each once: those that would go, by reason,
    and those that would stay, by what keeps them. `rules` None: of all tenants, or there is no such tenant.
    `halted_at`: the tenants at which the brake would stop such a run, each with how many of its copies would go: none
    do before somebody approves it.
    """

    tenant_id: str | None
    now_at: Instant
    rules: Rules | None
    counts: Counts
    due: Mapping[Reason, Sum] = field(default_factory=dict)
    kept: Mapping[KeptBy, Sum] = field(default_factory=dict)
    halted_at: Mapping[str, int] = field(default_factory=dict)

    @property
    def going(self) -> Sum:
        """All that would go."""
        return sum(self.due.values(), Sum())


def no_step(_name: str) -> None:
    """The step of a run that nobody watches."""


class Engine:
    """Runs purges on a store. `clock` gives the instant by which plans are looked up, batch by batch.

    Ages are judged by the run's own `now_at`: a plan that was raised while the run was cut off counts, and the hours
    that passed make nothing older.
    """

    def __init__(
        self,
        store: PurgeStore,
        clock: Callable[[], Instant],
        *,
        batch: int = BATCH,
        step: Step = no_step,
        brake: Brake | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError("a batch has at least one copy")
        self._store = store
        self._clock = clock
        self._batch = batch
        self._step = step
        self._brake = brake or Brake()

    async def run(self, run: Run) -> Counts:
        """Begin this run and finish it; the counts of all its tenants."""
        await self._store.begin(run)
        self._step("begun")
        return await self._walk(run, Progress())

    async def resume(self, policy_sha256: str) -> tuple[Run, Counts] | None:
        """Finish the oldest run that was cut off; None when there is none.

        It goes on under the policy it began with; when the policy is another by now, or its own time is still to come
        since the clock went back, it is aborted instead: its opening names rules or a time that do not hold, and the
        next run judges everything anew.
        """
        found = await self._store.unfinished()
        if found is None:
            return None
        run, progress = found
        if run.policy_sha256 != policy_sha256:
            return run, await self._abort(run, progress, "policy_changed")
        if clock_fault(self._clock(), run.now_at) == "back":
            return run, await self._abort(run, progress, "clock")
        return run, await self._walk(run, progress)

    async def preview_all(
        self, now: Instant, clock_fault: str | None = None, supposed: Supposed | None = None
    ) -> Preview:
        """What a run over all tenants at `now` would do, by the plans at `now` or the supposed one. Changes nothing.

        Its counts are those of the tenants that the run would open; its sums are of everybody's copies.
        """
        opened = set(await self._store.tenants_due(now, now, supposed))
        counts, due, kept = Counts(), dict[Reason, Sum](), dict[KeptBy, Sum]()
        halted_at = dict[str, int]()
        for tenant_id, (rules, survey) in (await self._store.surveys(now, supposed)).items():
            one = _preview(tenant_id, rules, survey, now, clock_fault)
            if tenant_id in opened:
                counts.add(one.counts)
            for reason, sum_ in one.due.items():
                due[reason] = due.get(reason, Sum()) + sum_
            for kept_by, sum_ in one.kept.items():
                kept[kept_by] = kept.get(kept_by, Sum()) + sum_
            halted_at |= await self._halted_at(tenant_id, one, supposed)
        return Preview(None, now, None, counts, due, kept, halted_at)

    async def preview(
        self, tenant_id: str, now: Instant, clock_fault: str | None = None, supposed: Supposed | None = None
    ) -> Preview:
        """What a run at `now` would do to this tenant's copies, as they are. Changes nothing."""
        rules = await self._store.rules(tenant_id, now, supposed)
        if rules is None:
            return Preview(tenant_id, now, None, Counts())
        one = _preview(tenant_id, rules, await self._store.survey(tenant_id, rules, now), now, clock_fault)
        return replace(one, halted_at=await self._halted_at(tenant_id, one, supposed))

    async def _halted_at(self, tenant_id: str, one: Preview, supposed: Supposed | None) -> Mapping[str, int]:
        """Whether the brake would stop the run at this tenant, as `_improbable` judges it when it opens."""
        load = Load(
            one.going.copies, one.going.copies + sum(kept.copies for kept in one.kept.values()), explained=False
        )
        if not load.improbable(self._brake):
            return {}
        explained = await self._store.explained(tenant_id, one.now_at, self._brake.limit(load.copies), supposed)
        return {} if explained else {tenant_id: load.going}

    async def _walk(self, run: Run, progress: Progress) -> Counts:
        for tenant_id in await self._tenants(run, progress):
            progress = await self._tenant(run, tenant_id, progress)
        if progress.halted:
            await self._store.finish(run, progress, "halted", _halted(progress.halted))
        elif progress.gone:
            await self._store.finish(run, progress, "failed", TENANT_GONE)
        else:
            await self._store.finish(run, progress, "completed")
        self._step("finished")
        return progress.totals

    async def _tenants(self, run: Run, progress: Progress) -> Sequence[str]:
        """The tenants still to do, in order; the one that was in work when the run was cut is among them."""
        found = (
            {run.tenant_id}
            if run.tenant_id is not None
            else set(await self._store.tenants_due(run.now_at, self._clock()))
        )
        if progress.tenant_id is not None:
            found.add(progress.tenant_id)
        return sorted(one for one in found if progress.done_through is None or one > progress.done_through)

    async def _tenant(self, run: Run, tenant_id: str, progress: Progress) -> Progress:
        if progress.tenant_id is None:
            progress = await self._store.transact(run, tenant_id, partial(self._open, run, tenant_id, progress))
            self._step("opened")
        progress = await self._batches(run, tenant_id, progress)
        if progress.tenant_id is not None:
            progress = await self._store.transact(run, tenant_id, partial(self._close, run, progress))
            self._step("closed")
        return progress

    async def _batches(self, run: Run, tenant_id: str, progress: Progress) -> Progress:
        """Batch after batch, of which the next one may have begun, until no candidate is left."""
        size, done = self._batch, False
        batch: _Batch | None = None
        ahead: _Batch | None = None
        try:
            while not done and progress.tenant_id is not None:
                batch, ahead = ahead or self._begin(run, tenant_id, progress.position, size), None
                batch.before.set_result(progress)
                try:
                    size = min(self._batch, size * 2)
                    through = await batch.followed()
                    if through is not None:
                        ahead = self._begin(run, tenant_id, through, size, ahead=True)
                    progress, done = await batch.task
                except _OvertakenError:
                    continue
                except BatchFailedError:
                    await _end(ahead)
                    ahead = None
                    if batch.limit == 1:
                        progress, done = await self._store.transact(run, tenant_id, partial(self._defer, run, progress))
                    size = max(1, batch.limit // 2)
                self._step("batch")
        finally:
            await _end(batch)
            await _end(ahead)
        return progress

    def _begin(self, run: Run, tenant_id: str, after: Position | None, limit: int, *, ahead: bool = False) -> _Batch:
        batch = _Batch(after, limit)
        work = partial(self._next, run, batch)
        batch.task = asyncio.ensure_future(self._store.transact(run, tenant_id, work, ahead=ahead))
        return batch

    async def _open(self, run: Run, tenant_id: str, before: Progress, unit: PurgeUnit) -> Progress:
        progress = before.copy()
        rules = await unit.lock_tenant(self._clock())
        if rules is None:
            progress.done_through = tenant_id
            await unit.record(progress)
            return progress
        progress.tenant_id = tenant_id
        await unit.open()
        bounds = cutoffs(rules, run.now_at)
        load = None if bounds is None else await self._improbable(run, bounds, progress, unit)
        return await self._record(run, progress, load, unit)

    async def _record(self, run: Run, progress: Progress, load: Load | None, unit: PurgeUnit) -> Progress:
        """Write down how far the run is; with a `load` it stops here for this tenant."""
        if load is not None:
            went, tenant_id = progress.counts.purged, str(progress.tenant_id)
            progress.counts.keep(str(KeptBy.BRAKE), load.going - went)
            await unit.abort(progress.counts, APPROVED_BRAKE, progress.asked)
            progress = _tenant_done(progress)
            so_far = f", {went} of them went before it stopped" if went else ""
            approved = f" ({run.approved_of(tenant_id)} were approved)" if APPROVED_BRAKE in run.approved else ""
            progress.halted.append(f"{tenant_id}: {load.going} of {load.copies} copies would go{so_far}{approved}")
            progress.stopped[tenant_id] = load.going - went
        await unit.record(progress)
        return progress

    async def _improbable(self, run: Run, bounds: Cutoffs, progress: Progress, unit: PurgeUnit) -> Load | None:
        """What the run would take of the tenant, if that is improbably much, nothing explains it, and whoever approved
        it did not see so many. Otherwise the progress says how many may go until it is asked again.
        """
        approved = run.approved_of(str(progress.tenant_id)) if APPROVED_BRAKE in run.approved else 0
        if approved is None:
            progress.allowed = None
            return None
        load = await unit.load(bounds, self._brake, progress.counts.purged, progress.position)
        if load is not None and load.improbable(self._brake, approved):
            return load
        limit = max(approved, self._brake.minimum if load is None else self._brake.limit(load.copies))
        progress.asked = load
        progress.allowed = limit if load is None else max(limit, load.going)
        return None

    async def _next(self, run: Run, batch: _Batch, unit: PurgeUnit) -> tuple[Progress, bool]:
        """One batch; the progress after it, and whether it was the last."""
        rules = await unit.lock_tenant(self._clock())
        self._step("tenant locked")
        if rules is None:
            return await self._gone(run, unit, await self._turn(batch, unit)), True
        bounds = cutoffs(rules, run.now_at)
        if bounds is None:
            progress = await self._turn(batch, unit)
            for kept_by, count in (await unit.kept_after(batch.after)).items():
                progress.counts.keep(kept_by, count)
            await unit.record(progress)
            return progress, True
        candidates = await unit.lock_candidates(bounds, batch.after, batch.limit)
        self._step("candidates locked")
        last = len(candidates) < batch.limit
        through = None if last else candidates[-1]
        due: list[tuple[Copy, Verdict]] = []
        kept = Counts()
        for copy in await unit.read(candidates):
            verdict = judge(copy, rules, run.now_at)
            if verdict.due:
                due.append((copy, verdict))
            else:
                kept.keep(str(verdict.kept_by))
        self._step("judged")
        for kept_by, count in (await unit.kept_between(bounds, batch.after, through, candidates)).items():
            kept.keep(kept_by, count)
        if due:
            await unit.prepare(due)
        progress = await self._turn(batch, unit)
        if due and progress.allowed is not None and progress.counts.purged + len(due) > progress.allowed:
            before = progress.copy()
            load = await self._improbable(run, bounds, progress, unit)
            if load is not None:  # the run met more than was there when the tenant was opened
                return await self._record(run, before, load, unit), True
        if through is not None and await unit.may_be_followed():
            batch.follow(through)
        progress.counts.add(kept)
        if due:
            progress.counts.purge(len(due), await unit.purge(due, rules))
        self._step("purged")
        progress.position = through or (candidates[-1] if candidates else batch.after)
        await unit.record(progress)
        self._step("recorded")
        return progress, last

    async def _turn(self, batch: _Batch, unit: PurgeUnit) -> Progress:
        """What was committed before this batch, which may change something from now on."""
        before = await batch.before
        if before.position != batch.after:
            raise _OvertakenError
        await unit.take_turn()
        return before.copy()

    async def _defer(self, run: Run, before: Progress, unit: PurgeUnit) -> tuple[Progress, bool]:
        """Step over the one copy that the store refuses to let go."""
        progress = before.copy()
        rules = await unit.lock_tenant(self._clock())
        bounds = None if rules is None else cutoffs(rules, run.now_at)
        if bounds is None:
            return progress, False
        candidates: Sequence[Position] = await unit.lock_candidates(bounds, before.position, 1)
        if not candidates:
            return progress, False
        for copy in await unit.read(candidates):
            await unit.defer(copy, "store_refused")
        progress.counts.fail(len(candidates))
        for kept_by, count in (await unit.kept_between(bounds, before.position, candidates[-1], candidates)).items():
            progress.counts.keep(kept_by, count)
        progress.position = candidates[-1]
        await unit.record(progress)
        return progress, False

    async def _close(self, run: Run, before: Progress, unit: PurgeUnit) -> Progress:
        progress = _tenant_done(before)
        if await unit.lock_tenant(self._clock()) is not None:
            await unit.close(before.counts, before.asked)
        else:
            await unit.abort(before.counts, TENANT_GONE, before.asked)
            progress.gone = run.tenant_id is not None
        await unit.record(progress)
        return progress

    async def _gone(self, run: Run, unit: PurgeUnit, progress: Progress) -> Progress:
        """The tenant began to be erased meanwhile: its log stays, and says how far this run came."""
        await unit.abort(progress.counts, TENANT_GONE, progress.asked)
        progress = _tenant_done(progress)
        progress.gone = run.tenant_id is not None
        await unit.record(progress)
        return progress

    async def _abort(self, run: Run, progress: Progress, reason: str) -> Counts:
        if progress.tenant_id is not None:
            before = progress

            async def work(unit: PurgeUnit) -> Progress:
                after = _tenant_done(before)
                there = await unit.lock_tenant(self._clock()) is not None
                await unit.abort(before.counts, reason if there else TENANT_GONE, before.asked)
                await unit.record(after)
                return after

            progress = await self._store.transact(run, progress.tenant_id, work)
            self._step("aborted")
        await self._store.finish(run, progress, "failed", reason)
        return progress.totals


class _OvertakenError(Exception):
    """The batch before ended elsewhere than this one supposed: it did nothing, and begins anew."""


class _Batch:
    """A batch in its task. `before` is what was committed before it, once that is known; it walks on `after` there."""

    __slots__ = ("_through", "after", "before", "limit", "task")

    task: asyncio.Future[tuple[Progress, bool]]

    def __init__(self, after: Position | None, limit: int) -> None:
        self.after = after
        self.limit = limit
        self.before: asyncio.Future[Progress] = asyncio.get_running_loop().create_future()
        self._through: asyncio.Future[Position] = asyncio.get_running_loop().create_future()

    def follow(self, through: Position) -> None:
        """The next batch may begin, after this position; said again when the store repeats the unit."""
        if not self._through.done():
            self._through.set_result(through)

    async def followed(self) -> Position | None:
        """Where the next batch may begin while this one ends, as soon as that is known; None: when it has ended."""
        either: set[asyncio.Future[Any]] = {self.task, self._through}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return self._through.result() if self._through.done() else None


async def _end(batch: _Batch | None) -> None:
    """Let a batch that is not wanted any more undo what it did, unless it has ended."""
    if batch is None:
        return
    if not batch.task.done():
        if not batch.before.cancel():
            batch.task.cancel()
        await asyncio.wait({batch.task})
    if not batch.task.cancelled():
        batch.task.exception()  # told already, or nobody is left to hear of it


def _preview(tenant_id: str, rules: Rules, survey: Survey, now: Instant, clock_fault: str | None) -> Preview:
    counts = Counts()
    for kept_by, count in survey.candidates.items():
        counts.keep(kept_by, count)
    preview = Preview(tenant_id, now, rules, counts, survey.due, survey.kept)
    if clock_fault is None:
        counts.purge(preview.going.copies, preview.going.bytes)
        return preview
    counts.keep(KeptBy.CLOCK, preview.going.copies)
    stopped = {KeptBy.CLOCK: preview.going} if preview.going.copies else {}
    return replace(preview, rules=replace(rules, clock_fault=clock_fault), due={}, kept={**survey.kept, **stopped})


def _halted(tenants: Sequence[str]) -> str:
    """Why a run ended as halted, for its record."""
    text = "; ".join(tenants)
    if len(text) > _LONGEST_DETAIL:
        text = f"{text[:_LONGEST_DETAIL]}… ({len(tenants)} tenants)"
    return f"brake: {text}. Nothing more of theirs was purged; look, then approve it (approve_brake)"


def _tenant_done(before: Progress) -> Progress:
    progress = before.copy()
    progress.totals.add(progress.counts)
    progress.tenants += 1
    progress.done_through = progress.tenant_id
    progress.tenant_id = progress.position = None
    progress.allowed = 0
    progress.asked = None
    progress.counts = Counts()
    return progress
