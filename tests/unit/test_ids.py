"""Ids: their form and their time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailgate.ids import is_id, later_id, made_at, new_id, new_ids


@given(st.integers(0, (1 << 48) * 1_000 - 1))
def test_an_id_tells_when_it_was_made_and_sorts_by_it(now: int) -> None:
    id_ = new_id(now)
    assert is_id(id_)
    assert made_at(id_) == now // 1_000 * 1_000
    assert new_id(now + 1_000) > id_ or now + 1_000 >= (1 << 48) * 1_000


def test_ids_of_one_instant_differ() -> None:
    assert len({new_id(1_700_000_000_000_000) for _ in range(1_000)}) == 1_000


@given(st.integers(0, (1 << 48) * 1_000 - 1), st.integers(0, 50))
def test_many_ids_at_once_are_ids_of_that_instant(now: int, count: int) -> None:
    made = new_ids(now, count)
    assert len(set(made)) == len(made) == count
    assert all(is_id(id_) and made_at(id_) == now // 1_000 * 1_000 for id_ in made)


def test_every_character_of_the_noise_varies() -> None:
    made = new_ids(0, 2_000)
    assert all(len({id_[at] for id_ in made}) == 32 for at in range(10, 26))


def test_ids_of_one_millisecond_can_be_made_in_order() -> None:
    now, last = 1_700_000_000_000_000, ""
    for _ in range(200):
        made = later_id(now, last)
        assert is_id(made)
        assert made_at(made) == now
        assert made > last
        last = made
    assert later_id(now - 5_000, last) < last
