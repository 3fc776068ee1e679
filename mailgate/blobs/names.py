"""Where a blob lies: `<two hex digits>/<name>`, the digits being a checksum of the name, so that a folder holds 1/256
of all. A blob's own file is named by its id; one of a pack lies where the pack does.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

from mailgate.blobs import packs

FOLDERS: Final = 256
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{3,63}")


def is_id(name: str) -> bool:
    """Whether a blob could have this id."""
    return _ID.fullmatch(name) is not None


def path_of(blob_id: str) -> str:
    """The path of the file that has the blob. Raises ValueError for what is no id."""
    if not is_id(blob_id):
        raise ValueError("not a blob id")
    packed = packs.place_of(blob_id)
    return place(blob_id if packed is None else packed[0])


def place(name: str) -> str:
    """The path of a file of this name: a blob's own, or a pack's."""
    return f"{zlib.crc32(name.encode()) % FOLDERS:02x}/{name}"
