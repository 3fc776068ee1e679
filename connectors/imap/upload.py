"""A message on its way to the server: APPEND with a literal of any size, in bounded memory.

Invariants:
1. The server never gets a command that is complete but for a message of exactly the announced size: when the caller's
   chunks make another one, or end in an error, or the caller is cancelled, the line drops before the last octet.
2. At most two chunks and what the transport buffers are in memory.
3. Nothing is written before the server has asked for it, so a refusal (quota, size, no such folder) costs one line.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any, Final

from connectors.errors import NetworkError, ProtocolError, Retry, ServerError
from connectors.imap.command import Argument, Literal
from connectors.imap.inflight import Command
from connectors.imap.responses import Status

if TYPE_CHECKING:
    from connectors.imap.session import Session

COLLECTED: Final = 128 * 1024
"""A message up to this size is gathered before anything is sent: then it can go without waiting for `+`."""

PIECE: Final = 64 * 1024
"""Octets that are given to the transport at once."""


def append_limit(capabilities: frozenset[str]) -> int | None:
    """APPENDLIMIT=n (RFC 7889 §2): the largest message that the server takes into any folder; None when it does not
    say.
    """
    for word in capabilities:
        name, _, limit = word.partition("=")
        if name == "APPENDLIMIT" and limit.isdigit() and len(limit) < 19:
            return int(limit)
    return None


async def collect(size: int, chunks: AsyncIterable[bytes]) -> bytes:
    """All of a small message. Raises ValueError when it has another size."""
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > size:
            break
    _check_size(size, len(data))
    return bytes(data)


async def send_collected(session: Session, data: bytes, *arguments: Argument, timeout_s: float) -> Status:
    """APPEND of a message that is at hand; what holds NUL goes as literal8 (RFC 3516 §4.4) where BINARY is offered.

    Returns the tagged status. Raises ServerError (UNKNOWN-CTE) when it holds NUL and the server takes none.
    """
    binary = b"\0" in data
    if binary and "BINARY" not in session.capabilities:
        raise _nul()
    return await session.wait_for(
        session.start("APPEND", *arguments, Literal(data, binary=binary), timeout_s=timeout_s)
    )


async def stream(
    session: Session, size: int, chunks: AsyncIterable[bytes], *arguments: Argument, timeout_s: float
) -> Status:
    """APPEND of a message that is sent as it comes. `timeout_s`: how long the server may take after the last octet.

    Returns the tagged status: a refusal came before the first octet, or the line is down now.
    """
    invited: asyncio.Future[None] = session.loop.create_future()

    def reply(_: bytes) -> None:
        if not invited.done():
            invited.set_result(None)
            session.expect(command, math.inf)

    command = session.start("APPEND", *arguments, f"{{{size}}}", reply=reply)
    whole = False
    try:
        first: set[asyncio.Future[Any]] = {invited, command.future}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not command.future.done():
            whole = await _send(session, command, size, chunks)
        if whole:
            session.write_for(command, b"\r\n")
            async with session.within(timeout_s, "APPEND"):
                status = await session.wait_for(command)
        else:
            status = await session.wait_for(command)
    except BaseException:
        if not whole:
            session.drop(lambda: NetworkError("the message was not sent whole"))
        raise
    if invited.done() and not whole:
        # It answered in the middle: whether it still waits for octets, nobody knows.
        session.drop(lambda: NetworkError("the server answered before the message was there"))
        if status.condition == "OK":
            raise ProtocolError("the server took a message that it had not got")
    return status


async def _send(session: Session, command: Command, size: int, chunks: AsyncIterable[bytes]) -> bool:
    """Whether all was sent: False when the server has answered before."""
    total = 0
    held = b""
    async for chunk in chunks:
        total += len(chunk)
        if total > size:
            break
        if b"\0" in chunk:
            raise _nul()
        # One chunk is held back: the last octet goes only when there is nothing more.
        if not await _write(session, command, held):
            return False
        held = chunk
    _check_size(size, total)
    return await _write(session, command, held)


async def _write(session: Session, command: Command, chunk: bytes) -> bool:
    for at in range(0, len(chunk), PIECE):
        await session.drained()
        if command.future.done():
            return False
        session.write_for(command, chunk[at : at + PIECE])
    return True


def _check_size(size: int, got: int) -> None:
    if got != size:
        raise ValueError(f"the message was to have {size} octets, and has {'more' if got > size else got}")


def _nul() -> ServerError:
    """As a server says it that has BINARY and cannot keep the message so (RFC 3516 §5)."""
    text = "the message holds NUL octets, which this server cannot be sent"
    return ServerError(text, code="UNKNOWN-CTE", retry=Retry.NEVER)
