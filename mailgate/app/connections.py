"""A connection of a client that must come to the point. uvicorn waits for ever: for the rest of a request's header, and
for who reads nothing of its answer, which holds a connection, a file and what was read of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from mailgate.settings import HttpSettings

PATIENCE_S: Final = 30.0
"""So long a header may take, from when the connection was made, or from its first byte on one that is kept."""


class Taken:
    """A transport that is cut when nothing of what waits in it was taken for `stalled_s`, or twice that at most. How
    long all of it takes is the client's affair: a line may be slow.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        stalled_s: float,
        on_stalled: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._stalled_s = stalled_s
        self._on_stalled = on_stalled
        self._written = 0
        self._taken = 0
        self._looking: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """As a transport's; from now on is looked whether it goes."""
        if self._looking is None:
            self._look_later()
        self._written += len(data)
        self._transport.write(data)

    def look_no_more(self) -> None:
        """The connection is over."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look_later(self) -> None:
        self._taken = self._written - self._transport.get_write_buffer_size()
        self._looking = self._loop.call_later(self._stalled_s, self._look)

    def _look(self) -> None:
        self._looking = None
        left = self._transport.get_write_buffer_size()
        if not left:
            return
        if self._written - left > self._taken:
            self._look_later()
            return
        self._on_stalled()
        self._transport.abort()


class Connection(H11Protocol):
    """Closed when no header comes in time, and when nothing is taken of an answer. Once a header has come, the body is
    waited for by `mailgate.api.gate`.
    """

    patience_s: float
    stalled_s: float
    on_stalled: Callable[[], None]

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of TCP, always
        self._taken = Taken(transport, self.loop, self.stalled_s, self.on_stalled)
        super().connection_made(self._taken)  # type: ignore[arg-type]  # passes everything on
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        request: RequestResponseCycle | None = self.cycle
        if request is not None and not request.response_complete:
            self._wait_no_more()
        elif self._waiting is None:
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """The request can't be read on. Who was to answer it finds its client gone: the line belongs to this answer, or
        is cut where another one had begun.
        """
        request: RequestResponseCycle | None = self.cycle
        if request is not None:
            request.disconnected = True
            request.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        self._taken.look_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.patience_s, self.timeout_keep_alive_handler)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def server_config(
    app: FastAPI, http: HttpSettings, on_stalled: Callable[[], None], *, patience_s: float = PATIENCE_S
) -> uvicorn.Config:
    """How the HTTP interface is served. `on_stalled` is told of each connection that is cut."""
    bounds = {"patience_s": patience_s, "stalled_s": http.stalled_s, "on_stalled": staticmethod(on_stalled)}
    return uvicorn.Config(
        app,
        http=type("BoundedConnection", (Connection,), bounds),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=http.keep_alive_s,
        timeout_graceful_shutdown=max(1, round(http.shutdown_grace_s)),
    )
