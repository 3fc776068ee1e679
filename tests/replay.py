"""A recorded session with a mail server, played again from memory, with a fault at any byte of what the server sent.

Neither sockets nor time are real, so thousands of sessions take seconds: `VirtualLoop` connects to a `Replay`, and its
clock jumps to whatever is due next. A session that waits for something that nobody will ever do fails at once
(`HangError`).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypeVar

from connectors.errors import ConnectorError
from connectors.imap.connection import connect_imap
from connectors.imap.settings import Timeouts
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from connectors.port import Connection

T = TypeVar("T")
Connecting: TypeAlias = Callable[[], Awaitable[Connection]]

_PATIENT = Timeouts()
_LITERAL = re.compile(rb"\{(\d+)\+?\}\r\n\Z")


class Login(Protocol):
    """Whose mail it is."""

    name: str
    password: str


class HangError(AssertionError):
    """Nothing is ready, nothing is due: whoever waits waits for ever."""


class Fault(StrEnum):
    """What happens at the offset."""

    CUT = "cut"
    """The line is reset."""
    FINISH = "finish"
    """The server ends the stream in order; what we send still arrives."""
    STALL = "stall"
    """Nothing more arrives, in silence and with the line open."""
    BYE = "bye"
    """The server says BYE, wherever it is in its answer, and ends the stream."""
    LOSE = "lose"
    """One byte is missing."""
    SPLIT = "split"
    """What follows comes a second later, in another packet."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the client sent (a command without its tag, or a line that continues one) and what the server then said, in
    which `TAG` stands for the command's tag.
    """

    request: bytes
    reply: bytes


TAG = b"\0tag\0"


@dataclass(frozen=True, slots=True)
class Recording:
    """A session, one command after the other."""

    greeting: bytes
    exchanges: tuple[Exchange, ...]

    @classmethod
    def of(cls, tape: Iterable[tuple[bool, bytes]]) -> Recording:
        """From what passed a `Proxy`: (from the server?, bytes)."""
        parts = list(tape)
        said = _responses(b"".join(data for server, data in parts if server))
        greeting = said.popleft()
        exchanges: list[Exchange] = []
        tag = b""
        asked, rest = _requests(b"".join(data for server, data in parts if not server))
        assert not rest, rest
        for line in asked:
            first, _, words = line.partition(b" ")
            if words:
                tag, request = first, words
            else:
                request = line  # DONE: it belongs to the command before
            reply = b""
            while said and not said[0].startswith(tag + b" "):
                reply += said.popleft()
            if request != b"IDLE\r\n":  # whose end answers DONE
                reply += TAG + said.popleft()[len(tag) :]
            exchanges.append(Exchange(request, reply))
        assert not said, f"nobody asked for {said}"
        return cls(greeting, tuple(exchanges))

    @property
    def octets(self) -> int:
        """How much the server sends, with tags of four characters."""
        return len(self.greeting) + sum(len(e.reply.replace(TAG, b"ABCD")) for e in self.exchanges)


def _responses(stream: bytes) -> deque[bytes]:
    """The responses of a stream, each with its literals."""
    found: deque[bytes] = deque()
    at = 0
    while at < len(stream):
        begin = at
        while True:
            at = stream.index(b"\n", at) + 1
            literal = _LITERAL.search(stream, begin, at)
            if literal is None:
                break
            at += int(literal[1])
        found.append(stream[begin:at])
    return found


def _requests(stream: bytes) -> tuple[list[bytes], bytes]:
    """What a client said: its lines, each with its literals (which did not wait to be asked for), and what is not
    complete yet.
    """
    found: list[bytes] = []
    begin = 0
    while True:
        at = begin
        while (end := stream.find(b"\r\n", at) + 2) >= 2:
            literal = _LITERAL.search(stream, begin, end)
            if literal is None:
                break
            at = end + int(literal[1])
        if end < 2:
            return found, stream[begin:]
        found.append(stream[begin:end])
        begin = end


class Replay(asyncio.Transport):
    """The server and the line to it, as a client's transport. Without a fault it says what was recorded."""

    def __init__(self, recording: Recording, loop: VirtualLoop, fault: Fault | None = None, at: int = 0) -> None:
        super().__init__()
        self._loop, self._fault, self._at = loop, fault, at
        self._todo = deque(recording.exchanges)
        self._greeting = recording.greeting
        self._heard = b""
        self._sent = 0
        self._held: deque[bytes] = deque()
        self._paused = self._closed = self._mute = self._slow = False
        self.met = False
        """Was the fault's offset reached?"""
        self.met_at = 0.0
        """When, by the loop's clock."""
        self.surprise = ""
        """Did the client say something else than when it was recorded? It gets no answer."""

    # The client's side.

    def connect(self, protocol: Any) -> None:
        self._protocol = protocol
        protocol.connection_made(self)
        self._say(self._greeting)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self._closed

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        asked, self._heard = _requests(self._heard + data)
        for line in asked:
            if self._todo and not self._closed:
                self._loop.call_soon(self._answer, line)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._deliver)

    def get_protocol(self) -> Any:
        return self._protocol

    def can_write_eof(self) -> bool:
        return False

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    close = abort

    # The server's side.

    def _answer(self, line: bytes) -> None:
        if self._mute or self._closed or not self._todo:
            return
        exchange = self._todo.popleft()
        tag, _, rest = line.partition(b" ")
        if rest:
            self._tag = tag
        request = rest or line
        if request != exchange.request:
            self.surprise = f"recorded was {exchange.request!r}, now it says {request!r}"
            self._mute = True
            return
        self._say(exchange.reply.replace(TAG, self._tag))

    def _say(self, data: bytes) -> None:
        begin, self._sent = self._sent, self._sent + len(data)
        if self.met or self._fault is None or not begin <= self._at < self._sent:
            self._put(data)
            return
        self.met, self.met_at = True, self._loop.time()
        left, right = data[: self._at - begin], data[self._at - begin :]
        self._put(left)
        match self._fault:
            case Fault.CUT:
                self._end(lambda: self._protocol.connection_lost(ConnectionResetError(104, "Connection reset by peer")))
            case Fault.FINISH:
                self._end(lambda: self._protocol.eof_received())
            case Fault.STALL:
                self._mute = True
            case Fault.BYE:
                self._put(b"* BYE Server shutting down.\r\n")
                self._end(lambda: self._protocol.eof_received())
            case Fault.LOSE:
                self._put(right[1:])
            case Fault.SPLIT:
                self._slow = True
                self._put(right)
                self._loop.call_later(1, self._go_on)

    def _go_on(self) -> None:
        self._slow = False
        self._deliver()

    def _end(self, event: Callable[[], None]) -> None:
        self._mute = True
        self._loop.call_soon(lambda: None if self._closed else event())

    def _put(self, data: bytes) -> None:
        if data:
            self._held.append(data)
            self._deliver()

    def _deliver(self) -> None:
        while self._held and not (self._paused or self._slow or self._closed):
            data = self._held.popleft()
            buffer = self._protocol.get_buffer(-1)
            taken = data[: len(buffer)]
            buffer[: len(taken)] = taken
            if len(taken) < len(data):
                self._held.appendleft(data[len(taken) :])
            self._protocol.buffer_updated(len(taken))


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop without waiting: when nothing is ready, the clock jumps to the next timer. `server` makes what
    `create_connection` connects to.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self.server: Callable[[], Replay] | None = None

    def time(self) -> float:
        return self._now

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """It is connected at once; nothing is sent over this socket."""

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, *, sock: Any = None, **_: Any
    ) -> Any:
        assert self.server is not None
        if sock is not None:
            sock.close()
        protocol, transport = protocol_factory(), self.server()
        transport.connect(protocol)
        return transport, protocol

    def _run_once(self) -> None:
        loop: Any = self  # these are asyncio's own, unchanged since 3.7
        if not loop._ready and not loop._stopping:
            due = [handle.when() for handle in loop._scheduled if not handle.cancelled()]
            if not due:
                raise HangError("nothing is ready and nothing is due")
            self._now = max(self._now, min(due))
        super()._run_once()  # type: ignore[misc]


