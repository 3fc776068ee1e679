"""What the schedule does to a core beside purging: sign logs, look at alarms, give notices, rotate keys, forget."""

from __future__ import annotations

import asyncio

import structlog

from mailgate.actors import SCHEDULE
from mailgate.app.core import Core
from mailgate.clock import DAY, MINUTE
from mailgate.errors import UnavailableError
from mailgate.jobs.scheduler import Intervals
from mailgate.settings import Settings
from mailgate.store import notices, orphans, overview, tenants
from mailgate.store.log_reading import LogDivergedError
from mailgate.store.prune import prune as prune_rows

_log = structlog.get_logger("mailgate.app")


class Upkeep:
    """What each tick does; `mailgate.jobs.scheduler` says when."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def sign(self) -> None:
        """Sign every log that grew. One that diverged raises an alarm and holds up no other."""
        core = self._core
        diverged: dict[str, str] = {}
        for tenant_id in await overview.unsigned_logs(core.db):
            tenant = await tenants.get(core.db, tenant_id, erased=True)
            try:
                await core.log_reader.checkpoint(tenant, core.clock())
            except LogDivergedError as error:
                diverged[tenant_id] = error.detail
            except UnavailableError as error:  # another process signs this one, or the witness is away
                _log.warning("log_not_signed", tenant=tenant_id, detail=error.detail)
        core.alarms.signing(diverged)

    async def look_at_alarms(self) -> None:
        """Raise and clear alarms."""
        await self._core.alarms.look(self._core.clock())

    async def give_notices(self) -> None:
        """Tell of what subscriptions will lead to."""
        core = self._core
        days_ahead = core.settings.plans.notice_days
        await notices.give(core.db, core.subscriptions, core.expiry, days_ahead, core.clock())

    async def rotate_keys(self) -> None:
        """Destroys keys by the time that it is: a clock that jumped must not."""
        core = self._core
        if core.settings.keys.rotate == "monthly" and await core.retention.note_time(core.clock()) is None:
            await core.keys.look(SCHEDULE)

    async def prune(self) -> None:
        """Forgets by the time that it is: a clock that jumped must not, tombstones and the access log least of all."""
        core = self._core
        if await core.retention.note_time(core.clock()) is not None:
            return
        await prune_rows(
            core.db,
            core.clock(),
            longest_days=core.catalogue.longest_days,
            idempotency_hours=core.settings.limits.idempotency_hours,
            event_days=core.settings.events.keep_days,
            delivery_days=core.settings.webhooks.keep_days,
            access_days=core.settings.access_log.keep_days,
            idle=core.settings.pages.idle_minutes * MINUTE,
            link_days=core.settings.onboarding.link_keep_days,
        )
        await asyncio.to_thread(core.blobs.sweep, core.clock() - DAY)
        await core.send_queue.forget_ended(core.clock())
        swept = await orphans.sweep(core.db, core.blobs, core.clock() - DAY)
        if swept:
            _log.info("orphans_swept", objects=swept)


def intervals_of(settings: Settings) -> Intervals:
    """The schedule that the settings ask for."""
    return Intervals(
        purge=settings.retention.purge_interval_s,
        erase=settings.retention.erase_interval_s,
        sign=settings.ledger.sign_interval_s,
        stamp=settings.ledger.sign_interval_s,
    )
