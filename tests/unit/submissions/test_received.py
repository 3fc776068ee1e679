"""A whole message of a client: what must not leave is gone, what is missing is there, the rest is as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.clock import DAY
from mailgate.errors import PreconditionError
from mailgate.messages import parse
from mailgate.submissions.compose import Outgoing, Parent
from mailgate.submissions.received import receive

AT = 20_600 * DAY
RAW = (
    b"Received: from a\r\n\tby b\r\nFrom: Ann <ann@acme.example>\r\nTo: bob@other.example\r\n"
    b"Bcc: eve@other.example,\r\n dora@other.example\r\nbcc : x@other.example\r\nSubject: Hi\r\n"
    b"Message-ID: <7@acme.example>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\nBcc: this is text\r\n"
)


def got(raw: bytes, parent: Parent | None = None, most: int = 100) -> Outgoing:
    return receive(
        raw,
        default_sender="ann@acme.example",
        message_id="<new@acme.example>",
        at=AT,
        most_recipients=most,
        parent=parent,
    )


def test_bcc_goes_and_everything_else_stays() -> None:
    outgoing = got(RAW)
    assert outgoing.recipients == (
        "bob@other.example",
        "eve@other.example",
        "dora@other.example",
        "x@other.example",
    )
    assert outgoing.content == (
        b"Received: from a\r\n\tby b\r\nFrom: Ann <ann@acme.example>\r\nTo: bob@other.example\r\nSubject: Hi\r\n"
        b"Message-ID: <7@acme.example>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\nBcc: this is text\r\n"
    )
    assert (outgoing.message_id, outgoing.sender) == ("<7@acme.example>", "ann@acme.example")


def test_what_is_missing_is_added() -> None:
    outgoing = got(b"To: bob@other.example\nSubject: Hi\n\ntext\n", Parent("<p@x.example>", ("<q@x.example>",)))
    parsed = parse(outgoing.content)
    assert parsed.from_[0].address == "ann@acme.example"
    assert parsed.rfc_message_id == outgoing.message_id == "<new@acme.example>"
    assert parsed.date == AT
    assert parsed.in_reply_to == ("<p@x.example>",)
    assert parsed.references == ("<q@x.example>", "<p@x.example>")
    assert outgoing.content.endswith(b"\r\n\r\ntext\r\n")


def test_a_message_that_names_its_parent_is_believed() -> None:
    outgoing = got(b"In-Reply-To: <a@b.example>\r\n" + RAW, Parent("<p@x.example>"))
    assert parse(outgoing.content).in_reply_to == ("<a@b.example>",)


def test_an_empty_from_and_an_unreadable_id_are_replaced() -> None:
    outgoing = got(b"From: \r\nMessage-ID: \r\nTo: bob@other.example\r\n\r\nx")
    assert outgoing.message_id == "<new@acme.example>"
    assert outgoing.content.lower().count(b"message-id:") == 1
    assert outgoing.content.lower().count(b"from:") == 1


@pytest.mark.parametrize(
    ("raw", "slug"),
    [
        (b"", "no_recipients"),
        (b"no header\r\n\r\n", "message_invalid"),
        (b"To: bob@other.example\r\nno colon\r\n\r\n", "message_invalid"),
        (b"To: a@b.example\r\n\r\nx\0y", "message_invalid"),
        (b"To: a@b.example\r\nX: a\rBcc: b@c.example\r\n\r\n", "message_invalid"),
        (b"To: a@b.example\r\n\r\n" + b"x" * 1_000, "message_invalid"),
        (b"To: a@b.example\r\nTo: c@d.example\r\n\r\n", "message_invalid"),
        (b"From: a@b.example\r\nfrom: c@d.example\r\nTo: a@b.example\r\n\r\n", "message_invalid"),
        (b"Subject: x\r\n\r\n", "no_recipients"),
        (b"To: nobody\r\n\r\n", "address_invalid"),
        (b"To: a@b.example, c@d.example\r\n\r\n", "too_many_recipients"),
    ],
)
def test_what_is_no_mail_is_refused(raw: bytes, slug: str) -> None:
    with pytest.raises(PreconditionError) as found:
        got(raw, most=1)
    assert found.value.slug == slug


def test_what_is_not_ascii_is_carried_as_such() -> None:
    body = got(b"To: bob@other.example\r\n\r\n\xc3\xa4\r\n")
    assert (body.eight_bit, body.utf8) == (True, False)
    head = got("To: bob@other.example\r\nSubject: ä\r\n\r\n".encode())
    assert (head.eight_bit, head.utf8) == (True, True)
    ascii_ = got(b"To: bob@other.example\r\nSubject: a")
    assert (ascii_.eight_bit, ascii_.utf8) == (False, False)


@given(st.binary(max_size=400))
def test_whatever_comes_is_refused_or_leaves_without_bcc(noise: bytes) -> None:
    try:
        outgoing = got(b"To: bob@other.example\r\nBcc: secret@other.example\r\n" + noise)
    except PreconditionError:
        return
    head, _, _ = outgoing.content.partition(b"\r\n\r\n")
    assert b"secret@other.example" not in head.split(noise)[0] if noise else b"secret" not in head
    assert b"\n" not in outgoing.content.replace(b"\r\n", b"")
