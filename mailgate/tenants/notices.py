"""What will happen to a subscription by itself, and when. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mailgate.clock import Instant
from mailgate.tenants.timeline import Period, Status, Timeline


class NoticeKind(StrEnum):
    """What time will do."""

    TRIAL_ENDS = "trial_ends"
    PERIOD_ENDS = "period_ends"
    """The plan ends: it was cancelled, or is not renewed automatically."""
    RENEWAL_DUE = "renewal_due"
    """A payment is expected; without it the days of grace begin."""
    CHANGE_BEGINS = "change_begins"
    """What was bought (a renewal, a downgrade) or asked for (fewer seats) begins."""
    GRACE_ENDS = "grace_ends"


@dataclass(frozen=True, slots=True)
class Upcoming:
    """At `at`, `before` gives way to `after`, unless another event comes."""

    kind: NoticeKind
    at: Instant
    before: Period
    after: Period

    @property
    def key(self) -> str:
        """The same for the same notice, so that it is given once."""
        return f"{self.kind.value}:{self.at}:{self.after.plan}"


def upcoming(line: Timeline, now: Instant, until: Instant) -> list[Upcoming]:
    """What begins by itself after `now`, up to and at `until`, in order."""
    found, before = [], line.at(now)
    for after in line.after(now):
        if after.effective_at > until:
            break
        found.append(Upcoming(_kind(before, after), after.effective_at, before, after))
        before = after
    return found


def _kind(before: Period, after: Period) -> NoticeKind:
    if before.status is Status.TRIALING and not after.paid:
        return NoticeKind.TRIAL_ENDS
    if before.status is Status.PAST_DUE and not after.paid:
        return NoticeKind.GRACE_ENDS
    if not after.paid:
        return NoticeKind.PERIOD_ENDS
    return NoticeKind.RENEWAL_DUE if after.status is Status.PAST_DUE else NoticeKind.CHANGE_BEGINS
