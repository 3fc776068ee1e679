"""Any bytes, cut anywhere, come back as they were; any change of the stored form is an error."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.blobs.errors import BlobCorruptError
from mailgate.blobs.frames import HEADER, FrameReader, FrameWriter, open_blob, seal_blob

KEY = bytes(range(32))

plain = st.one_of(
    st.binary(max_size=2_000),
    st.builds(lambda unit, times: unit * times, st.binary(min_size=1, max_size=50), st.integers(0, 60_000)),
)


def cut(data: bytes, points: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(point % (len(data) + 1) for point in points)})
    return [data[a:b] for a, b in pairwise(borders)] or [b""]


@given(plain, st.lists(st.integers(0, 1 << 22), max_size=8), st.lists(st.integers(0, 1 << 22), max_size=8))
def test_round_trip_cut_anywhere(data: bytes, written: list[int], read: list[int]) -> None:
    writer = FrameWriter("tenant", "blob", KEY)
    stored = b"".join(writer.write(piece) for piece in cut(data, written)) + writer.finish()
    for form in (stored, seal_blob("tenant", "blob", KEY, data)):
        reader = FrameReader("tenant", "blob", KEY, len(data))
        assert b"".join(b"".join(reader.feed(piece)) for piece in cut(form, read)) == data
        reader.close()
        assert open_blob("tenant", "blob", KEY, form, len(data)) == data


@given(plain, st.integers(0), st.integers(1, 255))
def test_any_changed_byte_is_an_error(data: bytes, position: int, change: int) -> None:
    stored = bytearray(seal_blob("tenant", "blob", KEY, data))
    stored[position % len(stored)] ^= change
    with pytest.raises(BlobCorruptError):
        open_blob("tenant", "blob", KEY, bytes(stored), len(data))


@given(st.binary(max_size=300), st.integers(0, 1 << 70), st.booleans())
def test_no_bytes_at_all_break_the_reader(junk: bytes, size: int, with_header: bool) -> None:
    with pytest.raises(BlobCorruptError):
        open_blob("tenant", "blob", KEY, (HEADER if with_header else b"") + junk, size)
