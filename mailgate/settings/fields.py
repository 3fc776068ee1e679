"""How a setting is declared: its default, what it does, its unit and its bounds."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Any, Final, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

KIB = 1024
MIB = 1024 * KIB

Network: TypeAlias = IPv4Network | IPv6Network

_KINDS: Final[dict[Any, str]] = {bool: "true or false", float: "a number", int: "a whole number", str: "text"}


def listed(value: object) -> object:
    """A list as the environment can write it: JSON, or values separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def networks(value: object) -> object:
    """Networks as text: a number would be taken for the address that it is in binary."""
    entries = listed(value)
    if isinstance(entries, (list, tuple)) and not all(isinstance(entry, (str, Network)) for entry in entries):
        raise ValueError('networks are written as text, e.g. ["10.0.0.0/8"]')
    return tuple(map(_network, entries)) if isinstance(entries, (list, tuple)) else entries


def _network(entry: str | Network) -> Network:
    try:
        return ip_network(entry)
    except ValueError:
        raise ValueError(f"{entry} is no network{_around(entry)}") from None


def _around(entry: str | Network) -> str:
    try:
        return f"; the one around it is {ip_interface(entry).network}"
    except ValueError:
        return "; write one as 10.0.0.0/8"


def named(value: object) -> object:
    """A path that was given: an empty one would mean the working directory."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("it is empty; name a directory, or leave it out for the default")
    return value


def setting(
    default: Any,
    description: str,
    *,
    unit: str | None = None,
    written: str | None = None,
    secret: bool = False,
    **bounds: Any,
) -> Any:
    """One setting: default, what it does, unit, bounds. `written`: how its text looks, where a pattern says what it
    must be. `secret` keeps the value out of every printed form."""
    extra: JsonDict = {"unit": unit, "written": written, "secret": secret}
    return Field(default, description=description, json_schema_extra=extra, repr=not secret, **bounds)


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


def unit_of(field: FieldInfo) -> str | None:
    """The unit of a setting, if it has one."""
    return _said_of(field, "unit")


def facts_of(field: FieldInfo) -> list[str]:
    """Unit, bounds and choices of a setting, as far as it has them."""
    found = {name: getattr(rule, name) for rule in field.metadata for name in ("ge", "le") if hasattr(rule, name)}
    bounds = f"{found['ge']} to {found['le']}" if {"ge", "le"} <= set(found) else ""
    return [fact for fact in (unit_of(field) or "", bounds, " | ".join(choices_of(field))) if fact]


def must_be(field: FieldInfo) -> str:
    """What the value of a setting must be, for somebody who wrote something else."""
    if choices := choices_of(field):
        return " or ".join(choices)
    kind = _said_of(field, "written") or _KINDS.get(field.annotation, "a list")
    return f"{kind} ({', '.join(facts)})" if (facts := facts_of(field)) else kind


def _said_of(field: FieldInfo, name: str) -> str | None:
    extra = field.json_schema_extra
    said = extra.get(name) if isinstance(extra, dict) else None
    return str(said) if said else None


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The words that a setting accepts, when it is one of a few."""
    return (
        tuple(str(word) for word in get_args(field.annotation))
        if str(field.annotation).startswith("typing.Literal")
        else ()
    )
