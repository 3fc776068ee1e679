"""Requests over HTTP: to an address that was judged, without redirects, bounded in time and bytes.

Nothing else imports httpcore, the engine of httpx: it asks for each connection through a backend, which is where the
name is resolved, every address judged, and exactly a judged one connected to. The name stays in Host and in TLS' server
name, and certificates are checked against it; a second, different answer of DNS has no place to come in.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpcore
import httpx

from connectors.errors import NetworkError, ProtocolError, TlsError
from connectors.net import Network, Resolver, checked_addresses, resolve_host

MOST: Final = 65_536
"""Bytes of an answer that are read unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Response:
    """What was answered. Names of `headers` are in small letters, the first of several counts; `cut`: the body had
    more bytes than were asked for.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool


class Pool:
    """Makes requests; connections are kept for a while. `close` when done."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        allow: Sequence[Network] = (),
        timeout_s: float = 15.0,
        at_once: int = 16,
        resolver: Resolver = resolve_host,
    ) -> None:
        self._timeout_s = timeout_s
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=2 * at_once,
            max_keepalive_connections=at_once,
            keepalive_expiry=30.0,
            network_backend=_Checked(allow, resolver),
        )

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes = b"", most: int = MOST
    ) -> Response:
        """One request and what was answered, a redirect as well. Raises NetworkError, TlsError, AddressRefusedError and
        ProtocolError (the answer is no HTTP); none names more of the URL than its host.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._request(method, url, headers or {}, body, most)
        except TimeoutError:
            raise NetworkError(f"no answer within {self._timeout_s:g} s", reason="silent") from None
        except httpcore.TimeoutException:
            raise NetworkError(f"no answer within {self._timeout_s:g} s", reason="silent") from None
        except (httpcore.NetworkError, ssl.SSLError, OSError) as error:
            kind = TlsError if _is_tls(error) else NetworkError
            raise kind(_words(error)) from None
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            if str(error).startswith("Server disconnected"):
                raise NetworkError("the connection was closed before an answer", reason="closed") from None
            raise ProtocolError(f"this is no HTTP: {_words(error)}") from None

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes, most: int) -> Response:
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_s)
        raw = httpx.URL(url)
        target = httpcore.URL(scheme=raw.raw_scheme, host=raw.raw_host, port=raw.port, target=raw.raw_path)
        # Compressed answers may grow a thousandfold: none is asked for.
        sent = {"accept": "*/*", **headers, "accept-encoding": "identity"}
        pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
        async with self._pool.stream(
            method, target, headers=pairs, content=body, extensions={"timeout": timeouts}
        ) as response:
            text = bytearray()
            cut = False
            async for chunk in response.aiter_stream():
                text += chunk
                if len(text) > most:
                    cut = True
                    break
            found: dict[str, str] = {}
            for name, value in response.headers:
                found.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        return Response(response.status, found, bytes(text[:most]), cut)


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to judged addresses only."""

    def __init__(self, allow: Sequence[Network], resolver: Resolver) -> None:
        self._allow = allow
        self._resolver = resolver
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await checked_addresses(host, port, allow=self._allow, resolver=self._resolver)
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _words(error: Exception) -> str:
    """What is wrong; the system's words for it where it was the system that said so, not those of a library."""
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) else None
        if number is not None and number > 0:
            return os.strerror(number)
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
