"""How a setting is declared: its default, what it does, its unit and its bounds."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network
from typing import Any, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

KIB = 1024
MIB = 1024 * KIB

Network: TypeAlias = IPv4Network | IPv6Network


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
    return entries


def named(value: object) -> object:
    """A path that was given: an empty one would mean the working directory."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("it is empty; name a directory, or leave it out for the default")
    return value


def setting(default: Any, description: str, *, unit: str | None = None, secret: bool = False, **bounds: Any) -> Any:
    """One setting: default, what it does, unit, bounds. `secret` keeps the value out of every printed form."""
    return Field(
        default, description=description, json_schema_extra={"unit": unit, "secret": secret}, repr=not secret, **bounds
    )


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


def unit_of(field: FieldInfo) -> str | None:
    """The unit of a setting, if it has one."""
    extra = field.json_schema_extra
    unit = extra.get("unit") if isinstance(extra, dict) else None
    return str(unit) if unit else None


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The words that a setting accepts, when it is one of a few."""
    return (
        tuple(str(word) for word in get_args(field.annotation))
        if str(field.annotation).startswith("typing.Literal")
        else ()
    )
