from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from mailgate.jobs.worker import Worker


class Work:
    """Counts its calls; a call waits until it is let go and fails when told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Queue[int]()
        self.calls = 0
        self.go_on = asyncio.Semaphore(0)
        self.fails = False

    async def __call__(self) -> None:
        self.calls += 1
        self.begun.put_nowait(self.calls)
        await self.go_on.acquire()
        if self.fails:
            raise OSError("no space left")


async def test_wakings_during_work_are_one_more_call() -> None:
    work = Work()
    worker = Worker("w", work)
    worker.wake()  # before the start: not lost
    worker.start()
    assert await work.begun.get() == 1
    for _ in range(5):
        worker.wake()
    work.go_on.release()
    assert await work.begun.get() == 2
    work.go_on.release()
    worker.wake()
    assert await work.begun.get() == 3
    await worker.stop()
    assert work.calls == 3


async def test_a_failure_is_logged_and_the_next_waking_tries_again() -> None:
    work = Work()
    work.fails = True
    worker = Worker("w", work)
    worker.start()
    with capture_logs() as logged:
        worker.wake()
        await work.begun.get()
        worker.wake()
        work.go_on.release()
        await work.begun.get()
        assert (worker.healthy, worker.failures) == (False, 1)
        work.fails = False
        worker.wake()
        work.go_on.release()
        await work.begun.get()
        assert worker.healthy
    assert [entry["event"] for entry in logged] == ["work_failed"]
    assert logged[0]["worker"] == "w"
    await worker.stop()


async def test_stopping_ends_work_in_the_middle() -> None:
    work = Work()
    worker = Worker("w", work)
    worker.start()
    worker.wake()
    await work.begun.get()
    await worker.stop()
    await worker.stop()
    with pytest.raises(asyncio.QueueEmpty):
        work.begun.get_nowait()
