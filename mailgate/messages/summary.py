"""The summary of a message as bytes, and sealed: the one encrypted column that the database holds of a message's
content.

    encoded = version and packing (1 byte) ‖ compact JSON, or zstd of it when that is shorter
    sealed  = see mailgate.keys.wrap; bound to the message's id

The nonce is random, because a message's key may seal several summaries (a later version of the parser writes a new
one).
"""

from __future__ import annotations

import json
import threading
from typing import Any

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailgate.errors import MailgateError
from mailgate.keys.errors import KeyUnwrapError
from mailgate.keys.wrap import unwrap, wrap
from mailgate.messages.model import Address, Part, Summary

_PLAIN = 0x10
_ZSTD = 0x11
_WORTH_PACKING = 600
_LARGEST = 64 * 1024 * 1024
_CONTEXT = b"mailgate summary\0"
_ADDRESS_FIELDS = ("from_", "sender", "reply_to", "to", "cc", "bcc")


class SummaryCorruptError(MailgateError):
    """The sealed or encoded summary is not one: changed, cut, of another message, or of a version not known here."""

    default_slug = "summary_corrupt"


class _Codec(threading.local):
    def __init__(self) -> None:
        self.pack = zstandard.ZstdCompressor(level=1).compress
        self.unpack = zstandard.ZstdDecompressor().decompress


_codec = _Codec()
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def encode_summary(summary: Summary) -> bytes:
    """The summary as bytes (of a ParsedMessage: without its bodies). Empty fields take no room."""
    fields: dict[str, Any] = {}
    if summary.subject:
        fields["s"] = summary.subject
    for number, name in enumerate(_ADDRESS_FIELDS):
        if found := getattr(summary, name):
            fields[f"a{number}"] = found
    if summary.date is not None:
        fields["d"] = summary.date
    if summary.rfc_message_id is not None:
        fields["i"] = summary.rfc_message_id
    if summary.in_reply_to:
        fields["r"] = summary.in_reply_to
    if summary.references:
        fields["R"] = summary.references
    if summary.snippet:
        fields["t"] = summary.snippet
    if summary.parts:
        fields["p"] = summary.parts
    if summary.has_files:
        fields["f"] = 1
    if summary.defects:
        fields["x"] = summary.defects
    plain = _encode(fields).encode()
    if len(plain) >= _WORTH_PACKING:
        packed = _codec.pack(plain)
        if len(packed) < len(plain):
            return bytes((_ZSTD,)) + packed
    return bytes((_PLAIN,)) + plain


def decode_summary(encoded: bytes) -> Summary:
    """What `encode_summary` was given. Raises SummaryCorruptError."""
    try:
        plain = encoded[1:]
        if encoded[:1] == bytes((_ZSTD,)):
            if not 0 <= zstandard.frame_content_size(plain) <= _LARGEST:
                raise SummaryCorruptError("a summary has an impossible size")
            plain = _codec.unpack(plain)
        elif encoded[:1] != bytes((_PLAIN,)):
            raise SummaryCorruptError("a summary is of a version that is not known here")
        fields = json.loads(plain)
        addresses = {
            name: tuple(Address(*item) for item in fields.get(f"a{number}", ()))
            for number, name in enumerate(_ADDRESS_FIELDS)
        }
        return Summary(
            subject=fields.get("s", ""),
            date=fields.get("d"),
            rfc_message_id=fields.get("i"),
            in_reply_to=tuple(fields.get("r", ())),
            references=tuple(fields.get("R", ())),
            snippet=fields.get("t", ""),
            parts=tuple(Part(*item) for item in fields.get("p", ())),
            has_files=bool(fields.get("f")),
            defects=tuple(fields.get("x", ())),
            **addresses,
        )
    except (ValueError, TypeError, AttributeError, zstandard.ZstdError) as error:
        raise SummaryCorruptError("a summary can't be decoded") from error


def seal_summary(key: bytes, message_id: str, data: bytes) -> bytes:
    """Encrypt an encoded summary under the message's data key (32 bytes), bound to the message's id."""
    return wrap(AESGCM(key), data, _CONTEXT + message_id.encode())


def open_summary(key: bytes, message_id: str, sealed: bytes) -> bytes:
    """The encoded summary. Raises SummaryCorruptError when it was changed or is another message's."""
    try:
        return unwrap(AESGCM(key), sealed, _CONTEXT + message_id.encode())
    except KeyUnwrapError:
        raise SummaryCorruptError("a sealed summary does not open: changed, or of another message") from None
