"""What a program does not load until it needs it: time before each command, and memory of every process."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("mailgate.cli.commands", {"alembic", "fastapi", "httpx", "mailgate.app", "mailgate.usecases", "stripe"}),
        ("mailgate.app.serve", {"alembic", "asyncpg", "dns", "mako", "requests", "rfc3161_client", "stripe", "typer"}),
        ("mailgate.sync.preparing", {"aioimaplib", "httpx", "mailgate.store", "pydantic", "sqlalchemy", "structlog"}),
    ],
)
def test_what_is_seldom_used_is_loaded_when_it_is_used(module: str, unwanted: set[str]) -> None:
    program = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {".".join(name.split(".")[:length]) for name in done.stdout.split() for length in (1, 2)}
    assert "mailgate" in loaded
    assert not loaded & unwanted
