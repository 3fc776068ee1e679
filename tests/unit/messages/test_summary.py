"""The summary as bytes: nothing is lost, nothing opens that was touched."""

from __future__ import annotations

import pytest

from mailgate.messages import (
    Address,
    Part,
    Summary,
    SummaryCorruptError,
    decode_summary,
    encode_summary,
    open_summary,
    seal_summary,
)

KEY = bytes(range(32))
FULL = Summary(
    subject="Grüße 日本語",
    from_=(Address("Anna", "anna@example.org"),),
    sender=(Address("", "s@example.org"),),
    reply_to=(Address("R", ""),),
    to=tuple(Address(f"Person {n}", f"p{n}@example.org") for n in range(30)),
    cc=(Address("C", "c@example.org"),),
    bcc=(Address("B", "b@example.org"),),
    date=-1,
    rfc_message_id="<a@b>",
    in_reply_to=("<c@d>",),
    references=("<e@f>", "<c@d>"),
    snippet="first words…",
    parts=(Part("1", None, "text/plain", 3, True, None), Part("2", "ü.pdf", "application/pdf", 1 << 40, False, "x@y")),
    has_files=True,
    defects=("charset",),
)


@pytest.mark.parametrize("summary", [Summary(), FULL, Summary(date=0), Summary(has_files=True)])
def test_round_trip(summary: Summary) -> None:
    encoded = encode_summary(summary)
    assert decode_summary(encoded) == summary
    assert open_summary(KEY, "m1", seal_summary(KEY, "m1", encoded)) == encoded


def test_it_is_small() -> None:
    assert len(encode_summary(Summary())) < 10
    assert len(encode_summary(FULL)) < 800


def test_long_ones_are_packed() -> None:
    many = Summary(to=FULL.to * 20)
    assert len(encode_summary(many)) < 6_000
    assert decode_summary(encode_summary(many)) == many


def test_a_sealed_summary_is_bound_to_its_message_and_key() -> None:
    sealed = seal_summary(KEY, "m1", encode_summary(FULL))
    assert "Grüße".encode() not in sealed
    assert sealed != seal_summary(KEY, "m1", encode_summary(FULL))
    for key, message_id in ((KEY, "m2"), (bytes(32), "m1"), (KEY, "")):
        with pytest.raises(SummaryCorruptError):
            open_summary(key, message_id, sealed)


def test_every_change_of_a_sealed_summary_shows() -> None:
    sealed = seal_summary(KEY, "m1", encode_summary(Summary(subject="x")))
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 0x80
        with pytest.raises(SummaryCorruptError):
            open_summary(KEY, "m1", bytes(changed))
        with pytest.raises(SummaryCorruptError):
            open_summary(KEY, "m1", sealed[:position])


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\x10",
        b"\x11",
        b"\xff{}",
        b"\x10[]",
        b"\x10null",
        b'\x10{"a0":[[1]]}',
        b'\x10{"p":[["1"]]}',
        b"\x11\x28\xb5\x2f\xfd",
        b"\x10{",
    ],
)
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(SummaryCorruptError):
        decode_summary(junk)
