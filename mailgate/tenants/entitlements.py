"""What a tenant may do at an instant: a function of (timeline, catalogue, now) only. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mailgate.clock import Instant
from mailgate.tenants.catalogue import Catalogue, Plan
from mailgate.tenants.timeline import Period, Status, Timeline


@dataclass(frozen=True, slots=True)
class Entitlements:
    """What holds at an instant.

    `known` is False when the plan is not in the catalogue: then nothing is purged and nothing is synced until an
    admin mends it. `since` is since when the plan has held without a break; `retention_days` is None when not known.
    """

    plan: str
    status: Status
    known: bool
    sync: bool
    retention_days: int | None
    since: Instant
    period_end: Instant | None
    limits: Plan | None
    seats: int | None = None
    """Seats that were bought; None: as many as the plan allows."""


def entitlements(line: Timeline, catalogue: Catalogue, now: Instant) -> Entitlements:
    """What the tenant may do at `now`. A tenant to which nothing ever happened is on Free."""
    return entitled(line.at(now), line.plan_since(now), catalogue)


def entitled(period: Period, since: Instant, catalogue: Catalogue) -> Entitlements:
    """What a period entitles to whose plan has held since `since`."""
    plan = catalogue.plan(period.plan)
    return Entitlements(
        plan=period.plan,
        status=period.status,
        known=plan is not None,
        sync=plan is not None and plan.sync,
        retention_days=None if plan is None else plan.retention_days,
        since=since,
        period_end=period.period_end,
        limits=plan,
        seats=period.seats,
    )
