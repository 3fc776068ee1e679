"""Folder names on the wire: modified UTF-7 (RFC 3501 §5.1.3) both ways, without losing what odd servers send.

Two laws, for all bytes and all text, kept by property tests:

1. `encode_name(decode_name(raw)) == raw`: what a server called a folder is what it hears again, to the byte.
2. `decode_name(encode_name(text)) == text` for text without lone surrogates and NUL that does not begin with one of the
   marks.

No decoded name holds NUL, which databases and C programs can't keep.

Names that are no canonical modified UTF-7 (raw UTF-8, Latin-1, broken or superfluous shift sequences, lone surrogates)
would break law 1, since their encoding differs from what came. They are kept as they are behind an invisible mark,
which says how to get the bytes back. So no table per connection is needed: a name alone is enough, also after a
restart.
"""

from __future__ import annotations

import binascii
import re

RAW_UTF8_MARK = "\u2063"
"""INVISIBLE SEPARATOR: the rest of the name is the wire's bytes read as UTF-8."""

RAW_LATIN1_MARK = "\u2064"
"""INVISIBLE PLUS: the rest of the name is the wire's bytes read as Latin-1."""

_MARKS = (RAW_UTF8_MARK, RAW_LATIN1_MARK)
_ENCODED_RUN = re.compile(r"[^\x20-\x7e]+|&")
_SHIFT = re.compile(rb"&([A-Za-z0-9+,]*)-")
_DIRECT = re.compile(rb"[\x20-\x25\x27-\x7e]*")


def encode_name(name: str) -> bytes:
    """The bytes to send for a folder name. Raises ValueError for text that has no UTF-16 form (lone surrogates)."""
    if name.startswith(RAW_UTF8_MARK):
        return name[1:].encode()
    if name.startswith(RAW_LATIN1_MARK):
        try:
            return name[1:].encode("latin-1")
        except UnicodeEncodeError:
            # Nothing that decode_name returned; a name that somebody typed: an ordinary one.
            return _encode(name)
    return _encode(name)


def decode_name(raw: bytes) -> str:
    """The text of a folder name as it came; never fails."""
    text = _decode(raw)
    if text is not None and "\0" not in text and not text.startswith(_MARKS) and _encode(text) == raw:
        return text
    try:
        return RAW_UTF8_MARK + raw.decode()
    except UnicodeDecodeError:
        return RAW_LATIN1_MARK + raw.decode("latin-1")


def _encode(name: str) -> bytes:
    return _ENCODED_RUN.sub(_shift_out, name).encode("ascii")


def _shift_out(run: re.Match[str]) -> str:
    text = run[0]
    if text == "&":
        return "&-"
    base64 = binascii.b2a_base64(text.encode("utf-16-be"), newline=False).decode("ascii")
    return "&" + base64.rstrip("=").replace("/", ",") + "-"


def _decode(raw: bytes) -> str | None:
    """The strict decoding, or None. The caller checks that it is reversible, so superfluous shifts need no care
    here.
    """
    parts: list[str] = []
    at = 0
    while at < len(raw):
        direct = _DIRECT.match(raw, at)
        if direct is not None and direct.end() > at:
            parts.append(direct[0].decode("ascii"))
            at = direct.end()
            continue
        shift = _SHIFT.match(raw, at)
        if shift is None:
            return None
        base64 = shift[1].replace(b",", b"/")
        try:
            units = binascii.a2b_base64(base64 + b"=" * (-len(base64) % 4), strict_mode=True) if base64 else b""
            parts.append(units.decode("utf-16-be") if base64 else "&")
        except ValueError:
            return None
        at = shift.end()
    return "".join(parts)
