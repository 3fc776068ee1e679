"""The rules from the log alone: a log that keeps them is ok, and each single breach is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from retention.ledger import leaves as make
from retention.ledger.canonical import format_instant
from retention.ledger.leaves import Anchor, Blobs, Common, Policy
from retention.ledger.plans import Policies
from retention.ledger.replay import Replay, replay_directory, replay_leaves
from retention.ledger.report import Verdict
from retention.ledger.schema import build_leaf, parse_leaf
from tests.ledger_samples import COMMITTER, DAY, DOCUMENT, NOW, common, every_type, purge_fields, purge_run, ulid
from tests.unit.ledger.conftest import SIGNER, Exporter

RUN = ulid(7_000)
COMMIT = COMMITTER.commit("x", "reason", b"y")


class Log:
    """A log under construction: policy and plan are set, nothing else."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.at = NOW
        self.add(make.policy_set, document=DOCUMENT, effective_at=NOW - 90 * DAY)
        self.plan("standard", 60, NOW - 90 * DAY)

    def common(self, run: str | None = None) -> Common:
        return common(len(self.bodies), run=run, at=self.at)

    def time(self, at: int) -> Log:
        """It is then, from the next leaf on."""
        self.at = at
        return self

    def add(self, kind: Callable[..., bytes], run: str | None = None, **fields: Any) -> Log:
        self.bodies.append(kind(self.common(run), **fields))
        return self

    def plan(self, plan: str, days: int, at: int) -> Log:
        return self.add(make.plan_effective, plan=plan, days=days, effective_at=at, cause="set", event_ref="e1")

    def open(self, now: int = NOW, run: str = RUN, approved: tuple[str, ...] = (), at: int | None = None) -> Log:
        self.at = max(now, NOW) if at is None else at
        return self.add(make.run_open, run, now=now, trigger="schedule", approved=approved)

    def purge(self, number: int = 1, run: str = RUN, **changes: Any) -> Log:
        return self.add(make.item_purge, run, **{**purge_fields(number), **changes})

    def close(self, purged: int, run: str = RUN, **kept: int) -> Log:
        candidates = purged + sum(kept.values())
        return self.add(make.run_close, run, candidates=candidates, purged=purged, kept=kept, failed=0, bytes_=0)

    def pin(self, number: int = 1, pin: str = "p1") -> Log:
        item = purge_fields(number)["item_ref"]
        return self.add(make.pin_add, item_ref=item, pin_ref=pin, entity_type="deal", entity_commit=COMMIT)

    def unpin(self, number: int = 1, pin: str = "p1") -> Log:
        return self.add(make.pin_remove, item_ref=purge_fields(number)["item_ref"], pin_ref=pin, reason="unpinned")

    def hold(self, ref: str = "h1", **scope: Any) -> Log:
        return self.add(make.hold_place, hold_ref=ref, matter="M", reason_commit=COMMIT, **scope)

    def cover(self, *numbers: int, ref: str = "h1") -> Log:
        return self.add(make.hold_cover, hold_ref=ref, items=[purge_fields(n)["item_ref"] for n in numbers])

    def release(self, ref: str = "h1", until: int = NOW) -> Log:
        return self.add(make.hold_release, hold_ref=ref, matter="M", reason_commit=COMMIT, grace_until=until)

    def remove(self, number: int, reason: str, **checks: int) -> Log:
        own = _identity(number)
        counts = {"pins": 0, "holds": 0, **checks}
        return self.add(make.item_remove, **own, **counts, reason=reason, blobs=Blobs(1, 1, 1), method="key_destroyed")

    def rehydrate(self, number: int = 1, until: int = NOW + 7 * DAY, pins: int = 0) -> Log:
        own = _identity(number)
        return self.add(make.rehydrate, **own, anchor=KEPT, until=until, pins=pins)

    def lose(self, number: int = 1) -> Log:
        own = {name: purge_fields(number)[name] for name in ("item_ref", "mailbox_ref")}
        return self.add(make.item_lost, **own, reason="backup_restored")

    def check(self, problem: str | None = None) -> None:
        report = replay_leaves(self.bodies)
        if problem is None:
            assert report.verdict is Verdict.OK, report.lines()
        else:
            assert report.verdict is Verdict.RULE_BROKEN
            assert any(problem in text for _, text in report.findings.problems), report.lines()


