"""The laws of folder names: bytes survive text, text survives bytes."""

from __future__ import annotations

import codecs

from hypothesis import example, given
from hypothesis import strategies as st

from connectors.imap.utf7 import RAW_LATIN1_MARK, RAW_UTF8_MARK, decode_name, encode_name

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
wire = st.binary() | st.lists(
    st.sampled_from([b"&", b"-", b"&-", b"&AOk-", b"&AOk", b"&2D0-", b"&AA-", b"A", b",", b"&ZeVnLIqe-", b"\xc3\xa9",
    b"\xff", b"&&", b"&AAA-"])
).map(b"".join)  # fmt: skip


@given(wire)
@example(b"&")
@example(b"&AGE-")  # "a" in base64: superfluous, so it would come back as "a"
@example(b"&AOk-&AOk-")  # two shifts where one is canonical
@example(b"&2D0-")  # half of a surrogate pair
@example(b"a&AAA-b")  # NUL in base64
@example(encode_name("x" + RAW_UTF8_MARK))
@example("⁣x".encode("utf-7").replace(b"+", b"&"))
def test_bytes_survive_text(raw: bytes) -> None:
    name = decode_name(raw)
    assert encode_name(name) == raw
    name.encode()  # no lone surrogates: the name can be stored and sent
    assert "\0" not in name or b"\0" in raw  # and no NUL, which no line can hold


@given(text)
def test_text_survives_bytes(name: str) -> None:
    if not name.startswith((RAW_UTF8_MARK, RAW_LATIN1_MARK)):
        raw = encode_name(name)
        assert raw.isascii()
        assert all(0x20 <= byte <= 0x7E for byte in raw)
        assert decode_name(raw) == name


@given(text)
def test_any_text_can_be_encoded(name: str) -> None:
    assert encode_name(decode_name(encode_name(name))) == encode_name(name)


@given(st.text(st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_the_base64_is_that_of_utf7(name: str) -> None:
    # An independent judge: Python's own UTF-7 differs in the shift character and in "/" only (RFC 3501 §5.1.3).
    expected = codecs.encode(name, "utf-7").replace(b"/", b",").removesuffix(b"-")
    if expected.startswith(b"+") and not name.startswith((RAW_UTF8_MARK, RAW_LATIN1_MARK)):
        assert encode_name(name) == b"&" + expected[1:] + b"-"
