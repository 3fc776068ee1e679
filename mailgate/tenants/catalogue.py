"""The catalogue of plans: what each plan entitles to and costs. Pure; the file is read by the caller.

Retention and sync are judged by plan *at an instant*; the catalogue is data, its `version` and `sha256` go into the
purge log.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mailgate.errors import ConfigurationError

FREE = "free"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_LONGEST_DAYS = 36_500
_LONGEST_TERM = 120
_LARGEST = 2**53 - 1
"""Beyond it, readers of JSON may round a number."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan. `retention_days` ≥ 0; a limit of None means no limit; `storage_bytes` in bytes.

    `sent_reserved` is the part of `sent_per_month` that only service mail may use. `prices` is what one seat costs for
    a whole term, by the term's months, in the currency's minor unit. `stripe_prices`: ids or lookup keys of Stripe's
    prices that mean this plan. A plan that is not `on_sale` can't be bought, but be given (`demo` by trial, `nfr`).
    """

    name: str
    title: str
    rank: int
    sync: bool
    retention_days: int
    on_sale: bool = False
    mailboxes_per_user: int | None = None
    shared_mailboxes: int | None = None
    seats: int | None = None
    storage_bytes: int | None = None
    sent_per_month: int | None = None
    sent_per_day: int | None = None
    sent_reserved: int | None = None
    trial_days: int | None = None
    prices: Mapping[int, int] = field(default_factory=dict)
    stripe_prices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All plans by name; `sha256` is of the file's bytes, in hex. `terms`: for how many months a plan can be bought."""

    version: int
    sha256: str
    plans: Mapping[str, Plan]
    terms: tuple[int, ...] = (1, 3, 12)
    currency: str = "EUR"

    def plan(self, name: str) -> Plan | None:
        """The plan of that name; None when the catalogue does not know it (then: keep everything and raise an
        alarm).
        """
        return self.plans.get(name)

    @property
    def longest_days(self) -> int:
        """The longest retention of any plan, in days."""
        return max(plan.retention_days for plan in self.plans.values())

    def ranked(self) -> Sequence[Plan]:
        """All plans, from the lowest to the highest."""
        return sorted(self.plans.values(), key=lambda plan: (plan.rank, plan.name))


_NEEDED: dict[str, type] = {"title": str, "rank": int, "sync": bool, "retention_days": int}
_WORDS = {str: "text", int: "a whole number", bool: "true or false"}
_FLAGS = frozenset({"on_sale"})
_LIMITS = frozenset(
    {
        "mailboxes_per_user",
        "shared_mailboxes",
        "seats",
        "storage_bytes",
        "sent_per_month",
        "sent_per_day",
        "sent_reserved",
        "trial_days",
    }
)
_KNOWN = frozenset(entry.name for entry in fields(Plan)) - {"name"}


def parse_catalogue(data: bytes) -> Catalogue:
    """Read and check plans.toml. Raises ConfigurationError naming the plan and the key that is wrong."""
    try:
        document = tomllib.loads(data.decode("utf-8-sig"))  # some editors put a mark in front
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"plans.toml can't be read: line {line} is not in UTF-8; save it as such") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"plans.toml can't be read: it is no TOML: {error}") from error
    unknown = set(document) - {"version", "plans", "terms", "currency"}
    if unknown:
        raise ConfigurationError(f"plans.toml has unknown keys: {', '.join(sorted(unknown))}")
    version = document.get("version")
    if not isinstance(version, int) or not _whole(version, 1):
        raise ConfigurationError("plans.toml needs `version`, a whole number from 1 on, raised with every change")
    terms = document.get("terms", [1, 3, 12])
    if not isinstance(terms, list) or not terms or not all(_whole(term, 1, _LONGEST_TERM) for term in terms):
        raise ConfigurationError(f"plans.toml: `terms` must be a list of months, each from 1 to {_LONGEST_TERM}")
    currency = document.get("currency", "EUR")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise ConfigurationError('plans.toml: `currency` must be a code of ISO 4217 like "EUR"')
    tables = document.get("plans")
    if not isinstance(tables, dict) or not tables:
        raise ConfigurationError("plans.toml has no [plans.…] table")
    plans = {name: _plan(name, table, terms) for name, table in tables.items()}
    _check_ranks(plans)
    _check_stripe(plans)
    return Catalogue(version, hashlib.sha256(data).hexdigest(), plans, tuple(sorted(set(terms))), currency)


