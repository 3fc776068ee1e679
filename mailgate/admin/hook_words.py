"""Words around events and webhooks: states of endpoints and deliveries, why one is paused, what an event tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailgate.admin.languages import marked
from mailgate.admin.words import State
from mailgate.webhooks.model import DeliveryKind, DeliveryState, EndpointState, PauseReason

ENDPOINTS: Final[Mapping[EndpointState, State]] = {
    EndpointState.ENABLED: State(marked("Delivering"), "good"),
    EndpointState.PAUSED: State(marked("Paused"), "off"),
}

FAILING: Final = State(
    marked("Failing"), "bad", marked("It is tried again by itself, with growing pauses. Look at the receiver.")
)
"""Of one that is enabled, and whose last attempt failed."""

PAUSES: Final[Mapping[PauseReason, State]] = {
    PauseReason.REQUESTED: State(marked("Paused"), "off", marked("Somebody paused it: resume it, and it goes on.")),
    PauseReason.FAILING: State(
        marked("Paused: it failed for too long"),
        "bad",
        marked("Set right the receiver, test it, then resume: it goes on where it stopped."),
    ),
    PauseReason.GONE: State(
        marked("Paused: the receiver is gone"),
        "bad",
        marked("It answered 410: it wants no more. Remove it, or give another address and resume."),
    ),
    PauseReason.EXPIRED: State(
        marked("Paused: events are lost"),
        "bad",
        marked("What it has not got is not kept any more. Let the receiver take a snapshot, then deliver from later."),
    ),
    PauseReason.TENANT_ERASED: State(marked("Paused: the tenant leaves"), "off"),
}

DELIVERIES: Final[Mapping[DeliveryState, State]] = {
    DeliveryState.SENDING: State(marked("Sending"), "busy"),
    DeliveryState.WAITING: State(marked("Waiting"), "bad"),
    DeliveryState.DELIVERED: State(marked("Delivered"), "good"),
    DeliveryState.FAILED: State(marked("Failed"), "bad"),
    DeliveryState.CANCELED: State(marked("Left out"), "off"),
}

DELIVERY_KINDS: Final[Mapping[DeliveryKind, str]] = {
    DeliveryKind.EVENT: marked("by itself"),
    DeliveryKind.TEST: marked("a test"),
    DeliveryKind.AGAIN: marked("once more, by hand"),
}

EVENTS: Final[Mapping[str, str]] = {
    "message.created": marked("A message arrived"),
    "message.updated": marked("A message changed"),
    "message.moved": marked("A message was moved"),
    "message.deleted": marked("A message was deleted"),
    "message.pinned": marked("A message was pinned"),
    "message.unpinned": marked("A pin was removed"),
    "message.purged": marked("A copy was purged"),
    "message.rehydrated": marked("A copy was brought back"),
    "message.sent": marked("A message was sent"),
    "message.failed": marked("A message could not be sent"),
    "message.bounced": marked("A message was returned"),
    "mailbox.state_changed": marked("A mailbox changed its state"),
    "mailbox.import_finished": marked("The first import was complete"),
    "mailbox.backfill_requested": marked("Older mail was asked for"),
    "mailbox.backfill_finished": marked("Older mail was fetched"),
    "mailbox.guard_refused": marked("Improbable deletions were refused"),
    "mailbox.guard_approved": marked("A guard was approved"),
    "mailbox.guard_closed": marked("A guard was closed"),
    "folder.created": marked("A folder is there"),
    "folder.renamed": marked("A folder was renamed"),
    "folder.deleted": marked("A folder is gone"),
    "folder.reset": marked("A folder was numbered anew"),
    "operation.applied": marked("A change reached the mail server"),
    "operation.failed": marked("A change was taken back"),
    "connect_link.used": marked("A person connected their mailbox by a link"),
    "subscription.changed": marked("The subscription changed"),
    "subscription.notice": marked("Something will happen to the plan"),
    "retention.run_completed": marked("A purge ended"),
    "retention.run_halted": marked("A purge halted"),
    "hold.placed": marked("A hold was placed"),
    "hold.released": marked("A hold was released"),
    "tenant.erasure_begun": marked("A tenant begins to leave"),
    "tenant.erased": marked("A tenant was erased"),
    "alarm.raised": marked("An alarm was raised"),
    "alarm.cleared": marked("An alarm is over"),
    "webhook.test": marked("A test"),
}

OVERLAPS: Final[Mapping[int, str]] = {
    0: marked("no longer: it leaked"),
    1: marked("for an hour"),
    24: marked("for a day"),
    168: marked("for a week"),
}
"""Hours for which the secret before signs as well."""
