"""Every type of event, with what its `data` holds: the reference, and what a reader may ask for, come from this table.

Names in `data` that end in `_at`, and `period_end`, are instants. An event holds ids, instants and states: nothing from
a message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mailgate.errors import PreconditionError

_AGES: Final = {
    "anchor_at": "from when the copy's age counts",
    "expires_at": "when it expires by what held then; null while pinned or held",
}
_PIN: Final = _AGES | {"entity_type": "of the record", "entity_id": "of the record"}
_RUN: Final = {"run_id": "the run"}
_FOLDER: Final = {"folder_id": "the folder"}
_OPERATION: Final = {
    "operation_id": "the operation",
    "kind": "flags, labels, move, delete, append, folder_create, …",
    "code": "why it failed, as a slug or the server's response code; missing otherwise",
}
_SUBMISSION: Final = {"submission_id": "the submission"}
_COUNTS: Final = {
    "accepted": "recipients that were taken",
    "refused": "recipients that were refused",
    "waiting": "recipients that are tried again",
}
_GUARD: Final = {"guard_id": "the guard", "folder_id": "the folder"}
_HOLD: Final = {
    "hold_id": "the hold",
    "scope": "tenant, mailbox or messages",
    "protects_until_at": "of a released one: until when it still protects",
}
_ERASURE: Final = {
    "tenant": "its id; `tenant_id` is null, since it has no feed any more",
    "reason": "erasure_request or offboarding",
}
_ALARM: Final = {
    "alarm_id": "the alarm",
    "kind": "what is wrong: no_purge, purge_halted, erase_failing, clock_anomaly, …",
    "detail": "the same in words",
    "remedy": "what to do",
}


@dataclass(frozen=True, slots=True)
class EventType:
    """One type. `data`: every name that may stand in its data."""

    name: str
    meaning: str
    data: Mapping[str, str]


TYPES: Final[Mapping[str, EventType]] = {
    made.name: made
    for made in (
        EventType(
            "message.created",
            "A copy is there. A message known before never has a second one.",
            _AGES
            | {
                "folder_id": "where it was found",
                "initial": "true during a first import or a backfill: old mail, nothing to announce",
                "in_reply_to_message_id": "the message that it answers, if that is here",
                "reply_to_submission_id": "the submission that it answers, if it was sent from here",
            },
        ),
        EventType(
            "message.updated",
            "Flags, labels, folders, thread or the original's presence changed.",
            _AGES
            | {
                "origin_present": "false: the mail server does not have it any more; true: it is there again",
                "content_changed": "true: it has other bytes (a draft that was saved again)",
                "restored": "true: a user's deletion was taken back, since the server refused it",
            },
        ),
        EventType(
            "message.moved",
            "It is in another folder.",
            _AGES | {"from_folder_id": "where it was", "folder_id": "where it is"},
        ),
        EventType("message.deleted", "It is gone: a user deleted it, here or at the mail server.", _AGES),
        EventType("message.pinned", "A record refers to it.", _PIN),
        EventType("message.unpinned", "A record refers to it no longer.", _PIN),
        EventType("message.purged", "Retention removed the copy; the original is untouched.", _AGES | _RUN | {
            "reason": "age, plan_end, mailbox_removed, …",
        }),
        EventType("message.rehydrated", "A purged copy was brought back from the mail server.", _AGES | {
            "folder_id": "where it was found", "initial": "true when a backfill brought it",
        }),
        EventType("message.sent", "The submission server took a message that was sent.", _AGES | _SUBMISSION | _COUNTS),
        EventType("message.failed", "A message could not be sent, or it is not known whether it was.", _AGES
                  | _SUBMISSION | _COUNTS | {"state": "failed or uncertain", "code": "why: a slug, or the reply code"}),
        EventType("message.bounced", "A report says that a sent message was not delivered.", _AGES | _SUBMISSION | {
            "report_message_id": "the report", "bounced": "recipients that it names",
        }),
        EventType("mailbox.state_changed", "The mailbox is in another state; `removed` ends its copies.", {
            "state": "connecting, importing, live, polling, backoff, auth_failed, needs_approval, disabled, "
            "not_entitled, removed",
            "reason": "why, in words, as `state_reason` of the mailbox says it; missing when there is nothing to say",
            "code": "consent_lapsed: only a new consent of the person helps; missing otherwise",
            "limited_by": "the limit of the plan that switched it off",
        }),
        EventType("mailbox.import_finished", "The first import is complete.", {}),
        EventType("mailbox.backfill_requested", "Somebody asked for older mail.", _RUN | {
            "days": "how far back", "floor_at": "from when on mail is fetched", "requested_by": "who asked",
        }),
        EventType("mailbox.backfill_finished", "What was asked for is here, or it could not be completed.", _RUN | {
            "state": "completed or failed", "new": "messages that came for the first time",
            "rehydrated": "purged messages that were brought back",
        }),
        EventType("mailbox.guard_refused", "Improbable deletions at the server were refused and wait for a person.",
                  _GUARD | {"known": "messages known in the folder", "gone": "messages that disappeared"}),
        EventType("mailbox.guard_approved", "A person approved what a guard refused.", _GUARD),
        EventType("mailbox.guard_closed", "A guard is over.", _GUARD | {
            "outcome": "carried_out, restored or changed",
        }),
        EventType("folder.created", "A folder is there (again).", _FOLDER),
        EventType("folder.renamed", "A folder is called otherwise.", _FOLDER),
        EventType("folder.deleted", "A folder is gone.", _FOLDER),
        EventType("folder.reset", "The server numbered the folder's messages anew; they keep their ids here.", _FOLDER),
        EventType("operation.applied", "The mail server did what was asked.", _OPERATION),
        EventType("operation.failed", "It did not; the change was taken back.", _OPERATION),
        EventType("connect_link.used", "A person has connected their mailbox by a connect link.", {
            "connect_link_id": "the link",
            "owner": "the user of the CRM whom it was made for; missing when none was named",
        }),
        EventType("subscription.changed", "The plan, or when it ends, changed: when copies expire, too.", {
            "plan": "the plan that holds",
            "status": "of the subscription",
            "effective_at": "since when",
            "retention_days": "days for which unattached copies are kept; null: not known, everything stays",
            "sync": "whether it has synchronization",
            "period_end": "when the paid period ends; null: it has no end",
            "auto_renew": "whether it is renewed by itself",
            "seats": "users that are paid for",
            "cause": "what began it: an event's type, or what time did",
            "changed_past": "true: an event that came late changed what held before",
            "mailboxes_switched_off": "mailboxes beyond the plan's limits",
        }),
        EventType("subscription.notice", "What will happen to the plan soon, unless something is done.", {
            "kind": "trial_ends, period_ends, renewal_due, change_begins or grace_ends",
            "effective_at": "when",
            "plan": "the plan that holds",
            "plan_after": "the plan afterwards",
            "status_after": "of the subscription afterwards",
            "retention_days_after": "days for which unattached copies are kept then",
            "copies_due": "copies that are due then",
            "bytes_due": "their bytes",
            "mailboxes_switched_off": "mailboxes beyond the limits then",
        }),
        EventType("retention.run_completed", "A purge is complete.", _RUN | {
            "purged": "copies that went", "failed": "copies that could not be purged",
        }),
        EventType("retention.run_halted", "A purge stopped and waits for a person.", _RUN | {"reason": "why"}),
        EventType("hold.placed", "Copies are held: nothing of them expires.", _HOLD),
        EventType("hold.released", "A hold ends.", _HOLD),
        EventType(
            "tenant.erasure_begun",
            "A tenant leaves: nothing of it is served any more, and its own events end here. Of the whole gateway.",
            _ERASURE,
        ),
        EventType("tenant.erased", "Nothing is left of it but its purge log. Of the whole gateway.", _ERASURE),
        EventType("alarm.raised", "An operator should look. Of the whole gateway when `tenant_id` is null.", _ALARM),
        EventType("alarm.cleared", "It is well again.", _ALARM),
    )
}  # fmt: skip

_AREAS: Final = frozenset(name.partition(".")[0] for name in TYPES)
_WORDS: Final = "|".join([*(re.escape(name) for name in TYPES), *(rf"{area}\.\*" for area in sorted(_AREAS))])
FILTER_PATTERN: Final = f"^({_WORDS})(,({_WORDS}))*$"
"""What a filter looks like, for the interface's document."""


def is_instant(name: str) -> bool:
    """Whether this name in `data` stands for an instant."""
    return name.endswith("_at") or name == "period_end"


@dataclass(frozen=True, slots=True)
class TypeFilter:
    """Which types a reader wants: whole names, and areas of which it wants all."""

    names: frozenset[str]

    def __contains__(self, type_: str) -> bool:
        return type_ in self.names


def parse_filter(words: Sequence[str]) -> TypeFilter | None:
    """The filter for words like `message.created` and `message.*`; None for no words: everything.

    Raises PreconditionError for a word that no type answers to: a reader that waits for it would wait for ever.
    """
    names: set[str] = set()
    for word in words:
        area, _, rest = word.partition(".")
        if rest == "*" and area in _AREAS:
            names.update(name for name in TYPES if name.startswith(f"{area}."))
        elif word in TYPES:
            names.add(word)
        else:
            known = ", ".join(sorted(f"{area}.*" for area in _AREAS))
            raise PreconditionError(
                f"there is no type of event {word[:100]!r}; write a whole name, or one of {known}", slug="type_unknown"
            )
    return TypeFilter(frozenset(names)) if names else None
