"""Who takes part in the demonstration: one tenant for each plan, and what must come out for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailgate.demo.mail import DAY, Mail, account_mail
from mailgate.demo.mailserver import Account

IMPORT_DAYS = 90  # every tenant starts on professional, whose window this is
_EDGES = (30, 60, 90)
_CLEAR_OF_EDGE = DAY // 24


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of the CRM. `days` is how long its plan keeps what is attached to nothing."""

    id: str
    name: str
    plan: str
    days: int
    person: str
    account: Account
    size: int


def cast(secret: str, *, slow: bool = False) -> tuple[Tenant, ...]:
    """The six tenants; `secret` is the password of all their mailboxes. `slow`: whether their mail server is, and they
    have a third of the mail.
    """
    rows = (
        ("larkspur-bakery", "Larkspur Bakery", "free", 0, "Nell Hargreave", 150),
        ("harbour-dental", "Harbour Dental", "crm_plus", 30, "Owen Castellan", 190),
        ("tinderbox-studio", "Tinderbox Studio", "demo", 30, "Mira Sandoval", 130),
        ("cobalt-freight", "Cobalt Freight", "standard", 60, "Piotr Lindgren", 230),
        ("meridian-law", "Meridian Law", "professional", 90, "Anjali Whitlock", 270),
        ("partner-lab", "Partner Lab", "nfr", 90, "Jonas Ferreira", 110),
    )
    less = 3 if slow else 1
    return tuple(
        Tenant(
            name,
            title,
            plan,
            days,
            person,
            Account(f"{person.split()[0].lower()}@{name}.example", secret),
            size // less,
        )
        for name, title, plan, days, person, size in rows
    )


def mail_of(tenant: Tenant, *, now: int, seed: int = 2026) -> list[Mail]:
    """The tenant's mail, oldest first. None lies within an hour of 30, 60 or 90 days, so a slow run changes no
    outcome.
    """
    made = account_mail(tenant.person, tenant.account.address, seed=seed, count=tenant.size, now=now)
    return [mail for mail in made if all(abs(now - mail.received_at - edge * DAY) > _CLEAR_OF_EDGE for edge in _EDGES)]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the rules demand, worked out here from the generated mail alone."""

    on_server: int
    imported: int
    young: int
    """Imported and younger than the plan's days."""
    old: int
    """Imported and older: to be purged unless pinned."""


def expected(tenant: Tenant, mails: Sequence[Mail], *, now: int) -> Expected:
    ages = [now - mail.received_at for mail in mails]
    imported = [age for age in ages if age < IMPORT_DAYS * DAY]
    young = sum(1 for age in imported if age < tenant.days * DAY)
    return Expected(len(mails), len(imported), young, len(imported) - young)
