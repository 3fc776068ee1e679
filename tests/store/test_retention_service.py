"""Runs as people and the scheduler ask for them: queued, done, resumed, halted, previewed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mailgate.actors import COMMAND, SCHEDULE, SYSTEM
from mailgate.clock import DAY, MINUTE
from mailgate.errors import NotFoundError, PreconditionError, UnavailableError
from mailgate.store.latest_time import LatestTime, SteadyClock
from mailgate.store.plan_watch import PlanWatch
from mailgate.store.prune import prune
from mailgate.store.purge_lease import TTL, PurgeLease
from mailgate.store.retention import PurgeBusyError, RetentionService
from mailgate.store.schema import idempotency_keys
from mailgate.store.subscriptions import SubscriptionChange
from retention.policy import ClockLimits, Policy
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging

POLICY = Policy(1, "ab" * 32)
_OWNERS = count()


@pytest.fixture
async def purging(store: Store) -> Purging:
    made = await make_purging(store)
    await made.lease.release(store.db)
    return made


def a_service(purging: Purging, policy: Policy = POLICY, **more: Any) -> RetentionService:
    store = purging.store
    return RetentionService(
        store.db,
        store.log,
        store.subscriptions,
        purging.expiry,
        policy,
        purging.clock,
        f"service-{next(_OWNERS)}",
        **more,
    )


async def old_copies(purging: Purging, number: int = 5) -> list[str]:
    home = await purging.builder.home()
    return await purging.builder.copies(home, [Seed(NOW - 40 * DAY - n) for n in range(number)])


async def test_a_run_now_comes_back_finished(purging: Purging) -> None:
    await old_copies(purging)
    run = await a_service(purging).run(actor=COMMAND)
    assert (run.state, run.counts["purged"], run.trigger, str(run.actor)) == ("completed", 5, "request", "command:cli")
    assert run.policy == {"version": 1, "sha256": POLICY.sha256, "approved": []}
    assert await purging.ids() == set()


async def test_a_queued_run_is_done_by_whoever_works(purging: Purging) -> None:
    await old_copies(purging)
    woken: list[bool] = []
    asking, working = a_service(purging), a_service(purging)
    asking.on_requested = lambda: woken.append(True)
    queued = await asking.request_run(actor=COMMAND, tenant_id="acme")
    assert queued.state == "queued"
    assert woken == [True]
    assert (await working.get(queued.id)).state == "queued"
    assert await working.work() == 1
    assert await working.work() == 0
    done = await asking.get(queued.id)
    assert (done.state, done.counts["purged"], done.tenant_id) == ("completed", 5, "acme")


async def test_the_same_request_twice_is_one_run(purging: Purging) -> None:
    await purging.builder.home()
    service = a_service(purging)
    first = await service.request_run(actor=SCHEDULE)
    assert (await service.request_run(actor=SCHEDULE)).id == first.id
    assert (await service.request_run(actor=SCHEDULE, tenant_id="acme")).id != first.id
    assert (await service.request_run(actor=SCHEDULE, dry_run=True)).id != first.id
    approved = await service.request_run(actor=COMMAND, approve_brake=True, approve_up_to=7)
    assert approved.id != first.id
    assert (await service.request_run(actor=COMMAND, approve_brake=True, approve_up_to=7)).id == approved.id
    assert (await service.request_run(actor=COMMAND, approve_brake=True, approve_up_to=8)).id != approved.id
    assert await service.work() == 5


async def test_a_dry_run_now_writes_nothing(purging: Purging) -> None:
    await old_copies(purging)
    service = a_service(purging)
    log = await purging.leaves()
    run = await service.run(actor=COMMAND, dry_run=True)
    assert (run.state, run.dry_run, run.counts["purged"]) == ("completed", True, 5)
    assert len(await purging.ids()) == 5
    assert await purging.leaves() == log
    assert list((await service.list_page()).items) == []


async def test_a_dry_run_looks_at_a_later_time(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - age * DAY) for age in (0, 10, 20)])
    service = a_service(purging)
    found = [
        (await service.run(actor=COMMAND, dry_run=True, at=NOW + days * DAY)).counts["purged"]
        for days in (0, 10, 20, 30)
    ]
    assert found == [0, 1, 2, 3]
    queued = await service.request_run(actor=COMMAND, dry_run=True, at=NOW + 20 * DAY, tenant_id="acme")
    await service.work()
    assert (await service.get(queued.id)).counts["purged"] == 2
    assert len(await purging.ids()) == 3


async def test_nonsense_is_refused(purging: Purging) -> None:
    await purging.builder.home()
    service = a_service(purging)
    with pytest.raises(PreconditionError) as refused:
        await service.run(actor=COMMAND, at=NOW + DAY)
    assert refused.value.slug == "at_needs_dry_run"
    with pytest.raises(PreconditionError):
        await service.request_run(actor=COMMAND, dry_run=True, at=NOW - 1)
    with pytest.raises(NotFoundError):
        await service.run(actor=COMMAND, tenant_id="nobody")
    with pytest.raises(NotFoundError):
        await service.get("01ARZ3NDEKTSV4RRFFQ69G5FAV")


async def test_two_processes_do_not_purge_at_once(purging: Purging) -> None:
    await old_copies(purging)
    other = PurgeLease("another process")
    assert await other.acquire(purging.store.db, NOW)
    service = a_service(purging)
    with pytest.raises(PurgeBusyError):
        await service.run(actor=COMMAND)
    await service.request_run(actor=COMMAND)
    assert await service.work() == 0
    purging.now = NOW + TTL  # the other one died
    assert await service.work() == 1
    assert await purging.ids() == set()


class CutError(Exception):
    """The process dies here."""


def cut_after(name: str, times: int) -> Callable[[str], None]:
    left = times

    def step(reached: str) -> None:
        nonlocal left
        if reached == name:
            left -= 1
            if left == 0:
                raise CutError

    return step


async def test_a_cut_run_is_finished_before_anything_else(purging: Purging) -> None:
    await old_copies(purging, 6)
    with pytest.raises(CutError):
        await a_service(purging, batch=2, step=cut_after("batch", 2)).run(actor=COMMAND)
    service = a_service(purging, batch=2)
    half = (await service.list_page()).items[0]
    assert (half.state, half.counts["purged"], half.counts["candidates"]) == ("running", 4, 4)
    assert "progress" not in half.counts
    run = await service.run(actor=COMMAND)
    assert run.counts["purged"] == 0
    first = await service.get(half.id)
    assert (first.state, first.counts["purged"]) == ("completed", 6)
    types = [leaf["type"] for leaf in await purging.leaves()]
    assert types.count("item.purge") == 6
    assert types.count("run.open") == types.count("run.close") == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("cut", [False, True])
async def test_what_was_purged_stands_in_no_write_ahead_log_after_the_run(purging: Purging, cut: bool) -> None:
    """After one that was cut and gone on with, too."""
    ids = await old_copies(purging, 4)

    def logged() -> bool:
        log = Path(f"{purging.store.db.url.database}-wal").read_bytes()
        return any(id_.encode() in log for id_ in ids)

    assert logged()
    if cut:
        with pytest.raises(CutError):
            await a_service(purging, batch=2, step=cut_after("batch", 1)).run(actor=COMMAND)
        assert logged()
        await a_service(purging, batch=2).work()
    else:
        await a_service(purging).run(actor=COMMAND)
    assert await purging.ids() == set()
    assert not logged()


@pytest.mark.parametrize("jump", [-6 * MINUTE, 400 * DAY])
async def test_a_cut_run_waits_until_the_clock_is_right(purging: Purging, jump: int) -> None:
    """It goes on by the plans of then: after a power cut, a machine whose clock is wrong would end them early."""
    await old_copies(purging, 6)
    with pytest.raises(CutError):
        await a_service(purging, batch=2, step=cut_after("batch", 1)).run(actor=COMMAND)
    told, service = await purging.leaves(), a_service(purging, batch=2)
    purging.now = NOW + jump
    assert await service.work() == 0
    halted = await service.run(actor=COMMAND)
    assert halted.state == "halted"
    assert (len(await purging.ids()), await purging.leaves()) == (4, told)
    purging.now = NOW + MINUTE
    assert await service.work() == 1
    assert await purging.ids() == set()
    types = [leaf["type"] for leaf in await purging.leaves() if leaf["type"].startswith("run.")]
    assert types == ["run.open", "run.close"]


async def test_a_cut_run_that_waited_ends_before_the_one_that_approves_the_clock(purging: Purging) -> None:
    await old_copies(purging, 6)
    with pytest.raises(CutError):
        await a_service(purging, batch=2, step=cut_after("batch", 1)).run(actor=COMMAND)
    purging.now = NOW + 400 * DAY
    await a_service(purging).run(actor=COMMAND, approve_clock=True)
    runs = [(leaf["type"], leaf["run"]) for leaf in await purging.leaves() if leaf["type"].startswith("run.")]
    assert [type_ for type_, _ in runs][:2] == ["run.open", "run.close"]
    assert runs[0][1] == runs[1][1]


async def test_a_cut_run_under_another_policy_is_aborted(purging: Purging) -> None:
    await old_copies(purging, 6)
    with pytest.raises(CutError):
        await a_service(purging, batch=2, step=cut_after("batch", 1)).run(actor=COMMAND)
    service = a_service(purging, Policy(2, "ab" * 32))
    await service.run(actor=COMMAND)
    by_state = {run.state: run for run in (await service.list_page()).items}
    assert (by_state["failed"].detail, by_state["failed"].counts["purged"]) == ("policy_changed", 2)
    assert by_state["completed"].counts["purged"] == 4
    types = [leaf["type"] for leaf in await purging.leaves() if leaf["type"].startswith("run.")]
    assert types == ["run.open", "run.abort", "run.open", "run.close"]


@pytest.mark.parametrize(("jump", "direction"), [(-6 * MINUTE, "back"), (101 * DAY, "forward")])
async def test_a_clock_that_jumped_halts_the_purge_until_somebody_approves(
    purging: Purging, jump: int, direction: str
) -> None:
    await old_copies(purging, 3)
    service = a_service(purging)
    await service.note_time(NOW)
    purging.now = NOW + jump
    run = await service.run(actor=COMMAND)
    assert run.state == "halted"
    assert direction in str(run.detail)
    assert run.counts["kept"] == {"clock": 3}
    assert run.counts["purged"] == 0
    assert await service.note_time(purging.now) == direction
    assert len(await purging.ids()) == 3
    queued = await service.request_run(actor=COMMAND)
    await service.work()
    assert (await service.get(queued.id)).state == "halted"
    assert (await service.run(actor=COMMAND, approve_brake=True)).state == "halted"  # that says nothing of the clock
    approved = await service.run(actor=COMMAND, approve_clock=True)
    assert (approved.state, approved.counts["purged"]) == ("completed", 3)
    opening = next(leaf for leaf in await purging.leaves() if leaf["type"] == "run.open")
    assert opening["approved"] == ["clock"]
    assert (await service.run(actor=COMMAND)).state == "completed"


async def test_the_status_of_a_tenant(purging: Purging) -> None:
    home = await purging.builder.home()
    ids = await purging.builder.copies(
        home, [Seed(NOW - age * DAY, content=b"x" * 10 + b"%d" % age) for age in (12, 20, 40, 50)]
    )
    await purging.pins.put("acme", ids[3], "deal", "D", note=None, now=NOW, actor=SYSTEM)
    status = await a_service(purging).status("acme")
    assert (status.plan, status.days, status.copies, status.bytes) == ("crm_plus", 30, 3, 36)
    assert (status.pinned, status.held, status.due_now, status.next_due_at) == (1, 0, 1, NOW + 10 * DAY)
    with pytest.raises(NotFoundError):
        await a_service(purging).status("nobody")


async def test_the_status_of_a_tenant_without_copies(purging: Purging) -> None:
    await purging.builder.home("bare", None)
    status = await a_service(purging).status("bare")
    assert (status.plan, status.days, status.copies, status.bytes, status.next_due_at) == ("free", 0, 0, 0, None)


async def test_a_plan_that_shrinks_is_noticed(purging: Purging) -> None:
    for tenant in ("a", "b", "c"):
        await purging.builder.home(tenant, "professional")
    watch = PlanWatch(purging.store.db, purging.store.subscriptions)
    assert await watch.shrunk(NOW) == []
    await purging.builder.plan("a", "free", NOW + 1)
    await purging.builder.plan("b", "nfr", NOW + 1)
    await purging.store.subscriptions.set_outright(
        "c", SubscriptionChange("standard", period_end=NOW + 10), NOW + 1, SYSTEM
    )
    assert await watch.shrunk(NOW + 2) == ["a", "c"]
    assert await watch.shrunk(NOW + 9) == []
    assert await watch.shrunk(NOW + 10) == ["c"]  # the period ran out, by mere passing of time
    await purging.builder.plan("c", "standard", NOW + 11)
    assert await watch.shrunk(NOW + 12) == []


async def test_pruning_forgets_what_no_window_reaches(purging: Purging) -> None:
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - age * DAY) for age in (50, 119, 120, 121)])
    service = a_service(purging)
    await service.run(actor=COMMAND)
    async with purging.store.db.write() as tx:
        await tx.conn.execute(
            idempotency_keys.insert(),
            [
                {"token_id": "t", "key": key, "fingerprint": b"", "created_at": at}
                for key, at in (("old", NOW - 2 * DAY), ("new", NOW))
            ],
        )
    gone = await prune(purging.store.db, NOW, longest_days=90, idempotency_hours=24)
    assert (gone.tombstones, gone.idempotency_keys, gone.runs) == (1, 1, 0)
    later = await prune(purging.store.db, NOW + 500 * DAY, longest_days=90, idempotency_hours=24)
    assert (later.tombstones, later.idempotency_keys, later.runs) == (3, 1, 1)


async def test_the_latest_time_on_record_is_the_latest_of_those_who_write_at_once(purging: Purging) -> None:
    time = LatestTime(purging.store.db, ClockLimits())
    await asyncio.gather(*(time.mark(NOW + minute * MINUTE) for minute in (3, 9, 8, 1, 2)))
    assert await time.last() == NOW + 9 * MINUTE
    await time.mark(9)  # fewer digits
    assert await time.last() == NOW + 9 * MINUTE
    await time.mark(NOW, force=True)
    assert await time.last() == NOW


def test_a_clock_that_goes_back_little_by_little_stops_a_run_as_one_that_jumps() -> None:
    shows = [NOW, NOW - 4 * MINUTE, NOW - 6 * MINUTE]
    clock = SteadyClock(lambda: shows.pop(0), ClockLimits())
    assert [clock(), clock()] == [NOW, NOW - 4 * MINUTE]
    with pytest.raises(UnavailableError, match="the clock went back"):
        clock()
