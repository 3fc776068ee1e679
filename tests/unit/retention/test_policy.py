from __future__ import annotations

import pytest

from retention.model import DAY, AnchorFrom, AnchorSource, Brake, Copy, Graces, KeptBy, Reason, Rules
from retention.policy import EARLIEST_RECEIVED_AT, Policy, anchor, clock_fault, cutoffs, due_at, judge

NOW = 20_000 * DAY
THIRTY = Rules("crm_plus", 30)


def copy_aged(days: int, micros: int = 0, **more: int) -> Copy:
    at = NOW - days * DAY - micros
    return Copy("A", anchor_at=at, stored_at=at, **more)


@pytest.mark.parametrize(("plan", "days"), [("crm_plus", 30), ("standard", 60), ("professional", 90)])
def test_a_copy_is_due_at_exactly_n_days_and_not_a_microsecond_before(plan: str, days: int) -> None:
    rules = Rules(plan, days)
    assert not judge(copy_aged(days, -1), rules, NOW).due
    assert judge(copy_aged(days), rules, NOW).due
    assert judge(copy_aged(days, 1), rules, NOW).due


def test_a_day_has_86_400_seconds_also_across_a_leap_day() -> None:
    received = 1_835_395_200 * 1_000_000  # 2028-02-29T00:00:00Z
    assert due_at(Copy("A", received, received), THIRTY) == received + 30 * 86_400 * 1_000_000


def test_age_is_the_reason_under_a_plan_that_keeps_something() -> None:
    verdict = judge(copy_aged(31), THIRTY, NOW)
    assert (verdict.due, verdict.reason, verdict.kept_by) == (True, Reason.AGE, None)
    assert str(verdict) == "purge (age)"


def test_a_plan_that_keeps_nothing_makes_a_new_copy_due_at_once() -> None:
    verdict = judge(copy_aged(0), Rules("free", 0), NOW)
    assert (verdict.due, verdict.reason, verdict.due_at) == (True, Reason.PLAN_END, NOW)


@pytest.mark.parametrize(
    ("copy", "rules", "kept_by"),
    [
        (copy_aged(400, pins=1), THIRTY, KeptBy.PINNED),
        (copy_aged(400, holds=1), THIRTY, KeptBy.HELD),
        (copy_aged(400, pins=1, holds=2), THIRTY, KeptBy.HELD),
        (copy_aged(400), Rules("gold", None), KeptBy.PLAN_UNKNOWN),
        (copy_aged(400), Rules("crm_plus", 30, clock_fault="forward"), KeptBy.CLOCK),
        (copy_aged(29), THIRTY, KeptBy.NOT_DUE),
        (copy_aged(29), Rules("crm_plus", 30, clock_fault="forward"), KeptBy.NOT_DUE),
    ],
    ids=["pinned", "held", "held and pinned", "plan unknown", "clock", "young", "young, clock"],
)
def test_what_keeps_a_copy_is_named(copy: Copy, rules: Rules, kept_by: KeptBy) -> None:
    verdict = judge(copy, rules, NOW)
    assert (verdict.due, verdict.reason, verdict.kept_by) == (False, None, kept_by)
    assert str(verdict) == f"keep ({kept_by})"


@pytest.mark.parametrize(
    ("graces", "copy", "rules_more", "due_in_days"),
    [
        (Graces(after_storing=7), Copy("A", NOW - 40 * DAY, NOW - 2 * DAY), {}, 5),
        (Graces(after_shrink=14), Copy("A", NOW - 40 * DAY, NOW - 40 * DAY), {"shrunk_at": NOW - 4 * DAY}, 10),
        (Graces(after_unpin=3), Copy("A", NOW - 40 * DAY, NOW - 40 * DAY, unpinned_at=NOW - DAY), {}, 2),
        (Graces(after_shrink=14), Copy("A", NOW - 40 * DAY, NOW - 40 * DAY), {}, -10),
        (Graces(after_unpin=3), Copy("A", NOW - 40 * DAY, NOW - 40 * DAY), {}, -10),
        (Graces(), Copy("A", NOW - 40 * DAY, NOW, keep_until_at=NOW + 7 * DAY), {}, 7),
        (Graces(), Copy("A", NOW - 10 * DAY, NOW, keep_until_at=NOW + 7 * DAY), {}, 20),
    ],
    ids=["storing", "shrink", "unpin", "never shrunk", "never pinned", "brought back", "brought back young"],
)
def test_graces_wait_and_never_hasten(graces: Graces, copy: Copy, rules_more: dict[str, int], due_in_days: int) -> None:
    rules = Rules("crm_plus", 30, graces, **rules_more)
    assert due_at(copy, rules) == NOW + due_in_days * DAY
    assert judge(copy, rules, NOW + due_in_days * DAY).due
    assert not judge(copy, rules, NOW + due_in_days * DAY - 1).due


