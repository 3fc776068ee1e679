"""The commands in flight on one connection: what may be written when, and whose answer is whose.

Free of I/O but for the `write` it is given; the session feeds it what the wire read.

Invariants:
1. While a command waits for `+` (a literal, AUTHENTICATE, IDLE), nothing of another command is written: its bytes
   would be taken for the literal (RFC 9051 §4.3, §6.3.13).
2. A command ends exactly once: by its tagged answer, or by `fail`, which ends all at once.
3. A tag that is not in flight is a ProtocolError: the answers can no longer be told apart.
4. An abandoned command (its caller was cancelled) stays in flight until it is answered; what comes for it is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from connectors.errors import ProtocolError
from connectors.imap.responses import Continuation, Response, Status
from connectors.port import Sink


class Collector(Protocol):
    """What a command wants of the untagged responses that come while it is in flight."""

    def claim(self, response: Response, /) -> bool:
        """True when the response was this command's. May raise ProtocolError."""
        ...

    def literal(self, uid: int | None, section: str, octets: int, /) -> tuple[bool, Sink | None]:
        """(True, sink) when the body that begins is this command's; a sink of None discards it."""
        ...


class Nothing:
    """The collector of a command that is answered by its status alone."""

    def claim(self, response: Response, /) -> bool:
        return False

    def literal(self, uid: int | None, section: str, octets: int, /) -> tuple[bool, Sink | None]:
        return False, None


class Command:
    """One command on its way. `future` gets its tagged Status, or the error that ended it."""

    __slots__ = ("_chunks", "abandoned", "collector", "future", "name", "reply", "sent_at", "tag", "timeout_s")

    def __init__(
        self,
        tag: str,
        name: str,
        chunks: list[bytes],
        *,
        timeout_s: float,
        future: asyncio.Future[Status],
        collector: Collector | None = None,
        reply: Callable[[bytes], bytes | None] | None = None,
    ) -> None:
        """`reply` answers continuations after the last chunk; while it is set, the command keeps the line to itself.

        It is given the continuation's text and returns what to write, or None for nothing now.
        """
        self.tag = tag
        self.name = name
        self.timeout_s = timeout_s
        self.future = future
        self.collector: Collector = collector if collector is not None else Nothing()
        self.reply = reply
        self.sent_at = 0.0
        self.abandoned = False
        self._chunks = chunks[::-1]

    def next_chunk(self) -> bytes | None:
        return self._chunks.pop() if self._chunks else None

    @property
    def holds_line(self) -> bool:
        return bool(self._chunks) or self.reply is not None

    def __repr__(self) -> str:
        return f"<Command {self.tag} {self.name}>"


class Inflight:
    """The queue. `write` takes bytes for the socket; `clock` counts seconds, monotonically."""

    __slots__ = ("_clock", "_holder", "_sent", "_waiting", "_write")

    def __init__(self, write: Callable[[bytes], None], clock: Callable[[], float]) -> None:
        self._write = write
        self._clock = clock
        self._waiting: list[Command] = []  # a deque takes ten times the space, and idle connections are many
        self._sent: dict[str, Command] = {}
        self._holder: Command | None = None

    def __bool__(self) -> bool:
        return bool(self._sent or self._waiting)

    @property
    def oldest(self) -> Command | None:
        """The command that the server is answering now, as far as one can know."""
        return next(iter(self._sent.values()), None)

    def submit(self, command: Command) -> None:
        """Writes the command at once if the line is free, else as soon as it is."""
        self._waiting.append(command)
        self._pump()

    def abandon(self, command: Command) -> None:
        """Its caller no longer waits."""
        if command in self._waiting:
            self._waiting.remove(command)
        command.abandoned = True

    def respond(self, response: Response) -> bool:
        """Routes one response; False when nobody in flight wants it. Raises ProtocolError."""
        if isinstance(response, Status) and response.tag is not None:
            self._tagged(response, response.tag)
            return True
        if isinstance(response, Continuation):
            self._continue(response.text)
            return True
        for command in self._sent.values():  # noqa: SIM110 - asked for every message, where a generator costs
            if command.collector.claim(response):
                return True
        return False

    def literal(self, uid: int | None, section: str, octets: int) -> Sink | None:
        """The sink of who wants the body that begins; None when nobody does."""
        for command in self._sent.values():
            wanted, sink = command.collector.literal(uid, section, octets)
            if wanted:
                return None if command.abandoned else sink
        return None

    def fail(self, make_error: Callable[[], Exception]) -> None:
        """Ends every command, each with an error of its own."""
        commands = [*self._sent.values(), *self._waiting]
        self._sent.clear()
        self._waiting.clear()
        self._holder = None
        for command in commands:
            if not command.future.done():
                command.future.set_exception(make_error())
                command.future.exception()  # whoever waits still gets it; nobody has to

    def write_for(self, command: Command, data: bytes) -> None:
        """Something that belongs to a command that holds the line (DONE, a SASL answer)."""
        if self._holder is command:
            command.sent_at = self._clock()
            self._write(data)

    def _pump(self) -> None:
        while self._waiting and self._holder is None:
            command = self._waiting.pop(0)
            self._sent[command.tag] = command
            command.sent_at = self._clock()
            chunk = command.next_chunk()
            if command.holds_line:
                self._holder = command
            if chunk is not None:
                self._write(chunk)

    def _continue(self, text: bytes) -> None:
        command = self._holder
        if command is None:
            return  # nobody asked; some servers send `+` as a sign of life
        command.sent_at = self._clock()
        chunk = command.next_chunk()
        if chunk is None and command.reply is not None:
            chunk = command.reply(text)
        if not command.holds_line:
            self._holder = None
        if chunk is not None:
            self._write(chunk)
        self._pump()

    def _tagged(self, status: Status, tag: str) -> None:
        command = self._sent.pop(tag, None)
        if command is None:
            raise ProtocolError("the server answered a command that is not in flight")
        if self._holder is command:
            self._holder = None
        if not command.future.done():
            command.future.set_result(status)
        self._pump()
