"""Sets of UIDs as ranges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailgate.sync.uids import among, ranges


def test_ranges_are_as_short_as_can_be() -> None:
    assert ranges([]) == []
    assert ranges([1, 2, 3, 7, 9, 10]) == [range(1, 4), range(7, 8), range(9, 11)]


@given(st.sets(st.integers(1, 40)), st.sets(st.integers(1, 40)))
def test_among_is_the_intersection(uids: set[int], where: set[int]) -> None:
    assert among(sorted(uids), ranges(sorted(where))) == sorted(uids & where)
