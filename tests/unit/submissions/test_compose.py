"""Composition: what a parser reads is what was given, whatever it was; what leaves is ASCII in short lines."""

from __future__ import annotations

from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import default
from email.utils import getaddresses, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.clock import DAY
from mailgate.errors import PreconditionError
from mailgate.messages import parse
from mailgate.submissions import headers
from mailgate.submissions.addresses import Mailbox, check_address, check_name, check_text, envelope, needs_utf8
from mailgate.submissions.compose import File, Letter, Outgoing, Parent, compose, new_message_id
from tests.soak import examples

AT = 20_600 * DAY
ANN = Mailbox("Ann", "ann@acme.example")
BOB = Mailbox("", "bob@other.example")

no_controls = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=200)
lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=2_000)
plain_addresses = st.from_regex(r"[a-z0-9.+-]{0,20}[a-z]@[a-z]{1,20}\.example", fullmatch=True)
words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=60)


def made(letter: Letter, most: int = 100) -> Outgoing:
    return compose(letter, message_id="<1@acme.example>", at=AT, most_recipients=most)


def read(outgoing: Outgoing) -> EmailMessage:
    message = message_from_bytes(outgoing.content, policy=default)
    assert isinstance(message, EmailMessage)
    return message


def slug(error: pytest.ExceptionInfo[PreconditionError]) -> str:
    return error.value.slug


def one_line(text: str) -> str:
    return " ".join(text.split())


@given(no_controls, lines, lines, st.lists(st.tuples(words, st.binary(max_size=300)), max_size=3))
@examples(150)
def test_what_goes_in_comes_out(subject: str, text: str, html: str, files: list[tuple[str, bytes]]) -> None:
    given_files = tuple(File(name, "application/pdf", content) for name, content in files)
    outgoing = made(Letter(ANN, to=(BOB,), subject=subject, text=text, html=html, files=given_files))
    assert outgoing.content.isascii()
    assert all(len(line) <= 998 for line in outgoing.content.split(b"\r\n"))
    assert b"\n" not in outgoing.content.replace(b"\r\n", b"")
    parsed = parse(outgoing.content)
    assert one_line(parsed.subject) == one_line(subject)
    message = read(outgoing)
    assert not message.defects
    plain, marked = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert marked is not None
    assert plain.get_content().replace("\r\n", "\n").rstrip("\n") == text.rstrip("\n")
    assert marked.get_content().replace("\r\n", "\n").rstrip("\n") == html.rstrip("\n")
    attached = [(part.get_filename(), part.get_content()) for part in message.iter_attachments()]
    assert [content for _, content in attached] == [content for _, content in files]
    # the reader takes quotation marks and angle brackets off twice, the second time those of the name itself
    assert [one_line(name or "") for name, _ in attached] == [one_line(unquote(name)) for name, _ in files]


@given(st.lists(st.tuples(no_controls, plain_addresses), min_size=1, max_size=30))
@examples(100)
def test_names_and_addresses_come_out(pairs: list[tuple[str, str]]) -> None:
    pairs = [(one_line(name), address) for name, address in pairs if ".." not in address and address[0] != "."]
    if not pairs:
        return
    outgoing = made(Letter(ANN, to=tuple(Mailbox(name, address) for name, address in pairs)))
    assert all(len(line) <= 998 for line in outgoing.content.split(b"\r\n"))
    # As programs do that keep to RFC 2047 §6.2 in names: blanks between encoded words are none.
    found = getaddresses([str(message_from_bytes(outgoing.content)["To"])])
    assert [(one_line(str(make_header(decode_header(name)))), address) for name, address in found] == pairs
    assert [item.address for item in parse(outgoing.content).to] == [address for _, address in pairs]


@given(st.text(max_size=50))
@examples(300)
def test_no_text_makes_another_header(text: str) -> None:
    letter = Letter(ANN, to=(BOB,), subject=text)
    try:
        content = made(letter).content
    except PreconditionError:
        return
    assert not any(char in text for char in "\r\n\0")
    assert set(read_names(content)) <= KNOWN


KNOWN = {
    "date",
    "from",
    "to",
    "subject",
    "message-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
}


