"""What is made of each nasty message. Every one of them must parse; the table says what the odd ones mean."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from mailgate.errors import NotFoundError
from mailgate.messages import (
    Address,
    ParsedMessage,
    Summary,
    decode_summary,
    encode_summary,
    message_terms,
    parse,
    parse_summary,
    part_content,
    structure,
    thread_links,
)
from mailgate.reading import trial
from mailgate.reading.html import safe_html
from tests.corpus import NASTY

SUBJECTS = {
    "header line without colon": "after it",
    "space before colon": "spaced",
    "empty field names": "still here",
    "folded subject": "one two three",
    "folded with blank continuation": "one two",
    "subject twice": "first",
    "huge header": "behind a huge one",
    "nul in header": "ab",
    "control characters in header": "a [31mred",
    "raw UTF-8 header": "Grüße aus Köln",
    "raw latin-1 header": "Grüße aus Köln",
    "raw koi8 header": "Привет",
    "raw shift_jis header": "日本語",
    "encoded words": "Grüße aus Köln and München",
    "character cut by two words": "Grüße",
    "encoded word unknown charset": "Grüße",
    "encoded word wrong charset": "GrüßeGrüße",
    "encoded word broken base64": "Grüß",
    "encoded word broken quoted": "a=ZZbÃ =?utf-8?q?unclosed",
    "encoded word with blanks": "has blanks in it",
    "encoded word with language": "Grüße",
    "encoded word hides a header": "a Bcc: evil@example.org",
    "encoded word utf-7": "Grüße",
    "encoded word iso-2022-jp": "日本語",
    "encoded word gb2312": "你好",
    "mbox From line": "hello",
    "bare CR": "hello",
    "CRCRLF": "hello",
    "header starts with a space": "hello",
    "ten thousand received": "hello",
    "header without end": "",
    "no headers of its own": "",
}

SENDERS = {
    "encoded word in quotes": [("Jörg Example", "joerg@example.org")],
    "raw UTF-8 header": [("Jörg", "joerg@example.org")],
    "raw latin-1 header": [("Jörg", "joerg@example.org")],
    "subject twice": [("", "a@example.org")],
    "nul in header": [("Anna", "a@example.org")],
    "unquoted comma": [("Example, Anna", "anna@example.org")],
    "unclosed quote": [("Anna", "anna@example.org")],
    "unclosed angle": [("Anna", "anna@example.org")],
    "comments": [("Anna the Example", "anna@example.org")],
    "address without domain": [("root", "")],
    "address twice": [("anna@example.org", "anna@example.org")],
    "address literal": [("", "anna@[192.0.2.1]")],
    "quoted local part": [("", '"anna bell"@example.org')],
    "international address": [("Ñandú", "ñandú@exämple.org")],
    "undisclosed": [],
    "no addresses": [],
    "header without end": [("", "a@example.org")],
}

RECIPIENTS = {
    "to twice": [("", "a@example.org"), ("", "b@example.org"), ("", "c@example.org")],
    "group": [("", "anna@example.org"), ("Bert", "bert@example.com")],
    "undisclosed": [],
    "unquoted comma": [("Doe, John", "j@example.com"), ("", "k@example.com")],
    "unclosed quote": [("a", "a@example.com"), ("b", "b@example.com")],
    "unclosed angle": [("", "a@example.com"), ("", "b@example.com")],
    "address twice": [("bert@example.com", "bert@example.com")],
    "no commas": [("", "a@example.org"), ("", "b@example.org"), ("", "c@example.org")],
    "address literal": [("", "bert@[IPv6:2001:db8::1]"), ("", "c@example.org")],
    "quoted local part": [("very.(),:;<>[]", "a@example.org")],
    "international address": [("", "用户@例子.广告")],
    "address without domain": [("MAILER-DAEMON", "")],
}

TEXTS = {
    "bare LF": "Grüße\n",
    "bare CR": "hello\n",
    "CRCRLF": "hello\n",
    "body only": "This is no header: but text.\n",
    "text that is no mail": "hello world, nobody wrote a header here\nsecond line\n",
    "no newline at the end": "last line",
    "body unknown charset": "Grüße\n",
    "body no charset": "Grüße\n",
    "body no content type": "Grüße\n",
    "body wrong charset": "Grüße\n",
    "body says ascii": "Grüße\n",
    "body cp-850": "Grüße\n",
    "body utf-7": "Grüße\n",
    "body iso-8859-8-i": "שלום\n",
    "body ks_c_5601-1987": "안녕하세요 똠\n",
    "body iso-2022-jp": "日本語\n",
    "body gb2312 with gbk": "你好镕\n",
    "body big5": "您好\n",
    "body utf-16": "Grüße\n",
    "body with nul": "abc\n",
    "body charset in quotes": "Grüße\n",
    "body charset hostile": "body\n",
    "body charset long": "body\n",
    "broken base64": "Hello world",
    "base64 with text behind": "Hello world",
    "base64 without padding": "Hello",
    "broken quoted-printable": "a=ZZb cüend",
    "unknown transfer encoding": "body\n",
    "format flowed": "This is one paragraph.\n> quoted too\n\n-- \nAnna\n",
    "format flowed delsp": "日本語\n",
    "html only": "Grüße",
    "alternative": "Grüße\n",
    "alternative html first": "Grüße\n",
    "alternative with empty plain": "Grüße fett",
    "text file text": "Grüße\n\n-- \nlist footer\n",
    "text marked as file": "hello",
    "multipart without boundary": "--edge\n\nhello\n--edge--\n",
    "multipart never closed": "Grüße\n",
    "content type twice": "hi",
    "nested 40": "deep\n",
    "looks like IMAP": "* 1 FETCH (UID 1 BODY[] {5}\n)\nA1 OK done\n* BYE\n{100000}\n+ idling\n",
    "dots alone": ".\n..\n.\n",
    "bounce": "Your message could not be delivered.",
    "only a file": "",
}

SNIPPETS = {
    "reply with quotes": "Yes, Tuesday works.",
    "only quotes": "Does Tuesday work? Bert",
    "only a signature": "-- Anna",
    "format flowed": "This is one paragraph.",
    "html only": "Grüße",
    "html script": "hi x",
    "alternative with empty plain": "Grüße fett",
}

# part_id, file name, content type, size, inline
PARTS: dict[str, list[tuple[Any, ...]]] = {
    "broken base64 in a part": [
        ("1", None, "text/plain", 9, True),
        ("2", "a.pdf", "application/pdf", 9, False),
        ("3", None, "application/zip", 3, False),
    ],
    "empty": [("1", None, "text/plain", 0, True)],
    "mixed with file": [("1", None, "text/plain", 9, True), ("2", "offer.pdf", "application/pdf", 19, False)],
    "related with inline image": [("1", None, "text/html", 32, True), ("2", None, "image/png", 70, True)],
    "inline pdf of apple mail": [("1", None, "text/plain", 9, True), ("2", "a.pdf", "application/pdf", 4, True)],
    "text as file": [("1", None, "text/plain", 9, True), ("2", "notes.txt", "text/plain", 5, False)],
    "winmail.dat": [("1", None, "text/plain", 9, True), ("2", "winmail.dat", "application/ms-tnef", 4, False)],
    "forwarded message": [("1", None, "text/plain", 9, True), ("2", None, "message/rfc822", 489, False)],
    "boundary prefix of another": [
        ("1.1", None, "text/plain", 9, True),
        ("1.2", None, "text/html", 28, True),
        ("2", "offer.pdf", "application/pdf", 19, False),
    ],
    "only a file": [("1", "a.pdf", "application/pdf", 4, False)],
    "file name RFC 2231": [("1", "über uns.pdf", "application/pdf", 1, False)],
    "file name continued": [("1", "привет.pdf", "application/pdf", 1, False)],
    "file name encoded word": [("1", "über.pdf", "application/pdf", 1, False)],
    "file name raw 8-bit": [("1", "über.pdf", "application/pdf", 1, False)],
    "file name with path": [("1", "passwd.pdf", "application/pdf", 1, False)],
    "file name right to left": [("1", "afdp.exe", "application/pdf", 1, False)],
    "file name long": [("1", "n" * 251 + ".pdf", "application/pdf", 1, False)],
    "file name empty": [("1", None, "application/pdf", 1, False)],
}

WITHOUT_FILES = ["signed", "related with inline image", "text marked as file", "alternative", "bounce", "html tracker"]
WITH_FILES = [
    "mixed with file",
    "inline pdf of apple mail",
    "text as file",
    "winmail.dat",
    "only a file",
    "forwarded message",
    "digest",
]

DATES = {
    "bare LF": 1_793_610_000_000_000,
    "date with comment": 1_793_610_000_000_000,
    "date without zone": 1_793_613_600_000_000,
    "date two digit year": 909_997_200_000_000,
    "nonsense date": None,
    "date overflow": None,
    "no date": None,
}

DEFECTS = {
    "bare CR": "bare_cr",
    "CRCRLF": "doubled_cr",
    "subject twice": "header_repeated",
    "raw latin-1 header": "header_8bit",
    "nonsense date": "date_unreadable",
    "body wrong charset": "charset",
    "broken base64": "structure_repaired",
    "header starts with a space": "structure_repaired",
    "multipart without boundary": "multipart_without_parts",
    "nested 300": "nested_too_deep",
    "nested 3000": "structure_unreadable",
    "five thousand parts": "too_many_parts",
}


def texts_of(message: Summary) -> list[str]:
    found = [message.subject, message.snippet, *message.defects, *message.references, *message.in_reply_to]
    for addresses in (message.from_, message.sender, message.reply_to, message.to, message.cc, message.bcc):
        found += [text for item in addresses for text in item]
    for part in message.parts:
        found += [text for text in part if isinstance(text, str)]
    if isinstance(message, ParsedMessage):
        found += [message.text, message.html]
    return found


@pytest.mark.parametrize("name", NASTY)
def test_each_parses_into_clean_bounded_text(name: str) -> None:
    raw = NASTY[name]
    message = parse(raw)
    safe_html(message.html)
    message_terms(message)
    thread_links(message)
    for text in texts_of(message):
        assert "\0" not in text
        text.encode()  # no lone surrogates
    assert len(message.subject) <= 1_000
    assert len(message.snippet) <= 200
    assert len(message.parts) <= 1_000
    assert len(message.to) <= 1_000
    assert len(message.references) <= 100
    assert len(encode_summary(message)) < 200_000


@pytest.mark.parametrize("name", NASTY)
def test_each_summary_agrees_with_the_whole_and_survives_encoding(name: str) -> None:
    raw = NASTY[name]
    summary, message = parse_summary(memoryview(raw)), parse(raw)
    for field in Summary.__dataclass_fields__:
        if field != "defects":  # only reading the bodies shows a wrong charset
            assert getattr(summary, field) == getattr(message, field), field
    assert set(summary.defects) <= set(message.defects)
    assert decode_summary(encode_summary(message)) == decode_summary(encode_summary(message))
    assert decode_summary(encode_summary(summary)) == summary
    assert parse_summary(raw) == summary


@pytest.mark.parametrize("name", NASTY)
def test_each_part_can_be_fetched(name: str) -> None:
    raw = NASTY[name]
    for part in parse_summary(raw).parts[:20]:
        found, content = part_content(raw, part.part_id)
        assert found == part
        assert len(content) == part.size
    for missing in ("", "0", "99999", "1.1.1.1.1.1.9", "x", "../1"):
        with pytest.raises(NotFoundError):
            part_content(raw, missing)


@pytest.mark.parametrize("name", SUBJECTS)
def test_subject(name: str) -> None:
    assert parse_summary(NASTY[name]).subject == SUBJECTS[name]


@pytest.mark.parametrize("name", SENDERS)
def test_sender(name: str) -> None:
    assert parse_summary(NASTY[name]).from_ == tuple(Address(*item) for item in SENDERS[name])


@pytest.mark.parametrize("name", RECIPIENTS)
def test_recipients(name: str) -> None:
    assert parse_summary(NASTY[name]).to == tuple(Address(*item) for item in RECIPIENTS[name])


@pytest.mark.parametrize("name", TEXTS)
def test_text(name: str) -> None:
    assert parse(NASTY[name]).text == TEXTS[name]


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet(name: str) -> None:
    assert parse_summary(NASTY[name]).snippet == SNIPPETS[name]


@pytest.mark.parametrize("name", PARTS)
def test_parts(name: str) -> None:
    assert [tuple(part)[:5] for part in parse_summary(NASTY[name]).parts] == PARTS[name]


@pytest.mark.parametrize("name", WITH_FILES + WITHOUT_FILES)
def test_files(name: str) -> None:
    assert parse_summary(NASTY[name]).has_files == (name in WITH_FILES)


@pytest.mark.parametrize("name", DATES)
def test_date(name: str) -> None:
    assert parse_summary(NASTY[name]).date == DATES[name]


@pytest.mark.parametrize("name", DEFECTS)
def test_defect(name: str) -> None:
    assert DEFECTS[name] in parse(NASTY[name]).defects


@pytest.mark.parametrize("name", ["bare LF", "alternative", "mixed with file", "format flowed", "group", "signed"])
def test_sound_mail_has_no_defects(name: str) -> None:
    assert parse(NASTY[name]).defects == ()


def test_message_ids() -> None:
    def ids(name: str) -> str | None:
        return parse_summary(NASTY[name]).rfc_message_id

    assert ids("bare LF") == "<one@example.org>"
    assert ids("message id without brackets") == "<one@example.org>"
    assert ids("no message id") is None
    assert ids("empty message id") is None
    folded = parse_summary(NASTY["references folded and repeated"])
    assert folded.references == ("<r@x>", "<s@x>")
    assert folded.in_reply_to == ("<s@x>",)
    many = parse_summary(NASTY["ten thousand references"]).references
    assert (len(many), many[0], many[-1]) == (100, "<0@x>", "<9999@x>")


def test_inside_content_is_decoded() -> None:
    assert part_content(NASTY["mixed with file"], "2")[1] == b"%PDF-1.4 not really"
    part, content = part_content(NASTY["related with inline image"], "2")
    assert part.content_id == "logo@x"
    assert content.startswith(b"\x89PNG")
    assert part_content(NASTY["forwarded in base64"], "2")[1].endswith(b"inner\r\n")
    assert part_content(NASTY["broken base64"], "1")[1] == b"Hello world"


def test_a_plain_text_between_html_texts_is_shown_too() -> None:
    message = parse(NASTY["boundary reused inside"])
    assert "white-space: pre-wrap" in message.html
    assert "<p>Grüße <b>fett</b></p>" in message.html


@pytest.mark.parametrize("name", NASTY)
def test_the_ways_for_large_messages_read_small_ones_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = parse(NASTY[name])
    monkeypatch.setattr(structure, "_LARGE", 0)
    assert parse(NASTY[name]) == usual
    monkeypatch.setattr(structure, "_UNGUARDED", 0)
    guarded = parse(NASTY[name])
    assert (guarded.subject, guarded.from_, guarded.date) == (usual.subject, usual.from_, usual.date)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("encoded words", b"Subject: " + b"=?utf-8?q?=C3=BC?= " * 100_000 + b"\r\n\r\nx"),
        ("parts", b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"--a\r\nA:\r\n\r\n" * 180_000),
        ("messages", b"Content-Type: message/rfc822\r\n\r\n" * 200 + b"x" * 2_000_000),
        ("hidden messages", b"Content-Type: =?us-ascii?q?message/rfc822?=\r\n\r\n" * 200 + b"x" * 2_000_000),
        ("headers", b"A:b\r\n" * 400_000 + b"\r\n"),
        (
            "levels and lines",
            b" \r\n"
            + b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(90))
            + b"x\r\n" * 600_000,
        ),
        ("at signs", b"From: " + b"a@" * 300_000 + b"\r\n\r\n"),
        ("one at sign", b"From: @" + b"a" * 900_000 + b"\r\n\r\n"),
        ("blanks", b"From: a" + b" " * 900_000 + b"x\r\n\r\n"),
        ("flowed", b"Content-Type: text/plain; format=flowed\r\n\r\n" + b"a \r\n" * 500_000),
        ("quotes", b"\r\n" + b">" * 2_000_000),
        ("charset", b"Content-Type: text/plain; charset=" + b"x" * 900_000 + b"\r\n\r\n\xff"),
        ("file name", b"Content-Disposition: attachment; filename=" + b"x" * 900_000 + b"\r\n\r\n"),
        ("continuations", b"Content-Type: a/b" + b"".join(b";\r\n name*%d=x" % n for n in range(60_000)) + b"\r\n\r\n"),
        ("base64", b"Content-Transfer-Encoding: base64\r\n\r\n" + b"=A" * 500_000),
    ],
)
def test_megabytes_of_one_thing_cost_little(name: str, raw: bytes) -> None:
    """In a process of its own, so that its memory is seen, and cut where a trial would be: who reads such a message in
    earnest would end.
    """
    script = (
        "import resource, sys; from mailgate.messages import parse, parse_summary\n"
        "from mailgate.reading.limited import bound\n"
        "raw = sys.stdin.buffer.read(); parse(b'Subject: x\\r\\n\\r\\nx')\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"bound(processor_s={trial.PROCESSOR_S}, memory={trial.MEMORY})\n"
        "before = peak(); parse_summary(raw); parse(raw)\n"
        "print(peak() - before)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], input=raw, capture_output=True, check=True, timeout=240)
    assert int(run.stdout) < 160 * 1024


class PanicException(BaseException):
    """What a panic of the fast parser raises."""


def test_a_panic_of_the_fast_parser_is_one_more_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: BaseException = PanicException("index out of bounds")

    def panic(raw: bytes, **_: Any) -> None:
        raise raised

    monkeypatch.setattr(structure, "parse_email_tree", panic)
    raw = b"Subject: read all the same\r\n\r\ntext"
    assert parse_summary(raw).subject == "read all the same"
    raised = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        parse_summary(raw)
