"""The providers that are known without asking anybody: by an address' domain, or by where mail of it goes (MX)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from connectors.autoconfig.model import Login, Need, Offer, Server, Source, login_of
from connectors.model import Security

_FILE: Final = "providers.toml"
_MX: Final = "{mx}"


@dataclass(frozen=True, slots=True)
class Provider:
    """What stands in the file about one. A server is (host, port, security)."""

    id: str
    name: str
    source: str
    domains: tuple[str, ...]
    mx: tuple[str, ...]
    imap: tuple[str, int, Security] | None
    smtp: tuple[str, int, Security] | None
    imap_login: Login
    smtp_login: Login
    needs: tuple[Need, ...]
    oauth: str | None
    help: str | None
    unsure: bool

    def offer(self, address: str, source: Source, mx: str = "") -> Offer:
        """Its settings for an address, whose mail goes to the host `mx` if that is known."""
        return Offer(
            source=source,
            imap=_server(self.imap, login_of(self.imap_login, address), mx),
            smtp=_server(self.smtp, login_of(self.smtp_login, address), mx),
            certain=not self.unsure,
            provider=self.name,
            provider_id=self.id,
            oauth=self.oauth,
            needs=self.needs,
            help=self.help,
        )


class Providers:
    """All of them, to look up in."""

    def __init__(self, known: Iterable[Provider]) -> None:
        self.all = tuple(known)
        self._by_domain = {domain: provider for provider in self.all for domain in provider.domains}
        self._by_host = {provider.imap[0]: provider for provider in reversed(self.all) if provider.imap is not None}
        self._by_mx = {suffix: provider for provider in self.all for suffix in provider.mx}

    def of_domain(self, domain: str) -> Provider | None:
        """Who has the addresses of this domain (ASCII, small letters)."""
        return self._by_domain.get(domain)

    def of_host(self, host: str) -> Provider | None:
        """Whose IMAP server this is."""
        return self._by_host.get(host.lower())

    def of_mx(self, host: str) -> Provider | None:
        """Who takes mail at this host: the longest known end of its name counts."""
        labels = host.lower().rstrip(".").split(".")
        ends = (".".join(labels[at:]) for at in range(len(labels) - 1))
        return next((found for end in ends if (found := self._by_mx.get(end)) is not None), None)


@cache
def providers() -> Providers:
    """Those that come with the program; read once."""
    text = resources.files("connectors.autoconfig").joinpath(_FILE).read_text(encoding="utf-8")
    return Providers(_provider(id_, values) for id_, values in tomllib.loads(text).items())


def _provider(id_: str, values: Mapping[str, Any]) -> Provider:
    login = values.get("login", "address")
    return Provider(
        id=id_,
        name=values["name"],
        source=values["source"],
        domains=tuple(values.get("domains", ())),
        mx=tuple(values.get("mx", ())),
        imap=_place(values.get("imap")),
        smtp=_place(values.get("smtp")),
        imap_login=Login(values.get("imap_login", login)),
        smtp_login=Login(values.get("smtp_login", login)),
        needs=tuple(Need(need) for need in values.get("needs", ())),
        oauth=values.get("oauth"),
        help=values.get("help"),
        unsure=values.get("unsure", False),
    )


def _place(written: Any) -> tuple[str, int, Security] | None:
    return None if written is None else (written[0], written[1], Security(written[2]))


def _server(place: tuple[str, int, Security] | None, username: str, mx: str) -> Server | None:
    if place is None or (place[0] == _MX and not mx):
        return None
    host, port, security = place
    return Server(mx if host == _MX else host, port, security, username)
