"""The system: is the gateway well? Its parts, alarms, queues, storage, processes; its last hours as it measured them.

Only for who is bound to no tenant: it is about the whole installation.
"""

from __future__ import annotations

import asyncio
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from markupsafe import Markup
from starlette.responses import Response

from mailgate import __version__
from mailgate.admin.languages import Language
from mailgate.admin.page import Page, Route
from mailgate.admin.plots import line
from mailgate.admin.purge_words import ALARMS
from mailgate.admin.system_words import FIGURES, HOURS, LEASES, PARTS, QUEUES, Figure
from mailgate.clock import HOUR, MINUTE, SECOND, Instant
from mailgate.keys import epoch_at
from mailgate.store import figures, samples
from mailgate.store.figures import Owned
from mailgate.store.samples import Process, Sample

_LARGEST = 10
_ALARMS_SHOWN = 50
_POINTS = 90
"""So many points a plot has at most; of the minutes that one stands for, it shows the worst."""
_ROWS = 24
"""So many rows the table has that says the same."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure over time: the picture, what it is now, and the worst of each stretch for the table."""

    name: str
    picture: Markup
    now: str
    worst: Sequence[str]


@dataclass(frozen=True, slots=True)
class Running:
    """A process with what it has. `process` None: nothing was heard of it lately, but leases are in its name."""

    owner: str
    process: Process | None
    owned: Owned


async def show(page: Page) -> Response:
    """Everything."""
    return page.render("system.html", **await _now(page), **await _past(page), **await _whole(page))


async def show_now(page: Page) -> Response:
    """The part that says how it is now."""
    return page.render("system_now.html", **await _now(page))


async def show_past(page: Page) -> Response:
    """The plots."""
    return page.render("system_past.html", **await _past(page))


async def _now(page: Page) -> dict[str, Any]:
    parts, db, now = page.parts, page.parts.db, page.now
    found = await asyncio.gather(*(check() for check in parts.health.values()))
    health = dict(zip(parts.health, found, strict=True))
    alarms = await parts.alarms.page(standing=True, limit=_ALARMS_SHOWN)
    lag, slowest = await figures.lag(db, now)
    queues = await figures.queues(db)
    serving = {process.owner: process for process in await samples.serving(db, now)}
    owned = await figures.owned(db, now)
    running = [Running(owner, serving.get(owner), owned.get(owner, Owned())) for owner in sorted({*serving, *owned})]
    return {
        "health": [(PARTS.get(name), name, part) for name, part in health.items()],
        "well": all(part.ok for part in health.values()),
        "ready": all(part.ok or not part.needed for part in health.values()),
        "alarms": alarms.items,
        "alarm_words": ALARMS,
        "lag": lag,
        "slowest": slowest,
        "queues": [(*QUEUES[name], getattr(queues, name)) for name in QUEUES],
        "running": running,
        "leases": LEASES,
        "uptime": lambda process: max(0, now - process.started_at) / SECOND,
    }


async def _past(page: Page) -> dict[str, Any]:
    """Made once a minute, when there are new samples; several people may look at it."""
    state = page.request.app.state
    if not hasattr(state, "system_past"):
        state.system_past = {}
    kept: dict[tuple[int, str], tuple[Instant, dict[str, Any]]] = state.system_past
    key, newest = (_hours(page), page.language.code), await samples.newest(page.parts.db, page.now)
    made_of, made = kept.get(key, (None, {}))
    if newest is None or made_of != newest:
        made = await _drawn(page)
        if newest is not None:
            kept[key] = newest, made
    return made


