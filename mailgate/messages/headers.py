"""The header part of a message: where it ends, what identifies it, and the fields a listing needs.

`header_digest_input` is the identity of a message for tombstones: the same bytes whether they were fetched as
BODY[HEADER] or cut from the whole message, and whatever the server does to line ends. The store keys it (HMAC) before
it is kept.
"""

from __future__ import annotations

import re
from calendar import timegm
from datetime import date
from email.utils import parsedate_tz

from mailgate.clock import SECOND, Instant
from mailgate.messages.addresses import parse_addresses
from mailgate.messages.charsets import decode, one_line
from mailgate.messages.model import Address, Limits
from mailgate.messages.words import decode_words

_FIELD = re.compile(rb"\n([^\n:\t ]++)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)")
_WANTED = frozenset(
    b"subject from sender reply-to to cc bcc date message-id in-reply-to references content-type".split()
)
_SINGLE = frozenset(
    [b"subject", b"from", b"sender", b"reply-to", b"date", b"message-id", b"in-reply-to", b"references"]
)
_CRLF = re.compile(rb"\r++\n")
_FOLD = re.compile(r"\n[ \t]*")
_ID = re.compile(r"<[^<>\n]{1,998}>")
_ONE_ID = re.compile(r"<[!-;=?-~]{1,996}>")
_USUAL_DATE = re.compile(
    r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), )?(\d\d?) (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) ((?:19|20)\d\d)"
    r" (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)(?: \([A-Z]{1,5}\))?",
    re.ASCII,
)
_MONTHS = {name: at for at, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}
_EPOCH = date(1970, 1, 1).toordinal()
_CHARSET = re.compile(rb"charset\*?\s*=\s*[\"']?([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_MIN_AT = -62_135_596_800 * SECOND
_MAX_AT = 253_402_300_799 * SECOND


def header_end(raw: bytes | bytearray | memoryview) -> int:
    """The index of the first byte of the body: behind the first blank line, or the end when there is none."""
    data = bytes(raw) if isinstance(raw, memoryview) else raw
    if data[:1] == b"\n":
        return 1
    if data[:2] == b"\r\n":
        return 2
    crlf = data.find(b"\n\r\n")
    bare = data.find(b"\n\n") if crlf < 0 else data.find(b"\n\n", 0, crlf + 1)
    if bare >= 0:
        return bare + 2
    return crlf + 3 if crlf >= 0 else len(data)


def header_block(raw: bytes | bytearray | memoryview) -> bytes:
    """The header part, its blank line included: what a server sends as BODY[HEADER] (RFC 9051 §6.4.5)."""
    return bytes(raw[: header_end(raw)])


def header_digest_input(raw_or_header: bytes | bytearray | memoryview) -> bytes:
    """The header with line ends as LF and none at the end: equal for a whole message and for its BODY[HEADER]."""
    header = header_block(raw_or_header).replace(b"\r\n", b"\n")
    return (_CRLF.sub(b"\n", header) if b"\r\n" in header else header).rstrip(b"\r\n")


class Fields:
    """The fields of one header that a listing needs, decoded on demand from the raw bytes."""

    __slots__ = ("_charset", "_limits", "_values", "defects")

    def __init__(self, header: bytes, limits: Limits) -> None:
        """`header`: the header part, any line ends."""
        if len(header) > limits.header_bytes:
            header = header[: limits.header_bytes]
        if b"\r" in header:
            plain = header.replace(b"\r\n", b"\n")
            if b"\r" in plain:
                plain = header.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            header = plain
        if b"\0" in header:
            header = header.replace(b"\0", b"")
        self.defects: list[str] = []
        self._limits = limits
        values: dict[bytes, list[bytes]] = {}
        for name, value in _FIELD.findall(b"\n" + header):
            known = name.lower()
            if known in _WANTED:
                values.setdefault(known, []).append(value)
        self._values = values
        self._charset: str | None = None
        if not header.isascii():
            types = values.get(b"content-type")
            charset = _CHARSET.search(types[0]) if types else None
            self._charset = charset[1].decode("ascii") if charset else None
            self._note("header_8bit")
        for name, found in values.items():
            if len(found) > 1 and name in _SINGLE:
                self._note("header_repeated")
                break

    def subject(self) -> str:
        """The decoded subject, one line."""
        # twelve: what a character may take in an encoded word
        text = self._first(b"subject")[: 12 * self._limits.subject]
        return one_line(decode_words(text, self._charset), self._limits.subject)

    def addresses(self, name: bytes) -> tuple[Address, ...]:
        """The mailboxes of a header. Of To, Cc and Bcc all occurrences count, of the others the first."""
        values = self._values.get(name)
        if not values:
            return ()
        if len(values) > 1 and name not in _SINGLE:
            return parse_addresses(self._text(b",".join(values)), self._limits, self._charset)
        return parse_addresses(self._text(values[0]), self._limits, self._charset)

    def date(self) -> Instant | None:
        """The Date: header (RFC 5322 §3.3 and its obsolete forms), None when there is none or it says nothing."""
        text = self._first(b"date")
        if not text:
            return None
        at = parse_date(text)
        if at is None:
            self._note("date_unreadable")
        return at

    def message_ids(self, name: bytes) -> tuple[str, ...]:
        """The message ids of a header, each once, in order; at most `limits.references`, the first and the last
        ones.
        """
        text = self._first(name)
        if not text:
            return ()
        if _ONE_ID.fullmatch(text):  # nearly every message's own, and most In-Reply-To
            return (text,) if len(text) <= self._limits.message_id else ()
        found = list(dict.fromkeys(self._id(item) for item in _ID.findall(text)))
        if not found and name != b"in-reply-to":
            words = text.strip("<> ").split()
            found = [self._id(f"<{words[0]}>")] if len(words) == 1 else []
        if len(found) > self._limits.references:
            found = [found[0], *found[len(found) - self._limits.references + 1 :]]
        return tuple(item for item in found if len(item) <= self._limits.message_id)

    def _id(self, text: str) -> str:
        return "".join(one_line(text, self._limits.message_id + 1).split())

    def _first(self, name: bytes) -> str:
        values = self._values.get(name)
        return self._text(values[0]) if values else ""

    def _text(self, value: bytes) -> str:
        text = value.decode("ascii") if value.isascii() else decode(value, None, self._charset)[0]
        return (_FOLD.sub(" ", text) if "\n" in text else text).strip()

    def _note(self, defect: str) -> None:
        if defect not in self.defects:
            self.defects.append(defect)


def parse_date(text: str) -> Instant | None:
    """An RFC 5322 date as an instant; a missing zone is read as UTC; None when it is no date between the years 1 and
    9999.
    """
    if usual := _USUAL_DATE.fullmatch(text):
        day, month, year, hours, minutes, seconds, sign, zone_hours, zone_minutes = usual.groups()
        days = date(int(year), _MONTHS[month], 1).toordinal() - _EPOCH + int(day) - 1
        zone = int(zone_hours) * 3_600 + int(zone_minutes) * 60
        at = days * 86_400 + int(hours) * 3_600 + int(minutes) * 60 + int(seconds)
        return (at - zone if sign == "+" else at + zone) * SECOND
    try:
        fields = parsedate_tz(text[:200])
        if fields is None:
            return None
        at = (timegm((*fields[:6], 0, 1, 0)) - (fields[9] or 0)) * SECOND
    except (ValueError, TypeError, IndexError, OverflowError):  # what parsedate_tz and timegm raise on nonsense
        return None
    return at if _MIN_AT <= at <= _MAX_AT else None
