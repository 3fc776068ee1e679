"""The latest time on record, by which a clock that jumped is known before anything is purged or forgotten by it."""

from __future__ import annotations

from functools import partial

from mailgate.clock import Clock, Instant, to_rfc3339
from mailgate.errors import UnavailableError
from mailgate.store import installation
from mailgate.store.database import Database
from retention.policy import ClockLimits, clock_fault


class LatestTime:
    """What the installation knows of the time, whichever process wrote it down."""

    def __init__(self, db: Database, limits: ClockLimits) -> None:
        self._db = db
        self._limits = limits

    async def fault(self, now: Instant) -> str | None:
        """Which way the clock jumped, if it is `now` by it; None when it is sane."""
        return clock_fault(now, await self.last(), self._limits)

    async def anomaly(self, now: Instant) -> str | None:
        """The same in words."""
        last = await self.last()
        fault = clock_fault(now, last, self._limits)
        return None if fault is None else jumped(fault, now, last)

    async def last(self) -> Instant | None:
        """The latest time on record."""
        async with self._db.read() as conn:
            return await installation.latest_time(conn)

    async def mark(self, now: Instant, *, force: bool = False) -> None:
        """Move it to `now`; back only by `force`: a person approved the clock."""
        await self._db.transact(partial(installation.mark_time, now=now, force=force))


def jumped(fault: str, now: Instant, last: Instant | None) -> str:
    """What is wrong with the clock, in words."""
    return f"the clock went {fault}: it is {to_rfc3339(now)}, the latest time on record is {to_rfc3339(last or 0)}"


class SteadyClock:
    """The clock of a run: plans end by it, batch by batch. When it jumped since the last batch, nothing more is purged:
    the run stays as it is, and goes on when the clock is right or was approved.
    """

    def __init__(self, clock: Clock, limits: ClockLimits) -> None:
        self._clock = clock
        self._limits = limits
        self.last_at: Instant | None = None

    def __call__(self) -> Instant:
        """The time. Raises UnavailableError (clock_jumped)."""
        now = self._clock()
        fault = clock_fault(now, self.last_at, self._limits)
        if fault is not None:
            raise UnavailableError(
                f"{jumped(fault, now, self.last_at)}. The purge waits until it is right, or approved (approve_clock)",
                slug="clock_jumped",
            )
        self.last_at = now if self.last_at is None else max(now, self.last_at)
        return now
