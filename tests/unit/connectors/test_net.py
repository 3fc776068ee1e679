"""Which addresses may be connected to."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from connectors.errors import AddressRefusedError, NetworkError, Retry
from connectors.net import checked_addresses, is_allowed, parse_networks, resolve_host

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
REFUSED = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",  # noqa: S104 - no address to bind to here
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:7f00:1::",
    "100::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_is_allowed(address: str) -> None:
    assert is_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", REFUSED)
def test_everything_else_is_not(address: str) -> None:
    assert not is_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("address", "networks", "allowed"),
    [
        ("127.0.0.1", ["127.0.0.0/8"], True),
        ("::ffff:127.0.0.1", ["127.0.0.0/8"], True),
        ("64:ff9b::a00:1", ["10.0.0.0/8"], True),
        ("10.0.0.1", ["127.0.0.0/8"], False),
        ("fd00::1", ["fd00::/8"], True),
        ("fd00::1", ["10.0.0.0/8", "::1/128"], False),
        ("8.8.8.8", ["127.0.0.0/8"], True),
    ],
)
def test_what_the_settings_list_is_allowed_too(address: str, networks: list[str], allowed: bool) -> None:
    assert is_allowed(ipaddress.ip_address(address), parse_networks(networks)) is allowed


def test_a_network_that_is_none() -> None:
    with pytest.raises(ValueError, match="host bits"):
        parse_networks(["10.0.0.1/8"])


async def test_only_allowed_addresses_remain_in_the_resolvers_order() -> None:
    async def resolver(host: str, port: int) -> list[str]:
        return ["10.0.0.1", "8.8.8.8", "::1", "1.1.1.1"]

    assert await checked_addresses("mail.example", 993, resolver=resolver) == ["8.8.8.8", "1.1.1.1"]


async def test_no_allowed_address_says_which_setting_would_help() -> None:
    async def resolver(host: str, port: int) -> list[str]:
        return ["192.168.0.7"]

    with pytest.raises(AddressRefusedError, match=r"192\.168\.0\.7.*net\.allow") as caught:
        await checked_addresses("mail.example", 993, resolver=resolver)
    assert caught.value.retry is Retry.NEVER


async def test_a_name_without_an_address() -> None:
    async def resolver(host: str, port: int) -> list[str]:
        return []

    with pytest.raises(NetworkError, match="no address"):
        await checked_addresses("mail.example", 993, resolver=resolver)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_the_systems_resolver_gives_each_address_once(address: str) -> None:
    assert await resolve_host(address, 993) == [address]
    with pytest.raises(AddressRefusedError):
        await checked_addresses(address, 993)


@pytest.mark.parametrize(
    "error", [UnicodeEncodeError("idna", "x", 0, 1, "label too long"), ValueError("embedded null character")]
)
async def test_a_name_that_no_dns_can_hold(error: ValueError, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loop:
        async def getaddrinfo(self, *_: object, **__: object) -> None:
            raise error

    monkeypatch.setattr(asyncio, "get_running_loop", Loop)
    with pytest.raises(NetworkError, match="not found: not a host name"):
        await checked_addresses("mail..example", 993)
