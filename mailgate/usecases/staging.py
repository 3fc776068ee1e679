"""Files that are made to be sent, in a folder of the gateway's own: gone when they are sent, and when whoever made them
was killed, at the next start.

Each has a lock beside it that the kernel lets go when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

_LOCK = ".lock"


@contextlib.contextmanager
def staged(place: Path) -> Iterator[Path]:
    """A new folder in `place`, for as long as the block lasts. Blocking."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = place / uuid4().hex
    lock = folder.with_suffix(_LOCK)
    held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(held)


def sweep(place: Path) -> int:
    """Remove what processes left that ended before they could; how many there were. Blocking."""
    swept = 0
    for lock in place.glob(f"*{_LOCK}"):
        with contextlib.suppress(OSError):
            held = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it is being made or sent
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink()
                swept += 1
            finally:
                os.close(held)
    return swept
