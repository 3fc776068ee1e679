"""Mozilla's document, read by itself: what is taken of it, and what is not."""

from __future__ import annotations

import pytest

from connectors.autoconfig.document import MOST_BYTES, DocumentError, parse
from connectors.autoconfig.model import NoAddressError, ascii_domain
from connectors.model import Security

ANN = "ann@acme.example"


def document(server: str, kind: str = "incomingServer", type_: str = "imap") -> bytes:
    return (
        (
            "<clientConfig><emailProvider><displayName> Acme\u0007 Mail </displayName>"
            f'<{kind} type="{type_}">{server}</{kind}></emailProvider></clientConfig>'
        )
        .encode()
        .replace(b"\x07", b"")
    )


GOOD = "<hostname>imap.acme.example</hostname><port>993</port><socketType>SSL</socketType>"


def test_without_a_user_name_it_is_the_address() -> None:
    said = parse(document(GOOD), ANN)
    assert said.imap is not None
    assert (said.imap.username, said.imap.security, said.name, said.only_oauth) == (
        ANN,
        Security.TLS,
        "Acme Mail",
        False,
    )
    assert said.smtp is None


def test_a_server_that_takes_tokens_only_is_told_so() -> None:
    assert parse(document(GOOD + "<authentication>OAuth2</authentication>"), ANN).only_oauth
    both = "<authentication>OAuth2</authentication><authentication>password-cleartext</authentication>"
    assert not parse(document(GOOD + both), ANN).only_oauth


@pytest.mark.parametrize(
    "server",
    [
        GOOD.replace("993", "0"),
        GOOD.replace("993", "65536"),
        GOOD.replace("993", "99999999"),
        GOOD.replace("993", "-1"),
        GOOD.replace("993", "\u0661\u0662"),
        GOOD.replace("SSL", "plain"),
        GOOD.replace("imap.acme.example", "127.0.0.1"),
        GOOD.replace("imap.acme.example", "localhost"),
        GOOD.replace("imap.acme.example", "imap.acme.example/x"),
        GOOD.replace("imap.acme.example", "imap.acme.example:25"),
        GOOD.replace("imap.acme.example", "a b.example"),
        GOOD + "<username>" + "x" * 400 + "</username>",
        GOOD + "<username>a&#9;b</username>",
        GOOD + "<authentication>client-IP-address</authentication>",
        GOOD.replace("<hostname>", "<name>").replace("</hostname>", "</name>"),
        "",
    ],
)
def test_servers_that_are_not_taken(server: str) -> None:
    assert parse(document(server), ANN).imap is None


def test_servers_elsewhere_in_the_document_are_none() -> None:
    inside = document(GOOD).replace(b"emailProvider", b"webMail")
    assert parse(inside, ANN).imap is None
    nested = document(f"<outer>{GOOD}</outer>")
    assert parse(nested, ANN).imap is None


def test_long_texts_are_cut_not_kept() -> None:
    said = parse(document(GOOD).replace(b"Acme", b"A" * 60_000), ANN)
    assert said.name == "A" * 100


def test_what_is_too_large_is_not_read() -> None:
    with pytest.raises(DocumentError, match="more than"):
        parse(b" " * (MOST_BYTES + 1), ANN)


@pytest.mark.parametrize(
    "domain", ["a\u200db.example", "\u2488com.example", "xn--\u00fc.example", "ex\u3002ample\uff0e.x"]
)
def test_domains_in_odd_letters_are_ascii_or_refused(domain: str) -> None:
    try:
        found = ascii_domain(domain)
    except NoAddressError:
        return
    assert found.isascii()
