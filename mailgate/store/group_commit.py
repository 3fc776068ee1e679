"""Group commit for SQLite: small write transactions that wait for their turn at the same time are committed as one.

The way to the writer's thread, BEGIN and the sync of COMMIT cost more than the statements of most. So whoever gets the
turn takes along what waits behind it. Nobody is told of success before the commit that all share. When one fails,
everything is rolled back and each is done again alone, as if it had never had company: an error is told to nobody but
whoever made it. Where the transaction can't even begin, all are told: each would only wait as long again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any, Final, TypeAlias, TypeVar

from mailgate.store.transaction import Transaction

T = TypeVar("T")

Work: TypeAlias = Callable[[Transaction], Awaitable[Any]]
Visit: TypeAlias = Callable[[Sequence[tuple[Context, Work]]], Awaitable[list[Any]]]

TOGETHER: Final = 8
"""So many at most: the first waits for the last."""


class _Job:
    """`taken`: out of the queue, to be carried out. `outcome` is settled after the commit; cancelled only when the
    process ends in the middle.
    """

    __slots__ = ("outcome", "taken", "work")

    def __init__(self, work: Work) -> None:
        self.work = copy_context(), work
        self.taken = False
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class GroupCommit:
    """The queue of small transactions. `turn` is the writer's; `visit` carries out works as one transaction, in order,
    each in its context, and returns what each returned.
    """

    def __init__(self, turn: asyncio.Lock, visit: Visit) -> None:
        self._turn = turn
        self._visit = visit
        self._jobs: deque[_Job] = deque()

    async def run(self, work: Work) -> Any:
        """The result of `work` once it is committed. A cancellation takes effect before it begins, or after its end."""
        job = _Job(work)
        self._jobs.append(job)
        try:
            async with self._turn:
                while not job.taken:  # else somebody took it along, and it is done
                    await to_its_end(self._run_some())
            return job.outcome.result()
        except asyncio.CancelledError:
            if job.taken:
                await _settled(job.outcome)
            else:
                self._jobs.remove(job)
            raise

    async def _run_some(self) -> None:
        jobs = [self._jobs.popleft() for _ in range(min(TOGETHER, len(self._jobs)))]
        for job in jobs:
            job.taken = True
        try:
            if len(jobs) == 1 or not await self._run_together(jobs):
                for job in jobs:
                    await self._run_alone(job)
        finally:
            for job in jobs:
                job.outcome.cancel()  # nothing, to those that are settled

    async def _run_together(self, jobs: Sequence[_Job]) -> bool:
        """False when nothing of it was done, since one of them failed."""
        begun = False

        async def first(tx: Transaction) -> Any:
            nonlocal begun
            begun = True
            return await work(tx)

        (context, work), *others = (job.work for job in jobs)
        try:
            results = await self._visit([(context, first), *others])
        except Exception as error:  # noqa: BLE001 - raised where it belongs
            if begun:
                return False
            for job in jobs:
                job.outcome.set_exception(error)
            return True
        for job, result in zip(jobs, results, strict=True):
            job.outcome.set_result(result)
        return True

    async def _run_alone(self, job: _Job) -> None:
        try:
            (result,) = await self._visit([job.work])
        except Exception as error:  # noqa: BLE001 - raised by whoever waits for it
            job.outcome.set_exception(error)
        else:
            job.outcome.set_result(result)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which goes on when the caller is cancelled; CancelledError then comes after its end."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _settled(task)
        raise


async def _settled(outcome: asyncio.Future[Any]) -> None:
    """Wait for it, whoever cancels meanwhile."""
    while not outcome.done():
        with contextlib.suppress(asyncio.CancelledError):  # told by the caller, once
            await asyncio.wait({outcome})
    if not outcome.cancelled():
        outcome.exception()  # nobody is left to hear of it