def braked(took: int, *, approved: tuple[str, ...] = ("brake",), up_to: int | None = 3, **passed: Any) -> Log:
    """A run that took so many, by a policy whose brake lets two pass, or half of the copies."""

    def ran(log: Log) -> Log:
        log.add(make.run_open, RUN, now=NOW, trigger="request", approved=approved, approved_up_to=up_to)
        for number in range(1, took + 1):
            log.purge(number)
        counts = {"candidates": took, "purged": took, "kept": {}, "failed": 0}
        return log.add(make.run_close, RUN, **counts, bytes_=0, **passed)

    return by_policy({"brake": [2, 50]}, ran)


def test_a_run_takes_no_more_than_was_approved() -> None:
    braked(3).check()
    braked(4).check(f"run {RUN} took 4 items: 3 were approved, and the brake lets 2 pass")
    braked(2, up_to=0).check()
    braked(9, up_to=None).check()  # whatever it takes, as older versions let a person approve


def test_a_run_takes_no_more_than_the_brake_lets_pass() -> None:
    """As far as the log says how many copies there were: what older versions wrote does not."""
    braked(4, copies=8).check()
    braked(5, copies=9).check("took 5 items: 3 were approved, and the brake lets 4 pass")
    nobody: dict[str, Any] = {"approved": (), "up_to": None}
    braked(5, **nobody).check()
    braked(5, **nobody, copies=10).check()
    braked(5, **nobody, copies=9).check("took 5 items: nobody approved it, and the brake lets 4 pass")


def test_what_the_brake_stopped_although_it_was_approved_names_that_approval() -> None:
    def halted(opened: int | None, ended: int | None, took: int, kept: int, reason: str = "brake") -> Log:
        approved = ("brake",) if opened is not None else ()

        def ran(log: Log) -> Log:
            log.add(make.run_open, RUN, now=NOW, trigger="request", approved=approved, approved_up_to=opened)
            for number in range(1, took + 1):
                log.purge(number)
            counts = {"candidates": took + kept, "purged": took, "kept": {"brake": kept}, "failed": 0}
            return log.add(make.run_abort, RUN, **counts, reason=reason, approved_up_to=ended)

        return by_policy({"brake": [2, 50]}, ran)

    halted(3, 3, 0, 9).check()
    halted(3, 3, 2, 2).check()
    halted(3, None, 0, 9).check()  # as older versions wrote it
    halted(None, None, 0, 9).check()
    halted(3, 4, 0, 9).check("ends with 4 approved, and opened with 3")
    halted(None, 4, 0, 9).check("ends with 4 approved, and opened with nothing")
    halted(3, 3, 2, 1).check("was stopped by the brake before it took more than the 3 approved")
    halted(3, 3, 0, 1, reason="tenant_erased").check()


def test_a_change_of_plan_that_explains_a_run_stands_in_the_log() -> None:
    braked(5, copies=5, explained="plan").check("says that a change of the plan explains it, the log has none")
    log = braked(5, copies=5, explained="plan")
    log.bodies[1:1] = by_policy({"brake": [2, 50]}, lambda log: log.plan("standard", 90, NOW - 91 * DAY)).bodies[-1:]
    log.check()


@pytest.mark.parametrize("brake", [None, [1], [1, "2"], {"minimum": 1}, "12"])
def test_nothing_is_concluded_from_a_brake_that_nobody_can_read(brake: object) -> None:
    policies = Policies()
    policies.set("ab", {"brake": brake})
    assert policies.brake("ab") is None
    policies.set("ab", {"brake": [2, 50]})
    assert policies.brake("ab") == (2, 50)


def _identity(number: int) -> dict[str, str]:
    return {k: v for k, v in purge_fields(number).items() if k in IDENTITY}


IDENTITY = ("item_ref", "mailbox_ref", "content_commit", "msgid_commit")
ITEM = "item00000001"
KEPT = Anchor(NOW - 61 * DAY, "rehydrated")


