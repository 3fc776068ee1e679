"""Recognition pairs one to one, the best agreement first, as a multiset."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailgate.sync.identity import Candidate, Likeness, pair

A, B = b"a" * 32, b"b" * 32


def known(key: str, likeness: Likeness, *, token_suffices: bool = False) -> Candidate[str]:
    return Candidate(key, likeness, token_suffices)


def test_token_size_and_date_agree() -> None:
    assert pair([(1, Likeness(A, 10, 5))], [known("m", Likeness(A, 10, 5))]) == {1: "m"}


def test_another_token_is_another_message() -> None:
    assert pair([(1, Likeness(A, 10, 5))], [known("m", Likeness(B, 10, 5))]) == {}


def test_size_or_date_may_differ_but_not_both() -> None:
    assert pair([(1, Likeness(A, 10, 6))], [known("m", Likeness(A, 10, 5))]) == {1: "m"}
    assert pair([(1, Likeness(A, 11, 5))], [known("m", Likeness(A, 10, 5))]) == {1: "m"}
    assert pair([(1, Likeness(A, 11, 6))], [known("m", Likeness(A, 10, 5))]) == {}


def test_what_is_unknown_agrees_with_nothing() -> None:
    assert pair([(1, Likeness(A, None, None))], [known("m", Likeness(A, None, None))]) == {}


def test_the_best_agreement_goes_first() -> None:
    far = [(1, Likeness(A, 10, 9)), (2, Likeness(A, 10, 5))]
    assert pair(far, [known("m", Likeness(A, 10, 5))]) == {2: "m"}
    assert pair(far, [known("m", Likeness(A, 10, 5)), known("n", Likeness(A, 10, 7))]) == {2: "m", 1: "n"}


def test_a_tombstone_needs_the_token_only_and_comes_last() -> None:
    grave = known("t", Likeness(A), token_suffices=True)
    assert pair([(1, Likeness(A, 10, 5))], [grave]) == {1: "t"}
    assert pair([(1, Likeness(A, 10, 5))], [grave, known("m", Likeness(A, 10, 5))]) == {1: "m"}


def test_three_tombstones_block_three_and_no_more() -> None:
    graves = [known(f"t{n}", Likeness(A), token_suffices=True) for n in range(3)]
    pairs = pair([(n, Likeness(A, 1, n)) for n in range(5)], graves)
    assert sorted(pairs) == [0, 1, 2]
    assert len(set(pairs.values())) == 3


likenesses = st.builds(Likeness, st.sampled_from([A, B]), st.sampled_from([None, 1, 2]), st.sampled_from([None, 5, 6]))


@given(st.lists(likenesses, max_size=8), st.lists(st.tuples(likenesses, st.booleans()), max_size=8))
def test_pairs_are_one_to_one_and_of_one_token(far: list[Likeness], near: list[tuple[Likeness, bool]]) -> None:
    candidates = [Candidate(n, likeness, suffices) for n, (likeness, suffices) in enumerate(near)]
    pairs = pair(list(enumerate(far)), candidates)
    assert len(set(pairs.values())) == len(pairs)
    for uid, key in pairs.items():
        assert far[uid].token == candidates[key].likeness.token
    # Nothing that could be paired is left on both sides.
    for uid, likeness in enumerate(far):
        for candidate in candidates:
            if uid not in pairs and candidate.key not in pairs.values() and candidate.token_suffices:
                assert likeness.token != candidate.likeness.token


def test_thousands_that_are_alike_cost_no_quadratic_time() -> None:
    """As many comparisons as messages, not as pairs: counted, not timed."""
    compared = 0

    class Size(int):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return int(self) == other

        __hash__ = int.__hash__

    count = 2_000
    far = [(n, Likeness(b"t", Size(n), n)) for n in range(count)]
    known = [Candidate(n, Likeness(b"t", Size(count + n), count + n)) for n in range(count)]
    assert pair(far, known) == {}
    assert compared < 20 * count
