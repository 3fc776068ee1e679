"""Finding settings: with a DNS server and a web server on loopback that say what strangers might say."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.autoconfig.discover import Finder
from connectors.autoconfig.document import MOST_BYTES
from connectors.autoconfig.model import Discovery, NoAddressError, Outcome, Server, Source
from connectors.autoconfig.names import Dns
from connectors.autoconfig.providers import providers
from connectors.model import Security
from connectors.net import parse_networks
from connectors.web import Pool
from tests.certificates import Certificates, make_certificates
from tests.dnsserver import DnsServer, Zone, dns_server
from tests.webserver import SILENCE, WebServer, page, web_server

ANN = "ann@acme.example"
AUTOCONFIG = ("autoconfig.acme.example", "/mail/config-v1.1.xml")
WELL_KNOWN = ("acme.example", "/.well-known/autoconfig/mail/config-v1.1.xml")
HERE = parse_networks(["127.0.0.0/8"])
DOCUMENT = b"""<?xml version="1.0"?>
<clientConfig version="1.1"><emailProvider id="acme.example"><domain>acme.example</domain>
<displayName>Acme Mail</displayName>
<incomingServer type="pop3"><hostname>pop.acme.example</hostname><port>995</port>
<socketType>SSL</socketType></incomingServer>
<incomingServer type="imap"><hostname>old.acme.example</hostname><port>143</port>
<socketType>plain</socketType></incomingServer>
<incomingServer type="imap"><hostname>imap.%EMAILDOMAIN%</hostname><port>993</port><socketType>SSL</socketType>
<username>%EMAILLOCALPART%</username><authentication>password-cleartext</authentication></incomingServer>
<outgoingServer type="smtp"><hostname>smtp.acme.example</hostname><port>587</port><socketType>STARTTLS</socketType>
<username>%EMAILADDRESS%</username></outgoingServer>
</emailProvider></clientConfig>"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    names = ["autoconfig.acme.example", "acme.example", "conf.hoster.example", "autoconfig.xn--bcher-kva.example"]
    return make_certificates(tmp_path_factory.mktemp("web"), names=names)


@dataclass
class World:
    """Everybody that may be asked. `places`: names that resolve, and where to."""

    dns: DnsServer
    web: WebServer
    finder: Finder
    places: dict[str, str]
    resolved: list[str]

    def tried(self, found: Discovery) -> list[tuple[str, str]]:
        return [(attempt.source.value, attempt.outcome.value) for attempt in found.tried]


@asynccontextmanager
async def world(
    certificates: Certificates, zone: Zone | None = None, *, allow: bool = True, timeout_s: float = 5.0
) -> AsyncIterator[World]:
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificates.certificate, certificates.key)
    places = dict.fromkeys(("autoconfig.acme.example", "acme.example", "conf.hoster.example"), "127.0.0.1")
    resolved: list[str] = []

    async def resolver(host: str, _port: int) -> list[str]:
        resolved.append(host)
        if host not in places:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [places[host]]

    context = ssl.create_default_context(cafile=str(certificates.ca))
    allowed = HERE if allow else ()
    pool = Pool(context, allow=allowed, timeout_s=timeout_s, resolver=resolver)
    async with (
        dns_server(zone or {("acme.example", "MX"): ["10 mail.acme.example."]}) as server,
        web_server(own) as web,
    ):
        names = Dns(servers=["127.0.0.1"], port=server.port, timeout_s=timeout_s)
        finder = Finder(providers(), names, pool, allow=allowed, timeout_s=timeout_s, resolver=resolver, port=web.port)
        try:
            yield World(server, web, finder, places, resolved)
        finally:
            await pool.close()


async def test_a_known_provider_is_found_without_asking_anybody(certificates: Certificates) -> None:
    async with world(certificates) as w:
        found = await w.finder("Ann.Smith@GMail.com")
        assert (w.dns.asked, w.web.requests, w.resolved) == ([], [], [])
    offer = found.offer
    assert offer is not None
    assert offer.imap == Server("imap.gmail.com", 993, Security.TLS, "Ann.Smith@GMail.com")
    assert (offer.provider, offer.oauth, [need.value for need in offer.needs]) == ("Gmail", "google", ["app_password"])
    assert (offer.certain, offer.source, w.tried(found)) == (True, Source.BUILT_IN, [("built_in", "found")])


