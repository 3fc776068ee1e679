"""A process of our own program that reads what strangers wrote, and may take so much of the machine and no more."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import mailgate


def run(module: str, *words: str, given: bytes, patience_s: float) -> tuple[bytes, int]:
    """What it wrote, and how it ended; nothing and 0 where it could not be started, or stood still. Blocks."""
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            command(module, *words),
            input=given,
            stdout=subprocess.PIPE,
            env=environment(),
            timeout=patience_s,
            check=False,
            process_group=0,
        )
    except (OSError, subprocess.TimeoutExpired):
        return b"", 0
    return done.stdout, done.returncode


def command(module: str, *words: str) -> list[str]:
    """How to start a module of this very program. -P: not what lies in the directory where somebody started us."""
    return [sys.executable, "-P", "-m", module, *words]


def environment() -> dict[str, str]:
    """What such a process is given of ours: the way to the program, and no setting, of which some are secrets."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MAILGATE_")}
    paths = [str(Path(mailgate.__file__).parents[1]), ours.get("PYTHONPATH", "")]
    return ours | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def bound(*, processor_s: int, memory: int) -> None:
    """For the process itself: seconds of a processor, bytes of memory with its program's, and no core."""
    for what, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, processor_s),
        (resource.RLIMIT_AS, memory),
    ):
        _, most = resource.getrlimit(what)
        resource.setrlimit(what, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
