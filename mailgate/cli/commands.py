"""All commands under one name."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mailgate import __version__
from mailgate.cli import holds, keys, mailboxes, purge, restore, server, session, tenants, tokens, users
from mailgate.cli.audit import audit_app
from mailgate.cli.demo import demo
from mailgate.cli.disclose import disclose
from mailgate.cli.log_export import export

_EXIT_CODES = (
    "Exit codes: 0 done, 1 what was asked for did not hold, 2 wrong usage, 3 wrong configuration, "
    "4 refused by a rule, 5 something could not be used now; `audit` has its own."
)


class _Stopped(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """A command that is stopped by Ctrl-C ends with 130: click's 1 says of an audit that a log is unreadable."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            session.err.print("stopped")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="mailgate",
    cls=_Stopped,
    help=f"A mail synchronization gateway with plan-based retention. {_EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, shown: bool) -> None:
    if shown:
        typer.echo(f"mailgate {__version__}")
        raise typer.Exit


@app.callback()
def _before(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Configuration file; see `mailgate init --print-config`.")
    ] = None,
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=lambda value: _version(shown=value), is_eager=True, help="Its version."),
    ] = False,
) -> None:
    del version
    session.given.config = config


app.command()(server.init)
app.command()(server.serve)
app.command(name="migrate")(server.migrate_command)
app.command()(server.doctor)
app.command()(restore.restore)
app.command()(demo)
app.add_typer(tenants.app, name="tenant")
app.add_typer(mailboxes.app, name="mailbox")
app.command()(mailboxes.sync)
app.command()(purge.purge)
app.add_typer(holds.app, name="hold")
audit_app.command()(disclose)
audit_app.command()(export)
app.add_typer(audit_app, name="audit")
app.add_typer(tokens.app, name="token")
app.add_typer(keys.app, name="key")
app.add_typer(users.app, name="user")


def main() -> NoReturn:
    """The entry point. What the gateway makes is for its own user only: keys and mail."""
    os.umask(0o077)
    if not all(_is_text(argument) for argument in sys.argv[1:]):
        session.err.print("mailgate: an argument is not UTF-8 text")
        sys.exit(session.USAGE)
    try:
        app()
    except SystemExit as ending:
        _leave(ending.code if isinstance(ending.code, int) else int(ending.code is not None))
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End the process as it would end by itself, but for taking the interpreter apart: obstore's threads, which nothing
    can stop, may come into it meanwhile, and that aborts the process (SIGABRT) when its work was well done.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # as the interpreter has it: what was said did not arrive
            code = code or 120
    os._exit(code)


def _is_text(argument: str) -> bool:
    """Bytes that are no UTF-8 arrive as lone surrogates, which neither a database nor a file of ours can hold."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True
