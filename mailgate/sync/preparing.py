"""A process beside this one that prepares messages of a first import, so that both processors are of use.

Reading and describing mail holds the interpreter's lock, which the event loop and the rows need too. So the threads of
`Workers` hand their messages to a process of our own program and wait. It forks as soon as it is loaded, so that each
of those threads has a *lane* of its own; what was loaded lies in memory once. (Measured: two threads in one process are
slower than one.)

    request   length, 8 bytes ‖ pickle of (job, length of each message); the messages lie in the lane's part of a memory
              that both processes map
    answer    length, 8 bytes ‖ pickle of `Prepared`, or length 0: "do it yourself"

P1  It writes blobs into the same local directory, and nothing else. They become durable by this process's `settle`,
    which covers the file system, and only then do rows refer to them (R4).
P2  It is never needed: when it is gone, slow to start or refuses, the thread prepares the messages itself. What it
    wrote until then are objects that no row refers to, and they go as those go.
P3  It ends when this process ends, however that ends: its lanes are closed then. It ends too when nothing was imported
    for a while, and with it the keys in its memory.
P4  Each lane holds one piece of a batch at a time. The memory between the two has no name, and no disk below it.
P5  It is the program that started it, or it is not used: it begins by saying which it is (`mailgate.sync.program`). An
    upgrade may have put another in its place, which would read and write other things than this one.
P6  Nobody waits for it for ever. What takes a processor for `PROCESSOR_S` is lost in a message, and ends as if that had
    killed it. One that only stands still, as its disk may, is given up and killed after `PATIENCE_S`.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Final

from mailgate.blobs.store import BlobStore
from mailgate.keys import KeyMaterial, TenantKeys
from mailgate.reading.limited import command, environment
from mailgate.sync.arriving import Arrived, MemorySink
from mailgate.sync.prepare import Job, Prepared, Preparer
from mailgate.sync.program import program

LANES: Final = 2
ROOM: Final = 1 << 20
"""Bytes of messages that a lane takes at once."""

PATIENCE_S: Final = 120.0
"""So long a piece may take, which takes a fraction of a second."""

PROCESSOR_S: Final = 20.0
"""So much of a processor's time it may take."""

_START_S: Final = 30.0
"""So long it is waited for where it matters."""

_GRACE_S: Final = 2.0
"""So long it may take to end by itself."""

_LENGTH: Final = struct.Struct(">Q")


class OtherProgramError(Exception):
    """The process that was started runs another program than the one that started it."""


class PreparingProcess:
    """This side of the process. Any thread may use it."""

    def __init__(self, ours: bytes) -> None:
        """Start it; `ours`: the `program` that this process runs. Raises OSError."""
        with contextlib.ExitStack() as theirs:
            memory = os.memfd_create("mailgate-preparing")
            theirs.callback(os.close, memory)
            os.ftruncate(memory, LANES * ROOM)
            self._memory = mmap.mmap(memory, LANES * ROOM)
            pairs = [socket.socketpair() for _ in range(LANES)]
            descriptors = [memory, *(theirs.enter_context(there).fileno() for _, there in pairs)]
            self._free = [_Lane(here, self._memory, number * ROOM, ours) for number, (here, _) in enumerate(pairs)]
            self._lanes = tuple(self._free)
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    command(__name__, *map(str, descriptors)),
                    stdin=subprocess.DEVNULL,
                    pass_fds=descriptors,
                    env=environment(),
                    process_group=0,  # to be killed with its fork
                )
            except OSError:
                self._close()
                raise
        self._looking = threading.Lock()
        self._ended = threading.Lock()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether it has started and would begin at once. Raises OSError and EOFError when it is gone,
        OtherProgramError when it is another than this.
        """
        with self._looking:
            return all(lane.ready for lane in self._lanes)

    def wait_until_ready(self) -> None:
        """Raises OSError and EOFError when it is gone, or does not begin; OtherProgramError when it is another."""
        with self._looking:
            for lane in self._lanes:
                lane.wait_until_ready()

    def prepare(self, job: Job, bodies: Sequence[bytes | bytearray]) -> Prepared | None:
        """What `Preparer.prepare` makes of it; None when it has to be done here: it is too much, or every lane is
        taken. Raises OSError and EOFError when it is gone, or gives no answer.
        """
        try:
            lane = self._free.pop()
        except IndexError:
            return None
        done = lane.prepare(job, bodies)
        self._free.append(lane)  # after an error its next answer might be the one to this
        return done

    def retire(self) -> bool:
        """Take it out of use if nobody uses it, so that it can be ended; whether that is so."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._free.pop())
        if len(taken) < LANES:
            self._free += taken
            return False
        return True

    def end(self) -> None:
        """Let it end, or kill it if it does not; harmless when called twice. Who waits for an answer gets EOFError."""
        with self._ended:
            self._close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)
            if self._process.returncode != 0:  # else it has waited for its fork
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _close(self) -> None:
        for lane in self._lanes:
            lane.close()


