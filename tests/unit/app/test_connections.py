"""Connections whose client sends the header of a request too slowly, or never, or takes nothing of its answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import create_autospec

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mailgate.app.connections import PATIENCE_S, Taken, server_config
from mailgate.settings import HttpSettings

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def served(
    app: Any, *, patience_s: float = PATIENCE_S, on_stalled: Callable[[], object] = bool, **bounds: Any
) -> AsyncIterator[int]:
    """The port of a server of this."""
    config = server_config(app, HttpSettings(**bounds), on_stalled, patience_s=patience_s)
    config.port = 0
    server = Server(config)
    serving = asyncio.create_task(server._serve())
    await server.up.wait()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def serving(patience_s: float) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A server's port; its one route answers when the event is set."""
    answer = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with served(app, patience_s=patience_s) as port:
        try:
            yield port, answer
        finally:
            answer.set()


@pytest.mark.patient
@pytest.mark.parametrize("said", [b"", b"G", HEAD, HEAD + b"X-1: a"])
async def test_a_header_that_never_ends_is_given_up(said: bytes) -> None:
    async with serving(0.05) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        assert await reader.read() == b""
        writer.close()


@pytest.mark.patient
async def test_the_next_header_on_a_kept_connection_is_given_up_too() -> None:
    async with serving(0.05) as (port, answer):
        answer.set()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.write(HEAD)
        assert await reader.read() == b""
        writer.close()


def test_a_connection_waits_for_its_next_request_as_long_as_is_set() -> None:
    """uvicorn's five seconds are less than what proxies and most clients keep one for."""
    assert HttpSettings().keep_alive_s == 75
    assert server_config(FastAPI(), HttpSettings(keep_alive_s=7), bool).timeout_keep_alive == 7


@pytest.mark.patient
async def test_an_answer_may_take_longer() -> None:
    async with serving(0.05) as (port, answer):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\n")
        silent, other = await asyncio.open_connection("127.0.0.1", port)
        assert await silent.read() == b""  # the patience is over
        other.close()
        answer.set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.close()


async def test_who_takes_nothing_of_an_answer_is_cut_and_what_makes_it_ends() -> None:
    cut, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                await asyncio.sleep(0)  # as reading a file does
                yield bytes(1 << 16)
        finally:
            ended.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(endless())(scope, receive, send)

    async with served(app, stalled_s=0.1, on_stalled=cut.set) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(HEAD + b"\r\n")
            await cut.wait()
            await ended.wait()


async def test_who_takes_nothing_of_the_end_of_an_answer_is_cut_too() -> None:
    """All of it is in the server's hands, and it would be closed once it is gone."""
    cut = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": bytes(32 << 20)})

    async with served(app, stalled_s=0.1, on_stalled=cut.set) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(HEAD + b"\r\n")
            await cut.wait()


@pytest.mark.parametrize("answers_first", [False, True])
async def test_a_body_that_can_not_be_read_ends_its_request_without_a_word(
    answers_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Else anybody could fill the log: whoever answers the request found the line closed by the server itself."""
    over = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if answers_first:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"begun", "more_body": True})
                assert (await receive())["type"] == "http.disconnect"
            await send({"type": "http.response.start", "status": 422, "headers": []})
            await send({"type": "http.response.body", "body": b"refused"})
        finally:
            over.set()

    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        if answers_first:
            writer.write(head)
            await reader.readuntil(b"begun")
            head = b""
        writer.write(head + b"ZZ\r\n")
        rest = await reader.read()
        await over.wait()
        writer.close()
    assert rest.startswith(b"\r\n" if answers_first else b"HTTP/1.1 400 ")
    assert b"refused" not in rest
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


class Line:
    """A transport whose client takes as much as a test says, and a clock that a test moves on."""

    def __init__(self) -> None:
        self.transport = create_autospec(asyncio.Transport, instance=True)
        self.transport.get_write_buffer_size.side_effect = lambda: self.left
        self.loop = create_autospec(asyncio.AbstractEventLoop, instance=True)
        self.left = self.cut = 0
        self.taken = Taken(self.transport, self.loop, 60, self.on_stalled)

    def on_stalled(self) -> None:
        self.cut += 1

    def write(self, count: int) -> None:
        self.taken.write(bytes(count))
        self.left += count

    def a_minute_passes(self) -> None:
        (after_s, look), _ = self.loop.call_later.call_args
        self.loop.reset_mock()
        assert after_s == 60
        look()

    @property
    def is_looked_at(self) -> bool:
        return bool(self.loop.call_later.called)


def test_who_takes_a_byte_of_an_answer_now_and_then_is_not_cut() -> None:
    line = Line()
    line.write(10)
    for _ in range(5):
        line.left -= 1
        line.a_minute_passes()
    assert not line.cut
    line.a_minute_passes()
    assert line.cut == 1
    line.transport.abort.assert_called_once_with()
    assert not line.is_looked_at


def test_what_was_written_a_moment_ago_is_not_taken_for_what_waits() -> None:
    line = Line()
    line.write(10)
    line.left = 0
    line.write(20)
    line.a_minute_passes()
    assert not line.cut
    line.left = 0
    line.write(5)
    line.a_minute_passes()
    assert not line.cut
    line.left = 0
    line.a_minute_passes()
    assert not line.cut
    assert not line.is_looked_at
    line.write(1)
    assert line.is_looked_at
