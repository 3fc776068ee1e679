"""The generated mail is deterministic, well formed where it means to be, and spread as the demonstration needs it."""

from __future__ import annotations

import email
import email.policy
import io
import zipfile

import pytest

from mailgate.demo.mail import DAY, Mail, account_mail
from mailgate.demo.mime import words
from mailgate.demo.phrases import VOICES, Voice

NOW = 1_760_000_000_000_000


@pytest.fixture(scope="module")
def mails() -> list[Mail]:
    return account_mail("Ada Lindqvist", "ada@tenant.example", seed=7, count=600, now=NOW)


def parse(mail: Mail) -> email.message.EmailMessage:
    parsed = email.message_from_bytes(mail.raw, policy=email.policy.default)
    assert isinstance(parsed, email.message.EmailMessage)
    return parsed


def test_same_seed_same_bytes(mails: list[Mail]) -> None:
    assert account_mail("Ada Lindqvist", "ada@tenant.example", seed=7, count=600, now=NOW) == mails
    assert account_mail("Ada Lindqvist", "ada@tenant.example", seed=8, count=600, now=NOW) != mails


def test_ages_cover_every_plan(mails: list[Mail]) -> None:
    ages = [(NOW - mail.received_at) / DAY for mail in mails]
    assert ages == sorted(ages, reverse=True)
    assert 0 < min(ages) < 1
    assert 110 < max(ages) <= 120
    for start in (0, 30, 60, 90):
        assert sum(start <= age < start + 30 for age in ages) > 30
    assert all(mail.received_at % 1_000_000 == 0 for mail in mails)


def test_every_message_is_crlf_and_parses_without_defects(mails: list[Mail]) -> None:
    for mail in mails:
        assert b"\n" not in mail.raw.replace(b"\r\n", b"")
        assert b"\r" not in mail.raw.replace(b"\r\n", b"")
        parsed = parse(mail)
        headers = mail.raw.partition(b"\r\n\r\n")[0]
        if not headers.isascii() or mail.folder == "Junk":
            continue  # broken on purpose
        assert parsed["Subject"] == mail.subject
        assert not [part.defects for part in parsed.walk() if part.defects]
        assert parsed.get_body(("plain", "html")) is not None


def test_no_address_could_be_real(mails: list[Mail]) -> None:
    for mail in mails:
        parsed = parse(mail)
        for name in ("From", "To"):
            for address in parsed[name].addresses:
                assert address.domain.endswith(".example")


def test_threads_refer_to_earlier_messages_of_the_same_thread(mails: list[Mail]) -> None:
    by_id = {parse(mail)["Message-ID"]: mail for mail in mails}
    replies = [parse(mail) for mail in mails if parse(mail)["In-Reply-To"]]
    assert len(replies) > 100
    known = [reply for reply in replies if reply["In-Reply-To"] in by_id]
    assert len(known) > 100
    for reply in known:
        assert reply["References"].split()[-1] == reply["In-Reply-To"]


def test_many_scripts_and_charsets(mails: list[Mail]) -> None:
    charsets = {part.get_content_charset() for mail in mails for part in parse(mail).walk()}
    assert {"utf-8", "iso-8859-1", "iso-2022-jp", "koi8-r", "euc-kr", "iso-8859-2"} <= charsets
    text = "".join(mail.subject + body_of(mail) for mail in mails)
    assert set("ßłΠСり合קعğह") <= set(text)


def body_of(mail: Mail) -> str:
    body = parse(mail).get_body(("plain",))
    return body.get_content() if body is not None and body.get_content_charset() != "x-winner-8" else ""


def test_attachments_open(mails: list[Mail]) -> None:
    kinds = set()
    for mail in mails:
        for part in parse(mail).iter_attachments():
            data = part.get_content()
            raw = data.encode() if isinstance(data, str) else data
            kinds.add(part.get_content_type())
            if part.get_content_type() == "application/zip":
                assert zipfile.ZipFile(io.BytesIO(raw)).testzip() is None
            if part.get_content_type() == "application/pdf":
                assert raw.startswith(b"%PDF")
                assert raw.endswith(b"%%EOF\n")
            assert part.get_filename()
    assert {"application/pdf", "image/png", "text/csv", "application/zip", "text/calendar", "image/jpeg"} <= kinds


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.language)
def test_encoded_words_decode_to_the_text_in_every_charset(voice: Voice) -> None:
    for charset in voice.charsets:
        for text in (*voice.people, *(subject for subject, _ in voice.matters)):
            for q in (False, True):
                encoded = words(text, charset, q=q)
                assert all(len(word) <= 75 for word in encoded.split(" ") if word.startswith("=?"))
                decoded = email.message_from_string(f"Subject: {encoded}\n\n", policy=email.policy.default)["Subject"]
                assert decoded == text, charset
