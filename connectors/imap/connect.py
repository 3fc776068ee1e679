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
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import Network, Resolver, checked_addresses, resolve_host

MAX_ADDRESSES: Final = 6
"""How many addresses of one host are tried."""

# What OpenSSL says of a first record that is none, such as a greeting in clear; the second since 3.2.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})


async def open_session(
    endpoint: Endpoint,
    auth: PasswordAuth,
    *,
    ssl_context: ssl.SSLContext | None,
    allow_networks: Sequence[Network] = (),
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
    resolver: Resolver = resolve_host,
) -> Session:
    """A session in the authenticated state. `ssl_context` is shared by all connections with the same trust; None only
    without TLS.

    Raises NetworkError, TlsError, AddressRefusedError, ProtocolError, AuthError or ThrottledError, and leaves nothing
    open.
    """
    if ssl_context is None and endpoint.security is not Security.NONE:
        raise ValueError("TLS needs an ssl_context")
    timeouts = timeouts or Timeouts()

    async def opening(session: Session) -> None:
        await _open_line(session, endpoint, ssl_context, allow_networks, resolver)

    client = Client(opening, endpoint.host, timeouts, limits or Limits())
    session = client.session
    try:
        try:
            await client.wait_hello_from_server()
        except TimeoutError:
            raise NetworkError(
                f"no greeting from {endpoint.host}, port {endpoint.port}, within {timeouts.connect_s:g} s"
            ) from None
        if session.state != "AUTH":
            await session.login(auth.username, auth.password)
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
) -> None:
    """Up to the greeting, and STARTTLS behind it."""
    addresses = await checked_addresses(endpoint.host, endpoint.port, allow=allow_networks, resolver=resolver)
    await _connect(session, endpoint, ssl_context, addresses[:MAX_ADDRESSES])
    greeting = await session.greeting
    if greeting.tag is not None or greeting.condition not in ("OK", "PREAUTH", "BYE"):
        raise ProtocolError(f"the server greeted with {greeting.condition}")
    if greeting.condition == "BYE":
        raise bye_error(greeting)
    if endpoint.security is Security.STARTTLS:
        if greeting.condition == "PREAUTH":
            # STARTTLS has no place after a login: somebody who says PREAUTH in clear prevents TLS (RFC 9051 §11.1).
            raise TlsError("the server greeted with PREAUTH, which rules out STARTTLS")
        assert ssl_context is not None  # noqa: S101 - open_session has checked
        await _starttls(session, endpoint, ssl_context)
    session.greeted(preauth=greeting.condition == "PREAUTH")


async def _connect(
    session: Session, endpoint: Endpoint, ssl_context: ssl.SSLContext | None, addresses: Sequence[str]
) -> None:
    """To the first address that answers. The name in the certificate must be that of the host, whatever the address."""
    loop = asyncio.get_running_loop()
    tls = ssl_context if endpoint.security is Security.TLS else None
    share_s = session.timeouts.connect_s / len(addresses)
    failures: list[str] = []
    for address in addresses:
        try:
            async with asyncio.timeout(share_s):
                await loop.create_connection(
                    lambda: Reader(session),
                    address,
                    endpoint.port,
                    ssl=tls,
                    server_hostname=endpoint.host if tls is not None else None,
                )
        except ssl.SSLError as error:
            if error.reason in _NO_TLS:
                raise TlsError(
                    f"{endpoint.host} does not speak TLS on port {endpoint.port}; try security starttls, or none"
                ) from None
            raise TlsError(f"TLS with {endpoint.host} failed: {_tls_reason(error)}") from None
        except TimeoutError:
            failures.append(f"{address}: no answer within {share_s:g} s")
        except OSError as error:
            failures.append(f"{address}: {error.strerror or error}")
        else:
            return
    raise NetworkError(f"cannot connect to {endpoint.host}, port {endpoint.port}: {'; '.join(failures)}")


async def _starttls(session: Session, endpoint: Endpoint, ssl_context: ssl.SSLContext) -> None:
    try:
        await session.starttls()
    except ServerError as error:
        raise TlsError(f"the server refused STARTTLS: {error}") from None
    loop = asyncio.get_running_loop()
    try:
        transport = await loop.start_tls(
            session.transport, session.transport.get_protocol(), ssl_context, server_hostname=endpoint.host
        )
    except ssl.SSLError as error:
        raise TlsError(f"TLS with {endpoint.host} failed: {_tls_reason(error)}") from None
    except OSError as error:
        raise NetworkError(f"the connection was lost in the TLS handshake: {error.strerror or error}") from None
    if transport is None:
        failure = session.failure
        raise failure if isinstance(failure, ConnectorError) else NetworkError("the connection was lost in TLS")
    session.secured(transport)


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted: {error.verify_message}"
    return str(error.reason or error)
