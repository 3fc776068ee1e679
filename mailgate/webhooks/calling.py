"""The request to a receiver: to an address that was judged, without redirects, bounded in time and bytes.

Nothing else imports httpcore, the engine of httpx: it asks for each connection through a backend, which is where the
name is resolved, every address judged, and exactly a judged one connected to. The name stays in Host and in TLS' server
name, and certificates are checked against it; a second, different answer of DNS has no place to come in.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import httpcore
import httpx

from connectors.errors import ConnectorError
from connectors.net import Network, Resolver, checked_addresses, is_allowed, resolve_host
from mailgate.errors import PreconditionError
from mailgate.webhooks.model import SHOWN, Answer

Call: TypeAlias = Callable[[str, Mapping[str, str], bytes], Awaitable[Answer]]
"""(url, headers, body) → what came of it. Raises nothing but CancelledError."""

LONGEST_URL: Final = 2_000
_READ: Final = 65_536
"""Bytes of an answer that are read, so that the connection can be used again; of more it is closed."""
_WORDS: Final = 200


def check_url(text: str, *, allow_http: bool, allow: Sequence[Network] = ()) -> str:
    """The URL of a receiver. Raises PreconditionError `url_invalid`. What its name resolves to is judged when it is
    connected to; an address in place of a name is judged here as well.
    """
    try:
        url = httpx.URL(text)
        host, port = url.host, url.port
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise _refused("this is no URL") from None
    if url.scheme not in ("https", "http") or not host:
        raise _refused("it must begin with https:// and name a host")
    if url.scheme == "http" and not allow_http:
        raise _refused("it must be https (the setting webhooks.allow_http allows http)")
    if url.userinfo or "@" in url.netloc.decode("ascii", "replace"):
        raise _refused("it must not hold a user or a password; requests are signed instead")
    if url.fragment:
        raise _refused("it must have no fragment (#…)")
    if port is not None and not 0 < port < 65_536:
        raise _refused("there is no such port")
    if len(str(url)) > LONGEST_URL:
        raise _refused(f"it has more than {LONGEST_URL} characters")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(url)
    if not is_allowed(address, allow):
        raise _refused("this address is not on the public internet; if that is meant, list it in the setting net.allow")
    return str(url)


def host_of(url: str) -> str:
    """The host: all of a URL that may be told, for the rest may hold a secret."""
    return httpx.URL(url).host


class Caller:
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

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST it. See `Call`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post(url, headers, body)
        except TimeoutError:
            return Answer(error=f"no answer within {self._timeout_s:g} s")
        except (ConnectorError, httpcore.NetworkError, httpcore.TimeoutException, ssl.SSLError, OSError) as error:
            return Answer(error=_words(error))
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            return Answer(error=f"this is no HTTP: {_words(error)}"[:_WORDS])

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_s)
        sent = {**headers, "accept": "*/*", "accept-encoding": "identity", "content-type": "application/json"}
        raw = httpx.URL(url)
        target = httpcore.URL(scheme=raw.raw_scheme, host=raw.raw_host, port=raw.port, target=raw.raw_path)
        pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
        async with self._pool.stream(
            "POST", target, headers=pairs, content=body, extensions={"timeout": timeouts}
        ) as response:
            text = bytearray()
            async for chunk in response.aiter_stream():
                text += chunk
                if len(text) > _READ:
                    break
            asked = next((value for name, value in response.headers if name.lower() == b"retry-after"), None)
        shown = bytes(text[:SHOWN]).decode("utf-8", "replace").replace("\0", "\ufffd")[:SHOWN]
        return Answer(response.status, None, shown or None, None if asked is None else asked.decode("latin-1")[:100])


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


def _refused(why: str) -> PreconditionError:
    return PreconditionError(f"`url`: {why}", slug="url_invalid")


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:_WORDS]
