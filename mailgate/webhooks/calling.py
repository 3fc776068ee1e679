"""The request to a receiver: what may be called, and what is kept of its answer. How it is made: `connectors.web`."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias

import httpx

from connectors.errors import ConnectorError
from connectors.net import Network, Resolver, is_allowed, resolve_host
from connectors.web import Pool
from mailgate.errors import PreconditionError
from mailgate.webhooks.model import SHOWN, Answer

Call: TypeAlias = Callable[[str, Mapping[str, str], bytes], Awaitable[Answer]]
"""(url, headers, body) → what came of it. Raises nothing but CancelledError."""

LONGEST_URL: Final = 2_000
_WORDS: Final = 200


def check_url(text: str, *, allow_http: bool, allow: Sequence[Network] = ()) -> str:
    """The URL of a receiver. Raises PreconditionError `url_invalid`. What its name resolves to is judged when it is
    connected to; an address in place of a name is judged here as well.
    """
    if not text.isprintable() or " " in text:
        raise _refused("it has a blank or a character that can't be seen; write such as %20")
    if "\\" in text:  # a slash to browsers, and part of a host's name to others
        raise _refused("it has a backslash; write / between names, or %5C")
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
        self._pool = Pool(context, allow=allow, timeout_s=timeout_s, at_once=at_once, resolver=resolver)

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST it. See `Call`."""
        try:
            # So much of an answer is read that the connection can be used again; of more it is closed.
            found = await self._pool.request(
                "POST", url, headers={**headers, "content-type": "application/json"}, body=body
            )
        except ConnectorError as error:
            return Answer(error=str(error)[:_WORDS])
        shown = found.body[:SHOWN].decode("utf-8", "replace").replace("\0", "\ufffd")[:SHOWN]
        asked = found.headers.get("retry-after")
        return Answer(found.status, None, shown or None, None if asked is None else asked[:100])

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()


def _refused(why: str) -> PreconditionError:
    return PreconditionError(f"`url`: {why}", slug="url_invalid")
