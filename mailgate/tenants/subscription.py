"""A tenant's subscription over time, and what it entitles to at an instant. Pure.

The timeline is a list of periods, each opened by an event. What holds at `now` is a function of (timeline, catalogue,
now) only:

* the period with the latest `effective_at` not after `now` is current (a later-recorded one wins between equals);
* `trialing` ends at `period_end` without grace; `active` and `canceled` run to `period_end`;
  `past_due` keeps the plan for `grace_days` after `period_end` (10 by default);
* after that the tenant is on Free with status `expired` (trials, periods nobody renewed) or `canceled` (grace over,
  cancellation);
* a period with no end runs until the next one begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mailgate.clock import DAY, Instant
from mailgate.tenants.catalogue import FREE, Catalogue, Plan


class Status(StrEnum):
    """A subscription's status, in the words that billing systems use."""

    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    CANCELED = "canceled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Period:
    """One period of a timeline; `period_end` None means open-ended; `seq` is the order of recording."""

    plan: str
    status: Status
    effective_at: Instant
    period_end: Instant | None
    seq: int
    auto_renew: bool = False
    seats: int | None = None


@dataclass(frozen=True, slots=True)
class Entitlements:
    """What holds at an instant.

    `known` is False when the plan is not in the catalogue: then nothing is purged and nothing is synced until an
    admin mends it. `since` is when this state began (the effective time of the plan that holds); `retention_days` is
    None when not known.
    """

    plan: str
    status: Status
    known: bool
    sync: bool
    retention_days: int | None
    since: Instant
    period_end: Instant | None
    limits: Plan | None


@dataclass(frozen=True, slots=True)
class SubscriptionRules:
    """Numbers of the rules; days."""

    grace_days: int = 10


def current_period(timeline: Sequence[Period], now: Instant) -> Period | None:
    """The period that governs `now`, or None before the first."""
    begun = [period for period in timeline if period.effective_at <= now]
    return max(begun, key=lambda period: (period.effective_at, period.seq), default=None)


def entitlements(
    timeline: Sequence[Period],
    catalogue: Catalogue,
    now: Instant,
    rules: SubscriptionRules = SubscriptionRules(),
) -> Entitlements:
    """What the tenant may do at `now`. A tenant without any period is on Free."""
    period = current_period(timeline, now)
    if period is None:
        return _entitled(catalogue, FREE, Status.ACTIVE, 0, None)
    end = _last_instant(period, rules)
    if end is not None and now >= end:
        status = Status.CANCELED if period.status in (Status.PAST_DUE, Status.CANCELED) else Status.EXPIRED
        return _entitled(catalogue, FREE, status, end, None)
    return _entitled(catalogue, period.plan, period.status, period.effective_at, period.period_end)


def next_change(
    timeline: Sequence[Period], now: Instant, rules: SubscriptionRules = SubscriptionRules()
) -> Instant | None:
    """The next instant after `now` at which the entitlements may change by themselves; None when never."""
    candidates = [period.effective_at for period in timeline if period.effective_at > now]
    period = current_period(timeline, now)
    if period is not None:
        end = _last_instant(period, rules)
        if end is not None and end > now:
            candidates.append(end)
    return min(candidates, default=None)


def _last_instant(period: Period, rules: SubscriptionRules) -> Instant | None:
    if period.period_end is None:
        return None
    return period.period_end + rules.grace_days * DAY if period.status is Status.PAST_DUE else period.period_end


def _entitled(
    catalogue: Catalogue, name: str, status: Status, since: Instant, period_end: Instant | None
) -> Entitlements:
    plan = catalogue.plan(name)
    if plan is None:
        return Entitlements(
            name, status, known=False, sync=False, retention_days=None, since=since, period_end=period_end, limits=None
        )
    return Entitlements(name, status, True, plan.sync, plan.retention_days, since, period_end, plan)
