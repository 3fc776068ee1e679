"""When a delivery that failed is tried again, and when an endpoint is given up. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from mailgate.clock import HOUR, MINUTE, SECOND, Instant, from_datetime
from mailgate.webhooks.model import GONE, Answer, PauseReason

PAUSES: Final[tuple[Instant, ...]] = (
    5 * SECOND,
    30 * SECOND,
    2 * MINUTE,
    10 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    4 * HOUR,
    6 * HOUR,
)
"""After the first failure, the second, …; the last one from then on."""

SPREAD: Final = 20
"""Percent by which a pause is longer or shorter, so that what failed together is not tried again together."""

LONGEST_ASKED: Final[Instant] = 12 * HOUR
"""A receiver can't put off for longer than this by Retry-After."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery: it is tried again at `next_at`, or the endpoint is paused, or neither: it is done."""

    next_at: Instant | None = None
    pause: PauseReason | None = None


def pause(attempts: int, key: str) -> Instant:
    """How long to wait after so many attempts (1 or more). `key` decides about the spread, the same each time."""
    base = PAUSES[min(attempts, len(PAUSES)) - 1]
    noise = int.from_bytes(hashlib.sha256(f"{key}:{attempts}".encode()).digest()[:4], "big")
    percent = 100 - SPREAD + noise % (2 * SPREAD + 1)
    return base * percent // 100


def asked_pause(text: str | None, now: Instant) -> Instant:
    """What Retry-After asks for (RFC 9110 §10.2.3: seconds, or a date), between 0 and `LONGEST_ASKED`; 0 for text that
    is neither.
    """
    if text is None:
        return 0
    text = text.strip()
    if text.isascii() and text.isdigit():
        wanted = int(text[:9]) * SECOND
    else:
        try:
            wanted = from_datetime(parsedate_to_datetime(text)) - now
        except (ValueError, TypeError, OverflowError):
            return 0
    return min(max(wanted, 0), LONGEST_ASKED)


def decide(answer: Answer, *, attempts: int, since_at: Instant, now: Instant, give_up: Instant, key: str) -> Verdict:
    """What becomes of a delivery after this answer to its attempt number `attempts`, which began to fail at `since_at`
    (now, if this is the first failure). It is tried a last time when `give_up` is over.
    """
    if answer.delivered:
        return Verdict()
    if answer.status == GONE:
        return Verdict(pause=PauseReason.GONE)
    end_at = since_at + give_up
    if now >= end_at:
        return Verdict(pause=PauseReason.FAILING)
    return Verdict(next_at=min(now + max(pause(attempts, key), asked_pause(answer.retry_after, now)), end_at))