def test_logs_that_keep_the_rules() -> None:
    report = replay_leaves(purge_run(1_000))
    assert report.verdict is Verdict.OK
    assert report.headline == "ok: 1000 purges in 1 run, each due, none pinned, none held"
    assert replay_leaves(every_type()).verdict is Verdict.OK
    Log().open().purge(1).purge(2).close(2).check()


@pytest.mark.parametrize("reason", ["erasure_request", "offboarding"])
def test_the_verdict_says_what_an_erasure_took_though_it_was_pinned(reason: str) -> None:
    """The rules allow it; that nothing pinned was purged would not be true."""
    log = Log().pin(1).pin(1, "p2").pin(2).unpin(2).open()
    report = replay_leaves(log.purge(1, reason=reason, pins=2).purge(2, reason=reason).close(2).bodies)
    assert report.headline == ("ok: 2 purges in 1 run, each due, none held, and 1 pinned, which went with the tenant")
    assert report.facts["pinned_and_erased"] == 1
    assert "pinned_and_erased" not in replay_leaves(purge_run(3)).facts


def test_a_run_that_is_still_open_or_was_cut() -> None:
    Log().open().purge().check()
    log = Log().open().purge()
    log.add(make.run_abort, RUN, candidates=1, purged=1, kept={}, failed=0, reason="cut")
    log.open(run=ulid(8)).purge(2, run=ulid(8)).close(1, run=ulid(8)).check()


def test_pins() -> None:
    Log().pin().unpin().open().purge().close(1).check()
    Log().pin(2).open().purge().close(1, pinned=1).check()
    Log().pin().open().purge().check("was pinned 1 times")
    Log().pin().open().purge(pins=1).check("was pinned 1 times")
    Log().pin().pin(pin="p2").unpin().open().purge().check("was pinned 1 times")
    Log().open().pin().purge().check("was pinned")
    Log().open().purge(pins=1).check("1 pins and 0 holds were counted, the log has 0 and 0")
    Log().open().purge().pin().check("which is gone")
    Log().unpin().check("never added")
    Log().pin().pin().check("added twice")


def test_a_pin_between_two_batches_of_one_run() -> None:
    Log().open().purge(2).pin(1).purge(1).check("was pinned")


@pytest.mark.parametrize("reason", ["erasure_request", "offboarding"])
def test_erasure_does_not_spare_pins(reason: str) -> None:
    Log().pin().open().purge(reason=reason, pins=1).close(1).check()
    Log().pin().open().purge(reason=reason, pins=0).check("0 pins and 0 holds were counted")


def test_a_removed_mailbox_spares_pins() -> None:
    early = {"anchor": Anchor(NOW - DAY, "stored"), "due_at": NOW}
    Log().open().purge(reason="mailbox_removed", **early).close(1).check()
    Log().pin().open().purge(reason="mailbox_removed", pins=1, **early).check("was pinned")


@pytest.mark.parametrize("reason", ["age", "plan_end", "erasure_request", "offboarding", "mailbox_removed"])
def test_a_hold_beats_everything(reason: str) -> None:
    Log().hold().open().purge(reason=reason, holds=1).check("was held 1 times")
    Log().hold(mailbox_ref="box1").open().purge(reason=reason, holds=1).check("was held 1 times")
    Log().hold(items=1).cover(1).open().purge(reason=reason, holds=1).check("was held 1 times")


def test_holds_cover_their_scope_only() -> None:
    Log().hold(mailbox_ref="box2").open().purge().close(1).check()
    Log().hold(items=2).cover(2, 3).open().purge().close(1).check()
    Log().hold().release().open().purge().close(1).check()
    Log().hold().hold("h2").release().open().purge(holds=1).check("was held 1 times")
    Log().hold().hold("h2").open().purge(holds=1).check("was held 2 times")
    Log().open().hold().purge().check("was held")


def test_holds_whose_items_are_not_all_named() -> None:
    Log().hold(items=3).cover(1, 2).cover(3).check()
    Log().hold(items=3).cover(1, 2).check("names 2 of its 3")
    Log().hold(items=3).cover(1, 2).cover(2).check("names 2 of its 3")
    Log().hold().cover(1).check("no hold on messages")
    Log().cover(1).check("no hold on messages")
    Log().hold().hold().check("placed twice")
    Log().release().check("never placed")


