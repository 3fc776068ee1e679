"""The command `mailgate`. Every command takes --json; exit codes are in `mailgate.cli.session`."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn


def main() -> NoReturn:
    """The entry point."""
    # Importing makes much and throws away little: by its own measure the collector would look at all of it again and
    # again, which is a quarter of the time until a command begins.
    gc.set_threshold(50_000)
    try:
        from mailgate.cli.commands import main as run

        run()
    except KeyboardInterrupt:  # before it began, which takes a second: a command says so itself
        sys.stderr.write("stopped\n")
        sys.exit(130)


__all__ = ["main"]
