"""From the bytes of a message to what people and programs see of it.

Two depths: `parse_summary` is what the import needs of every message (header fields, snippet, parts); `parse` adds the
bodies.

M1  Any bytes give a result: nothing here raises on a message, however broken. What was wrong stands in `defects`.
M2  Every text is free of NUL and lone surrogates, and bounded by `Limits`.
M3  The raw bytes are never changed; they are stored elsewhere, byte for byte.
M4  The same bytes always give the same result.
"""

from __future__ import annotations

from typing import TypedDict

from mailgate.clock import Instant
from mailgate.errors import NotFoundError
from mailgate.messages.fallback import Node
from mailgate.messages.flowed import unflow
from mailgate.messages.headers import Fields, header_end
from mailgate.messages.html import html_to_text, text_to_html
from mailgate.messages.model import DEFAULT_LIMITS, Address, Limits, ParsedMessage, Part, Summary
from mailgate.messages.snippet import snippet_of
from mailgate.messages.structure import Body, Leaf, read_tree, walk

_NO_FILES = frozenset(
    {"application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature"}
    | {"application/pgp-encrypted", "message/delivery-status", "message/disposition-notification"}
    | {"message/feedback-report", "text/rfc822-headers"}
)
"""Types that serve programs: no person looks for them as files."""
_SNIPPET_BYTES = 4 * 1024
_SNIPPET_HTML_BYTES = 96 * 1024


def parse_summary(
    raw: bytes | memoryview, *, limits: Limits = DEFAULT_LIMITS, whole_size: int | None = None
) -> Summary:
    """What a listing needs of a message: header fields, snippet, parts. Never raises on any bytes.

    `raw` may be the beginning of a larger message of `whole_size` bytes: parts behind it are not known, and the size of
    the part that was cut is reckoned from what is missing.
    """
    reading = _Reading(bytes(raw), limits, whole_size)
    return Summary(snippet=reading.snippet(), **reading.common())


def parse(raw: bytes | memoryview, *, limits: Limits = DEFAULT_LIMITS) -> ParsedMessage:
    """The summary and the bodies: `text`, and `html` as the sender wrote it. Never raises on any bytes."""
    reading = _Reading(bytes(raw), limits)
    text, html = reading.text(), reading.html()
    return ParsedMessage(snippet=reading.snippet(), text=text, html=html, **reading.common())


def part_content(raw: bytes | memoryview, part_id: str, *, limits: Limits = DEFAULT_LIMITS) -> tuple[Part, bytes]:
    """One part and its decoded bytes. Raises NotFoundError when the message has no part of this number."""
    reading = _Reading(bytes(raw), limits)
    for leaf, part in zip(reading.leaves, reading.parts(), strict=True):
        if part.part_id == part_id:
            return part, leaf.content
    raise NotFoundError(f"the message has no part {part_id[:40]!r}")


class _Common(TypedDict):
    subject: str
    from_: tuple[Address, ...]
    sender: tuple[Address, ...]
    reply_to: tuple[Address, ...]
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    bcc: tuple[Address, ...]
    date: Instant | None
    rfc_message_id: str | None
    in_reply_to: tuple[str, ...]
    references: tuple[str, ...]
    parts: tuple[Part, ...]
    has_files: bool
    defects: tuple[str, ...]