def test_the_grace_after_a_release() -> None:
    Log().hold().release(until=NOW + 1).open().purge(holds=1).check("was held 1 times")
    Log().hold().release(until=NOW + 1).open().purge().check("0 holds were counted, the log has 0 and 1")
    Log().hold().release(until=NOW + 1).remove(1, "user_deleted", holds=1).check("was held 1 times")
    Log().hold(mailbox_ref="box2").release(until=NOW + 1).open().purge().close(1).check()
    Log().hold().release(until=NOW).open().purge().close(1).check()


def test_the_grace_after_a_release_goes_on_when_a_clock_that_was_ahead_is_set_back() -> None:
    """A run of a time that was not, and a shorter grace beside: neither ends it."""
    held = Log().hold().hold("h2").release(until=NOW + 2).release("h2", until=NOW + 1)
    held.open(NOW + 10 * DAY).close(0).time(NOW)
    held.open(run=ulid(7_001), approved=("clock",)).purge(run=ulid(7_001), holds=2).check("was held 2 times")


def under(graces: object, *steps: Callable[[Log], Log]) -> Log:
    """A log whose policy has these graces."""
    return by_policy({"graces_days": graces}, *steps)


def by_policy(more: dict[str, Any], *steps: Callable[[Log], Log]) -> Log:
    """A log whose policy says this besides."""
    log = Log()
    for step in steps:
        step(log)
    document = {**DOCUMENT, **more}
    policy = {"ver": 1, "sha256": make.policy_sha256(document)}
    parsed = [{**parse_leaf(body), "policy": policy} for body in log.bodies]
    parsed[0]["document"] = document
    log.bodies = [build_leaf(leaf) for leaf in parsed]
    return log


def test_a_release_protects_for_as_long_as_the_policy_says() -> None:
    def released(until: int) -> Callable[[Log], Log]:
        return lambda log: log.hold().release(until=until)

    under({"after_release": 30}, released(NOW + 30 * DAY)).check()
    under({"after_release": 30}, released(NOW + 30 * DAY - 1)).check("by its policy until 2026-02-01T03:00:00.000000Z")
    under({"after_release": 0}, released(NOW)).check()
    under({"after_release": 2**50}, released(NOW)).check("the year 10000")
    under(["after_release"], released(NOW)).check()


def test_the_grace_after_the_last_pin() -> None:
    def unpinned(**purge: Any) -> Callable[[Log], Log]:
        return lambda log: log.pin().unpin().open(NOW + 5 * DAY).purge(**purge).close(1)

    due = {"due_at": NOW + 5 * DAY}
    under({"after_unpin": 5}, unpinned(**due)).check()
    under({"after_unpin": 5}, unpinned(due_at=NOW + 5 * DAY - 1)).check("lost its last pin at")
    under({"after_unpin": 0}, unpinned()).check()
    early = {"anchor": Anchor(NOW - DAY, "stored"), "due_at": NOW}
    under({"after_unpin": 5}, unpinned(reason="mailbox_removed", **early)).check()


def test_the_grace_after_storing() -> None:
    """As far as the anchor tells: a copy is not stored before its anchor, and stored then if the anchor says so."""

    def stored(ago: int, source: str = "stored", **more: Any) -> Callable[[Log], Log]:
        anchor = Anchor(NOW - ago * DAY, source)
        return lambda log: log.open().purge(anchor=anchor, **{"due_at": NOW, **more}).close(1)

    under({"after_storing": 70}, stored(70)).check()
    under({"after_storing": 70}, stored(69)).check("stored no earlier than its anchor")
    under({"after_storing": 70}, stored(69, "internaldate")).check("stored no earlier than its anchor")
    under({"after_storing": 70}, stored(69, reason="mailbox_removed")).check()
    assert "storing_not_in_the_log" not in replay_leaves(under({"after_storing": 70}, stored(70)).bodies).facts
    received = under({"after_storing": 70}, stored(75, "internaldate"))
    assert replay_leaves(received.bodies).facts["storing_not_in_the_log"] == 1
    assert "storing_not_in_the_log" not in replay_leaves(under({}, stored(75, "internaldate")).bodies).facts


