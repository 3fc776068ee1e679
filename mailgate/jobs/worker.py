"""A worker: one task that does its work whenever it is woken, one piece at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

_log = structlog.get_logger("mailgate.jobs")


class Worker:
    """Runs `work` once for any number of wakings that came before it began.

    What fails is logged and counted; the next waking tries again, so nothing that `work` does may depend on its last
    call having succeeded. `healthy` is False from a failure until the next success.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        self.name = name
        self.healthy = True
        self.failures = 0
        self._work = work
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """There may be something to do."""
        self._woken.set()

    def start(self) -> None:
        """Begin; wakings before this are not lost."""
        self._task = asyncio.create_task(self._run(), name=f"worker {self.name}")

    async def stop(self) -> None:
        """End, in the middle of a piece of work if need be: all work is safe to cut."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._work()
            except Exception:  # noqa: BLE001 - the boundary of background work: one failure must not end the worker
                self.healthy = False
                self.failures += 1
                _log.exception("work_failed", worker=self.name, failures=self.failures)
            else:
                self.healthy = True
