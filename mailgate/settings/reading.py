"""Reading the settings from the file and the environment; a wrong value is refused, with the nearest right name."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from mailgate.errors import ConfigurationError
from mailgate.settings.fields import Section, must_be
from mailgate.settings.model import Settings

ENV_PREFIX = "MAILGATE_"
CONFIG_VARIABLE = "MAILGATE_CONFIG"
ADMIN_TOKEN_VARIABLE = "MAILGATE_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
MASTER_KEY_VARIABLE = "MAILGATE_MASTER_KEY"
NEW_MASTER_KEY_VARIABLE = "MAILGATE_NEW_MASTER_KEY"
SEARCH_PATH = (Path("mailgate.toml"), Path("/etc/mailgate/mailgate.toml"))

MAILBOX_PASSWORD_VARIABLE = "MAILGATE_MAILBOX_PASSWORD"  # noqa: S105 - the name of a variable

_NOT_SETTINGS = frozenset(
    {
        CONFIG_VARIABLE,
        ADMIN_TOKEN_VARIABLE,
        MASTER_KEY_VARIABLE,
        NEW_MASTER_KEY_VARIABLE,
        MAILBOX_PASSWORD_VARIABLE,
    }
)
_LENGTHS = ("too_short", "too_long")  # the kinds of faults that say themselves what is right
# What Kubernetes sets in every container beside a service that is named mailgate.
_FROM_KUBERNETES = re.compile(r"MAILGATE_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)")


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read file and environment. Raises ConfigurationError: what is wrong, where it was set, and the nearest name."""
    environ = os.environ if environ is None else environ
    file = _file(path, environ)
    values = _read(file) if file else {}
    for name, text in environ.items():
        if name.startswith(ENV_PREFIX) and name not in _NOT_SETTINGS and not _FROM_KUBERNETES.fullmatch(name):
            _overlay(values, name, text)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, file, environ)) from None


def each() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting as (dotted name, field), in the order of the file: for the example file, the docs, their tests."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for key, inner in section.model_fields.items():
                yield f"{name}.{key}", inner
        else:
            yield name, field


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            raise ConfigurationError(
                f"the configuration file {named} {'is no file' if named.exists() else 'does not exist'}"
            )
        return named
    return next((candidate for candidate in SEARCH_PATH if candidate.is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{file} can't be read: {error}") from error


def _overlay(values: dict[str, Any], variable: str, text: str) -> None:
    dotted = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
    if dotted not in dict(each()):
        raise ConfigurationError(f"the environment sets {variable}, but there is no setting {dotted}{_nearest(dotted)}")
    section, _, key = dotted.rpartition(".")
    table = values.setdefault(section, {}) if section else values
    if not isinstance(table, dict):
        raise ConfigurationError(f"{section} is a table of settings, not a value")
    table[key] = text


def _nearest(dotted: str) -> str:
    names = [name for name, _ in each()]
    close = difflib.get_close_matches(dotted, names, n=1, cutoff=0.6)
    if not close:  # perhaps the right key in the wrong section
        close = [name for name in names if name.rpartition(".")[2] == dotted.rpartition(".")[2]][:1]
    return f"; did you mean {close[0]}?" if close else "; `mailgate init --print-config` lists them all"


def _explain(error: ValidationError, file: Path | None, environ: Mapping[str, str]) -> str:
    """One line a fault; never the value, which may be a secret."""
    lines = []
    for fault in error.errors(include_input=False, include_url=False):
        known = dict(each())
        parts = [str(part) for part in fault["loc"]]
        dotted = next((name for size in (2, 1) if (name := ".".join(parts[:size])) in known), ".".join(parts[:2]))
        variable = ENV_PREFIX + dotted.upper().replace(".", "__")
        source = f"environment {variable}" if variable in environ else str(file) if file else "settings"
        lines.append(f"{source}: {_said(fault['type'], fault['msg'], dotted, known.get(dotted))}")
    return "\n".join(dict.fromkeys(lines))


def _said(kind: str, message: str, dotted: str, field: FieldInfo | None) -> str:
    """What is wrong with a setting, in words that say what is right where the check has none of its own."""
    if kind == "extra_forbidden":
        return f"there is no setting {dotted}{_nearest(dotted)}"
    if kind == "model_type":
        return f"{dotted} is a table of settings, not a value"
    if kind == "value_error" or kind.endswith(_LENGTHS) or field is None:
        return f"{dotted + ': ' if dotted else ''}{message.removeprefix('Value error, ')}"
    return f"{dotted} must be {must_be(field)}"
