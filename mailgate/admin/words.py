"""Words for what the gateway calls by a slug: states with what to do about them, plans' statuses, commands, causes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mailgate.admin.languages import marked
from mailgate.store.connect_links import LinkState
from mailgate.sync.incoming import Cause
from mailgate.sync.state import MailboxState
from mailgate.tenants.commands import Command


@dataclass(frozen=True, slots=True)
class State:
    """How a state is called, how it is meant (good, busy, bad, off), and what a person can do."""

    name: str
    tone: str
    remedy: str | None = None


STATES: Final[Mapping[str, State]] = {
    MailboxState.LIVE: State(marked("Live"), "good"),
    MailboxState.POLLING: State(marked("Polling"), "good"),
    MailboxState.IMPORTING: State(marked("Importing"), "busy"),
    MailboxState.CONNECTING: State(
        marked("Connecting"),
        "busy",
        marked("Nothing: it goes on by itself. If it stays so, look at the gateway's log."),
    ),
    MailboxState.BACKOFF: State(
        marked("Waiting"), "bad", marked("Nothing: it is tried again by itself. If it lasts, look at the mail server.")
    ),
    MailboxState.AUTH_FAILED: State(
        marked("Login refused"), "bad", marked("Give the right user name or password: reconnect.")
    ),
    MailboxState.NEEDS_APPROVAL: State(
        marked("Needs approval"),
        "bad",
        marked("Look at what is gone from the mail server, and approve it if it is right."),
    ),
    MailboxState.NOT_ENTITLED: State(
        marked("Not in the plan"), "off", marked("The plan has no synchronization: a paid plan starts it again.")
    ),
    MailboxState.DISABLED: State(marked("Off"), "off"),
    "removed": State(marked("Removed"), "off"),
}

FILTERS: Final[Mapping[str, tuple[str, tuple[MailboxState, ...]]]] = {
    "trouble": (
        marked("Trouble"),
        (MailboxState.AUTH_FAILED, MailboxState.NEEDS_APPROVAL, MailboxState.BACKOFF),
    ),
    "starting": (marked("Starting"), (MailboxState.CONNECTING, MailboxState.IMPORTING)),
    "flowing": (marked("Flowing"), (MailboxState.LIVE, MailboxState.POLLING)),
    "off": (marked("Off"), (MailboxState.NOT_ENTITLED, MailboxState.DISABLED)),
}
"""States as a person thinks of them."""

DONE: Final[Mapping[str, str]] = {
    "connected": marked("The mailbox is connected. Its import begins now."),
    "changed": marked("The settings are changed."),
    "reconnected": marked("The credentials are changed. It connects anew now."),
    "switched_on": marked("It is switched on, and connects now."),
    "switched_off": marked("It is switched off. Its connection is closed, and everything is kept."),
    "removed": marked("The mailbox is removed, and its credentials are destroyed."),
    "link_revoked": marked("The link is withdrawn: it leads nowhere any more."),
    "asked": marked("A pass is asked for. It stands below when it has run."),
    "approved": marked("Approved. The next pass carries out exactly that."),
    "retried": marked("It is tried again now. If that succeeds, it is no longer listed."),
    "run_approved": marked("Approved. The purge is asked for and runs in a moment."),
    "hold_placed": marked("The hold stands. From now on nothing that it covers is purged."),
    "hold_released": marked("The hold is released. What it covered stays for some days more."),
    "subscription": marked("The subscription is changed."),
    "webhook_changed": marked("The endpoint is changed."),
    "webhook_removed": marked("The endpoint is removed, with its deliveries."),
    "webhook_paused": marked("It is paused. Nothing is lost: the feed has what happens meanwhile."),
    "webhook_resumed": marked("It goes on where it stopped."),
    "webhook_hurried": marked("It is tried again now, in its place."),
    "webhook_replayed": marked("It delivers again from there."),
    "webhook_skipped": marked("What waited is left out. It goes on with what happens from now on."),
    "password": marked("The password is changed, and every other session has ended."),
    "language": marked("The language is changed."),
    "codes_off": marked("No code is asked for any more."),
    "signed_out": marked("You are signed out."),
    "signed_out_everywhere": marked("You are signed out everywhere."),
}
"""What the next page says was done."""

STEPS: Final[Mapping[str, str]] = {
    "resolve": marked("IMAP: find the server"),
    "connect": marked("IMAP: reach it"),
    "tls": marked("IMAP: secure the connection"),
    "login": marked("IMAP: log in"),
    "folders": marked("IMAP: list the folders"),
    "smtp_resolve": marked("SMTP: find the server"),
    "smtp_connect": marked("SMTP: reach it"),
    "smtp_tls": marked("SMTP: secure the connection"),
    "smtp_login": marked("SMTP: log in"),
    "smtp_sender": marked("SMTP: send from this address"),
}

NEEDS: Final[Mapping[str, str]] = {
    "app_password": marked(
        "Your usual password does not work here. Make an app password at %(provider)s, and write that."
    ),
    "imap_on": marked("Access by IMAP must be switched on in the settings of your mailbox at %(provider)s."),
    "oauth": marked("%(provider)s takes no passwords from other programs: a password will most likely be refused."),
    "bridge": marked(
        "%(provider)s can be connected through its Bridge program only. Ask whoever sent you here if that is set up."
    ),
    "paid": marked("At %(provider)s this is part of paid plans only."),
    "no_imap": marked("%(provider)s offers no access by IMAP, so this mailbox can't be connected."),
}
"""What a person must do or have at a provider first (`connectors.autoconfig.model.Need`)."""

SOURCES: Final[Mapping[str, str]] = {
    "built_in": marked("These are the servers of %(provider)s."),
    "autoconfig": marked("These are the servers that %(provider)s publishes."),
    "srv": marked("These are the servers that %(provider)s announces in DNS."),
    "mx": marked("Mail of this address goes to %(provider)s; these are its servers."),
    "guess": marked("These servers are a guess. Compare them with what the provider gives."),
}
"""Where servers that were found come from (`connectors.autoconfig.model.Source`)."""

LINKS: Final[Mapping[LinkState, State]] = {
    LinkState.OPEN: State(marked("Open"), "good"),
    LinkState.USED: State(marked("Used"), "off"),
    LinkState.REVOKED: State(marked("Withdrawn"), "off"),
    LinkState.EXPIRED: State(marked("Expired"), "off"),
    LinkState.EXHAUSTED: State(marked("Tried too often"), "bad"),
}

LINK_OVER: Final[Mapping[str, tuple[str, str]]] = {
    "unknown": (
        marked("This link leads nowhere"),
        marked("It is not whole, or it is gone. Open it as it was sent to you, or ask for a new one."),
    ),
    "used": (
        marked("This link was used"),
        marked("The mailbox is connected, and nothing more is to be done. For another mailbox ask for a new link."),
    ),
    "revoked": (marked("This link was withdrawn"), marked("Ask whoever sent it for a new one.")),
    "expired": (marked("This link has expired"), marked("Ask whoever sent it for a new one.")),
    "exhausted": (
        marked("This link was tried too often"),
        marked("To keep your mailbox safe it does not work any more. Ask whoever sent it for a new one."),
    ),
    "not_entitled": (
        marked("This is not possible now"),
        marked("Whoever sent you here can't connect mailboxes at the moment. Tell them, and try again later."),
    ),
}
"""Why nothing can be done by a connect link: title and what to do."""

STATUSES: Final[Mapping[str, str]] = {
    "trialing": marked("Trial"),
    "active": marked("Active"),
    "past_due": marked("Payment overdue"),
    "canceled": marked("Cancelled"),
    "expired": marked("Expired"),
}

COMMANDS: Final[Mapping[Command, tuple[str, str]]] = {
    Command.PURCHASE: (marked("Purchase"), marked("A plan that was bought holds at once.")),
    Command.UPGRADE: (marked("Upgrade"), marked("A higher plan holds at once.")),
    Command.DOWNGRADE: (marked("Downgrade"), marked("A lower plan begins when the period ends.")),
    Command.RENEW: (marked("Renew"), marked("The next term begins when the period ends.")),
    Command.SEATS: (marked("Change seats"), marked("More at once, fewer when the period ends.")),
    Command.RETRY: (marked("Payment arrived"), marked("The renewal that had failed was paid after all.")),
    Command.CANCEL: (marked("Cancel"), marked("The plan runs to the end of its period, then Free.")),
    Command.RESUME: (marked("Resume"), marked("It is renewed automatically again.")),
}

REFUSALS: Final[Mapping[str, str]] = {
    "already_subscribed": marked("A plan runs already."),
    "renew_too_early": marked("Possible in the last 30 days of the period."),
    "downgrade_too_early": marked("Possible on the last day of the period."),
    "not_past_due": marked("No payment has failed."),
    "not_an_upgrade": marked("There is no higher plan."),
    "not_a_downgrade": marked("There is no lower plan."),
    "no_such_plan": marked("There is no such plan."),
    "not_subscribed": marked("There is no paid plan."),
    "not_renewing": marked("Automatic renewal is off already."),
    "not_canceled": marked("It is not cancelled."),
    "partner_purchase": marked("A partner sold it: renew it by hand."),
    "purchase_instead": marked("Purchase a plan instead."),
    "past_due": marked("The last renewal was not paid."),
    "no_period_end": marked("The plan has no end."),
    "change_pending": marked("A change waits already."),
    "seats_over_plan": marked("The plan has no more seats."),
    "seats_in_use": marked("All seats are in use."),
}

NOTICES: Final[Mapping[str, str]] = {
    "trial_ends": marked("The trial ends"),
    "period_ends": marked("The plan ends"),
    "renewal_due": marked("A payment is expected"),
    "change_begins": marked("The pending change begins"),
    "grace_ends": marked("The days of grace end"),
}

CAUSES: Final[Mapping[str, str]] = {
    "set": marked("Set by an admin"),
    "trial_started": marked("Trial started"),
    "purchased": marked("Purchased"),
    "renewed": marked("Renewed"),
    "upgraded": marked("Upgraded"),
    "renewal_bought": marked("Renewal bought"),
    "downgrade_bought": marked("Downgrade bought"),
    "seats_changed": marked("Seats changed"),
    "resumed": marked("Resumed"),
    "canceled": marked("Cancelled"),
    "renewal_failed": marked("Renewal failed"),
    "ended": marked("Ended"),
    "period_ended": marked("The period ended"),
    "grace_ended": marked("The days of grace ended"),
}

CHANGES: Final[Mapping[str, str]] = {
    "renewal": marked("Renewal"),
    "downgrade": marked("Downgrade"),
    "seats": marked("Fewer seats"),
}

RUN_STATES: Final[Mapping[str, str]] = {
    "queued": marked("Queued"),
    "running": marked("Running"),
    "completed": marked("Completed"),
    "halted": marked("Halted"),
    "failed": marked("Failed"),
}

OUTCOMES: Final[Mapping[str, str]] = {
    "carried_out": marked("Carried out"),
    "restored": marked("Turned up again"),
    "changed": marked("Replaced: other messages are gone by now"),
}

CAUSES_ASIDE: Final[Mapping[Cause, str]] = {
    Cause.TOO_LARGE: marked("It is larger than the gateway takes (limits)."),
    Cause.INCOMPLETE: marked("The server sends only a part of it."),
    Cause.NOT_SENT: marked("The server lists it but does not send it."),
    Cause.ENDS_THE_LINE: marked("The server ends the connection when it is asked for."),
    Cause.UNREADABLE: marked("It can't be read as a message."),
    Cause.REFUSED: marked("It could not be stored."),
    Cause.LOST: marked("Its bytes are no longer in the gateway's store; they are fetched again."),
    Cause.UNKNOWN: marked("It could not be fetched or stored."),
}
"""Why a message was set aside."""

HAPPENED: Final[Mapping[str, str]] = {
    "mailbox.import_finished": marked("The first import was complete"),
    "mailbox.guard_refused": marked("Improbable deletions were refused"),
    "mailbox.guard_approved": marked("A guard was approved"),
    "mailbox.guard_closed": marked("A guard was closed"),
    "mailbox.backfill_requested": marked("Older mail was asked for"),
    "mailbox.backfill_finished": marked("Older mail was fetched"),
}

KINDS: Final[Mapping[str, str]] = {
    "change": marked("Changes"),
    "read": marked("Reads"),
    "sign_in": marked("Sign-in"),
}

ROLES: Final[Mapping[str, str]] = {"admin": marked("Admin"), "compliance": marked("Compliance")}
