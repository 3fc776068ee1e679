"""One connection to a submission server, from the name to the last answer. The only importer of aiosmtplib.

    open_session   resolve, judge the addresses, connect to a judged one, TLS or STARTTLS, EHLO, AUTH
    offer          MAIL and RCPT: what the server says to each recipient; nothing is sent yet
    transfer       DATA and the content; from its last byte on the outcome is the server's

The commands are written here, one by one, since what is to be known of each step is not what a library's `sendmail`
tells: whether the content was begun, whether its end was sent, and what was said to whom.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import aiosmtplib

from connectors.errors import AuthError, ConnectorError, NetworkError, ProtocolError, ThrottledError, TlsError
from connectors.model import BearerAuth, Endpoint, PasswordAuth, Security
from connectors.net import Network, Reached, Resolver, checked_addresses, connected_socket, resolve_host, unheard
from connectors.reasons import Reason, of_tls_error, speaks_no_tls
from connectors.sasl import Dialogue, exchange
from connectors.smtp.errors import CannotCarryError, RefusedError, UnknownOutcomeError
from connectors.smtp.model import Envelope, Reply, Stuffing, pieces, read_reply

MAX_ADDRESSES: Final = 6
"""How many addresses of one host are tried."""

PIECE: Final = 64 * 1024
"""Bytes that are written before the line is waited for."""

_READY: Final = 220
_START_INPUT: Final = 354
_CONTINUE: Final = 334
_AUTHENTICATED: Final = 235
_CLOSING: Final = 421
_COMMAND_LINE: Final = 512  # octets, RFC 5321 §4.5.3.1.4
# RFC 4954 §6; 454 is temporary there, 538 wants TLS first.
_WRONG_LOGIN: Final = frozenset({530, 534, 535, 538, 550, 501, 504})


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds. `connect_s`: name, connection, TLS, greeting; `command_s`: an answer to a command, and until a piece
    of the content is taken; `end_s`: the answer to the whole content (RFC 5321 §4.5.3.2.6 asks for ten minutes).
    """

    connect_s: float = 20.0
    command_s: float = 300.0
    end_s: float = 600.0


