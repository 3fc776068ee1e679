"""What an operator must look at: which alarms should stand, by what is known now. Pure.

    gather (mailgate.store.alarms) → decide → changes → apply (mailgate.store.alarms)

An alarm stands for as long as what it is about lasts, once for each kind and tenant, however often it is looked at.
None of them stops anything: what must stop has stopped by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from mailgate.clock import DAY, HOUR, MINUTE, SECOND, Instant, to_rfc3339

RUN_EVERY: Final[Instant] = 26 * HOUR
"""So old may the last purge over all tenants be."""

ERASE_ATTEMPTS: Final = 5
"""An erasure that failed so often keeps failing: with the pauses between them that is some minutes."""

LONGEST_DETAIL: Final = 900


class Kind(StrEnum):
    """What is wrong."""

    CLOCK_ANOMALY = "clock_anomaly"
    ERASE_FAILING = "erase_failing"
    LOG_DIVERGED = "log_diverged"
    LOG_UNSIGNED = "log_unsigned"
    LOG_UNWRITABLE = "log_unwritable"
    NO_PURGE = "no_purge"
    PLAN_UNKNOWN = "plan_unknown"
    PLANS_REFUSED = "plans_refused"
    PURGE_HALTED = "purge_halted"
    TIMESTAMP_FAILING = "timestamp_failing"
    WEBHOOK_PAUSED = "webhook_paused"
    WITNESS_MISSING = "witness_missing"
    WORDS_LEFT = "words_left"


REMEDIES: Final[Mapping[Kind, str]] = {
    Kind.CLOCK_ANOMALY: "Set the machine's clock right. If it is right, run one purge with approve_clock (`mailgate "
    "purge --approve-clock`); nothing is purged until then.",
    Kind.ERASE_FAILING: "Put back the file that is damaged, where `detail` names one; else look at the blob store "
    "(blobs.url): space, permissions, credentials. It is tried again by itself; the bytes can't be read any more, "
    "their keys are destroyed.",
    Kind.LOG_DIVERGED: "Compare the database with its backups, the witness and exports (`mailgate audit consistency`). "
    "Nothing more of this log is signed until then.",
    Kind.LOG_UNSIGNED: "Look at the log of the gateway for why signing fails; `mailgate audit export` signs and says "
    "it at once.",
    Kind.LOG_UNWRITABLE: "Make the database writable: free disk space, permissions, the connection. Nothing is purged "
    "until its entries can be written.",
    Kind.NO_PURGE: "Look at /readyz and the log of the gateway for what stops it, then run `mailgate purge`.",
    Kind.PLAN_UNKNOWN: "Put the plan into the catalogue (plans.file) or the tenant on another one (`mailgate tenant "
    "plan`); everything of the tenant is kept until then.",
    Kind.PLANS_REFUSED: "Mend the file of the plans (plans.file); it is read again by itself. The plans of before hold "
    "on, but a gateway that is started now would refuse to.",
    Kind.PURGE_HALTED: "Look at GET /v1/retention/preview for what would go. If that is right, approve one run "
    "(approve_brake, `mailgate purge --approve-brake`); else set right what makes it so much.",
    Kind.TIMESTAMP_FAILING: "Look at ledger.timestamp_url and whether its authority answers. Purges and signing go on; "
    "checkpoints stay without a time-stamp until then.",
    Kind.WEBHOOK_PAUSED: "Set right what its `detail` says at GET /v1/webhooks, or remove it; then enable it again "
    "(PATCH /v1/webhooks/{id}, state enabled). It goes on where it stopped, as long as the feed has it.",
    Kind.WORDS_LEFT: "Look at the log of the gateway for why the worker `index` fails, and whether a purge never ends; "
    "`mailgate purge` takes the words out as well. No search finds them, and nothing ties them to a message.",
    Kind.WITNESS_MISSING: "Mount or make the directory of ledger.witness, and make it writable (space, "
    "permissions); no log can be signed until then.",
}

Key: TypeAlias = tuple[Kind, str | None]
"""What there is one alarm of: kind and tenant; None: of the whole gateway."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that is wrong. `detail` says it in words; `tenant_id` None: it concerns the whole gateway."""

    kind: Kind
    tenant_id: str | None
    detail: str

    @property
    def key(self) -> Key:
        """See `Key`."""
        return self.kind, self.tenant_id

    @property
    def remedy(self) -> str:
        """What to do."""
        return REMEDIES[self.kind]