def test_the_grace_after_the_days_became_fewer() -> None:
    def shrunk(due_at: int, *plans: tuple[str, int, int]) -> Callable[[Log], Log]:
        def step(log: Log) -> Log:
            for plan, days, ago in plans:
                log.plan(plan, days, NOW - ago * DAY)
            return log.open().purge(plan=plans[-1][0], days=plans[-1][1], due_at=due_at).close(1)

        return step

    crm = ("crm_plus", 30, 10)
    under({"after_shrink": 10}, shrunk(NOW, crm)).check()
    under({"after_shrink": 10}, shrunk(NOW - 1, crm)).check("the plan's days became fewer at")
    under({"after_shrink": 10}, shrunk(NOW - 1, ("professional", 90, 5), ("standard", 60, 5))).check()  # undone
    under({"after_shrink": 20}, shrunk(NOW - 1, ("free", 0, 20), ("crm_plus", 30, 10))).check("became fewer at")
    under({"after_shrink": 20}, shrunk(NOW, ("free", 0, 20), ("crm_plus", 30, 10))).check()
    under({"after_shrink": 10}, lambda log: log.open().purge().close(1)).check()  # it never shrank
    under({}, shrunk(NOW - 1, crm)).check()


def test_other_versions_of_the_plans_are_not_compared() -> None:
    """What 60 days were by one version may be 20 by the next: that is no plan that became shorter."""
    document = {**DOCUMENT, "graces_days": {"after_shrink": 10}, "catalogue_sha256": "b"}
    log = Log()
    base = log.common()
    policy = Policy(2, make.policy_sha256(document))
    changed = Common(base.id, base.at, base.origin, base.tenant_ref, base.actor, policy, base.build)
    log.bodies.append(make.policy_set(changed, document=document, effective_at=NOW))
    crm = {"plan": "crm_plus", "days": 30, "effective_at": NOW - DAY, "cause": "set", "event_ref": "e1"}
    log.bodies.append(make.plan_effective(changed, **crm))
    log.open()
    fields = {**purge_fields(1), "plan": "crm_plus", "days": 30, "due_at": NOW - 2 * DAY}
    run = Common(base.id, base.at, base.origin, base.tenant_ref, base.actor, policy, base.build, RUN)
    log.bodies.append(make.item_purge(run, **fields))
    log.check()


def test_a_purge_that_is_stamped_ahead_of_its_time() -> None:
    """Judged by a plan that came later: the entries that follow were written before that plan began."""
    free = {"plan": "free", "days": 0, "anchor": Anchor(NOW - DAY, "stored"), "due_at": NOW - DAY}
    slack = 300_000_000
    later = NOW + 30 * DAY

    def ahead() -> Log:
        return Log().plan("free", 0, later).open().time(later).purge(**free, reason="plan_end")

    problem = "leaf 4 was judged by a plan that holds from"
    ahead().time(NOW).close(1).check(problem)
    ahead().time(later - slack - 1).purge(2, **free).check(problem)
    ahead().close(1).time(NOW).open(NOW, ulid(8), at=NOW).check(problem)
    ahead().close(1).time(NOW).open(NOW, ulid(8), ("clock",), at=NOW).check(problem)
    ahead().time(later - slack).close(1).check()  # no later entry contradicts it


def test_a_purge_that_is_stamped_before_its_run() -> None:
    """Judged by a plan that held before."""
    free = {"plan": "free", "days": 0, "anchor": Anchor(NOW - 2 * DAY, "stored"), "due_at": NOW - 2 * DAY}
    log = Log().plan("free", 0, NOW - 2 * DAY).plan("standard", 60, NOW - DAY).open()
    log.time(NOW - DAY - 1).purge(**free).check("before its run opened")
    Log().open().time(NOW - 300_000_000).purge().close(1).check()
    Log().open().time(NOW - 300_000_001).purge().close(1).check("before its run opened")


