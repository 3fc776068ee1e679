"""A web server on loopback that answers by host and path what a test tells it, over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

SILENCE = b""


@dataclass
class WebServer:
    """`pages`: (host, path without its query) → the whole answer; SILENCE: none ever. `requests`: "host target"."""

    pages: dict[tuple[str, str], bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    port: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            target = head[0].split(" ")[1]
            host = next(line.partition(":")[2].strip() for line in head if line.lower().startswith("host:"))
            host = host.partition(":")[0]
            self.requests.append(f"{host} {target}")
            answer = self.pages.get((host, target.partition("?")[0]), page(b"not here", "404 Not Found"))
            if answer == SILENCE:
                await reader.read()
            writer.write(answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def web_server(context: ssl.SSLContext) -> AsyncIterator[WebServer]:
    """The server, for as long as the block lasts."""
    made = WebServer()
    server = await asyncio.start_server(made, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await server.wait_closed()


def page(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """An answer."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{more}\r\n".encode() + body