async def test_what_the_domain_publishes_comes_first(certificates: Certificates) -> None:
    zone = {
        ("_imaps._tcp.acme.example", "SRV"): ["0 1 993 srv.acme.example."],
        ("acme.example", "MX"): ["10 aspmx.l.google.com."],
    }
    async with world(certificates, zone) as w:
        w.web.pages = {AUTOCONFIG: page(DOCUMENT), WELL_KNOWN: page(DOCUMENT)}
        found = await w.finder(ANN)
        assert "autoconfig.acme.example /mail/config-v1.1.xml?emailaddress=ann%40acme.example" in w.web.requests
    offer = found.offer
    assert offer is not None
    assert offer.source is Source.AUTOCONFIG
    assert offer.imap == Server("imap.acme.example", 993, Security.TLS, "ann")
    assert offer.smtp == Server("smtp.acme.example", 587, Security.STARTTLS, ANN)
    assert offer.provider == "Acme Mail"
    assert w.tried(found) == [
        *(("built_in", "nothing"), ("autoconfig", "found"), ("autoconfig", "found")),
        *(("srv", "found"), ("mx", "found")),
    ]


async def test_the_well_known_place_is_the_second(certificates: Certificates) -> None:
    async with world(certificates) as w:
        w.web.pages = {WELL_KNOWN: page(DOCUMENT)}
        found = await w.finder(ANN)
    assert found.offer is not None
    assert found.offer.imap is not None
    assert found.offer.imap.host == "imap.acme.example"
    assert [attempt.detail for attempt in found.tried[1:3]] == ["answered 404", ""]
    assert "?" not in found.tried[1].target  # the address is not repeated


@pytest.mark.parametrize(
    ("zone", "imap", "smtp"),
    [
        (
            {
                ("_imaps._tcp.acme.example", "SRV"): ["10 1 9993 b.acme.example.", "5 0 993 a.acme.example."],
                ("_imap._tcp.acme.example", "SRV"): ["5 1 143 c.acme.example."],
                ("_submissions._tcp.acme.example", "SRV"): ["0 1 465 out.acme.example."],
                ("_submission._tcp.acme.example", "SRV"): ["0 1 587 out.acme.example."],
            },
            ("a.acme.example", 993, Security.TLS),
            ("out.acme.example", 465, Security.TLS),
        ),
        (
            {
                ("_imaps._tcp.acme.example", "SRV"): ["0 0 0 ."],
                ("_imap._tcp.acme.example", "SRV"): ["0 1 143 c.acme.example."],
                ("_submission._tcp.acme.example", "SRV"): ["0 1 587 out.acme.example."],
            },
            ("c.acme.example", 143, Security.STARTTLS),
            ("out.acme.example", 587, Security.STARTTLS),
        ),
        (
            {
                ("_imaps._tcp.acme.example", "SRV"): ["20 1 993 a.acme.example."],
                ("_imap._tcp.acme.example", "SRV"): ["10 1 143 preferred.acme.example."],
            },
            ("preferred.acme.example", 143, Security.STARTTLS),
            None,
        ),
    ],
)
async def test_services_that_the_domain_announces(
    certificates: Certificates,
    zone: Zone,
    imap: tuple[str, int, Security],
    smtp: tuple[str, int, Security] | None,
) -> None:
    async with world(certificates, zone) as w:
        found = await w.finder(ANN)
    assert found.offer is not None
    assert found.offer.source is Source.SRV
    assert found.offer.imap == Server(*imap, ANN)
    assert found.offer.smtp == (None if smtp is None else Server(*smtp, ANN))


async def test_a_domain_that_says_it_has_no_imap(certificates: Certificates) -> None:
    zone = {("_imaps._tcp.acme.example", "SRV"): ["0 0 0 ."], ("_imap._tcp.acme.example", "SRV"): ["0 0 0 ."]}
    async with world(certificates, zone) as w:
        found = await w.finder(ANN)
    (srv,) = [attempt for attempt in found.tried if attempt.source is Source.SRV]
    assert (srv.outcome, srv.detail) == (Outcome.NOTHING, "the domain says that it has no IMAP")


