"""A worker: one task that does its work whenever it is woken, one piece at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from mailgate.errors import MailgateError
from mailgate.store.outages import outage
from mailgate.troubles import Trouble

_log = structlog.get_logger("mailgate.jobs")


class Worker:
    """Runs `work` once for any number of wakings that came before it began.

    What fails is counted, and logged once until something else is wrong or nothing is; the next waking tries again,
    after a pause that grows, so nothing that `work` does may depend on its last call having succeeded. While the
    database can't be used it tries again by itself. `healthy` is False from a failure until the next success.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        self.name = name
        self.healthy = True
        self.failures = 0
        self._work = work
        self._trouble = Trouble()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """There may be something to do."""
        self._woken.set()

    async def tick(self) -> None:
        """The same for a scheduler, which calls what is not async in a thread of its own, where no event may be set."""
        self.wake()

    def start(self) -> None:
        """Begin; wakings before this are not lost."""
        self._task = asyncio.create_task(self._run(), name=f"worker {self.name}")

    async def stop(self) -> None:
        """End, in the middle of a piece of work if need be: all work is safe to cut."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # raises the caller's own cancellation alone

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._work()
            except Exception as error:  # noqa: BLE001 - the boundary of background work: it must not end the worker
                self.healthy = False
                self.failures += 1
                await self._bear(error)
            else:
                self.healthy = True
                if times := self._trouble.over():
                    _log.info("work_resumed", worker=self.name, times=times)

    async def _bear(self, error: Exception) -> None:
        """Say what is wrong, if it is news, and wait."""
        away = outage(error)
        why = away or (error.detail if isinstance(error, MailgateError) else None)
        if self._trouble.met(why or repr(error)):
            _log.error("work_failed", worker=self.name, failures=self.failures, why=why, exc_info=why is None)
        await asyncio.sleep(self._trouble.pause_s)
        if away is not None:
            self._woken.set()
