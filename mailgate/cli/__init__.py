"""The command `mailgate`. Every command takes --json; exit codes are in `mailgate.cli.session`."""

from __future__ import annotations

import gc
from typing import NoReturn


def main() -> NoReturn:
    """The entry point."""
    # Importing makes much and throws away little: by its own measure the collector would look at all of it again and
    # again, which is a quarter of the time until a command begins.
    gc.set_threshold(50_000)
    from mailgate.cli.commands import main as run

    run()


__all__ = ["main"]
