"""Signed notes and checkpoints: the example of the specification, other implementations' keys, strict parsing."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.ledger.checkpoint import Checkpoint, CheckpointError, open_checkpoint, parse_checkpoint
from retention.ledger.note import (
    NoteError,
    Signature,
    Signer,
    UnverifiedNoteError,
    Verifier,
    open_note,
    parse_note,
    sign_note,
    signed_alone,
)
from retention.ledger.tree import EMPTY_ROOT

# From the documentation of golang.org/x/mod/sumdb/note: a key pair and a note that Go signed with it.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_NOTE = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""
LOG = Signer("mail.example.com/purge/t1", bytes(range(32)))
OTHER = Signer("mail.example.com/purge/t2", bytes(range(1, 33)))
TEXT = "hello\n\nworld\n"


def test_gos_example_both_ways() -> None:
    verifier = Verifier.from_vkey(GO_VKEY)
    text, signed = open_note(GO_NOTE.encode(), [verifier])
    assert text.startswith("If you think")
    assert signed == [verifier]
    assert sign_note(text, [Signer.from_text(GO_SKEY)]) == GO_NOTE.encode()


def test_keys_round_trip_as_text() -> None:
    assert Verifier.from_vkey(GO_VKEY).vkey == GO_VKEY
    assert Signer.from_text(GO_SKEY).text == GO_SKEY
    assert Signer.from_text(GO_SKEY).verifier.vkey == GO_VKEY
    signer = Signer.generate("a.example/log")
    assert Signer.from_text(signer.text) == signer
    assert Verifier.from_vkey(signer.verifier.vkey) == signer.verifier


def test_a_signer_never_prints_its_seed() -> None:
    signer = Signer.from_text(GO_SKEY)
    assert base64.b64encode(signer.seed).decode() not in repr(signer)
    assert repr(signer.seed) not in repr(signer)


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a+b+c", GO_VKEY.replace("c74f20a3", "c74f20a4"), GO_VKEY.replace("Peter", "Petra"), GO_VKEY[:-4],
        GO_VKEY.replace("c74f20a3", "C74F20A3"), GO_VKEY.replace("+AR", "+Ah"), GO_VKEY + "=", " " * 4,
        "+c74f20a3+ARpc",
    ],
)  # fmt: skip
def test_other_key_texts_are_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Verifier.from_vkey(text)
    with pytest.raises(NoteError) as caught:
        Signer.from_text("PRIVATE+KEY+" + text)
    assert len(text) < 20 or text not in str(caught.value)


def test_unknown_lines_are_ignored_and_bad_ones_of_known_keys_are_not() -> None:
    good = sign_note(TEXT, [OTHER, LOG])
    assert open_note(good, [LOG.verifier]) == (TEXT, [LOG.verifier])
    assert open_note(good, [LOG.verifier, OTHER.verifier])[1] == [OTHER.verifier, LOG.verifier]
    with pytest.raises(UnverifiedNoteError):
        open_note(good, [Verifier.from_vkey(GO_VKEY)])
    forged = sign_note(TEXT, [OTHER], [Signature(LOG.name, LOG.verifier.id, bytes(64))])
    with pytest.raises(UnverifiedNoteError):
        open_note(forged, [LOG.verifier, OTHER.verifier])
    assert open_note(forged, [OTHER.verifier])[1] == [OTHER.verifier]
    same_name = sign_note(TEXT, [LOG], [Signature(LOG.name, b"\0\0\0\0", bytes(64))])
    assert open_note(same_name, [LOG.verifier])[1] == [LOG.verifier]


GOOD = sign_note(TEXT, [LOG])


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"hello\n", GOOD[:-1], GOOD.replace(b"\n\n\xe2", b"\n\xe2"), GOOD.replace(b"\xe2\x80\x94", b"-"),
        GOOD.replace(b"\xe2\x80\x94 ", b"\xe2\x80\x94  "), GOOD + b"\n", GOOD.replace(b"hello", b"hel\tlo"),
        GOOD.replace(b"hello", b"hel\x00lo"), GOOD.replace(b"hello", b"hel\xfflo"), GOOD.replace(b"\n", b"\r\n"),
        GOOD[:-5] + b"\n", b"x" * 1_000_001, GOOD + GOOD.split(b"\n\n")[-1] * 100, GOOD.replace(b"=\n", b"\n"),
    ],
)  # fmt: skip
def test_what_is_no_note(raw: bytes) -> None:
    with pytest.raises(NoteError):
        open_note(raw, [LOG.verifier])


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_byte_of_a_note_can_change(at: int, xor: int) -> None:
    with pytest.raises(NoteError):
        open_note(GOOD[:at] + bytes([GOOD[at] ^ xor]) + GOOD[at + 1 :], [LOG.verifier])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_cleanly(raw: bytes) -> None:
    with pytest.raises(NoteError):
        open_note(raw, [LOG.verifier])


def test_checkpoint_round_trip() -> None:
    checkpoint = Checkpoint(LOG.name, 20_852_163, bytes(range(32)))
    raw = checkpoint.sign([LOG])
    assert raw.decode().splitlines()[:3] == [LOG.name, "20852163", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]
    assert open_checkpoint(raw, LOG.verifier) == parse_checkpoint(raw) == checkpoint
    assert open_checkpoint(Checkpoint(LOG.name, 0, EMPTY_ROOT).sign([LOG]), LOG.verifier).size == 0


def test_extensions_and_witnesses() -> None:
    checkpoint = Checkpoint(LOG.name, 7, bytes(32), ("one", "two"))
    raw = checkpoint.sign([LOG, OTHER])
    assert open_checkpoint(raw, LOG.verifier) == checkpoint
    assert open_checkpoint(raw, LOG.verifier, [OTHER.verifier]) == checkpoint
    text, lines = parse_note(raw)
    broken = sign_note(text, [], [lines[0], Signature(OTHER.name, OTHER.verifier.id, bytes(64))])
    with pytest.raises(UnverifiedNoteError):
        open_checkpoint(broken, LOG.verifier, [OTHER.verifier])


def test_a_note_without_the_signatures_of_others() -> None:
    alone = Checkpoint(LOG.name, 7, bytes(32)).sign([LOG])
    text, lines = parse_note(alone)
    for both in (
        sign_note(text, [OTHER], lines),
        sign_note(text, [], [*lines, *parse_note(sign_note(text, [OTHER]))[1]]),
    ):
        assert both != alone
        assert signed_alone(both, LOG.verifier) == alone
    by_another = sign_note(text, [OTHER])
    assert signed_alone(by_another, LOG.verifier) == by_another


def test_a_checkpoint_of_another_log_is_refused() -> None:
    raw = sign_note(Checkpoint(OTHER.name, 7, bytes(32)).text, [LOG])
    with pytest.raises(CheckpointError):
        open_checkpoint(raw, LOG.verifier)
    with pytest.raises(CheckpointError):
        Checkpoint(OTHER.name, 7, bytes(32)).sign([LOG])
    with pytest.raises(CheckpointError):
        open_checkpoint(sign_note(Checkpoint(LOG.name, 7, bytes(32)).text, [OTHER]), LOG.verifier, [OTHER.verifier])


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"{LOG.name}\n7\n", f"{LOG.name}\n07\n{ROOT}\n", f"{LOG.name}\n-7\n{ROOT}\n", f"{LOG.name}\n7\n{ROOT[:-1]}\n",
        f"{LOG.name}\n7\n{ROOT}\n\nx\n", f"\n7\n{ROOT}\n", f"{LOG.name}\n7\n{ROOT[:-2]}B=\n",
        f"{LOG.name}\n0\n{ROOT}\n",
        f"{LOG.name}\n{2**63}\n{ROOT}\n", f"{LOG.name}\n٧\n{ROOT}\n", f"{LOG.name}\n7 \n{ROOT}\n",
    ],
)  # fmt: skip
def test_signed_but_no_checkpoint(text: str) -> None:
    with pytest.raises(CheckpointError):
        open_checkpoint(sign_note(text, [LOG]), LOG.verifier)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("", 1, bytes(32)), Checkpoint("a b", 1, bytes(32)), Checkpoint("a", -1, bytes(32)),
        Checkpoint("a", 1, bytes(31)), Checkpoint("a", 0, bytes(32)), Checkpoint("a", 1, bytes(32), ("",)),
        Checkpoint("a", 1, bytes(32), ("x\ny",)), Checkpoint("a", 2**63, bytes(32)),
    ],
)  # fmt: skip
def test_what_can_not_be_signed(checkpoint: Checkpoint) -> None:
    with pytest.raises(NoteError):
        checkpoint.sign([Signer(checkpoint.origin, bytes(32))])
