"""The gateway of the demonstration: `mailgate serve` as a process of its own, on embedded defaults, on loopback."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from pathlib import Path

from mailgate.demo.children import Child, ChildError, free_port

_PROGRAM = (sys.executable, "-m", "mailgate.cli")


class Gateway:
    """Everything that it keeps lies in `data`."""

    def __init__(self, data: Path, log: Path, *, port: int | None = None) -> None:
        self.data, self.log = data, log
        self.port = port or free_port()
        self.token = "mgd_" + secrets.token_urlsafe(24)
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Raises ChildError when it does not come up."""
        program = [*_PROGRAM, "serve"]
        self._child = await Child.start("mailgate serve", program, self.log, env=self._settings())
        await self._child.listening(self.port, within_s=60)

    def running(self) -> bool:
        return self._child is not None and self._child.running()

    def tail(self) -> str:
        return self._child.tail() if self._child is not None else ""

    async def add_person(self, name: str) -> str:
        """Lets somebody sign in to the pages as an admin; their password. Raises ChildError."""
        password = secrets.token_urlsafe(12)
        process = await asyncio.create_subprocess_exec(
            *_PROGRAM, "user", "add", name, "--role", "admin", "--password-stdin",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **self._settings()},
        )  # fmt: skip
        said, _ = await process.communicate(password.encode())
        if process.returncode != 0:
            raise ChildError(f"mailgate user add ended with status {process.returncode}\n{said.decode()}")
        return password

    def _settings(self) -> dict[str, str]:
        return {
            "MAILGATE_DATA_DIR": str(self.data),
            "MAILGATE_ADMIN_TOKEN": self.token,
            "MAILGATE_HTTP__PORT": str(self.port),
            # The demonstration's mail server is on loopback, which is refused unless it is listed.
            "MAILGATE_NET__ALLOW": "127.0.0.0/8",
            "MAILGATE_LEDGER__ORIGIN": "mailgate.demo.example",
            # All six mailboxes at once; it is a show.
            "MAILGATE_SYNC__IMPORTS_AT_ONCE": "6",
            # Small batches, so that the bars move.
            "MAILGATE_SYNC__BATCH_MESSAGES": "10",
            # No scheduled pass or purge shall mix with what is shown.
            "MAILGATE_SYNC__POLL_INTERVAL_S": "3600",
            "MAILGATE_RETENTION__PURGE_INTERVAL_S": "86400",
            "MAILGATE_LOG__FORMAT": "json",
        }

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop()