async def _drawn(page: Page) -> dict[str, Any]:
    hours = _hours(page)
    now = samples.minute_of(page.now)
    found = await samples.since(page.parts.db, now - hours * HOUR, page.now)
    width = max(MINUTE, hours * HOUR // _POINTS)
    moments = [page.language.moment(now + MINUTE - hours * HOUR + n * width) for n in range(hours * HOUR // width)]
    shown = [_plot(page.language, figure, found, now, hours, moments) for figure in FIGURES]
    starts = [now - hours * HOUR + n * hours * HOUR // _ROWS for n in range(_ROWS)]
    return {
        "plots": [plot for plot in shown if plot is not None],
        "starts": starts,
        "hours": hours,
        "choices": HOURS,
        "measured": len(found),
    }


async def _whole(page: Page) -> dict[str, Any]:
    """What hardly changes while somebody looks."""
    parts, db = page.parts, page.parts.db
    database, schema = await figures.versions(db)
    last = await samples.since(db, page.now - 2 * HOUR, page.now)
    return {
        "stored": await figures.stored(db, _LARGEST),
        "blobs": next((sample.figures["blobs"] for sample in reversed(last) if "blobs" in sample.figures), None),
        "disk": await asyncio.to_thread(_disk, parts.settings.blobs_url, parts.settings.data_dir),
        "keys": await figures.keys(db),
        "epoch": epoch_at(page.now),
        "rotates": parts.settings.keys.rotate,
        "logs": await figures.logs(db),
        "versions": {
            "mailgate": __version__,
            "Python": platform.python_version(),
            database.partition(" ")[0]: database.partition(" ")[2].partition(" ")[0],
            "schema": schema,
        },
    }


def _hours(page: Page) -> int:
    wanted = page.query("hours")
    return next((hours for hours in HOURS if str(hours) == wanted), HOURS[0])


def _plot(
    words: Language, figure: Figure, found: Sequence[Sample], now: Instant, hours: int, moments: Sequence[str]
) -> Plot | None:
    """The figure over the last hours, a point for each of the moments; None when nothing of it was measured."""
    measured = measured_of(figure, found)
    if not measured:
        return None
    start = now + MINUTE - hours * HOUR
    values = worst_of(measured, start, hours * HOUR // len(moments), len(moments))
    written = {value: figure.how(words, value) for value in values if value is not None}
    titles = [
        "" if value is None else f"{moment}: {written[value]}" for moment, value in zip(moments, values, strict=True)
    ]
    most = max((value for value in values if value is not None), default=0.0)
    step = hours * HOUR // _ROWS
    worst = worst_of(measured, now - hours * HOUR, step, _ROWS)
    ends = (words.clock(start), words.clock(now))
    picture = line(values, figure.how(words, most), ends, titles)
    latest = figure.how(words, measured[-1][1])
    return Plot(figure.name, picture, latest, ["–" if value is None else figure.how(words, value) for value in worst])


def measured_of(figure: Figure, found: Sequence[Sample]) -> list[tuple[Instant, float]]:
    """When it was measured, and as what. Of what grows: by how much in a minute since the sample before; that is not
    known after a gap, nor when it shrank (another feed began).
    """
    have = [(sample.at, float(sample.figures[figure.key])) for sample in found if figure.key in sample.figures]
    if not figure.grows:
        return have
    return [
        (at, value - before)
        for (since, before), (at, value) in pairwise(have)
        if at - since == MINUTE and value >= before
    ]


def worst_of(
    measured: Sequence[tuple[Instant, float]], start: Instant, width: Instant, count: int
) -> list[float | None]:
    """The largest value of each of `count` stretches of this width since `start`; None where nothing was measured."""
    found: list[float | None] = [None] * count
    for at, value in measured:
        number = (at - start) // width
        if 0 <= number < count:
            known = found[number]
            found[number] = value if known is None else max(known, value)
    return found


def _disk(blobs_url: str, data_dir: Path) -> tuple[int, int] | None:
    """Free and all bytes of the disk that blobs lie on, if they lie on one."""
    split = urlsplit(blobs_url)
    if split.scheme not in ("", "file"):
        return None
    folder = Path(unquote(split.path)) if split.path else data_dir
    try:
        usage = shutil.disk_usage(folder if folder.exists() else data_dir)
    except OSError:
        return None
    return usage.free, usage.total


ROUTES = (
    Route("GET", "/system", show, whole=True),
    Route("GET", "/system/now", show_now, whole=True),
    Route("GET", "/system/past", show_past, whole=True),
)
