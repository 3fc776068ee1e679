"""What obstore's errors become: one place that knows them."""

from __future__ import annotations

from obstore.exceptions import BaseError

from mailgate.blobs.errors import BlobMissingError, BlobStoreError


class failing:  # noqa: N801 - reads as a phrase where it is used
    """Turns obstore's errors into ours. `what`: that which can't be done, in words."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise BlobMissingError(f"{self._what}: it is not in the store") from None
        if isinstance(error, BaseError | OSError):
            raise BlobStoreError(f"{self._what}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """obstore's texts go on with a dump of the request; the first line says it."""
    return (str(error).splitlines() or [type(error).__name__])[0]