def test_a_time_that_an_authority_knows_to_be_still_to_come() -> None:
    """The log was stamped with these entries in it, and they tell of a time after that."""
    later = NOW + 30 * DAY
    free = {"plan": "free", "days": 0, "anchor": Anchor(NOW - DAY, "stored"), "due_at": NOW - DAY}
    log = Log().plan("free", 0, later).open().time(later).purge(**free).close(1)

    def verdict(stamped: tuple[int, str] | None, log: Log = log) -> Verdict:
        replay = Replay(stamped=stamped)
        for body in log.bodies:
            replay.feed(body)
        return replay.finish().verdict

    assert verdict(None) is Verdict.OK
    assert verdict((len(log.bodies), format_instant(NOW + DAY))) is Verdict.RULE_BROKEN
    assert verdict((5, format_instant(NOW + DAY))) is Verdict.RULE_BROKEN  # it is the last one in it
    assert verdict((4, format_instant(NOW + DAY))) is Verdict.OK  # it was written after the stamp
    assert verdict((len(log.bodies), format_instant(later))) is Verdict.OK
    assert verdict((len(log.bodies), format_instant(NOW - 1))) is Verdict.RULE_BROKEN
    judging = Log().open(later).close(0)  # whatever it takes for another reason than its age
    assert verdict((3, format_instant(later)), judging) is Verdict.OK
    assert verdict((3, format_instant(NOW + DAY)), judging) is Verdict.RULE_BROKEN
    assert verdict((2, format_instant(NOW + DAY)), judging) is Verdict.OK


def test_a_hold_on_what_is_gone() -> None:
    """Named a moment too late: the hold stood when the copy was purged."""
    Log().open().hold(items=1).purge().cover(1).close(1).check("was gone when its items were named")
    Log().open().hold(items=1).cover(2).purge().close(1).check()


def test_due_to_the_microsecond() -> None:
    anchor = Anchor(NOW - 60 * DAY, "internaldate")
    Log().open().purge(anchor=anchor, due_at=NOW).close(1).check()
    Log().open(now=NOW - 1).purge(anchor=anchor, due_at=NOW).check("after the run's")
    later = Anchor(anchor.at + 1, "internaldate")
    Log().open().purge(anchor=later, due_at=NOW).check("was not due before")
    Log().open().purge(anchor=anchor, due_at=NOW - 1).check("was not due before")
    Log().open().purge(anchor=Anchor(anchor.at - DAY, "stored"), due_at=NOW).close(1).check()
    Log().open().purge(anchor=Anchor(253_402_300_799_999_999, "stored"), due_at=NOW).check("the year 10000")


def test_plans_count_from_when_they_are_effective() -> None:
    free = {"plan": "free", "days": 0, "anchor": Anchor(NOW - DAY, "stored"), "due_at": NOW - DAY}
    Log().plan("free", 0, NOW).open().purge(**free, reason="plan_end").close(1).check()
    Log().plan("free", 0, NOW + 1).open().purge(**free, reason="plan_end").check("effective was standard, 60 days")
    Log().open().purge(**free).check("effective was standard")
    Log().open().plan("free", 0, NOW).purge().check("effective was free")
    Log().open().purge(days=30).check("effective was standard, 60 days")
    Log().open().purge(plan="another").check("was purged by plan another, 60 days; effective was standard, 60 days")


def test_plans_that_change_while_a_run_goes_on() -> None:
    """Every batch is judged by the plan that was effective when it was made, ages by the run's `now`."""
    free = {"plan": "free", "days": 0, "anchor": Anchor(NOW - DAY, "stored"), "due_at": NOW - DAY}
    shrunk = Log().open(NOW - DAY).plan("free", 0, NOW)
    shrunk.purge(**free, reason="plan_end").close(1).check()
    raised = Log().plan("free", 0, NOW - 2 * DAY).open(NOW - DAY).plan("standard", 60, NOW)
    raised.purge(**free, reason="plan_end").check("effective was standard, 60 days")


def test_late_and_repeated_plan_events() -> None:
    """What is told last is what the gateway knew: a payment that is told late undoes the end that time had told."""
    free = {"plan": "free", "days": 0, "anchor": Anchor(NOW - DAY, "stored"), "due_at": NOW - DAY}
    late = Log().plan("free", 0, NOW - DAY).plan("standard", 60, NOW - 90 * DAY)
    late.open().purge().purge(2, **free).check("effective was standard, 60 days")
    Log().plan("free", 0, NOW - DAY).plan("standard", 60, NOW - 90 * DAY).open().purge().close(1).check()
    Log().plan("free", 0, NOW - 95 * DAY).plan("free", 0, NOW - 95 * DAY).open().purge().check("effective was free")
    Log().plan("professional", 90, NOW - 90 * DAY).open().purge().check("effective was professional")


