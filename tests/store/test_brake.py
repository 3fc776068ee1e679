"""The brake on both databases: what halts a run, what explains it, what an approval opens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest

from mailgate.actors import COMMAND, SYSTEM
from mailgate.clock import DAY, MINUTE
from mailgate.store import tenants
from mailgate.store.log import LogPolicy
from mailgate.store.retention import RetentionService
from mailgate.store.runs import RunRecord
from mailgate.store.schema import runs
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.tenants.timeline import Event, EventType
from retention.engine import Step, no_step
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from retention.model import Brake, Graces
from retention.policy import Policy
from tests.store.builder import Home, Seed
from tests.store.conftest import NOW, Store
from tests.store.purging import Purging, make_purging, one_by_one

_OWNERS = count()
BRAKE = Brake(minimum=3, share=50)


@pytest.fixture
async def purging(store: Store) -> AsyncIterator[Purging]:
    """Whatever a run did there, an auditor finds nothing wrong with it."""
    made = await make_purging(store)
    await made.lease.release(store.db)
    policy = Policy(1, "ab" * 32, brake=BRAKE)
    await store.log.adopt(store.db, LogPolicy(2, policy.document), at=NOW - 400 * DAY, actor=SYSTEM)
    yield made
    for tenant in (await tenants.list_page(store.db, after=None, limit=9)).items:
        report = replay_leaves([body async for body in store.reader.entries(tenant, 0, 1_000)])
        assert report.verdict is Verdict.OK, report.lines()


def policy_with(brake: Brake, graces: Graces | None = None) -> Policy:
    return Policy(1, "ab" * 32, graces=graces or Graces(), brake=brake)


def a_service(
    purging: Purging, graces: Graces | None = None, brake: Brake = BRAKE, step: Step = no_step
) -> RetentionService:
    store, policy = purging.store, policy_with(brake, graces)
    owner = f"service-{next(_OWNERS)}"
    return RetentionService(
        store.db, store.log, store.subscriptions, purging.expiry, policy, purging.clock, owner, batch=2, step=step
    )


async def run(purging: Purging, **more: Any) -> RunRecord:
    """One run. What the preview said before is what the brake did, unless somebody approved it."""
    service = a_service(purging)
    seen = await service.preview(more.get("tenant_id"))
    ran = await service.run(actor=COMMAND, **more)
    if not more.get("approve_brake"):
        assert seen.halted_at == ran.counts.get("stopped", {})
    return ran


async def grown(purging: Purging, plan: str, *ages: int) -> Home:
    home = await purging.builder.home("acme", plan)
    await purging.builder.copies(home, [Seed(NOW - age * DAY) for age in ages])
    return home


def passed(leaves: list[Any]) -> list[tuple[int | None, str | None]]:
    """Why the brake let each run pass that ended."""
    return [(leaf.get("copies"), leaf.get("explained")) for leaf in leaves if leaf["type"] == "run.close"]


async def types(purging: Purging) -> list[str]:
    return [leaf["type"] for leaf in await purging.leaves() if leaf["type"].startswith(("run.", "item."))]


async def test_a_clock_that_jumps_inside_its_limits_does_not_empty_a_tenant(purging: Purging) -> None:
    await grown(purging, "crm_plus", *range(1, 9))
    assert (await run(purging)).state == "completed"
    purging.now += 60 * DAY
    halted = await run(purging)
    assert (halted.state, halted.counts["purged"], halted.counts["kept"]) == ("halted", 0, {"brake": 8})
    assert halted.detail is not None
    assert "acme: 8 of 8 copies would go" in halted.detail
    assert await types(purging) == ["run.open", "run.abort"]
    assert len(await purging.ids()) == 8
    approved = await run(purging, approve_brake=True)
    assert (approved.state, approved.counts["purged"]) == ("completed", 8)
    opening = [leaf for leaf in await purging.leaves() if leaf["type"] == "run.open"][-1]
    assert (opening["approved"], opening["actor"]) == (["brake"], {"kind": "command", "ref": "cli"})
    assert passed(await purging.leaves()) == [(8, None)]


async def test_a_change_of_plan_explains_what_it_makes_due(purging: Purging) -> None:
    await grown(purging, "professional", *range(31, 39))
    assert (await run(purging)).state == "completed"
    purging.now += DAY
    await purging.builder.plan("acme", "crm_plus", purging.now)
    assert (await run(purging)).counts["purged"] == 8
    assert passed(await purging.leaves()) == [(8, "plan")]


@pytest.mark.parametrize(
    ("plan", "supposed", "halted"),
    [
        ("professional", "crm_plus", False),  # the change makes them due
        ("professional", "free", False),
        ("crm_plus", "standard", True),  # it keeps longer than now, and takes what is older still
        ("crm_plus", "crm_plus", True),
        ("standard", "crm_plus", True),  # they were due before it
    ],
)
async def test_a_preview_of_another_plan_says_whether_its_beginning_explains_so_many(
    purging: Purging, plan: str, supposed: str, *, halted: bool
) -> None:
    """As the run does that comes after such a change."""
    age = 31 if plan == "professional" else 61
    home = await purging.builder.home("acme", plan)
    await purging.builder.copies(home, [Seed(NOW - (age + n) * DAY) for n in range(8)])
    await purging.builder.copies(await purging.builder.home("calm", "professional"), [Seed(NOW - DAY)] * 9)
    purging.now += MINUTE
    expected = {"acme": 8} if halted else {}
    service = a_service(purging)
    assert (await service.preview("acme", plan=supposed)).halted_at == expected
    assert (await service.preview(None, plan=supposed)).halted_at == expected
    dry = await service.run(actor=COMMAND, tenant_id="acme", dry_run=True)
    assert dry.counts["stopped"] == ({"acme": 8} if plan != "professional" else {})
    if supposed != plan:
        await purging.builder.plan("acme", supposed, purging.now)
    assert (await run(purging, tenant_id="acme")).state == ("halted" if halted else "completed")


async def test_a_change_of_plan_does_not_explain_what_was_due_before_it(purging: Purging) -> None:
    await grown(purging, "standard", *range(61, 69))
    purging.now += MINUTE  # else the plan of before never was
    await purging.builder.plan("acme", "crm_plus", purging.now)
    assert (await run(purging)).state == "halted"


async def test_a_change_that_a_run_has_seen_explains_nothing_more(purging: Purging) -> None:
    await grown(purging, "professional", *range(1, 9))
    purging.now += 1
    await purging.builder.plan("acme", "crm_plus", purging.now)
    purging.now += 1
    assert (await run(purging)).state == "completed"
    purging.now += 40 * DAY
    assert (await run(purging)).state == "halted"


async def test_a_dry_run_has_not_seen_a_change(purging: Purging) -> None:
    """It takes nothing: the run that comes after it is the one that the change explains."""
    await grown(purging, "professional", *range(31, 39))
    purging.now += DAY
    await purging.builder.plan("acme", "crm_plus", purging.now)
    purging.now += MINUTE
    service = a_service(purging)
    await service.request_run(actor=COMMAND, tenant_id="acme", dry_run=True)
    assert await service.work() == 1
    purging.now += MINUTE
    assert (await run(purging)).counts["purged"] == 8


async def test_a_change_that_is_told_late_explains_as_well(purging: Purging) -> None:
    """It counts from before the last run, but nobody knew of it then."""
    await grown(purging, "professional", *range(31, 39))
    purging.now += DAY
    assert (await run(purging)).state == "completed"
    purging.now += MINUTE
    set_before = Event("late", EventType.SET, NOW + DAY // 2, plan="crm_plus")
    await purging.store.subscriptions.tell("acme", [set_before], purging.now, SYSTEM)
    purging.now += DAY
    assert (await run(purging)).counts["purged"] == 8


async def test_a_run_that_waited_for_the_grace_of_a_plan_has_not_seen_its_change(store: Store) -> None:
    graces = Graces(after_shrink=7)
    purging = await make_purging(store, graces)
    await purging.lease.release(store.db)
    await grown(purging, "professional", *range(31, 39))
    purging.now += DAY
    await purging.builder.plan("acme", "crm_plus", purging.now)
    for days, purged in ((1, 0), (6, 8)):
        purging.now += days * DAY
        done = await a_service(purging, graces).run(actor=COMMAND)
        assert (done.state, done.counts["purged"]) == ("completed", purged)


async def test_the_end_of_a_paid_period_explains_what_it_makes_due(purging: Purging) -> None:
    await grown(purging, "professional", *range(1, 9))
    ends = SubscriptionChange("professional", period_end=NOW + 2 * DAY)
    await purging.store.subscriptions.set_outright("acme", ends, NOW + 1, SYSTEM)
    purging.now += DAY
    assert (await run(purging)).state == "completed"
    purging.now += 2 * DAY
    done = await run(purging)
    assert (done.state, done.counts["purged"]) == ("completed", 8)


async def test_other_tenants_are_purged_meanwhile(purging: Purging) -> None:
    await grown(purging, "crm_plus", *range(31, 39))
    other = await purging.builder.home("other", "crm_plus")
    await purging.builder.copies(other, [Seed(NOW - 31 * DAY), Seed(NOW)])
    halted = await run(purging)
    assert (halted.state, halted.counts["purged"], halted.counts["kept"]) == ("halted", 1, {"brake": 8})
    assert len(await purging.ids("other")) == 1
    assert len(await purging.ids()) == 8


async def test_pins_and_holds_do_not_count_for_the_brake(purging: Purging) -> None:
    await grown(purging, "crm_plus", *range(31, 39))
    for id_ in sorted(await purging.ids())[:5]:
        await purging.pins.put("acme", id_, "deal", "D", note=None, now=NOW, actor=SYSTEM)
    done = await run(purging)
    assert (done.state, done.counts["purged"], done.counts["kept"]) == ("completed", 3, {"pinned": 5})


async def test_an_approval_is_of_as_many_as_were_shown(purging: Purging) -> None:
    """Of 8 and the few that are never improbable, not of the 20 that are due a minute later."""
    home = await grown(purging, "crm_plus", *range(31, 39))
    assert (await run(purging)).counts["stopped"] == {"acme": 8}
    purging.now += MINUTE
    await purging.builder.copies(home, [Seed(NOW - (31 + age) * DAY) for age in range(12)])
    again = await run(purging, approve_brake=True)  # the halted run showed 8
    assert (again.state, again.counts["purged"], again.counts["stopped"]) == ("halted", 0, {"acme": 20})
    assert again.policy is not None
    assert again.policy["approved_up_to"] == {"acme": 8 + BRAKE.minimum}
    purging.now += MINUTE
    done = await run(purging, approve_brake=True)  # and that one 20
    assert (done.state, done.counts["purged"]) == ("completed", 20)
    opening = [leaf for leaf in await purging.leaves() if leaf["type"] == "run.open"][-1]
    assert (opening["approved"], opening["approved_up_to"]) == (["brake"], 20 + BRAKE.minimum)


@pytest.mark.parametrize(("number", "state"), [(8, "completed"), (7, "halted")])
async def test_an_approval_that_names_a_number_is_of_that(purging: Purging, number: int, state: str) -> None:
    await grown(purging, "crm_plus", *range(31, 39))
    done = await run(purging, approve_brake=True, approve_up_to=number)
    assert done.state == state
    *_, opening, ended = (leaf for leaf in await purging.leaves() if leaf["type"].startswith("run."))
    assert opening["approved_up_to"] == number
    if state == "halted":  # the record, who is told, and the log say of how many it was
        assert done.counts["halted"] == ["acme: 8 of 8 copies would go (7 were approved)"]
        assert "acme: 8 of 8 copies would go (7 were approved). Nothing more" in str(done.detail)
        assert (ended["type"], ended["reason"], ended["approved_up_to"]) == ("run.abort", "brake", 7)
    else:
        assert "approved_up_to" not in ended


async def test_an_approval_before_anything_was_shown_is_of_what_is_due_then(purging: Purging) -> None:
    home = await grown(purging, "crm_plus", *range(31, 39))
    other = await purging.builder.home("other", "crm_plus")
    service = a_service(purging)
    for tenant_id in ("acme", None):
        asked = await service.request_run(actor=COMMAND, tenant_id=tenant_id, approve_brake=True)
        assert asked.policy is not None
        assert asked.policy["approved_up_to"]["acme"] == 8 + BRAKE.minimum
    await purging.builder.copies(home, [Seed(NOW - 31 * DAY) for _ in range(12)])
    await purging.builder.copies(other, [Seed(NOW - 31 * DAY) for _ in range(12)])
    assert await service.work() == 2
    assert (len(await purging.ids()), len(await purging.ids("other"))) == (20, 12)


async def test_a_run_that_was_approved_by_an_older_version_goes_on(purging: Purging) -> None:
    """It named no number: it was let pass whatever it takes."""
    await grown(purging, "crm_plus", *range(31, 39))
    service = a_service(purging)
    asked = await service.request_run(actor=COMMAND, approve_brake=True, approve_up_to=1)
    policy = {name: value for name, value in (asked.policy or {}).items() if name != "approved_up_to"}
    async with purging.store.db.write() as tx:
        await tx.conn.execute(runs.update().values(policy=policy))
    assert await service.work() == 1
    assert await purging.ids() == set()


@pytest.mark.parametrize("approved", [True, False], ids=["approved", "not-approved"])
async def test_a_run_that_meets_more_than_it_was_let_take_stops_at_its_next_batch(
    purging: Purging, approved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies become due while it runs: nothing beyond what was approved goes, and what stays waits for a person."""
    home = await grown(purging, "crm_plus", *range(40, 48) if approved else (40, 41, 42))
    allowed = 8 if approved else BRAKE.minimum
    one_by_one(monkeypatch)
    service, met = a_service(purging), False
    transact = service._store.transact

    async def meddled(run: Any, tenant_id: str, work: Any, **how: Any) -> Any:
        nonlocal met
        done = await transact(run, tenant_id, work, **how)
        if not met and len(await purging.ids()) < allowed:  # after its first batch
            met = True
            await purging.builder.copies(home, [Seed(NOW - 31 * DAY) for _ in range(12)])
        return done

    service._store.transact = meddled  # type: ignore[method-assign]
    more = {"approve_brake": True, "approve_up_to": 8} if approved else {}
    halted = await service.run(actor=COMMAND, **more)
    assert met
    gone, left = halted.counts["purged"], len(await purging.ids())
    assert 0 < gone <= allowed
    assert (halted.state, halted.counts["kept"], gone + left) == ("halted", {"brake": left}, 12 + allowed)
    assert halted.counts["stopped"] == {"acme": left}  # so that the next approval is of these
    assert halted.detail is not None
    assert f"acme: {12 + allowed} of {12 + allowed} copies would go, {gone} of them went before" in halted.detail
    abort = [leaf for leaf in await purging.leaves() if leaf["type"] == "run.abort"][-1]
    assert (abort["reason"], abort["purged"], abort["kept"]) == ("brake", gone, {"brake": left})
    done = await run(purging, approve_brake=True)
    assert (done.state, done.counts["purged"], await purging.ids()) == ("completed", left, set())


