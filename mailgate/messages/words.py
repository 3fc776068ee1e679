"""Encoded words in headers (RFC 2047), as they are met, not only as they should be.

Read besides what the RFC allows: words inside quoted strings and file names, blanks and line breaks inside them, a
character cut in two by the border of two words, unknown and wrong charsets, broken base64, a language tag (RFC 2231
§5), raw 8-bit text around.
"""

from __future__ import annotations

import binascii
import re

from mailgate.messages.charsets import decode

_WORD = re.compile(r"=\?([^?\s]{1,80})\?([bBqQ])\?([^?]*)\?=")
_BETWEEN = re.compile(r"\s*")
_Q = re.compile(rb"=([0-9A-Fa-f]{2})")
_BLANK_LINE = re.compile(rb"\S[ \t]*\r?\n[ \t]*\r?\n")
_FOREIGN = re.compile(rb"[^A-Za-z0-9+/=\s]")
_PADDING = re.compile(rb"=[=\s]*")
_SEGMENTS = 1_000
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")


def decode_words(text: str, guess: str | None = None) -> str:
    """The text with its encoded words decoded; what can't be decoded at all stays as it is written."""
    if "=?" not in text:
        return text
    out: list[str] = []
    at = 0
    pending = b""
    pending_key: tuple[str, str] | None = None

    def flush() -> None:
        nonlocal pending, pending_key
        if pending_key is not None:
            out.append(decode(pending, pending_key[0], guess)[0])
            pending, pending_key = b"", None

    for match in _WORD.finditer(text):
        between = text[at : match.start()]
        charset = match[1].partition("*")[0].lower()
        key = (charset, match[2].lower())
        data = _bytes_of(key[1], match[3])
        if pending_key is None or between.strip():
            flush()
            out.append(between)
        elif pending_key != key:  # white space between two encoded words is no text (§6.2)
            flush()
        pending += data
        pending_key = key
        at = match.end()
    flush()
    out.append(text[at:])
    return "".join(out)


def _bytes_of(encoding: str, payload: str) -> bytes:
    raw = payload.encode("utf-8", "replace")
    if encoding == "q":
        return unhex(raw.replace(b"_", b" "))
    return base64_leniently(raw)


def unhex(raw: bytes) -> bytes:
    """`=XX` to bytes; what is no such thing stays."""
    return _Q.sub(lambda match: binascii.unhexlify(match[1]), raw)


def base64_leniently(raw: bytes) -> bytes:
    """Base64 with anything wrong about it. Foreign characters are skipped, missing padding is added, a lone character
    dropped.

    Where the text plainly ends (padding, or a blank line before what is no base64: footers that lists and scanners
    append), it ends.
    """
    if (blank := _BLANK_LINE.search(raw)) and _FOREIGN.search(raw, blank.end()):
        raw = raw[: blank.end()]
    first, *others = [_NOT_BASE64.sub(b"", piece) for piece in _PADDING.split(raw, maxsplit=_SEGMENTS)]
    out = _unpadded(first)
    for piece in others:  # base64 texts one after the other, each with its padding
        if len(piece) < 4:
            break
        out += _unpadded(piece)
    return out


def _unpadded(kept: bytes) -> bytes:
    if len(kept) % 4 == 1:
        kept = kept[:-1]
    return binascii.a2b_base64(kept + b"=" * (-len(kept) % 4))
