"""How readers that wait in this process are told that there may be something new.

A reader notes the count of arrivals before it looks at the feed, and waits only if the count is still the same: what
arrives between looking and waiting wakes it at once. Being woken for nothing is allowed, being forgotten is not.
"""

from __future__ import annotations

import asyncio
import contextlib


class Arrivals:
    """One for each process. After `close` nobody waits any more."""

    def __init__(self) -> None:
        self.count = 0
        self.closed = False
        self._changed = asyncio.Event()

    def announce(self) -> None:
        """There may be something new."""
        self.count += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """The process ends: whoever waits, or begins to, goes on at once."""
        self.closed = True
        self.announce()

    async def wait(self, seen: int, timeout_s: float) -> bool:
        """Wait until something arrived after `seen` was read from `count`; False when nothing did for so long."""
        if self.closed or self.count != seen:
            return True
        changed = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        return self.count != seen
