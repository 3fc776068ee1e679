"""The background work of a process: what a killed one left is picked up, what happens wakes who it concerns."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from sqlalchemy import select

from mailgate.actors import COMMAND
from mailgate.clock import DAY, SECOND, system_clock
from mailgate.jobs import scheduler
from mailgate.jobs.erase import EraseWorker
from mailgate.jobs.scheduler import Intervals, Jobs
from mailgate.jobs.worker import Worker
from mailgate.store.erasures import Erasures
from mailgate.store.plan_watch import PlanWatch
from mailgate.store.retention import RetentionService
from mailgate.store.schema import blob_erasures, runs
from retention.policy import Policy
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging


@dataclass
class Background:
    purging: Purging
    jobs: Jobs
    service: RetentionService
    signed: asyncio.Event
    asked: asyncio.Event
    pruned: asyncio.Event

    async def until(self, question: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a condition in the database; the test's own time-out bounds it."""
        while not await question():
            assert all(self.jobs.health.values()), self.jobs.health
            await asyncio.sleep(0)  # let the others run

    async def states(self) -> list[tuple[str, str]]:
        async with self.purging.store.db.read() as conn:
            rows = (await conn.execute(select(runs.c.trigger, runs.c.state).order_by(runs.c.id))).all()
        return [(row[0], row[1]) for row in rows]

    async def queued_blobs(self) -> int:
        async with self.purging.store.db.read() as conn:
            return len((await conn.execute(select(blob_erasures.c.blob_id))).all())


@pytest.fixture
async def background(store: Store) -> AsyncIterator[Background]:
    purging = await make_purging(store)
    await purging.lease.release(store.db)
    service = RetentionService(
        store.db, store.log, store.subscriptions, purging.expiry, Policy(1, "a"), purging.clock, "one"
    )
    signed, asked, pruned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def sign() -> None:
        signed.set()

    async def stamp() -> None:
        asked.set()
        await asyncio.Event().wait()  # an authority that does not answer

    async def prune() -> None:
        pruned.set()

    async def nothing() -> None:
        """The plans' file did not change, and nothing is near."""

    jobs = Jobs(
        retention=service,
        plans=PlanWatch(store.db, store.subscriptions),
        erase=EraseWorker(Erasures(store.db, store.log), store.blobs, purging.clock, "one"),
        sign=sign,
        stamp=stamp,
        prune=prune,
        plans_file=nothing,
        notices=nothing,
        alarms=nothing,
        keys=nothing,
        erasures=nothing,
        sample=nothing,
        consents=nothing,
        ended=nothing,
        clock=purging.clock,
        intervals=Intervals(purge=3_600, runs=3_600, erase=3_600, plans=3_600, notices=3_600, clock=3_600),
    )
    yield Background(purging, jobs, service, signed, asked, pruned)
    await jobs.stop()


async def old_copies(background: Background, plan: str = "crm_plus") -> None:
    home = await background.purging.builder.home("acme", plan)
    await background.purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(3)])


async def test_a_tick_purges_erases_and_signs(background: Background) -> None:
    await old_copies(background)
    background.jobs.start()
    background.jobs.wake("purge")
    await background.signed.wait()
    assert await background.states() == [("schedule", "completed")]
    assert await background.purging.ids() == set()

    async def erased() -> bool:
        return await background.queued_blobs() == 0 and not list(background.purging.store.blobs.list_ids())

    await background.until(erased)


async def test_what_a_killed_process_left_is_picked_up_at_the_start(background: Background) -> None:
    await old_copies(background)
    await background.service.request_run(actor=COMMAND)
    background.jobs.start()
    await background.signed.wait()
    assert await background.states() == [("request", "completed")]


@pytest.mark.parametrize(
    ("tenant_s", "run_s", "purged"),
    [
        (3_600, None, True),
        (3_599, None, False),  # there was nobody to purge of before
        (90_000, 3_600, True),
        (90_000, 3_599, False),
    ],
)
async def test_a_purge_that_should_have_been_since_is_made_at_the_start(
    background: Background, tenant_s: int, run_s: int | None, *, purged: bool
) -> None:
    """Where a process is started more often than it ticks, each start would else put the purge off."""
    purging, now = background.purging, NOW
    purging.now = purging.builder.now = now - tenant_s * SECOND
    home = await purging.builder.home("acme", "crm_plus")
    if run_s is not None:
        purging.now = now - run_s * SECOND
        await background.service.run(actor=COMMAND)
        await background.service.run(actor=COMMAND, dry_run=True)
    purging.now = purging.builder.now = now
    await purging.builder.copies(home, [Seed(NOW - 40 * DAY)])
    await background.service.run(actor=COMMAND, dry_run=True)
    for _ in range(2):
        await background.jobs._work_runs()
    assert (await purging.ids() == set()) is purged
    assert (
        await background.states()
        == [("request", "completed")] * (run_s is not None) + [("schedule", "completed")] * purged
    )


