"""The stored form of a blob: compressed, then encrypted in frames that stand or fall one by one.

    stored  = header ‖ frame 0 ‖ frame 1 ‖ … ‖ frame n
    header  = "MGBL" ‖ version (1) ‖ compression (1 = zstd) ‖ 0 ‖ 0                                  8 bytes
    frame   = length of what follows, 4 bytes big-endian, top bit set on the last frame ‖ AES-256-GCM ciphertext ‖ tag
    (16) nonce   = frame number, 11 bytes big-endian ‖ last-frame bit, 1 byte
    associated data = "mailgate blob" ‖ header ‖ tenant ‖ blob (each with its length) ‖ frame number, 8 bytes

What the form guarantees, given a data key that is used for one blob only:

F1  Frames can't be flipped, reordered, repeated, or moved to another blob, tenant or version: nonce and associated
data differ. F2  A cut shows: the frame that ends the blob is sealed with the last-frame bit (the STREAM construction
of Hoang, Reyhanitabar,
    Rogaway and Vizár, 2015). Bytes after it show too.
F3  No byte leaves before the frame it lies in is verified.
F4  Memory is bounded: a frame holds at most 256 KiB of compressed text and at most about 2 MiB of plain text, because
the
    writer ends a frame early when mail compresses very well. A blob is no decompression bomb.
F5  The plain size stands in the database row and is checked at the end.

Compression comes first, level 1 of zstd: mail shrinks to half at 600 MB/s. (Length tells something of content; a mail
store has no attacker who mixes chosen text with secrets in one blob.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailgate.blobs.errors import BlobCorruptError

FRAME_SIZE = 256 * 1024
PLAIN_PER_FRAME = 1024 * 1024
HEADER = b"MGBL\x01\x01\x00\x00"

_TAG = 16
_LAST = 1 << 31
_LEVEL = 1
_MAX_WINDOW = 8 * 1024 * 1024
_SLICE = 64 * 1024

Bytes = bytes | bytearray | memoryview


class _Codec(threading.local):
    """zstd contexts are costly to make and not safe to share between threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)


_codec = _Codec()


def seal_blob(tenant_id: str, blob_id: str, key: bytes, data: Bytes) -> bytes:
    """The stored form of a whole blob. `key`: 32 bytes, used for this blob and no other."""
    if len(data) > PLAIN_PER_FRAME:
        writer = FrameWriter(tenant_id, blob_id, key)
        return writer.write(data) + writer.finish()
    packed = _codec.compressor.compress(data)
    aead = AESGCM(key)
    context = _context(tenant_id, blob_id)
    if len(packed) <= FRAME_SIZE:
        return HEADER + _seal(aead, context, 0, packed, last=True)
    pieces = [packed[at : at + FRAME_SIZE] for at in range(0, len(packed), FRAME_SIZE)]
    end = len(pieces) - 1
    return HEADER + b"".join(_seal(aead, context, n, piece, last=n == end) for n, piece in enumerate(pieces))


def open_blob(tenant_id: str, blob_id: str, key: bytes, stored: Bytes, size: int) -> bytes:
    """The plain bytes of a whole blob of `size` bytes. Raises BlobCorruptError when anything is not as it was
    written.
    """
    view = memoryview(stored)
    body = len(HEADER) + 4
    length = int.from_bytes(view[body - 4 : body], "big")
    if (
        len(view) > body
        and length & _LAST
        and length ^ _LAST == len(view) - body
        and length ^ _LAST <= FRAME_SIZE + _TAG
    ):
        _check_header(view[: len(HEADER)])
        packed = _open(AESGCM(key), _context(tenant_id, blob_id), 0, view[body:], last=True)
        try:
            if zstandard.frame_content_size(packed) == size:
                return _codec.decompressor.decompress(packed)
        except zstandard.ZstdError as error:
            raise BlobCorruptError(f"blob {blob_id} does not decompress") from error
    reader = FrameReader(tenant_id, blob_id, key, size)
    plain = b"".join(reader.feed(stored))
    reader.close()
    return plain


