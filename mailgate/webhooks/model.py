"""What is said about endpoints and deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SHOWN: Final = 200
"""Bytes of a receiver's answer that are kept."""

GONE: Final = 410


class EndpointState(StrEnum):
    """Whether events are delivered to an endpoint."""

    ENABLED = "enabled"
    PAUSED = "paused"


class PauseReason(StrEnum):
    """Why an endpoint is paused."""

    REQUESTED = "requested"
    """Somebody asked for it."""
    FAILING = "failing"
    """An event could not be delivered for as long as it is tried."""
    GONE = "gone"
    """The receiver answered 410: it wants no more."""
    EXPIRED = "expired"
    """What is due to it is not in the feed any more."""
    TENANT_ERASED = "tenant_erased"


class DeliveryState(StrEnum):
    """What became of a delivery."""

    SENDING = "sending"
    """The request is on its way, or the process ended meanwhile: then it is sent again."""
    WAITING = "waiting"
    """It failed and is tried again."""
    DELIVERED = "delivered"
    FAILED = "failed"
    """It failed and is not tried again by itself."""
    CANCELED = "canceled"
    """A replay began elsewhere before it was delivered."""


class DeliveryKind(StrEnum):
    """What a delivery is for."""

    EVENT = "event"
    TEST = "test"
    AGAIN = "again"
    """A delivery that had ended, sent once more because somebody asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: the receiver's status, or `error`, in words, when there was none. `text` is the beginning
    of what it said, `retry_after` its header as it came.
    """

    status: int | None = None
    error: str | None = None
    text: str | None = None
    retry_after: str | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver has taken it: any 2xx, nothing else (a redirect is not followed)."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def words(self) -> str:
        """The same for a person."""
        if self.error is not None:
            return self.error
        moved = " (redirects are not followed)" if self.status is not None and 300 <= self.status < 400 else ""
        return f"the receiver answered {self.status}{moved}"