class _Lane:
    """One of its forks, and how to reach it. For one thread at a time, but for `close`."""

    def __init__(self, line: socket.socket, memory: mmap.mmap, start: int, ours: bytes) -> None:
        self._line = line
        self._memory = memory
        self._start = start
        self._ours = ours
        self._started = False
        self._using = threading.Lock()

    @property
    def ready(self) -> bool:
        if not self._started:
            with contextlib.suppress(BlockingIOError):
                self._begin(socket.MSG_DONTWAIT)
        return self._started

    def wait_until_ready(self) -> None:
        if not self._started:
            self._line.settimeout(_START_S)
            self._begin()

    def _begin(self, flags: int = 0) -> None:
        with self._using:
            theirs = self._line.recv(len(self._ours), flags)
        if not theirs:
            raise EOFError
        if theirs != self._ours:
            raise OtherProgramError
        self._line.settimeout(PATIENCE_S)
        self._started = True

    def prepare(self, job: Job, bodies: Sequence[bytes | bytearray]) -> Prepared | None:
        lengths = [len(body) for body in bodies]
        if sum(lengths) > ROOM:
            return None
        with self._using:
            at = self._start
            for body in bodies:
                self._memory[at : at + len(body)] = body
                at += len(body)
            _send(self._line, pickle.dumps((job, lengths), pickle.HIGHEST_PROTOCOL))
            answer = _receive(self._line)
        if not answer:
            return None
        prepared: Prepared = pickle.loads(answer)  # noqa: S301 - from our own program, by its own line
        return prepared

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)  # wakes who waits for an answer
        with self._using:  # who was woken may be about to read once more, from what would have its number by then
            self._line.close()


def _send(line: socket.socket, data: bytes) -> None:
    line.sendall(_LENGTH.pack(len(data)) + data)


def _receive(line: socket.socket) -> bytearray:
    return _read(line, _LENGTH.unpack(_read(line, _LENGTH.size))[0])


def _read(line: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        count = line.recv_into(view[at:])
        if not count:
            raise EOFError
        at += count
    return data


class _There:
    """The other end of a lane."""

    def __init__(self, line: socket.socket, memory: mmap.mmap, start: int, ours: bytes) -> None:
        self._line = line
        self._memory = memory
        self._start = start
        self._ours = ours
        self._blobs: dict[str, BlobStore] = {}
        self._keys: tuple[KeyMaterial | None, TenantKeys | None] = (None, None)

    def serve(self) -> None:
        """Prepare what comes until nothing more can come."""
        line = self._line
        with contextlib.suppress(EOFError, OSError):
            line.sendall(self._ours)
            while True:
                job, lengths = pickle.loads(_receive(line))  # noqa: S301 - from our own program, by its own line
                bodies, at = [], self._start
                for length in lengths:
                    bodies.append(self._memory[at : at + length])
                    at += length
                signal.setitimer(signal.ITIMER_PROF, PROCESSOR_S)  # SIGPROF is the end, whatever it is lost in
                answer = self._prepared(job, bodies)
                signal.setitimer(signal.ITIMER_PROF, 0)
                _send(line, answer)

    def _prepared(self, job: Job, bodies: list[bytes]) -> bytes:
        try:
            preparer = Preparer.of(job, self._keys_of(job.keys), self._store(job.directory))
            batch = [
                Arrived(meta, MemorySink(body), octets, token, returns=returns)
                for (meta, octets, token, returns), body in zip(job.messages, bodies, strict=True)
            ]
            return pickle.dumps(preparer.prepare(batch, job.now), pickle.HIGHEST_PROTOCOL)
        except Exception:  # noqa: BLE001 - the other side does it again, and its errors tell more
            return b""

    def _keys_of(self, material: KeyMaterial) -> TenantKeys:
        known, keys = self._keys
        if keys is None or known != material:
            keys = TenantKeys.of(material)
            self._keys = (material, keys)
        return keys

    def _store(self, directory: str) -> BlobStore:
        if directory not in self._blobs:
            self._blobs[directory] = BlobStore.open(directory)
        return self._blobs[directory]


def main(memory: int, lines: Sequence[int]) -> None:
    """`python -m mailgate.sync.preparing DESCRIPTOR…`, started by `PreparingProcess` only."""
    ours = program()
    gc.freeze()  # what was loaded stays: the collector need not look at it again and again
    gc.set_threshold(20_000)
    mine, forks = 0, list[int]()
    for number in range(1, len(lines)):
        forks.append(os.fork())
        if not forks[-1]:
            mine, forks = number, []
            break
    for number, line in enumerate(lines):
        if number != mine:  # or nobody would learn that whose it is has gone
            os.close(line)
    with socket.socket(fileno=lines[mine]) as line_:
        _There(line_, mmap.mmap(memory, len(lines) * ROOM), mine * ROOM, ours).serve()
    for fork in forks:
        os.waitpid(fork, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(argument) for argument in sys.argv[2:]])
