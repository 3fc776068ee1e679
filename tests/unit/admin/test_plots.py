"""Figures over time, and the lines that they make."""

from __future__ import annotations

import re

from mailgate.admin.plots import line
from mailgate.admin.system import measured_of, worst_of
from mailgate.admin.system_words import FIGURES, Figure
from mailgate.clock import MINUTE
from mailgate.store.samples import Sample

GROWS = Figure("position", "x", lambda _words, value: str(value), grows=True)


def samples(*pairs: tuple[int, float]) -> list[Sample]:
    return [Sample(minute * MINUTE, {"position": value}) for minute, value in pairs]


def test_what_grows_is_shown_as_its_growth_and_gaps_stay_gaps() -> None:
    found = measured_of(GROWS, samples((1, 10), (2, 15), (3, 15), (5, 90), (6, 91), (7, 3), (8, 5)))
    assert found == [(2 * MINUTE, 5), (3 * MINUTE, 0), (6 * MINUTE, 1), (8 * MINUTE, 2)]
    assert measured_of(FIGURES[0], samples((1, 10))) == []


def test_the_worst_of_each_stretch() -> None:
    measured = [(0, 3.0), (MINUTE, 9.0), (2 * MINUTE, 1.0), (7 * MINUTE, 4.0), (99 * MINUTE, 5.0)]
    assert worst_of(measured, 0, 2 * MINUTE, 4) == [9.0, 1.0, None, 4.0]
    assert worst_of(measured, MINUTE, MINUTE, 1) == [9.0]
    assert worst_of([], 0, MINUTE, 2) == [None, None]


def test_a_line_has_gaps_and_is_text_wherever_words_stand() -> None:
    drawn = str(line([1, 2, None, 4, None], "<b>4</b>", ("a&b", "now"), ["one", "two", "", "<four>", ""]))
    assert drawn.count("<polyline") == 1
    assert drawn.count("<circle") == 1
    assert drawn.count("<title>") == 3
    assert "&lt;four&gt;" in drawn
    assert "<b>" not in drawn
    assert "style=" not in drawn
    ys = [float(pair.split(",")[1]) for pair in re.findall(r'polyline points="([^"]*)"', drawn)[0].split()]
    assert ys == sorted(ys, reverse=True)


def test_a_line_of_nothing_lies_on_the_ground() -> None:
    assert "nan" not in str(line([0, 0], "0", ("", ""), ["", ""]))
    assert "<svg" in str(line([5], "5", ("", ""), ["five"]))
    assert "<svg" in str(line([], "0", ("", ""), []))
