"""Who prepares: threads for imports and for new mail, and a process beside them for large imports.

An import never holds up new mail for long, which has a thread of its own. As soon as an import turns out to be more
than a few messages, the threads that prepare let another process do it (`mailgate.sync.preparing`), so that this one
has its interpreter's lock for the wire and the rows. A batch is cut into pieces, and who is done takes the next one.
What is short or waits for the disk has threads of its own, or it would wait for the pieces of the next batch.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from mailgate.clock import Instant
from mailgate.sync.arriving import Arrived
from mailgate.sync.prepare import Prepared, Preparer
from mailgate.sync.preparing import LANES, ROOM, PreparingProcess

T = TypeVar("T")

PIECE: Final = 25
"""Messages in one piece of a batch, at most."""

PIECE_BYTES: Final = ROOM
"""Bytes in one piece, unless one message has more: the process beside holds one piece for each lane."""

WORTH_A_PROCESS: Final = 50
"""So many messages in one batch, and there are probably more to come."""

IDLE_S: Final = 30.0
"""So long after the last piece the process ends: it holds memory, and keys."""

MOST_FAILURES: Final = 3
"""A process that was lost so often is not started again."""


class Workers:
    """Runs blocking work for the sync of all mailboxes. Use it from one event loop; `close` when done."""

    def __init__(self, *, processors: int | None = None) -> None:
        """`processors`: of this machine, unless a test says otherwise; with one there is no process beside."""
        self._pieces = ThreadPoolExecutor(LANES, thread_name_prefix="mailgate-import")
        self._bulk = ThreadPoolExecutor(LANES, thread_name_prefix="mailgate-import-short")
        self._live = ThreadPoolExecutor(1, thread_name_prefix="mailgate-live")
        self._process: PreparingProcess | None = None
        self._losing = threading.Lock()
        able = (processors or os.cpu_count() or 1) > 1 and hasattr(os, "memfd_create")
        self._failures = 0 if able else MOST_FAILURES
        self._idle: asyncio.TimerHandle | None = None

    @property
    def process(self) -> PreparingProcess | None:
        """The process beside this one, while there is one."""
        return self._process

    async def run(self, work: Callable[[], T], *, bulk: bool) -> T:
        """Call `work`, which is short, in a thread of its kind."""
        return await asyncio.get_running_loop().run_in_executor(self._bulk if bulk else self._live, work)

    async def prepare(self, preparer: Preparer, batch: Sequence[Arrived], now: Instant, *, bulk: bool) -> Prepared:
        """`Preparer.prepare` and `settle` for a batch, shared out between the threads; in order."""
        if not batch:
            return Prepared((), ())
        if not bulk:
            return await self.run(partial(_prepare_alone, preparer, batch, now), bulk=False)
        if len(batch) >= WORTH_A_PROCESS:
            self._keep_process()
        run = asyncio.get_running_loop().run_in_executor
        done = await asyncio.gather(
            *(run(self._pieces, self._piece, preparer, piece, now) for piece in _pieces(batch)),
            return_exceptions=True,
        )
        failed = next((item for item in done if isinstance(item, BaseException)), None)
        if failed is not None:
            raise failed
        found = [item for item in done if isinstance(item, Prepared)]
        messages = [message for item in found for message in item.messages]
        await self.run(partial(preparer.settle, messages), bulk=True)
        return Prepared(messages, [aside for item in found for aside in item.aside])

    def close(self) -> None:
        """End the threads once their work is done, and the process."""
        if self._idle is not None:
            self._idle.cancel()
        for threads in (self._pieces, self._bulk, self._live):
            threads.shutdown()
        if self._process is not None:
            self._process.end()

    def _piece(self, preparer: Preparer, piece: Sequence[Arrived], now: Instant) -> Prepared:
        process = self._process
        done = None if process is None else self._beside(process, preparer, piece, now)
        return preparer.prepare(piece, now) if done is None else done

    def _beside(
        self, process: PreparingProcess, preparer: Preparer, piece: Sequence[Arrived], now: Instant
    ) -> Prepared | None:
        """What the process makes of the piece; None when it can't, or won't."""
        try:
            if not process.ready:
                return None
            job = preparer.job(piece, now)
            done = process.prepare(*job) if job is not None else None
        except (OSError, EOFError, ValueError, pickle.PickleError):  # killed, or not ours any more
            self._lose(process)
            return None
        if done is not None:
            for arrived in piece:
                arrived.sink.abandon()
        return done

    # The process.

    def _keep_process(self) -> None:
        """Start the process unless there is one, and have it end when it is not used for a while."""
        loop = asyncio.get_running_loop()
        if self._idle is not None:
            self._idle.cancel()
        self._idle = loop.call_later(IDLE_S, self._retire)
        if self._process is None and self._failures < MOST_FAILURES:
            try:
                self._process = PreparingProcess()
            except OSError:  # no memory, too many processes: it goes without
                self._failures += 1

    def _retire(self) -> None:
        if self._process is None or self._process.retire():
            self._process = self._idle = None
        else:
            self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._retire)

    def _lose(self, process: PreparingProcess) -> None:
        """It is gone: told by each thread that used it, counted once."""
        with self._losing:
            if self._process is process:
                self._process = None
                self._failures += 1
        process.end()


def _prepare_alone(preparer: Preparer, batch: Sequence[Arrived], now: Instant) -> Prepared:
    """New mail, on which somebody waits: all in one visit to the thread."""
    prepared = preparer.prepare(batch, now)
    preparer.settle(prepared.messages)
    return prepared


def _pieces(batch: Sequence[Arrived]) -> list[Sequence[Arrived]]:
    """The batch in pieces, in order."""
    pieces: list[Sequence[Arrived]] = []
    start = size = 0
    for at, arrived in enumerate(batch):
        if at > start and (at - start >= PIECE or size + arrived.octets > PIECE_BYTES):
            pieces.append(batch[start:at])
            start, size = at, 0
        size += arrived.octets
    pieces.append(batch[start:])
    return pieces
