"""Frames: each way a stored blob can be wrong is an error, and nothing unverified is handed out."""

from __future__ import annotations

import os
import random

import pytest

from mailgate.blobs.errors import BlobCorruptError
from mailgate.blobs.frames import FRAME_SIZE, HEADER, PLAIN_PER_FRAME, FrameReader, FrameWriter, open_blob, seal_blob

KEY = bytes(range(32))
RANDOM = random.Random(7)
NOISE = RANDOM.randbytes(700 * 1024)
TEXT = b"".join(b"line %d of a mail that repeats itself\r\n" % n for n in range(60_000))
ZEROS = bytes(20 * 1024 * 1024)


def stream(data: bytes, pieces: int = 10_000) -> bytes:
    writer = FrameWriter("t", "b", KEY)
    out = [writer.write(data[at : at + pieces]) for at in range(0, len(data), pieces)]
    out.append(writer.finish())
    assert writer.size == len(data)
    return b"".join(out)


def read(stored: bytes, size: int, cut: int = 50_000) -> bytes:
    reader = FrameReader("t", "b", KEY, size)
    out = b"".join(b"".join(reader.feed(stored[at : at + cut])) for at in range(0, len(stored), cut))
    reader.close()
    return out


def frames_of(stored: bytes) -> list[bytes]:
    found, at = [], len(HEADER)
    while at < len(stored):
        length = int.from_bytes(stored[at : at + 4], "big") & 0x7FFFFFFF
        found.append(stored[at : at + 4 + length])
        at += 4 + length
    return found


SAMPLES = {
    "empty": b"",
    "one byte": b"x",
    "small": b"Subject: hi\r\n\r\nbody\r\n",
    "noise of several frames": NOISE,
    "text": TEXT,
    "zeros": ZEROS[: 3 * PLAIN_PER_FRAME + 5],
    "exactly one frame of plain": NOISE[:FRAME_SIZE],
}


@pytest.mark.parametrize("data", SAMPLES.values(), ids=SAMPLES.keys())
def test_whole_and_streamed_forms_read_both_ways(data: bytes) -> None:
    for stored in (seal_blob("t", "b", KEY, data), stream(data)):
        assert stored.startswith(HEADER)
        assert open_blob("t", "b", KEY, stored, len(data)) == data
        assert open_blob("t", "b", KEY, memoryview(stored), len(data)) == data
        assert read(stored, len(data)) == data


def test_nothing_of_the_text_shows() -> None:
    stored = seal_blob("t", "b", KEY, b"confidential words " * 3)
    assert b"confidential" not in stored


@pytest.mark.parametrize(
    "stored", [seal_blob("t", "b", KEY, SAMPLES["small"]), stream(SAMPLES["small"])], ids=["whole", "streamed"]
)
def test_every_flipped_bit_of_a_small_blob_shows(stored: bytes) -> None:
    size = len(SAMPLES["small"])
    for position in range(len(stored) * 8):
        changed = bytearray(stored)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(BlobCorruptError):
            open_blob("t", "b", KEY, bytes(changed), size)
        with pytest.raises(BlobCorruptError):
            read(bytes(changed), size)


@pytest.mark.parametrize(
    "stored", [seal_blob("t", "b", KEY, SAMPLES["small"]), stream(NOISE)], ids=["one frame", "frames"]
)
def test_every_cut_shows(stored: bytes) -> None:
    size = len(SAMPLES["small"]) if len(stored) < 1000 else len(NOISE)
    borders = [len(HEADER) + sum(map(len, frames_of(stored)[:n])) for n in range(len(frames_of(stored)))]
    cuts = {*range(min(len(stored), 200)), *borders, *(border - 1 for border in borders), len(stored) - 1}
    for cut in cuts:
        with pytest.raises(BlobCorruptError):
            open_blob("t", "b", KEY, stored[:cut], size)
        with pytest.raises(BlobCorruptError):
            read(stored[:cut], size)


def test_reordered_repeated_and_dropped_frames_show() -> None:
    stored = stream(NOISE)
    frames = frames_of(stored)
    assert len(frames) >= 3
    for wrong in (
        [frames[1], frames[0], *frames[2:]],
        [frames[0], frames[0], *frames[1:]],
        frames[1:],
        [*frames[:-2], frames[-1]],
        [*frames, frames[-1]],
        [*frames, frames[0]],
    ):
        with pytest.raises(BlobCorruptError):
            read(HEADER + b"".join(wrong), len(NOISE))


