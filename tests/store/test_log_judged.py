"""What the log alone proves of plans and clocks: the verifier agrees with every purge that the rules allow, whatever
was told late, and a clock that jumps in the middle of a run ends no plan early.
"""

from __future__ import annotations

from typing import Any

import pytest

from mailgate.actors import COMMAND, SYSTEM
from mailgate.clock import DAY, MINUTE
from mailgate.errors import UnavailableError
from mailgate.store.log import LogPolicy
from mailgate.store.retention import RetentionService
from mailgate.tenants.timeline import Event, EventType
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Report, Verdict
from retention.model import Graces
from retention.policy import Policy
from tests.store.builder import Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging, one_by_one


@pytest.fixture
async def purging(store: Store) -> Purging:
    return await make_purging(store)


async def replayed(purging: Purging) -> Report:
    tenant = (await purging.builder.home(plan=None)).tenant
    return replay_leaves([body async for body in purging.store.reader.entries(tenant, 0, 1_000)])


async def test_a_payment_that_is_told_after_the_plan_had_lapsed(purging: Purging) -> None:
    """The plan never ended after all: what it keeps is judged by it, and the log says so."""
    home = await purging.builder.home(plan=None)
    end = NOW + DAY
    bought = Event("bought", EventType.PURCHASED, NOW - 28 * DAY, plan="crm_plus", period_end=end)
    await purging.store.subscriptions.tell("acme", [bought], NOW, SYSTEM)
    purging.now = end + 12 * DAY
    await purging.store.subscriptions.announce_lapses(purging.now)
    paid = Event("paid", EventType.RENEWED, end, period_end=end + 30 * DAY)
    await purging.store.subscriptions.tell("acme", [paid], purging.now + MINUTE, SYSTEM)
    purging.now += DAY
    await purging.builder.copies(home, [Seed(purging.now - age * DAY) for age in (29, 31)])
    assert (await purging.purge()).purged == 1
    report = await replayed(purging)
    assert report.verdict is Verdict.OK, report.lines()


