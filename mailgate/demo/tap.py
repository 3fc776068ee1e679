"""A wire tap between the gateway and a mail server: passes every byte on and writes down each command, never a secret.

The demonstration's proof that a purge sends nothing stands on it: it needs no trust in either program's own log.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Self

_CHUNK = 65_536
_COMMAND = re.compile(rb"\A\S+ (UID )?([A-Za-z]+)")


class Tap:
    """Listens on 127.0.0.1:`port` and relays to `target`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.commands: list[str] = []
        """Names of the commands that went to the server, in order: `LOGIN`, `UID FETCH`, `DONE`, …; no arguments."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._tasks)

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        try:
            await task
        except (OSError, asyncio.CancelledError):
            pass  # the line dropped, or the demonstration ends: either way this connection is over
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        down = asyncio.create_task(self._down(from_server, writer))
        try:
            await self._up(reader, to_server)
            # The client is done; the server's last words still pass.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(down), 2)
        finally:
            down.cancel()
            await asyncio.gather(down, return_exceptions=True)
            to_server.close()
            with contextlib.suppress(OSError):
                await to_server.wait_closed()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if not writer.is_closing():
            writer.write_eof()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = b""
        while data := await reader.read(_CHUNK):
            *lines, line = (line + data).split(b"\n")
            self.commands += [name for name in map(_name, lines) if name]
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def _name(line: bytes) -> str:
    if line.strip().upper() == b"DONE":
        return "DONE"
    found = _COMMAND.match(line)
    return ((found[1] or b"") + found[2]).decode().upper() if found else ""
