"""The decision table, cell by cell. Each test is named after its cell: base, near, far."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailgate.clock import DAY
from mailgate.sync.actions import (
    Action,
    Detach,
    Drop,
    Forget,
    Link,
    MarkGone,
    Merge,
    Pending,
    Pull,
    Reappear,
    Rebury,
    Remove,
    Return,
    Vanish,
)
from mailgate.sync.reconcile import decide, reconcile, settle
from mailgate.sync.views import (
    FAR_GONE,
    FAR_UNKNOWN,
    Appending,
    Base,
    Deleting,
    Detached,
    Entry,
    Far,
    FarPresent,
    Moving,
    Near,
    Present,
    Purged,
    SetAside,
    Snapshot,
    Tombstoned,
    Window,
    wished,
)
from retention.model import AnchorFrom

NOW = 20_000 * DAY
WINDOW = Window(now=NOW, floor_at=NOW - 30 * DAY, days=30, entitled=True)
SEEN = frozenset({"\\Seen"})
NONE = frozenset[str]()
HERE = FarPresent(SEEN, NOW - DAY)


def decided(base: Base | None, near: Near, far: Far, window: Window = WINDOW) -> Action | None:
    return decide(Entry(7, base, near, far), window)


# Base is absent.


def test_none_none_present_is_pulled() -> None:
    assert decided(None, None, HERE) == Pull(7)


def test_none_none_present_before_the_floor_is_left() -> None:
    assert decided(None, None, FarPresent(NONE, NOW - 31 * DAY)) is None


def test_none_none_present_and_due_at_once_is_left() -> None:
    window = Window(now=NOW, floor_at=NOW - 90 * DAY, days=30, entitled=True)
    assert decided(None, None, FarPresent(NONE, NOW - 30 * DAY), window) is None
    assert decided(None, None, FarPresent(NONE, NOW - 30 * DAY + 1), window) == Pull(7)


def test_none_none_present_without_a_date_is_pulled() -> None:
    assert decided(None, None, FarPresent(NONE, None)) == Pull(7)


def test_none_none_present_with_a_nonsense_date_is_pulled() -> None:
    assert decided(None, None, FarPresent(NONE, 0)) == Pull(7)


def test_none_none_present_from_the_future_is_pulled() -> None:
    assert decided(None, None, FarPresent(NONE, NOW + DAY)) == Pull(7)


def test_none_none_gone_is_nothing() -> None:
    assert decided(None, None, FAR_GONE) is None


def test_none_tombstone_present_is_never_pulled() -> None:
    assert decided(None, Tombstoned("t"), HERE) is None


def test_none_tombstone_elsewhere_present_goes_with_it() -> None:
    assert decided(None, Tombstoned("t", elsewhere=True), HERE) == Rebury(7, "t")


def test_none_tombstone_gone_is_marked() -> None:
    assert decided(None, Tombstoned("t"), FAR_GONE) == MarkGone(7, "t")


def test_none_set_aside_present_is_left() -> None:
    assert decided(None, SetAside(), HERE) is None


def test_none_set_aside_gone_is_forgotten() -> None:
    assert decided(None, SetAside(), FAR_GONE) == Forget(7)


def test_none_present_present_is_linked() -> None:
    assert decided(None, Present("m"), HERE) == Link(7, "m", SEEN)


def test_none_present_gone_is_nothing() -> None:
    assert decided(None, Present("m"), FAR_GONE) is None


def test_none_detached_present_is_linked_again() -> None:
    assert decided(None, Detached("m"), HERE) == Link(7, "m", SEEN)


def test_none_detached_gone_is_nothing() -> None:
    assert decided(None, Detached("m"), FAR_GONE) is None


PURGED = Purged("m", "item", NOW - 20 * DAY)
BACKFILL = replace(WINDOW, returns_since=NOW - 25 * DAY)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_none_tombstone_present_returns_by_a_backfill(elsewhere: bool) -> None:
    near = Tombstoned("t", elsewhere, PURGED)
    assert decided(None, near, HERE) == (Rebury(7, "t") if elsewhere else None)
    assert decided(None, near, HERE, BACKFILL) == Return(7, PURGED)
    assert decided(None, near, FAR_GONE, BACKFILL) == MarkGone(7, "t")


@pytest.mark.parametrize(
    ("purged", "window", "far"),
    [
        (None, BACKFILL, HERE),
        (replace(PURGED, anchor_at=NOW - 26 * DAY), BACKFILL, HERE),
        (replace(PURGED, anchor_at=NOW - 30 * DAY), replace(BACKFILL, returns_since=0), HERE),
        (PURGED, replace(BACKFILL, days=None), HERE),
        (PURGED, BACKFILL, FarPresent(SEEN, NOW - 31 * DAY)),
        (PURGED, replace(BACKFILL, entitled=False), HERE),
    ],
    ids=["deleted by a user", "before it", "due at once", "unknown plan", "outside the window", "not entitled"],
)
def test_none_tombstone_present_stays_away(purged: Purged | None, window: Window, far: FarPresent) -> None:
    assert decided(None, Tombstoned("t", purged=purged), far, window) is None


def test_a_return_says_so() -> None:
    assert str(Return(7, PURGED)) == "bring m back from 7"


@pytest.mark.parametrize("near", [None, Tombstoned("t"), SetAside(), Present("m"), Detached("m")])
def test_none_any_unknown_is_nothing(near: Near) -> None:
    assert decided(None, near, FAR_UNKNOWN) is None


# Base is there.


@pytest.mark.parametrize("far", [HERE, FAR_GONE, FAR_UNKNOWN])
@pytest.mark.parametrize("near", [None, Tombstoned("t"), Detached("m"), SetAside()])
def test_base_without_copy_any_is_forgotten(near: Near, far: Far) -> None:
    assert decided(Base(SEEN), near, far) == Forget(7)


def test_base_present_present_and_equal_is_nothing() -> None:
    assert decided(Base(SEEN), Present("m"), HERE) is None


def test_base_present_present_with_other_flags_is_merged() -> None:
    assert decided(Base(NONE), Present("m"), HERE) == Merge(7, "m", SEEN)


def test_base_present_present_with_other_labels_is_merged() -> None:
    base, far = Base(SEEN, labels=frozenset({"a"})), FarPresent(SEEN, NOW, frozenset({"b"}))
    assert decided(base, Present("m"), far) == Merge(7, "m", SEEN, frozenset({"b"}))
    assert decided(Base(SEEN), Present("m"), far) == Merge(7, "m", SEEN, frozenset({"b"}))


def test_base_present_present_of_which_no_labels_are_told_is_nothing() -> None:
    assert decided(Base(SEEN, labels=frozenset({"a"})), Present("m"), HERE) is None


def test_base_present_gone_vanishes() -> None:
    assert decided(Base(SEEN), Present("m"), FAR_GONE) == Vanish(7)


def test_base_present_gone_once_more_is_nothing() -> None:
    assert decided(Base(SEEN, vanished=True), Present("m"), FAR_GONE) is None


def test_base_present_present_after_vanishing_reappears() -> None:
    assert decided(Base(SEEN, vanished=True), Present("m"), HERE) == Reappear(7)


def test_base_present_present_after_vanishing_with_other_flags_is_merged() -> None:
    assert decided(Base(NONE, vanished=True), Present("m"), HERE) == Merge(7, "m", SEEN)


@pytest.mark.parametrize("vanished", [False, True])
def test_base_present_unknown_is_nothing(vanished: bool) -> None:
    assert decided(Base(SEEN, vanished), Present("m"), FAR_UNKNOWN) is None


# What the CRM asked for and the server did not do yet.

ASKED = pytest.mark.parametrize("near", [Moving("m", "archive"), Deleting("m"), Appending("m", "archive")])


def test_none_moving_present_is_linked() -> None:
    assert decided(None, Moving("m", "archive"), HERE) == Link(7, "m", SEEN)


def test_none_deleting_present_is_linked() -> None:
    assert decided(None, Deleting("m"), HERE) == Link(7, "m", SEEN)


def test_none_appending_present_is_linked() -> None:
    assert decided(None, Appending("m", "archive"), HERE) == Link(7, "m", SEEN)


@ASKED
def test_none_asked_for_gone_is_nothing(near: Near) -> None:
    assert decided(None, near, FAR_GONE) is None


@ASKED
def test_none_asked_for_unknown_is_nothing(near: Near) -> None:
    assert decided(None, near, FAR_UNKNOWN) is None


@ASKED
def test_base_asked_for_present_and_equal_is_left_to_its_operation(near: Near) -> None:
    assert decided(Base(SEEN), near, HERE) is None


@ASKED
def test_base_asked_for_present_with_other_flags_is_merged(near: Near) -> None:
    assert decided(Base(NONE), near, HERE) == Merge(7, "m", SEEN)


@ASKED
def test_base_asked_for_present_after_vanishing_reappears(near: Near) -> None:
    assert decided(Base(SEEN, vanished=True), near, HERE) == Reappear(7)


@ASKED
def test_base_asked_for_gone_vanishes(near: Near) -> None:
    assert decided(Base(SEEN), near, FAR_GONE) == Vanish(7)


@ASKED
@pytest.mark.parametrize("vanished", [False, True])
def test_base_asked_for_unknown_is_nothing(near: Near, vanished: bool) -> None:
    assert decided(Base(SEEN, vanished), near, FAR_UNKNOWN) is None


# Flags of the near side.


def test_near_flags_are_the_servers_without_wishes() -> None:
    assert wished(frozenset("ab"), []) == frozenset("ab")


def test_near_flags_merge_three_ways_each_flag_by_itself() -> None:
    base, near, far = frozenset("abc"), frozenset("bcd"), frozenset("abe")
    # near took a away and added d, far took c away and added e
    wishes = [(["d"], ["a"])]
    assert wished(base, wishes) == near
    assert wished(far, wishes) == frozenset("bde")


def test_a_later_wish_stands_above_an_earlier_one() -> None:
    assert wished(NONE, [(["a"], []), ([], ["a"])]) == NONE
    assert wished(frozenset("a"), [([], ["a"]), (["a"], [])]) == frozenset("a")


# The window.


def test_nothing_is_pulled_when_the_plan_is_not_known() -> None:
    assert decided(None, None, HERE, Window(NOW, NOW - DAY, None, entitled=True)) is None


def test_the_anchor_may_count_from_storing() -> None:
    window = Window(NOW, NOW - 90 * DAY, 30, entitled=True, anchor_from=AnchorFrom.STORED)
    assert decided(None, None, FarPresent(NONE, NOW - 40 * DAY), window) == Pull(7)


def test_the_search_asks_for_one_day_more_and_trusts_what_is_younger_by_two() -> None:
    assert WINDOW.search_since == NOW - 31 * DAY
    assert WINDOW.certain_since == NOW - 28 * DAY


def test_the_search_never_reaches_beyond_the_plan_or_the_floor() -> None:
    shorter = Window(NOW, NOW - 90 * DAY, 30, entitled=True)
    assert shorter.since_at == NOW - 30 * DAY
    longer = Window(NOW, NOW - 10 * DAY, 30, entitled=True)
    assert longer.since_at == NOW - 10 * DAY


def test_the_search_reaches_to_the_floor_when_age_counts_from_storing_or_the_plan_is_not_known() -> None:
    assert Window(NOW, NOW - 90 * DAY, 30, entitled=True, anchor_from=AnchorFrom.STORED).since_at == NOW - 90 * DAY
    assert Window(NOW, NOW - 90 * DAY, None, entitled=True).since_at == NOW - 90 * DAY


# The whole.


def test_actions_come_in_order_and_only_where_something_is_to_be_done() -> None:
    entries = [
        Entry(1, None, None, HERE),
        Entry(2, Base(SEEN), Present("m"), HERE),
        Entry(3, Base(SEEN), Present("n"), FAR_GONE),
    ]
    assert reconcile(Snapshot(WINDOW, entries)) == [Pull(1), Vanish(3)]


def test_without_entitlement_nothing_at_all_is_done() -> None:
    window = Window(NOW, NOW - DAY, 30, entitled=False)
    entries = [Entry(1, None, None, HERE), Entry(3, Base(SEEN), Present("n"), FAR_GONE)]
    assert reconcile(Snapshot(window, entries)) == []
    assert not window.admits(NOW)


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (Pull(1), "pull 1"),
        (Link(1, "m", SEEN), "link 1 to m"),
        (Merge(1, "m", SEEN), "flags of 1 (m): \\Seen"),
        (Merge(1, "m", NONE), "flags of 1 (m): none"),
        (Merge(1, "m", SEEN, frozenset({"Work"})), "flags of 1 (m): \\Seen label Work"),
        (Vanish(1), "vanished 1"),
        (Reappear(1), "reappeared 1"),
        (Forget(1), "forget 1"),
        (Rebury(1, "t"), "rebury t at 1"),
        (MarkGone(1, "t"), "original of t gone"),
        (Remove("m"), "remove m"),
        (Detach("m"), "detach m"),
        (Drop("f", 1, 2, "m"), "drop the address 1 of m"),
    ],
)
def test_actions_say_what_they_are(action: object, text: str) -> None:
    assert str(action) == text


# Pending disappearances.


def pending(*, kept: bool = False, other_origin: bool = False) -> Pending:
    return Pending("inbox", 7, 1, "m", 100, kept, other_origin)


def test_gone_everywhere_unpinned_is_removed() -> None:
    assert settle([pending()], {"inbox": 0, "archive": 101}) == [Remove("m")]


def test_gone_everywhere_pinned_or_held_is_detached() -> None:
    assert settle([pending(kept=True)], {"inbox": 0, "archive": 101}) == [Detach("m")]


def test_a_disappearance_waits_for_a_look_at_every_other_folder_that_began_after_it() -> None:
    assert settle([pending()], {"inbox": 200, "archive": 101, "sent": 100}) == []


def test_a_folder_alone_waits_for_nobody() -> None:
    assert settle([pending()], {"inbox": 0}) == [Remove("m")]


def test_a_message_that_stands_elsewhere_only_loses_the_address() -> None:
    assert settle([pending(other_origin=True)], {"inbox": 0, "archive": 0}) == [Drop("inbox", 7, 1, "m")]


def test_a_refused_folder_loses_nothing() -> None:
    assert settle([pending()], {"inbox": 0, "archive": 101}, frozenset({"inbox"})) == []
