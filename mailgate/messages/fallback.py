"""The patient parser: the standard library's compat32, for what the fast one refuses (about 1 % of real mail).

It reads broken base64, headers that start with a space, boundaries that resemble each other. What it can't read either
(nesting beyond any sense) becomes one text part, so that a message always has a tree.
"""

from __future__ import annotations

import email.errors
import quopri
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from typing import Protocol

from mailgate.messages.charsets import decode
from mailgate.messages.headers import header_end
from mailgate.messages.model import Limits
from mailgate.messages.words import base64_leniently

# what compat32 was seen to raise on hostile input; the bytes are kept whatever happens here
_FAILURES = (
    RecursionError,
    email.errors.MessageError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


# compat32 compares every line with the boundary of every level around it
_BOUNDARY = re.compile(rb"boundary", re.IGNORECASE)
_COMPARISONS = 4_000_000


class Node(Protocol):
    """What both parsers offer of one MIME part."""

    @property
    def content_type(self) -> str: ...
    @property
    def filename(self) -> str: ...
    @property
    def content_id(self) -> str | None: ...
    @property
    def disposition(self) -> str | None: ...
    @property
    def is_message(self) -> bool: ...
    @property
    def content(self) -> bytes | None: ...
    @property
    def headers(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def children(self) -> Sequence[Node]: ...


@dataclass(slots=True)
class PlainNode:
    """A node made by us: by the fallback, or for a body whose structure is broken."""

    content_type: str = "text/plain"
    filename: str = ""
    content_id: str | None = None
    disposition: str | None = None
    is_message: bool = False
    content: bytes | None = b""
    headers: dict[str, list[str]] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)


def fallback_tree(raw: bytes, limits: Limits, defects: list[str]) -> Node:
    """The tree as the standard library reads it, decoded as far as it can be. Never raises."""
    defects.append("structure_repaired")
    if len(raw) > limits.fallback_bytes:
        raw = raw[: limits.fallback_bytes]
        defects.append("not_parsed_whole")
    if raw.count(b"\n") * len(_BOUNDARY.findall(raw)) > _COMPARISONS:
        defects.append("structure_unreadable")
        return PlainNode(content=raw[header_end(raw) :])
    try:
        message = BytesParser(policy=compat32).parsebytes(raw.lstrip(b" \t\r\n") if raw[:1] in b" \t" else raw)
        return _node(message, limits.depth + 5)
    except _FAILURES:
        defects.append("structure_unreadable")
        return PlainNode(content=raw[header_end(raw) :])


def _node(message: Message, depth: int) -> PlainNode:
    kind = message.get_content_type()
    node = PlainNode(
        content_type=kind,
        filename=_filename(message),
        content_id=_header(message, "Content-ID"),
        disposition=message.get_content_disposition(),
        headers={name: [_header(message, name) or ""] for name in ("Content-Type", "Content-Transfer-Encoding")},
    )
    payload = message.get_payload()
    if isinstance(payload, list) and kind == "message/rfc822":
        node.is_message = True
        node.content = b"".join(_flatten(item) for item in payload if isinstance(item, Message))
    elif isinstance(payload, list) and kind.startswith("multipart/"):
        node.content = None
        if depth > 0:
            node.children = [_node(item, depth - 1) for item in payload if isinstance(item, Message)]
    elif isinstance(payload, list):  # message/delivery-status: blocks of fields
        node.content = b"\n".join(_flatten(item) for item in payload if isinstance(item, Message))
    else:
        node.content = _decoded(message, str(payload))
    return node


def _flatten(message: Message) -> bytes:
    try:
        return message.as_bytes()
    except _FAILURES:  # compat32's generator on odd headers
        return b""


def _decoded(message: Message, payload: str) -> bytes:
    raw = _raw(payload)
    encoding = (_header(message, "Content-Transfer-Encoding") or "").strip().lower()
    if encoding.startswith("base64"):
        return base64_leniently(raw)
    if encoding.startswith("quoted-printable"):
        return quopri.decodestring(raw)
    return raw


def _raw(payload: str) -> bytes:
    """compat32 holds 8-bit bytes as lone surrogates."""
    try:
        return payload.encode("ascii", "surrogateescape")
    except UnicodeEncodeError:
        return payload.encode("utf-8", "replace")


def _header(message: Message, name: str) -> str | None:
    value = message.get(name)
    return None if value is None else _repaired(str(value))


def _filename(message: Message) -> str:
    try:
        name = message.get_filename("")
    except _FAILURES:  # RFC 2231 parameters that contradict themselves
        return ""
    return _repaired(str(name))


def _repaired(text: str) -> str:
    """Header text of compat32 with its 8-bit bytes read as text."""
    if text.isascii():
        return text
    return decode(text.encode("utf-8", "surrogateescape"), None)[0]
