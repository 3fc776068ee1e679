"""The command `mailgate`. Every command takes --json; exit codes are in `mailgate.cli.session`."""

from __future__ import annotations

from mailgate.cli.commands import main

__all__ = ["main"]
