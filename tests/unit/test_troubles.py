"""What fails again and again is said once, and tried ever more seldom, up to a bound."""

from __future__ import annotations

from mailgate.troubles import LONGEST_PAUSE_S, Trouble


def test_it_is_said_once_until_it_changes_or_is_over() -> None:
    trouble = Trouble()
    assert [trouble.met("full"), trouble.met("full"), trouble.met("away"), trouble.met("full")] == [1, 0, 1, 1]
    assert (trouble.over(), trouble.over()) == (4, 0)
    assert trouble.met("full")


def test_pauses_grow_with_jitter_up_to_the_bound() -> None:
    trouble = Trouble()
    assert trouble.pause_s == 0
    most = [1.0, 2.0, 4.0, 8.0, 16.0, *[LONGEST_PAUSE_S] * 2_000]
    for bound in most:
        trouble.met("full")
        assert bound / 2 <= trouble.pause_s <= bound
    assert trouble.pause_s != trouble.pause_s  # drawn anew
    trouble.over()
    assert trouble.pause_s == 0
