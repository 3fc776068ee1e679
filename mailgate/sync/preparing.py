"""A process beside this one that prepares messages of a first import, so that both processors are of use.

Reading and describing mail holds the interpreter's lock, which the event loop and the rows need too. So one of the
threads of `Workers` hands its messages to a process of our own program and waits; the other prepares in this process,
as without it.

    request   length, 8 bytes ‖ pickle of (job, length of the messages) ‖ the messages' bytes one after the other
    answer    length, 8 bytes ‖ pickle of `Prepared`, or length 0: "do it yourself"

P1  It writes blobs into the same local directory, and nothing else. They become durable by this process's `settle`,
    which covers the file system, and only then do rows refer to them (R4).
P2  It is never needed: when it is gone, slow to start or refuses, the thread prepares the messages itself. What it
    wrote until then are objects that no row refers to, and they go as those go.
P3  It ends when this process ends, however that ends: its input is closed then. It ends too when nothing was imported
    for a while, and with it the keys in its memory.
P4  It holds one piece of a batch at a time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

import mailgate
from mailgate.blobs.store import BlobStore
from mailgate.keys import KeyMaterial, TenantKeys
from mailgate.sync.arriving import Arrived, MemorySink
from mailgate.sync.prepare import Job, Prepared, Preparer

_LENGTH: Final = struct.Struct(">Q")
_AT_ONCE: Final = 512
"""Pieces that one `writev` takes at most; systems allow 1 024."""


class PreparingProcess:
    """This side of the process. For one thread at a time, but for `end`."""

    def __init__(self) -> None:
        """Start it. Raises OSError."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAILGATE_")}
        paths = [str(Path(mailgate.__file__).parents[1]), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
        )
        self._started = False
        self._ended = threading.Lock()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether it has started and would begin at once. Raises OSError and EOFError when it is gone."""
        if not self._started and select.select([self._out], [], [], 0)[0]:
            _read(self._out, 1)
            self._started = True
        return self._started

    def prepare(self, job: Job, bodies: Sequence[bytes | bytearray]) -> Prepared | None:
        """What `Preparer.prepare` makes of it; None when it has to be done here. Raises OSError and EOFError when
        it is gone.
        """
        head = pickle.dumps((job, [len(body) for body in bodies]), pickle.HIGHEST_PROTOCOL)
        _write(self._in.fileno(), [_LENGTH.pack(len(head)), head, *bodies])
        size = _LENGTH.unpack(_read(self._out, _LENGTH.size))[0]
        if not size:
            return None
        answer: Prepared = pickle.loads(_read(self._out, size))  # noqa: S301 - from our own program, by its own pipe
        return answer

    def end(self) -> None:
        """Let it end, and wait for that; harmless when called twice."""
        with self._ended:
            for stream in (self._in, self._out):
                with contextlib.suppress(OSError):
                    stream.close()
            self._process.wait()

    @property
    def _in(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 - as it was started
        return self._process.stdin

    @property
    def _out(self) -> IO[bytes]:
        assert self._process.stdout is not None  # noqa: S101 - as it was started
        return self._process.stdout


def _write(descriptor: int, pieces: list[bytes | bytearray]) -> None:
    for start in range(0, len(pieces), _AT_ONCE):
        views = [memoryview(piece) for piece in pieces[start : start + _AT_ONCE]]
        while views:
            written = os.writev(descriptor, views)
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if views:
                views[0] = views[0][written:]


def _read(stream: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        count = stream.readinto(view[at:])  # type: ignore[attr-defined]  # of a raw file
        if not count:
            raise EOFError
        at += count
    return data


class _There:
    """The process itself."""

    def __init__(self) -> None:
        self._blobs: dict[str, BlobStore] = {}
        self._keys: tuple[KeyMaterial | None, TenantKeys | None] = (None, None)

    def serve(self, source: IO[bytes], answers: IO[bytes]) -> None:
        """Prepare what comes until nothing more can come."""
        with contextlib.suppress(EOFError, BrokenPipeError):
            _write(answers.fileno(), [b"+"])
            while True:
                size = _LENGTH.unpack(_read(source, _LENGTH.size))[0]
                job, lengths = pickle.loads(_read(source, size))  # noqa: S301 - from our own program, by its own pipe
                bodies = [bytes(_read(source, length)) for length in lengths]
                answer = self._prepared(job, bodies)
                _write(answers.fileno(), [_LENGTH.pack(len(answer)), answer])

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


def main() -> None:
    """`python -m mailgate.sync.preparing`, started by `PreparingProcess` only."""
    gc.freeze()  # what was loaded stays: the collector need not look at it again and again
    gc.set_threshold(20_000)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    with os.fdopen(0, "rb", buffering=0) as source, os.fdopen(1, "wb", buffering=0) as answers:
        _There().serve(source, answers)


if __name__ == "__main__":
    main()
