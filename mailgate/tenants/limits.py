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


def over_limit(connected: Iterable[Connected], plan: Plan) -> dict[str, MailboxLimit]:
    """The mailboxes to be switched off so that the rest is within the plan's limits: those connected last, by id.

    A shared mailbox counts as shared only, any other one to its user.
    """
    off: dict[str, MailboxLimit] = {}
    shared = 0
    of_user: defaultdict[str, int] = defaultdict(int)
    for mailbox in sorted(connected, key=lambda mailbox: (mailbox.connected_at, mailbox.id)):
        if mailbox.shared:
            shared += 1
            if plan.shared_mailboxes is not None and shared > plan.shared_mailboxes:
                off[mailbox.id] = MailboxLimit.SHARED
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
    """What an outgoing message is for: a person's own mail, or the service's (notifications, invitations)."""

    USER = "user"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Sent:
    """How many messages were accepted for sending: this month by purpose, and today of both."""

    month_user: int = 0
    month_service: int = 0
    today: int = 0

    @property
    def month(self) -> int:
        """All of this month."""
        return self.month_user + self.month_service


@dataclass(frozen=True, slots=True)
class SendingRefusal:
    """Which limit is reached (`month`, `month_reserved` or `day`), how high it is, and when it frees up."""

    limit: str
    most: int
    retry_at: Instant


def sending_refusal(plan: Plan, sent: Sent, purpose: Purpose, now: Instant, count: int = 1) -> SendingRefusal | None:
    """Why so many further messages can't be sent now; None when they can. Days and months are UTC's.

    Service mail may use the whole month; a person's mail all of it but the part that is reserved for the service.
    """
    if plan.sent_per_month is not None:
        if sent.month + count > plan.sent_per_month:
            return SendingRefusal("month", plan.sent_per_month, next_month_start(now))
        free_for_user = plan.sent_per_month - (plan.sent_reserved or 0)
        if purpose is Purpose.USER and sent.month_user + count > free_for_user:
            return SendingRefusal("month_reserved", free_for_user, next_month_start(now))
    if plan.sent_per_day is not None and sent.today + count > plan.sent_per_day:
        return SendingRefusal("day", plan.sent_per_day, day_start(now) + DAY)
    return None


def sending_left(plan: Plan, sent: Sent) -> int | None:
    """How many messages of any kind are left this month; None without limit."""
    return None if plan.sent_per_month is None else max(0, plan.sent_per_month - sent.month)
