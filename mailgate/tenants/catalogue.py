"""The catalogue of plans: what each plan entitles to. Pure; the file is read by the caller.

Retention and sync are judged by plan *at an instant*; the catalogue is data, its `version` and `sha256` go into the
purge log.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from mailgate.errors import ConfigurationError

FREE = "free"


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan. `retention_days` ≥ 0; a limit of None means no limit; `storage_bytes` in bytes."""

    name: str
    title: str
    rank: int
    sync: bool
    retention_days: int
    mailboxes_per_user: int | None = None
    shared_mailboxes: int | None = None
    storage_bytes: int | None = None
    trial_days: int | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All plans by name; `sha256` is of the file's bytes, in hex."""

    version: int
    sha256: str
    plans: Mapping[str, Plan]

    def plan(self, name: str) -> Plan | None:
        """The plan of that name; None when the catalogue does not know it (then: keep everything and raise an
        alarm).
        """
        return self.plans.get(name)

    @property
    def longest_days(self) -> int:
        """The longest retention of any plan, in days."""
        return max(plan.retention_days for plan in self.plans.values())


_TYPES: dict[str, type] = {"title": str, "rank": int, "sync": bool, "retention_days": int}
_OPTIONAL = frozenset(f.name for f in fields(Plan)) - set(_TYPES) - {"name"}


def parse_catalogue(data: bytes) -> Catalogue:
    """Read and check plans.toml. Raises ConfigurationError naming the plan and the key that is wrong."""
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"plans.toml can't be read: {error}") from error
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ConfigurationError("plans.toml needs `version`, a whole number from 1 on, raised with every change")
    tables = document.get("plans")
    if not isinstance(tables, dict) or not tables:
        raise ConfigurationError("plans.toml has no [plans.…] table")
    plans = {name: _plan(name, table) for name, table in tables.items()}
    if FREE not in plans:
        raise ConfigurationError("plans.toml has no plan `free`: new tenants and ended subscriptions need it")
    if plans[FREE].sync:
        raise ConfigurationError("plan `free` must have sync = false: an unpaid tenant has no connection")
    return Catalogue(version, hashlib.sha256(data).hexdigest(), plans)


def _plan(name: str, table: object) -> Plan:
    if not isinstance(table, dict):
        raise ConfigurationError(f"plans.toml: [plans.{name}] must be a table")
    unknown = set(table) - set(_TYPES) - _OPTIONAL
    if unknown:
        raise ConfigurationError(f"plans.toml: [plans.{name}] has unknown keys: {', '.join(sorted(unknown))}")
    for key, kind in _TYPES.items():
        value = table.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigurationError(f"plans.toml: [plans.{name}] needs `{key}` as {kind.__name__}")
    for key in _OPTIONAL & set(table):
        value = table[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigurationError(
                f"plans.toml: [plans.{name}] `{key}` must be a whole number from 0 on; leave it out for no limit"
            )
    plan = Plan(name=name, **table)
    if not 0 <= plan.retention_days <= 36_500:
        raise ConfigurationError(f"plans.toml: [plans.{name}] retention_days must be from 0 to 36500")
    if plan.sync and plan.retention_days == 0:
        raise ConfigurationError(
            f"plans.toml: [plans.{name}] has sync with 0 days: to sync means to keep at least a day"
        )
    return plan
