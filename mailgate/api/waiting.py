"""Requests that wait for events: a long poll, and a stream of Server-Sent Events (HTML Living Standard, §9.2).

Both hold a place (`mailgate.usecases.parts.Places`) while they wait, notice when their client goes away, and end when
the process does. A stream reads on only when the client took what was sent, so a slow one costs no memory; one that
takes nothing for long is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mailgate.api.problems import from_error
from mailgate.clock import monotonic_s
from mailgate.errors import MailgateError
from mailgate.store.feed_items import ItemsPage
from mailgate.usecases.parts import Services

STUCK_S: Final = 60.0
"""How long a client may take nothing of a stream."""

Fetch = Callable[[int], Awaitable[ItemsPage]]
"""The page behind a position."""


async def long_poll(
    parts: Services, receive: Receive, fetch: Fetch, after: int, wait_s: float, tenant_id: str | None
) -> ItemsPage:
    """The page behind `after`, as soon as there is anything on it, an empty one after so many seconds. `tenant_id`:
    whose token asks.
    """
    arrivals = parts.feed.arrivals
    seen = arrivals.count
    page = await fetch(after)
    if page.items or not wait_s:
        return page
    until = monotonic_s() + wait_s
    with parts.readers.place(tenant_id):
        async with _client(receive) as gone:
            while not page.items and not arrivals.closed and not gone.done():
                left_s = until - monotonic_s()
                if left_s <= 0:
                    break
                await _either(gone, arrivals.wait(seen, left_s))
                seen = arrivals.count
                page = await fetch(page.position)
    return page


class EventStream(Response):
    """The feed from a position on, for as long as the client listens. `still` is asked once in a while whether it still
    may: it raises when not. `tenant_id`: whose token asks.
    """

    media_type = "text/event-stream"

    def __init__(
        self, parts: Services, fetch: Fetch, after: int, still: Callable[[], Awaitable[object]], tenant_id: str | None
    ) -> None:
        super().__init__(None, 200, {"cache-control": "no-store", "x-accel-buffering": "no"})
        self._parts = parts
        self._fetch = fetch
        self._after = after
        self._still = still
        self._tenant_id = tenant_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        try:
            with self._parts.readers.place(self._tenant_id):
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                if not scope.get("head"):
                    async with _client(receive) as gone:
                        await self._run(gone, send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except MailgateError as error:
            await from_error(error)(scope, receive, send)

    async def _run(self, gone: asyncio.Future[None], send: Send) -> None:
        async for piece in self._pieces(gone):
            try:
                async with asyncio.timeout(STUCK_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except TimeoutError:
                return

    async def _pieces(self, gone: asyncio.Future[None]) -> AsyncIterator[bytes]:
        arrivals, at = self._parts.feed.arrivals, self._after
        keep_alive_s = self._parts.settings.events.keep_alive_s
        asked_s = monotonic_s()
        yield b": mailgate\n\n"
        while not gone.done():
            seen = arrivals.count
            try:
                page = await self._fetch(at)
                if monotonic_s() - asked_s >= keep_alive_s:
                    asked_s = monotonic_s()
                    await self._still()
            except MailgateError:
                return  # who comes back is told what it is
            at = page.position
            if page.items:
                yield b"".join(map(_frame, page.items))
                self._parts.metrics.count("feed_events_given_total", len(page.items))
            elif arrivals.closed:
                return
            else:
                await _either(gone, arrivals.wait(seen, keep_alive_s))
                if arrivals.count == seen and not gone.done():
                    yield b": alive\n\n"


def _frame(item: dict[str, Any]) -> bytes:
    text = json.dumps(item, separators=(",", ":"))
    return f"id: {item['cursor']}\nevent: {item['type']}\ndata: {text}\n\n".encode()


@contextlib.asynccontextmanager
async def _client(receive: Receive) -> AsyncIterator[asyncio.Future[None]]:
    """Done when the client has gone away."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.ensure_future(listen())
    try:
        yield gone
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


async def _either(gone: asyncio.Future[None], waiting: Awaitable[bool]) -> None:
    """Until one of them is done."""
    task = asyncio.ensure_future(waiting)
    both: set[asyncio.Future[Any]] = {gone, task}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
