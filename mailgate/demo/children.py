"""Programs that the demonstration starts: on loopback, written to a log, and ended with it whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

_STOP_S = 15.0


class ChildError(RuntimeError):
    """A program ended, or was not ready in time; the text ends with the last lines of its log."""


def free_port() -> int:
    """A port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Child:
    """One running program."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name, self._process, self.log = name, process, log

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> Child:
        """Starts `command`, as `user` if given. It is told to end when this process dies, killed ones included."""
        setpriv = shutil.which("setpriv")
        prefix: list[str] = []
        if setpriv:
            prefix = [setpriv, "--pdeathsig", "TERM"]
            if user:
                prefix += [f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *prefix,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                # Ctrl-C on the terminal reaches this process only, which then ends its children in order.
                start_new_session=True,
            )
        return cls(name, process, log)

    async def listening(self, port: int, *, within_s: float = 30.0) -> None:
        """Returns when it accepts connections on 127.0.0.1:`port`. Raises ChildError."""
        try:
            async with asyncio.timeout(within_s):
                while not await _accepts(port):
                    if self._process.returncode is not None:
                        raise ChildError(f"{self.name} ended with status {self._process.returncode}\n{self.tail()}")
                    await asyncio.sleep(0.02)  # between two looks at the condition
        except TimeoutError:
            raise ChildError(f"{self.name} does not listen after {within_s:g} s\n{self.tail()}") from None

    def running(self) -> bool:
        return self._process.returncode is None

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    async def stop(self) -> None:
        """Asks it to end, waits, and kills it when it does not."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