class _Reading:
    """One message while it is being read."""

    def __init__(self, raw: bytes, limits: Limits, whole_size: int | None = None) -> None:
        self._limits = limits
        self._missing = 0
        self.defects: list[str] = []
        if whole_size is not None and whole_size > len(raw):
            raw = raw[: raw.rfind(b"\n") + 1 or len(raw)]  # not inside a line: base64 ends well then
            self._missing = whole_size - len(raw)
            self.defects.append("not_parsed_whole")
        self._fields = Fields(raw[: min(header_end(raw), limits.header_bytes)].lstrip(b" \t"), limits)
        root = read_tree(raw, limits, self.defects)
        self.leaves, self._bodies = walk(root, limits, self.defects)
        if not self._bodies and len(self.leaves) == 1 and self.leaves[0].content_type.startswith("text/"):
            self._promote(root)

    def _promote(self, root: Node) -> None:
        """A message that is nothing but one text is that text, marked as a file or not."""
        leaf = self.leaves[0]
        if leaf.content_type == "text/html":
            self._bodies = [Body(None, leaf)]
        elif leaf.content_type in ("text/plain", "text/enriched") and not root.children:
            self._bodies = [Body(leaf, None)]

    def common(self) -> _Common:
        fields, limits = self._fields, self._limits
        message_ids = fields.message_ids(b"message-id")
        parts = self.parts()
        bodies = self._body_ids()
        return _Common(
            subject=fields.subject(),
            from_=fields.addresses(b"from"),
            sender=fields.addresses(b"sender"),
            reply_to=fields.addresses(b"reply-to"),
            to=fields.addresses(b"to"),
            cc=fields.addresses(b"cc"),
            bcc=fields.addresses(b"bcc"),
            date=fields.date(),
            rfc_message_id=message_ids[0] if message_ids else None,
            in_reply_to=fields.message_ids(b"in-reply-to"),
            references=fields.message_ids(b"references"),
            parts=tuple(parts),
            has_files=any(_is_file(part, bodies) for part in parts),
            defects=tuple(dict.fromkeys([*fields.defects, *self.defects]))[: limits.depth],
        )

    def parts(self) -> list[Part]:
        bodies = self._body_ids()
        last = self.leaves[-1] if self.leaves and self._missing else None
        return [
            Part(
                leaf.part_id,
                leaf.filename(self._limits.filename),
                leaf.content_type,
                len(leaf.content) + (int(self._missing * leaf.decoded_share()) if leaf is last else 0),
                leaf.part_id in bodies or _shown_inside(leaf),
                leaf.content_id(),
            )
            for leaf in self.leaves
        ]

    def _body_ids(self) -> set[str]:
        return {leaf.part_id for body in self._bodies for leaf in (body.plain, body.html) if leaf is not None}

    def snippet(self) -> str:
        limit = self._limits.snippet
        for body in self._bodies:
            if body.plain is not None:
                text = self._plain(body.plain, 4 * _SNIPPET_BYTES, _SNIPPET_BYTES)
                if found := snippet_of(text, limit):
                    return found
            if body.html is not None:
                source, _ = body.html.text(limit=_SNIPPET_HTML_BYTES, most_bytes=_SNIPPET_HTML_BYTES)
                if found := snippet_of(html_to_text(source), limit):
                    return found
        return ""

    def text(self) -> str:
        limit = self._limits.text
        pieces: list[str] = []
        for body in self._bodies:
            if body.plain is not None:
                piece = self._plain(body.plain, limit)
                if piece.strip() or body.html is None:
                    pieces.append(piece)
                    continue
            if body.html is not None:
                pieces.append(html_to_text(self._decoded(body.html, self._limits.html)))
        return "\n".join(piece for piece in pieces if piece)[:limit]

    def html(self) -> str:
        limit = self._limits.html
        if not any(body.html is not None for body in self._bodies):
            return ""
        pieces: list[str] = []
        for body in self._bodies:
            if body.html is not None:
                pieces.append(self._decoded(body.html, limit))
            elif body.plain is not None:
                pieces.append(text_to_html(self._plain(body.plain, self._limits.text)))
        return "\n".join(pieces)[:limit]

    def _decoded(self, leaf: Leaf, limit: int, most_bytes: int | None = None) -> str:
        text, as_labelled = leaf.text(limit=limit, most_bytes=most_bytes)
        if not as_labelled and "charset" not in self.defects:
            self.defects.append("charset")
        return text

    def _plain(self, leaf: Leaf, limit: int, most_bytes: int | None = None) -> str:
        text = self._decoded(leaf, limit, most_bytes)
        flowed, delsp = leaf.flowed()
        if flowed:
            return unflow(text, delsp=delsp)
        return text.replace("\r\n", "\n") if "\r" in text else text


def _shown_inside(leaf: Leaf) -> bool:
    if leaf.attached:
        return False
    inline = (leaf.node.disposition or "").strip().lower() == "inline"
    return inline or (leaf.related and leaf.node.content_id is not None)


def _is_file(part: Part, bodies: set[str]) -> bool:
    """Whether a person would look for it as a file: no body, signature or report, no picture inside the text."""
    if part.part_id in bodies or part.content_type in _NO_FILES:
        return False
    return not (part.inline and part.content_id and part.content_type.startswith("image/"))
