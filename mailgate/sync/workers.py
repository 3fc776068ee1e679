"""Who prepares: threads for imports and for new mail, and a process beside them for large imports.

An import never holds up new mail for long, which has a thread of its own. As soon as an import turns out to be more
than a few messages, the threads that prepare let another process do it (`mailgate.sync.preparing`), so that this one
has its interpreter's lock for the wire and the rows. A batch is cut into pieces, and who is done takes the next one.
What is short or waits for the disk has threads of its own, or it would wait for the pieces of the next batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import structlog

from mailgate.clock import Instant
from mailgate.sync.arriving import Arrived
from mailgate.sync.prepare import Prepared, Preparer
from mailgate.sync.preparing import LANES, ROOM, OtherProgramError, PreparingProcess
from mailgate.sync.program import own_program

log = structlog.get_logger()

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
"""A process that was lost so often is not started again for a while."""

FORGET_S: Final = 3600.0
"""A loss counts for so long."""


class Workers:
    """Runs blocking work for the sync of all mailboxes. Use it from one event loop; `close` when done."""

    def __init__(self, *, processors: int | None = None, clock_s: Callable[[], float] = time.monotonic) -> None:
        """`processors`: of this machine, unless a test says otherwise; with one there is no process beside."""
        self._pieces = ThreadPoolExecutor(LANES, thread_name_prefix="mailgate-import")
        self._bulk = ThreadPoolExecutor(LANES, thread_name_prefix="mailgate-import-short")
        self._live = ThreadPoolExecutor(1, thread_name_prefix="mailgate-live")
        self._process: PreparingProcess | None = None
        self._processes: set[PreparingProcess] = set()
        self._changing = threading.RLock()
        self._trying = threading.Lock()
        self._closed = False
        self._careful = False  # one was lost: nothing is read here that another process can read
        self._able = (processors or os.cpu_count() or 1) > 1 and hasattr(os, "memfd_create")
        self._program = own_program()
        self._outdated = False
        self._clock_s = clock_s
        self._losses = deque[float](maxlen=MOST_FAILURES)  # when
        self._idle: asyncio.TimerHandle | None = None
        self.on_lost: Callable[[], None] = _nobody
        """Called in any thread when a process was lost."""

    @property
    def process(self) -> PreparingProcess | None:
        """The process beside this one, while there is one."""
        return self._process

    @property
    def fault(self) -> str | None:
        """Why there is no process beside for large imports, if something is wrong."""
        if self._outdated:
            return (
                "the program was replaced while this process runs: large imports are slower until it is started again"
            )
        with self._changing:
            if self._failures < MOST_FAILURES:
                return None
            left_s = FORGET_S - (self._clock_s() - self._losses[0])
        return (
            f"the process beside that prepares large imports was lost {MOST_FAILURES} times; they are slower without; "
            f"tried again in {left_s / 60:.0f} min; the log says more (preparing_process_lost)"
        )

    @property
    def _failures(self) -> int:
        """Losses that count. Under `_changing`."""
        while self._losses and self._clock_s() - self._losses[0] >= FORGET_S:
            self._losses.popleft()
        return len(self._losses)

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
        prepared = _joined([item for item in done if isinstance(item, Prepared)])
        await self.run(partial(preparer.settle, prepared.messages), bulk=True)
        return prepared

    def close(self) -> None:
        """End the process, and the threads once their work is done."""
        if self._idle is not None:
            self._idle.cancel()
        with self._changing:
            self._closed = True
            processes = list(self._processes)
        for process in processes:
            process.end()  # first: a thread may wait for it
        for threads in (self._pieces, self._bulk, self._live):
            threads.shutdown()

    def _piece(self, preparer: Preparer, piece: Sequence[Arrived], now: Instant) -> Prepared:
        if preparer.suspects.suspected([arrived.header_token for arrived in piece]):
            with self._trying:  # one at a time: if all are killed again, it is known over which
                return self._one_by_one(preparer, piece, now)
        process = self._process
        if process is not None and self._careful:
            try:
                process.wait_until_ready()
            except (OSError, EOFError, OtherProgramError) as error:
                self._lose(process, error)
                process = None
        try:
            done = None if process is None else self._beside(process, preparer, piece, now)
        except _LostError as lost:
            if not lost.stalled:
                return self._one_by_one(preparer, piece, now)
            done = None
        return preparer.prepare(piece, now) if done is None else done

    def _beside(
        self, process: PreparingProcess, preparer: Preparer, piece: Sequence[Arrived], now: Instant
    ) -> Prepared | None:
        """What the process makes of the piece; None when it can't, or won't. Raises _LostError."""
        try:
            ready = process.ready
        except (OSError, EOFError, OtherProgramError) as error:
            self._lose(process, error)
            return None
        job = preparer.job(piece, now) if ready else None
        if job is None:
            return None
        names = [arrived.header_token for arrived in piece]
        try:
            done = preparer.suspects.read_beside(names, partial(process.prepare, *job))
        except Exception as error:  # killed, stopped, or not ours any more
            self._lose(process, error)
            raise _LostError(stalled=isinstance(error, TimeoutError)) from error
        if done is not None:
            preparer.suspects.clear(names)
            for arrived in piece:
                arrived.sink.abandon()
        return done

    def _one_by_one(self, preparer: Preparer, piece: Sequence[Arrived], now: Instant) -> Prepared:
        """A process was lost while it had these, or this one before it was started again. One of them may be why, and
        would end this process too: each is tried in another one. What ends that as well is kept unread.
        """
        done: list[Prepared] = []
        process: PreparingProcess | None = None
        counted, able = True, True
        try:
            for arrived in piece:
                prepared = None
                try:
                    if process is None and able:
                        process = self._started()
                        able = process is not None
                    if process is not None and not preparer.suspects.deadly(arrived.header_token):
                        prepared = self._beside(process, preparer, [arrived], now)
                except _LostError as lost:
                    process, able = None, not lost.stalled
                    if able:
                        log.warning("message_kept_unread", uid=arrived.meta.uid, octets=arrived.octets)
                        with self._changing:
                            if counted and self._losses:
                                self._losses.pop()  # it was the message
                            counted = False
                        prepared = preparer.unread(arrived, now)
                done.append(preparer.prepare([arrived], now) if prepared is None else prepared)
        finally:
            if process is not None:
                self._end(process)
        return _joined(done)

    # The process.

    def _keep_process(self) -> None:
        """Start the process unless there is one, and have it end when it is not used for a while."""
        loop = asyncio.get_running_loop()
        if self._idle is not None:
            self._idle.cancel()
        self._idle = loop.call_later(IDLE_S, self._retire)
        with self._changing:
            if self._process is None and self._may_start():
                try:
                    self._process = self._start()
                except OSError as error:  # no memory, too many processes: it goes without
                    self._count(str(error))

    def _may_start(self) -> bool:
        return self._able and not self._outdated and self._failures < MOST_FAILURES

    def _start(self) -> PreparingProcess:
        with self._changing:
            if self._closed:
                raise OSError
            process = PreparingProcess(self._program)
            self._processes.add(process)
            return process

    def _started(self) -> PreparingProcess | None:
        """Another one, which is ready; None where none can be had."""
        try:
            process = self._start()
        except OSError:
            return None
        try:
            process.wait_until_ready()
        except (OSError, EOFError, OtherProgramError):
            self._end(process)
            return None
        return process

    def _end(self, process: PreparingProcess) -> None:
        process.end()
        with self._changing:
            self._processes.discard(process)

    def _retire(self) -> None:
        process = self._process
        if process is None or process.retire():
            self._process = self._idle = None
            if process is not None:
                self._bulk.submit(self._end, process)  # which may wait
        else:
            self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._retire)

    def _lose(self, process: PreparingProcess, error: Exception) -> None:
        """It is gone: told by each thread that used it, counted once. Raises CancelledError when all is to end."""
        with self._changing:
            if self._closed:
                raise CancelledError  # nobody waits for it
            if self._process is process:
                self._process = None
                if isinstance(error, OtherProgramError):
                    self._outdated = True
                    log.warning("preparing_process_of_another_program")
                else:
                    self._careful = True
                    self._count(str(error) or type(error).__name__)
                if self._may_start():
                    with contextlib.suppress(OSError):
                        self._process = self._start()
        self._end(process)

    def _count(self, error: str) -> None:
        """A loss. Under `_changing`."""
        self._losses.append(self._clock_s())
        log.warning("preparing_process_lost", error=error, times=self._failures, most=MOST_FAILURES)
        self.on_lost()


def _nobody() -> None:
    """Nobody is told."""


class _LostError(Exception):
    """The process was lost over what it was given; `stalled`: it stood still, as no message can make it."""

    def __init__(self, *, stalled: bool) -> None:
        super().__init__()
        self.stalled = stalled


def _joined(done: Sequence[Prepared]) -> Prepared:
    return Prepared([m for item in done for m in item.messages], [aside for item in done for aside in item.aside])


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
