"""Delivery reports as servers write them, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.messages import header_block, parse_summary
from mailgate.messages.likeness import sent_likeness
from mailgate.messages.returned import Returned, Undelivered, read_report

HEAD = b'Subject: x\r\nContent-Type: multipart/report;\r\n boundary="b"\r\n\r\n'
STATUS = b"--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\n"
END = b"--b--\r\n"


def read(raw: bytes) -> Returned | None:
    return read_report(raw, header_block(raw))


def recipient(**fields: str) -> bytes:
    lines = {"Final-Recipient": "rfc822; a@b.example", "Action": "failed", "Status": "5.1.1", **fields}
    return (
        "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items() if value).encode() + b"\r\n"
    )


WHOLE = b"--b\r\nContent-Type: message/rfc822\r\n\r\nMessage-ID: <1@x.example>\r\n\r\nbody\r\n"


def test_a_report_with_the_whole_message() -> None:
    found = read(HEAD + STATUS + recipient(Diagnostic_Code="smtp; 550 5.1.1  nobody\r\n here") + WHOLE + END)
    assert found == Returned(("<1@x.example>",), (Undelivered("a@b.example", "5.1.1", "550 5.1.1 nobody here"),))


def test_a_report_with_headers_in_base64_and_its_own_id() -> None:
    headers = (
        b"--b\r\nContent-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        b"TWVzc2FnZS1JRDogPDJAeC5leGFtcGxlPg0K\r\n"
    )
    status = STATUS.replace(b"Content-Type", b"Original-Message-ID: <1@x.example>\r\nContent-Type")
    found = read(HEAD + status + recipient(Original_Recipient="rfc822;<C@D.example>") + headers + END)
    assert found is not None
    assert found.message_ids == ("<1@x.example>", "<2@x.example>")
    assert [item.address for item in found.recipients] == ["c@d.example", "a@b.example"]


@pytest.mark.parametrize("name", ["bj\u00f6rn@d.example", "bj\\x{F6}rn@d.example"])
def test_a_report_about_an_address_of_any_script(name: str) -> None:
    status = STATUS.replace(b"message/delivery-status", b"message/global-delivery-status")
    whole = WHOLE.replace(b"message/rfc822", b"message/global-headers")
    found = read(HEAD + status + recipient(**{"Final-Recipient": f"utf-8; {name}"}) + whole + END)
    assert found == Returned(("<1@x.example>",), (Undelivered("bj\u00f6rn@d.example", "5.1.1", ""),))


@pytest.mark.parametrize(
    "raw",
    [
        b"Subject: x\r\n\r\n" + STATUS + recipient() + WHOLE,
        HEAD + STATUS + recipient(Action="delayed") + WHOLE + END,
        HEAD + STATUS + recipient(Action="relayed") + WHOLE + END,
        HEAD + STATUS + recipient(**{"Final-Recipient": ""}) + WHOLE + END,
        HEAD + STATUS + recipient() + END,
        HEAD + WHOLE + END,
        HEAD + b"--b\r\nContent-Type: message/delivery-status\r\nContent-Transfer-Encoding: base64\r\n\r\n!\r\n" + END,
        HEAD,
    ],
)
def test_what_reports_no_failure(raw: bytes) -> None:
    found = read(raw)
    assert found is None or not found.recipients


def test_a_status_that_is_none_is_a_failure_all_the_same() -> None:
    found = read(HEAD + STATUS + recipient(Status="bad") + WHOLE + END)
    assert found is not None
    assert found.recipients[0].status == "5.0.0"


@given(st.binary(max_size=300), st.binary(max_size=100))
def test_nothing_breaks_it(body: bytes, head: bytes) -> None:
    read(HEAD + STATUS + body + WHOLE + END)
    read(head + HEAD + body)


def test_likeness_hangs_on_recipients_subject_and_files_only() -> None:
    one = b"To: A@b.example, c@d.example\r\nSubject: Hi  there\r\nMessage-ID: <1@x>\r\n\r\ntext\r\n"
    two = b"To: c@d.example\r\nCc: a@B.example\r\nSubject: Hi\r\n there\r\nX: y\r\n\r\nother text\r\n"
    other = b"To: a@b.example\r\nSubject: Hi there\r\n\r\ntext\r\n"
    likeness = [sent_likeness(parse_summary(raw)) for raw in (one, two, other)]
    assert likeness[0] == likeness[1] != likeness[2]
