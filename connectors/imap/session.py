"""One IMAP connection: opened, secured and logged in with aioimaplib as the client, read and written by our own wire
and queue.

The only importer of aioimaplib. Its `IMAP4` opens, authenticates and holds the session, and its protocol class keeps
tags and state; but its parser and its handling of commands are replaced (they parse bodies as protocol, lose
unsolicited responses, notice no lost line, and cost quadratic time), and none of its code sees a byte of the stream,
so its loggers have nothing to tell.

Invariants:
1. When the line drops, whatever the cause, everything in flight fails at once, and everything asked afterwards fails
   with the same words.
2. Silence is bounded: a command in flight hears something within its time-out or the line is dropped. While reading is
   paused on purpose, no time passes; while idling, IDLE's own limit counts.
3. Nothing that was learnt before TLS counts after it (RFC 9051 §6.2.1), and nothing that came in clear behind the OK
   to STARTTLS is read.
4. No secret is kept after the login, and none stands in an exception, a log line or a repr.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import aioimaplib.aioimaplib as lib

from connectors.errors import ConnectorError, NetworkError, ProtocolError, clean_text
from connectors.imap.command import Argument, encode, literal_plus
from connectors.imap.inflight import Collector, Command, Inflight
from connectors.imap.login import login, login_by_token
from connectors.imap.refusal import bye_error, command_error
from connectors.imap.responses import Capability, Enabled, Fetch, Response, Status
from connectors.imap.settings import Limits as Limits
from connectors.imap.settings import Timeouts as Timeouts
from connectors.imap.syntax import parse_words
from connectors.imap.transport import SMALL_READ, acknowledge, keep_alive
from connectors.imap.wire import Parser
from connectors.model import BearerAuth, Endpoint
from connectors.port import Sink

TALK_LIMIT: Final = 5_000
"""Untagged OK, NO and BAD between two tagged answers."""

ENABLED: Final = frozenset({"CONDSTORE", "QRESYNC"})
"""What may matter of what a server enables."""

UNASKED_LIMIT: Final = 1_000_000
"""Other responses that no command wants, between two tagged answers: a folder of a million messages may be emptied."""


class Session(lib.IMAP4ClientProtocol):  # type: ignore[misc]  # aioimaplib has no types
    """aioimaplib's protocol with another inside. `listener` hears every response that no command in flight wants."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts, limits: Limits) -> None:
        super().__init__(loop)
        self.transport: Any = None  # an asyncio.Transport, or uvloop's, which is no subclass
        # What the library would wait with in IDLE: nothing of ours does, and a thousand idle sessions would keep it.
        self.idle_queue = self._idle_event = None
        self._socket: Any = None
        self.timeouts = timeouts
        self.limits = limits
        self.capabilities: frozenset[str] = frozenset()
        self.capabilities_known = False
        self.enabled: frozenset[str] = frozenset()
        self.listener: Callable[[Response], None] | None = None
        self.secrets: tuple[str, ...] = ()
        self.greeting: asyncio.Future[Status] = loop.create_future()
        self._parser = Parser(self, limit=limits.line_bytes, list_limit=limits.list_bytes)
        self._inflight = Inflight(self._write, loop.time)
        self._failure: Callable[[], Exception] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = loop.time()
        self._paused = False
        self._room: asyncio.Future[None] | None = None
        self._ending = False
        self._starttls_tag: str | None = None
        self._plaintext_over = False
        self._talk = self._unasked = (
            0  # untagged lines of text, and responses that nobody wanted, since the last answer
        )

    # Commands.

    def start(
        self,
        name: str,
        *arguments: Argument,
        collector: Collector | None = None,
        reply: Callable[[bytes], bytes | None] | None = None,
        timeout_s: float | None = None,
    ) -> Command:
        """Sends a command (or queues it, see `Inflight`). `name` may be of several words (`UID FETCH`)."""
        if self._failure is not None:
            raise self._failure()
        tag = self.new_tag()
        command = Command(
            tag,
            name,
            encode(tag, [*name.split(" "), *arguments], literal_plus=literal_plus(self.capabilities)),
            timeout_s=self.timeouts.command_s if timeout_s is None else timeout_s,
            future=self.loop.create_future(),
            collector=collector,
            reply=reply,
        )
        self._inflight.submit(command)
        self._watch()
        return command

    async def wait_for(self, command: Command) -> Status:
        """The tagged status, whatever it says. A cancelled caller leaves a command behind that ends without it."""
        try:
            return await command.future
        except asyncio.CancelledError:
            self._inflight.abandon(command)
            raise

    async def finish(self, command: Command) -> Status:
        """The tagged OK. Raises ServerError or ThrottledError for NO and BAD."""
        status = await self.wait_for(command)
        if status.condition != "OK":
            raise command_error(status, command.name)
        return status

    async def run(self, name: str, *arguments: Argument, collector: Collector | None = None) -> Status:
        """`start` and `finish`."""
        return await self.finish(self.start(name, *arguments, collector=collector))

    def abandon(self, command: Command) -> None:
        """Nobody waits for this command any more."""
        self._inflight.abandon(command)

    def write_for(self, command: Command, data: bytes) -> None:
        """More of a command that holds the line (`reply`): the octets of a literal."""
        self._inflight.write_for(command, data)

    def expect(self, command: Command, timeout_s: float) -> None:
        """From now on the server may keep silent so long before it answers; `math.inf`: it is not its turn."""
        command.timeout_s = timeout_s
        command.sent_at = self.loop.time()
        self._watch()

    @contextlib.asynccontextmanager
    async def within(self, seconds: float, what: str) -> AsyncIterator[None]:
        """All that is done inside is over in time, or the line drops: whoever owns the mailbox next may rely on it."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            text = f"the server did not finish {what} within {seconds:g} s"
            self.drop(lambda: NetworkError(text))
            raise NetworkError(text) from None

    async def drained(self) -> None:
        """Until the transport takes more. A server that takes nothing for the time-out of a command ends the line."""
        while self._failure is None and self._room is not None:
            done, _ = await asyncio.wait({self._room}, timeout=self.timeouts.command_s)
            if not done:
                self.drop(lambda: NetworkError(f"the server took nothing within {self.timeouts.command_s:g} s"))
        if self._failure is not None:
            raise self._failure()

    def pause_writing(self) -> None:
        """From the transport: its buffer is full."""
        if self._room is None:
            self._room = self.loop.create_future()

    def resume_writing(self) -> None:
        """From the transport: there is room again."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    async def ask_capabilities(self) -> None:
        """CAPABILITY, unless the server has told by itself."""
        if not self.capabilities_known:
            await self.run("CAPABILITY")

    async def enable(self, *words: str) -> frozenset[str]:
        """ENABLE (RFC 5161). Returns what is enabled now; a refusal enables nothing."""
        status = await self.wait_for(self.start("ENABLE", *words))
        return self.enabled if status.condition == "OK" else frozenset()

    async def execute(self, command: Any, scrub: str | None = None) -> Any:
        """aioimaplib's way to send a command, for what its client does by itself (LOGOUT)."""
        words = [command.prefix.strip()] if command.prefix else []
        status = await self.wait_for(self.start(" ".join([*words, command.name]), *map(str, command.args)))
        return lib.Response(status.condition, [status.text.encode()])

    # TLS.

    async def starttls(self) -> None:
        """STARTTLS up to the OK; then nothing more is read in clear. The caller makes the handshake and calls
        `secured`.

        Raises ServerError when refused, ProtocolError when anything came in clear behind the OK: somebody on the way
        put it there (RFC 9051 §11.1; the attack known as response injection).
        """
        self._parser.strict = True
        command = self.start("STARTTLS")
        self._starttls_tag = command.tag
        await self.finish(command)
        if self._failure is not None:
            raise self._failure()
        if not self._parser.idle:
            self.drop(lambda: ProtocolError("the server sent data in clear behind its OK to STARTTLS"))
            raise ProtocolError("the server sent data in clear behind its OK to STARTTLS")

    def secured(self, transport: Any) -> None:
        """The handshake is done: a new beginning, with nothing known of the server."""
        self.transport = transport
        self.capabilities = frozenset()
        self.capabilities_known = False
        self.enabled = frozenset()
        self._parser = Parser(self, limit=self.limits.line_bytes, list_limit=self.limits.list_bytes)
        self._starttls_tag = None
        self._plaintext_over = False

    def greeted(self, *, preauth: bool) -> None:
        """The line stands; whether a login must follow."""
        self.state = lib.AUTH if preauth else lib.NONAUTH

    async def login(self, user: str, password: str) -> Status:
        """As aioimaplib's client asks for it; see `login.login`."""
        status = await login(self, user, password)
        self.state = lib.AUTH
        return status

    async def login_by_token(self, auth: BearerAuth, endpoint: Endpoint) -> Status:
        """See `login.login_by_token`."""
        status = await login_by_token(self, auth, endpoint)
        self.state = lib.AUTH
        return status

    def forget_capabilities(self) -> None:
        """They may differ after the login (RFC 9051 §7.2.2)."""
        self.capabilities_known = False

    # Reading.

    def pause(self) -> None:
        """Stops reading from the socket: the caller has enough."""
        if not self._paused and self._failure is None and self.transport is not None:
            self._paused = True
            with contextlib.suppress(RuntimeError):  # the transport is closing
                self.transport.pause_reading()

    def resume(self) -> None:
        """Goes on reading; the silence of the pause was ours."""
        if self._paused:
            self._paused = False
            self._heard_at = self.loop.time()
            with contextlib.suppress(RuntimeError):
                self.transport.resume_reading()
            self._watch()

    def received(self, data: bytes | bytearray, n: int) -> None:
        """`n` bytes came. Never raises: every failure becomes the failure of what is in flight."""
        if self._failure is not None:
            return
        self._heard_at = self.loop.time()
        try:
            self._parser.feed(data, 0, n)
        except ProtocolError as error:
            text = str(error)
            if not self.greeting.done():
                # Nothing secret was sent yet, and "220 mail ESMTP" or "SSH-2.0" says at once what is wrong.
                text = f"{text}: {clean_text(bytes(data[: min(n, 60)]).decode('latin-1'))}"
            self.drop(lambda: ProtocolError(text))
        except Exception as error:  # noqa: BLE001 - a sink's own error (disk full) belongs to who waits for the body
            failure = error
            self.drop(lambda: failure)
        if n < SMALL_READ and self._socket is not None and self._inflight:
            acknowledge(self._socket)

    def data_received(self, d: bytes) -> None:
        """As a plain asyncio protocol would be fed."""
        self.received(d, len(d))

    def response(self, response: Response) -> None:
        """From the parser, for each complete response."""
        if self._plaintext_over:
            raise ProtocolError("the server sent data in clear behind its OK to STARTTLS")
        if isinstance(response, Fetch):
            pass  # first, since it is by far the most frequent
        elif isinstance(response, Status):
            self._count_talk(response)
            if not self.greeting.done():
                self.greeting.set_result(response)
            if response.code == "CAPABILITY":
                self._learn(parse_words(response.arguments))
            if response.tag is None and response.condition == "BYE" and not self._ending:
                secrets = self.secrets
                self.drop(lambda: bye_error(response, secrets))
                return
            if response.tag is not None and response.tag == self._starttls_tag and response.condition == "OK":
                self._plaintext_over = True
                self.transport.pause_reading()
        elif isinstance(response, Capability):
            self._learn(response.words)
        elif isinstance(response, Enabled):
            self.enabled |= response.words & ENABLED
        if not self._inflight.respond(response):
            self._unasked += 1
            if self._unasked > UNASKED_LIMIT:
                raise ProtocolError("the server never stops saying what nobody asked for")
            if self.listener is not None:
                self.listener(response)

    def literal(self, uid: int | None, section: str, octets: int) -> Sink | None:
        """From the parser, when a body begins."""
        return self._inflight.literal(uid, section, octets)

    def _count_talk(self, status: Status) -> None:
        """`* OK still here` is a sign of life, thousands of them without an answer are an attack on our time."""
        if status.tag is not None:
            self._talk = self._unasked = 0
            return
        self._talk += 1
        if self._talk > TALK_LIMIT:
            raise ProtocolError("the server keeps talking without an answer")

    def _learn(self, words: frozenset[str]) -> None:
        self.capabilities = words
        self.capabilities_known = True

    # The line's life.

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.state = lib.CONNECTED
        self._socket = transport.get_extra_info("socket")
        if self._socket is not None:
            keep_alive(self._socket)

    def connection_lost(self, exc: Exception | None) -> None:
        reason = clean_text(f": {exc}") if exc is not None else ""
        self.drop(lambda: NetworkError(f"the connection was lost{reason}"))

    def drop(self, make_error: Callable[[], Exception]) -> None:
        """Ends the line now; the first reason counts."""
        if self._failure is None:
            self._failure = make_error
            self.state = lib.LOGOUT
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if not self.greeting.done():
                self.greeting.set_exception(make_error())
                self.greeting.exception()
            self._inflight.fail(make_error)
            self.resume_writing()
        if self.transport is not None:
            self.transport.abort()

    @property
    def failure(self) -> Exception | None:
        """Why the line is down; None while it is up."""
        return self._failure() if self._failure is not None else None

    async def close(self) -> None:
        """LOGOUT when nothing else is in flight and it is answered quickly; then the end. Never raises, also when
        called twice.
        """
        try:
            if self._failure is None and not self._inflight and self.transport is not None:
                self._ending = True
                with contextlib.suppress(ConnectorError, TimeoutError):
                    async with asyncio.timeout(self.timeouts.logout_s):
                        await self.logout()
        finally:
            self.drop(lambda: NetworkError("the connection was closed"))

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def _watch(self) -> None:
        if self._timer is None and self._failure is None:
            oldest = self._inflight.oldest
            if oldest is not None and not self._paused and oldest.timeout_s != math.inf:
                due = max(oldest.sent_at, self._heard_at) + oldest.timeout_s
                self._timer = self.loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        oldest = self._inflight.oldest
        if oldest is None or self._paused:
            return
        if max(oldest.sent_at, self._heard_at) + oldest.timeout_s <= self.loop.time():
            text = f"the server did not answer {oldest.name} within {oldest.timeout_s:g} s"
            self.drop(lambda: NetworkError(text))
        else:
            self._watch()


class Client(lib.IMAP4):  # type: ignore[misc]  # aioimaplib has no types
    """aioimaplib's client, holding a `Session` in place of its own protocol.

    `opening` connects the session (see `connect`); it runs within `wait_hello_from_server`.
    """

    def __init__(self, opening: Callable[[Session], Awaitable[None]], host: str, timeouts: Timeouts, limits: Limits):
        self._opening = opening
        self._timeouts = timeouts
        self._limits = limits
        super().__init__(host, timeout=timeouts.connect_s)

    def create_client(self, *_: Any, **__: Any) -> None:
        """From the constructor of aioimaplib's client: the session, not connected yet."""
        self.protocol = Session(asyncio.get_running_loop(), self._timeouts, self._limits)

    async def _wait_connection_and_hello(self) -> None:
        await self._opening(self.protocol)

    @property
    def session(self) -> Session:
        session: Session = self.protocol
        return session
