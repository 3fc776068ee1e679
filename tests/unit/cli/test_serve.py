"""`mailgate serve` as a process: it starts on an empty directory, answers, and ends as it is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.waiting import PATIENCE_S

TOKEN = "a-token-of-the-tests-of-serve"


class Process:
    """A running gateway; its log is JSON lines in a file."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self._log = folder / f"log-{len(list(folder.glob('log-*')))}"
        settings = {
            "MAILGATE_DATA_DIR": str(folder / "data"),
            "MAILGATE_HTTP__PORT": "0",
            "MAILGATE_LOG__FORMAT": "json",
            "MAILGATE_ADMIN_TOKEN": TOKEN,
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mailgate.cli", "serve"],
                cwd=folder,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **settings, **environ},
                stderr=log,
                stdout=log,
            )

    def entries(self) -> list[dict[str, Any]]:
        whole = self._log.read_text().rpartition("\n")[0]  # it may be in the middle of a line
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def text(self) -> str:
        return self._log.read_text()

    def url(self) -> str:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self.process.poll() is None:
            for entry in self.entries():
                if entry["event"] == "serving":
                    return str(entry["url"])
            time.sleep(0.05)
        raise AssertionError(self.text())

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started: list[Process] = []

    def start(**environ: str) -> Process:
        started.append(Process(tmp_path, **environ))
        return started[-1]

    yield start
    for process in started:
        process.end()


def test_it_starts_on_an_empty_directory_and_ends_in_order(start: Any) -> None:
    gateway = start()
    url = gateway.url()
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{url}/healthz", timeout=PATIENCE_S).json()["status"] == "ok"
    assert httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200
    acme = f"{url}/v1/tenants/acme"
    assert httpx.put(acme, json={"name": "Acme"}, headers=headers, timeout=PATIENCE_S).status_code == 201
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.wait() == 0
    events = [entry["event"] for entry in gateway.entries()]
    assert events[-2:] == ["stopping", "stopped"]
    assert TOKEN not in gateway.text()
    again = start()
    found = httpx.get(f"{again.url()}/v1/tenants/acme", headers=headers, timeout=PATIENCE_S)
    assert found.json()["name"] == "Acme"


def test_what_it_makes_is_for_its_own_user_only(start: Any, tmp_path: Path) -> None:
    gateway = start()
    gateway.url()
    for path in (tmp_path / "data").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_second_signal_ends_at_once(start: Any) -> None:
    gateway = start(MAILGATE_HTTP__SHUTDOWN_GRACE_S="300")
    host, port = gateway.url().removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as open_request:
        # A request whose body never comes keeps an orderly end waiting.
        head = f"PUT /v1/tenants/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        open_request.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n".encode())
        gateway.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + PATIENCE_S
        while not any(entry["event"] == "stopping" for entry in gateway.entries()):
            assert time.monotonic() < end
            time.sleep(0.02)
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.wait() == 128 + signal.SIGINT


def test_a_port_in_use_is_named(start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gateway = start(MAILGATE_HTTP__PORT=str(taken.getsockname()[1]))
        assert gateway.wait() == 3
    assert "http.port" in gateway.text()
    assert "Traceback" not in gateway.text()


def test_a_wrong_setting_is_named(start: Any) -> None:
    gateway = start(MAILGATE_HTTP__PROT="1")
    assert gateway.wait() == 3
    assert "did you mean http.port?" in gateway.text()


def test_a_database_that_is_not_there_is_named(start: Any) -> None:
    gateway = start(MAILGATE_DATABASE__URL="postgresql://u:hunter2@127.0.0.1:1/nothing")
    assert gateway.wait() == 5
    assert "database" in gateway.text()
    assert "hunter2" not in gateway.text()
    assert "Traceback" not in gateway.text()
