"""Connections whose client sends the header of a request too slowly, or never."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from mailgate.app.connections import Connection

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def serving(patience_s: float) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A server's port; its one route answers when the event is set."""
    answer = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    protocol = type("Impatient", (Connection,), {"patience_s": patience_s})
    server = Server(uvicorn.Config(app, port=0, http=protocol, lifespan="off", log_config=None))
    serving = asyncio.create_task(server._serve())
    await server.up.wait()
    try:
        yield server.servers[0].sockets[0].getsockname()[1], answer
    finally:
        answer.set()
        server.should_exit = True
        await serving


@pytest.mark.parametrize("said", [b"", b"G", HEAD, HEAD + b"X-1: a"])
async def test_a_header_that_never_ends_is_given_up(said: bytes) -> None:
    async with serving(0.05) as (port, _), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        assert await reader.read() == b""
        writer.close()


async def test_the_next_header_on_a_kept_connection_is_given_up_too() -> None:
    async with serving(0.05) as (port, answer), asyncio.timeout(30):
        answer.set()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.write(HEAD)
        assert await reader.read() == b""
        writer.close()


async def test_an_answer_may_take_longer() -> None:
    async with serving(0.05) as (port, answer), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\n")
        silent, other = await asyncio.open_connection("127.0.0.1", port)
        assert await silent.read() == b""  # the patience is over
        other.close()
        answer.set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.close()