def read_names(content: bytes) -> list[str]:
    return [name.lower() for name in message_from_bytes(content, policy=default)]


@pytest.mark.parametrize("text", ["a\r\nBcc: eve@evil.example", "a\nX: y", "a\0b", "a\rb", "\u2028x", "x\x85y"])
def test_line_breaks_are_refused_everywhere(text: str) -> None:
    with pytest.raises(PreconditionError) as found:
        made(Letter(ANN, to=(BOB,), subject=text))
    assert slug(found) == "header_invalid"
    with pytest.raises(PreconditionError) as found:
        check_name(text, "to/0")
    assert slug(found) == "header_invalid"
    with pytest.raises(PreconditionError) as found:
        check_address(f"{text}@other.example", "to/0")
    assert slug(found) == "address_invalid"
    with pytest.raises(PreconditionError) as found:
        made(Letter(ANN, to=(BOB,), files=(File(text, "text/plain", b""),)))
    assert slug(found) == "header_invalid"
    with pytest.raises(PreconditionError) as found:
        made(Letter(ANN, to=(BOB,), files=(File("a", f"text/{text}", b""),)))
    assert slug(found) == "attachment_invalid"


@pytest.mark.parametrize("text", ["a\0b", "half \ud800"])
def test_texts_that_nobody_can_send_are_refused(text: str) -> None:
    for letter in (Letter(ANN, to=(BOB,), text=text), Letter(ANN, to=(BOB,), html=text)):
        with pytest.raises(PreconditionError) as found:
            made(letter)
        assert slug(found) == "text_invalid"


def test_a_letter_without_files_is_as_plain_as_can_be() -> None:
    outgoing = made(Letter(ANN, to=(BOB,), subject="Offer", text="Dear Bob,\r\nbye\r\n"))
    assert outgoing.content == (
        b"Date: Tue, 27 May 2026 00:00:00 +0000\r\nFrom: Ann <ann@acme.example>\r\nTo: bob@other.example\r\n"
        b"Subject: Offer\r\nMessage-ID: <1@acme.example>\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: 7bit\r\n\r\nDear Bob,\r\nbye\r\n'
    ).replace(b"Tue, 27 May", message_from_bytes(outgoing.content)["Date"][:11].encode())
    assert not outgoing.utf8
    assert not outgoing.eight_bit


def test_html_alone_is_no_alternative() -> None:
    assert read(made(Letter(ANN, to=(BOB,), html="<p>x</p>"))).get_content_type() == "text/html"
    assert read(made(Letter(ANN, to=(BOB,)))).get_content_type() == "text/plain"


def test_hidden_recipients_are_in_the_envelope_only() -> None:
    outgoing = made(Letter(ANN, bcc=(BOB, Mailbox("Eve", "eve@other.example")), text="x"))
    assert outgoing.recipients == ("bob@other.example", "eve@other.example")
    assert b"bob" not in outgoing.content
    assert b"ve@" not in outgoing.content
    assert b"To: undisclosed-recipients:;" in outgoing.content


def test_an_answer_carries_the_whole_thread_however_long_its_ids() -> None:
    ids = tuple(f"<{'x' * 150}.{n}@outlook.example>" for n in range(60))
    parent = Parent(f"<{'y' * 200}@outlook.example>", ids)
    outgoing = made(Letter(ANN, to=(BOB,), parent=parent))
    parsed = parse(outgoing.content)
    assert parsed.in_reply_to == (parent.message_id,)
    assert parsed.references[0] == ids[0]
    assert parsed.references[-1] == parent.message_id
    assert len(parsed.references) == 50
    assert parse(made(Letter(ANN, to=(BOB,), parent=Parent(None))).content).references == ()
    assert parse(made(Letter(ANN, to=(BOB,), parent=Parent("no id", ("<a b>",)))).content).in_reply_to == ()


