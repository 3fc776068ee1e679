"""Plots: bars and lines as SVG that stands in the page, with no script and no style of its own. The same numbers stand
in a table beside each, so a screen reader is told to pass the picture by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDE, NARROW = 1_000, 560
_HEIGHT = 160
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 20, 22
_LABELS = 7
_BAR = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="bar {}"><title>{}</title></rect>')


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar. `label` stands below, `title` is said when it is pointed at, `tone` is a class: good, bad, or none."""

    value: float
    label: str
    title: str
    tone: str = ""


def bars(entries: Sequence[Bar], highest: str, width: int = WIDE) -> Markup:
    """The bars from left to right; `highest` says what the line at the top stands for. `width`: WIDE or NARROW."""
    inner, low = width - _LEFT - _RIGHT, _HEIGHT - _BOTTOM
    step = inner / max(1, len(entries))
    wide = min(max(1.0, step - (2 if step > 5 else 0.5)), 42.0)
    most = max((entry.value for entry in entries), default=0) or 1
    each = max(1, -(-len(entries) // _LABELS))
    drawn = [
        Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" class="grid"/>').format(_LEFT, width - _RIGHT, y, y)
        for y in (_TOP, (_TOP + low) / 2)
    ]
    for number, entry in enumerate(entries):
        middle = _LEFT + step * (number + 0.5)
        high = (low - _TOP) * entry.value / most
        if entry.value:
            high = max(high, 2.0)  # little is not nothing
            shape = Markup(
                '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="bar {}"><title>{}</title></rect>'
            )
            drawn.append(shape.format(middle - wide / 2, low - high, wide, high, entry.tone, entry.title))
        if number % each == 0:
            edge = number == 0 and step < 40
            at, anchor = (middle - wide / 2, "start") if edge else (middle, "middle")
            written = Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>')
            drawn.append(written.format(at, _HEIGHT - 6, anchor, entry.label))
    drawn.append(Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" class="base"/>').format(_LEFT, width - _RIGHT, low, low))
    drawn.append(Markup('<text x="{}" y="{}">{}</text>').format(_LEFT, _TOP - 6, highest))
    frame = Markup('<svg class="plot{}" viewBox="0 0 {} {}" aria-hidden="true" focusable="false">{}</svg>')
    return frame.format(" wide" if width == WIDE else "", width, _HEIGHT, Markup("").join(drawn))


SMALL = 360
_LOW = 96


def line(values: Sequence[float | None], highest: str, ends: tuple[str, str], titles: Sequence[str]) -> Markup:
    """A small line from left to right, as high as the largest value, with gaps where nothing was measured (None).
    `highest` says what the top stands for, `ends` what stands below its ends, `titles` what is said of each value.
    """
    inner, low = SMALL - _LEFT - _RIGHT, _LOW - _BOTTOM
    most = max((value for value in values if value is not None), default=0) or 1
    step = inner / max(1, len(values) - 1)
    points = [
        None if value is None else (_LEFT + step * number, low - (low - _TOP) * value / most)
        for number, value in enumerate(values)
    ]
    drawn = [Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" class="grid"/>').format(_LEFT, SMALL - _RIGHT, _TOP, _TOP)]
    for run in _runs(points):
        if len(run) == 1:
            drawn.append(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="1.5" class="dot"/>').format(*run[0]))
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
        area = f"{run[0][0]:.1f},{low} {path} {run[-1][0]:.1f},{low}"
        shape = Markup('<polygon points="{}" class="area"/><polyline points="{}" class="line"/>')
        drawn.append(shape.format(area, path))
    half = max(step / 2, 1.0)
    for number, (value, title) in enumerate(zip(values, titles, strict=True)):
        if value is not None:
            shape = Markup('<rect x="{:.1f}" y="{}" width="{:.1f}" height="{}" class="seen"><title>{}</title></rect>')
            drawn.append(shape.format(_LEFT + step * number - half, _TOP, 2 * half, low - _TOP, title))
    base = Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" class="base"/><text x="{}" y="{}">{}</text>')
    drawn.append(base.format(_LEFT, SMALL - _RIGHT, low, low, _LEFT, _TOP - 6, highest))
    for text, x, anchor in ((ends[0], _LEFT, "start"), (ends[1], SMALL - _RIGHT, "end")):
        drawn.append(Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, _LOW - 6, anchor, text))
    frame = Markup('<svg class="plot small" viewBox="0 0 {} {}" aria-hidden="true" focusable="false">{}</svg>')
    return frame.format(SMALL, _LOW, Markup("").join(drawn))


def _runs(points: Sequence[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """The points without gaps between them."""
    found: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is not None:
            found[-1].append(point)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]