def test_bytes_after_the_end_show() -> None:
    for data in (SAMPLES["small"], NOISE):
        for tail in (b"\0", b"more than four bytes"):
            with pytest.raises(BlobCorruptError):
                read(seal_blob("t", "b", KEY, data) + tail, len(data))
            with pytest.raises(BlobCorruptError):
                open_blob("t", "b", KEY, seal_blob("t", "b", KEY, data) + tail, len(data))


def test_a_frame_cannot_be_made_the_last_one() -> None:
    first = bytearray(frames_of(stream(NOISE))[0])
    first[0] |= 0x80
    with pytest.raises(BlobCorruptError):
        read(HEADER + bytes(first), FRAME_SIZE)


@pytest.mark.parametrize(
    ("tenant", "blob", "key"),
    [("u", "b", KEY), ("t", "c", KEY), ("t", "b", bytes(32)), ("tb", "", KEY), ("", "tb", KEY)],
)
def test_a_blob_is_bound_to_its_tenant_name_and_key(tenant: str, blob: str, key: bytes) -> None:
    stored = seal_blob("t", "b", KEY, b"text")
    with pytest.raises(BlobCorruptError):
        open_blob(tenant, blob, key, stored, 4)


@pytest.mark.parametrize("size", [0, 20, 22, 1 << 40])
def test_a_size_that_differs_from_the_row_shows(size: int) -> None:
    data = SAMPLES["small"]
    assert len(data) not in (0, 20)
    if size != len(data):
        for stored in (seal_blob("t", "b", KEY, data), stream(data)):
            with pytest.raises(BlobCorruptError):
                open_blob("t", "b", KEY, stored, size)
            with pytest.raises(BlobCorruptError):
                read(stored, size)


def test_no_byte_leaves_before_its_frame_is_verified() -> None:
    stored = bytearray(stream(NOISE))
    good = len(frames_of(bytes(stored))[0])
    stored[len(HEADER) + good + 1000] ^= 1  # in the second frame
    reader = FrameReader("t", "b", KEY, len(NOISE))
    out = b""
    pieces = reader.feed(bytes(stored))
    out += next(pieces)
    with pytest.raises(BlobCorruptError):
        next(pieces)
    assert NOISE.startswith(out)
    assert len(out) <= FRAME_SIZE


def test_well_compressing_text_stays_bounded_in_both_directions() -> None:
    stored = stream(ZEROS, pieces=1 << 20)
    assert len(stored) < len(ZEROS) // 1000
    reader = FrameReader("t", "b", KEY, len(ZEROS))
    largest = total = 0
    for piece in reader.feed(stored):
        largest, total = max(largest, len(piece)), total + len(piece)
    reader.close()
    assert total == len(ZEROS)
    assert largest <= 2 * PLAIN_PER_FRAME + 256 * 1024


def test_the_writer_keeps_at_most_a_frame() -> None:
    writer = FrameWriter("t", "b", KEY)
    stored = 0
    for _ in range(200):
        piece = os.urandom(64 * 1024)
        stored += len(writer.write(piece))
        assert writer.size - stored < 2 * FRAME_SIZE


@pytest.mark.parametrize("length", [0, 1, 16, FRAME_SIZE + 17, 0x7FFFFFFF])
def test_an_impossible_length_is_refused_before_it_is_waited_for(length: int) -> None:
    with pytest.raises(BlobCorruptError, match="impossible length"):
        list(FrameReader("t", "b", KEY, 10).feed(HEADER + length.to_bytes(4, "big")))


def test_another_version_is_refused() -> None:
    stored = bytearray(seal_blob("t", "b", KEY, b"x"))
    stored[4] = 2
    with pytest.raises(BlobCorruptError, match="version"):
        open_blob("t", "b", KEY, bytes(stored), 1)


def test_errors_hold_no_content() -> None:
    stored = seal_blob("t", "b", KEY, b"secret words")
    with pytest.raises(BlobCorruptError) as caught:
        open_blob("t", "b", bytes(32), stored, 12)
    assert "secret" not in str(caught.value)
    assert caught.value.slug == "blob_corrupt"
