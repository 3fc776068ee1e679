"""Raw messages: compressed, encrypted in frames with a key per blob, kept under random names, erased for good.

Knows neither messages nor tables: callers give a tenant id, a blob id that was never used, and a data key.
"""

from mailgate.blobs.erasing import Erased
from mailgate.blobs.errors import (
    BlobCorruptError,
    BlobMissingError,
    BlobStoreError,
    BlobTooLargeError,
    PackDamagedError,
)
from mailgate.blobs.packs import made_at, members, place_of, span
from mailgate.blobs.store import BlobStore, UnreadablePack
from mailgate.blobs.writers import BlobWriter

__all__ = [
    "BlobCorruptError",
    "BlobMissingError",
    "BlobStore",
    "BlobStoreError",
    "BlobTooLargeError",
    "BlobWriter",
    "Erased",
    "PackDamagedError",
    "UnreadablePack",
    "made_at",
    "members",
    "place_of",
    "span",
]
