"""Ticks. The scheduler decides nothing and remembers nothing: it wakes workers, and what is due stands in the database.

A tick that was missed (the machine slept, the loop was busy) happens once, late, instead of never: misfires coalesce
and have no time limit. The scheduler goes by the machine's time: when that is set back, so are the ticks, which would
else stand still until it has caught up. Two processes may tick at the same time; leases and claims in the database
decide who works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from mailgate.actors import SCHEDULE
from mailgate.clock import SECOND, Clock, Instant, monotonic_s, system_clock
from mailgate.jobs.erase import EraseWorker
from mailgate.jobs.worker import Worker
from mailgate.store.plan_watch import PlanWatch
from mailgate.store.retention import RetentionService

_log = structlog.get_logger("mailgate.jobs")

_WATCH_S: Final = 5.0
_NOTICED: Final[Instant] = SECOND
"""A clock that is set back by less makes ticks come late by less."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between ticks."""

    purge: int = 3_600
    runs: int = 5
    erase: int = 60
    sign: int = 3_600
    stamp: int = 3_600
    prune: int = 86_400
    plans: int = 10
    notices: int = 60
    clock: int = 60
    alarms: int = 60
    keys: int = 3_600
    erasures: int = 60
    sample: int = 60
    consents: int = 20
    ended: int = 30


class Jobs:
    """The background work of one process: make it, `start` it, `stop` it.

    `sign` makes log checkpoints where a log grew, `stamp` has them time-stamped, `prune` forgets what is no longer
    needed, `plans_file` takes over a changed catalogue, `notices` says what will happen to subscriptions, `alarms`
    looks at what is wrong, `keys` whether keys are to be rotated, `erasures` goes on with tenants that leave,
    `sample` keeps how the gateway stands, `consents` renews access tokens, `ended` frees what killed processes owned.
    """

    def __init__(
        self,
        *,
        retention: RetentionService,
        plans: PlanWatch,
        erase: EraseWorker,
        sign: Callable[[], Awaitable[object]],
        stamp: Callable[[], Awaitable[object]],
        prune: Callable[[], Awaitable[object]],
        plans_file: Callable[[], Awaitable[object]],
        notices: Callable[[], Awaitable[object]],
        alarms: Callable[[], Awaitable[object]],
        keys: Callable[[], Awaitable[object]],
        erasures: Callable[[], Awaitable[object]],
        sample: Callable[[], Awaitable[object]],
        consents: Callable[[], Awaitable[object]],
        ended: Callable[[], Awaitable[object]],
        clock: Clock,
        intervals: Intervals | None = None,
    ) -> None:
        self._retention = retention
        self._erasing = erase
        self._signing = sign
        self._stamping = stamp
        self._plans = plans
        self._plans_file = plans_file
        self._clock = clock
        self._intervals = intervals or Intervals()
        self._workers = {
            worker.name: worker
            for worker in (
                Worker("purge", self._queue_purge),
                Worker("runs", self._work_runs),
                Worker("erase", self._erase),
                Worker("sign", self._sign),
                Worker("stamp", self._stamp),
                Worker("prune", prune),
                Worker("plans", self._look_at_plans),
                Worker("notices", notices),
                Worker("keys", keys),
                Worker("erasures", erasures),
                Worker("sample", sample),
                Worker("consents", consents),
                Worker("ended", ended),
                Worker("clock", self._note_time),
                Worker("alarms", alarms),
            )
        }
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        self._watching: asyncio.Task[None] | None = None
        self._caught_up = False
        retention.on_requested = self._workers["runs"].wake
        retention.on_purged = self._workers["erase"].wake

    @property
    def health(self) -> Mapping[str, bool]:
        """Whether each worker's last piece of work succeeded; all False while the scheduler does not run."""
        return {name: worker.healthy and self._scheduler.running for name, worker in self._workers.items()}

    def start(self) -> None:
        """Begin ticking. What a killed process left is looked at at once: cut runs, queued runs, queued erasures; and
        so is whether a purge, or a rotation of the keys, should have been since.
        """
        for name, worker in self._workers.items():
            worker.start()
            self._scheduler.add_job(
                worker.tick, IntervalTrigger(seconds=getattr(self._intervals, name), timezone=UTC), id=name, name=name
            )
        self._scheduler.start()
        self._watching = asyncio.create_task(self._watch_clock(), name="clock watch")
        for name in ("clock", "runs", "erase", "plans", "notices", "prune", "alarms", "sample", "keys"):
            self._workers[name].wake()

    async def stop(self) -> None:
        """End. A purge is cut between two batches or inside one, which is rolled back; the next start finishes it."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        for worker in self._workers.values():
            await worker.stop()

    def wake(self, name: str) -> None:
        """Do this worker's work now; its name is an attribute of Intervals."""
        self._workers[name].wake()

    async def _watch_clock(self) -> None:
        """Set the ticks back with the machine's time."""
        before = _ahead()
        while True:
            await asyncio.sleep(_WATCH_S)
            now = _ahead()
            if now < before - _NOTICED:
                _log.warning("clock_set_back", seconds=(before - now) // SECOND)
                for job in self._scheduler.get_jobs():
                    job.modify(next_run_time=job.next_run_time - timedelta(microseconds=before - now))
            before = now

    async def _queue_purge(self) -> None:
        await self._retention.request_run(actor=SCHEDULE, trigger="schedule")

    async def _work_runs(self) -> None:
        if not self._caught_up:
            # Ticks count from the start: where that comes more often than they do, there would never be a purge.
            if await self._retention.overdue(self._intervals.purge * SECOND):
                await self._queue_purge()
            self._caught_up = True
        done = await self._retention.work()
        if done:
            self._workers["sign"].wake()
            self._workers["alarms"].wake()

    async def _erase(self) -> None:
        _, failed = await self._erasing.work()
        if failed:  # the others are looked at once a minute: a large purge erases a thousand times
            self._workers["alarms"].wake()

    async def _sign(self) -> None:
        try:
            await self._signing()
            self._workers["stamp"].wake()  # by itself: an authority far away must not hold up the next signature
        finally:
            self._workers["alarms"].wake()

    async def _stamp(self) -> None:
        try:
            await self._stamping()
        finally:
            self._workers["alarms"].wake()

    async def _look_at_plans(self) -> None:
        await self._plans_file()
        for tenant_id in await self._plans.shrunk(self._clock()):
            _log.info("plan_shrunk", tenant=tenant_id)
            await self._retention.request_run(actor=SCHEDULE, tenant_id=tenant_id, trigger="plan_change")

    async def _note_time(self) -> None:
        fault = await self._retention.note_time(self._clock())
        if fault is not None:
            self._workers["alarms"].wake()


def _ahead() -> Instant:
    """How far the machine's time is ahead of the clock that nobody sets."""
    return system_clock() - round(monotonic_s() * SECOND)