def test_without_any_plan() -> None:
    log = Log()
    del log.bodies[1]
    log.open().purge().check("effective was none")


def test_only_policies_that_were_set() -> None:
    log = Log().open()
    base = common(9, run=RUN)
    other = Policy(2, make.policy_sha256({"anchor": "stored"}))
    changed = Common(base.id, base.at, base.origin, base.tenant_ref, base.actor, other, base.build, base.run)
    log.bodies.append(make.item_purge(changed, **purge_fields(1)))
    log.check("a policy that was never set")
    fields = Common(base.id, base.at, base.origin, base.tenant_ref, base.actor, other, base.build)
    log.bodies.insert(2, make.policy_set(fields, document={"anchor": "stored"}, effective_at=NOW))
    log.check()


def test_one_leaf_per_purge() -> None:
    Log().open().purge().purge().check("was gone already")
    Log().remove(1, "user_deleted").open().purge().check("was gone already")
    Log().open().purge().remove(1, "remote_expunged").check("was gone already")


def test_rehydrated_copies() -> None:
    again = {"anchor": KEPT, "due_at": NOW + 7 * DAY}
    first = Log().open().purge().close(1).rehydrate
    second = ulid(8)
    first().open(NOW + 7 * DAY, second).purge(run=second, **again).close(1, run=second).check()
    later = Log().open().purge().close(1).rehydrate().open(NOW + 7 * DAY - 1, second)
    later.purge(run=second, anchor=KEPT, due_at=NOW).check("was brought back to stay until")
    Log().open().purge().close(1).rehydrate(pins=1).pin().open(NOW + DAY, second).purge(run=second).check("was pinned")
    Log().rehydrate().check("never gone")
    Log().remove(1, "user_deleted").rehydrate().check("no purge took it")


def test_copies_that_came_back_and_were_lost_with_a_backup() -> None:
    """Only such a copy can be lost; it is told of what stood on it, and it may come back once more."""
    second = ulid(7_001)
    lost = Log().open().purge().close(1).rehydrate(pins=1).pin().hold(items=1).cover(1).lose()
    report = replay_leaves(lost.bodies)
    assert report.facts["lost"] == {"items": 1, "pinned": 1, "held": 1}
    assert "1 lost when a backup was restored (1 pinned, 1 held)" in report.lines()[0]
    lost.rehydrate().check()
    lost.open(NOW + 8 * DAY, second).purge(run=second, holds=1).check("was held")
    assert "lost" not in replay_leaves(purge_run(3)).facts
    Log().lose().check("had not been brought back")
    Log().open().purge().close(1).lose().check("had not been brought back")
    Log().open().purge().close(1).rehydrate().lose().lose().check("had not been brought back")
    Log().open().purge().close(1).rehydrate().lose().open(NOW + DAY, second).purge(run=second).check("gone already")


def test_rehydrated_copies_and_their_age() -> None:
    first, second, back = Log().open().purge().close(1).rehydrate, ulid(8), Anchor(NOW - 61 * DAY, "internaldate")
    due = first().open(NOW + 7 * DAY, second)
    due.purge(run=second, anchor=KEPT, due_at=NOW).check("was brought back to stay until")
    again = first().open(NOW + 7 * DAY, second)
    again.purge(run=second, anchor=back, due_at=NOW + 7 * DAY).check("with another anchor")
    never = Log().open().purge(anchor=Anchor(NOW - 61 * DAY, "rehydrated"), due_at=NOW)
    never.check("was never brought back")
    by_age = Log().open().purge().close(1)
    by_age.add(make.rehydrate, **_identity(1), anchor=back, until=NOW + DAY, pins=0)
    by_age.open(NOW + DAY, second).purge(run=second, anchor=back, due_at=NOW).check()
    young = Log().open().purge().close(1)
    young.add(make.rehydrate, **_identity(1), anchor=Anchor(NOW, "rehydrated"), until=NOW + DAY, pins=0)
    young.open(NOW + 7 * DAY, second).purge(run=second, anchor=Anchor(NOW, "rehydrated"), due_at=NOW + 7 * DAY)
    young.check("was not due before")