async def test_a_change_of_plan_while_a_run_goes_on_explains_what_it_makes_due(
    purging: Purging, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grown(purging, "professional", 100, 99, *range(31, 39))
    one_by_one(monkeypatch)
    service, met = a_service(purging), False
    transact = service._store.transact

    async def meddled(run: Any, tenant_id: str, work: Any, **how: Any) -> Any:
        nonlocal met
        if not met and len(await purging.ids()) == 8:
            met = True
            purging.now += 1
            await purging.builder.plan("acme", "crm_plus", purging.now)
        return await transact(run, tenant_id, work, **how)

    service._store.transact = meddled  # type: ignore[method-assign]
    done = await service.run(actor=COMMAND)
    assert (met, done.state, done.counts["purged"]) == (True, "completed", 10)


class CutError(Exception):
    """The process dies here."""


CHANGED = {"lowered": Brake(minimum=1, share=0), "raised": Brake(minimum=9, share=100)}


@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.parametrize("cut_at", ["opened", "batch", "closed"])
async def test_a_run_that_was_cut_off_ends_by_the_brake_that_it_began_with(
    purging: Purging, changed: str, cut_at: str
) -> None:
    """The settings are others when the gateway is back: the run is ended, and the next one asks the brake that holds
    by then. An auditor judges each by its own.
    """
    await grown(purging, "crm_plus", 31, 32, 33, 1, 2)

    def cut(name: str) -> None:
        if name == cut_at:
            raise CutError

    with pytest.raises(CutError):
        await a_service(purging, step=cut).run(actor=COMMAND)
    left = len(await purging.ids())
    purging.now += MINUTE
    await change(purging, changed)
    again = a_service(purging, brake=CHANGED[changed])
    assert await again.work() == 1
    assert len(await purging.ids()) == left
    ended = [leaf for leaf in await purging.leaves() if leaf["type"] in ("run.close", "run.abort")]
    assert [leaf.get("reason") for leaf in ended] == [None if cut_at == "closed" else "policy_changed"]
    purging.now += MINUTE
    done = await again.run(actor=COMMAND)
    halts = changed == "lowered" and left - 2 > 1
    assert (done.state, len(await purging.ids())) == (("halted", left) if halts else ("completed", 2))


@pytest.mark.parametrize("changed", CHANGED)
async def test_a_brake_that_is_changed_while_the_gateway_runs_holds_from_then_on(
    purging: Purging, changed: str
) -> None:
    await grown(purging, "crm_plus", 31, 32, 33, 34 if changed == "raised" else 1, 1)
    service = a_service(purging)
    await change(purging, changed)
    await service.adopt(policy_with(CHANGED[changed]))
    assert (await service.run(actor=COMMAND)).state == ("halted" if changed == "lowered" else "completed")


async def change(purging: Purging, how: str) -> None:
    """Every log hears of the other brake."""
    store, document = purging.store, policy_with(CHANGED[how]).document
    await store.log.adopt(store.db, LogPolicy(3, document), at=purging.now, actor=SYSTEM)
