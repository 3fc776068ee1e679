from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from mailgate.blobs.errors import BlobStoreError
from mailgate.jobs.worker import Worker
from mailgate.troubles import Trouble


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
    assert [entry["event"] for entry in logged] == ["work_failed", "work_resumed"]
    assert logged[0]["worker"] == "w"
    await worker.stop()


@pytest.mark.parametrize(
    "error",
    [
        OSError("no space left on device"),
        BlobStoreError("no space left on device"),
        ExceptionGroup("side by side", [OSError("no space left on device")] * 2),
    ],
    ids=["database", "bytes", "side by side"],
)
async def test_what_fails_again_and_again_is_told_once_with_what_to_do(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trouble, "pause_s", 0.0)
    calls = 0
    well = asyncio.Event()

    async def work() -> None:
        nonlocal calls
        calls += 1
        if calls <= 10:
            if isinstance(error, BlobStoreError):
                worker.wake()
            raise error
        well.set()

    worker = Worker("w", work)
    worker.start()
    with capture_logs() as logged:
        worker.wake()  # once: while the database can't be used, it goes on by itself
        await asyncio.wait_for(well.wait(), 20)
        await worker.stop()
    assert worker.failures == 10
    assert [entry["event"] for entry in logged][:1] == ["work_failed"]
    assert [entry["event"] for entry in logged][1:] in ([], ["work_resumed"])
    assert not logged[0]["exc_info"]
    assert "no space left on device" in logged[0]["why"]


async def test_where_a_defect_is_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trouble, "pause_s", 0.0)
    work = Work()

    async def broken() -> None:
        await work()
        raise ValueError("a defect")

    worker = Worker("w", broken)
    worker.start()
    with capture_logs() as logged:
        for _ in range(3):
            worker.wake()
            work.go_on.release()
            await asyncio.wait_for(work.begun.get(), 20)
        await worker.stop()
    assert [(entry["event"], entry["exc_info"]) for entry in logged] == [("work_failed", True)]


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


async def test_who_stops_one_may_be_told_to_stop_meanwhile() -> None:
    begun, ending = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await asyncio.Event().wait()

    worker = Worker("w", work)
    worker.start()
    worker.wake()
    await begun.wait()
    stopping = asyncio.create_task(worker.stop())
    await ending.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
