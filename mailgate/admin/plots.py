"""Plots: bars as SVG that stands in the page, with no script and no style of its own. The same numbers stand in a table
beside each, so a screen reader is told to pass the picture by.
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