async def test_what_a_run_did_is_signed_and_looked_at_at_once(
    background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[str] = []
    monkeypatch.setattr(Worker, "wake", lambda worker: woken.append(worker.name))
    await background.jobs._work_runs()
    assert woken == []
    await background.service.request_run(actor=COMMAND)
    woken.clear()
    await background.jobs._work_runs()
    assert woken == ["sign", "alarms"]


async def test_a_request_wakes_the_worker(background: Background) -> None:
    await old_copies(background)
    background.jobs.start()
    await background.service.request_run(actor=COMMAND, tenant_id="acme")
    await background.signed.wait()
    assert await background.purging.ids() == set()


async def test_an_authority_that_does_not_answer_holds_up_no_signature(background: Background) -> None:
    background.jobs.start()
    background.jobs.wake("sign")
    await background.asked.wait()
    background.signed.clear()
    background.jobs.wake("sign")
    await background.signed.wait()


async def test_a_plan_that_became_free_is_purged_soon(background: Background) -> None:
    await old_copies(background, "professional")
    looked = background.jobs._workers["plans"]
    background.jobs.start()

    async def seen() -> bool:
        return background.jobs._plans._days is not None

    await background.until(seen)
    await background.purging.builder.plan("acme", "free")
    looked.wake()
    await background.signed.wait()
    assert await background.states() == [("plan_change", "completed")]
    assert await background.purging.ids() == set()


async def test_ticks_that_were_missed_coalesce_and_never_vanish(background: Background) -> None:
    background.jobs.start()
    found: list[Any] = background.jobs._scheduler.get_jobs()
    assert {job.id for job in found} == set(Intervals.__dataclass_fields__)
    assert all((job.coalesce, job.misfire_grace_time, job.max_instances) == (True, None, 1) for job in found)
    assert background.jobs._scheduler.timezone is UTC


async def test_a_tick_wakes_its_worker_in_the_thread_in_which_that_waits(
    background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    background.jobs._intervals = Intervals(**dict.fromkeys(Intervals.__dataclass_fields__, 1))
    loop = asyncio.get_running_loop()
    threads: dict[str, int] = {}
    every_one = asyncio.Event()
    started = False

    def note(worker: Worker) -> None:
        if started:  # what `start` wakes itself is no tick
            threads[worker.name] = threading.get_ident()
        if len(threads) == len(Intervals.__dataclass_fields__):
            loop.call_soon_threadsafe(every_one.set)

    monkeypatch.setattr(Worker, "wake", note)
    background.jobs.start()
    started = True
    await every_one.wait()
    assert set(threads.values()) == {threading.get_ident()}


async def test_ticks_go_on_when_the_clock_is_set_back(background: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    background.jobs._intervals = Intervals(**dict.fromkeys(Intervals.__dataclass_fields__, 1))
    monkeypatch.setattr(scheduler, "_WATCH_S", 0.05)
    wakings: Counter[str] = Counter()
    again = asyncio.Event()

    def count(worker: Worker) -> None:
        wakings[worker.name] += 1
        if len(wakings) == len(Intervals.__dataclass_fields__) and min(wakings.values()) >= 2:
            again.set()

    class SetBack(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) - timedelta(days=366)

    monkeypatch.setattr(Worker, "wake", count)
    background.jobs.start()
    await again.wait()
    monkeypatch.setattr("apscheduler.schedulers.base.datetime", SetBack)
    monkeypatch.setattr(scheduler, "system_clock", lambda: system_clock() - 366 * DAY)
    wakings.clear()
    again.clear()
    await again.wait()


async def test_the_latest_time_is_recorded(background: Background) -> None:
    background.jobs.start()

    async def recorded() -> bool:
        return await background.service.time.last() == NOW

    await background.until(recorded)


async def test_health_is_that_of_the_workers(background: Background) -> None:
    assert not any(background.jobs.health.values())
    background.jobs.start()
    assert all(background.jobs.health.values())
    background.jobs.wake("prune")
    await background.pruned.wait()
