"""The rules of retention, proven from the leaves alone: each leaf is judged by those before it, never by later ones.

What is shown of every purge:

1. it belongs to a run that is open, and its item was there: purged or removed once, and again only after a rehydrate,
   which brings back only what a purge took, and is followed at once by the pins that it counts; only what was brought
   back can be lost, when an older backup of the database is restored, and it is told how many were and had pins or
   holds;
2. no pin and no hold stood on it, and what the run says to have counted is what the log counts (R1);
3. it was due: `due_at` not after the run's `now`, not before anchor + days, with the days of the plan that was
   effective then, from the anchor with which it was brought back if it was, and not before the time until which it
   was to stay then, nor within the graces that its policy has: after its last pin, after the plan's days became fewer,
   and after storing as far as the anchor tells when that was (R2);
4. the time by which it was judged was not still to come when the run opened, nor was the plan that its own time made
   effective, as far as later entries and a time-stamp tell; and it does not lie before its run;
5. it names a policy that was set before;

of every removal that no hold stood on it, nor a pin where the server expunged it; of every run that its counts balance
and equal its leaves (R6, R13), that its `now` did not go back without approval, and that it took no more items than
were approved, or than its policy's brake lets pass of as many copies as it counted; of every hold on messages that all
its items are named, and were there; of its release that it protects for as long as the policy says.

Purges for other reasons than age and plan (erasure, offboarding, a removed mailbox) are due by their reason; a removed
mailbox spares pinned copies, the others do not; a hold stops all of them, and after its release until its grace ends.

Instants are compared as texts: of one width, they sort as they follow. Memory grows with the number of items that were
ever pinned, held or purged (about 100 bytes each).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .canonical import format_instant, parse_instant
from .directory import LogDirectory
from .held import Holds
from .leaves import policy_sha256
from .note import Verifier
from .plans import Plans, Policies, Told, days_after
from .purge_template import match_item_purge
from .report import Findings, Report, Verdict, counted
from .schema import Leaf, LeafError, parse_leaf
from .verify import verify_directory

CLOCK_SLACK = 300_000_000
"""Microseconds by which a run's `now` may lie before the last one's, or after its own entry's time: five minutes."""

_BY_AGE = frozenset({"age", "plan_end"})
_SPARING_PINS = frozenset({"age", "plan_end", "mailbox_removed"})


def replay_directory(path: Path, key: Verifier, jobs: int | None = 1) -> Report:
    """Verify the log in a folder, then replay it. A log that does not verify is not replayed."""
    report = verify_directory(path, key, jobs)
    if report.verdict is not Verdict.OK:
        return report
    replay = Replay(stamped=_stamped(report.facts))
    for body in LogDirectory(path).leaves(report.facts["size"]):
        replay.feed(body)
    replayed = replay.finish()
    return Report(replayed.subject, replayed.findings, {**report.facts, **replayed.facts})


def replay_leaves(bodies: Iterable[bytes]) -> Report:
    """Replay leaves from index 0 on."""
    replay = Replay()
    for body in bodies:
        replay.feed(body)
    return replay.finish()


def _stamped(facts: Mapping[str, Any]) -> tuple[int, str] | None:
    """So many leaves were there when an authority stamped them, and when that was, at the latest."""
    says = facts.get("stamp_says")
    if says is None:
        return None
    return facts["stamped_size"], format_instant(parse_instant(f"{says[:-1]}.999999Z") + CLOCK_SLACK)


@dataclass(slots=True)
class _Run:
    now: str
    opened_at: str
    policy: str
    approved: bool
    approved_up_to: int | None
    purged: int = 0
    deferred: int = 0


@dataclass(frozen=True, slots=True)
class _BroughtBack:
    anchor: tuple[str, str]
    until: str


