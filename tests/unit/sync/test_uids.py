"""Sets of UIDs as ranges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailgate.sync.uids import among, ascending, ranges


def test_ranges_are_as_short_as_can_be() -> None:
    assert ranges([]) == []
    assert ranges([1, 2, 3, 7, 9, 10]) == [range(1, 4), range(7, 8), range(9, 11)]


@given(st.sets(st.integers(1, 40)), st.sets(st.integers(1, 40)))
def test_among_is_the_intersection(uids: set[int], where: set[int]) -> None:
    assert among(sorted(uids), ranges(sorted(where))) == sorted(uids & where)


@given(st.lists(st.integers(1, 40)))
def test_ascending_is_in_order_and_each_once(uids: list[int]) -> None:
    assert list(ascending(uids)) == sorted(set(uids))


def test_what_is_in_order_is_not_copied() -> None:
    uids = [1, 5, 9]
    assert ascending(uids) is uids
