"""Which processes of an installation live on this machine.

Each holds a lock on a file of its own in the data directory. The kernel lets it go when the process ends, however it
ends; so whoever starts next sees at once who is no more and frees what that one owned, instead of waiting until its
leases run out. Where processes share no data directory nothing is seen, and leases run out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

_LONGEST = 200
"""Bytes of a name."""


class Presence:
    """One process, called `owner` in leases, among the others of `folder`. What the file system refuses is left."""

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder
        self._file = folder / f"{owner.rpartition(':')[2]}.lock"
        self._owner = owner
        self._held: int | None = None

    def announce(self) -> None:
        """Be seen by the others. Call it before the first lease is taken."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            held = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(held, self._owner.encode())
            except OSError:
                os.close(held)
                raise
            self._held = held

    def ended(self) -> list[str]:
        """Processes that ended without taking leave. Each is told once: what they owned is for the caller to free."""
        found: list[str] = []
        with contextlib.suppress(OSError):
            for file in self._folder.glob("*.lock"):
                if file != self._file:
                    with contextlib.suppress(OSError):
                        found += self._bury(file)
        return found

    @staticmethod
    def _bury(file: Path) -> list[str]:
        opened = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it lives
            name = os.read(opened, _LONGEST).decode(errors="replace")
            file.unlink()
            return [name] if name else []
        finally:
            os.close(opened)

    def leave(self) -> None:
        """The process ends in order, and owns nothing any more."""
        if self._held is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()
            os.close(self._held)
            self._held = None
