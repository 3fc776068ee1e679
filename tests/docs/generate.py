"""Writes the pages that come from the code (`make docs`); tests/docs fails while one is not what this would write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mailgate.configuration import describe, toml_value
from mailgate.metrics import TABLE
from mailgate.settings import Settings, each

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

_METRICS = """\
`GET /metrics` serves them in Prometheus' format. No label holds a tenant, an address or an id, so their number is
bounded. [Operations](operations.md) says which to watch.
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


PAGES: dict[str, Callable[[], str]] = {
    "docs/configuration.md": configuration,
    "docs/metrics.md": metrics,
}


def main() -> None:
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
