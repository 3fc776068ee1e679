"""Once a minute this process says that it serves and, if nobody else has, how the gateway stands."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mailgate import __version__
from mailgate.clock import HOUR, Clock, Instant
from mailgate.store import figures, samples
from mailgate.store.database import Database
from mailgate.store.samples import Process

_STATM = Path("/proc/self/statm")


class Sampler:
    """The sampling of one process, called `owner` in leases."""

    def __init__(self, db: Database, owner: str, clock: Clock) -> None:
        self._db = db
        self._owner = owner
        self._clock = clock
        self._started_at = clock()
        self._last = (time.monotonic(), time.process_time())
        self._blobs_at: Instant | None = None

    async def work(self) -> None:
        """One turn."""
        now = self._clock()
        process = self._process(now)
        measured = None
        if await samples.missing(self._db, now):
            measured = await figures.measure(self._db, now)
            serving = await samples.serving(self._db, now)
            everybody = [process, *(other for other in serving if other.owner != self._owner)]
            measured |= {
                "processes": len(everybody),
                "load": sum(each.load for each in everybody) / 1_000,
                "memory": sum(each.memory for each in everybody),
            }
            if self._blobs_at is None or not 0 <= now - self._blobs_at < HOUR:
                measured["blobs"] = await figures.blobs_size(self._db)
                self._blobs_at = now
        await samples.put(self._db, process, measured, now)

    async def leave(self) -> None:
        """The process ends."""
        await samples.forget(self._db, self._owner)

    def _process(self, now: Instant) -> Process:
        wall, used = time.monotonic(), time.process_time()
        elapsed = wall - self._last[0]
        load = (used - self._last[1]) / elapsed if elapsed > 1 else 0.0
        self._last = (wall, used)
        return Process(
            owner=self._owner,
            version=__version__,
            started_at=self._started_at,
            seen_at=now,
            memory=_resident(),
            processor_ms=round(used * 1_000),
            load=round(load * 1_000),
        )


def _resident() -> int:
    """Bytes of this process in memory, where Linux says it; else 0."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
