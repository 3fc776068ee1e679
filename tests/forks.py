"""Processes for the tests to kill: `python -m MODULE ARGUMENT` without the second that it takes to import the gateway.

A server process imports it once and forks for each child (multiprocessing's forkserver); then the module runs as its
own program would, with pipes for its input, output and errors.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any, TextIO

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["mailgate.app.core", "tests.sync.engine", "tests.store.conftest", "uvloop"])


def _run(module: str, argument: str, *pipes: Connection) -> None:
    for number, pipe in enumerate(pipes):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - until the process ends
    sys.argv = [module, argument]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _text(end: Connection, mode: str) -> TextIO:
    with end:
        return os.fdopen(os.dup(end.fileno()), mode)


class Forked:
    """One such process, as `subprocess.Popen` with `text=True` shows it. Ends with the test run."""

    def __init__(self, module: str, argument: str) -> None:
        given, stdin = _FORKS.Pipe(duplex=False)
        stdout, printed = _FORKS.Pipe(duplex=False)
        stderr, errors = _FORKS.Pipe(duplex=False)
        self._process = _FORKS.Process(target=_run, args=(module, argument, given, printed, errors), daemon=True)
        self._process.start()
        for end in (given, printed, errors):
            end.close()
        self.stdin, self.stdout, self._stderr = _text(stdin, "w"), _text(stdout, "r"), _text(stderr, "r")

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended: minus the signal's number if one ended it; None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill -9."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Its end; what it printed and nobody read is gone then. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(str(self._process.name), timeout or 0)
        for file in (self.stdin, self.stdout, self._stderr):
            with contextlib.suppress(BrokenPipeError):
                file.close()
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it still prints, and its errors, when it ended. Not after `wait`."""
        output, errors = self.stdout.read(), self._stderr.read()
        self.wait(timeout)
        return output, errors


def fork(module: str, **job: Any) -> Forked:
    """`module` at work on `job`, which it gets as JSON."""
    return Forked(module, json.dumps(job))