@pytest.mark.parametrize(
    ("mx", "provider", "host", "needs"),
    [
        ("10 aspmx.l.google.com.", "gmail", "imap.gmail.com", ["app_password"]),
        ("0 acme-example.mail.protection.outlook.com.", "microsoft365", "outlook.office365.com", ["oauth"]),
        ("10 mx1.mail.ovh.net.", "ovh", "ssl0.ovh.net", []),
        ("10 mail92231.maychuemail.com.", "pavietnam", "mail92231.maychuemail.com", []),
    ],
)
async def test_where_mail_goes_tells_the_provider(
    certificates: Certificates, mx: str, provider: str, host: str, needs: list[str]
) -> None:
    async with world(certificates, {("acme.example", "MX"): ["90 backup.acme.example.", mx]}) as w:
        found = await w.finder(ANN)
    offer = found.offer
    assert offer is not None
    assert offer.imap is not None
    assert (offer.source, offer.provider_id, offer.imap.host) == (Source.MX, provider, host)
    assert [need.value for need in offer.needs] == needs
    assert offer.certain is (provider != "pavietnam")  # of that one nobody publishes it


async def test_a_domain_of_ones_own_at_a_known_provider_needs_what_that_needs(certificates: Certificates) -> None:
    async with world(certificates, {("_imaps._tcp.acme.example", "SRV"): ["0 1 993 imap.gmail.com."]}) as w:
        found = await w.finder(ANN)
    assert found.offer is not None
    assert (found.offer.source, found.offer.oauth, found.offer.provider) == (Source.SRV, "google", "Gmail")


async def test_a_guess_is_marked_and_only_made_of_names_that_are_there(certificates: Certificates) -> None:
    async with world(certificates) as w:
        w.places |= {"mail.acme.example": "127.0.0.1", "smtp.acme.example": "127.0.0.1"}
        found = await w.finder(ANN)
    offer = found.offer
    assert offer is not None
    assert (offer.source, offer.certain) == (Source.GUESS, False)
    assert offer.imap == Server("mail.acme.example", 993, Security.TLS, ANN)
    assert offer.smtp == Server("smtp.acme.example", 465, Security.TLS, ANN)
    assert found.online


async def test_nothing_at_all(certificates: Certificates) -> None:
    async with world(certificates, {}) as w:
        w.places.clear()
        found = await w.finder("ann@nowhere.example")
    assert found.offer is None
    assert found.online
    assert {attempt.outcome for attempt in found.tried} == {Outcome.NOTHING}


async def test_offline_it_says_so_and_guesses(certificates: Certificates) -> None:
    async with world(certificates, timeout_s=0.5) as w:
        w.dns.silent = True
        w.places = dict.fromkeys(w.places, "127.0.0.1")
        w.web.pages = {AUTOCONFIG: SILENCE, WELL_KNOWN: SILENCE}
        found = await w.finder(ANN)
    assert not found.online
    assert {attempt.outcome for attempt in found.tried[1:]} == {Outcome.UNREACHABLE}
    assert found.offer is not None
    assert (found.offer.certain, found.offer.source) == (False, Source.GUESS)


async def test_a_name_server_that_fails_is_not_a_domain_without_records(certificates: Certificates) -> None:
    async with world(certificates, timeout_s=1.0) as w:
        w.dns.failing = True
        found = await w.finder(ANN)
    outcomes = {attempt.source: attempt.outcome for attempt in found.tried}
    assert outcomes[Source.SRV] is outcomes[Source.MX] is Outcome.UNREACHABLE


async def test_asked_not_to_ask_it_asks_nobody(certificates: Certificates) -> None:
    async with world(certificates) as w:
        found = await w.finder(ANN, ask=False)
        assert (w.dns.asked, w.web.requests, w.resolved) == ([], [], [])
    assert not found.online
    assert found.offer is not None
    assert not found.offer.certain


# What strangers try.


