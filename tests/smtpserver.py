"""A submission server whose answers a test scripts: aiosmtpd on loopback, in the test's own event loop.

`without`: what EHLO does not offer. `script` maps a step (connect, ehlo, auth, mail, rcpt, rcpt:ADDRESS, data, content)
to answers, taken one after the other, the last one for good; a step without a script is accepted. An answer is text
(`"450 4.2.1 busy"`), DROP (the line is cut instead of an answer) or HANG (no answer comes until the test says
`release`).
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

DROP = "drop"
HANG = "hang"


@dataclass(frozen=True)
class Received:
    """A message that the server took."""

    sender: str
    recipients: list[str]
    options: list[str]
    content: bytes


class _CutError(Exception):
    """The line is cut."""


@dataclass
class SmtpServer:
    """One server; `connections` counts those that were opened."""

    script: dict[str, list[str]] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=lambda: {"ann@acme.example": "hunter2-smtp"})
    received: list[Received] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    size: int = 10 << 20
    utf8: bool = True
    banner: str = "mail.test ESMTP double"
    tls: ssl.SSLContext | None = None
    starttls: ssl.SSLContext | None = None
    auth_required: bool = True
    no_plain: bool = False
    bearer: frozenset[str] = frozenset({"XOAUTH2"})
    tokens: Callable[[str, str], bool] = lambda name, token: (name, token) == ("ann@acme.example", "token-1")
    without: tuple[str, ...] = ()
    _server: asyncio.Server | None = None
    _hanging: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> SmtpServer:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        self._hanging.set()
        if self._server is not None:
            self._server.close()
            self._server = None

    def release(self) -> None:
        """What hangs is answered."""
        self._hanging.set()

    def _protocol(self) -> SMTP:
        self.connections += 1
        with warnings.catch_warnings(action="ignore"):  # of a login without TLS: it is loopback
            return self._made()

    def _made(self) -> SMTP:
        return _Protocol(
            _Handler(self),
            hostname=self.banner.partition(" ")[0],
            ident=self.banner.partition(" ")[2],
            data_size_limit=self.size,
            enable_SMTPUTF8=self.utf8,
            decode_data=False,
            auth_require_tls=False,
            auth_required=self.auth_required,
            authenticator=self._authenticate,
            auth_exclude_mechanism=[*(["PLAIN"] if self.no_plain else []), *({"XOAUTH2", "OAUTHBEARER"} - self.bearer)],
            tls_context=self.starttls,
            loop=asyncio.get_running_loop(),
        )

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        self.steps.append(f"auth {mechanism}")
        scripted = self.next("auth")
        if scripted is not None:
            return AuthResult(success=False, handled=False, message=scripted)
        known = self.users.get(data.login.decode()) == data.password.decode()
        return AuthResult(success=known, handled=False, auth_data=data.login if known else None)

    def next(self, *steps: str) -> str | None:
        """The next scripted answer of the first of these steps that has one."""
        for step in steps:
            answers = self.script.get(step)
            if answers:
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                return answer or None
        return None

    async def answer(self, protocol: SMTP, *steps: str) -> str | None:
        """The same, carried out where it is no text."""
        self.steps.append(steps[0])
        scripted = self.next(*steps)
        if scripted == HANG:
            await self._hanging.wait()
            return None
        if scripted == DROP:
            protocol.transport.abort()
            raise _CutError
        return scripted


class _Protocol(SMTP):
    """aiosmtpd's protocol, without the messages in its log when a line is cut, and with a scripted greeting."""

    async def _handle_client(self) -> None:
        handler: _Handler = self.event_handler
        scripted = handler.server.next("connect")
        if scripted == DROP:
            self.transport.abort()
            return
        if scripted is not None:
            await self.push(scripted)
            self.transport.close()
            return
        await super()._handle_client()

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        handler: _Handler = self.event_handler
        try:
            scripted = await handler.server.answer(self, "data")
        except _CutError:
            return
        if scripted is not None:
            await self.push(scripted)
            return
        await super().smtp_DATA(arg)


class _Handler:
    def __init__(self, server: SmtpServer) -> None:
        self.server = server

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's names
        self, server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        scripted = await self.server.answer(server, "ehlo")
        offered = [line for line in responses if not line[4:].startswith(self.server.without)]
        return offered if scripted is None else [scripted]

    async def auth_XOAUTH2(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802
        """The token is right, or a challenge comes first that tells in JSON why not, as Gmail does it."""
        return await self._bearer(server, args, r"user=([^\x01]+)\x01auth=Bearer ([^\x01]+)\x01\x01", b"")

    async def auth_OAUTHBEARER(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802
        """The same by RFC 7628."""
        said = rf"n,a=([^\x01,]+),\x01host=127\.0\.0\.1\x01port={self.server.port}\x01auth=Bearer ([^\x01]+)\x01\x01"
        return await self._bearer(server, args, said, b"\1")

    async def _bearer(self, server: SMTP, args: list[str], form: str, last: bytes) -> AuthResult:
        self.server.steps.append(f"auth {args[0]}" + (" at once" if len(args) > 1 else ""))
        said = base64.b64decode(args[1]) if len(args) > 1 else await server.challenge_auth("")
        assert isinstance(said, bytes)
        found = re.fullmatch(form, said.decode())
        assert found is not None, "what the client said is not as its mechanism has it"
        if self.server.tokens(found[1], found[2]):
            return AuthResult(success=True, auth_data=found[1].encode())
        assert await server.challenge_auth('{"status":"401","scope":"mail"}') == last
        return AuthResult(success=False, handled=False)

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        scripted = await self.server.answer(server, "mail")
        if scripted is not None:
            return scripted
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        scripted = await self.server.answer(server, f"rcpt:{address}", "rcpt")
        if scripted is not None:
            return scripted
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        scripted = await self.server.answer(server, "content")
        if scripted is not None and not scripted.startswith("2"):
            return scripted
        self.server.received.append(
            Received(envelope.mail_from or "", list(envelope.rcpt_tos), list(envelope.mail_options), content)
        )
        return scripted or "250 2.0.0 queued"

    async def handle_exception(self, error: Exception) -> str:
        if isinstance(error, _CutError):
            return "421 cut"
        raise error


def recipients_of(received: Sequence[Received]) -> list[str]:
    """Everybody who got something, as often as they did."""
    return [address for message in received for address in message.recipients]
