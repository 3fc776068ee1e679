"""Which addresses may be connected to: every resolved address is judged, and exactly the judged one is connected to.

The addresses of mail servers come from users. Without a check the gateway would be a way into the network it runs in
(private hosts, loopback services, cloud metadata). Resolving once and connecting to what was judged leaves no room for
a second, different answer of DNS.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from connectors.errors import AddressRefusedError, NetworkError
from connectors.reasons import Reason, of_connect_error, of_name_error

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → addresses as text, in the order to try. Raises OSError."""
Reached: TypeAlias = Callable[[str], None]
"""Hears of each step of opening a session that is done: resolve, connect, tls, login."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SITE_LOCAL = ipaddress.IPv6Network("fec0::/10")
_RELAY_6TO4 = ipaddress.IPv4Network("192.88.99.0/24")


def unheard(_step: str) -> None:
    """For nobody who listens."""


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """`127.0.0.0/8`, `::1`, … Raises ValueError."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def is_allowed(address: Address, allow: Iterable[Network] = ()) -> bool:
    """True for addresses of the public internet, and for those that `allow` lists.

    An IPv6 address that carries an IPv4 one (mapped, 6to4, NAT64, Teredo) is judged by that as well, since packets end
    up there.
    """
    networks = tuple(allow)
    if any(address.version == n.version and address in n for n in networks):
        return True
    inner = _embedded(address)
    if inner is not None:
        return all(is_allowed(a, networks) for a in inner)
    return _is_public(address)


def _embedded(address: Address) -> tuple[ipaddress.IPv4Address, ...] | None:
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in _NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    return None


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_unspecified or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address.scope_id is None and address not in _SITE_LOCAL
    return address not in _RELAY_6TO4


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """The system's resolver. Raises OSError."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (UnicodeError, ValueError) as error:
        # Names that no DNS can hold: empty or endless labels, NUL.
        raise OSError(f"not a host name ({type(error).__name__})") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def checked_addresses(
    host: str, port: int, *, allow: Sequence[Network] = (), resolver: Resolver = resolve_host
) -> list[str]:
    """The addresses of `host` that may be connected to, in the resolver's order; never empty.

    Raises NetworkError when the name is unknown, AddressRefusedError when none of its addresses is allowed.
    """
    try:
        texts = await resolver(host, port)
    except OSError as error:
        reason = of_name_error(error)
        raise NetworkError(f"the host {host} was not found: {error.strerror or error}", reason=reason) from None
    if not texts:
        raise NetworkError(f"the host {host} has no address", reason=Reason.NAME_NOT_FOUND)
    allowed = [text for text in texts if is_allowed(ipaddress.ip_address(text), allow)]
    if not allowed:
        raise AddressRefusedError(
            f"the host {host} is at {texts[0]}, which is not on the public internet; "
            "if that is meant, list its network in the setting net.allow",
            reason=Reason.ADDRESS_REFUSED,
        )
    return allowed


async def connected_socket(address: str, port: int, within_s: float) -> socket.socket:
    """A TCP connection to a judged address. Raises NetworkError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(within_s):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except TimeoutError:
        sock.close()
        raise NetworkError(f"no answer within {within_s:g} s", reason=Reason.SILENT) from None
    except OSError as error:
        sock.close()
        raise NetworkError(str(error.strerror or error), reason=of_connect_error(error)) from None
    except BaseException:
        sock.close()
        raise
    return sock
