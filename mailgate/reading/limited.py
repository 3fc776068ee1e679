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
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAILGATE_")}
    paths = [str(Path(mailgate.__file__).parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", module, *words],
            input=given,
            stdout=subprocess.PIPE,
            env=environment,
            timeout=patience_s,
            check=False,
            process_group=0,
        )
    except (OSError, subprocess.TimeoutExpired):
        return b"", 0
    return done.stdout, done.returncode


def bound(*, processor_s: int, memory: int) -> None:
    """For the process itself: seconds of a processor, bytes of memory with its program's, and no core."""
    for what, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, processor_s),
        (resource.RLIMIT_AS, memory),
    ):
        _, most = resource.getrlimit(what)
        resource.setrlimit(what, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