class SmtpSession:
    """An authenticated connection. `greeting` is the text with which the server greeted; `capabilities` what EHLO
    offers, by keyword in capitals.
    """

    def __init__(self, client: aiosmtplib.SMTP, endpoint: Endpoint, timeouts: Timeouts, greeting: str) -> None:
        self.greeting = greeting
        self.capabilities: Mapping[str, str] = {}
        self._client = client
        self._endpoint = endpoint
        self._host = endpoint.host
        self._clear = endpoint.security is Security.NONE
        self._timeouts = timeouts
        self._writer: asyncio.StreamWriter | None = None
        self._secrets: tuple[str, ...] = ()

    # Beginning.

    async def hello(self) -> None:
        """EHLO. Raises RefusedError, NetworkError."""
        try:
            async with _line(self._host):
                response = await self._client.ehlo(timeout=self._timeouts.command_s)
        except aiosmtplib.SMTPHeloError as error:
            raise RefusedError("ehlo", read_reply(error.code, error.message)) from None
        found: dict[str, str] = {}
        for line in response.message.split("\n")[1:]:
            keyword, _, parameters = line.replace("AUTH=", "AUTH ", 1).partition(" ")
            found[keyword.upper()] = f"{found.get(keyword.upper(), '')} {parameters}".strip()
        self.capabilities = found

    async def secure(self, context: ssl.SSLContext) -> None:
        """STARTTLS (RFC 3207), and EHLO anew. Raises TlsError."""
        if "STARTTLS" not in self.capabilities:
            why = f"{self._host} offers no STARTTLS; try security tls on another port"
            raise TlsError(why, reason=Reason.NO_STARTTLS)
        try:
            async with _line(self._host):
                await self._client.starttls(
                    server_hostname=self._host, tls_context=context, timeout=self._timeouts.connect_s
                )
        except aiosmtplib.SMTPResponseException as error:
            why = f"the server refused STARTTLS: {read_reply(error.code, error.message)}"
            raise TlsError(why, reason=Reason.NO_STARTTLS) from None
        await self.hello()

    async def login(self, auth: PasswordAuth | BearerAuth) -> None:
        """AUTH (RFC 4954): OAUTHBEARER or XOAUTH2 with a token, else PLAIN, else LOGIN. Raises AuthError,
        ThrottledError; none shows the secret.
        """
        offered = self.capabilities.get("AUTH", "").upper().split()
        if isinstance(auth, BearerAuth):
            await self._login_by_token(auth, offered)
            return
        if "PLAIN" in offered or "LOGIN" not in offered:
            if "\0" in auth.username or "\0" in auth.password:
                raise AuthError("NUL cannot be part of a user name or password")
            mechanism, steps = "PLAIN", [_b64(f"\0{auth.username}\0{auth.password}")]
        else:
            mechanism, steps = "LOGIN", [_b64(auth.username), _b64(auth.password)]
        if mechanism not in offered:
            what = f"offers no AUTH {mechanism}" + (f", only {' '.join(offered)}" if offered else "; use TLS")
            reason = Reason.PROTECTION_NEEDED if self._clear and not offered else Reason.NO_LOGIN_OFFERED
            raise AuthError(f"the server {what}", reason=reason)
        self._secrets = (auth.secret, *steps)
        try:
            reply = await self._authenticate(mechanism, steps)
        finally:
            self._secrets = ()
        _require_login(reply, "login")

    async def _login_by_token(self, auth: BearerAuth, offered: Sequence[str]) -> None:
        spoken = exchange(auth, self._endpoint, offered)
        # RFC 4954 §4: what does not fit into a command line is not sent with the command.
        initial = len(f"AUTH {spoken.mechanism} {spoken.first}\r\n") <= _COMMAND_LINE
        dialogue = Dialogue(spoken, initial=initial)
        self._secrets = (auth.token, spoken.first)
        try:
            reply = await self._command("AUTH", spoken.mechanism, *([spoken.first] if initial else []))
            while reply.code == _CONTINUE:
                answer = dialogue.answer(reply.text)
                reply = await self._command("*" if answer is None else answer)
                if answer is None:
                    break
            told = read_reply(reply.code, dialogue.refusal(reply.text), self._secrets).text
        finally:
            self._secrets = ()
        _require_login(replace(reply, text=told), "access token")

    async def _authenticate(self, mechanism: str, steps: Sequence[str]) -> Reply:
        # PLAIN takes its first answer along (RFC 4954 §4); some servers take LOGIN's only when asked.
        first, left = (steps[0], steps[1:]) if mechanism != "LOGIN" else (None, steps)
        reply = await self._command("AUTH", mechanism, *([] if first is None else [first]))
        for step in left:
            if reply.code != _CONTINUE:
                break
            reply = await self._command(step)
        return reply

    async def try_sender(self, address: str) -> None:
        """Whether mail may come from this address: MAIL, which is taken back (RSET). Raises RefusedError,
        CannotCarryError, NetworkError.
        """
        options = []
        if not address.isascii():
            self._require(Envelope(address, (), 0, utf8=True))
            options.append("SMTPUTF8")
        reply = await self._command("MAIL", f"FROM:<{address}>", *options)
        if not reply.accepted:
            raise RefusedError("mail", reply)
        await self._command("RSET")

    # Handing over.

    async def offer(self, envelope: Envelope) -> list[Reply]:
        """MAIL and RCPT: the answer to each recipient. If none was accepted the transaction is over.

        Raises CannotCarryError before anything is sent, RefusedError when the sender was refused, NetworkError.
        """
        utf8 = self._require(envelope)
        options = []
        if "SIZE" in self.capabilities:
            options.append(f"SIZE={envelope.size}")
        if envelope.eight_bit or envelope.utf8:
            options.append("BODY=8BITMIME")
        if utf8:
            options.append("SMTPUTF8")
        reply = await self._command("MAIL", f"FROM:<{envelope.sender}>", *options)
        if not reply.accepted:
            raise RefusedError("mail", reply)
        replies: list[Reply] = []
        for recipient in envelope.recipients:
            reply = await self._command("RCPT", f"TO:<{recipient}>")
            if reply.code == _CLOSING:
                raise RefusedError("rcpt", reply)
            replies.append(reply)
        return replies

    def _require(self, envelope: Envelope) -> bool:
        """Whether SMTPUTF8 is to be asked for. Raises CannotCarryError."""
        if envelope.utf8 and "SMTPUTF8" not in self.capabilities:
            why = f"an address is not ASCII before its @, and {self._host} does not offer SMTPUTF8 (RFC 6531)"
            raise CannotCarryError("no_smtputf8", why)
        if (envelope.eight_bit or envelope.utf8) and "8BITMIME" not in self.capabilities:
            raise CannotCarryError("no_8bitmime", f"the message is not ASCII, and {self._host} offers no 8BITMIME")
        most = self.capabilities.get("SIZE", "")
        if most.isascii() and most.isdigit() and 0 < int(most) < envelope.size:
            why = f"the message has {envelope.size} bytes, {self._host} takes {most} (SIZE)"
            raise CannotCarryError("too_large_for_server", why)
        return envelope.utf8

    async def transfer(self, content: AsyncIterable[bytes]) -> Reply:
        """DATA and the content (lines end in CRLF): the server's answer, by which it took responsibility.

        Raises RefusedError (`data`, `content`) and NetworkError: it was not accepted; UnknownOutcomeError.
        """
        reply = await self._command("DATA")
        if reply.code != _START_INPUT:
            raise RefusedError("data", reply)
        stuffing = Stuffing()
        async for chunk in content:
            for piece in pieces(chunk, PIECE):
                await self._write(stuffing.chunk(piece))
        try:
            # A content without its end is none, whatever happens until here (RFC 5321 §4.1.1.4).
            await self._write(stuffing.end())
            reply = await self._answer()
        except NetworkError as error:
            raise UnknownOutcomeError(f"the message was sent and no answer came: {error}") from None
        if not reply.accepted:
            raise RefusedError("content", reply)
        return reply

    async def _write(self, data: bytes) -> None:
        protocol, transport = self._client.protocol, self._client.transport
        if protocol is None or transport is None or transport.is_closing():
            raise NetworkError(f"{self._host} closed the connection")
        if self._writer is None:
            loop = asyncio.get_running_loop()  # the writer is for its flow control alone
            self._writer = asyncio.StreamWriter(cast("asyncio.WriteTransport", transport), protocol, None, loop)
        async with _line(self._host):
            protocol.write(data)
            async with asyncio.timeout(self._timeouts.command_s):
                await self._writer.drain()

    async def _answer(self) -> Reply:
        protocol = self._client.protocol
        if protocol is None:
            raise NetworkError(f"{self._host} closed the connection")
        try:
            async with _line(self._host):
                response = await protocol.read_response(timeout=self._timeouts.end_s)
        except aiosmtplib.SMTPResponseException:
            raise NetworkError(f"the answer of {self._host} is no SMTP") from None
        return read_reply(response.code, response.message)

    async def _command(self, *words: str) -> Reply:
        try:
            async with _line(self._host):
                response = await self._client.execute_command(
                    *(word.encode() for word in words), timeout=self._timeouts.command_s
                )
        except aiosmtplib.SMTPResponseException as error:  # what it raises for bytes that are no answer
            # During a login neither what was said nor what came may be shown.
            what = "AUTH: the answer is no SMTP" if self._secrets else f"{words[0]}: {error.message}"
            raise ProtocolError(what) from None
        except ValueError:
            raise ProtocolError("a control character can't be sent") from None
        return read_reply(response.code, response.message, self._secrets)

    # End.

    async def close(self) -> None:
        """QUIT, politely but not for long."""
        with contextlib.suppress(aiosmtplib.SMTPException, OSError):
            if self._client.is_connected:
                await self._client.execute_command(b"QUIT", timeout=1.0)
        self.drop()

    def drop(self) -> None:
        """End at once."""
        self._client.close()


