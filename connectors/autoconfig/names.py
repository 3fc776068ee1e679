"""What DNS says of a domain: services (SRV, RFC 2782) and where its mail goes (MX). The only importer of dnspython,
which is loaded with the first question.

The system's resolver for hosts (`connectors.net`) has no SRV and no MX. Answers are bounded and taken for what they
are: words of whoever answers, since nothing here validates DNSSEC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from connectors.errors import NetworkError

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.name

_MOST: Final = 50


@dataclass(frozen=True, slots=True)
class Service:
    """One SRV record; `host` is empty where the domain says that it has no such service (RFC 6186 §3.2)."""

    priority: int
    weight: int
    host: str
    port: int


class Names(Protocol):
    """Asks DNS. Both raise NetworkError when nobody answers, and give nothing for names that are not there."""

    async def services(self, name: str) -> Sequence[Service]:
        """SRV records in the order to try: by priority, then the weightiest (RFC 2782)."""
        ...

    async def mail_hosts(self, domain: str) -> Sequence[str]:
        """Hosts that take the domain's mail, the preferred one first (RFC 5321 §5.1)."""
        ...


class Dns:
    """Asks the name servers of this machine, or others. `servers`: addresses; a test's own listen on another `port`."""

    def __init__(self, *, servers: Sequence[str] = (), port: int = 53, timeout_s: float = 5.0) -> None:
        self._servers = list(servers)
        self._port = port
        self._timeout_s = timeout_s

    async def services(self, name: str) -> Sequence[Service]:
        """See `Names`."""
        found = [
            Service(record.priority, record.weight, _host(record.target), record.port)
            for record in await self._ask(name, "SRV")
        ]
        return sorted(found, key=lambda service: (service.priority, -service.weight, service.host))

    async def mail_hosts(self, domain: str) -> Sequence[str]:
        """See `Names`."""
        found = [(record.preference, _host(record.exchange)) for record in await self._ask(domain, "MX")]
        return [host for _, host in sorted(found) if host]

    async def _ask(self, name: str, kind: str) -> list[Any]:
        import dns.exception
        import dns.name
        import dns.resolver

        try:
            resolver = self._resolver()
            answer = await resolver.resolve(
                name, kind, raise_on_no_answer=False, lifetime=self._timeout_s, search=False
            )
        except (dns.resolver.NXDOMAIN, dns.resolver.YXDOMAIN, dns.name.LabelTooLong, dns.name.NameTooLong):
            return []
        except (dns.exception.DNSException, OSError) as error:
            raise NetworkError(f"DNS does not answer ({type(error).__name__})", reason="dns_failed") from None
        return [] if answer.rrset is None else list(answer.rrset)[:_MOST]

    def _resolver(self) -> dns.asyncresolver.Resolver:
        import dns.asyncresolver

        made = dns.asyncresolver.Resolver(configure=not self._servers)
        if self._servers:
            made.nameservers = list(self._servers)
            made.port = self._port
        return made


def _host(name: dns.name.Name) -> str:
    """The name as text; of the root nothing is left."""
    import dns.name

    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""