def connecting(account: Login, port: int, timeouts: Timeouts = _PATIENT) -> Connecting:
    """How the gateway would connect with this account, to 127.0.0.1:`port`."""

    async def resolver(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async def connect() -> Connection:
        return await connect_imap(
            Endpoint("127.0.0.1", port, Security.NONE),
            PasswordAuth(account.name, account.password),
            ssl_context=None,
            allow_networks=parse_networks(["127.0.0.0/8"]),
            timeouts=timeouts,
            resolver=resolver,
        )

    return connect


def replayed(
    recording: Recording,
    account: Login,
    faults: Iterable[tuple[Fault | None, int]],
    new: Callable[[], T],
    talk: Callable[[Connecting, T], Awaitable[None]],
) -> list[tuple[T, Exception | None, Replay, float]]:
    """Talks anew with each fault: what was noted (`new` makes the notes), how it ended, the server, and how many
    seconds it went on after the fault.
    """
    loop = VirtualLoop()
    connect = connecting(account, 143)

    async def session(fault: Fault | None, at: int) -> tuple[T, Exception | None, Replay, float]:
        server = Replay(recording, loop, fault, at)
        loop.server = lambda: server
        notes, error = new(), None
        try:
            await talk(connect, notes)
        except ConnectorError as caught:
            error = caught
        return notes, error, server, loop.time() - server.met_at

    async def all_of_them() -> list[tuple[T, Exception | None, Replay, float]]:
        return [await session(fault, at) for fault, at in faults]

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(all_of_them())
