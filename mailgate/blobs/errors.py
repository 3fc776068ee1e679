"""What can go wrong with a blob.

MailgateError
├── BlobCorruptError      the bytes are not the ones that were written: flipped, cut, extended, reordered, another's
├── BlobMissingError      there is no such object
├── BlobTooLargeError     more plain bytes than the caller allows
└── BlobStoreError        the store could not do it now (disk full, network, permission); may be retried
    └── PackDamagedError  the file that blobs share does not say truly where they lie: none can be cut out of it
"""

from __future__ import annotations

from mailgate.errors import MailgateError, UnavailableError


class BlobCorruptError(MailgateError):
    """Authentication or decompression of a stored blob failed. Nothing of the frame that failed has been handed out."""

    default_slug = "blob_corrupt"


class BlobMissingError(MailgateError):
    """No object of this name. For a live copy that is damage (rule R4), for a purged one it is expected."""

    default_slug = "blob_missing"


class BlobTooLargeError(MailgateError):
    """The blob is larger than the limit the caller gave; stream it instead."""

    default_slug = "blob_too_large"


class BlobStoreError(UnavailableError):
    """The store failed for a reason of its own; nothing is known about the object. Try again later."""

    default_slug = "blob_store"


class PackDamagedError(BlobStoreError):
    """A file that blobs share says something else of one that stays than was written, or nothing that can be true."""

    default_slug = "pack_damaged"
