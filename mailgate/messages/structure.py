"""The MIME tree (RFC 2045, 2046) of a message: two parsers, one shape, the leaves with their section numbers.

The fast parser (fast-mail-parser, Rust) reads 99 % of real mail. What it refuses, the standard library's compat32
reads. What neither reads is one text part. Both give nodes with the same attributes; nothing above this module knows
which one was at work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from fast_mail_parser import ParseError, PyLazyMimePart, parse_email_tree

from mailgate.messages.charsets import decode, one_line
from mailgate.messages.fallback import Node, PlainNode, fallback_tree
from mailgate.messages.headers import header_end
from mailgate.messages.model import Limits
from mailgate.messages.words import decode_words

_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,100}/[a-z0-9!#$&^_.+-]{1,100}")
_TYPE_LENGTH = 300  # what is cached must not be as long as a sender likes
_LARGE = 1024 * 1024
_LINE_ENDS = 10_000
_UNGUARDED = 64 * 1024
_DELIMITERS = 20_000
_ENCODED_WORDS = 1_000
_FEW = 200
_COPIED_BYTES = 64 * 1024 * 1024
_HIDDEN_TYPE = re.compile(rb"content-type[ \t]*:[^\n]*=\?")
_BIDI = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PARAMETER = r"""(?:^|[;\s]){name}\*?\s*=\s*(?:"([^"]*)"|([^\s;"]+))"""
_CHARSET = re.compile(_PARAMETER.format(name="charset"), re.IGNORECASE)
_EXTENDED = re.compile(r"[\w-]*'[\w-]*'(.+)")  # RFC 2231 §4: charset'language'value
_FORMAT = re.compile(_PARAMETER.format(name="format"), re.IGNORECASE)
_DELSP = re.compile(_PARAMETER.format(name="delsp"), re.IGNORECASE)


@dataclass(slots=True)
class Leaf:
    """A leaf of the tree: its section number, its type in lower case, and the node itself."""

    part_id: str
    content_type: str
    node: Node
    related: bool
    """Whether it lies in a multipart/related: it is shown inside a body text."""
    _declared: str | None = None

    @property
    def content(self) -> bytes:
        """The decoded bytes."""
        return self.node.content or b""

    @property
    def attached(self) -> bool:
        """Whether the sender marked it as a file."""
        return (self.node.disposition or "").strip().lower() == "attachment"

    def filename(self, limit: int) -> str | None:
        """The file's name: no path, no control or direction characters, at most `limit` characters with its ending
        kept.
        """
        name = self.node.filename
        if not name:
            return None
        if len(name) > 12 * limit:
            name = name[: 11 * limit] + name[-limit:]
        name = one_line(_BIDI.sub("", decode_words(name)), 12 * limit)
        name = name.replace("\\", "/").rpartition("/")[2].strip()
        if len(name) > limit:
            stem, dot, ending = name.rpartition(".")
            name = f"{stem[: limit - len(ending) - 1]}.{ending}" if dot and len(ending) < 20 else name[:limit]
        return name or None

    def content_id(self) -> str | None:
        """Content-ID without brackets (RFC 2392 `cid:` addresses name it so)."""
        value = self.node.content_id
        return one_line(value, 300).strip("<> ") or None if value else None

    def text(self, *, limit: int, most_bytes: int | None = None) -> tuple[str, bool]:
        """The text of a text part and whether its charset was as labelled; `most_bytes` of it are looked at."""
        data = self.content
        cut = most_bytes is not None and len(data) > most_bytes
        if most_bytes is not None and cut:
            while most_bytes and data[most_bytes] & 0xC0 == 0x80:  # not inside a character of UTF-8
                most_bytes -= 1
            data = data[:most_bytes]
        declared = self.declared_type()
        match = _CHARSET.search(declared) if declared else None
        label = (match[1] or match[2]) if match else None
        if label and (extended := _EXTENDED.fullmatch(label)):
            label = extended[1]
        text, as_labelled = decode(data, label)
        return text[:limit], as_labelled or cut

    def flowed(self) -> tuple[bool, bool]:
        """format=flowed, delsp=yes (RFC 3676 §4)."""
        declared = self.declared_type()
        if "flowed" not in declared.lower():
            return False, False
        kind, delsp = _FORMAT.search(declared), _DELSP.search(declared)
        flowed = kind is not None and (kind[1] or kind[2] or "").lower() == "flowed"
        return flowed, delsp is not None and (delsp[1] or delsp[2] or "").lower() == "yes"

    def declared_type(self) -> str:
        """The Content-Type header as it stands, or empty."""
        if self._declared is None:
            self._declared = self._header("Content-Type")
        return self._declared

    def decoded_share(self) -> float:
        """About how many decoded bytes an encoded one gives."""
        base64 = self._header("Content-Transfer-Encoding").strip().lower().startswith("base64")
        return 3 / 4 * 76 / 78 if base64 else 1.0

    def _header(self, name: str) -> str:
        headers = self.node.headers
        found = headers.get(name)
        if found is None:
            wanted = name.lower()
            found = next((values for other, values in headers.items() if other.lower() == wanted), None)
        return found[0] if found else ""


def read_tree(raw: bytes, limits: Limits, defects: list[str]) -> Node:
    """The root of the MIME tree of any bytes; what had to be repaired is added to `defects`. Never raises."""
    if len(raw) > limits.parsed_bytes:
        raw = raw[: limits.parsed_bytes]
        defects.append("not_parsed_whole")
    if raw.find(b"\r\r\n", 0, _LINE_ENDS) >= 0:
        raw = raw.replace(b"\r\r\n", b"\r\n")
        defects.append("doubled_cr")
    elif raw.find(b"\n", 0, _LINE_ENDS) < 0 and raw.find(b"\r", 0, _LINE_ENDS) >= 0:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        defects.append("bare_cr")
    if len(raw) > _UNGUARDED:
        raw, fast = _guarded(raw, defects)
        if not fast:
            return fallback_tree(raw, limits, defects)
    try:
        root = _fast_tree(raw)
    except ParseError:
        return fallback_tree(raw, limits, defects)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, which is no Exception, and has no name to import
            raise
        return fallback_tree(raw, limits, defects)
    if _hollow(root):
        defects.append("multipart_without_parts")
        return PlainNode(content=raw[header_end(raw) :])
    if any(_hollow(child) for child in root.children):
        # an inner boundary that begins like the outer one: by RFC 2046 §5.1.1 the outer one wins, senders mean
        # otherwise
        return fallback_tree(raw, limits, defects)
    return root


def _fast_tree(raw: bytes) -> Node:
    """The fast parser's tree, every transfer encoding undone. Raises ParseError when one can't be."""
    if len(raw) <= _LARGE:
        return parse_email_tree(raw)
    root = parse_email_tree(raw, mode="lazy")  # keeps one copy of what it decodes, not two
    nodes: list[PyLazyMimePart] = [root]
    while nodes:
        node = nodes.pop()
        _ = node.content
        nodes += node.children
    return root


def _guarded(raw: bytes, defects: list[str]) -> tuple[bytes, bool]:
    """Keep what costs the fast parser more than its length suggests from it: the bytes to parse, and whether it may.

    Measured: its time grows with the square of the encoded words in one header; each level of message/rfc822 holds a
    copy of all below it; each part costs half a kilobyte of memory, and a part may be five bytes long.

    A delimiter has a dash, an encoded word a question mark, and a level takes a field, which has a colon. None of them
    is in base64, of which large messages consist: where they are rare, nothing has to be counted.
    """
    if _rare(raw, b"-", _FEW) and _rare(raw, b"?", _FEW) and _rare(raw, b":", min(_FEW, _COPIED_BYTES // len(raw))):
        return raw, True
    if raw.count(b"\n--") > _DELIMITERS:
        at = -1
        for _ in range(_DELIMITERS):
            at = raw.find(b"\n--", at + 1)
        raw = raw[:at]
        defects.append("not_parsed_whole")
    if raw.count(b"=?") > _ENCODED_WORDS:
        return raw, False
    lowered = raw.lower()
    levels = lowered.count(b"message/rfc822") + lowered.count(b"multipart/digest") + len(_HIDDEN_TYPE.findall(lowered))
    return raw, levels * len(raw) <= _COPIED_BYTES


def _rare(raw: bytes, byte: bytes, most: int) -> bool:
    """Whether it occurs at most so often. Looking for a single byte goes thirty times as fast as counting a few."""
    at = -1
    for _ in range(most + 1):
        at = raw.find(byte, at + 1)
        if at < 0:
            return True
    return False


def _hollow(node: Node) -> bool:
    return not node.children and node.content_type[:10].lower() == "multipart/"


def type_of(node: Node, *, in_digest: bool = False) -> str:
    """The content type in lower case, text/plain when it says none (RFC 2045 §5.2), message/rfc822 inside a digest."""
    kind = _known_type(node.content_type[:_TYPE_LENGTH])
    if kind is not None:
        return kind
    return "message/rfc822" if in_digest else "text/plain"


@lru_cache(maxsize=512)
def _known_type(declared: str) -> str | None:
    kind = declared.partition(";")[0].strip().lower()
    return kind if _TYPE.fullmatch(kind) else None


@dataclass(slots=True)
class Body:
    """One piece of what a person reads: its plain and its HTML form, at least one of them."""

    plain: Leaf | None
    html: Leaf | None


def walk(root: Node, limits: Limits, defects: list[str]) -> tuple[list[Leaf], list[Body]]:
    """The leaves in order with IMAP's section numbers, and the body texts among them, picked as a mail program would.

    multipart/alternative: the first plain and the last HTML form, one text in two forms (RFC 2046 §5.1.4).
    multipart/related: the root part is the text. Everything else: the texts of the parts one after the other. A
    message inside (message/rfc822) is a leaf.
    """
    leaves: list[Leaf] = []
    return leaves, _walk(root, "", limits, defects, leaves, depth=0, related=False)


def _walk(
    node: Node, prefix: str, limits: Limits, defects: list[str], leaves: list[Leaf], *, depth: int, related: bool
) -> list[Body]:
    kind = type_of(node)
    if not kind.startswith("multipart/") or node.is_message:
        if len(leaves) >= limits.parts:
            _note(defects, "too_many_parts")
            return []
        leaf = Leaf(prefix or "1", kind, node, related)
        leaves.append(leaf)
        return _body_of(leaf, root=not prefix)
    if depth >= limits.depth:
        _note(defects, "nested_too_deep")
        return []
    found: list[list[Body]] = []
    inside = related or kind == "multipart/related"
    for number, child in enumerate(node.children, 1):
        if len(leaves) >= limits.parts:
            _note(defects, "too_many_parts")
            break
        place = f"{prefix}.{number}" if prefix else str(number)
        found.append(_walk(child, place, limits, defects, leaves, depth=depth + 1, related=inside))
    if kind == "multipart/alternative":
        bodies = [body for group in found for body in group]
        plain = next((body.plain for body in bodies if body.plain is not None), None)
        html = next((body.html for body in reversed(bodies) if body.html is not None), None)
        return [Body(plain, html)] if plain is not None or html is not None else []
    if kind == "multipart/related":
        return next((group for group in found if group), [])
    return [body for group in found for body in group]


def _body_of(leaf: Leaf, *, root: bool) -> list[Body]:
    if leaf.content_type not in ("text/plain", "text/html") or leaf.attached:
        return []
    if leaf.node.filename and not root:
        return []
    return [Body(leaf, None) if leaf.content_type == "text/plain" else Body(None, leaf)]


def _note(defects: list[str], defect: str) -> None:
    if defect not in defects:
        defects.append(defect)
