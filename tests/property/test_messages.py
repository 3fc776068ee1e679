"""Parsing never raises, never yields what a database or JSON refuses, and always says the same of the same bytes."""

from __future__ import annotations

import base64
import json
from calendar import timegm
from email.utils import parsedate_tz
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from mailgate.errors import PreconditionError
from mailgate.messages import (
    Address,
    ParsedMessage,
    Part,
    Summary,
    decode_summary,
    encode_summary,
    header_block,
    header_digest_input,
    html_to_text,
    message_terms,
    parse,
    parse_summary,
    part_content,
    query_terms,
    sanitize_html,
    thread_links,
    words,
)
from mailgate.messages.addresses import parse_addresses
from mailgate.messages.charsets import codec_for, decode, one_line
from mailgate.messages.flowed import unflow
from mailgate.messages.headers import parse_date
from mailgate.messages.model import Limits
from mailgate.messages.snippet import snippet_of
from mailgate.messages.tokens import LONGEST, SHORTEST, SHORTEST_LATIN
from mailgate.messages.words import base64_leniently, decode_words
from tests.corpus import NASTY
from tests.soak import examples

_SMALL = [raw for raw in NASTY.values() if len(raw) < 2_000]
# fmt: off
_CRUMBS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"--edge\r\n", b"--edge--", b"Content-Type: ",
    b"multipart/mixed; boundary=edge", b"multipart/alternative", b"message/rfc822", b"text/html", b"charset=",
    b"utf-8", b"utf-16", b"base64", b"quoted-printable", b"Content-Transfer-Encoding: ",
    b"Content-Disposition: attachment; filename*0*=utf-8''", b"=?utf-8?b?", b"=?x?q?", b"?=", b"\0", b"\xff",
    b"\xed\xa0\x80", b"<", b">", b"(", b")", b'"', b"\\", b":", b";", b",", b"@", b"=", b" ", b"\t", b"From: ",
    b"To: ", b"Subject: ", b"Date: ", b"References: <", b"<!--", b"<style>", b"</", b"&#", b"format=flowed",
]
_HTML_CRUMBS = [
    "<p>", "</p>", "<img ", "src=", "'https://x.example/a'", '"cid:a"', ">", "<b", "/>", "title=", '"', "'", " ",
    "<script>", "</script>", "onload=", "style=", "url(x)", "<!--", "-->", "<a href=", "javascript:", "&quot;",
    "&lt;", "<svg>", "<style>", "</style>", "<math>", "<table>", "<td>", "<title>", "</title>", "<noscript>", "x",
    "=", "\n", "<textarea>", "<plaintext>", "",
]
# fmt: on


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A nasty message with pieces cut out, moved, doubled and crumbs thrown in."""
    raw = bytearray(draw(st.sampled_from(_SMALL)))
    for _ in range(draw(st.integers(1, 6))):
        at, end = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
        match draw(st.integers(0, 4)):
            case 0:
                del raw[at : min(end, at + 200)]
            case 1:
                raw[at:at] = draw(st.sampled_from(_CRUMBS))
            case 2:
                raw[at:at] = raw[at : min(end, at + 300)]
            case 3:
                raw[at : at + 3] = draw(st.binary(max_size=6))
            case _:
                raw += draw(st.sampled_from(_SMALL))[at:end]
    return bytes(raw)


crumbled = st.lists(st.one_of(st.sampled_from(_CRUMBS), st.binary(max_size=8)), max_size=60).map(b"".join)
anything = st.one_of(st.binary(max_size=600), mutated(), crumbled)


def texts_of(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, tuple):
        return [text for item in value for text in texts_of(item)]
    return []


@examples(400)
@given(anything)
def test_any_bytes_parse(raw: bytes) -> None:
    message = parse(raw)
    summary = parse_summary(raw)
    assert parse_summary(memoryview(raw)) == summary
    for field in Summary.__dataclass_fields__:
        if field != "defects":
            assert getattr(summary, field) == getattr(message, field)
    for field in ParsedMessage.__dataclass_fields__:
        for text in texts_of(getattr(message, field)):
            assert "\0" not in text
            text.encode()
    assert decode_summary(encode_summary(summary)) == summary
    json.dumps([part._asdict() for part in message.parts])
    assert len({part.part_id for part in message.parts}) == len(message.parts)
    for part in message.parts[:3]:
        found, content = part_content(raw, part.part_id)
        assert (found, len(content)) == (part, part.size)
    sanitize_html(message.html)
    message_terms(message)
    thread_links(message)


@given(anything)
def test_the_header_identity_is_stable(raw: bytes) -> None:
    identity = header_digest_input(raw)
    assert header_digest_input(header_block(raw)) == identity
    assert raw.startswith(header_block(raw))


@given(st.text(max_size=300))
def test_html_is_safe_and_stable(source: str) -> None:
    once = sanitize_html(source)
    assert "<script" not in once
    assert sanitize_html(once) == once
    html_to_text(source)


_HTML = st.lists(st.sampled_from(_HTML_CRUMBS), max_size=40).map("".join)


@examples(400)
@given(_HTML)
def test_no_remote_image_and_no_script_survive(source: str) -> None:
    class Check(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in (
                "script",
                "style",
                "iframe",
                "object",
                "svg",
                "math",
                "form",
                "input",
                "textarea",
                "link",
            )
            for name, value in attrs:
                assert not name.startswith("on")
                if name in ("src", "href"):
                    assert not (value or "").strip().lower().startswith("javascript:")
                if name == "src":
                    assert (value or "").lstrip().lower().startswith(("cid:", "data:image/"))

    Check().feed(sanitize_html(source))


@given(st.text(max_size=400))
def test_addresses_never_raise_and_are_bounded(value: str) -> None:
    for item in parse_addresses(value, Limits(addresses=5, name=20, address=30)):
        assert len(item.name) <= 20
        assert len(item.address) <= 30
        assert item.name or item.address


_ATOM = st.text("abcdefgh0123-_+", min_size=1, max_size=10)
_NAME = st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(_NAME, _ATOM, _ATOM), min_size=1, max_size=5), st.sampled_from([", ", ",", ",\r\n ", " , "]))
def test_well_formed_lists_are_read_exactly(items: list[tuple[str, str, str]], comma: str) -> None:
    value = comma.join(f'"{name}" <{local}@{domain}.example>' for name, local, domain in items)
    expected = tuple(Address(name, f"{local}@{domain}.example") for name, local, domain in items)
    assert parse_addresses(value, Limits()) == expected


@given(st.text(max_size=200))
def test_encoded_words_are_decoded_exactly(text: str) -> None:
    clean = text.replace("\0", "")
    if clean:
        assert decode_words(f"=?utf-8?b?{base64.b64encode(clean.encode()).decode()}?=") == clean


@given(st.text(st.sampled_from("=?utf-8qb_ \r\nAZ+/"), max_size=200))
def test_nearly_encoded_words_never_raise(text: str) -> None:
    decode_words(text)


@given(
    st.binary(max_size=300),
    st.one_of(st.none(), st.text(max_size=30), st.sampled_from(["utf-7", "hz", "idna", "utf-16"])),
)
def test_any_bytes_decode_under_any_label(data: bytes, label: str | None) -> None:
    text, _ = decode(data, label)
    text.encode()
    assert "\0" not in text
    if label is not None:
        codec_for(label)


@given(st.binary(max_size=300))
def test_base64_is_decoded_from_anything(data: bytes) -> None:
    base64_leniently(data)
    assert base64_leniently(base64.encodebytes(data)) == data
    assert base64_leniently(base64.b64encode(data).rstrip(b"=")) == data


@given(st.text(max_size=400), st.integers(10, 200))
def test_snippets_are_bounded_single_lines(text: str, limit: int) -> None:
    snippet = snippet_of(text, limit)
    assert len(snippet) <= limit
    assert "\n" not in snippet
    unflow(text)


@given(st.text(max_size=60))
def test_dates_never_raise(text: str) -> None:
    parse_date(text)
    parse_date(f"Mon, {text} 2026 10:00:00 +0100")


@given(st.text(max_size=200), st.integers(0, 200), st.integers(0, 200))
def test_a_text_is_found_by_any_run_of_its_words(text: str, start: int, length: int) -> None:
    terms = message_terms(ParsedMessage(text=text)).text
    pieces = text.split()
    query = " ".join(pieces[start % (len(pieces) + 1) :][: length % 5])
    if "@" not in query:
        found = query_terms(query.replace("*", " "))
        assert found.words <= terms
        assert not found.prefixes
    for word in words(text):
        assert 0 < len(word) <= 64


_LETTERS = st.one_of(
    st.text("abcdeéèêñüß", min_size=1, max_size=16),
    st.text("абвгёй", min_size=1, max_size=16),
    st.text("αβγάς", min_size=1, max_size=16),
    st.text("한국어회사", min_size=1, max_size=6),
    st.text("हिन्दी", min_size=1, max_size=9),
    st.text("日本語", min_size=1, max_size=6),
    st.text(st.characters(categories=["Lu", "Ll", "Lt", "Lo", "Nd"]), min_size=1, max_size=16),
)


@given(st.lists(_LETTERS, max_size=6), _LETTERS, st.integers(1, 14), st.booleans())
def test_a_prefix_finds_exactly_what_begins_with_it(given_: list[str], other: str, length: int, own: bool) -> None:
    source = given_[0] if own and given_ else other
    prefix, message = source[:length], message_terms(ParsedMessage(text=" ".join(given_)))
    last = (words(prefix) or [""])[-1]
    try:
        wanted = query_terms(prefix + "*")
    except PreconditionError:
        assert not (SHORTEST_LATIN if last.isascii() else SHORTEST) <= len(last) <= LONGEST
        return
    if not wanted.prefixes:  # of an unspaced script, or no word at all
        assert wanted == query_terms(prefix)
        return
    assert wanted.prefixes == {last}
    begins = any(word.startswith(last) for word in words(" ".join(given_)))
    assert (wanted.prefixes <= message.prefixes["text"]) is begins


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_ADDRESSES = st.lists(st.builds(Address, _TEXT, _TEXT), max_size=3).map(tuple)


@given(
    st.builds(
        Summary,
        subject=_TEXT,
        from_=_ADDRESSES,
        to=_ADDRESSES,
        cc=_ADDRESSES,
        bcc=_ADDRESSES,
        sender=_ADDRESSES,
        reply_to=_ADDRESSES,
        date=st.one_of(st.none(), st.integers(-(10**17), 10**18)),
        rfc_message_id=st.one_of(st.none(), _TEXT),
        in_reply_to=st.lists(_TEXT, max_size=2).map(tuple),
        references=st.lists(_TEXT, max_size=3).map(tuple),
        snippet=_TEXT,
        parts=st.lists(
            st.builds(
                Part, _TEXT, st.one_of(st.none(), _TEXT), _TEXT, st.integers(0, 1 << 50), st.booleans(), st.none()
            ),
            max_size=3,
        ).map(tuple),
        has_files=st.booleans(),
        defects=st.lists(_TEXT, max_size=2).map(tuple),
    )
)
def test_summaries_survive_encoding(summary: Summary) -> None:
    assert decode_summary(encode_summary(summary)) == summary


@given(
    st.sampled_from(["", "Mon, ", "Sun, "]),
    st.integers(0, 99),
    st.sampled_from(["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]),
    st.integers(1900, 2099),
    st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)),
    st.from_regex(r"[+-][0-9]{4}( \([A-Z]{1,5}\))?", fullmatch=True),
)
def test_a_date_in_its_usual_form_is_read_as_the_standard_library_reads_it(
    weekday: str, day: int, month: str, year: int, time: tuple[int, int, int], zone: str
) -> None:
    text = f"{weekday}{day} {month} {year} {time[0]:02}:{time[1]:02}:{time[2]:02} {zone}"
    fields = parsedate_tz(text)
    assert fields is not None
    assert parse_date(text) == (timegm((*fields[:6], 0, 1, 0)) - (fields[9] or 0)) * 1_000_000


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60), st.integers(1, 40))
def test_plain_text_on_one_line(text: str, limit: int) -> None:
    assert one_line(text, limit) == " ".join(text[: 4 * limit + 100].split())[:limit].rstrip()
