"""When a delivery is tried again, and when an endpoint is given up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.clock import DAY, HOUR, MINUTE, SECOND, Instant
from mailgate.webhooks.model import Answer, PauseReason
from mailgate.webhooks.retries import LONGEST_ASKED, PAUSES, SPREAD, asked_pause, decide, pause

NOW: Instant = 20_000 * DAY
GIVE_UP = 3 * DAY
REFUSED = Answer(500)


def test_pauses_grow_and_end_at_the_last() -> None:
    assert list(PAUSES) == sorted(PAUSES)
    assert PAUSES[0] == 5 * SECOND
    for attempts in range(1, 30):
        base = PAUSES[min(attempts, len(PAUSES)) - 1]
        assert abs(pause(attempts, "a") - base) <= base * SPREAD // 100


def test_the_table_in_the_docs_is_this_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| \d+(?: and later)? \| (\d+) (s|min|h) \|$", page, re.MULTILINE)
    assert [int(number) * {"s": SECOND, "min": MINUTE, "h": HOUR}[unit] for number, unit in cells] == list(PAUSES)


def test_the_spread_is_the_same_each_time_and_another_for_others() -> None:
    assert pause(3, "a") == pause(3, "a")
    assert len({pause(3, f"key {n}") for n in range(50)}) > 20


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, 0),
        ("120", 120 * SECOND),
        (" 7 ", 7 * SECOND),
        ("999999999999", LONGEST_ASKED),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("", 0),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 0),
        ("Wed, 01 Jan 9999 00:00:00 GMT", LONGEST_ASKED),
        ("Thu, 04 Oct 2024 99:00:00 GMT", 0),
    ],
)
def test_what_retry_after_asks_for(text: str | None, wanted: Instant) -> None:
    assert asked_pause(text, NOW) == wanted


@given(st.text(max_size=40))
def test_any_retry_after_is_within_bounds(text: str) -> None:
    assert 0 <= asked_pause(text, NOW) <= LONGEST_ASKED


def test_only_2xx_is_delivered() -> None:
    for status in range(100, 600):
        answer = Answer(status)
        assert answer.delivered == (200 <= status < 300)
    assert not Answer(error="no line").delivered
    assert "not followed" in Answer(302).words


def test_gone_pauses_at_once() -> None:
    verdict = decide(Answer(410), attempts=1, since_at=NOW, now=NOW, give_up=GIVE_UP, key="a")
    assert verdict.pause is PauseReason.GONE


def test_a_receiver_may_ask_for_more_but_not_for_less() -> None:
    longer = decide(Answer(429, retry_after="3600"), attempts=1, since_at=NOW, now=NOW, give_up=GIVE_UP, key="a")
    assert longer.next_at == NOW + HOUR
    shorter = decide(Answer(503, retry_after="0"), attempts=1, since_at=NOW, now=NOW, give_up=GIVE_UP, key="a")
    assert shorter.next_at == NOW + pause(1, "a")


def test_for_three_days_then_paused() -> None:
    now, attempts, times = NOW, 0, []
    while True:
        attempts += 1
        verdict = decide(REFUSED, attempts=attempts, since_at=NOW, now=now, give_up=GIVE_UP, key="a")
        if verdict.next_at is None:
            break
        assert verdict.next_at > now
        times.append(now := verdict.next_at)
    assert verdict.pause is PauseReason.FAILING
    assert now == NOW + GIVE_UP  # the last attempt is made when the time is over
    assert 15 <= attempts <= 30
