"""`mailgate demo` from start to end, as a person runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mailgate.demo.mailserver import find_dovecot
from tests.api.people import TOKEN
from tests.servers import leave_out

COMMAND = [sys.executable, "-m", "mailgate.cli", "demo"]


@pytest.fixture
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mailgate-demo-test-") as name:
        yield Path(name) / "demo"


def children_of(session: int) -> list[str]:
    """Programs that still run and have anything to do with the demonstration of this test."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
            except OSError:  # another user's, or it has ended meanwhile
                continue
            if f"DEMO_TEST_SESSION={session}".encode() in environment:
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def environment(session: int) -> dict[str, str]:
    return {**os.environ, "DEMO_TEST_SESSION": str(session), "NO_COLOR": "1"}


def holds(said: str) -> None:
    assert "Everything held" in said
    assert "0 for the purge" in said
    assert "\x1b" not in said


def assert_checks_a_log(said: str) -> None:
    """The command that is shown is one that a person can run; long lines are broken inside their frame."""
    shown = "".join(line.strip("│ ").ljust(1) for line in said.splitlines())
    found = re.search(r"audit ?verify ?(?P<log>/\S+?) ?--vkey ?@(?P<vkey>/\S+?/vkey)", shown)
    assert found is not None, said
    command = [*COMMAND[:-1], "audit", "verify", found["log"], "--vkey", f"@{found['vkey']}"]
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0


def test_everything_holds_without_dovecot(data: Path) -> None:
    session = os.getpid()
    done = subprocess.run(
        [*COMMAND, "--exit", "--server", "pymap", "--data", str(data)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(session),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    holds(done.stdout)
    assert done.stderr == ""
    assert_checks_a_log(done.stdout)
    assert children_of(session) == []


@pytest.mark.server
def test_everything_holds_and_the_pages_are_open(data: Path) -> None:
    if find_dovecot() is None:
        leave_out("Dovecot", "dovecot-imapd")
    session = os.getpid() + 2_000_000
    running = subprocess.Popen(
        [*COMMAND, "--server", "dovecot", "--data", str(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(session),
    )
    assert running.stdout is not None
    with running.stdout:
        said = ""
        for line in running.stdout:
            said += line
            if "Ctrl-C ends it" in line:
                break
        holds(said)
        found = re.search(r"(http://\S+)/admin as (\S+), (\S+)", said)
        assert found is not None
        with httpx.Client(base_url=found[1], timeout=120) as browser:
            token = TOKEN.search(browser.get("/admin/sign-in").text)
            assert token is not None
            form = {"token": token[1], "name": found[2], "password": found[3]}
            assert browser.post("/admin/sign-in", data=form).headers["location"] == "/admin/mailboxes"
            assert "Larkspur Bakery" in browser.get("/admin/mailboxes").text
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
    assert running.wait(200) == 0, rest
    assert "Traceback" not in rest
    assert children_of(session) == []


def test_ctrl_c_ends_everything(data: Path) -> None:
    session = os.getpid() + 1_000_000
    running = subprocess.Popen(
        [*COMMAND, "--server", "pymap", "--data", str(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(session),
    )
    assert running.stdout is not None
    with running.stdout:
        for line in running.stdout:
            if "watches the import" in line:
                break
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
    assert running.wait(200) == 130, rest
    assert "Traceback" not in rest
    assert children_of(session) == []
