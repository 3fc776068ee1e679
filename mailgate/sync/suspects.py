"""Messages that may end the process that reads them: a fault in a native library, or all memory taken.

A message is marked before it is read here. When the process ends meanwhile, however that happens, the next one finds
the mark, and does not read that message before another process has done so unharmed (`mailgate.sync.trial`).

    NAME.marks   SLOTS × digest: what is being read, each by a thread of its own (zeros: nothing)
                 KEPT × (deaths, digest): the suspects, the newest last

D1  A mark costs no commit and no fsync: the kernel keeps what a process wrote that is killed. Only a power cut loses
    it, and no message cuts the power.
D2  A process that is killed for another reason sets nothing aside: what it was reading is tried, found harmless, and
    read. Only what `MOST_DEATHS` processes ended over is not tried any more, since the trial may be what ends them (a
    container that is killed whole for want of memory).
D3  A mark tells nothing of a message: it is the digest of a keyed token, or of an id that nobody can guess.
D4  Each process has a file of its own and holds a lock on it; who starts takes over what the files of ended ones say.
    Where the folder can't be written to nothing is marked, and all else is as ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final, TypeVar

import mailgate
from mailgate.ids import new_ref

T = TypeVar("T")

SLOTS: Final = 16
"""So many are read at once and marked."""

KEPT: Final = 64
"""So many suspects are remembered."""

MOST_DEATHS: Final = 3
"""What so many processes ended over is neither read nor tried again."""

PATIENCE_S: Final = 120.0
"""So long a trial may take, which may use a fraction of that of a processor."""

BEGUN: Final = b"begun "
HARMLESS: Final = b"harmless"
"""What a trial says when it begins to read, and when it has read."""

_DIGEST: Final = 16
_NOTHING: Final = bytes(_DIGEST)


class DeadlyError(Exception):
    """It ended the process that read it."""


class Suspects:
    """What this process reads, and what may be deadly. Any thread may use it."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where marks are kept, which is made; without one nothing is marked, and nothing suspected."""
        self._folder = folder
        self._file: int | None = None
        self._path: Path | None = None
        self._deaths: dict[bytes, int] = {}
        self._free = list(range(SLOTS))
        self._changing = threading.Lock()
        if folder is not None:
            try:
                self._open(folder)
            except OSError as error:
                _warn("messages_not_marked", folder=str(folder), error=str(error))

    def read(
        self, name: bytes | str, raw: bytes, work: Callable[[], T], *, size: int | None = None, again: bool = False
    ) -> T:
        """What `work` makes of `raw`, a message or the beginning of one of `size` bytes. `name`: what it is known by,
        here and after a restart; `again`: it could not be read before, and is tried whatever is known. Raises
        DeadlyError when reading it ends other processes, or did.
        """
        digest = blake2b(name if isinstance(name, bytes) else name.encode(), digest_size=_DIGEST).digest()
        deaths = self._deaths.get(digest, 0)
        if deaths >= MOST_DEATHS and not again:
            raise DeadlyError
        if self._file is None and not deaths:
            return work()
        with self._marked(digest):
            if (deaths or (again and self._file is not None)) and ends_a_process(raw, size):
                self._note(digest, MOST_DEATHS)
                raise DeadlyError
            done = work()
        if deaths:
            self._note(digest, 0)
        return done

    def close(self) -> None:
        """The process ends in order. Suspects are left to the next one."""
        with self._changing:
            file, self._file = self._file, None
            if file is not None:
                if not self._deaths and self._path is not None:
                    with contextlib.suppress(OSError):
                        self._path.unlink()
                os.close(file)

    # The marks.

    @contextlib.contextmanager
    def _marked(self, digest: bytes) -> Iterator[None]:
        try:
            slot = self._free.pop()
        except IndexError:
            slot = None
        try:
            self._mark(slot, digest)
            yield
        finally:
            self._mark(slot, _NOTHING)
            if slot is not None:
                self._free.append(slot)

    def _mark(self, slot: int | None, digest: bytes) -> None:
        with self._changing:  # once it is closed its number may be another file's
            if slot is not None and self._file is not None:
                with contextlib.suppress(OSError):  # a full disk
                    os.pwrite(self._file, digest, slot * _DIGEST)

    def _note(self, digest: bytes, deaths: int) -> None:
        """So many processes ended over it; none: it is no suspect."""
        with self._changing:
            self._deaths.pop(digest, None)
            if deaths:
                self._deaths[digest] = deaths
            self._save()

    def _save(self) -> None:
        """Write the suspects. Under `_changing`, or while nobody else knows of this."""
        while len(self._deaths) > KEPT:
            del self._deaths[next(iter(self._deaths))]
        if self._file is not None:
            entries = b"".join(bytes([deaths]) + digest for digest, deaths in self._deaths.items())
            with contextlib.suppress(OSError):
                os.pwrite(self._file, entries.ljust(KEPT * (1 + _DIGEST), b"\0"), SLOTS * _DIGEST)

    def _open(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{new_ref()}.marks"
        self._file = _locked(path, os.O_CREAT | os.O_EXCL)
        self._path = path
        os.pwrite(self._file, bytes(SLOTS * _DIGEST), 0)
        ended = [other for other in sorted(folder.glob("*.marks")) if other != path]
        for other in ended:
            with contextlib.suppress(OSError):  # BlockingIOError: its process lives
                self._take_over(other)

    def _take_over(self, other: Path) -> None:
        file = _locked(other)
        try:
            said = os.read(file, SLOTS * _DIGEST + KEPT * (1 + _DIGEST))
            marks, entries = said[: SLOTS * _DIGEST], said[SLOTS * _DIGEST :]
            for at in range(0, len(entries) - _DIGEST, 1 + _DIGEST):
                if deaths := entries[at]:
                    self._add(entries[at + 1 : at + 1 + _DIGEST], deaths)
            for at in range(0, len(marks) - _DIGEST + 1, _DIGEST):
                if (digest := marks[at : at + _DIGEST]) != _NOTHING:
                    self._add(digest, 1)
                    _warn("process_ended_while_reading", deaths=self._deaths[digest], most=MOST_DEATHS)
            self._save()
            other.unlink()
        finally:
            os.close(file)

    def _add(self, digest: bytes, deaths: int) -> None:
        self._deaths[digest] = min(MOST_DEATHS, self._deaths.pop(digest, 0) + deaths)


def _warn(event: str, **said: object) -> None:
    import structlog  # 6 MB, which the process beside does not need

    structlog.get_logger().warning(event, **said)


def _locked(path: Path, flags: int = 0) -> int:
    """The file, locked until it is closed. Raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


def ends_a_process(raw: bytes, size: int | None = None) -> bool:
    """Whether reading it ends another process. Not, where none can be had, or it ends before it reads: it is read here
    then, and `MOST_DEATHS` are the end of it.
    """
    for _ in range(2):
        said, code = _trial(raw, size)
        if code != -signal.SIGKILL:
            break  # else somebody may have killed all processes, this one in a moment
    deadly = said == BEGUN
    if deadly:
        _warn("message_ends_who_reads_it", octets=len(raw), code=code)
    elif said != BEGUN + HARMLESS:
        _warn("trial_without_result", code=code)
    return deadly


def _trial(raw: bytes, size: int | None) -> tuple[bytes, int]:
    """What it said, and how it ended; nothing where it could not be started, or stood still."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAILGATE_")}
    paths = [str(Path(mailgate.__file__).parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, "-P", "-m", "mailgate.sync.trial", str(len(raw) if size is None else size)]
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            command,
            input=raw,
            stdout=subprocess.PIPE,
            env=environment,
            timeout=PATIENCE_S,
            check=False,
            process_group=0,
        )
    except (OSError, subprocess.TimeoutExpired):
        return b"", 0
    return done.stdout, done.returncode
