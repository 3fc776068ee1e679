"""Retention: what will go, what went, what was kept? Alarms, the preview, the purges with their certificates."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from mailgate.admin.languages import marked
from mailgate.admin.page import Page, Route
from mailgate.admin.people import names
from mailgate.admin.plots import NARROW, WIDE, Bar, bars
from mailgate.admin.purge_words import ALARMS, KEPT, PASSED, REASONS, TRIGGERS
from mailgate.admin.words import RUN_STATES
from mailgate.clock import DAY, SECOND, Instant, from_rfc3339, monotonic_s, to_rfc3339
from mailgate.errors import PreconditionError
from mailgate.ids import is_id
from mailgate.store import runs
from mailgate.store.preview import Days
from mailgate.store.runs import RunRecord
from mailgate.store.users import Role
from mailgate.usecases import retention
from mailgate.usecases.cursors import Cursors
from mailgate.usecases.parts import Services
from retention.engine import Preview
from retention.ledger.certificate_page import POLICY
from retention.model import Sum

ON_A_PAGE = 30
_ALARMS_SHOWN = 50
_HOLDS_SHOWN = 200
_BY_DAY = 92
"""So many days are shown one by one; what is longer, week by week."""
_LONGEST = 366
_SHARE = 10
"""Counting all tenants takes at most one part in so many of the time."""
_LONGEST_KEPT_S = 60.0
_MOST_KEPT = 20
NOT_HALTED = marked("This purge was not halted: there is nothing to approve.")
_CERTIFICATE_POLICY = f"{POLICY}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class Ahead:
    """A stretch of the days ahead, and what becomes due in it."""

    begins: Instant
    ends: Instant
    due: Sum


async def show(page: Page) -> Response:
    """Alarms, and what is due when: at once the frame, and what has to be counted when it is asked for."""
    filters = {name: page.query(name) for name in ("tenant", "plan", "at")}
    tenant_id = retention.tenant_of(page.who.tenant_id, filters["tenant"] or None)
    asked = any(filters.values()) or page.query("show") == "1"
    seen: dict[str, Any] = {"preview": None}
    fault = None
    if asked:
        try:
            seen = await _preview(page, tenant_id, filters)
        except PreconditionError as error:
            fault = page.why(error)
    alarms = await page.parts.alarms.page(tenant_id=page.who.tenant_id, standing=True, limit=_ALARMS_SHOWN)
    values = {name: value for name, value in filters.items() if value}
    return page.render(
        "retention.html",
        status=200 if fault is None else 422,
        filters=filters,
        tenant_id=tenant_id,
        fault=fault,
        alarms=alarms.items,
        alarm_words=ALARMS,
        plans=page.parts.subscriptions.catalogue.ranked(),
        reasons=REASONS,
        kept=KEPT,
        asked=asked,
        again=f"/admin/retention?{urlencode({**values, 'show': '1'})}",
        tomorrow=to_rfc3339(page.now + DAY)[:10],
        **seen,
    )


async def list_runs(page: Page) -> Response:
    """Purges, newest first: how much each took, and how long."""
    tenant_id = retention.tenant_of(page.who.tenant_id, page.query("tenant") or None)
    cursors = Cursors("pages/runs", (str,), tenant_id)
    found = await page.parts.retention.list_page(
        tenant_id=tenant_id, after=cursors.after(page.query("cursor", 2_000) or None), limit=ON_A_PAGE
    )
    following = cursors.write(found.next_key)
    query = {"tenant": page.query("tenant"), "cursor": following or ""}
    words = page.language
    done = [run for run in reversed(found.items) if run.finished_at is not None and not run.dry_run]
    purged = [
        Bar(
            run.counts.get("purged", 0),
            words.short_day(run.started_at),
            f"{words.moment(run.started_at)}: {words.number(run.counts.get('purged', 0))}",
            "bad" if run.state != runs.COMPLETED else "",
        )
        for run in done
    ]
    lasted = [
        Bar(seconds, words.short_day(run.started_at), f"{words.moment(run.started_at)}: {words.lasting(seconds)}")
        for run in done
        if (seconds := duration_s(run)) is not None
    ]
    return page.render(
        "retention_runs.html",
        runs=found.items,
        tenant=page.query("tenant"),
        states=RUN_STATES,
        duration_s=duration_s,
        purged=_plot(purged, words.number(max((bar.value for bar in purged), default=0)), NARROW),
        lasted=_plot(lasted, words.lasting(max((bar.value for bar in lasted), default=0)), NARROW),
        next=None
        if following is None
        else f"/admin/retention/runs?{urlencode({name: value for name, value in query.items() if value})}",
    )


async def show_run(page: Page) -> Response:
    """One purge: counts that balance, why copies stayed, why it stopped and what can be done about that."""
    return await _render_run(page)


async def approve(page: Page) -> Response:
    """Ask for the same purge again, past what halted this one; the purge log names the approval."""
    run = await _run(page)
    halt = halted_by(run)
    if halt is None:
        return await _render_run(page, status=409, fault=page.text(NOT_HALTED))
    asked = await page.parts.retention.request_run(
        actor=page.who.actor,
        tenant_id=run.tenant_id,
        approve_brake=halt == "brake",
        approve_clock=halt == "clock",
        approve_up_to=run.counts.get("stopped"),
    )
    return page.go(f"/admin/retention/runs/{asked.id}", "run_approved")


async def certificate(page: Page) -> Response:
    """The run's certificate, to be printed."""
    tenant_id = retention.tenant_of(page.who.tenant_id, page.query("tenant") or None)
    run_id = _run_id(page)
    made = await retention.certificate_page_of(page.parts, run_id, tenant_id)
    return HTMLResponse(made, headers={"content-security-policy": _CERTIFICATE_POLICY})


