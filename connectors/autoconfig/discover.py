"""From an address to settings: who is known is looked up, else the domain is asked, and at the end it is guessed.

In this order of preference:

1. `built_in`: the domain is one of a known provider's; nobody is asked.
2. `autoconfig`: Mozilla's document at `https://autoconfig.DOMAIN` and below `https://DOMAIN/.well-known`. By https
   only: in clear, whoever sits in between could name a server of their own, and a password would go there.
3. `srv`: services that the domain announces (RFC 6186; `_submissions`: RFC 8314 §5.1).
4. `mx`: the domain's mail goes to a known provider.
5. `guess`: usual names below the domain, marked as what it is.

2 to 4 are asked at the same time, each for a bounded time. Every host comes from a stranger: its addresses are judged
(`connectors.net`), a redirect is judged like the first URL, and answers are bounded (`connectors.web`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Final, Protocol
from urllib.parse import quote

import httpx

from connectors.autoconfig.document import MOST_BYTES, DocumentError, parse
from connectors.autoconfig.model import (
    Attempt,
    Discovery,
    Login,
    Need,
    NoAddressError,
    Offer,
    Outcome,
    Server,
    Source,
    ascii_domain,
    host_name,
    login_of,
    split,
)
from connectors.autoconfig.names import Names, Service
from connectors.autoconfig.providers import Providers
from connectors.errors import AddressRefusedError, ConnectorError, NetworkError
from connectors.model import Security
from connectors.net import Network, Resolver, checked_addresses, resolve_host
from connectors.web import Response

REDIRECTS: Final = 3
"""How many are followed: hosters answer for their customers' domains by one."""
_HTTPS: Final = 443
_REDIRECT: Final = frozenset({301, 302, 303, 307, 308})
_OK: Final = 200

# (name, security), the better one first (RFC 8314 §3).
_IMAP: Final = (("_imaps._tcp", Security.TLS), ("_imap._tcp", Security.STARTTLS))
_SMTP: Final = (("_submissions._tcp", Security.TLS), ("_submission._tcp", Security.STARTTLS))

Found = tuple[Offer | None, list[Attempt]]


class Web(Protocol):
    """What is needed of `connectors.web.Pool`."""

    async def request(self, method: str, url: str, *, most: int) -> Response:
        """See there."""
        ...