async def open_session(
    endpoint: Endpoint,
    auth: PasswordAuth | BearerAuth | None,
    *,
    ssl_context: ssl.SSLContext | None,
    allow_networks: Sequence[Network] = (),
    timeouts: Timeouts | None = None,
    resolver: Resolver = resolve_host,
    reached: Reached = unheard,
) -> SmtpSession:
    """A session that may send. `ssl_context` is shared by all connections with the same trust; None only without TLS.
    `reached` hears of each step that is done: resolve, connect, tls, login.

    Raises NetworkError, TlsError, AddressRefusedError, ProtocolError, RefusedError, AuthError or ThrottledError, and
    leaves nothing open.
    """
    if ssl_context is None and endpoint.security is not Security.NONE:
        raise ValueError("TLS needs an ssl_context")
    timeouts = timeouts or Timeouts()
    try:
        async with asyncio.timeout(timeouts.connect_s):
            addresses = await checked_addresses(endpoint.host, endpoint.port, allow=allow_networks, resolver=resolver)
    except TimeoutError:
        why = f"the name {endpoint.host} was not resolved within {timeouts.connect_s:g} s"
        raise NetworkError(why, reason=Reason.DNS_FAILED) from None
    reached("resolve")
    session = await _connect(endpoint, ssl_context, addresses[:MAX_ADDRESSES], timeouts, reached)
    try:
        await session.hello()
        if endpoint.security is Security.STARTTLS and ssl_context is not None:
            await session.secure(ssl_context)
            reached("tls")
        if auth is not None:
            await session.login(auth)
            reached("login")
    except BaseException:
        session.drop()
        raise
    return session


