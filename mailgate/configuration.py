"""The settings as text: the example file, written from the model so that it can't lag behind."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from mailgate.settings import ENV_PREFIX, Settings, each, facts_of

_HEAD = f"""\
# Every setting of mailgate, each with its default. Remove the # in front of what you change.
#
# The gateway reads the first of: --config FILE, $MAILGATE_CONFIG, ./mailgate.toml, /etc/mailgate/mailgate.toml.
# The environment wins over the file: [http] port is {ENV_PREFIX}HTTP__PORT. Two secrets are read from there only:
# MAILGATE_ADMIN_TOKEN (the first admin token) and MAILGATE_MASTER_KEY (base64 of 32 bytes; without it the key store
# keeps the key in a file).
"""


def example() -> str:
    """config/mailgate.example.toml: valid TOML, every setting commented out with its default."""
    lines = [_HEAD]
    section = ""
    for dotted, field in each():
        table, _, key = dotted.rpartition(".")
        if table != section:
            section = table
            about = (getattr(Settings.model_fields[table].annotation, "__doc__", "") or "").strip()
            lines += ["", *textwrap.wrap(about, 116, initial_indent="# ", subsequent_indent="# "), f"[{table}]"]
        lines += textwrap.wrap(describe(field), 116, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"#{key} = {toml_value(field.default)}")
    return "\n".join(lines) + "\n"


def describe(field: FieldInfo) -> str:
    """What a setting does, with its unit and bounds, in one sentence or two."""
    said = ", ".join(facts_of(field))
    return f"{field.description} ({said})" if said else str(field.description)


def toml_value(value: Any) -> str:
    """A default as TOML writes it."""
    if isinstance(value, Path):
        return json.dumps(str(value))
    if isinstance(value, tuple):
        return "[" + ", ".join(json.dumps(entry if isinstance(entry, int) else str(entry)) for entry in value) + "]"
    return json.dumps(value)
