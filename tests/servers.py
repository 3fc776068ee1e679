"""Real servers as children of the test run: found, started on loopback, ended by process id; never those of the
machine.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

_PORTS = Path(tempfile.gettempdir()) / f"mailgate-test-ports-{os.getuid()}"

GOCODE = Path("/usr/share/gocode")
"""Where Debian's golang-…-dev packages put their sources; with `GO111MODULE=off` it is a GOPATH."""


def leave_out(what: str, packages: str | None, *, instead: str = "") -> NoReturn:
    """Skips the test because `what` is not installed; `instead` says what helps when it is no package.

    With CI=true nothing may be left out, so it fails there.
    """
    reason = f"{what} is missing ({instead or f'apt-get install {packages}'})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def find_program(name: str, *folders: str) -> str | None:
    """The path of a server's program. Debian keeps some outside the PATH of ordinary users."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *folders]))


def missing_go() -> None:
    if find_program("go") is None or not (GOCODE / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        leave_out("Go with golang.org/x/mod", "golang-go golang-golang-x-mod-dev")


def free_port() -> int:
    """A port on 127.0.0.1 that is free, and that no other process of the tests gets while this one lives: a server
    that stops keeps its own, and what listens there is never another test's. Below what the kernel gives out itself.
    """
    _PORTS.mkdir(exist_ok=True)
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        lock = os.open(_PORTS / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
        else:
            return port  # the lock ends with the process


def service_user() -> str | None:
    """Whom a server runs as: `nobody` when the tests run as root (PostgreSQL and Dovecot's mail processes refuse
    root), else us.
    """
    return "nobody" if os.getuid() == 0 else None


def give(path: Path, *, user: str | None) -> None:
    """Hands `path` to the user of the server."""
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


class Server:
    """One child process. It dies with the test run, even when that is killed (prctl PR_SET_PDEATHSIG through
    setpriv).
    """

    def __init__(
        self, command: list[str], log: Path, *, user: str | None = None, stop_signal: int = signal.SIGTERM
    ) -> None:
        self.stop_signal = stop_signal
        self.log = log
        prefix = ["setpriv", "--pdeathsig", signal.Signals(stop_signal).name.removeprefix("SIG")]
        if user is not None:
            entry = pwd.getpwnam(user)
            prefix += ["--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--clear-groups"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*prefix, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/"
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until(self, ready: Callable[[], bool], *, timeout: float = 120) -> None:
        """Returns when `ready()`; raises RuntimeError with the log's end when the process ends or `timeout` seconds
        pass before.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.process.args!r} ended with {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.process.args!r} is not ready after {timeout} s:\n{self.tail()}")
            time.sleep(0.01)  # between two looks at the condition

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, *, timeout: float = 20) -> None:
        """Asks it to end and waits; kills it when it does not."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def listening(port: int) -> bool:
    """True when something accepts connections on 127.0.0.1:port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