def _plan(name: str, table: object, terms: list[int]) -> Plan:
    if not isinstance(table, dict):
        raise ConfigurationError(f"plans.toml: [plans.{name}] must be a table")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"plans.toml: [plans.{name}]: a plan's name is up to 32 small letters, digits and underscores"
        )
    unknown = set(table) - _KNOWN
    if unknown:
        raise ConfigurationError(f"plans.toml: [plans.{name}] has unknown keys: {', '.join(sorted(unknown))}")
    for key, kind in _NEEDED.items():
        value = table.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigurationError(f"plans.toml: [plans.{name}] needs `{key}`, which is {_WORDS[kind]}")
    for key in sorted(_FLAGS & set(table)):
        if not isinstance(table[key], bool):
            raise ConfigurationError(f"plans.toml: [plans.{name}] `{key}` must be true or false")
    for key in sorted(_LIMITS & set(table)):
        if not _whole(table[key], 0, _LARGEST):
            raise ConfigurationError(
                f"plans.toml: [plans.{name}] `{key}` must be a whole number from 0 to {_LARGEST}; "
                "leave it out for no limit"
            )
    values = dict(table)
    values["prices"] = _prices(name, table.get("prices", {}), terms)
    values["stripe_prices"] = _stripe_prices(name, table.get("stripe_prices", []))
    plan = Plan(name=name, **values)
    if name == FREE:
        _check_free(plan)
    _check_plan(plan)
    return plan


def _prices(name: str, table: object, terms: list[int]) -> Mapping[int, int]:
    where = f"plans.toml: [plans.{name}] `prices`"
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where} must be a table of months to whole numbers of the smallest coin")
    known = {str(term): term for term in terms}
    for months, price in table.items():
        if months not in known:
            raise ConfigurationError(f"{where}: {months} is none of the terms {', '.join(known)}")
        if not _whole(price, 0):
            raise ConfigurationError(f"{where}: the price of {months} months must be a whole number from 0 on")
    return {known[months]: price for months, price in table.items()}


def _stripe_prices(name: str, prices: object) -> tuple[str, ...]:
    if not isinstance(prices, list) or not all(isinstance(price, str) and price for price in prices):
        raise ConfigurationError(f"plans.toml: [plans.{name}] `stripe_prices` must be a list of price ids")
    return tuple(prices)


def _check_plan(plan: Plan) -> None:
    where = f"plans.toml: [plans.{plan.name}]"
    if not 0 <= plan.retention_days <= _LONGEST_DAYS:
        raise ConfigurationError(f"{where} retention_days must be from 0 to {_LONGEST_DAYS}")
    if plan.sync and plan.retention_days == 0:
        raise ConfigurationError(f"{where} has sync with 0 days: to sync means to keep at least a day")
    if plan.trial_days == 0:
        raise ConfigurationError(f"{where} trial_days must be from 1 on; leave it out for a plan without trial")
    if plan.sent_reserved is not None and (plan.sent_per_month is None or plan.sent_reserved > plan.sent_per_month):
        raise ConfigurationError(f"{where} sent_reserved must be a part of sent_per_month")
    if plan.on_sale and not plan.prices:
        raise ConfigurationError(f"{where} is on sale without `prices`")


def _check_free(free: Plan) -> None:
    if free.sync:
        raise ConfigurationError("plan `free` must have sync = false: an unpaid tenant has no connection")
    if free.on_sale or free.prices or free.trial_days is not None or free.stripe_prices:
        raise ConfigurationError("plan `free` can't be bought: it has no prices, no trial and is not on sale")


def _check_ranks(plans: Mapping[str, Plan]) -> None:
    free = plans.get(FREE)
    if free is None:
        raise ConfigurationError("plans.toml has no plan `free`: new tenants and ended subscriptions need it")
    for plan in plans.values():
        if plan is not free and plan.rank <= free.rank:
            raise ConfigurationError(f"plans.toml: [plans.{plan.name}] needs a rank above that of `free`")


def _check_stripe(plans: Mapping[str, Plan]) -> None:
    owners: dict[str, str] = {}
    for plan in plans.values():
        for price in plan.stripe_prices:
            if owners.setdefault(price, plan.name) != plan.name:
                raise ConfigurationError(f"plans.toml: Stripe's price {price} stands at two plans")


def _whole(value: Any, least: int, most: int | None = None) -> bool:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= least
    return right and (most is None or value <= most)