def test_a_message_as_a_file_is_a_file() -> None:
    outgoing = made(Letter(ANN, to=(BOB,), files=(File("a.eml", "message/rfc822", b"Subject: \xff\r\n\r\nx"),)))
    (part,) = read(outgoing).iter_attachments()
    assert (part.get_content_type(), part.get_content()) == ("application/octet-stream", b"Subject: \xff\r\n\r\nx")
    with pytest.raises(PreconditionError) as found:
        made(Letter(ANN, to=(BOB,), files=(File("a", "multipart/mixed", b""),)))
    assert slug(found) == "attachment_invalid"


def test_domains_of_any_script_are_written_in_ascii() -> None:
    assert check_address("ann@bücher.example", "to") == "ann@xn--bcher-kva.example"
    assert check_address("ann@EXAMPLE.com", "to") == "ann@example.com"
    assert check_address("ann@[192.0.2.1]", "to") == "ann@[192.0.2.1]"
    assert check_address("ann@[IPv6:2001:db8::1]", "to") == "ann@[IPv6:2001:db8::1]"
    utf8 = check_address("jürgen@bücher.example", "to")
    assert utf8 == "jürgen@xn--bcher-kva.example"
    outgoing = made(Letter(ANN, to=(Mailbox("Jürgen", utf8),)))
    assert outgoing.utf8
    assert outgoing.eight_bit
    assert parse(outgoing.content).to[0].address == utf8
    assert needs_utf8([utf8])


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ann",
        "@acme.example",
        "ann@",
        "a b@acme.example",
        '"ann x"@acme.example',
        "ann..b@acme.example",
        ".ann@acme.example",
        "ann@-.example",
        "ann@[nowhere]",
        "ann@exa mple.com",
        "ann(comment)@acme.example",
        "a" * 65 + "@acme.example",
        "a@" + ".".join(["b" * 60] * 5),
        "a" * 60 + "@" + ".".join(["b" * 50] * 4),
        "ann@b<c>.example",
    ],
)
def test_addresses_that_nobody_has_are_refused(address: str) -> None:
    with pytest.raises(PreconditionError) as found:
        check_address(address, "to/0")
    assert slug(found) == "address_invalid"
    assert found.value.detail.startswith("to/0: ")


def test_everybody_gets_it_once_and_not_too_many() -> None:
    twice = (BOB, Mailbox("Bob", "bob@OTHER.example"), Mailbox("", "BOB@other.example"))
    assert envelope(twice, 2) == ("bob@other.example", "BOB@other.example")
    with pytest.raises(PreconditionError) as found:
        envelope(twice, 1)
    assert slug(found) == "too_many_recipients"
    with pytest.raises(PreconditionError) as found:
        envelope((), 1)
    assert slug(found) == "no_recipients"
    with pytest.raises(PreconditionError):
        check_text("x" * 11, "subject", 10)
    assert check_name("  Ann   Lee ", "to") == "Ann Lee"


def test_those_in_cc_are_named() -> None:
    outgoing = made(Letter(ANN, cc=(BOB,)))
    assert b"Cc: bob@other.example" in outgoing.content
    assert b"undisclosed" not in outgoing.content


def test_message_ids_tell_nothing_of_this_machine() -> None:
    assert new_message_id("t", "ann@acme.example") == "<t@acme.example>"
    assert new_message_id("t", "ann@[IPv6:2001:db8::1]") == "<t@IPv6-2001-db8--1>"
    assert new_message_id("t", "ann@") == "<t@localhost>"


def test_long_words_are_encoded_and_lines_folded() -> None:
    assert headers.unstructured("Subject", "x" * 300).isascii()
    assert max(map(len, headers.unstructured("Subject", "x" * 300).split(b"\r\n"))) <= 78
    assert headers.unstructured("Subject", "=?utf-8?q?x?=").count(b"=?") > 1 or b"=3F" in headers.unstructured(
        "Subject", "=?utf-8?q?x?="
    )
    assert headers.unstructured("Subject", "") == b"Subject: \r\n"
    folded = headers.mailboxes("To", [Mailbox("", f"somebody.{n}@other.example") for n in range(9)])
    assert all(len(line) <= 78 for line in folded.split(b"\r\n"))
    assert (
        headers.mailboxes("To", [Mailbox('a "q" \\ b', "a@b.example")]) == b'To: "a \\"q\\" \\\\ b" <a@b.example>\r\n'
    )
