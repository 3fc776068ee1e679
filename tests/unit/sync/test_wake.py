"""Waiting that can be cut short."""

from __future__ import annotations

import asyncio

import pytest

from mailgate.sync.wake import Wake


async def soon(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def test_what_ends_by_itself_gives_its_result() -> None:
    assert await Wake().cut(soon(3), 60) == 3


async def test_a_call_ends_it() -> None:
    wake, ended = Wake(), asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    waiting = asyncio.create_task(wake.cut(long()))
    await asyncio.sleep(0)
    wake.set()
    wake.set()  # twice does no harm
    await waiting
    assert ended.is_set()
    assert wake.is_set()


async def test_a_call_before_is_not_lost() -> None:
    wake = Wake()
    wake.set()
    assert await wake.cut(soon(3)) is None
    wake.clear()
    assert await wake.cut(soon(3)) == 3


async def test_time_that_is_over_is_an_error_and_so_is_what_the_work_raises() -> None:
    wake = Wake()
    with pytest.raises(TimeoutError):
        await wake.cut(asyncio.sleep(3600), 0.001)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await wake.cut(fails(), 60)


async def test_a_cancellation_goes_through() -> None:
    wake = Wake()
    waiting = asyncio.create_task(wake.cut(asyncio.sleep(3600), 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    wake.set()
