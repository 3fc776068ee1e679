"""The proxy that other tests break lines with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.proxy import Faults, Proxy

TEXT = bytes(range(256)) * 40


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """A server that sends TEXT for every line it gets."""
    received = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readline():
                received.set()
                writer.write(TEXT)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def ask(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"go\n")
    return reader, writer


async def test_passes_everything_unchanged(echo: int) -> None:
    async with Proxy("127.0.0.1", echo) as proxy:
        reader, writer = await ask(proxy.port)
        assert await reader.readexactly(len(TEXT)) == TEXT
        assert (proxy.open, proxy.to_client, proxy.to_server) == (1, len(TEXT), 3)
        writer.close()
        await proxy.wait_for(lambda: proxy.open == 0)


@pytest.mark.parametrize("offset", [1, 700, len(TEXT) - 1])
async def test_cut_lets_exactly_the_bytes_before_it_pass(echo: int, offset: int) -> None:
    async with Proxy("127.0.0.1", echo, Faults(cut_after=offset, split=100)) as proxy:
        reader, writer = await ask(proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(len(TEXT))
        assert proxy.to_client == offset
        assert proxy.cuts == 1
        writer.close()


async def test_client_side_cut(echo: int) -> None:
    async with Proxy("127.0.0.1", echo, Faults(client_cut_after=2)) as proxy:
        _, writer = await ask(proxy.port)
        await proxy.wait_for(lambda: proxy.cuts == 1)
        assert proxy.to_server == 2
        writer.close()


async def test_half_close_ends_one_direction_only(echo: int) -> None:
    async with Proxy("127.0.0.1", echo, Faults(half_close_after=10)) as proxy:
        reader, writer = await ask(proxy.port)
        assert await reader.read() == TEXT[:10]
        writer.write(b"more\n")
        await proxy.wait_for(lambda: proxy.to_server == 8)
        writer.close()


async def test_stall_is_silent_and_stays_open(echo: int) -> None:
    async with Proxy("127.0.0.1", echo, Faults(stall_after=10)) as proxy:
        reader, writer = await ask(proxy.port)
        assert await reader.readexactly(10) == TEXT[:10]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        assert proxy.open == 1
        writer.close()


async def test_split_delivers_small_pieces(echo: int) -> None:
    async with Proxy("127.0.0.1", echo, Faults(split=7)) as proxy:
        reader, writer = await ask(proxy.port)
        assert await reader.readexactly(len(TEXT)) == TEXT
        writer.close()


async def test_delay_holds_back_each_direction(echo: int) -> None:
    async with Proxy("127.0.0.1", echo, Faults(delay_s=0.05)) as proxy:
        begun = time.monotonic()
        reader, writer = await ask(proxy.port)
        assert await reader.readexactly(len(TEXT)) == TEXT
        assert time.monotonic() - begun >= 0.098  # uvloop's timers count in milliseconds
        writer.close()


async def test_cut_now_and_closed_target(echo: int) -> None:
    async with Proxy("127.0.0.1", echo) as proxy:
        reader, writer = await ask(proxy.port)
        await reader.readexactly(len(TEXT))
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        proxy.target_port = 1
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()


async def test_silence_tells_neither_side_and_spares_new_connections(echo: int) -> None:
    async with Proxy("127.0.0.1", echo) as proxy:
        reader, writer = await ask(proxy.port)
        await reader.readexactly(len(TEXT))
        proxy.silence()
        writer.write(b"again\n")
        other, second = await ask(proxy.port)
        assert await other.readexactly(len(TEXT)) == TEXT
        assert (proxy.to_client, proxy.to_server) == (2 * len(TEXT), 6)
        assert not reader.at_eof()
        assert proxy.open == 2
        second.close()
        writer.close()


async def test_what_passes_can_be_kept(echo: int) -> None:
    async with Proxy("127.0.0.1", echo) as proxy:
        proxy.tape = []
        reader, writer = await ask(proxy.port)
        await reader.readexactly(len(TEXT))
        assert proxy.tape[0] == (False, b"go\n")
        assert b"".join(data for server, data in proxy.tape if server) == TEXT
        writer.close()
