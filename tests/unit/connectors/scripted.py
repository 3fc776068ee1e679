"""A server on loopback that says what a test tells it to say, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.imap.settings import Limits, Timeouts
from connectors.imap.source import ImapSource
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks

LOOPBACK = parse_networks(["127.0.0.0/8"])
PLAIN = b"IMAP4rev1 LITERAL+ UIDPLUS MOVE UNSELECT"
QUICK = Timeouts(connect_s=60, command_s=60, idle_s=60, logout_s=0.2)
AUTH = PasswordAuth("user", "correct horse")
_LITERAL = re.compile(rb"\{(\d+)(\+?)\}\r\n\Z")


class CutError(Exception):
    """The script may send no more: the line was cut where the test wanted it."""


class Talk:
    """The server's side of one connection. `budget` is how many bytes it may send before the line is cut."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
        self.reader, self.writer = reader, writer
        self.budget = budget
        self.sent = 0
        self.heard: list[bytes] = []

    async def send(self, *lines: bytes) -> None:
        """Lines, CRLF added."""
        await self.raw(b"".join(line + b"\r\n" for line in lines))

    async def raw(self, data: bytes) -> None:
        if self.budget is not None:
            data, rest = data[: self.budget - self.sent], data[self.budget - self.sent :]
            self.sent += len(data)
            self.writer.write(data)
            await self.writer.drain()
            if rest:
                raise CutError
            return
        self.sent += len(data)
        self.writer.write(data)
        await self.writer.drain()

    async def line(self) -> bytes:
        """The next line of the client, without CRLF."""
        line = await self.reader.readuntil(b"\r\n")
        self.heard.append(line[:-2])
        return line[:-2]

    async def command(self) -> tuple[bytes, bytes]:
        """The next command as (tag, rest); literals are taken with it, after a `+` where one is due."""
        line = await self.reader.readuntil(b"\r\n")
        while (literal := _LITERAL.search(line)) is not None:
            if not literal[2]:
                await self.send(b"+ go on")
            line += await self.reader.readexactly(int(literal[1]))
            line += await self.reader.readuntil(b"\r\n")
        self.heard.append(line[:-2])
        tag, _, rest = line[:-2].partition(b" ")
        return tag, rest

    async def expect(self, start: bytes) -> bytes:
        """The next command must begin with these words; returns its tag."""
        tag, rest = await self.command()
        assert rest.startswith(start), f"expected {start!r}, heard {rest!r}"
        return tag

    async def answer(self, start: bytes, *lines: bytes, status: bytes = b"OK done") -> None:
        """Expects a command and answers it."""
        tag = await self.expect(start)
        await self.send(*lines, tag + b" " + status)

    async def greet(self, capabilities: bytes = b"IMAP4rev1 IDLE LITERAL+") -> None:
        """Greeting and login."""
        await self.send(b"* OK [CAPABILITY IMAP4rev1 LITERAL+] ready")
        await self.answer(b"LOGIN", status=b"OK [CAPABILITY " + capabilities + b"] in")

    async def examine(self, exists: int, *more: bytes) -> None:
        lines = (b"* %d EXISTS" % exists, b"* OK [UIDVALIDITY 1] x", b"* OK [UIDNEXT 100] x", *more)
        await self.answer(b"EXAMINE", *lines, status=b"OK [READ-ONLY] open")

    async def gone(self) -> None:
        """Until the client logs out or has hung up."""
        with contextlib.suppress(ConnectionError):
            while line := await self.reader.readline():
                if line.endswith(b" LOGOUT\r\n"):
                    await self.send(b"* BYE bye", line.split(b" ")[0] + b" OK done")
                    return

    def reset(self) -> None:
        """RST instead of FIN."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Handler = Callable[[Talk], Awaitable[None]]


class Scripted:
    """The server: its port, and every connection's talk."""

    def __init__(self) -> None:
        self.port = 0
        self.talks: list[Talk] = []
        self.failures: list[BaseException] = []

    @property
    def heard(self) -> list[bytes]:
        """All that clients said, over all connections."""
        return [line for talk in self.talks for line in talk.heard]


@contextlib.asynccontextmanager
async def serve(handler: Handler, *, budget: int | None = None, reset: bool = False) -> AsyncIterator[Scripted]:
    """Plays `handler` to each client. What fails in a script fails the test when the server ends."""
    scripted = Scripted()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Talk(reader, writer, budget)
        scripted.talks.append(talk)
        try:
            await handler(talk)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client hung up: whether it may is for the test to say
        except CutError:
            if reset:
                talk.reset()
        except BaseException as error:  # noqa: BLE001 - carried over to the test
            scripted.failures.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    scripted.port = server.sockets[0].getsockname()[1]
    try:
        yield scripted
    finally:
        server.close()
        for talk in scripted.talks:
            talk.writer.close()
        await server.wait_closed()
    if scripted.failures:
        raise scripted.failures[0]


async def connect(
    server: Scripted,
    *,
    auth: PasswordAuth = AUTH,
    timeouts: Timeouts = QUICK,
    limits: Limits | None = None,
    security: Security = Security.NONE,
) -> ImapSource:
    return await connect_imap(
        Endpoint("127.0.0.1", server.port, security),
        auth,
        ssl_context=None,
        allow_networks=LOOPBACK,
        timeouts=timeouts,
        limits=limits,
    )


@contextlib.asynccontextmanager
async def talking(
    script: Handler, capabilities: bytes = PLAIN, *, selected: bool = True, timeouts: Timeouts = QUICK
) -> AsyncIterator[ImapConnection]:
    """A line to a server that logs in, opens INBOX for writing, then plays `script`."""

    async def whole(talk: Talk) -> None:
        await talk.greet(capabilities)
        if selected:
            await talk.answer(b"SELECT", b"* 4 EXISTS", b"* OK [UIDVALIDITY 1] x", status=b"OK [READ-WRITE] open")
        await script(talk)
        await talk.gone()

    async with serve(whole) as server:
        line = await connect(server, timeouts=timeouts)
        try:
            if selected:
                await line.select("INBOX")
            yield line
        finally:
            await line.close()


async def pieces(raw: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for at in range(0, len(raw), size):
        yield raw[at : at + size]