class Finder:
    """Finds settings. `port` of https is another one in tests only."""

    def __init__(
        self,
        known: Providers,
        names: Names,
        web: Web,
        *,
        allow: Sequence[Network] = (),
        timeout_s: float = 8.0,
        resolver: Resolver = resolve_host,
        port: int = _HTTPS,
    ) -> None:
        self._known = known
        self._names = names
        self._web = web
        self._allow = allow
        self._timeout_s = timeout_s
        self._resolver = resolver
        self._port = port

    async def __call__(self, address: str, *, ask: bool = True) -> Discovery:
        """The best settings, and what was tried. `ask` False: nobody outside is asked. Takes about twice `timeout_s` at
        most. Raises NoAddressError, and nothing else.
        """
        _, domain = split(address)
        provider = self._known.of_domain(domain)
        if provider is not None:
            attempt = Attempt(Source.BUILT_IN, domain, Outcome.FOUND)
            return Discovery(address, domain, provider.offer(address, Source.BUILT_IN), (attempt,))
        tried = [Attempt(Source.BUILT_IN, domain, Outcome.NOTHING)]
        if not ask:
            offer, guessed = _unchecked_guess(address, domain)
            return Discovery(address, domain, offer, (*tried, *guessed), online=False)
        found = await asyncio.gather(
            self._timed(Source.AUTOCONFIG, f"autoconfig.{domain}", self._ask_autoconfig(address, domain)),
            self._timed(Source.AUTOCONFIG, domain, self._ask_well_known(address, domain)),
            self._timed(Source.SRV, domain, self._ask_services(address, domain)),
            self._timed(Source.MX, domain, self._ask_mail_hosts(address, domain)),
        )
        tried += [attempt for _, attempts in found for attempt in attempts]
        online = any(attempt.outcome is not Outcome.UNREACHABLE for attempt in tried[1:])
        offer = next((offer for offer, _ in found if offer is not None), None)
        if offer is None:
            if online:
                offer, attempts = await self._timed(Source.GUESS, domain, self._guess(address, domain))
            else:
                offer, attempts = _unchecked_guess(address, domain)
            tried += attempts
        return Discovery(address, domain, self._completed(offer), tuple(tried), online=online)

    async def _timed(self, source: Source, target: str, asking: Awaitable[Found]) -> Found:
        """What comes of it in time. A stranger's answer must not raise anything that nobody foresaw."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asking
        except TimeoutError:
            why = f"no answer within {self._timeout_s:g} s"
            return None, [Attempt(source, target, Outcome.UNREACHABLE, why)]

    # Mozilla's document.

    async def _ask_autoconfig(self, address: str, domain: str) -> Found:
        url = self._url(f"autoconfig.{domain}", "/mail/config-v1.1.xml")
        return await self._document(url, address, f"?emailaddress={quote(address, safe='')}")

    async def _ask_well_known(self, address: str, domain: str) -> Found:
        return await self._document(self._url(domain, "/.well-known/autoconfig/mail/config-v1.1.xml"), address)

    def _url(self, host: str, path: str) -> str:
        return f"https://{host}{'' if self._port == _HTTPS else f':{self._port}'}{path}"

    async def _document(self, url: str, address: str, query: str = "") -> Found:
        outcome, detail = Outcome.NOTHING, ""
        try:
            response = await self._get(url + query)
            if response.status != _OK:
                return None, [Attempt(Source.AUTOCONFIG, url, Outcome.NOTHING, f"answered {response.status}")]
            said = parse(_whole(response), address)
            if said.imap is not None:
                needs = (Need.OAUTH,) if said.only_oauth else ()
                offer = Offer(Source.AUTOCONFIG, said.imap, said.smtp, certain=True, provider=said.name, needs=needs)
                return offer, [Attempt(Source.AUTOCONFIG, url, Outcome.FOUND)]
            detail = "it names no IMAP server with TLS"
        except DocumentError as error:
            detail = f"this is no configuration: {error}"
        except AddressRefusedError as error:
            outcome, detail = Outcome.REFUSED, str(error)
        except ConnectorError as error:
            outcome = Outcome.NOTHING if error.reason == "name_not_found" else Outcome.UNREACHABLE
            detail = str(error)
        return None, [Attempt(Source.AUTOCONFIG, url, outcome, detail)]

    async def _get(self, url: str) -> Response:
        """GET it, and where it leads. Raises DocumentError for a redirect that is not followed, ConnectorError."""
        for _ in range(REDIRECTS + 1):
            response = await self._web.request("GET", url, most=MOST_BYTES)
            if response.status not in _REDIRECT:
                return response
            url = self._judged(url, response.headers.get("location", ""))
        raise DocumentError(f"more than {REDIRECTS} redirects")

    def _judged(self, url: str, location: str) -> str:
        """Where a redirect leads. Raises DocumentError unless that is a named host by https on the same port."""
        try:
            target = httpx.URL(url).join(location)
            ascii_domain(target.raw_host.decode("ascii"))
        except (httpx.InvalidURL, NoAddressError, ValueError, TypeError):
            raise DocumentError("a redirect to no host by name") from None
        if target.scheme != "https" or target.userinfo or (target.port or _HTTPS) != self._port:
            raise DocumentError("a redirect that is not followed: only https, without a user, on the usual port")
        return str(target.copy_with(fragment=None))

    # DNS.

    async def _ask_services(self, address: str, domain: str) -> Found:
        try:
            names = [f"{name}.{domain}" for name, _ in (*_IMAP, *_SMTP)]
            answers = await asyncio.gather(*(self._names.services(name) for name in names))
        except NetworkError as error:
            return None, [Attempt(Source.SRV, f"_imaps._tcp.{domain}", Outcome.UNREACHABLE, str(error))]
        imap = _best(address, _IMAP, answers[:2])
        smtp = _best(address, _SMTP, answers[2:])
        if imap is not None:
            offer = Offer(Source.SRV, imap, smtp, certain=True)
            return offer, [Attempt(Source.SRV, f"_imaps._tcp.{domain}", Outcome.FOUND)]
        denied = any(answer and not answer[0].host for answer in answers[:2])
        detail = "the domain says that it has no IMAP" if denied else ""
        return None, [Attempt(Source.SRV, f"_imaps._tcp.{domain}", Outcome.NOTHING, detail)]

    async def _ask_mail_hosts(self, address: str, domain: str) -> Found:
        try:
            hosts = await self._names.mail_hosts(domain)
        except NetworkError as error:
            return None, [Attempt(Source.MX, domain, Outcome.UNREACHABLE, str(error))]
        if not hosts:
            return None, [Attempt(Source.MX, domain, Outcome.NOTHING, "the domain takes no mail")]
        best = host_name(hosts[0])
        provider = None if best is None else self._known.of_mx(best)
        if best is None or provider is None:
            return None, [Attempt(Source.MX, domain, Outcome.NOTHING, f"mail goes to {hosts[0]}, which is not known")]
        return provider.offer(address, Source.MX, best), [Attempt(Source.MX, domain, Outcome.FOUND, f"to {best}")]

    # The guess.

    async def _guess(self, address: str, domain: str) -> Found:
        imap = await self._first_there((f"imap.{domain}", f"mail.{domain}"), 993)
        smtp = await self._first_there((f"smtp.{domain}", f"mail.{domain}"), 465)
        tried = [Attempt(Source.GUESS, f"imap.{domain}, mail.{domain}", Outcome.FOUND if imap else Outcome.NOTHING)]
        return (None if imap is None else _guessed(address, imap, smtp)), tried

    async def _first_there(self, hosts: Sequence[str], port: int) -> str | None:
        for host in hosts:
            try:
                await checked_addresses(host, port, allow=self._allow, resolver=self._resolver)
            except ConnectorError:
                continue
            return host
        return None

    def _completed(self, offer: Offer | None) -> Offer | None:
        """With what is known of the provider whose server it is: a domain of one's own at Gmail needs what Gmail
        does.
        """
        if offer is None or offer.imap is None or offer.provider_id is not None:
            return offer
        provider = self._known.of_host(offer.imap.host)
        if provider is None:
            return offer
        return replace(
            offer,
            provider=provider.name,
            provider_id=provider.id,
            oauth=provider.oauth,
            needs=provider.needs,
            help=provider.help,
        )


def _whole(response: Response) -> bytes:
    if response.cut:
        raise DocumentError(f"it has more than {MOST_BYTES} bytes")
    return response.body


def _best(address: str, kinds: Sequence[tuple[str, Security]], answers: Sequence[Sequence[Service]]) -> Server | None:
    """The service that the domain prefers (RFC 6186 §3.4); of equals the one with TLS from the first byte."""
    offered = [
        (service.priority, at, host, service.port, kinds[at][1])
        for at, services in enumerate(answers)
        for service in services[:1]
        if (host := host_name(service.host)) is not None and 0 < service.port < 65_536
    ]
    if not offered:
        return None
    _, _, host, port, security = min(offered)
    return Server(host, port, security, login_of(Login.ADDRESS, address))


def _guessed(address: str, imap: str, smtp: str | None) -> Offer:
    login = login_of(Login.ADDRESS, address)
    return Offer(
        Source.GUESS,
        Server(imap, 993, Security.TLS, login),
        None if smtp is None else Server(smtp, 465, Security.TLS, login),
        certain=False,
    )


def _unchecked_guess(address: str, domain: str) -> Found:
    """What is usual, when nobody could be asked whether it is so."""
    attempt = Attempt(Source.GUESS, f"imap.{domain}", Outcome.UNREACHABLE, "nobody could be asked")
    return _guessed(address, f"imap.{domain}", f"smtp.{domain}"), [attempt]
