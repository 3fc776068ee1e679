"""What went wrong, in the reader's language: by the slug of an error, or the status of a refusal.

The core says it in English, with what only it knows (which limit, which date). English readers get exactly that;
others the text of the slug, in their language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailgate.admin.languages import ENGLISH, Language, marked
from mailgate.admin.words import REFUSALS
from mailgate.errors import MailgateError
from mailgate.tenants.limits import MailboxLimit

FAULTS: Final[Mapping[str, str]] = {
    **REFUSALS,
    "at_in_the_past": marked("The date must be in the future."),
    "bad_cursor": marked(
        "The address of this page is not whole, or belongs to other filters: begin at its first page."
    ),
    "bytes_not_kept": marked("The bytes of this message are not kept."),
    "cursor_expired": marked("These events are not kept any more: begin at a later place."),
    "delivery_not_found": marked("There is no such delivery."),
    "delivery_under_way": marked("It is being sent at this moment. Look again soon."),
    "event_expired": marked("This event is not kept any more."),
    "export_failed": marked("The file could not be made. The gateway's log says why."),
    "guard_changed": marked("Other messages are gone by now than the guard names: a new guard asks."),
    "guard_not_found": marked("There is no such guard."),
    "hold_not_found": marked("There is no such hold."),
    "hold_released": marked("This hold is released already."),
    "invalid": marked("A value can't be accepted."),
    "consent_denied": marked("You did not agree at the provider, so nothing was connected."),
    "provider_refused": marked("The provider did not let you through. Try again, or ask whoever runs this."),
    "provider_unavailable": marked("The provider does not answer at the moment. Try again in some minutes."),
    "link_exhausted": marked("This link was tried too often. Ask for a new one."),
    "link_expired": marked("This link has expired. Ask for a new one."),
    "link_revoked": marked("This link was withdrawn. Ask for a new one."),
    "link_used": marked("This link was used already: the mailbox is connected."),
    "log_busy": marked("Another process signs this log at this moment. Try again in a minute."),
    "log_diverged": marked(
        "The entries in the database are not those that were signed: nothing of this log is handed out."
    ),
    "mailbox_disabled": marked("The mailbox is switched off."),
    "mailbox_exists": marked("This mailbox is connected already."),
    "mailbox_not_found": marked("There is no such mailbox."),
    "mailbox_removed": marked("The mailbox is removed."),
    "matter_invalid": marked("Write the matter, without line breaks and not too long."),
    "message_not_found": marked("There is no such message."),
    "no_price": marked("This has no price in the catalogue."),
    "not_an_event": marked("This was a test: make another one."),
    "not_entitled": marked("The plan has no synchronization."),
    "not_retryable": marked("This message can't be tried again."),
    "nothing_to_certify": marked("This purge has nothing to certify."),
    "plan_missing": marked("Choose a plan."),
    "plan_not_on_sale": marked("This plan is not on sale."),
    "plan_unknown": marked("There is no such plan."),
    "reason_invalid": marked("Write the reason, not too long."),
    "replay_invalid": marked("Give either a cursor or a time from which to deliver again."),
    "run_not_finished": marked("This purge has not ended yet."),
    "run_not_found": marked("There is no such purge."),
    "scope_invalid": marked("Say what to hold: everything, a mailbox, or messages by their ids."),
    "seats_invalid": marked("This number of seats is not possible."),
    "seats_missing": marked("Write how many seats."),
    "tenant_erased": marked("The tenant was erased."),
    "tenant_needed": marked("Choose a tenant."),
    "tenant_not_found": marked("There is no such tenant."),
    "term_unknown": marked("This term can't be bought."),
    "too_many_webhooks": marked("There are as many endpoints as are allowed: remove one first."),
    "type_unknown": marked("There is no such type of event."),
    "url_invalid": marked("Write an https address of a host that may be reached, without user and password."),
    "too_many_checks": marked("Many mailboxes are being checked at this moment. Try again in a minute."),
    "webhook_not_found": marked("There is no such endpoint."),
    "webhook_paused": marked("This endpoint is paused: resume it, and it goes on."),
    "witness_missing": marked("The witness's directory is not there: no log can be signed until it is."),
    MailboxLimit.PER_USER: marked("The user has as many mailboxes as the plan allows."),
    MailboxLimit.SHARED: marked("There are as many shared mailboxes as the plan allows."),
    MailboxLimit.SEATS: marked("All seats are in use."),
}

STATUSES: Final[Mapping[int, tuple[str, str]]] = {
    403: (marked("Refused"), marked("This is not for you.")),
    404: (marked("There is no such page"), marked("It may have been removed, or it belongs to somebody else.")),
    405: (marked("There is no such page"), marked("Nothing can be sent to this address.")),
    413: (marked("Nothing was changed"), marked("What was sent is too large.")),
    429: (marked("This is not possible now"), marked("Too much at once. Try again in a moment.")),
    500: (
        marked("Something went wrong inside mailgate"),
        marked("Nothing that you can mend. Tell who runs the gateway the number below: its log has the rest."),
    ),
    503: (
        marked("The gateway can't answer now"),
        marked("The database can't be reached, or the gateway is being repaired. Try again in a moment."),
    ),
}
"""What stands on the page of a refusal that no page made: title, and what it means."""

_OTHERWISE: Final = (
    marked("The request was not understood"),
    marked("Its address or form is not right. Go back and begin anew."),
)


def why(language: Language, error: MailgateError) -> str:
    """What is wrong, for the reader."""
    known = FAULTS.get(error.slug)
    return error.detail if known is None or language.code == ENGLISH else language.text(known)


def refusal(language: Language, status: int) -> tuple[str, str]:
    """Title and meaning of a refusal with this status."""
    title, meaning = STATUSES.get(status, _OTHERWISE)
    return language.text(title), language.text(meaning)
