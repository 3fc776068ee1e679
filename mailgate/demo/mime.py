"""Messages as bytes, the way mail programs write them: RFC 5322 headers, RFC 2047 words, RFC 2045 bodies, RFC 2231
names.

Written by hand instead of with `email.message`, because a benchmark needs hundreds of megabytes of it in seconds, and
because the wild's spellings (ISO-2022-JP words, 8-bit bodies, raw 8-bit headers) are wanted here, not mended.
"""

from __future__ import annotations

import base64
import quopri
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

CRLF = b"\r\n"
_WORD_LIMIT = 75  # RFC 2047 §2: an encoded word has at most 75 characters


@dataclass(frozen=True, slots=True)
class Part:
    """A MIME entity: its own header lines (no CRLF) and its encoded body."""

    headers: tuple[bytes, ...]
    body: bytes

    def __bytes__(self) -> bytes:
        return CRLF.join((*self.headers, b"", self.body))


def usable(text: str, charset: str) -> str:
    """`charset` when it can hold `text`, else UTF-8: what mail programs do."""
    try:
        text.encode(charset)
    except UnicodeEncodeError:
        return "utf-8"
    return charset


def words(text: str, charset: str, *, q: bool = False) -> str:
    """`text` for an unstructured header or a phrase: as it is when ASCII, else encoded words (RFC 2047) to be folded
    at spaces.
    """
    if text.isascii():
        return text
    charset = usable(text, charset)
    out: list[str] = []
    rest = text
    while rest:
        take = len(rest)
        while len(word := _word(rest[:take], charset, q=q)) > _WORD_LIMIT:
            take = max(1, take * _WORD_LIMIT // len(word))
        out.append(word)
        rest = rest[take:]
    return " ".join(out)


def _word(text: str, charset: str, *, q: bool) -> str:
    raw = text.encode(charset)
    if not q:
        return f"=?{charset}?B?{base64.b64encode(raw).decode()}?="
    encoded = "".join(
        chr(byte) if chr(byte).isalnum() and byte < 0x80 else "_" if byte == 0x20 else f"={byte:02X}" for byte in raw
    )
    return f"=?{charset}?Q?{encoded}?="


def mailbox(name: str, address: str, charset: str, *, q: bool = False) -> str:
    """RFC 5322 §3.4: `Name <address>`, the name quoted or encoded where it must be."""
    if not name:
        return address
    if name.isascii():
        return f"{name} <{address}>" if name.replace(" ", "").isalnum() else f'"{name}" <{address}>'
    return f"{words(name, charset, q=q)} <{address}>"


def field(name: str, value: str) -> bytes:
    """One header field, folded before column 78 where a space allows it (RFC 5322 §2.2.3)."""
    lines, line = [], f"{name}:"
    for word in value.split(" "):
        if len(line) + 1 + len(word) > 78 and line != f"{name}:":
            lines.append(line)
            line = ""
        line += " " + word
    return CRLF.join(text.encode("ascii") for text in (*lines, line))


def text_part(text: str, charset: str, *, subtype: str = "plain", encoding: str = "quoted-printable") -> Part:
    """A text entity. `encoding` 7bit becomes quoted-printable when the text is not ASCII; 8bit is sent as it is."""
    charset = usable(text, charset)
    raw = text.replace("\n", "\r\n").encode(charset)
    # ISO-2022-JP is seven-bit by nature and travels as such.
    seven_bit = all(byte < 0x80 for byte in raw) if len(raw) < 1_000_000 else False
    if encoding == "7bit" and not seven_bit:
        encoding = "quoted-printable"
    if encoding == "quoted-printable":
        body = quopri.encodestring(raw.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
    elif encoding == "base64":
        body = lines_of_base64(raw)
    else:
        body = raw
    return Part(
        (
            f"Content-Type: text/{subtype}; charset={charset}".encode(),
            f"Content-Transfer-Encoding: {encoding}".encode(),
        ),
        body,
    )


def file_part(filename: str, content_type: str, data: bytes, *, inline_id: str | None = None) -> Part:
    """An attachment, or with `inline_id` a picture that the HTML shows (RFC 2392). A name beyond ASCII follows RFC
    2231.
    """
    parameter = f'filename="{filename}"' if filename.isascii() else f"filename*=UTF-8''{quote(filename)}"
    headers = [
        f"Content-Type: {content_type}".encode(),
        b"Content-Transfer-Encoding: base64",
        f"Content-Disposition: {'inline' if inline_id else 'attachment'};\r\n {parameter}".encode(),
    ]
    if inline_id:
        headers.append(f"Content-ID: <{inline_id}>".encode())
    return Part(tuple(headers), lines_of_base64(data))


def multipart(subtype: str, parts: Sequence[Part], boundary: str, *, parameters: str = "") -> Part:
    """RFC 2046 §5.1. `boundary` must not occur in the parts."""
    delimiter = b"--" + boundary.encode()
    body = b"".join(delimiter + CRLF + bytes(part) + CRLF for part in parts) + delimiter + b"--" + CRLF
    return Part((f'Content-Type: multipart/{subtype};{parameters} boundary="{boundary}"'.encode(),), body)


def message(headers: Iterable[bytes], content: Part) -> bytes:
    """The whole message: `headers` are complete fields without their last CRLF."""
    return CRLF.join((*headers, b"MIME-Version: 1.0", bytes(content)))


def lines_of_base64(data: bytes) -> bytes:
    """Base64 in lines of 76 characters with CRLF (RFC 2045 §6.8); 57 bytes make one."""
    encoded = base64.b64encode(data)
    return CRLF.join(encoded[start : start + 76] for start in range(0, len(encoded), 76)) + CRLF
