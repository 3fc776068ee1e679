"""`mailgate demo`: the main job on generated mail, with a real mail server, over public interfaces only."""

from __future__ import annotations

import asyncio
import enum
import importlib.util
from pathlib import Path
from typing import Annotated

import typer


class Server(enum.StrEnum):
    """Which mail server the demonstration uses."""

    auto = "auto"
    dovecot = "dovecot"
    pymap = "pymap"


def demo(
    *,
    end: Annotated[bool, typer.Option("--exit", help="End after the last act instead of serving on.")] = False,
    server: Annotated[Server, typer.Option(help="Mail server; auto takes Dovecot when it is installed.")] = Server.auto,
    data: Annotated[Path, typer.Option(help="Folder for everything that it keeps; made anew each time.")] = Path(
        "data/demo"
    ),
    port: Annotated[
        int | None, typer.Option(help="Port to serve on; a free one by default.", min=1, max=65_535)
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Write what was shown as an SVG picture.", dir_okay=False)] = None,
) -> None:
    """Six companies, one for each plan: import, pin, purge, and the proof. Exit status 1 when anything does not
    hold.
    """
    missing = [name for name in ("httpx", "pymap") if importlib.util.find_spec(name) is None]
    if missing:
        typer.echo(f"the demonstration needs {' and '.join(missing)}: pip install 'mailgate[demo]'", err=True)
        raise typer.Exit(2)
    from mailgate.demo.show import Options, show

    options = Options(data=data, server=server.value, serve=not end, port=port, record=record)
    raise typer.Exit(asyncio.run(show(options)))
