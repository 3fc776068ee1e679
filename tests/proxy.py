"""A TCP proxy on loopback that does what bad lines do: cut, delay, split, stall and half-close, at exact byte offsets.

    async with Proxy("127.0.0.1", dovecot.port) as proxy:
        proxy.faults = Faults(cut_after=10_000)          # for connections opened from now on
        ... connect to 127.0.0.1:proxy.port ...
        await proxy.wait_for(lambda: proxy.cuts == 1)

Offsets count the bytes of one connection that the server has sent (`…after`) or that the client has sent (`client_…`).
What passes can be kept (`tape`), to be played again by `tests.replay`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to a connection. Without arguments: nothing."""

    cut_after: int | None = None
    """Reset both sides once the client has received this many bytes; none beyond them are delivered."""
    client_cut_after: int | None = None
    """Reset both sides once the server has received this many bytes from the client."""
    half_close_after: int | None = None
    """After this many bytes the client sees an orderly end (FIN), while what it sends still reaches the server."""
    stall_after: int | None = None
    """After this many bytes nothing more arrives, in silence and with the line open."""
    split: int | None = None
    """Deliver at most this many bytes at a time, each in a packet of its own."""
    delay_s: float = 0.0
    """Hold everything back this long, in each direction, without lowering the throughput."""
    rate: float | None = None
    """Bytes per second towards the client."""


@dataclass(frozen=True, slots=True)
class _Limits:
    reset: int | None
    finish: int | None
    stall: int | None

    def next_stop(self, offset: int) -> int | None:
        stops = [stop for stop in (self.reset, self.finish, self.stall) if stop is not None]
        return min(stops) - offset if stops else None


class Proxy:
    """Listens on 127.0.0.1:`port` between `start` and `close`; also an async context manager."""

    def __init__(self, host: str, port: int, faults: Faults | None = None) -> None:
        self.host, self.target_port = host, port
        self.faults = faults or Faults()
        self.accepted = 0
        """Connections ever accepted."""
        self.cuts = 0
        """Connections that were reset, by a fault or by `cut`."""
        self.to_client = 0
        self.to_server = 0
        """Bytes delivered, over all connections."""
        self.tape: list[tuple[bool, bytes]] | None = None
        """Set it to a list to keep what passes, in order: (from the server?, bytes)."""
        self._connections: set[_Connection] = set()
        self._changed = asyncio.Condition()

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.reset()
        await self.wait_for(lambda: not self._connections)
        await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def cut(self) -> None:
        """Resets every open connection now."""
        for connection in list(self._connections):
            connection.cut()

    def silence(self) -> None:
        """From now on nothing of the open connections arrives anywhere, in either direction, and no side is told: a NAT
        that forgot them, or a peer without power. New connections are served.
        """
        for connection in list(self._connections):
            connection.silent = True

    async def wait_for(self, condition: Callable[[], bool], *, timeout: float = 120) -> None:
        """Returns when `condition()` holds; it is looked at whenever bytes pass or a connection comes or goes."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(condition)

    async def changed(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(self, self.faults, writer)
        self._connections.add(connection)
        try:
            await connection.run(reader)
        finally:
            self._connections.discard(connection)
            await self.changed()


class _Connection:
    def __init__(self, proxy: Proxy, faults: Faults, client: asyncio.StreamWriter) -> None:
        self._proxy, self._faults, self._client = proxy, faults, client
        self._server: asyncio.StreamWriter | None = None
        self.silent = False
        self._ended = asyncio.Event()

    def cut(self) -> None:
        self._proxy.cuts += 1
        self.reset()

    def reset(self) -> None:
        """RST both sides: SO_LINGER 0 makes the kernel throw away what it still holds."""
        for writer in (self._client, self._server):
            if writer is not None and not writer.is_closing():
                line = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
        self._ended.set()

    async def run(self, client_reader: asyncio.StreamReader) -> None:
        try:
            server_reader, self._server = await asyncio.open_connection(self._proxy.host, self._proxy.target_port)
        except OSError:
            self.reset()
            return
        faults = self._faults
        down = _Limits(faults.cut_after, faults.half_close_after, faults.stall_after)
        up = _Limits(faults.client_cut_after, None, None)
        pumps = [
            asyncio.create_task(self._pump(server_reader, self._client, down, towards_client=True)),
            asyncio.create_task(self._pump(client_reader, self._server, up, towards_client=False)),
        ]
        ended = asyncio.create_task(self._ended.wait())
        both = asyncio.gather(*pumps)
        try:
            await asyncio.wait([both, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*pumps, ended):
                task.cancel()
            await asyncio.gather(*pumps, ended, both, return_exceptions=True)
            for writer in (self._client, self._server):
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: _Limits, *, towards_client: bool
    ) -> None:
        if self._faults.delay_s:
            queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read_ahead(reader, queue))
                tasks.create_task(self._deliver(queue, writer, limits, towards_client=towards_client))
            return
        offset = 0
        while True:
            data = await self._read(reader)
            offset, going_on = await self._pass(data, writer, limits, offset, towards_client=towards_client)
            if not going_on:
                return

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(_CHUNK)
        except OSError:
            return b""

    async def _read_ahead(self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await self._read(reader)
            queue.put_nowait((loop.time() + self._faults.delay_s, data))
            if not data:
                return

    async def _deliver(
        self,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        limits: _Limits,
        *,
        towards_client: bool,
    ) -> None:
        loop, offset = asyncio.get_running_loop(), 0
        while True:
            due, data = await queue.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)  # the delay that the test asked for
            offset, going_on = await self._pass(data, writer, limits, offset, towards_client=towards_client)
            if not going_on:
                return

    async def _pass(
        self, data: bytes, writer: asyncio.StreamWriter, limits: _Limits, offset: int, *, towards_client: bool
    ) -> tuple[int, bool]:
        """Delivers `data` as far as the limits allow; returns the new offset and whether to go on."""
        if self.silent:
            return offset, bool(data)
        if self._proxy.tape is not None and data:
            self._proxy.tape.append((towards_client, data))
        if not data:
            if writer.can_write_eof() and not writer.is_closing():
                with contextlib.suppress(OSError):
                    writer.write_eof()
            return offset, False
        stop = limits.next_stop(offset)
        allowed = data if stop is None else data[:stop]
        step = self._faults.split if towards_client and self._faults.split else _CHUNK
        for start in range(0, len(allowed), step):
            piece = allowed[start : start + step]
            try:
                writer.write(piece)
                await writer.drain()
            except OSError:
                self.reset()
                return offset, False
            if towards_client:
                self._proxy.to_client += len(piece)
                if self._faults.rate:
                    await asyncio.sleep(len(piece) / self._faults.rate)  # the line speed that the test asked for
            else:
                self._proxy.to_server += len(piece)
            if step < _CHUNK:
                await asyncio.sleep(0)  # let the piece leave as a packet of its own
            offset += len(piece)
        await self._proxy.changed()
        if stop is None or len(data) < stop:
            return offset, True
        if limits.reset == offset:
            self.cut()
        elif limits.finish == offset:
            with contextlib.suppress(OSError):
                writer.write_eof()
            await asyncio.Event().wait()
        else:
            await asyncio.Event().wait()
        return offset, False