@dataclass(frozen=True, slots=True)
class Failing:
    """Blobs of a tenant whose erasure keeps failing: how many, since when the first is queued, one of the errors."""

    blobs: int
    since_at: Instant
    error: str


@dataclass(frozen=True, slots=True)
class WordsLeft:
    """Words of purged copies that stand in the text index: of how many, since when the same ones are next, as far as
    this process saw; `moved`: it saw them become fewer.
    """

    copies: int
    since_at: Instant
    moved: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at one moment. Mappings are by tenant.

    `first_tenant_at`: since when there is anything to purge. `last_run_at`: when the last purge over all tenants ended.
    `halted`: for which tenants the last run over them stopped, and why. `failing`: None: of tenants that are gone.
    `unsigned`: logs that grew, with the time of their first entry that is not signed. `diverged`: what signing found in
    this process. `plans`: what is wrong with the file of the plans, as this process reads it. `unstamped`: whose newest
    checkpoint the authority did not stamp, and why. `hooks`: whose webhooks are paused because they can't be delivered
    to; None: those of no single tenant. `lost`: whose checkpoint was kept outside and is gone there, and what to say.
    `cut_since`: when a purge began that nobody goes on with at this moment.
    """

    first_tenant_at: Instant | None = None
    last_run_at: Instant | None = None
    clock: str | None = None
    witness: str | None = None
    plans: str | None = None
    halted: Mapping[str, str] = field(default_factory=dict)
    failing: Mapping[str | None, Failing] = field(default_factory=dict)
    plans_unknown: Mapping[str, str] = field(default_factory=dict)
    unsigned: Mapping[str, Instant] = field(default_factory=dict)
    diverged: Mapping[str, str] = field(default_factory=dict)
    unstamped: Mapping[str, str] = field(default_factory=dict)
    hooks: Mapping[str | None, str] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    words_left: WordsLeft | None = None
    cut_since: Instant | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """When something has taken too long. `unsigned`: the age of a log's first entry that is not signed. `words_left`:
    how long the same words of what is gone may be the next to be taken out. `cut`: how long after its beginning a purge
    may lie still.
    """

    run_every: Instant = RUN_EVERY
    unsigned: Instant = 3 * HOUR
    words_left: Instant = 6 * HOUR
    cut: Instant = 15 * MINUTE

    @classmethod
    def of(cls, *, purge_interval_s: int, sign_interval_s: int) -> Limits:
        """For these intervals: a purge that comes once a day may take two hours, signing may miss two turns."""
        return cls(max(RUN_EVERY, purge_interval_s * SECOND + 2 * HOUR), 3 * sign_interval_s * SECOND + 5 * MINUTE)


@dataclass(frozen=True, slots=True)
class Changes:
    """What becomes of the alarms that stand. `reworded` stand on, with another detail."""

    raised: Sequence[Alarm]
    reworded: Sequence[Alarm]
    cleared: Sequence[Key]


def decide(facts: Facts, standing: Mapping[Key, str], now: Instant, limits: Limits) -> list[Alarm]:
    """The alarms that should stand. `standing` are those that do, with their details: a log that diverged stays so
    until it is signed, whichever process found it.
    """
    found = [*_of_gateway(facts, standing, now, limits), *_of_tenants(facts, standing, now, limits)]
    return [Alarm(alarm.kind, alarm.tenant_id, alarm.detail[:LONGEST_DETAIL]) for alarm in found]


def changes(standing: Mapping[Key, str], wanted: Sequence[Alarm]) -> Changes:
    """What leads from the alarms that stand (with their details) to those that should."""
    keys = {alarm.key for alarm in wanted}
    return Changes(
        [alarm for alarm in wanted if alarm.key not in standing],
        [alarm for alarm in wanted if standing.get(alarm.key, alarm.detail) != alarm.detail],
        [key for key in standing if key not in keys],
    )


def _of_gateway(facts: Facts, standing: Mapping[Key, str], now: Instant, limits: Limits) -> Iterator[Alarm]:
    if facts.cut_since is not None and now - facts.cut_since > limits.cut:
        yield Alarm(Kind.NO_PURGE, None, f"a purge that began {to_rfc3339(facts.cut_since)} can't go on")
    elif facts.first_tenant_at is not None:
        since = max(facts.last_run_at or 0, facts.first_tenant_at)
        if now - since > limits.run_every:
            ended = "none ever ended" if facts.last_run_at is None else f"the last one ended {to_rfc3339(since)}"
            yield Alarm(Kind.NO_PURGE, None, f"no purge over all tenants for {_span(limits.run_every)}: {ended}")
    if facts.clock is not None:
        yield Alarm(Kind.CLOCK_ANOMALY, None, facts.clock)
    if facts.witness is not None:
        yield Alarm(Kind.WITNESS_MISSING, None, facts.witness)
    if facts.plans is not None:
        yield Alarm(Kind.PLANS_REFUSED, None, facts.plans)
    left = facts.words_left
    if left is not None:
        # Another process may have seen for longer that nothing moves.
        known = None if left.moved else standing.get((Kind.WORDS_LEFT, None))
        if now - left.since_at > limits.words_left:
            when = to_rfc3339(left.since_at)
            known = f"the words of {left.copies} purged copies are not taken out of the index since {when}"
        if known is not None:
            yield Alarm(Kind.WORDS_LEFT, None, known)


def _of_tenants(facts: Facts, standing: Mapping[Key, str], now: Instant, limits: Limits) -> Iterator[Alarm]:
    for tenant_id, why in facts.halted.items():
        yield Alarm(Kind.PURGE_HALTED, tenant_id, why)
    for whose, failing in facts.failing.items():
        since = to_rfc3339(failing.since_at)
        blobs = "1 blob" if failing.blobs == 1 else f"{failing.blobs} blobs"
        detail = f"{blobs} can't be erased, the first since {since}: {failing.error}"
        yield Alarm(Kind.ERASE_FAILING, whose, detail)
    for tenant_id, plan in facts.plans_unknown.items():
        yield Alarm(Kind.PLAN_UNKNOWN, tenant_id, f"its plan {plan!r} is not in the catalogue")
    for tenant_id, why in facts.lost.items():
        yield Alarm(Kind.LOG_DIVERGED, tenant_id, why)
    for tenant_id, since_at in facts.unsigned.items():
        if tenant_id in facts.lost:
            continue
        diverged = facts.diverged.get(tenant_id, standing.get((Kind.LOG_DIVERGED, tenant_id)))
        if diverged is not None:
            yield Alarm(Kind.LOG_DIVERGED, tenant_id, diverged)
        elif now - since_at > limits.unsigned:
            yield Alarm(Kind.LOG_UNSIGNED, tenant_id, f"entries since {to_rfc3339(since_at)} are not signed")
    for tenant_id, why in facts.unstamped.items():
        yield Alarm(Kind.TIMESTAMP_FAILING, tenant_id, why)
    for whose, why in facts.hooks.items():
        yield Alarm(Kind.WEBHOOK_PAUSED, whose, why)


def _span(length: Instant) -> str:
    return f"{length // DAY} days" if length % DAY == 0 else f"{length // HOUR} hours"