class FrameWriter:
    """Turns a stream of plain bytes into the stored form; keeps at most a frame's worth. Call `finish` exactly once,
    last.
    """

    def __init__(self, tenant_id: str, blob_id: str, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._context = _context(tenant_id, blob_id)
        self._compress = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._packed = bytearray()
        self._plain_in_frame = 0
        self._number = 0
        self._started = False
        self.size = 0
        """Plain bytes taken so far."""

    def write(self, data: Bytes) -> bytes:
        """Take plain bytes; returns what can be stored already, often nothing."""
        out: list[bytes] = []
        self._start(out)
        view = memoryview(data)
        for at in range(0, len(view), _SLICE):
            piece = view[at : at + _SLICE]
            self._packed += self._compress.compress(piece)
            self.size += len(piece)
            self._plain_in_frame += len(piece)
            if self._plain_in_frame >= PLAIN_PER_FRAME:
                self._packed += self._compress.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
            self._emit_full(out)
            if self._plain_in_frame >= PLAIN_PER_FRAME:
                self._emit(out, bytes(self._packed), last=False)
                self._packed.clear()
                self._plain_in_frame = 0
        return b"".join(out)

    def finish(self) -> bytes:
        """The rest of the stored form, the last frame included."""
        out: list[bytes] = []
        self._start(out)
        self._packed += self._compress.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)
        self._emit_full(out)
        self._emit(out, bytes(self._packed), last=True)
        self._packed.clear()
        return b"".join(out)

    def _start(self, out: list[bytes]) -> None:
        if not self._started:
            self._started = True
            out.append(HEADER)

    def _emit_full(self, out: list[bytes]) -> None:
        # strictly more than a frame: the frame that is left over must never be empty, and may be the last
        while len(self._packed) > FRAME_SIZE:
            self._emit(out, bytes(self._packed[:FRAME_SIZE]), last=False)
            del self._packed[:FRAME_SIZE]
            self._plain_in_frame = 0

    def _emit(self, out: list[bytes], packed: bytes, *, last: bool) -> None:
        out.append(_seal(self._aead, self._context, self._number, packed, last=last))
        self._number += 1


class FrameReader:
    """Turns the stored form back into plain bytes, frame by frame; call `close` when the stored bytes have ended."""

    def __init__(self, tenant_id: str, blob_id: str, key: bytes, size: int) -> None:
        """`size`: the plain size that the row states; a blob that yields more or less is corrupt."""
        self._blob_id = blob_id
        self._aead = AESGCM(key)
        self._context = _context(tenant_id, blob_id)
        self._decompress = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()
        self._size = size
        self._given = 0
        self._number = 0
        self._pending = bytearray()
        self._header_seen = False
        self._ended = False

    def feed(self, chunk: Bytes) -> Iterator[bytes]:
        """Take stored bytes (cut anywhere) and yield verified plain bytes. Raises BlobCorruptError."""
        self._pending += chunk
        if not self._header_seen:
            if len(self._pending) < len(HEADER):
                return
            _check_header(memoryview(self._pending)[: len(HEADER)].tobytes())
            del self._pending[: len(HEADER)]
            self._header_seen = True
        at = 0
        try:
            while len(self._pending) - at >= 4:
                if self._ended:
                    break
                length = int.from_bytes(self._pending[at : at + 4], "big")
                last = bool(length & _LAST)
                length &= _LAST - 1
                if not _TAG < length <= FRAME_SIZE + _TAG:
                    raise BlobCorruptError(
                        f"blob {self._blob_id} is corrupt: frame {self._number} has an impossible length"
                    )
                if len(self._pending) - at - 4 < length:
                    break
                sealed = bytes(self._pending[at + 4 : at + 4 + length])
                at += 4 + length
                plain = self._frame(sealed, last=last)
                if plain:
                    yield plain
        finally:
            del self._pending[:at]
        if self._ended and self._pending:
            raise BlobCorruptError(f"blob {self._blob_id} is corrupt: bytes after its last frame")

    def close(self) -> None:
        """Check that the blob ended where it should. Raises BlobCorruptError when it was cut or is not of the stated
        size.
        """
        if not self._ended:
            raise BlobCorruptError(f"blob {self._blob_id} is corrupt: it was cut")
        if self._given != self._size:
            raise BlobCorruptError(
                f"blob {self._blob_id} is corrupt: {self._given} bytes where {self._size} were stored"
            )

    def _frame(self, sealed: bytes, *, last: bool) -> bytes:
        packed = _open(self._aead, self._context, self._number, sealed, last=last)
        self._number += 1
        try:
            plain = self._decompress.decompress(packed)
        except zstandard.ZstdError as error:
            raise BlobCorruptError(f"blob {self._blob_id} does not decompress") from error
        self._given += len(plain)
        self._ended = last
        if self._given > self._size or (last and (not self._decompress.eof or self._decompress.unused_data)):
            raise BlobCorruptError(f"blob {self._blob_id} is corrupt: not the {self._size} bytes that were stored")
        return plain


def _context(tenant_id: str, blob_id: str) -> bytes:
    tenant, blob = tenant_id.encode(), blob_id.encode()
    return b"mailgate blob" + HEADER + bytes((len(tenant),)) + tenant + bytes((len(blob),)) + blob


def _seal(aead: AESGCM, context: bytes, number: int, packed: bytes, *, last: bool) -> bytes:
    nonce = number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")
    length = len(packed) + _TAG | (_LAST if last else 0)
    return length.to_bytes(4, "big") + aead.encrypt(nonce, packed, context + number.to_bytes(8, "big"))


def _open(aead: AESGCM, context: bytes, number: int, sealed: Bytes, *, last: bool) -> bytes:
    nonce = number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")
    try:
        return aead.decrypt(nonce, sealed, context + number.to_bytes(8, "big"))
    except (InvalidTag, ValueError):
        raise BlobCorruptError(f"a blob is corrupt: frame {number} fails verification") from None


def _check_header(header: Bytes) -> None:
    if bytes(header) != HEADER:
        raise BlobCorruptError("a blob is corrupt: it does not start with a header of this version")
