"""Gives committed events their places in the feed, soon after each commit, and wakes the readers that wait.

Woken in this process by its own commits, by signals of other processes over PostgreSQL, and by a look once in a while
for what nobody told of: a process that was killed, a command beside the server.
"""

from __future__ import annotations

import asyncio

from mailgate.clock import Clock
from mailgate.events.arrivals import Arrivals
from mailgate.jobs.worker import Worker
from mailgate.store.feed import BATCH, FeedReader, Publisher
from mailgate.store.signals import GIVEN, WAITING, Signals


class Publishing:
    """One in each process; a lease decides which of them works. `signals` None: there is no other process."""

    def __init__(
        self,
        publisher: Publisher,
        reader: FeedReader,
        arrivals: Arrivals,
        clock: Clock,
        *,
        signals: Signals | None,
        poll_interval_s: float,
    ) -> None:
        self._publisher = publisher
        self._reader = reader
        self._arrivals = arrivals
        self._clock = clock
        self._signals = signals
        self._poll_interval_s = poll_interval_s
        self._seen = -1
        self._own_commit = False
        self._worker = Worker("publisher", self.work)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def healthy(self) -> bool:
        """Whether the last piece of work succeeded."""
        return self._worker.healthy

    def wake(self) -> None:
        """Events were committed here."""
        self._own_commit = True
        self._worker.wake()

    def start(self) -> None:
        """Begin; what a killed process left is looked at at once."""
        self._worker.start()
        self._tasks.append(asyncio.create_task(self._poll(), name="feed poll"))
        if self._signals is not None:
            self._tasks.append(asyncio.create_task(self._signals.listen(self._heard), name="feed signals"))

    async def stop(self) -> None:
        """End. What was not published is by another process, or the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._worker.stop()
        await self._publisher.release()

    async def work(self) -> None:
        """Publish what waits, and tell readers here if the feed grew, whoever made it grow."""
        own, self._own_commit = self._own_commit, False
        given = more = await self._publisher.publish(self._clock())
        while more == BATCH:
            self._arrivals.announce()
            more = await self._publisher.publish(self._clock())
        # Only who committed asks the publisher to work: two that pass on what they hear would never end.
        if self._signals is not None and (given or (given is None and own)):
            await self._signals.send(GIVEN if given else WAITING)
        position = (await self._reader.head()).position
        if position != self._seen:
            self._seen = position
            self._arrivals.announce()

    def _heard(self, word: str) -> None:
        if word in (WAITING, GIVEN):
            self._worker.wake()

    async def _poll(self) -> None:
        while True:
            self._worker.wake()
            await asyncio.sleep(self._poll_interval_s)