async def test_private_addresses_are_not_asked(certificates: Certificates) -> None:
    async with world(certificates, allow=False) as w:
        w.web.pages = {AUTOCONFIG: page(DOCUMENT)}
        w.places["acme.example"] = "169.254.169.254"
        found = await w.finder(ANN)
        assert w.web.requests == []
    refused = [attempt for attempt in found.tried if attempt.source is Source.AUTOCONFIG]
    assert [attempt.outcome for attempt in refused] == [Outcome.REFUSED, Outcome.REFUSED]
    assert found.offer is None


async def test_a_redirect_is_followed_to_a_named_host_by_https_only(certificates: Certificates) -> None:
    async with world(certificates) as w:
        w.web.pages = {
            AUTOCONFIG: page(b"", "302 Found", location=f"https://conf.hoster.example:{w.web.port}/acme.xml"),
            ("conf.hoster.example", "/acme.xml"): page(DOCUMENT),
        }
        found = await w.finder(ANN)
        assert "conf.hoster.example /acme.xml" in w.web.requests
    assert found.offer is not None
    assert found.offer.source is Source.AUTOCONFIG


@pytest.mark.parametrize(
    "location",
    [
        "http://conf.hoster.example/acme.xml",
        "https://127.0.0.1:{port}/acme.xml",
        "https://[::1]:{port}/acme.xml",
        "https://2130706433:{port}/acme.xml",
        "https://localhost:{port}/acme.xml",
        "https://user@conf.hoster.example:{port}/acme.xml",
        "https://conf.hoster.example:1/acme.xml",
        "file:///etc/passwd",
        "gopher://conf.hoster.example:{port}/",
        "//conf.hoster.example:99999/",
        "",
    ],
)
async def test_a_redirect_elsewhere_is_not_followed(certificates: Certificates, location: str) -> None:
    async with world(certificates) as w:
        moved = page(b"", "302 Found", location=location.format(port=w.web.port))
        w.web.pages = {AUTOCONFIG: moved, ("conf.hoster.example", "/acme.xml"): page(DOCUMENT)}
        found = await w.finder(ANN)
        if location:
            assert not [request for request in w.web.requests if "acme.xml" in request]
    assert found.offer is None or found.offer.source is not Source.AUTOCONFIG


async def test_a_redirect_into_the_private_network_is_refused(certificates: Certificates) -> None:
    """By a name that looks public: what counts is where it leads when it is connected to."""
    async with world(certificates) as w:
        w.places["inside.evil.example"] = "10.0.0.8"
        w.web.pages = {AUTOCONFIG: page(b"", "302 Found", location=f"https://inside.evil.example:{w.web.port}/")}
        found = await w.finder(ANN)
    assert found.tried[1].outcome is Outcome.REFUSED


async def test_redirects_in_a_circle_end(certificates: Certificates) -> None:
    async with world(certificates) as w:
        w.web.pages = {AUTOCONFIG: page(b"", "301 Moved", location="?again")}
        found = await w.finder(ANN)
        asked = [request for request in w.web.requests if request.startswith("autoconfig.")]
    assert len(asked) == 4
    assert "more than 3 redirects" in found.tried[1].detail


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;">]>'
    b"<clientConfig><emailProvider><displayName>&lol2;</displayName></emailProvider></clientConfig>"
)
OUTSIDE = (
    b'<?xml version="1.0"?><!DOCTYPE c [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    b"<clientConfig><emailProvider><displayName>&x;</displayName></emailProvider></clientConfig>"
)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (BOMB, "document type"),
        (OUTSIDE, "document type"),
        (b"<clientConfig>" + b"<a>" * 1_000, "nested too deeply"),
        (b"<clientConfig><emailProvider>" + b'<incomingServer type="imap"/>' * 60, "too many servers"),
        (b"<clientConfig>" + b" " * MOST_BYTES, f"more than {MOST_BYTES} bytes"),
        (b"<html><body>Not found</body></html>", "no clientConfig"),
        (b"\x00\x01\x02", "not well formed"),
        (b"", "not well formed"),
        (b'<?xml version="1.0" encoding="utf-7"?><clientConfig/>', "not well formed"),
        (b"<clientConfig><emailProvider></emailProvider></clientConfig>", "names no IMAP server"),
    ],
)
async def test_documents_that_are_none(certificates: Certificates, body: bytes, why: str) -> None:
    async with world(certificates) as w:
        w.web.pages = {AUTOCONFIG: page(body)}
        found = await w.finder(ANN)
    assert why in found.tried[1].detail
    assert found.offer is None or found.offer.source is not Source.AUTOCONFIG


