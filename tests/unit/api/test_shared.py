"""What all who ask at once are answered with: made once for all of them, and anew for who asks later."""

from __future__ import annotations

import asyncio

import pytest

from mailgate.api.shared import Shared


class _Slow:
    """Makes an answer when it is let."""

    def __init__(self) -> None:
        self.begun = 0
        self.let = asyncio.Event()

    async def make(self) -> int:
        self.begun += 1
        number = self.begun
        await self.let.wait()
        if number == 2:
            raise ValueError(number)
        return number


async def test_all_who_ask_at_once_are_answered_by_one_and_a_later_one_by_another() -> None:
    slow = _Slow()
    shared = Shared(slow.make)
    asking = [asyncio.create_task(shared.get()) for _ in range(50)]
    await asyncio.sleep(0)
    slow.let.set()
    assert await asyncio.gather(*asking) == [1] * 50
    with pytest.raises(ValueError, match="2"):
        await shared.get()
    assert await shared.get() == 3


async def test_who_goes_away_takes_the_answer_from_nobody() -> None:
    slow = _Slow()
    shared = Shared(slow.make)
    first, second = asyncio.create_task(shared.get()), asyncio.create_task(shared.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    slow.let.set()
    assert (await second, slow.begun) == (1, 1)
