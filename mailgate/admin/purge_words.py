"""Words around retention and the purge log: alarms with what to do, why copies go or stay, what entries tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailgate.admin.languages import marked
from mailgate.alarms import Kind
from mailgate.store.retention import CLOCK_APPROVED
from retention.engine import APPROVED_BRAKE
from retention.model import KeptBy, Reason

ALARMS: Final[Mapping[Kind, tuple[str, str]]] = {
    Kind.CLOCK_ANOMALY: (
        marked("The clock jumped"),
        marked("Set the machine's clock right; if it is right, approve the halted run. Nothing is purged until then."),
    ),
    Kind.ERASE_FAILING: (
        marked("Bytes can't be erased"),
        marked(
            "Put a damaged file back; else look at the blob store: space, permissions, credentials. "
            "Their keys are destroyed already."
        ),
    ),
    Kind.LOG_DIVERGED: (
        marked("The purge log is not the one that was signed"),
        marked("Compare the database with its backups, the witness and exports. Nothing more is signed until then."),
    ),
    Kind.LOG_UNSIGNED: (marked("The purge log is not signed"), marked("Look at the gateway's log for the reason.")),
    Kind.LOG_UNWRITABLE: (
        marked("The database can't be written"),
        marked("Free disk space, or mend permissions or the connection. Nothing is purged until then."),
    ),
    Kind.NO_PURGE: (
        marked("No purge for too long"),
        marked("Look at /readyz and the gateway's log for what stops it."),
    ),
    Kind.PLAN_UNKNOWN: (
        marked("The plan is not in the catalogue"),
        marked("Put it there, or the tenant on another one. Everything is kept until then."),
    ),
    Kind.PLANS_REFUSED: (
        marked("The file of the plans is not right"),
        marked("Mend it; it is read again by itself. The plans of before hold on."),
    ),
    Kind.PURGE_HALTED: (
        marked("A purge halted: it would have taken improbably much"),
        marked("Look at the preview. If that is right, approve the run; else set right what makes it so much."),
    ),
    Kind.TIMESTAMP_FAILING: (
        marked("The log gets no time-stamp"),
        marked("Look whether the time-stamping authority answers. Purges and signing go on."),
    ),
    Kind.WEBHOOK_PAUSED: (
        marked("Events can't be delivered to a receiver"),
        marked("Set right what is wrong at the receiver, then resume the endpoint: it goes on where it stopped."),
    ),
    Kind.WORDS_LEFT: (
        marked("Words of purged mail stay in the text index"),
        marked("No search finds them. Look at the gateway's own log for why they are not taken out."),
    ),
    Kind.WITNESS_MISSING: (
        marked("The witness's directory is not there"),
        marked("Mount or make it; no log can be signed until then."),
    ),
}

REASONS: Final[Mapping[str, str]] = {
    Reason.AGE: marked("older than the plan keeps"),
    Reason.PLAN_END: marked("the plan keeps nothing"),
    Reason.MAILBOX_REMOVED: marked("the mailbox was removed"),
    Reason.ERASURE_REQUEST: marked("erasure was requested"),
    Reason.OFFBOARDING: marked("the tenant left"),
    "user_deleted": marked("a person deleted it"),
    "source_deleted": marked("the mail server no longer has it"),
}

KEPT: Final[Mapping[str, str]] = {
    KeptBy.HELD: marked("held"),
    KeptBy.PINNED: marked("pinned to a record"),
    KeptBy.PLAN_UNKNOWN: marked("the plan is unknown"),
    KeptBy.CLOCK: marked("the clock jumped"),
    KeptBy.NOT_DUE: marked("not old enough"),
    KeptBy.BRAKE: marked("stopped by the brake"),
    KeptBy.LOCKED: marked("in use; the next run looks again"),
}

TRIGGERS: Final[Mapping[str, str]] = {
    "schedule": marked("its time had come"),
    "plan_change": marked("a change of the plan"),
    "request": marked("a request"),
    "command": marked("a command on the machine"),
}
"""What started a purge."""

PASSED: Final[Mapping[str, str]] = {
    APPROVED_BRAKE: marked("more than the brake lets through"),
    CLOCK_APPROVED: marked("the time of a clock that jumped"),
}
"""What a person allowed a purge to pass."""

TYPES: Final[Mapping[str, str]] = {
    "policy.set": marked("The rules took effect"),
    "plan.effective": marked("A plan took effect"),
    "pin.add": marked("An item was pinned"),
    "pin.remove": marked("A pin was removed"),
    "hold.place": marked("A hold was placed"),
    "hold.cover": marked("What a hold covers"),
    "hold.release": marked("A hold was released"),
    "run.open": marked("A purge began"),
    "item.purge": marked("A copy was purged"),
    "item.remove": marked("A copy was removed"),
    "item.lost": marked("A copy was lost when a backup was restored"),
    "item.deferred": marked("A copy was put off"),
    "blob.erase": marked("Bytes were erased"),
    "erase.failed": marked("Erasing bytes failed"),
    "run.close": marked("A purge ended"),
    "run.abort": marked("A purge was broken off"),
    "rehydrate": marked("A copy was brought back"),
    "clock.anomaly": marked("The clock jumped"),
    "key.rotate": marked("A key was changed"),
    "export": marked("The log was handed out"),
}

FIELDS: Final[Mapping[str, str]] = {
    "at": marked("When it was written"),
    "actor": marked("Who caused it"),
    "run": marked("In which purge"),
    "item_ref": marked("The item: a random name"),
    "mailbox_ref": marked("The mailbox: a random name"),
    "content_commit": marked("Commitment to the message's bytes: opens to who may know them"),
    "msgid_commit": marked("Commitment to its Message-ID"),
    "entity_commit": marked("Commitment to the record"),
    "reason_commit": marked("Commitment to the reason"),
    "anchor": marked("From when its age counts"),
    "plan": marked("The plan"),
    "days": marked("Days that it keeps"),
    "due_at": marked("Due since"),
    "reason": marked("Why"),
    "checks": marked("Pins and holds at that moment"),
    "blobs": marked("Stored bytes: references ended, objects freed"),
    "method": marked("How it was made unreadable"),
    "original": marked("What became of the original at the mail server"),
    "matter": marked("The matter"),
    "scope": marked("What it covers"),
    "items": marked("Items"),
    "grace_until": marked("It protects until"),
    "now": marked("The time by which everything was judged"),
    "trigger": marked("What started it"),
    "approved": marked("Approved by a person"),
    "candidates": marked("Copies of age"),
    "purged": marked("Purged"),
    "kept": marked("Kept"),
    "failed": marked("Failed"),
    "bytes": marked("Bytes"),
    "outcome": marked("Outcome"),
    "effective_at": marked("From when it holds"),
    "cause": marked("Because"),
    "document": marked("The rules"),
    "policy": marked("Version and digest of the rules"),
    "build": marked("Program"),
    "origin": marked("Name of the log"),
    "tenant_ref": marked("The tenant: a random name"),
    "format": marked("Form"),
    "size": marked("Entries in the log"),
    "root": marked("Root hash"),
}
"""What a field says; one that is not here is shown by its own name."""
