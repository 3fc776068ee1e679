"""When a copy is due. Pure: data in, verdict out.

    anchor   = min(INTERNALDATE, stored_at) when INTERNALDATE makes sense, else stored_at (never the Date: header)
    due_at   = anchor + days × 86 400 s, then not before any grace that is configured, nor before the end of the time
               for which a purged copy was brought back
    eligible = unpinned and not held and now ≥ due_at and the entitlement is known and the clock is sane

A removed mailbox makes its copies due at the moment of its removal, if they are not due already.

Invariants, each a property test:

1. The boundary is inclusive: at exactly anchor + days × 86 400 s the copy is due, a microsecond before it is not.
2. The scalar form (`judge`) and the set form (`cutoffs`, `due_in_set`) agree on every copy.
3. More days never make more copies due; a pin or a hold never does either.
4. A verdict is due with a reason, or kept with what keeps it; never both, never neither.
5. Days are 86 400 seconds: no calendar, no time zone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from retention.ledger.leaves import policy_sha256
from retention.model import (
    DAY,
    SECOND,
    AnchorFrom,
    AnchorSource,
    Brake,
    Copy,
    Cutoffs,
    Graces,
    Instant,
    KeptBy,
    Reason,
    Rules,
    Verdict,
)

EARLIEST_RECEIVED_AT: Instant = 631_152_000 * SECOND
"""1990-01-01T00:00:00Z: an INTERNALDATE before it is a server's way of saying that it does not know."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that decides a purge, apart from the tenants' timelines; version and hash stand beside every decision.

    `version` is the plan catalogue's; `sha256` changes with any value that could change a verdict.
    """

    version: int
    catalogue_sha256: str
    anchor: AnchorFrom = AnchorFrom.RECEIVED
    graces: Graces = field(default_factory=Graces)
    brake: Brake = field(default_factory=Brake)

    @property
    def document(self) -> dict[str, object]:
        """The policy as the purge log shows it (`policy.set`)."""
        return {
            "anchor": str(self.anchor),
            "brake": [self.brake.minimum, self.brake.share],
            "catalogue_sha256": self.catalogue_sha256,
            "graces_days": asdict(self.graces),
            "version": self.version,
        }

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the document's canonical JSON."""
        return policy_sha256(self.document)


def anchor(
    received_at: Instant | None, stored_at: Instant, source: AnchorFrom = AnchorFrom.RECEIVED
) -> tuple[Instant, AnchorSource]:
    """The instant from which a copy's age counts, and where it comes from. Decided once, when the copy is stored.

    `received_at` is INTERNALDATE (RFC 9051 section 2.3.3), None when it did not parse. One in the future is not
    believed.
    """
    if source is AnchorFrom.RECEIVED and received_at is not None and EARLIEST_RECEIVED_AT <= received_at <= stored_at:
        return received_at, AnchorSource.INTERNALDATE
    return stored_at, AnchorSource.STORED


def due_by_age_at(copy: Copy, rules: Rules) -> Instant | None:
    """When age makes the copy due; None when the plan is not known."""
    if rules.days is None:
        return None
    graces = rules.graces
    at = copy.anchor_at + rules.days * DAY
    if graces.after_storing:
        at = max(at, copy.stored_at + graces.after_storing * DAY)
    if graces.after_shrink and rules.shrunk_at is not None:
        at = max(at, rules.shrunk_at + graces.after_shrink * DAY)
    if graces.after_unpin and copy.unpinned_at is not None:
        at = max(at, copy.unpinned_at + graces.after_unpin * DAY)
    if copy.keep_until_at is not None:
        at = max(at, copy.keep_until_at)
    return at


def due_at(copy: Copy, rules: Rules) -> Instant | None:
    """When the copy becomes due if nothing keeps it: by age, or when its mailbox ends. None: the plan is not known."""
    at = due_by_age_at(copy, rules)
    return at if at is None or copy.removed_at is None else min(at, copy.removed_at)


def judge(copy: Copy, rules: Rules, now: Instant) -> Verdict:
    """The scalar form: one copy at one instant. Of what keeps it the first is named: hold, pin, plan, age, clock.

    Why a due copy goes: its age, a plan that keeps nothing, or, before either, the removal of its mailbox. The
    `due_at` of one that goes by age is that of its age, so that it can be checked against anchor and days.
    """
    by_age = due_by_age_at(copy, rules)
    removed_at = copy.removed_at
    at = by_age if by_age is None or removed_at is None or by_age < removed_at else removed_at
    if copy.holds > 0:
        return Verdict(False, at, kept_by=KeptBy.HELD)
    if copy.pins > 0:
        return Verdict(False, at, kept_by=KeptBy.PINNED)
    if by_age is None or at is None:
        return Verdict(False, None, kept_by=KeptBy.PLAN_UNKNOWN)
    if now < at:
        return Verdict(False, at, kept_by=KeptBy.NOT_DUE)
    if rules.clock_fault is not None:
        return Verdict(False, at, kept_by=KeptBy.CLOCK)
    if now < by_age:
        return Verdict(True, at, Reason.MAILBOX_REMOVED)
    return Verdict(True, by_age, Reason.PLAN_END if rules.days == 0 else Reason.AGE)


def cutoffs(rules: Rules, now: Instant) -> Cutoffs | None:
    """The set form: what is of age at `now`, as bounds for one statement. None when the plan is not known.

    Says nothing of pins, holds and the clock: those are the statement's and the caller's.
    """
    if rules.days is None:
        return None
    graces = rules.graces
    waits = graces.after_shrink and rules.shrunk_at is not None and now < rules.shrunk_at + graces.after_shrink * DAY
    return Cutoffs(
        anchor_at=None if waits else now - rules.days * DAY,
        removed_at=now,
        stored_at=now - graces.after_storing * DAY if graces.after_storing else None,
        unpinned_at=now - graces.after_unpin * DAY if graces.after_unpin else None,
        keep_until_at=now,
    )


def of_age(copy: Copy, bounds: Cutoffs) -> bool:
    """What the set form's statement says of one copy's age: the model that the SQL is tested against."""
    by_age = (
        bounds.anchor_at is not None
        and copy.anchor_at <= bounds.anchor_at
        and (bounds.stored_at is None or copy.stored_at <= bounds.stored_at)
        and (bounds.unpinned_at is None or copy.unpinned_at is None or copy.unpinned_at <= bounds.unpinned_at)
        and (bounds.keep_until_at is None or copy.keep_until_at is None or copy.keep_until_at <= bounds.keep_until_at)
    )
    return by_age or (copy.removed_at is not None and copy.removed_at <= bounds.removed_at)


@dataclass(frozen=True, slots=True)
class ClockLimits:
    """How far the clock may jump between two looks at it before nothing is purged without approval."""

    max_backward: Instant = 300 * SECOND
    max_forward: Instant = 100 * DAY


def clock_fault(now: Instant, last_seen_at: Instant | None, limits: ClockLimits = ClockLimits()) -> str | None:
    """What is wrong with the clock, `back` or `forward`; None when it is sane or there is nothing to compare with.

    `last_seen_at` is the latest time that the store has recorded.
    """
    if last_seen_at is None:
        return None
    if now < last_seen_at - limits.max_backward:
        return "back"
    if now > last_seen_at + limits.max_forward:
        return "forward"
    return None
