"""A pull that is told to stop at the very moment at which a batch arrives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mailgate.sync.pull import Job, Puller

NOTHING: Any = None


async def waiting(puller: Puller) -> asyncio.Task[Any]:
    """Its wait for a batch while another one is held."""
    task = asyncio.create_task(puller._next(600))
    while not puller._queue._getters:  # type: ignore[attr-defined]  # noqa: ASYNC110 - nobody tells that it waits
        await asyncio.sleep(0)
    return task


async def test_it_stops() -> None:
    puller = Puller(NOTHING, Job(NOTHING, 1, []))
    task = await waiting(puller)
    puller._queue.put_nowait([])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await puller._next(None) == [], "and nothing is lost"