class Replay:
    """The state that a log's leaves add up to, and what they should not have done."""

    def __init__(self, *, stamped: tuple[int, str] | None = None) -> None:
        """`stamped`: so many leaves are known to have been there at that instant."""
        self.findings = Findings()
        self._index = -1
        self._stamped = stamped
        self._policies = Policies()
        self._plans = Plans()
        self._plan_used: tuple[str, int] = ("", -1)
        self._unknown_storing = 0
        self._pinned_and_erased = 0
        self._lost: Counter[str] = Counter()
        self._pins: dict[str, set[str]] = {}
        self._unpinned: dict[str, str] = {}
        self._holds = Holds(self._broken)
        self._runs: dict[str, _Run] = {}
        self._closed: set[str] = set()
        self._gone: set[str] = set()
        self._deleted: set[str] = set()
        self._brought_back: dict[str, _BroughtBack] = {}
        self._pins_to_come: tuple[str, int] | None = None
        self._latest_now = format_instant(0)
        self._purged: Counter[str] = Counter()
        self._handlers: dict[str, Callable[[Leaf], None]] = {
            "policy.set": self._policy_set,
            "plan.effective": self._plan_effective,
            "pin.add": self._pin_add,
            "pin.remove": self._pin_remove,
            "hold.place": self._holds.place,
            "hold.cover": lambda leaf: self._holds.cover(leaf, self._gone),
            "hold.release": self._hold_release,
            "run.open": self._run_open,
            "item.purge": self._item_purge,
            "item.remove": self._item_remove,
            "item.lost": self._item_lost,
            "item.deferred": self._item_deferred,
            "run.close": self._run_close,
            "run.abort": self._run_close,
            "rehydrate": self._rehydrate,
        }

    def feed(self, body: bytes) -> None:
        """Take the next leaf."""
        self._index += 1
        match = match_item_purge(body)
        if match is not None:
            self._expect_pins(None)
            values = {name: value.decode() for name, value in match.groupdict().items()}
            self._judge(values, int(values["pins"]), int(values["holds"]), int(values["days"]))
            return
        try:
            leaf = parse_leaf(body)
        except LeafError as error:
            self.findings.add(Verdict.INVALID, f"leaf {self._index}: {error}")
            return
        self._expect_pins(leaf["item_ref"] if leaf["type"] == "pin.add" else None)
        handler = self._handlers.get(leaf["type"])
        if handler is not None:
            handler(leaf)

    def finish(self) -> Report:
        """The verdict over all leaves fed."""
        self._holds.check_covers()
        self._expect_pins(None)
        purged = sum(self._purged.values())
        facts: dict[str, Any] = {
            "replayed": self._index + 1,
            "purged": dict(sorted(self._purged.items())),
            "runs": len(self._closed) + len(self._runs),
            "open_runs": len(self._runs),
            "pinned_items": len(self._pins),
            "standing_holds": len(self._holds),
        }
        if self._unknown_storing:
            facts["storing_not_in_the_log"] = self._unknown_storing
        judged = f"{counted(purged, 'purge')} in {counted(facts['runs'], 'run')}, each due"
        subject = f"{judged}, none pinned, none held"
        if self._pinned_and_erased:
            facts["pinned_and_erased"] = self._pinned_and_erased
            subject = f"{judged}, none held, and {self._pinned_and_erased} pinned, which went with the tenant"
        if self._lost:
            facts["lost"] = dict(sorted(self._lost.items()))
            kept = f"{self._lost['pinned']} pinned, {self._lost['held']} held"
            subject = f"{subject}; {self._lost['items']} lost when a backup was restored ({kept})"
        return Report(subject, self.findings, facts)

    def _broken(self, problem: str) -> None:
        self.findings.add(Verdict.RULE_BROKEN, f"leaf {self._index}: {problem}")

    # What sets the scene.

    def _policy_set(self, leaf: Leaf) -> None:
        if leaf["policy"]["sha256"] != policy_sha256(leaf["document"]):
            self._broken("the hash of the policy is not its document's")
        self._policies.set(leaf["policy"]["sha256"], leaf["document"])

    def _plan_effective(self, leaf: Leaf) -> None:
        catalogue = self._policies.catalogue(leaf["policy"]["sha256"])
        self._plans.tell(Told(leaf["effective_at"], leaf["plan"], leaf["days"], catalogue))

    def _pin_add(self, leaf: Leaf) -> None:
        item_ref, pin_ref = leaf["item_ref"], leaf["pin_ref"]
        pins = self._pins.setdefault(item_ref, set())
        if item_ref in self._gone:
            self._broken(f"a pin on {item_ref}, which is gone")
        if pin_ref in pins:
            self._broken(f"pin {pin_ref} was added twice")
        pins.add(pin_ref)
        self._unpinned.pop(item_ref, None)

    def _pin_remove(self, leaf: Leaf) -> None:
        pins = self._pins.get(leaf["item_ref"], set())
        if leaf["pin_ref"] not in pins:
            self._broken(f"pin {leaf['pin_ref']} was removed but never added")
        pins.discard(leaf["pin_ref"])
        if not pins:
            self._pins.pop(leaf["item_ref"], None)
            self._unpinned[leaf["item_ref"]] = leaf["at"]

    def _hold_release(self, leaf: Leaf) -> None:
        self._holds.release(leaf, self._policies.grace_over(leaf["at"], leaf["policy"]["sha256"], "after_release"))

    def _rehydrate(self, leaf: Leaf) -> None:
        item_ref, anchor = leaf["item_ref"], leaf["anchor"]
        if item_ref not in self._gone:
            self._broken(f"{item_ref} was brought back but was never gone")
        if item_ref in self._deleted:
            self._broken(f"{item_ref} was brought back but no purge took it")
        self._gone.discard(item_ref)
        self._brought_back[item_ref] = _BroughtBack((anchor["at"], anchor["src"]), leaf["until"])
        if leaf["pins"]:
            self._pins_to_come = (item_ref, leaf["pins"])

    def _expect_pins(self, pinned: str | None) -> None:
        """The next leaf pins this item, or None. After a rehydrate come the pins that were made in its commit."""
        if self._pins_to_come is None:
            return
        item_ref, left = self._pins_to_come
        if pinned != item_ref:
            self._broken(f"{item_ref} was brought back with pins, and {left} of them are not there")
            left = 0
        self._pins_to_come = (item_ref, left - 1) if left > 1 else None

    # Runs, and what they did.

    def _run_open(self, leaf: Leaf) -> None:
        run, now = leaf["run"], leaf["now"]
        if run in self._runs or run in self._closed:
            self._broken(f"run {run} was opened twice")
        if parse_instant(now) + CLOCK_SLACK < parse_instant(self._latest_now):
            if "clock" not in leaf["approved"]:
                self._broken(f"run {run} judges by {now}, before {self._latest_now}, and nobody approved it")
            self._latest_now = now  # time goes on from there
        if parse_instant(now) > parse_instant(leaf["at"]) + CLOCK_SLACK:
            self._broken(f"run {run} judges by {now}, a time that was still to come when it opened")
        self._latest_now = max(self._latest_now, now)
        self._check_time(leaf["at"])
        self._check_stamp(now)
        self._holds.check_covers()
        approved = "brake" in leaf["approved"], leaf.get("approved_up_to")
        self._runs[run] = _Run(now, leaf["at"], leaf["policy"]["sha256"], *approved)

    def _check_time(self, at: str) -> None:
        """Whether it is not before what an earlier purge took for past."""
        since, index = self._plan_used
        if at < since and parse_instant(at) + CLOCK_SLACK < parse_instant(since):
            self._broken(f"it is {at}, and leaf {index} was judged by a plan that holds from {since} on")
            self._plan_used = ("", -1)

    def _check_stamp(self, at: str) -> None:
        if self._stamped is not None and self._index < self._stamped[0] and at > self._stamped[1]:
            self._broken(f"the time {at} was still to come when the log was time-stamped with this leaf in it")

    def _item_purge(self, leaf: Leaf) -> None:
        values = {
            **{name: leaf[name] for name in ("item_ref", "mailbox_ref", "plan", "due_at", "reason", "run", "at")},
            "anchor_at": leaf["anchor"]["at"],
            "anchor_src": leaf["anchor"]["src"],
            "policy": leaf["policy"]["sha256"],
        }
        self._judge(values, leaf["checks"]["pins"], leaf["checks"]["holds"], leaf["days"])

    def _judge(self, purge: Mapping[str, str], pins: int, holds: int, days: int) -> None:
        item_ref, reason = purge["item_ref"], purge["reason"]
        self._purged[reason] += 1
        if purge["policy"] not in self._policies:
            self._broken(f"{item_ref} was purged under a policy that was never set")
        run = self._runs.get(purge["run"])
        now = run.now if run is not None else self._latest_now
        unpinned = self._unpinned.get(item_ref)
        self._check_gone(item_ref, purge["mailbox_ref"], now, pins, holds, spare_pins=reason in _SPARING_PINS)
        if run is None:
            self._broken(f"{item_ref} was purged outside an open run")
            return
        run.purged += 1
        if purge["due_at"] > run.now:
            self._broken(f"{item_ref} was due at {purge['due_at']}, after the run's {run.now}")
        if reason in _BY_AGE:
            self._check_time(purge["at"])
            self._check_stamp(purge["at"])
            self._judge_age(purge, days, run)
            self._judge_graces(purge, unpinned)

    def _judge_age(self, purge: Mapping[str, str], days: int, run: _Run) -> None:
        item_ref, now = purge["item_ref"], run.now
        # A run judges ages by its one `now`, but every batch by the plan of its own time: plans change while it runs.
        plan = self._plans.at(purge["at"])
        if plan is None or (plan.plan, plan.days) != (purge["plan"], days):
            shown = f"{plan.plan}, {plan.days} days" if plan else "none"
            self._broken(f"{item_ref} was purged by plan {purge['plan']}, {days} days; effective was {shown}")
        if plan is not None and plan.since > self._plan_used[0]:
            self._plan_used = (plan.since, self._index)
        if purge["at"] < run.opened_at and parse_instant(purge["at"]) + CLOCK_SLACK < parse_instant(run.opened_at):
            self._broken(f"{item_ref} was purged at {purge['at']}, before its run opened at {run.opened_at}")
        back = self._brought_back.get(item_ref)
        if back is not None:
            # By a backfill it was brought back for its age, which a shorter plan may have ended before it came.
            promised = back.anchor[1] == "rehydrated" and purge["due_at"] < back.until
            if back.until > now or promised:
                self._broken(f"{item_ref} was brought back to stay until {back.until}")
            if back.anchor != (purge["anchor_at"], purge["anchor_src"]):
                self._broken(f"{item_ref} was brought back with another anchor")
        elif purge["anchor_src"] == "rehydrated":
            self._broken(f"{item_ref} was never brought back")
        earliest = days_after(purge["anchor_at"], days)
        if purge["due_at"] < earliest:
            self._broken(f"{item_ref} was not due before {earliest}")

    def _judge_graces(self, purge: Mapping[str, str], unpinned: str | None) -> None:
        policies, policy, item_ref = self._policies, purge["policy"], purge["item_ref"]
        if unpinned is not None:
            waited = policies.grace_over(unpinned, policy, "after_unpin")
            if purge["due_at"] < waited:
                self._broken(f"{item_ref} lost its last pin at {unpinned} and was not due before {waited}")
        if policies.grace(policy, "after_shrink"):
            shrunk = self._plans.shrunk_at(purge["at"], policies.catalogue(policy))
            waited = "" if shrunk is None else policies.grace_over(shrunk, policy, "after_shrink")
            if purge["due_at"] < waited:
                self._broken(f"{item_ref} was not due before {waited}: the plan's days became fewer at {shrunk}")
        if policies.grace(policy, "after_storing"):
            # Stored it was not before its anchor; when exactly stands in no leaf unless the anchor is that moment.
            self._unknown_storing += purge["anchor_src"] != "stored"
            waited = policies.grace_over(purge["anchor_at"], policy, "after_storing")
            if purge["due_at"] < waited:
                self._broken(f"{item_ref} was not due before {waited}: it was stored no earlier than its anchor")

    def _item_remove(self, leaf: Leaf) -> None:
        checks = leaf["checks"]
        item = (leaf["item_ref"], leaf["mailbox_ref"])
        self._deleted.add(leaf["item_ref"])
        self._check_gone(*item, leaf["at"], checks["pins"], checks["holds"], spare_pins=True)

    def _item_lost(self, leaf: Leaf) -> None:
        item_ref = leaf["item_ref"]
        if item_ref in self._gone or item_ref not in self._brought_back:
            self._broken(f"{item_ref} was lost, but had not been brought back")
        self._gone.add(item_ref)
        self._unpinned.pop(item_ref, None)
        self._lost["items"] += 1
        self._lost["pinned"] += self._pins.pop(item_ref, None) is not None
        self._lost["held"] += self._holds.count(item_ref, leaf["mailbox_ref"], leaf["at"]) > 0

    def _check_gone(
        self, item_ref: str, mailbox_ref: str, now: str, pins: int, holds: int, *, spare_pins: bool
    ) -> None:
        if item_ref in self._gone:
            self._broken(f"{item_ref} was gone already")
        self._gone.add(item_ref)
        self._unpinned.pop(item_ref, None)
        pinned = len(self._pins.pop(item_ref, ()))
        held = self._holds.count(item_ref, mailbox_ref, now)
        if held:
            self._broken(f"{item_ref} was held {held} times when it went")
        if pinned and spare_pins:
            self._broken(f"{item_ref} was pinned {pinned} times when it went")
        self._pinned_and_erased += pinned > 0 and not spare_pins
        if (pins, holds) != (pinned, held):
            self._broken(f"{item_ref}: {pins} pins and {holds} holds were counted, the log has {pinned} and {held}")

    def _item_deferred(self, leaf: Leaf) -> None:
        run = self._runs.get(leaf["run"])
        if run is None:
            self._broken(f"{leaf['item_ref']} was deferred outside an open run")
        else:
            run.deferred += 1

    def _run_close(self, leaf: Leaf) -> None:
        run = self._runs.pop(leaf["run"], None)
        self._closed.add(leaf["run"])
        self._check_time(leaf["at"])
        if run is None:
            self._broken(f"run {leaf['run']} ended but was not open")
            return
        kept = sum(leaf["kept"].values())
        if leaf["candidates"] != leaf["purged"] + kept + leaf["failed"]:
            self._broken(f"the counts of run {leaf['run']} do not balance")
        if leaf["purged"] != run.purged:
            self._broken(f"run {leaf['run']} counts {leaf['purged']} purges, the log has {run.purged}")
        if run.deferred > kept + leaf["failed"]:
            self._broken(f"run {leaf['run']} deferred {run.deferred} items but kept and failed {kept + leaf['failed']}")
        self._check_brake(leaf, run)
        self._check_halt(leaf, run)

    def _check_brake(self, leaf: Leaf, run: _Run) -> None:
        """Whether it took more than it may without a person, and than a person approved. What the gateway said of a
        change of plan may have been taken back since: that there was any must do.
        """
        brake, copies = self._policies.brake(run.policy), leaf.get("copies")
        if brake is None or (run.approved_up_to is None and (run.approved or copies is None)):
            return
        if leaf.get("explained") is not None:
            if not self._plans.changed:
                self._broken(f"run {leaf['run']} says that a change of the plan explains it, the log has none")
            return
        minimum, share = brake
        approved, unasked = run.approved_up_to or 0, max(minimum, (copies or 0) * share // 100)
        if run.purged > max(approved, unasked):
            allowed = f"{approved} were approved" if run.approved else "nobody approved it"
            self._broken(f"run {leaf['run']} took {run.purged} items: {allowed}, and the brake lets {unasked} pass")

    def _check_halt(self, leaf: Leaf, run: _Run) -> None:
        """Whether one that the brake stopped, though it was approved, names that approval and would have taken more."""
        approved = leaf.get("approved_up_to")
        if approved is None:  # as older versions end one
            return
        if approved != run.approved_up_to:
            shown = "nothing" if run.approved_up_to is None else run.approved_up_to
            self._broken(f"run {leaf['run']} ends with {approved} approved, and opened with {shown}")
        if leaf["reason"] == "brake" and leaf["purged"] + leaf["kept"].get("brake", 0) <= approved:
            self._broken(f"run {leaf['run']} was stopped by the brake before it took more than the {approved} approved")
