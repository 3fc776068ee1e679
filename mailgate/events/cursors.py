"""Where a reader stands in the feed: a position, as opaque text that only the feed it came from takes back.

The digest is there against mistakes: a cut cursor, or one of another installation. It is no secret: a position opens
nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

LATEST: Final = "latest"
"""In place of a cursor: from now on."""

_POSITION: Final = 8
_DIGEST: Final = 6


def write_cursor(ref: str, position: int) -> str:
    """The cursor behind the event at this position of the feed `ref`."""
    plain = position.to_bytes(_POSITION, "big")
    return base64.urlsafe_b64encode(_digest(ref, plain) + plain).rstrip(b"=").decode()


def read_cursor(ref: str, cursor: str) -> int | None:
    """The position in a cursor; None when this feed did not write it."""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    plain = data[_DIGEST:]
    if len(plain) != _POSITION or data[:_DIGEST] != _digest(ref, plain):
        return None
    return int.from_bytes(plain, "big")


def _digest(ref: str, plain: bytes) -> bytes:
    return hashlib.sha256(b"mailgate feed\0" + ref.encode() + plain).digest()[:_DIGEST]
