"""What every command shares: the settings, an opened store, one clear line for what went wrong, and its exit code.

0  done
1  what was asked for did not hold: doctor found something, an account could not be verified, a run was halted
2  wrong usage
3  the configuration or the key store is wrong
4  refused: no such thing, or a rule forbids it
5  the database, the mail server or another process could not be used now; try again

What a command needs of the gateway is imported when it runs, so that `--help`, a wrong option and the shell's
completion do not wait for all of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from connectors.errors import ConnectorError
from mailgate import logs
from mailgate.actors import COMMAND
from mailgate.clock import Instant, from_rfc3339
from mailgate.errors import ConfigurationError, MailgateError
from mailgate.settings import LogSettings, Settings, load

if TYPE_CHECKING:
    from mailgate.app.core import Core
    from mailgate.store.paging import Page

T = TypeVar("T")

FAILED = 1
USAGE = 2
CONFIGURATION = 3
REFUSED = 4
UNAVAILABLE = 5

out = Console()
err = Console(stderr=True)


@dataclass
class Given:
    """What stands before the command."""

    config: Path | None = None


given = Given()


def settings() -> Settings:
    """Read them."""
    return load(given.config)


@asynccontextmanager
async def opened(*, create: bool = False, restored: bool = False, writes: bool = False) -> AsyncIterator[Core]:
    """The store, for one command; warnings of its parts go to standard error. `restored`: also one that is behind its
    purge logs. `writes`: the command may write to purge logs, which hear first of the policy that the settings make.
    """
    from mailgate.app.core import Core, Secrets

    read = settings()
    logs.configure(LogSettings(level="warning", format=read.log.format))
    core = await Core.open(read, secrets=Secrets.from_environment(), create=create, restored=restored)
    try:
        if writes:
            await announce(core)
        yield core
    finally:
        await core.close()


async def announce(core: Core) -> None:
    """Tell the purge logs of the policy that the settings make, where they have not heard of it."""
    await core.log.announce_everywhere(core.db, at=core.clock(), actor=COMMAND)


async def every(page: Callable[[str | None], Awaitable[Page[T]]]) -> list[T]:
    """What is on all pages; `page` gives the one after an id."""
    found: list[T] = []
    after: str | None = None
    while True:
        more = await page(after)
        found += more.items
        if more.next_key is None:
            return found
        after = str(more.next_key[0])


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; what goes wrong ends the process with one line and its code."""
    with faults():
        return uvloop.run(work)


@contextmanager
def faults() -> Iterator[None]:
    """What goes wrong inside ends the process with one line and its code."""
    try:
        yield
    except ConfigurationError as error:
        fail(error.detail, CONFIGURATION)
    except MailgateError as error:
        fail(f"{error.detail} ({error.slug})", REFUSED if error.status < 500 else UNAVAILABLE)
    except ConnectorError as error:
        fail(str(error), UNAVAILABLE)
    except Exception as error:
        from mailgate.store.outages import OUTAGES, first_line, outage

        if not isinstance(error, OUTAGES):
            raise
        if isinstance(error, OSError) and error.filename is not None:
            fail(f"{error.filename} can't be used: {error.strerror}", UNAVAILABLE)
        fail(outage(error) or f"the database can't be used: {first_line(error)}", UNAVAILABLE)
    except KeyboardInterrupt:
        err.print("stopped")
        raise typer.Exit(130) from None


def fail(message: str, code: int) -> NoReturn:
    """Say why and end."""
    for line in message.splitlines():
        err.print(f"[red]mailgate:[/] {_plain(line)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code) from None


def show_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def show_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on a terminal, lines with tabs elsewhere."""
    if not out.is_terminal:
        for row in rows:
            sys.stdout.write("\t".join(map(_printable, row)) + "\n")
        return
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        # An id is copied into the next command: whatever has to give way, it stands in one piece.
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    out.print(table)


def say(text: str) -> None:
    """A line for a person, on standard output."""
    out.print(_plain(text), highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """A line for a person about what was not done beside; the command's own work was."""
    err.print(f"[yellow]mailgate:[/] {_plain(text)}", highlight=False, soft_wrap=True)


def instant(text: str) -> Instant:
    """A time given as an argument."""
    try:
        return from_rfc3339(text)
    except ValueError:
        raise typer.BadParameter("write a time as 2026-01-31T00:00:00Z") from None


def _printable(text: str) -> str:
    """Text of others without escape sequences for the terminal, and on one line."""
    return "".join(char if char.isprintable() else "�" for char in text)


def _plain(text: str) -> str:
    """The same, of which nothing is taken for markup."""
    return _printable(text).replace("[", r"\[")
