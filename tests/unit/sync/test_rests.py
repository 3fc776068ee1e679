"""When folders that can't be read are tried again."""

from __future__ import annotations

from dataclasses import replace

from mailgate.clock import HOUR, MINUTE, SECOND
from mailgate.sync.rests import ENOUGH, LONGEST, Rests
from mailgate.sync.state import FolderState

NOW = 1_800_000_000_000_000
ONE = FolderState("a", "A", None, True, True)
OTHER = replace(ONE, id="b", name="B")


def test_it_is_tried_at_the_next_pass_then_ever_more_seldom_and_within_each_hour() -> None:
    rests, now = Rests(300), NOW
    assert not rests.resting(ONE, now)
    assert rests.failed(ONE, now) is None
    assert not rests.resting(ONE, now)
    assert rests.failed(ONE, now + SECOND) is None  # the import's pass, and the one that follows at once
    for pause in (5 * MINUTE, 15 * MINUTE, 35 * MINUTE, *[LONGEST] * 100):
        now += HOUR
        assert rests.failed(ONE, now) == now + pause
    assert LONGEST + 5 * MINUTE <= HOUR
    assert rests.resting(ONE, now + LONGEST - 1)
    assert not rests.resting(ONE, now + LONGEST)
    assert not rests.resting(ONE, now - 1)  # the clock was set back
    assert not rests.resting(OTHER, now)
    rests.came(ONE.id)
    assert rests.failed(ONE, now) is None


def test_it_is_tried_at_once_when_it_is_listed_otherwise_or_somebody_asks() -> None:
    rests = Rests(300)
    for hours in range(3):
        rests.failed(ONE, NOW + hours * HOUR)
    now = NOW + 2 * HOUR
    assert rests.resting(replace(ONE, last_error="no"), now)
    assert not rests.resting(replace(ONE, name="C"), now)
    rests.wake()
    assert not rests.resting(ONE, now)
    assert rests.failed(ONE, now + HOUR) == now + HOUR + 35 * MINUTE


def test_a_folder_that_ends_each_line_rests_and_one_that_is_met_in_an_outage_not_for_long() -> None:
    rests = Rests(300)
    assert not rests.ended_lines(ONE.id)
    assert [rests.ended_the_line(ONE, NOW) for _ in range(ENOUGH - 1)] == [None] * (ENOUGH - 1)
    assert rests.ended_lines(ONE.id)
    assert rests.ended_the_line(ONE, NOW) == NOW + 5 * MINUTE
    assert rests.ended_the_line(ONE, NOW) == NOW + 5 * MINUTE
    rests.came(OTHER.id)
    assert rests.resting(ONE, NOW)
    assert rests.ended_the_line(ONE, NOW) == NOW + 10 * MINUTE
    assert rests.ended_the_line(ONE, NOW) == NOW + 10 * MINUTE
    for _ in range(200):
        rests.came(OTHER.id)
        last = rests.ended_the_line(ONE, NOW)
    assert last == NOW + LONGEST
    rests.came(ONE.id)
    assert rests.ended_the_line(ONE, NOW) is None