async def test_a_clock_that_jumps_in_the_middle_of_a_run_ends_no_plan(
    purging: Purging, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one(monkeypatch)  # what was judged before the jump may go
    store = purging.store
    await purging.lease.release(store.db)
    home = await purging.builder.home(plan=None)
    bought = Event("bought", EventType.PURCHASED, NOW - DAY, plan="crm_plus", period_end=NOW + 30 * DAY)
    await store.subscriptions.tell("acme", [bought], NOW, SYSTEM)
    await purging.builder.copies(home, [Seed(NOW - age * DAY) for age in (40, 39, 38, 1, 2)])
    jumped = False

    def step(name: str) -> None:
        nonlocal jumped
        if name == "batch" and not jumped:
            jumped = True
            purging.now = NOW + 400 * DAY

    service = RetentionService(
        store.db, store.log, store.subscriptions, purging.expiry, Policy(1, "ab" * 32), purging.clock, "one",
        batch=2, step=step,
    )  # fmt: skip
    await service.note_time(NOW)
    with pytest.raises(UnavailableError, match="the clock went forward"):
        await service.run(actor=COMMAND)
    assert await service.work() == 0
    assert len(await purging.ids()) == 3
    purging.now = NOW + MINUTE
    assert await service.work() == 1
    assert len(await purging.ids()) == 2
    report = await replayed(purging)
    assert (report.verdict, report.facts["purged"]) == (Verdict.OK, {"age": 3}), report.lines()


async def test_a_run_whose_time_is_still_to_come_is_not_gone_on_with(purging: Purging) -> None:
    """The clock was days ahead when it began; set right, and approved, what it had not done yet is judged anew."""
    store = purging.store
    await purging.lease.release(store.db)
    home = await purging.builder.home()
    await purging.builder.copies(home, [Seed(NOW - age * DAY) for age in (40, 35, 28)])

    class CutError(Exception):
        """The process ends here."""

    def step(name: str) -> None:
        if name == "batch":
            raise CutError

    def service(owner: str, **more: Any) -> RetentionService:
        policy = Policy(1, "ab" * 32)
        return RetentionService(
            store.db, store.log, store.subscriptions, purging.expiry, policy, purging.clock, owner, batch=1, **more
        )

    purging.now = NOW + 10 * DAY
    with pytest.raises(CutError):
        await service("one", step=step).run(actor=COMMAND)
    purging.now = NOW
    done = await service("two").run(actor=COMMAND, approve_clock=True)
    assert (done.state, done.counts["purged"]) == ("completed", 1)
    ends = [(leaf["type"], leaf.get("reason")) for leaf in await purging.leaves() if leaf["type"].startswith("run.")]
    assert ends == [("run.open", None), ("run.abort", "clock"), ("run.open", None), ("run.close", None)]
    assert len(await purging.ids()) == 1
    report = await replayed(purging)
    assert report.verdict is Verdict.OK, report.lines()


@pytest.mark.parametrize("grace", [0, 20])
async def test_graces_are_kept_and_the_log_shows_it(store: Store, grace: int) -> None:
    """After storing, after a plan shrank and after the last pin: what the gateway purges by them replays."""
    graces = Graces(after_storing=grace, after_shrink=grace, after_unpin=grace)
    purging = await make_purging(store, graces)
    home = await purging.builder.home(plan=None)
    policy = Policy(2, "ab" * 32, graces=graces)
    await store.log.adopt(store.db, LogPolicy(2, policy.document), at=NOW - 40 * DAY, actor=SYSTEM)
    for plan, ago in (("professional", 35), ("crm_plus", 10)):
        await purging.builder.plan("acme", plan, NOW - ago * DAY)
    ids = await purging.builder.copies(home, [Seed(NOW - age * DAY, stored_at=NOW - age * DAY) for age in (70, 60, 31)])
    await purging.pins.put("acme", ids[0], "deal", "D", note=None, now=NOW, actor=SYSTEM)
    await purging.pins.remove("acme", ids[0], "deal", "D", now=NOW, actor=SYSTEM)
    gone = []
    for number, later in enumerate((0, 9, 10, 19, 20), start=1):
        purging.now = NOW + later * DAY
        gone.append((await purging.purge(number)).purged)
    assert gone == ([0, 0, 2, 0, 1] if grace else [3, 0, 0, 0, 0])
    report = await replayed(purging)
    assert (report.verdict, report.facts.get("storing_not_in_the_log")) == (Verdict.OK, 3 if grace else None)


@pytest.mark.parametrize("told", ["missed", "late"])
async def test_the_log_hears_of_every_plan_that_led_to_the_one_that_holds(store: Store, told: str) -> None:
    """Also of those that began and ended while nobody looked, and of those that were told of late: when the days
    became fewer is what a grace counts from.
    """
    graces = Graces(after_shrink=20)
    purging = await make_purging(store, graces)
    home = await purging.builder.home(plan=None)
    policy = Policy(2, "ab" * 32, graces=graces)
    await store.log.adopt(store.db, LogPolicy(2, policy.document), at=NOW - 90 * DAY, actor=SYSTEM)
    subscriptions = store.subscriptions

    def event(name: str, plan: str, ago: int) -> Event:
        return Event(name, EventType.SET, NOW - ago * DAY, plan=plan)

    await subscriptions.tell("acme", [event("a", "professional", 80)], NOW - 80 * DAY, SYSTEM)
    if told == "missed":
        both = [event("b", "crm_plus", 30), event("c", "standard", 10)]
        await subscriptions.tell("acme", both, NOW - 40 * DAY, SYSTEM)
    else:
        await subscriptions.tell("acme", [event("c", "standard", 10)], NOW - 10 * DAY, SYSTEM)
        await subscriptions.tell("acme", [event("b", "crm_plus", 30)], NOW - 5 * DAY, SYSTEM)
    await purging.builder.copies(home, [Seed(NOW - 61 * DAY)])
    assert (await purging.purge()).purged == 1  # 20 days after the first became fewer
    report = await replayed(purging)
    assert report.verdict is Verdict.OK, report.lines()
