"""What /readyz looks at. Each check says in words what is wrong and, where it can, what to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from mailgate.app.core import Core
from mailgate.clock import MINUTE, SECOND, Instant, to_rfc3339
from mailgate.errors import MailgateError
from mailgate.store import overview
from mailgate.usecases.parts import Health, HealthCheck

_PATIENCE_S = 5.0
_HELD_UP = (
    "nothing could be written for seconds: look for a program that holds the database (a backup, a shell), and at its "
    "disk"
)
_FRESH: Instant = 2 * SECOND
_EVENTS_WAIT: Instant = MINUTE


def _nothing() -> None:
    """Nothing is wrong."""


def checks(
    core: Core,
    running: Callable[[], Mapping[str, bool]],
    closed: Callable[[], str | None] = _nothing,
    preparing: Callable[[], str | None] = _nothing,
) -> dict[str, HealthCheck]:
    """The checks of a process; `running` says which of its parts do, `closed` why it serves nothing yet, `preparing`
    why it prepares large imports alone.
    """

    async def database() -> Health:
        fault = await overview.unreachable(core.db)
        return Health(fault is None, fault)

    async def blobs() -> Health:
        try:
            await core.blobs.check()
        except MailgateError as error:
            return Health(False, error.detail)
        return Health(True)

    async def scheduler() -> Health:
        if closed() is not None:
            return Health(False, "nothing works before `mailgate restore` was run; witness says why")
        idle = sorted(name for name, works in running().items() if not works)
        if idle:
            return Health(False, f"not working: {', '.join(idle)}; the log says why")
        return Health(True)

    async def log() -> Health:
        fault = await overview.unwritable(core.db, core.clock())
        return Health(fault is None, fault)

    async def plans() -> Health:
        fault = core.plans.fault
        return Health(True, None if fault is None else f"{fault}; the plans that held before hold on")

    async def witness() -> Health:
        why = closed()
        if why is not None:
            return Health(False, why)
        return await asyncio.to_thread(_witness, core)

    async def alarms() -> Health:
        standing = Counter(str(alarm.kind) for alarm in await core.alarms.standing())
        if not standing:
            return Health(True, needed=False)
        kinds = ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in sorted(standing.items()))
        return Health(False, f"{kinds}; GET /v1/alarms or `mailgate doctor` says what to do", needed=False)

    async def imports() -> Health:
        fault = preparing()
        return Health(fault is None, fault, needed=False)

    async def events() -> Health:
        backlog = await core.feed.reader.backlog()
        if backlog.oldest_at is not None and core.clock() - backlog.oldest_at > _EVENTS_WAIT:
            since = to_rfc3339(backlog.oldest_at)
            return Health(False, f"{backlog.count} events wait for their place in the feed since {since}")
        return Health(True)

    found = {
        "database": database,
        "blobs": blobs,
        "scheduler": scheduler,
        "log": log,
        "plans": plans,
        "witness": witness,
        "events": events,
        "imports": imports,
        "alarms": alarms,
    }
    slow = {"log": _HELD_UP}
    return {name: _Remembered(core, _patient(check, slow.get(name))) for name, check in found.items()}


class _Remembered:
    """Asks once in a while only: the question is open to anybody and must not become a load."""

    def __init__(self, core: Core, check: HealthCheck) -> None:
        self._core = core
        self._check = check
        self._asked_at: Instant | None = None
        self._found = Health(True)
        self._asking = asyncio.Lock()

    async def __call__(self) -> Health:
        async with self._asking:  # who asks meanwhile waits for the answer: the one before may not be true any more
            now = self._core.clock()
            if self._asked_at is None or not 0 <= now - self._asked_at < _FRESH:
                self._found = await self._check()
                self._asked_at = self._core.clock()
        return self._found


def _patient(check: HealthCheck, slow: str | None) -> Callable[[], Awaitable[Health]]:
    """With an answer in any case, soon. One that waits for SQLite can't be called off: it ends behind this."""

    async def ask() -> Health:
        asked = asyncio.ensure_future(check())
        try:
            if (await asyncio.wait({asked}, timeout=_PATIENCE_S))[0]:
                return asked.result()
        finally:
            if not asked.done():
                asked.cancel()
                asked.add_done_callback(_forget)
        return Health(False, slow or f"no answer within {_PATIENCE_S:g} s")

    return ask


def _forget(asked: asyncio.Future[Health]) -> None:
    """Nobody waits for it any more."""
    if not asked.cancelled():
        asked.exception()


def _witness(core: Core) -> Health:
    """A witness that goes back in time together with the database sees nothing: known, and worth saying."""
    fault = core.log_reader.witness_fault
    if fault is not None:
        return Health(False, fault)
    folder = core.settings.witness_dir
    database = core.db.url.database
    if core.db.sqlite and database and Path(database).exists() and Path(database).stat().st_dev == folder.stat().st_dev:
        return Health(
            True, "on the same disk as the database: a rollback of both would go unseen; set ledger.witness elsewhere"
        )
    return Health(True)
