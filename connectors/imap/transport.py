"""Between the socket and a `Session`: one read buffer for all, flow control of what is written, and TCP's own watch."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Final

from connectors.errors import NetworkError

if TYPE_CHECKING:
    from connectors.imap.session import Session

READ_BUFFER: Final = 64 * 1024
"""Small enough to stay in the processor's cache between the socket and the sink; larger ones measured no faster."""

SMALL_READ: Final = 4 * 1024
"""Octets: more than that fills packets, and those are acknowledged as they come."""

_buffers = threading.local()


def _read_buffer() -> tuple[bytearray, memoryview]:
    """One buffer for all connections of a thread: a loop asks for it, fills it and hands it over before it reads
    another socket. The loop gets the view, since asyncio's TLS slices what it gets, and a slice of a bytearray would
    be a copy.
    """
    try:
        buffer: tuple[bytearray, memoryview] = _buffers.buffer
    except AttributeError:
        data = bytearray(READ_BUFFER)
        buffer = _buffers.buffer = (data, memoryview(data))
    return buffer


class Reader(asyncio.BufferedProtocol):
    """The transport's side of a `Session`: bytes go from the socket into the shared buffer and are parsed where they
    lie.

    Apart from the session, because uvloop takes no subclass of `asyncio.Protocol` (which aioimaplib's is) for a
    buffered protocol.
    """

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._session.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _read_buffer()[1]

    def buffer_updated(self, nbytes: int) -> None:
        self._session.received(_read_buffer()[0], nbytes)

    def pause_writing(self) -> None:
        self._session.pause_writing()

    def resume_writing(self) -> None:
        self._session.resume_writing()

    def eof_received(self) -> None:
        self._session.drop(lambda: NetworkError("the server closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._session.connection_lost(exc)


def keep_alive(sock: socket.socket) -> None:
    """TCP finds a dead peer within two minutes by itself, also while idling."""
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def acknowledge(sock: socket.socket) -> None:
    """TCP acknowledges what came at once. Else it may wait 40 ms for something to send along, while a server that has
    not switched off Nagle's algorithm (RFC 9293 §3.7.4; Cyrus and Courier) holds the next small answer back until then:
    pipelining would be slower than asking one by one. Linux forgets the wish, so it is made again.
    """
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
