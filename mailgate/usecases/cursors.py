"""Cursors of listings.

A cursor is the key after which the page goes on, with a digest of the listing and its filters. The digest is there
against mistakes (a cut cursor, or one from another listing or other filters); it need not be secret, since a position
in a listing opens nothing that the listing does not show.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import TypeAlias

from mailgate.errors import BadRequestError

Key: TypeAlias = tuple[str | int, ...]

_LONGEST_TEXT = 1_000


class Cursors:
    """Cursors of one listing: `name` and `filters` are everything that shapes it, `kinds` the types of its key."""

    def __init__(self, name: str, kinds: tuple[type[str] | type[int], ...], *filters: object) -> None:
        self._kinds = kinds
        self._context = json.dumps([name, *filters], default=str).encode()

    def write(self, key: Key | None) -> str | None:
        """The cursor for a page's `next_key`."""
        if key is None:
            return None
        content = json.dumps(key, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._digest(content) + content).rstrip(b"=").decode()

    def read(self, cursor: str | None) -> Key | None:
        """The key in a cursor. Raises BadRequestError `bad_cursor`."""
        if cursor is None:
            return None
        key = self._key(cursor)
        if key is None:
            raise BadRequestError(
                "this cursor does not belong to this listing; take `next_cursor` as it came, with the same filters",
                slug="bad_cursor",
            )
        return key

    def after(self, cursor: str | None) -> str | None:
        """The key of a listing that is ordered by one text."""
        key = self.read(cursor)
        return None if key is None else str(key[0])

    def _key(self, cursor: str) -> Key | None:
        try:
            data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            if data[:8] != self._digest(data[8:]):
                return None
            key = json.loads(data[8:])
        except (binascii.Error, ValueError):
            return None
        fits = isinstance(key, list) and len(key) == len(self._kinds)
        return tuple(key) if fits and all(map(_valid, key, self._kinds)) else None

    def _digest(self, content: bytes) -> bytes:
        return hashlib.sha256(self._context + b"\0" + content).digest()[:8]


def _valid(value: object, kind: type[str] | type[int]) -> bool:
    """Whether the database could be asked for it: anybody can compute a digest."""
    if type(value) is not kind:
        return False
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    text = str(value)
    return len(text) <= _LONGEST_TEXT and "\0" not in text and text.isprintable()
