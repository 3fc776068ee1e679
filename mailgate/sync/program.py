"""Which program this is, to tell it from the one that an upgrade puts into its place while it runs."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import connectors
import mailgate
import retention


def program() -> bytes:
    """A digest of the version, and of what the files of the program are called, how long they are and when they were
    written.
    """
    digest = hashlib.sha256(mailgate.__version__.encode())
    for package in (connectors.__file__, mailgate.__file__, retention.__file__):
        digest.update("".join(sorted(_files(str(Path(package).parent), ""))).encode())
    return digest.digest()


@functools.cache
def own_program() -> bytes:
    """The `program` that this process runs: as it was when this was asked first, which is to be where it starts."""
    return program()


def _files(folder: str, inside: str) -> list[str]:
    lines = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{inside}/{entry.name}"
            if entry.name.endswith(".py"):
                found = entry.stat()
                lines.append(f"{name} {found.st_size} {found.st_mtime_ns}\n")
            elif entry.is_dir() and entry.name != "__pycache__":
                lines += _files(entry.path, name)
    return lines
