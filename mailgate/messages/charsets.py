"""Bytes of mail to text, whatever the label says.

A label is a hint: wrong, unknown and missing ones are normal in mail. What is tried, in order: the label, mapped as
browsers do it (the WHATWG Encoding Standard reads ISO-8859-1 as windows-1252, GB2312 as GB18030, and so on); UTF-8; a
guess that the caller has; windows-1252. Decoding never fails, and never yields NUL or lone surrogates.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

_SUPERSETS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "latin_1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "hz": "hz",
    "euc_kr": "cp949",
    "shift_jis": "cp932",
    "big5": "cp950",
    "iso2022_jp": "iso2022_jp_ext",
}
_ALIASES = {
    "unicode-1-1-utf-7": "utf-7",
    "unicode-1-1-utf-8": "utf-8",
    "x-unicode-2-0-utf-7": "utf-7",
    "utf8mb4": "utf-8",
    "utf-8mb4": "utf-8",
    "utf8mb3": "utf-8",
    "ks_c_5601-1987": "cp949",
    "ks_c_5601-1989": "cp949",
    "ksc5601": "cp949",
    "ksc_5601": "cp949",
    "windows-949": "cp949",
    "x-windows-949": "cp949",
    "windows-31j": "cp932",
    "x-sjis": "cp932",
    "x-gbk": "gb18030",
    "x-euc-jp": "euc_jp",
    "x-euc-kr": "cp949",
    "x-big5": "cp950",
    "x-x-big5": "cp950",
    "cn-big5": "cp950",
    "cn-gb": "gb18030",
    "gb_2312-80": "gb18030",
    "csgb2312": "gb18030",
    "iso-2022-cn": "gb18030",
    "iso-10646-ucs-2": "utf-16-be",
    "macintosh": "mac-roman",
    "x-mac-roman": "mac-roman",
    "x-mac-cyrillic": "mac-cyrillic",
    "x-mac-ce": "mac-latin2",
    "dos-874": "cp874",
    "windows-874": "cp874",
    "logical": "iso8859-8",
    "visual": "iso8859-8",
}
_UNLABELLED = frozenset(
    {"", "default", "unknown", "unknown-8bit", "x-unknown", "x-user-defined", "_autodetect", "_autodetect_all", "none"}
    | {"8bit", "7bit", "8-bit", "binary", "iso", "ansi", "charset", "utf", "text", "plain", "us", "(null)", "null"}
)
# text codecs of Python that no mail means, some of them slow or able to run away
_NEVER = frozenset(["punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem", "palmos"])
_JUNK = re.compile(r"""[\s"'<>;,\[\]]+""")
_CODE_PAGE = re.compile(r"(?:x-)?(?:cp|windows|win|ibm|microsoft-cp|ms|dos|x-cp)[-_]?(\d{3,4})")
_ISO = re.compile(r"iso[-_ ]?8859[-_ ]?(\d{1,2})")
_PREFIX = re.compile(r"(utf-?8|us-ascii|windows-125\d|iso-?8859-\d{1,2}|gb2312|koi8-[ru])")
_LABEL = 64  # what is cached must not be as long as a sender likes
_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f\u2028\u2029]+")


def codec_for(label: str) -> str | None:
    """The Python codec for a charset label of mail, or None when the label says nothing or is unknown."""
    return _codec_for(label[:_LABEL])


@lru_cache(maxsize=512)
def _codec_for(label: str) -> str | None:
    name = _JUNK.sub("", label).lower()
    if name in _UNLABELLED or not name.isascii():
        return None
    name = _ALIASES.get(name, name)
    if match := _CODE_PAGE.fullmatch(name):
        name = f"cp{match[1]}"
    elif match := _ISO.match(name):
        name = f"iso8859-{match[1]}"
    found = _lookup(name)
    if found is None and (match := _PREFIX.match(name)):
        found = _lookup(match[1])
    return found


def _lookup(name: str) -> str | None:
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError, UnicodeError):
        return None
    if not info._is_text_encoding or info.name.replace("-", "_") in _NEVER:
        return None
    return _SUPERSETS.get(info.name, info.name)


def decode(data: bytes, label: str | None, guess: str | None = None) -> tuple[str, bool]:
    """The text, clean, and whether it was read as labelled without loss. `guess` is another label to try when this one
    fails.
    """
    if data.isascii() and (label is None or not _escapes(label[:_LABEL])):
        return _clean(data.decode("ascii")), True
    codec = codec_for(label) if label else None
    if codec is not None and not _ASCII.match(label or ""):
        try:
            return _clean(data.decode(codec)), True
        except (UnicodeError, ValueError):
            pass
    for other in ("utf-8", codec_for(guess) if guess else None):
        if other is not None and other != codec:
            try:
                return _clean(data.decode(other)), False
            except (UnicodeError, ValueError):
                continue
    if codec is not None:
        text = data.decode(codec, "replace")
        if text.count("\ufffd") * 50 <= len(text):  # a few broken characters in a text that is otherwise what it says
            return _clean(text), False
    return _clean(_western(data)), False


# who says ASCII and sends more means it no more than who says nothing
_ASCII = re.compile(r"\W*(?:us-?)?ascii|\W*ansi_x3\.4", re.IGNORECASE)
# encodings whose bytes are all ASCII (or may be): the shortcut for ASCII would show their escapes
_SEVEN_BIT = re.compile(
    r"\W*(?:x-)?(?:unicode|utf-?7|utf-?16|utf-?32|iso-?2022|hz|cp037|ibm|ucs|iso-10646|cp\d)", re.IGNORECASE
)


@lru_cache(maxsize=512)
def _escapes(label: str) -> bool:
    return _SEVEN_BIT.match(label) is not None


def _western(data: bytes) -> str:
    """windows-1252, its five undefined bytes read as ISO-8859-1's controls: defined for every byte."""
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _clean(text: str) -> str:
    if "\0" in text:
        text = text.replace("\0", "")
    return text if text.isascii() else _SURROGATES.sub("", text)


def clean(text: str) -> str:
    """Text without NUL and lone surrogates."""
    return _clean(text)


def one_line(text: str, limit: int) -> str:
    """Clean text for a header field: no control characters, runs of white space as one blank, at most `limit`
    characters.
    """
    if len(text) > 4 * limit + 100:
        text = text[: 4 * limit + 100]
    if text.isascii() and text.isprintable():  # nothing to clean
        if "  " in text or text[:1] == " ":
            text = " ".join(text.split())
        return text[:limit].rstrip()
    return " ".join(_CONTROLS.sub(" ", _clean(text)).split())[:limit].rstrip()
