"""`mailgate serve`: one process with everything, until it is told to stop.

The first SIGTERM or SIGINT ends in order: no new requests, running ones may finish, connections are closed, leases
given back. A second one ends at once; everything is safe to cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial

import structlog
import uvicorn

from mailgate import __version__
from mailgate.app.application import Application
from mailgate.app.connections import server_config
from mailgate.app.core import Core, Secrets
from mailgate.clock import Clock, system_clock
from mailgate.errors import ConfigurationError
from mailgate.settings import HttpSettings, Settings

_log = structlog.get_logger("mailgate.serve")


_M_ARENA_MAX = -8  # glibc's malloc.h
_ARENAS = 2
_SWITCH_S = 0.0005


async def serve(settings: Settings, secrets: Secrets, *, clock: Clock = system_clock) -> None:
    """Run until a signal, by this clock. Raises ConfigurationError when it can't start."""
    _share_arenas()
    listening = listen(settings.http)
    with contextlib.closing(listening):
        core = await Core.open(settings, clock=clock, secrets=secrets, restored=True)
        try:
            application = Application(core, secrets=secrets)
            on_stalled = partial(application.metrics.count, "http_stalled_total")
            server = _Server(server_config(application.api, settings.http, on_stalled))
            with _signals(server, application.leave):
                await application.start()
                spare_the_collector()
                share_the_interpreter()
                host, port = listening.getsockname()[:2]
                host = f"[{host}]" if ":" in host else host
                _log.info("serving", url=f"http://{host}:{port}", version=__version__)
                try:
                    await server.serve(sockets=[listening])
                finally:
                    await application.stop()
        finally:
            await core.close()


def _share_arenas() -> None:
    """Let the threads that come share two heaps: with glibc's default of eight per core, what bursts of large messages
    leave in each is resident for good (measured: 40 MB less after an import of 10 000 messages). Elsewhere: nothing.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def share_the_interpreter() -> None:
    """Let a thread that waits for the interpreter's lock have it after half a millisecond, not after five: SQLite's
    gives it away with every row (measured beside a thread at work in Python: a row of a batch took 100 to 120 µs
    instead of 180 to 260).
    """
    sys.setswitchinterval(_SWITCH_S)


def spare_the_collector() -> None:
    """What was loaded until now stays: the garbage collector need not look at it again and again, and not after every
    seven hundred new objects (measured: 6 % of the processor time of an import).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def listen(http: HttpSettings) -> socket.socket:
    """The socket to serve on. Raises ConfigurationError when the address can't be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(1_024)
            made.setblocking(False)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise ConfigurationError(
            f"can't listen on {http.host}, port {http.port}: {error.strerror} (http.host, http.port)"
        ) from None
    return made


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: `_signals` does, from before the start until after the end."""
        yield


@contextlib.contextmanager
def _signals(server: uvicorn.Server, leave: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if server.should_exit:
            os._exit(128 + number)
        _log.info("stopping", signal=signal.Signals(number).name)
        server.should_exit = True
        leave()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
