"""Writes the pages that come from the code (`make docs`); tests/docs fails while one is not what this would write."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from fastapi import APIRouter
from fastapi.routing import APIRoute

from connectors.imap.quirks import QUIRKS
from mailgate.api.application import ROUTERS
from mailgate.api.security import Only
from mailgate.cli.commands import app
from mailgate.configuration import describe, toml_value
from mailgate.events.types import TYPES
from mailgate.metrics import TABLE
from mailgate.settings import Settings, each
from mailgate.store.tokens import Scope

ROOT = Path(__file__).resolve().parents[2]

_MADE = "<!-- Written by `make docs` from the code. Change it there. -->\n"

_CONFIGURATION = """\
Every setting has a default; with none at all the gateway runs on SQLite and local files in `./data`. Values come from
the first of these files that exists: `--config FILE`, `$MAILGATE_CONFIG`, `./mailgate.toml`,
`/etc/mailgate/mailgate.toml`. The environment wins over the file: `http.port` is `MAILGATE_HTTP__PORT`; lists are
separated by commas. A name that does not exist, or a value out of range, stops the start with a word on what is wrong.
[config/mailgate.example.toml](../config/mailgate.example.toml) is the same as a file to start from.

Two secrets are read from the environment only: `MAILGATE_ADMIN_TOKEN` (the first admin token) and
`MAILGATE_MASTER_KEY` (base64 of 32 bytes; without it the key store keeps the key in a file).

Plans are data as well: [config/plans.toml](../config/plans.toml), replaced by your own file with `plans.file`."""

_ROUTES = """\
[HTTP interface](api.md) says what they have in common. The reference with every field is
at `/docs` of a running gateway."""

_COMMANDS = """\
`mailgate --config FILE …` reads another configuration file. On a terminal there are progress bars and colour, elsewhere
plain lines; `--json` gives one document for programs. Exit codes, but for `audit`, which says its own:

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | what was asked for did not hold |
| 2 | wrong usage |
| 3 | wrong configuration |
| 4 | refused by a rule |
| 5 | something could not be used now; try again |"""

_METRICS = """\
`GET /metrics` serves them in Prometheus' format. No label holds a tenant, an address or an id, so their number is
bounded. [Operations](operations.md) says which to watch.
"""

_EVENT_TYPES = """\
What stands in `data`, by type. Names that end in `_at`, and `period_end`, are times; what says nothing is missing.
Events about a message carry `anchor_at` and `expires_at`. [Events](events.md) says what stands beside `data`, and how
to follow them.
"""

_QUIRKS = """\
What servers do otherwise than the RFCs say, or than other servers do. What can be understood from everybody is
understood from everybody: nothing asks which server it is. [Mail servers](servers.md) says which were tried.
"""


def configuration() -> str:
    """docs/configuration.md: every setting."""
    lines = [
        "# Configuration\n",
        _MADE,
        _CONFIGURATION,
    ]
    section = None
    for dotted, field in each():
        table = dotted.rpartition(".")[0]
        if table != section:
            section = table
            about = (getattr(Settings.model_fields[table].annotation, "__doc__", "") or "").strip() if table else ""
            lines += ["", f"## {table or 'General'}", ""]
            lines += [about, ""] if about else []
            lines += ["| setting | default | what it does |", "|---|---|---|"]
        cell = describe(field).replace("|", "\\|")
        lines.append(f"| `{dotted}` | `{toml_value(field.default)}` | {cell} |")
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """docs/metrics.md: every metric."""
    lines = [
        "# Metrics\n",
        _MADE,
        _METRICS,
        "| metric | kind | labels | what it is |",
        "|---|---|---|---|",
    ]
    for metric in TABLE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `mailgate_{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


def event_types() -> str:
    """docs/event-types.md: every type of event with its data."""
    lines = ["# Event types\n", _MADE, _EVENT_TYPES, "| type | what happened | `data` |", "|---|---|---|"]
    for made in TYPES.values():
        data = "; ".join(f"`{name}`: {meaning}" for name, meaning in made.data.items()).replace("|", "\\|")
        lines.append(f"| `{made.name}` | {made.meaning} | {data or '–'} |")
    return "\n".join(lines) + "\n"


def routes() -> str:
    """docs/routes.md: every route, by tag."""
    lines = ["# Routes\n", _MADE, _ROUTES]
    for router in ROUTERS:
        lines += [
            "",
            f"## {str(router.tags[0]).capitalize()}",
            "",
            "| route | scope beside admin | what it does |",
            "|---|---|---|",
        ]
        for route in router.routes:
            assert isinstance(route, APIRoute)
            path = re.sub(r":\w+}", "}", route.path)
            for method in sorted(route.methods):
                said = " ".join(inspect.cleandoc(route.endpoint.__doc__ or "").split("\n\n")[0].split())
                lines.append(f"| `{method} {path}` | {_scopes(router, route)} | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _scopes(router: APIRouter, route: APIRoute) -> str:
    """The scopes that the route is for; `any` token when it asks for none, nothing when it asks for no token."""
    guards = [depends.dependency for depends in (*router.dependencies, *route.dependencies)]
    asked = [guard.scopes for guard in guards if isinstance(guard, Only)]
    if not asked:
        return "any" if route.path.startswith("/v1/") else "no token"
    return ", ".join(sorted(f"`{scope}`" for scope in frozenset.intersection(*asked) - {Scope.ADMIN})) or "–"


def commands() -> str:
    """docs/commands.md: every command with its arguments and options."""
    lines = ["# Commands\n", _MADE, _COMMANDS]
    tree: Any = typer.main.get_command(app)
    for name, command in tree.commands.items():
        for inner, leaf in getattr(command, "commands", {"": command}).items():
            arguments = [p for p in leaf.params if p.param_type_name == "argument"]
            usage = " ".join([f"mailgate {name} {inner}".strip(), *(_argument(p) for p in arguments)])
            lines += ["", f"## `{usage}`", "", " ".join(inspect.cleandoc(leaf.help or "").split())]
            rows = [
                f"| `{', '.join(p.opts) if p.param_type_name == 'option' else _argument(p)}` | {_help(p)} |"
                for p in leaf.params
                if p.name != "help" and getattr(p, "help", None)
            ]
            lines += ["", "| option | what it does |", "|---|---|", *rows] if rows else []
    return "\n".join(lines) + "\n"


def quirks() -> str:
    """docs/quirks.md: what mail servers do otherwise, and what is done about it."""
    lines = [
        "# Habits of mail servers\n",
        _MADE,
        _QUIRKS,
        "| seen at | habit | what is done | why |",
        "|---|---|---|---|",
    ]
    for quirk in QUIRKS:
        cells = (quirk.seen, quirk.habit, quirk.answer, quirk.reason)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name).strip("{}").upper()


def _help(parameter: Any) -> str:
    default = parameter.default
    shown = f" (default `{default}`)" if isinstance(default, str | int | Path) and not isinstance(default, bool) else ""
    return " ".join(str(parameter.help).split()).replace("|", "\\|") + shown


PAGES: dict[str, Callable[[], str]] = {
    "docs/event-types.md": event_types,
    "docs/commands.md": commands,
    "docs/configuration.md": configuration,
    "docs/metrics.md": metrics,
    "docs/quirks.md": quirks,
    "docs/routes.md": routes,
}


def main() -> None:
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
