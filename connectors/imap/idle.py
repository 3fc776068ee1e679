"""Waiting in IDLE (RFC 2177)."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectors.imap.session import Session


async def idle(session: Session, wake: asyncio.Future[None], timeout_s: float) -> bool:
    """IDLE (RFC 2177) until `wake` is done or the time is over; then DONE, and its answer within the time-out of a
    command. True when the server ended it by itself before.

    Cancelled, it sends DONE and leaves; the next command waits for the server's answer by itself.
    """
    idling = False
    over = False

    def reply(_: bytes) -> bytes | None:
        nonlocal idling
        idling = True
        command.timeout_s = session.timeouts.command_s if over else math.inf
        return b"DONE\r\n" if over else None

    command = session.start("IDLE", reply=reply)
    try:
        ends: set[asyncio.Future[Any]] = {wake, command.future}
        done, _ = await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        session.abandon(command)
        raise
    finally:
        over = True
        if idling and not command.future.done():
            session.write_for(command, b"DONE\r\n")
            session.expect(command, session.timeouts.command_s)
    await session.finish(command)
    return done == {command.future}
