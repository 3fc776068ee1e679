"""The brake as an auditor sees it: whatever the engine does is by the log's own word what it may do, and a single item
more is found. The runs are the engine's, over a store in memory; their entries are the log's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from hypothesis import event, given
from hypothesis import strategies as st

from retention.engine import APPROVED_BRAKE, Engine
from retention.ledger import leaves
from retention.ledger.leaves import Common, Policy, policy_sha256
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from retention.model import SCHEDULER, Brake, Copy, Rules
from retention.port import EVERY_TENANT, Load, Run
from tests.contract.memory_purge_store import MemoryStore, State, pinned
from tests.ledger_samples import DAY, NOW, common, purge_fields, ulid

DAYS = 60


class Story(NamedTuple):
    """What was there, what a person approved, and what came in between. `imports`: before which batches how many
    copies of which age arrive.
    """

    brake: Brake
    ages: Sequence[int]
    pinned: int
    approved: bool
    up_to: int | None
    explained: bool
    batch: int
    cut_at: int | None
    imports: Sequence[tuple[int, int, int]]


AGES = st.sampled_from((0, 60, 61, 90))
STORIES = st.builds(
    Story,
    brake=st.builds(Brake, st.integers(0, 5), st.sampled_from((0, 20, 50, 100))),
    ages=st.lists(AGES, min_size=2, max_size=20),
    pinned=st.integers(0, 3),
    approved=st.sampled_from((False, True, True)),
    up_to=st.integers(0, 20) | st.none() | st.integers(0, 9),
    explained=st.sampled_from((False, False, True)),
    batch=st.integers(1, 5),
    cut_at=st.none() | st.integers(0, 12),
    imports=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 12), AGES), max_size=3),
)


class CutError(Exception):
    """The process dies here."""


def purged_by(story: Story) -> State:
    """The state after the engine's run of this story, cut and gone on with."""
    store = MemoryStore()
    store.state.rules["acme"] = Rules("standard", DAYS)
    for number, age in enumerate(story.ages):
        copy = Copy(f"c{number:03}", NOW - age * DAY, NOW - age * DAY)
        store.add("acme", pinned(copy) if number < story.pinned else copy)
    store.explained = {"acme"} if story.explained else set()
    batches, left = 0, story.cut_at

    def arrive(state: State) -> None:
        nonlocal batches
        for when, count, age in story.imports:
            for number in range(count if when == batches else 0):
                at = NOW - age * DAY
                id_ = f"i{len(state.sizes):03}-{number}"
                state.copies.setdefault("acme", {})[id_] = Copy(id_, at, at)
                state.sizes[id_] = 1
        batches += 1

    def step(_name: str) -> None:
        nonlocal left
        if left == 0:
            left = None
            raise CutError
        left = None if left is None else left - 1

    store.between = arrive
    engine = Engine(store, lambda: NOW, batch=story.batch, step=step, brake=story.brake)
    approved = (APPROVED_BRAKE,) if story.approved else ()
    up_to = None if story.up_to is None else {EVERY_TENANT: story.up_to}
    run = Run("R1", "acme", NOW, NOW, "request", SCHEDULER, 1, "p", approved, up_to)

    async def go() -> None:
        try:
            await engine.run(run)
        except CutError:
            await engine.resume("p")

    asyncio.run(go())
    return store.state


def told(story: Story, state: State) -> tuple[list[bytes], int]:
    """The log of it, and how many items its run took."""
    document = {"brake": [story.brake.minimum, story.brake.share]}
    gone = [entry for entry in state.log if entry[1] == "item.purge"]
    ends = [entry for entry in state.log if entry[1] in ("run.close", "run.abort")]
    asked = state.asked.get(("acme", "R1"))
    return list(_leaves(story, document, len(gone), ends, asked)), len(gone)


def _leaves(
    story: Story, document: dict[str, Any], gone: int, ends: Sequence[tuple[Any, ...]], asked: Load | None
) -> Iterator[bytes]:
    def base(number: int, run: str | None = None) -> Common:
        return replace(common(number, run=run), policy=Policy(1, policy_sha256(document)))

    run = ulid(7_000)
    yield leaves.policy_set(base(0), document=document, effective_at=NOW - 90 * DAY)
    for days in (90, DAYS) if story.explained else (DAYS,):
        name = "standard" if days == DAYS else "professional"
        at = NOW - days * DAY
        yield leaves.plan_effective(base(days), plan=name, days=days, effective_at=at, cause="set", event_ref="e")
    up_to = story.up_to if story.approved else None
    approved = (APPROVED_BRAKE,) if story.approved else ()
    yield leaves.run_open(base(200, run), now=NOW, trigger="request", approved=approved, approved_up_to=up_to)
    for number in range(gone):
        yield leaves.item_purge(base(300 + number, run), **purge_fields(number))
    for _, type_, _, *more in ends:
        counts = {name: more[-1][name] for name in ("candidates", "purged", "kept", "failed")}
        passed: dict[str, Any] = {} if asked is None else {"copies": asked.copies}
        if asked is not None and asked.explained:
            passed["explained"] = "plan"
        if type_ == "run.close":
            yield leaves.run_close(base(900, run), **counts, bytes_=0, **passed)
        else:
            yield leaves.run_abort(base(900, run), **counts, reason=more[0], **passed)


@given(STORIES)
def test_what_the_engine_takes_is_what_it_may_take_and_no_item_more(story: Story) -> None:
    state = purged_by(story)
    bodies, gone = told(story, state)
    report = replay_leaves(bodies)
    assert report.verdict is Verdict.OK, report.lines()
    asked = state.asked.get(("acme", "R1"))
    unlimited = story.approved and story.up_to is None
    silent = not story.approved and asked is None  # it was never near the brake
    if not state.asked or unlimited or silent or (asked is not None and asked.explained):
        event("nothing to exceed")
        return
    most = max(story.up_to or 0 if story.approved else 0, story.brake.limit(0 if asked is None else asked.copies))
    event("a limit, reached" if gone == most else "a limit")
    assert gone <= most
    more = _with(state, most)
    assert replay_leaves(told(story, more)[0]).verdict is Verdict.OK, "as many as it may"
    report = replay_leaves(told(story, _with(state, most + 1))[0])
    assert report.verdict is Verdict.RULE_BROKEN, "one more"
    assert any(f"took {most + 1} items" in text for _, text in report.findings.problems), report.lines()


def _with(state: State, gone: int) -> State:
    """The same, had so many gone: entries and counts agree."""
    log = [entry for entry in state.log if entry[1] != "item.purge"]
    log[1:1] = [("acme", "item.purge", "R1", f"more-{number}", "age") for number in range(gone)]
    ended = log[-1]
    kept = ended[-1]["kept"]
    counts = ended[-1] | {"purged": gone, "candidates": gone + sum(kept.values()) + ended[-1]["failed"]}
    log[-1] = (*ended[:-1], counts)
    return State(log=log, asked=state.asked)