async def test_a_certificate_for_another_name_is_not_believed(certificates: Certificates, tmp_path: Path) -> None:
    other = make_certificates(tmp_path, names=["elsewhere.example"])
    async with world(Certificates(other.ca, other.certificate, other.key)) as w:
        w.web.pages = {AUTOCONFIG: page(DOCUMENT)}
        found = await w.finder(ANN)
        assert w.web.requests == []
    assert found.tried[1].outcome is Outcome.UNREACHABLE
    assert "certificate" in found.tried[1].detail.lower()


async def test_a_name_is_asked_for_once_and_connected_to_as_judged(certificates: Certificates) -> None:
    """Who answers differently every time (DNS rebinding) is asked one time; 127.0.0.1 stands for the public answer."""
    async with world(certificates) as w:
        answers = {"autoconfig.acme.example": iter(["127.0.0.1", "10.0.0.1"]), "acme.example": iter(["10.0.0.1"])}

        async def rebinding(host: str, _port: int) -> list[str]:
            w.resolved.append(host)
            return [next(answers[host])]

        pool = Pool(ssl.create_default_context(cafile=str(certificates.ca)), allow=HERE, resolver=rebinding)
        names = Dns(servers=["127.0.0.1"], port=w.dns.port)
        w.web.pages = {AUTOCONFIG: page(DOCUMENT)}
        found = await Finder(providers(), names, pool, allow=HERE, resolver=rebinding, port=w.web.port)(ANN)
        await pool.close()
        assert sorted(w.resolved) == ["acme.example", "autoconfig.acme.example"]
    assert [attempt.outcome for attempt in found.tried[1:3]] == [Outcome.FOUND, Outcome.REFUSED]


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ann",
        "@acme.example",
        "ann@",
        "ann@localhost",
        "ann@127.0.0.1",
        "ann@[127.0.0.1]",
        "ann@acme..example",
        "ann@-acme.example",
        "ann@acme.example\r\nBcc: x@y.example",
        "ann\n@acme.example",
        "ann b@acme.example",
        "ann@acme.example/../../etc",
        "ann@acme.example:993",
        "ann@acme.example?x=1",
        "ann@" + "a" * 64 + ".example",
        "ann@" + "a." * 130 + "example",
        "ann@\u202eelpmaxe.emca",
        "ann@acme.example#x",
    ],
)
async def test_what_is_no_address(certificates: Certificates, address: str) -> None:
    async with world(certificates) as w:
        with pytest.raises(NoAddressError):
            await w.finder(address)
        assert (w.dns.asked, w.web.requests, w.resolved) == ([], [], [])


async def test_letters_beyond_ascii_are_asked_for_as_dns_knows_them(certificates: Certificates) -> None:
    async with world(certificates) as w:
        w.places["autoconfig.xn--bcher-kva.example"] = "127.0.0.1"
        document = DOCUMENT.replace(b"acme.example", b"xn--bcher-kva.example")
        w.web.pages = {("autoconfig.xn--bcher-kva.example", "/mail/config-v1.1.xml"): page(document)}
        found = await w.finder("năm@bücher.example")
    assert found.domain == "xn--bcher-kva.example"
    assert found.hides_letters()
    assert found.offer is not None
    assert found.offer.imap is not None
    assert found.offer.imap.username == "năm"


async def test_a_domain_that_only_looks_like_a_known_one_is_not_it(certificates: Certificates) -> None:
    async with world(certificates) as w:
        found = await w.finder("ann@gm\u0430il.com")  # a Cyrillic letter
    assert found.domain == "xn--gmil-63d.com"
    assert found.offer is None or found.offer.provider_id is None