def _require_login(reply: Reply, what: str) -> None:
    """Raise AuthError for a login that was refused, ThrottledError for one that is not taken now."""
    if reply.code != _AUTHENTICATED:
        if reply.code in _WRONG_LOGIN:
            raise AuthError(f"the server refused the {what}: {reply}")
        raise ThrottledError(f"the server takes no login now: {reply}")


async def _connect(
    endpoint: Endpoint,
    ssl_context: ssl.SSLContext | None,
    addresses: Sequence[str],
    timeouts: Timeouts,
    reached: Reached,
) -> SmtpSession:
    """To the first address that answers. The name in the certificate must be that of the host, whatever the address."""
    share_s = timeouts.connect_s / len(addresses)
    failures: list[str] = []
    reason: str | None = None
    for address in addresses:
        try:
            return await _greeted(endpoint, ssl_context, address, timeouts, share_s, reached)
        except TlsError:
            raise
        except NetworkError as error:
            failures.append(f"{address}: {error}")
            reason = error.reason
    why = f"cannot connect to {endpoint.host}, port {endpoint.port}: {'; '.join(failures)}"
    raise NetworkError(why, reason=reason)


async def _greeted(
    endpoint: Endpoint,
    ssl_context: ssl.SSLContext | None,
    address: str,
    timeouts: Timeouts,
    share_s: float,
    reached: Reached,
) -> SmtpSession:
    sock = await connected_socket(address, endpoint.port, share_s)
    tls = endpoint.security is Security.TLS
    if tls:
        reached("connect")
    own = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    client = aiosmtplib.SMTP(
        hostname=endpoint.host,
        sock=sock,
        use_tls=tls,
        start_tls=False,
        tls_context=ssl_context,
        timeout=share_s,
        # An address literal tells nothing but what the server sees anyway (RFC 5321 §4.1.4).
        local_hostname=f"[IPv6:{own}]" if own.version == 6 else f"[{own}]",
    )
    try:
        greeting = await client.connect()
    except aiosmtplib.SMTPConnectResponseError as error:
        client.close()
        raise RefusedError("greeting", read_reply(error.code, error.message)) from None
    except (aiosmtplib.SMTPException, OSError) as error:
        sock.close()
        raise _failed(endpoint, error) from None
    except BaseException:
        sock.close()
        raise
    # Without TLS from the first byte, what listens is known by its greeting only.
    reached("tls" if tls else "connect")
    return SmtpSession(client, endpoint, timeouts, read_reply(greeting.code, greeting.message).text)


def _failed(endpoint: Endpoint, error: BaseException) -> ConnectorError:
    """What a failed beginning means."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return _tls_failed(endpoint.host, endpoint.port, cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, TimeoutError):
        return NetworkError("no greeting in time", reason=Reason.SILENT)
    return NetworkError(str(getattr(error, "strerror", None) or error), reason=Reason.CLOSED)


def _tls_failed(host: str, port: int, error: ssl.SSLError) -> TlsError:
    reason = of_tls_error(error)
    if speaks_no_tls(error):
        why = f"{host} does not speak TLS on port {port}; try security starttls, or none"
        return TlsError(why, reason=reason)
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"TLS with {host} failed: the certificate was not accepted: {error.verify_message}"
        return TlsError(why, reason=reason)
    return TlsError(f"TLS with {host} failed: {error.reason or error}", reason=reason)


@contextlib.asynccontextmanager
async def _line(host: str) -> AsyncIterator[None]:
    """Faults of the line as ours."""
    try:
        yield
    except ssl.SSLError as error:
        raise _tls_failed(host, 0, error) from None
    except aiosmtplib.SMTPResponseException:
        raise
    except TimeoutError:
        raise NetworkError(f"no answer of {host} in time", reason=Reason.SILENT) from None
    except (aiosmtplib.SMTPException, OSError) as error:
        raise NetworkError(f"the connection to {host} was lost: {error}", reason=Reason.CLOSED) from None


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
