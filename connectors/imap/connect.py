"""From an endpoint to a session that is logged in: resolve, judge the addresses, connect, secure, greet, log in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final

from connectors.errors import ConnectorError, NetworkError, ProtocolError, ServerError, TlsError
from connectors.imap.refusal import bye_error
from connectors.imap.session import Client, Session
from connectors.imap.settings import Limits, Timeouts
from connectors.imap.transport import Reader
from connectors.model import BearerAuth, Endpoint, PasswordAuth, Security
from connectors.net import Network, Reached, Resolver, checked_addresses, connected_socket, resolve_host, unheard
from connectors.reasons import Reason, of_connect_error, of_tls_error, speaks_no_tls

MAX_ADDRESSES: Final = 6
"""How many addresses of one host are tried."""


async def open_session(
    endpoint: Endpoint,
    auth: PasswordAuth | BearerAuth,
    *,
    ssl_context: ssl.SSLContext | None,
    allow_networks: Sequence[Network] = (),
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
    resolver: Resolver = resolve_host,
    reached: Reached = unheard,
) -> Session:
    """A session in the authenticated state. `ssl_context` is shared by all connections with the same trust; None only
    without TLS. `reached` hears of each step that is done: resolve, connect, tls, login.

    Raises NetworkError, TlsError, AddressRefusedError, ProtocolError, AuthError or ThrottledError, and leaves nothing
    open.
    """
    if ssl_context is None and endpoint.security is not Security.NONE:
        raise ValueError("TLS needs an ssl_context")
    timeouts = timeouts or Timeouts()

    async def opening(session: Session) -> None:
        await _open_line(session, endpoint, ssl_context, allow_networks, resolver, reached)

    client = Client(opening, endpoint.host, timeouts, limits or Limits())
    session = client.session
    try:
        try:
            await client.wait_hello_from_server()
        except TimeoutError:
            why = f"no greeting from {endpoint.host}, port {endpoint.port}, within {timeouts.connect_s:g} s"
            raise NetworkError(why, reason=Reason.SILENT) from None
        if session.state != "AUTH":
            if isinstance(auth, BearerAuth):
                await session.login_by_token(auth, endpoint)
            else:
                await session.login(auth.username, auth.password)
        reached("login")
        await session.ask_capabilities()
    except BaseException:
        session.drop(lambda: NetworkError("the connection was not completed"))
        raise
    return session


async def _open_line(
    session: Session,
    endpoint: Endpoint,
    ssl_context: ssl.SSLContext | None,
    allow_networks: Sequence[Network],
    resolver: Resolver,
    reached: Reached,
) -> None:
    """Up to the greeting, and STARTTLS behind it."""
    addresses = await checked_addresses(endpoint.host, endpoint.port, allow=allow_networks, resolver=resolver)
    reached("resolve")
    await _connect(session, endpoint, ssl_context, addresses[:MAX_ADDRESSES], reached)
    greeting = await session.greeting
    if greeting.tag is not None or greeting.condition not in ("OK", "PREAUTH", "BYE"):
        raise ProtocolError(f"the server greeted with {greeting.condition}")
    if greeting.condition == "BYE":
        raise bye_error(greeting)
    if endpoint.security is not Security.TLS:
        reached("connect")  # without TLS from the first byte, what listens is known by its greeting only
    if endpoint.security is Security.STARTTLS:
        if greeting.condition == "PREAUTH":
            # STARTTLS has no place after a login: somebody who says PREAUTH in clear prevents TLS (RFC 9051 §11.1).
            raise TlsError("the server greeted with PREAUTH, which rules out STARTTLS")
        assert ssl_context is not None  # noqa: S101 - open_session has checked
        await _starttls(session, endpoint, ssl_context)
        reached("tls")
    session.greeted(preauth=greeting.condition == "PREAUTH")


async def _connect(
    session: Session,
    endpoint: Endpoint,
    ssl_context: ssl.SSLContext | None,
    addresses: Sequence[str],
    reached: Reached,
) -> None:
    """To the first address that answers. The name in the certificate must be that of the host, whatever the address."""
    loop = asyncio.get_running_loop()
    tls = ssl_context if endpoint.security is Security.TLS else None
    share_s = session.timeouts.connect_s / len(addresses)
    failures: list[str] = []
    reason: str | None = None
    for address in addresses:
        until = loop.time() + share_s
        try:
            sock = await connected_socket(address, endpoint.port, share_s)
            if tls is not None:
                reached("connect")
            async with asyncio.timeout_at(until):
                await loop.create_connection(
                    lambda: Reader(session),
                    sock=sock,
                    ssl=tls,
                    server_hostname=endpoint.host if tls is not None else None,
                )
        except NetworkError as error:
            failures.append(f"{address}: {error}")
            reason = error.reason
        except ssl.SSLError as error:
            if speaks_no_tls(error):
                why = f"{endpoint.host} does not speak TLS on port {endpoint.port}; try security starttls, or none"
                raise TlsError(why, reason=of_tls_error(error)) from None
            raise _tls_failed(endpoint, error) from None
        except TimeoutError:
            failures.append(f"{address}: no answer within {share_s:g} s")
            reason = Reason.SILENT
        except OSError as error:
            failures.append(f"{address}: {error.strerror or error}")
            reason = of_connect_error(error)
        else:
            if tls is not None:
                reached("tls")
            return
    why = f"cannot connect to {endpoint.host}, port {endpoint.port}: {'; '.join(failures)}"
    raise NetworkError(why, reason=reason)


async def _starttls(session: Session, endpoint: Endpoint, ssl_context: ssl.SSLContext) -> None:
    try:
        await session.starttls()
    except ServerError as error:
        raise TlsError(f"the server refused STARTTLS: {error}", reason=Reason.NO_STARTTLS) from None
    loop = asyncio.get_running_loop()
    try:
        transport = await loop.start_tls(
            session.transport, session.transport.get_protocol(), ssl_context, server_hostname=endpoint.host
        )
    except ssl.SSLError as error:
        raise _tls_failed(endpoint, error) from None
    except OSError as error:
        why = f"the connection was lost in the TLS handshake: {error.strerror or error}"
        raise NetworkError(why, reason=Reason.CLOSED) from None
    if transport is None:
        failure = session.failure
        raise failure if isinstance(failure, ConnectorError) else NetworkError("the connection was lost in TLS")
    session.secured(transport)


def _tls_failed(endpoint: Endpoint, error: ssl.SSLError) -> TlsError:
    why = str(error.reason or error)
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"the certificate was not accepted: {error.verify_message}"
    return TlsError(f"TLS with {endpoint.host} failed: {why}", reason=of_tls_error(error))
