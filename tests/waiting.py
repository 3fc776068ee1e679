"""Waiting for a condition that tells nobody when it begins to hold: the database's, a server's, a page's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE_S: Final = 120.0
"""After so long it never holds. How soon it does is up to what else the machine does, and says nothing."""


async def until(condition: Callable[[], Awaitable[T]], *, pause_s: float = 0.01) -> T:
    """What `condition` returns, once that is true."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await condition()):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(pause_s)  # between two looks at the condition
        return found