def test_the_pins_of_a_rehydrated_copy() -> None:
    first = Log().open().purge().close(1).rehydrate
    first(pins=2).pin().pin(pin="p2").check()
    first(pins=2).pin().check("1 of them are not there")
    first(pins=1).check("1 of them are not there")
    first(pins=1).pin(2).check("1 of them are not there")
    first(pins=1).open(run=ulid(8)).purge(2, run=ulid(8)).check("1 of them are not there")


def test_removals() -> None:
    Log().remove(1, "remote_expunged").check()
    Log().pin().remove(1, "remote_expunged", pins=1).check("was pinned")
    Log().pin().remove(1, "user_deleted", pins=1).check("was pinned")
    Log().hold().remove(1, "user_deleted", holds=1).check("was held")


def test_runs() -> None:
    Log().purge().check("outside an open run")
    Log().open().close(0).purge().check("outside an open run")
    Log().open().purge().close(2).check("counts 2 purges, the log has 1")
    Log().open().purge().close(0).check("counts 0 purges, the log has 1")
    Log().open().open().check("opened twice")
    Log().open().close(0).open().check("opened twice")
    Log().close(0).check("was not open")
    lost = Log().open().purge().close(1)
    lost.bodies[-1] = build_leaf({**parse_leaf(lost.bodies[-1]), "candidates": 2})
    lost.check("do not balance")
    deferred = {"item_ref": "i", "mailbox_ref": "m", "reason": "pinned"}
    Log().open().add(make.item_deferred, RUN, **deferred).close(0, pinned=1).check()
    Log().open().add(make.item_deferred, RUN, **deferred).close(0).check("deferred 1 items")
    Log().add(make.item_deferred, RUN, **deferred).check("deferred outside")


def test_the_clock() -> None:
    second = ulid(8)
    back = 300_000_000
    Log().open().close(0).open(NOW - back, second).check()
    Log().open().close(0).open(NOW - back - 1, second).check("nobody approved it")
    Log().open().close(0).open(NOW - back - 1, second, approved=("brake",)).check("nobody approved it")
    Log().open().close(0).open(NOW - back - 1, second, approved=("clock",)).check()


def test_a_clock_that_was_set_back_with_approval_goes_on_from_there() -> None:
    """It is days until it has caught up, and nobody has to approve each run of these."""
    right, slack = NOW - 10 * DAY, 300_000_000

    def log() -> Log:
        return Log().open().close(0).open(right, ulid(8), at=right, approved=("clock",)).close(0, run=ulid(8))

    log().open(right + DAY, ulid(9), at=right + DAY).check()
    log().open(right - slack - 1, ulid(9), at=right).check("nobody approved it")


def test_a_run_does_not_judge_by_a_time_that_is_still_to_come() -> None:
    """Everything is old enough for a run that says that it is next year."""
    slack = 300_000_000
    Log().open(NOW + slack, at=NOW).close(0).check()
    Log().open(NOW + slack + 1, at=NOW).close(0).check("still to come")
    Log().open(NOW + 400 * DAY, at=NOW, approved=("clock",)).purge().close(1).check("still to come")


def test_a_folder_is_verified_first(exported: Exporter, leaves: list[bytes]) -> None:
    path = exported(leaves)
    report = replay_directory(path, SIGNER.verifier)
    assert report.verdict is Verdict.OK
    assert (report.facts["size"], report.facts["replayed"], report.facts["purged"]) == (600, 600, {"age": 571})
    (path / "tile/0/000").unlink()
    assert replay_directory(path, SIGNER.verifier).verdict is Verdict.INCOMPLETE
    broken = exported(Log().pin().open().purge().bodies, "broken")
    report = replay_directory(broken, SIGNER.verifier)
    assert (report.verdict, report.verdict.value) == (Verdict.RULE_BROKEN, 5)
    assert report.headline == f"rule broken: leaf 4: {ITEM} was pinned 1 times when it went"
