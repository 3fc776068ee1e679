"""The list of providers: whole, without contradictions, each fact with its source."""

from __future__ import annotations

import tomllib
from importlib import resources

import pytest

from connectors.autoconfig.model import Need, Source, ascii_domain, host_name
from connectors.autoconfig.providers import Provider, providers

ALL = providers().all


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.id)
def test_each_is_whole(provider: Provider) -> None:
    assert provider.source.startswith("https://")
    assert provider.help is None or provider.help.startswith("https://")
    assert provider.domains or provider.mx
    assert provider.name
    for domain in (*provider.domains, *provider.mx):
        assert ascii_domain(domain) == domain
    for place in (provider.imap, provider.smtp):
        if Need.NO_IMAP in provider.needs:
            assert place is None
            continue
        assert place is not None
        host, port, security = place
        assert host in ("{mx}", "127.0.0.1") or host_name(host) == host
        assert (host == "127.0.0.1") == (Need.BRIDGE in provider.needs)
        usual = {993: "tls", 465: "tls", 143: "starttls", 587: "starttls", 1143: "starttls", 1025: "starttls"}
        assert usual[port] == security.value


def test_no_domain_belongs_to_two() -> None:
    for names in ([d for p in ALL for d in p.domains], [s for p in ALL for s in p.mx]):
        assert len(names) == len(set(names))


def test_nothing_in_the_file_is_overlooked() -> None:
    text = resources.files("connectors.autoconfig").joinpath("providers.toml").read_text(encoding="utf-8")
    known = {
        *("name", "domains", "mx", "imap", "smtp", "login", "imap_login", "smtp_login", "needs", "oauth", "help"),
        *("source", "ispdb", "unsure"),
    }
    assert {key for values in tomllib.loads(text).values() for key in values} <= known


@pytest.mark.parametrize(
    ("mx", "expected"),
    [
        ("aspmx.l.google.com", "gmail"),
        ("ASPMX2.GOOGLEMAIL.COM.", "gmail"),
        ("x.mail.protection.outlook.com", "microsoft365"),
        ("acme-com.g-v1.mx.microsoft", "microsoft365"),
        ("eur.olc.protection.outlook.com", "outlook"),
        ("mta5.am0.yahoodns.net", "yahoo"),
        ("mx-aol.mail.gm0.yahoodns.net", "aol"),
        ("mx.pec.aruba.it", "aruba_pec"),
        ("mx.aruba.it", "aruba"),
        ("notgoogle.com", None),
        ("google.com.evil.example", None),
        ("com", None),
    ],
)
def test_the_longest_known_end_of_a_mail_host_counts(mx: str, expected: str | None) -> None:
    found = providers().of_mx(mx)
    assert (None if found is None else found.id) == expected


def test_user_names_are_as_the_provider_wants_them() -> None:
    icloud = providers().of_domain("icloud.com")
    free = providers().of_domain("free.fr")
    assert icloud is not None
    assert free is not None
    offered = icloud.offer("ann@icloud.com", Source.BUILT_IN)
    assert offered.imap is not None
    assert offered.smtp is not None
    assert (offered.imap.username, offered.smtp.username) == ("ann", "ann@icloud.com")
    offered = free.offer("ann@free.fr", Source.BUILT_IN)
    assert offered.imap is not None
    assert offered.imap.username == "ann"
