"""How often a token may ask: the rules R1 to R3 of mailgate.api.rates, for any rate, burst and habit of asking."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.api.rates import Rates

RATES = st.tuples(st.integers(1, 100_000), st.integers(1, 50))
PAUSES = st.lists(st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0, 120)), min_size=1, max_size=80)


@given(rate=RATES, pauses=PAUSES, began_s=st.floats(0, 1e7))
def test_never_more_than_the_rule_and_never_less(rate: tuple[int, int], pauses: list[float], began_s: float) -> None:
    per_minute, burst = rate
    rates = Rates(per_minute, burst)
    each_s, now_s, level = 60 / per_minute, began_s, 0.0
    passed: list[float] = []
    for pause in pauses:
        now_s += pause
        level = max(0.0, level - pause / each_s)  # requests that the bucket is short of
        taken = rates.take("a", now_s)
        assert taken is not None
        if taken.passes:
            level += 1
            passed.append(now_s)
            assert level <= burst + 1e-3  # R1, at this moment
        else:
            assert level + 1 > burst - 1e-3  # R2
            assert taken.remaining == 0
            assert taken.retry_after_s >= 1
        assert 0 <= taken.remaining <= burst
        assert taken.reset_s >= math.floor(level * each_s)
    for n, first in enumerate(passed):  # R1, in each span of time
        for count, last in enumerate(passed[n:], 1):
            assert count <= burst + (last - first) / each_s + 1e-3


@given(rate=RATES, began_s=st.floats(0, 1e7))
def test_what_is_told_is_so(rate: tuple[int, int], began_s: float) -> None:
    """`remaining` more pass at once, the next one does not, and after `retry_after_s` one does."""
    rates = Rates(*rate)
    taken = rates.take("a", began_s)
    assert taken is not None
    for left in range(taken.remaining, 0, -1):
        taken = rates.take("a", began_s)
        assert taken is not None
        assert taken.passes
        assert taken.remaining == left - 1
    refused = rates.take("a", began_s)
    assert refused is not None
    assert not refused.passes
    waited = rates.take("a", began_s + refused.retry_after_s)
    assert waited is not None
    assert waited.passes


def test_tokens_do_not_share() -> None:
    rates = Rates(60, 1)
    assert [taken.passes for token in ("a", "b", "a", "b") if (taken := rates.take(token, 5.0))] == [1, 1, 0, 0]


def test_nobody_is_limited_by_zero() -> None:
    rates = Rates(0, 1)
    assert {rates.take("a", 1.0) for _ in range(100)} == {None}
    assert len(rates) == 0


@pytest.mark.parametrize("asks_s", [0.001, 0.1])
def test_quiet_tokens_are_forgotten(asks_s: float) -> None:
    """R3: as many are remembered as asked within the time in which a bucket fills, doubled at most."""
    rates, window_s = Rates(600, 10), 1.0
    most = 0
    for n in range(20_000):
        rates.take(f"token {n}", n * asks_s)
        most = max(most, len(rates))
    assert most <= 1_025 + 2 * window_s / asks_s
