"""Where the header ends, and that its identity survives what servers do to line ends."""

from __future__ import annotations

import base64

import pytest

from mailgate.messages import Limits, header_block, header_digest_input, parse_summary
from mailgate.messages.headers import parse_date
from tests.corpus import NASTY


@pytest.mark.parametrize(
    ("raw", "block"),
    [
        (b"A: b\r\n\r\nbody\r\n\r\n", b"A: b\r\n\r\n"),
        (b"A: b\n\nbody\r\n\r\n", b"A: b\n\n"),
        (b"A: b\n\r\nbody", b"A: b\n\r\n"),
        (b"A: b\r\nC: d\r\n", b"A: b\r\nC: d\r\n"),
        (b"\r\nbody: x\r\n\r\n", b"\r\n"),
        (b"\nbody", b"\n"),
        (b"", b""),
        (b"A: b\r\n\r\n", b"A: b\r\n\r\n"),
    ],
)
def test_header_block(raw: bytes, block: bytes) -> None:
    assert header_block(raw) == block
    assert header_block(memoryview(raw)) == block
    assert header_block(bytearray(raw)) == block


@pytest.mark.parametrize("name", NASTY)
def test_the_identity_is_the_same_for_the_message_and_its_fetched_header(name: str) -> None:
    raw = NASTY[name]
    identity = header_digest_input(raw)
    assert header_digest_input(header_block(raw)) == identity
    assert header_digest_input(memoryview(raw)) == identity
    assert b"\r\n" not in identity
    as_lf = raw.replace(b"\r\n", b"\n")
    if b"\r" not in as_lf:  # a server that keeps LF and one that sends CRLF
        assert header_digest_input(as_lf) == header_digest_input(as_lf.replace(b"\n", b"\r\n")) == identity


def test_messages_differ_by_their_headers_only() -> None:
    assert header_digest_input(b"A: b\r\n\r\none") == header_digest_input(b"A: b\r\n\r\ntwo")
    assert header_digest_input(b"A: b\r\n\r\none") != header_digest_input(b"A: c\r\n\r\none")


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("Thu, 1 Jan 1970 00:00:00 +0000", 0),
        ("1 Jan 70 00:00 GMT", 0),
        ("Thu, 01 Jan 1970 01:00:00 +0100 (CET)", 0),
        ("Wed, 31 Dec 1969 19:00:00 EST", 0),
        ("31 Dec 1969 23:59:59 -0000", -1_000_000),
        ("2026-11-02T10:00:00Z", None),
        ("", None),
        ("\0\0", None),
        ("x" * 100_000, None),
        ("Mon, 99 Foo 2026 10:00:00 +0000", None),
        ("1 Jan 10000 00:00:00 +0000", None),
    ],
)
def test_dates(text: str, at: int | None) -> None:
    assert parse_date(text) == at


def test_limits_are_kept() -> None:
    limits = Limits(subject=5, name=4, addresses=2, references=2, parts=1, snippet=10, address=12)
    raw = (
        b"Subject: 1234567890\r\nFrom: Abcdefgh <a@b.example>\r\nTo: a@b, c@d, e@f\r\nReferences: <1@x> <2@x> <3@x>\r\n"
        b"Content-Type: multipart/mixed; boundary=q\r\n\r\n--q\r\n\r\nsome words of it\r\n--q\r\n\r\nmore\r\n--q--\r\n"
    )
    summary = parse_summary(raw, limits=limits)
    assert summary.subject == "12345"
    assert summary.from_[0] == ("Abcd", "a@b.example")
    assert [item.address for item in summary.to] == ["a@b", "c@d"]
    assert summary.references == ("<1@x>", "<3@x>")
    assert len(summary.parts) == 1
    assert len(summary.snippet) <= 10
    assert "too_many_parts" in summary.defects


def test_the_beginning_of_a_huge_message_tells_about_the_whole() -> None:
    content = bytes(range(256)) * 4_000
    encoded = base64.encodebytes(content).replace(b"\n", b"\r\n")
    raw = (
        b"Subject: huge\r\nContent-Type: multipart/mixed; boundary=q\r\n\r\n--q\r\n\r\nsee the file\r\n--q\r\n"
        b"Content-Type: video/mp4; name=a.mp4\r\nContent-Transfer-Encoding: base64\r\n\r\n" + encoded + b"--q--\r\n"
    )
    for cut in (50_000, 50_001, 50_002, 50_003, 50_077):
        summary = parse_summary(raw[:cut], whole_size=len(raw))
        assert (summary.subject, summary.snippet, summary.has_files) == ("huge", "see the file", True)
        assert summary.defects == ("not_parsed_whole",)
        assert summary.parts[1].filename == "a.mp4"
        assert summary.parts[1].size == pytest.approx(len(content), rel=0.001)
    assert parse_summary(raw, whole_size=len(raw)) == parse_summary(raw)
    assert parse_summary(raw).parts[1].size == len(content)
    assert parse_summary(b"", whole_size=10).parts[0].size == 10
