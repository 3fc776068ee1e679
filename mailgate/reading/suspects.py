"""Messages that may end the process that reads them: a fault in a native library, or all memory taken.

A message is marked before it is read here. When the process ends meanwhile, however that happens, the next one finds
the mark, and does not read that message before another process has done so unharmed (`mailgate.reading.trial`).

    NAME.marks   SLOTS × digest: what is being read, each by a thread of its own (zeros: nothing)
                 KEPT × (deaths, digest): the suspects, the newest last
                 PIECES × PIECE × digest: what a process beside reads, a piece of an import in each place

D1  A mark costs no commit and no fsync: the kernel keeps what a process wrote that is killed. Only a power cut loses
    it, and no message cuts the power.
D2  A process that is killed for another reason sets nothing aside: what it was reading is tried, found harmless, and
    read. Only what `MOST_DEATHS` processes ended over is not tried any more, since the trial may be what ends them (a
    container that is killed whole for want of memory).
    Of a piece nobody knows which message it was: all of it is suspected, none is counted, and each is read alone.
D3  A mark tells nothing of a message: it is the digest of a keyed token, or of an id that nobody can guess.
D4  Each process has a file of its own and holds a lock on it; who starts takes over what the files of ended ones say.
    Where the folder can't be written to nothing is marked, and all else is as ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final, TypeVar

from mailgate.ids import new_ref
from mailgate.reading import limited

T = TypeVar("T")

SLOTS: Final = 16
"""So many are read at once and marked."""

KEPT: Final = 256
"""So many suspects are remembered."""

PIECES: Final = 4
PIECE: Final = 32
"""So many pieces are read beside at once and marked, of so many messages."""

MOST_DEATHS: Final = 3
"""What so many processes ended over is neither read nor tried again."""

PATIENCE_S: Final = 120.0
"""So long a trial may take, which may use a fraction of that of a processor."""

BEGUN: Final = b"begun "
HARMLESS: Final = b"harmless"
"""What a trial says when it begins to read, and when it has read."""

_DIGEST: Final = 16
_NOTHING: Final = bytes(_DIGEST)
_ENTRY: Final = 1 + _DIGEST
_SUSPECTS: Final = SLOTS * _DIGEST
_BESIDE: Final = _SUSPECTS + KEPT * _ENTRY
"""Where in the file the suspects begin, and the pieces."""


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
        self._places = list(range(PIECES))
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
        digest = _digest(name)
        deaths = self._deaths.get(digest, 0)
        if deaths >= MOST_DEATHS and not again:
            raise DeadlyError
        if self._file is None and not deaths:
            return work()
        with self._marked(self._free, 0, _DIGEST, digest):
            if (deaths or (again and self._file is not None)) and ends_a_process(raw, size):
                self._note(digest, MOST_DEATHS)
                raise DeadlyError
            done = work()
        if deaths:
            self._note(digest, 0)
        return done

    def suspected(self, names: Sequence[bytes]) -> bool:
        """Whether one of these may be what ended a process: another process is to read each of them alone."""
        return bool(self._deaths) and any(_digest(name) in self._deaths for name in names)

    def deadly(self, name: bytes) -> bool:
        """Whether so many processes ended over it that none is to read it any more."""
        return bool(self._deaths) and self._deaths.get(_digest(name), 0) >= MOST_DEATHS

    def read_beside(self, names: Sequence[bytes], work: Callable[[], T]) -> T:
        """What `work` returns, which has another process read these. That one may end, but all may be killed with it.
        One message alone is counted as what ended them. Who read them unharmed has cleared them.
        """
        if self._file is None:
            return work()
        digests = b"".join([_digest(name) for name in names[:PIECE]])
        if len(names) == 1:
            marked = self._marked(self._free, 0, _DIGEST, digests)
        else:
            marked = self._marked(self._places, _BESIDE, PIECE * _DIGEST, digests)
        with marked:
            return work()

    def clear(self, names: Sequence[bytes]) -> None:
        """Another process read these unharmed."""
        if self._deaths:
            for digest in map(_digest, names):
                if digest in self._deaths:
                    self._note(digest, 0)

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
    def _marked(self, free: list[int], start: int, width: int, digests: bytes) -> Iterator[None]:
        """In one of the places of `width` bytes that are `free`, the first of which is at `start`."""
        try:
            place = free.pop()
        except IndexError:
            yield
            return
        at = start + place * width
        try:
            self._mark(at, digests)
            yield
        finally:
            self._mark(at, bytes(len(digests)))
            free.append(place)

    def _mark(self, at: int, digests: bytes) -> None:
        with self._changing:  # once it is closed its number may be another file's
            if self._file is not None:
                with contextlib.suppress(OSError):  # a full disk
                    os.pwrite(self._file, digests, at)

    def _note(self, digest: bytes, deaths: int) -> None:
        """So many processes ended over it; none: it is no suspect."""
        with self._changing:
            self._deaths.pop(digest, None)
            if deaths:
                self._deaths[digest] = deaths
            self._save()

    def _save(self) -> bool:
        """Write the suspects; whether that could be done. Under `_changing`, or while nobody else knows of this."""
        while len(self._deaths) > KEPT:
            del self._deaths[next(iter(self._deaths))]
        if self._file is not None:
            entries = b"".join(bytes([deaths]) + digest for digest, deaths in self._deaths.items())
            with contextlib.suppress(OSError):
                os.pwrite(self._file, entries.ljust(KEPT * _ENTRY, b"\0"), _SUSPECTS)
                return True
        return False

    def _open(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{new_ref()}.marks"
        with _one_starts(folder):
            self._file = _locked(path, os.O_CREAT | os.O_EXCL)
            self._path = path
            with contextlib.suppress(OSError):  # a full disk: what the ended ones say is known all the same
                os.pwrite(self._file, bytes(_SUSPECTS), 0)
            ended = [other for other in sorted(folder.glob("*.marks")) if other != path]
            for other in ended:
                with contextlib.suppress(OSError):  # BlockingIOError: its process lives
                    self._take_over(other)

    def _take_over(self, other: Path) -> None:
        file = _locked(other)
        try:
            said = os.read(file, _BESIDE + PIECES * PIECE * _DIGEST)
            entries = said[_SUSPECTS:_BESIDE]
            for at in range(0, len(entries) - _DIGEST, _ENTRY):
                if deaths := entries[at]:
                    self._add(entries[at + 1 : at + _ENTRY], deaths)
            for digest in _marks(said[:_SUSPECTS]):
                self._add(digest, 1)
                _warn("process_ended_while_reading", deaths=self._deaths[digest], most=MOST_DEATHS)
            if piece := _marks(said[_BESIDE:]):
                for digest in piece:
                    self._deaths.setdefault(digest, 1)
                _warn("process_ended_while_preparing", suspects=len(piece))
            if self._save():
                other.unlink()
        finally:
            os.close(file)

    def _add(self, digest: bytes, deaths: int) -> None:
        self._deaths[digest] = min(MOST_DEATHS, self._deaths.pop(digest, 0) + deaths)


def _digest(name: bytes | str) -> bytes:
    return blake2b(name if isinstance(name, bytes) else name.encode(), digest_size=_DIGEST).digest()


def _marks(said: bytes) -> list[bytes]:
    marks = [said[at : at + _DIGEST] for at in range(0, len(said) - _DIGEST + 1, _DIGEST)]
    return [digest for digest in marks if digest != _NOTHING]


def _warn(event: str, **said: object) -> None:
    import structlog  # 6 MB, which the process beside does not need

    structlog.get_logger().warning(event, **said)


@contextlib.contextmanager
def _one_starts(folder: Path) -> Iterator[None]:
    """While one process starts, others wait: a file that is made and not locked yet looks like an ended process's, and
    two would count the same deaths.
    """
    directory = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


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
    whole = str(len(raw) if size is None else size)
    return limited.run("mailgate.reading.trial", whole, given=raw, patience_s=PATIENCE_S)