@pytest.mark.parametrize(
    ("age", "removed_ago", "expected"),
    [
        (10, 2, (True, Reason.MAILBOX_REMOVED, NOW - 2 * DAY)),
        (10, 0, (True, Reason.MAILBOX_REMOVED, NOW)),
        (40, 2, (True, Reason.AGE, NOW - 10 * DAY)),
        (31, 2, (True, Reason.AGE, NOW - DAY)),
        (10, -1, (False, None, NOW + DAY)),
    ],
    ids=["young", "this instant", "old before", "old since", "removed later"],
)
def test_a_removed_mailbox_makes_its_copies_due(
    age: int, removed_ago: int, expected: tuple[bool, Reason | None, int]
) -> None:
    verdict = judge(copy_aged(age, removed_at=NOW - removed_ago * DAY), THIRTY, NOW)
    assert (verdict.due, verdict.reason, verdict.due_at) == expected


def test_an_unknown_plan_keeps_what_a_removed_mailbox_left() -> None:
    assert judge(copy_aged(40, removed_at=NOW - DAY), Rules("gold", None), NOW).kept_by is KeptBy.PLAN_UNKNOWN


def test_an_unknown_plan_has_no_cutoff() -> None:
    assert cutoffs(Rules("gold", None), NOW) is None


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (NOW - 5 * DAY, (NOW - 5 * DAY, AnchorSource.INTERNALDATE)),
        (None, (NOW, AnchorSource.STORED)),
        (0, (NOW, AnchorSource.STORED)),
        (EARLIEST_RECEIVED_AT - 1, (NOW, AnchorSource.STORED)),
        (EARLIEST_RECEIVED_AT, (EARLIEST_RECEIVED_AT, AnchorSource.INTERNALDATE)),
        (NOW + DAY, (NOW, AnchorSource.STORED)),
    ],
    ids=["sane", "missing", "1970", "just before 1990", "1990", "future"],
)
def test_the_anchor_is_internaldate_when_it_makes_sense(
    received: int | None, expected: tuple[int, AnchorSource]
) -> None:
    assert anchor(received, NOW) == expected


def test_the_anchor_may_be_set_to_the_moment_of_storing() -> None:
    assert anchor(NOW - 5 * DAY, NOW, AnchorFrom.STORED) == (NOW, AnchorSource.STORED)


@pytest.mark.parametrize(
    ("now", "fault"),
    [
        (NOW, None),
        (NOW - 300_000_000, None),
        (NOW - 300_000_001, "back"),
        (NOW + 100 * DAY, None),
        (NOW + 100 * DAY + 1, "forward"),
    ],
)
def test_a_clock_that_jumped_is_noticed(now: int, fault: str | None) -> None:
    assert clock_fault(now, NOW) == fault
    assert clock_fault(now, None) is None


def test_every_value_of_the_policy_is_in_its_hash() -> None:
    base = Policy(1, "ab" * 32)
    others = [
        Policy(2, "ab" * 32),
        Policy(1, "cd" * 32),
        Policy(1, "ab" * 32, AnchorFrom.STORED),
        *(Policy(1, "ab" * 32, graces=Graces(**{name: 77})) for name in Graces.__dataclass_fields__),
        *(Policy(1, "ab" * 32, brake=Brake(**{name: 77})) for name in Brake.__dataclass_fields__),
    ]
    hashes = {policy.sha256 for policy in [base, *others]}
    assert len(hashes) == len(others) + 1
    assert base.sha256 == Policy(1, "ab" * 32).sha256
