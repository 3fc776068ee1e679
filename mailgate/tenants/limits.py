"""Limits of a plan: mailboxes, storage, outgoing messages. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mailgate.clock import DAY, Instant
from mailgate.tenants.calendar import day_start, next_month_start
from mailgate.tenants.catalogue import Plan


@dataclass(frozen=True, slots=True)
class Connected:
    """A mailbox that is switched on, as limits see it. One without owner is its own user."""

    id: str
    owner: str | None
    shared: bool
    connected_at: Instant

    @property
    def user(self) -> str:
        """Whose it counts as."""
        return f"={self.id}" if self.owner is None else self.owner


class MailboxLimit(StrEnum):
    """Which limit of the plan keeps a mailbox from being switched on; also the problem's slug."""

    PER_USER = "mailbox_limit"
    SHARED = "shared_mailbox_limit"
    SEATS = "seat_limit"


def over_limit(connected: Iterable[Connected], plan: Plan, seats: int | None) -> dict[str, MailboxLimit]:
    """The mailboxes to be switched off so that the rest is within the plan's limits: those connected last, by id.
    `seats`: how many users there may be; None: no limit.

    A shared mailbox counts as shared only, any other one to its user. Seats go to the users in the order in which they
    connected their first mailbox; of a user without a seat every mailbox goes.
    """
    off: dict[str, MailboxLimit] = {}
    shared = 0
    of_user: defaultdict[str, int] = defaultdict(int)
    for mailbox in sorted(connected, key=lambda mailbox: (mailbox.connected_at, mailbox.id)):
        if mailbox.shared:
            shared += 1
            if plan.shared_mailboxes is not None and shared > plan.shared_mailboxes:
                off[mailbox.id] = MailboxLimit.SHARED
        elif seats is not None and mailbox.user not in of_user and len(of_user) >= seats:
            off[mailbox.id] = MailboxLimit.SEATS
        else:
            of_user[mailbox.user] += 1
            if plan.mailboxes_per_user is not None and of_user[mailbox.user] > plan.mailboxes_per_user:
                off[mailbox.id] = MailboxLimit.PER_USER
    return off


def refusal(new: Connected, connected: Iterable[Connected], plan: Plan, seats: int | None) -> MailboxLimit | None:
    """Why `new` can't be switched on beside the others; None when it can. `seats`: how many users there may be."""
    others = [mailbox for mailbox in connected if mailbox.id != new.id]
    if new.shared:
        full = plan.shared_mailboxes is not None and sum(m.shared for m in others) >= plan.shared_mailboxes
        return MailboxLimit.SHARED if full else None
    users = {mailbox.user for mailbox in others if not mailbox.shared}
    mine = sum(not mailbox.shared and mailbox.user == new.user for mailbox in others)
    if plan.mailboxes_per_user is not None and mine >= plan.mailboxes_per_user:
        return MailboxLimit.PER_USER
    if seats is not None and new.user not in users and len(users) >= seats:
        return MailboxLimit.SEATS
    return None


class Purpose(StrEnum):
    """Who sends: a person, or the CRM itself (reminders, invoices), for which a part of the month is kept free."""

    USER = "user"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class SendingLimits:
    """Messages a calendar month and day; None: no limit. `service_reserve`: how many of a month users leave alone."""

    per_month: int | None = None
    per_day: int | None = None
    service_reserve: int = 0


def sending_limits(plan: Plan) -> SendingLimits:
    """What the plan says of sending."""
    return SendingLimits(plan.sent_per_month, plan.sent_per_day, plan.sent_reserved or 0)


@dataclass(frozen=True, slots=True)
class Sent:
    """How many messages count: this month by purpose, and today of both."""

    month_user: int = 0
    month_service: int = 0
    today: int = 0


@dataclass(frozen=True, slots=True)
class SendingRefusal:
    """Which limit is passed (`day`, `month` or `month_without_reserve`), how high it is, and when it frees up."""

    limit: str
    most: int
    retry_at: Instant


def sending_refusal(limits: SendingLimits, sent: Sent, purpose: Purpose, now: Instant) -> SendingRefusal | None:
    """The limit that is passed when so much was sent, the new messages of this purpose included; None when none is.
    Days and months are UTC's.

    Service mail may use the whole month; a person's mail all of it but the part that is kept for the service.
    """
    if limits.per_day is not None and sent.today > limits.per_day:
        return SendingRefusal("day", limits.per_day, day_start(now) + DAY)
    if limits.per_month is None:
        return None
    if sent.month_user + sent.month_service > limits.per_month:
        return SendingRefusal("month", limits.per_month, next_month_start(now))
    for_users = limits.per_month - limits.service_reserve
    if purpose is Purpose.USER and sent.month_user > for_users:
        return SendingRefusal("month_without_reserve", for_users, next_month_start(now))
    return None
