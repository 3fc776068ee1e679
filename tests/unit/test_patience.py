"""The loop whose clock stands still while anything happens."""

from __future__ import annotations

import asyncio
import time

import pytest


@pytest.mark.patient
async def test_an_hour_passes_at_once() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 100)
    assert loop.time() - begun == 100


@pytest.mark.patient
async def test_no_time_passes_while_anything_happens() -> None:
    """However long it takes: here the whole process stands still before each answer."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            time.sleep(0.02)  # noqa: ASYNC251 - the machine
            writer.write(line)
        writer.close()

    loop = asyncio.get_running_loop()
    async with await asyncio.start_server(slow, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        begun = loop.time()
        async with asyncio.timeout(0.001):
            for n in range(5):
                writer.write(b"%d\n" % n)
                assert await reader.readline() == b"%d\n" % n
        assert loop.time() == begun
        writer.close()
        await writer.wait_closed()
