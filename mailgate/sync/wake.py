"""What one task waits for, and others may cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Wake:
    """An event for one waiter. Each mailbox has two of them all its life: unlike asyncio's it holds nothing while
    nobody waits, and waiting takes no task of its own.
    """

    __slots__ = ("_deadline", "_set")

    def __init__(self) -> None:
        self._set = False
        self._deadline: asyncio.Timeout | None = None

    def is_set(self) -> bool:
        """Whether it was set since it was last cleared."""
        return self._set

    def set(self) -> None:
        """Whoever waits, or comes to wait, goes on at once."""
        self._set = True
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(0)  # long ago

    def clear(self) -> None:
        """What is set was heeded."""
        self._set = False

    async def cut(self, work: Coroutine[Any, Any, T], within_s: float | None = None) -> T | None:
        """The result of `work`; None when it was cut short by `set`. Raises TimeoutError when it takes longer than
        `within_s`.
        """
        if self.is_set():
            work.close()
            return None
        deadline = asyncio.timeout(within_s)
        try:
            async with deadline as self._deadline:
                return await work
        except TimeoutError:
            if self.is_set() and deadline.expired():
                return None
            raise
        finally:
            self._deadline = None
