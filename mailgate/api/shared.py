"""One answer for all who ask while it is made: what anybody may ask for, as often as he likes, costs no more than one
such question at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """`make` is called when somebody asks, and once only for all who do so until it is done."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._making: asyncio.Future[T] | None = None

    async def get(self) -> T:
        """The answer, or what `make` raised; an asker who goes away takes it from nobody else."""
        if self._making is None or self._making.done():
            self._making = asyncio.ensure_future(self._make())
        return await asyncio.shield(self._making)
