"""Subscriptions as a whole: what holds and is used now, what will happen, and the commands."""

from __future__ import annotations

from dataclasses import dataclass

from mailgate.actors import Actor
from mailgate.clock import DAY, Instant
from mailgate.store import notices
from mailgate.store.notices import Notice
from mailgate.store.plan_limits import seats_of
from mailgate.store.usage import Usage, usage
from mailgate.tenants.commands import Wish
from mailgate.tenants.entitlements import Entitlements
from mailgate.tenants.timeline import BEGINNING, Period
from mailgate.usecases.parts import Services


@dataclass(frozen=True, slots=True)
class Standing:
    """The subscription at one instant: the period, what it entitles to, what is used of it. `since`: since when the
    plan has held without a break; None: from the beginning.
    """

    period: Period
    holds: Entitlements
    used: Usage
    since: Instant | None

    @property
    def period_start(self) -> Instant | None:
        """When what is paid began; None when nothing ever happened."""
        return None if self.period.cause_type is None else self.period.period_start

    @property
    def seats(self) -> int | None:
        """How many users there may be; None: no limit."""
        return seats_of(self.holds)

    @property
    def storage_bytes(self) -> int | None:
        """How large all copies together may be; None: no limit."""
        return self.holds.limits.storage_bytes if self.holds.limits else None

    @property
    def storage_exceeded(self) -> bool:
        """Whether more is used than that."""
        return self.storage_bytes is not None and self.used.storage_bytes > self.storage_bytes

    @property
    def sent_left(self) -> int | None:
        """Messages that may still be sent this month; None: no limit."""
        most = self.holds.limits.sent_per_month if self.holds.limits else None
        return None if most is None else max(0, most - self.used.sent)


async def standing(parts: Services, tenant_id: str, *, after: Instant = BEGINNING) -> Standing:
    """How it stands now, with all that was recorded up to `after`."""
    now = max(parts.clock(), after)
    line = await parts.subscriptions.timeline(tenant_id)
    since = line.plan_since(now)
    used = await usage(parts.db, parts.expiry, tenant_id, now)
    return Standing(line.at(now), parts.subscriptions.judge(line, now), used, None if since == BEGINNING else since)


async def coming(parts: Services, tenant_id: str) -> list[Notice]:
    """What will happen by itself within the days ahead that `plans.notice_days` names."""
    now = parts.clock()
    until = now + max(parts.settings.plans.notice_days, default=0) * DAY
    return await notices.upcoming_for(parts.db, parts.subscriptions, parts.expiry, tenant_id, now, until)


async def command(parts: Services, tenant_id: str, wish: Wish, actor: Actor) -> Instant:
    """Do what was asked for, if the rules allow it; from when on it counts. Raises what `Subscriptions.command`
    raises.
    """
    done = await parts.subscriptions.command(tenant_id, wish, parts.clock(), actor)
    parts.sync.changed()
    return done.at
