"""The policy's invariants: scalar and set form agree, more days never purge more, pins and holds always keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.model import DAY, Copy, Graces, Rules
from retention.policy import anchor, cutoffs, due_at, judge, of_age

NOW = 20_000 * DAY
DAYS = st.sampled_from([0, 1, 30, 60, 90])
GRACE = st.sampled_from([0, 0, 1, 7, 30])


@st.composite
def instants(draw: st.DrawFn) -> int:
    """Around every boundary that there is, and anywhere."""
    whole = draw(st.sampled_from([0, 1, 7, 29, 30, 31, 60, 90, 97, 120]))
    return NOW - whole * DAY + draw(st.sampled_from([-DAY, -1, 0, 1, DAY]) | st.integers(-(10**12), 10**12))


def copies() -> st.SearchStrategy[Copy]:
    return st.builds(
        Copy,
        id=st.just("A"),
        anchor_at=instants(),
        stored_at=instants(),
        pins=st.integers(0, 2),
        holds=st.sampled_from([0, 0, 0, 1, 2]),
        unpinned_at=st.none() | instants(),
        removed_at=st.none() | st.none() | instants(),
        keep_until_at=st.none() | instants(),
    )


def all_rules() -> st.SearchStrategy[Rules]:
    return st.builds(
        Rules,
        plan=st.just("plan"),
        days=st.none() | DAYS,
        graces=st.builds(Graces, after_storing=GRACE, after_shrink=GRACE, after_unpin=GRACE),
        shrunk_at=st.none() | instants(),
        clock_fault=st.sampled_from([None, None, None, "forward"]),
    )


@given(copies(), all_rules())
def test_scalar_and_set_form_agree(copy: Copy, rules: Rules) -> None:
    bounds = cutoffs(rules, NOW)
    of_set = bounds is not None and of_age(copy, bounds)
    in_set = of_set and copy.pins == 0 and copy.holds == 0 and rules.clock_fault is None
    assert judge(copy, rules, NOW).due == in_set


@pytest.mark.parametrize("what", ["age", "storing", "shrink", "unpin", "brought back", "removed"])
@pytest.mark.parametrize("late", [-1, 0, 1])
@pytest.mark.parametrize("days", [0, 30, 90])
def test_both_forms_end_what_keeps_a_copy_at_the_same_microsecond(days: int, late: int, what: str) -> None:
    at = NOW + late  # when the one thing that is tried here makes the copy due; the others did so long ago
    copy = Copy("A", NOW - 400 * DAY, NOW - 400 * DAY)
    rules = Rules("plan", days, Graces(after_storing=7, after_shrink=7, after_unpin=7))
    match what:
        case "age":
            copy = copy._replace(anchor_at=at - days * DAY)
        case "storing":
            copy = copy._replace(stored_at=at - 7 * DAY)
        case "shrink":
            rules = replace(rules, shrunk_at=at - 7 * DAY)
        case "unpin":
            copy = copy._replace(unpinned_at=at - 7 * DAY)
        case "brought back":
            copy = copy._replace(keep_until_at=at)
        case "removed":
            copy = copy._replace(keep_until_at=NOW + DAY, removed_at=at)
    bounds = cutoffs(rules, NOW)
    assert bounds is not None
    assert of_age(copy, bounds) == judge(copy, rules, NOW).due == (late <= 0)
    assert due_at(copy, rules) == at


@given(copies(), all_rules())
def test_a_verdict_has_one_reason_and_agrees_with_due_at(copy: Copy, rules: Rules) -> None:
    verdict = judge(copy, rules, NOW)
    assert (verdict.reason is None) != (verdict.kept_by is None)
    assert verdict.due == (verdict.reason is not None)
    if not verdict.due or copy.removed_at is None:
        assert verdict.due_at == due_at(copy, rules)
    if verdict.due:
        assert verdict.due_at is not None
        assert verdict.due_at <= NOW


@given(copies(), all_rules(), DAYS)
def test_more_days_never_purge_more(copy: Copy, rules: Rules, more: int) -> None:
    longer = replace(rules, days=None if rules.days is None else rules.days + more)
    if judge(copy, longer, NOW).due:
        assert judge(copy, rules, NOW).due


@given(copies(), all_rules(), st.booleans())
def test_pins_and_holds_always_keep(copy: Copy, rules: Rules, hold: bool) -> None:
    kept = copy._replace(holds=1) if hold else copy._replace(pins=1)
    assert not judge(kept, rules, NOW).due


@given(copies(), all_rules(), st.integers(0, 10**14))
def test_what_is_due_stays_due(copy: Copy, rules: Rules, later: int) -> None:
    if judge(copy, rules, NOW).due:
        assert judge(copy, rules, NOW + later).due


@given(st.none() | st.integers(-(2**62), 2**62), st.integers(0, 2**52))
def test_an_anchor_is_never_after_storing(received: int | None, stored: int) -> None:
    at, _ = anchor(received, stored)
    assert at <= stored
    assert at in (stored, received)


@given(copies(), all_rules())
def test_what_was_brought_back_stays_until_then(copy: Copy, rules: Rules) -> None:
    kept = copy._replace(keep_until_at=NOW + 1, removed_at=None)
    assert not judge(kept, rules, NOW).due
    assert (
        judge(kept._replace(keep_until_at=NOW), rules, NOW).due
        == judge(kept._replace(keep_until_at=None), rules, NOW).due
    )