def duration_s(run: RunRecord) -> float | None:
    """How long a purge took; None while it has not ended."""
    return None if run.finished_at is None else max(0, run.finished_at - run.started_at) / SECOND


def halted_by(run: RunRecord) -> str | None:
    """What stopped a purge and can be approved: brake or clock."""
    if run.state != runs.HALTED or run.dry_run:
        return None
    return "brake" if run.counts.get("halted") else "clock"


async def _render_run(page: Page, *, status: int = 200, fault: str | None = None) -> Response:
    run = await _run(page)
    approved = (run.policy or {}).get("approved", ())
    return page.render(
        "retention_run.html",
        status=status,
        run=run,
        fault=fault,
        names=await names(page, [str(run.actor)]),
        states=RUN_STATES,
        triggers=TRIGGERS,
        passed=PASSED,
        reasons=REASONS,
        kept=KEPT,
        halt=halted_by(run),
        approved=approved,
        seconds=duration_s(run),
        certified=run.finished_at is not None and not run.dry_run and run.state in (runs.COMPLETED, runs.HALTED),
    )


async def _run(page: Page) -> RunRecord:
    return await retention.run_of(page.parts, page.who.tenant_id, _run_id(page))


def _run_id(page: Page) -> str:
    run_id = page.param("run_id")
    return run_id if is_id(run_id) else ""


_Counted = tuple[Preview, list[Instant], Instant, list[Sum]]


class Everybodys:
    """What was counted of all tenants. That takes seconds where there are many, so it is done once at a time, and what
    took long is counted less often; the page says of which time it is.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._known: OrderedDict[tuple[Instant | None, str | None], tuple[float, _Counted]] = OrderedDict()

    async def of(self, parts: Services, at: Instant | None, plan: str | None) -> _Counted:
        """The same for this time and plan."""
        async with self._turn:
            began = monotonic_s()
            until, made = self._known.get((at, plan), (0.0, None))
            if made is None or until <= began:
                made = await _count(parts, None, at, plan)
                ended = monotonic_s()
                self._known[at, plan] = ended + min(_SHARE * (ended - began), _LONGEST_KEPT_S), made
                self._known.move_to_end((at, plan))
                if len(self._known) > _MOST_KEPT:
                    self._known.popitem(last=False)
            return made


async def _count(parts: Services, tenant_id: str | None, at: Instant | None, plan: str | None) -> _Counted:
    """The preview, when the stretches ahead begin, how long one is, and what becomes due by each."""
    found = await parts.retention.preview(tenant_id, at, plan)
    kept = found.rules.days if found.rules is not None else await retention.longest_days(parts, plan)
    window = min(max(kept or 0, 28), _LONGEST)
    step = DAY if window <= _BY_DAY else 7 * DAY
    start = found.now_at
    first = (start // DAY + 1) * DAY  # days are whole days in UTC, but for what is left of the first
    turns = [start, *(first + n * step for n in range(-(-window * DAY // step)))]
    days = Days(start, first - 1, step, len(turns) - 1)  # what is due at midnight belongs to the day that begins
    return found, turns, step, await retention.ahead(parts, tenant_id, days, plan)


def _everybodys(page: Page) -> Everybodys:
    state = page.request.app.state
    if not hasattr(state, "everybodys_preview"):
        state.everybodys_preview = Everybodys()
    kept: Everybodys = state.everybodys_preview
    return kept


async def _preview(page: Page, tenant_id: str | None, filters: dict[str, str]) -> dict[str, Any]:
    plan = filters["plan"] or None
    at = None
    if filters["at"]:
        try:
            at = from_rfc3339(f"{filters['at']}T00:00:00Z")
        except (ValueError, OverflowError):
            raise PreconditionError("write the date as YYYY-MM-DD", slug="invalid") from None
    if tenant_id is None:
        found, turns, step, sums = await _everybodys(page).of(page.parts, at, plan)
    else:
        found, turns, step, sums = await _count(page.parts, tenant_id, at, plan)
    ahead = [Ahead(begins, ends, due) for begins, ends, due in zip(turns, turns[1:], sums[1:], strict=False)]
    last = max((n for n, one in enumerate(ahead) if one.due.copies), default=0)
    ahead = ahead[: max(last + 2, 28 * DAY // step)]  # what follows is empty
    words = page.language
    drawn = [
        Bar(one.due.copies, words.short_day(one.begins), f"{words.day(one.begins)}: {words.number(one.due.copies)}")
        for one in ahead
    ]
    return {
        "preview": found,
        "now_due": sums[0],
        "ahead": ahead,
        "by_week": step != DAY,
        "plot": _plot(drawn, words.number(max((bar.value for bar in drawn), default=0))),
    }


def _plot(drawn: list[Bar], highest: str, width: int = WIDE) -> Markup | None:
    return bars(drawn, highest, width) if any(bar.value for bar in drawn) else None


ROUTES = (
    Route("GET", "/retention", show),
    Route("GET", "/retention/runs", list_runs),
    Route("GET", "/retention/runs/{run_id}", show_run),
    Route("POST", "/retention/runs/{run_id}/approve", approve, Role.ADMIN),
    Route("GET", "/retention/runs/{run_id}/certificate", certificate),
)
