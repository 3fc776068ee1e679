"""Sets the stage, tells the story, serves on, and ends everything that was started, in every case."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from mailgate.clock import system_clock
from mailgate.demo.cast import cast
from mailgate.demo.children import ChildError
from mailgate.demo.crm import ApiError, Crm
from mailgate.demo.gateway import Gateway
from mailgate.demo.mailserver import MailServer, dovecot_version
from mailgate.demo.screen import Screen
from mailgate.demo.story import Mismatch, Story

_MARKER = ".mailgate-demo"


@dataclass(frozen=True, slots=True)
class Options:
    """`server` is dovecot, pymap or auto; `record` a picture to write; `serve` whether to go on until Ctrl-C."""

    data: Path
    server: str
    serve: bool
    port: int | None
    record: Path | None


class Interrupted(Exception):  # noqa: N818 - a wish, not an error
    """Ctrl-C, or SIGTERM."""


async def show(options: Options) -> int:
    """The whole demonstration; returns the exit code: 0 when everything held, 1 when something did not, 130 on
    Ctrl-C.
    """
    screen = Screen(record=options.record is not None)
    begun = time.monotonic()
    try:
        with _stoppable() as stopped:
            await _show(options, screen, begun, stopped)
            return 0
    except Interrupted:
        screen.say("\nstopped")
        return 130
    except (Mismatch, ApiError, ChildError, httpx.HTTPError, OSError) as error:
        screen.failed(f"{type(error).__name__}: {str(error).replace('[', chr(92) + '[')}")
        screen.say(f"logs: {options.data / 'gateway.log'}, {options.data / 'mailserver.log'}")
        return 1


async def _show(options: Options, screen: Screen, begun: float, stopped: asyncio.Event) -> None:
    screen.title("mailgate", "mail sync with plan-based retention, and a purge log that anyone can verify")
    _clear(options.data)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_temporary())
        # What is entered first ends last: the mail server and the taps outlive the gateway, whose connections end in
        # order.
        server = await stack.enter_async_context(_server(folder, options))
        gateway = Gateway(options.data / "state", options.data / "gateway.log", port=options.port)
        crm = await stack.enter_async_context(Crm(gateway.url, gateway.token))
        audit = options.data / "audit"
        audit.mkdir()
        story = Story(screen, crm, server, audit)
        stack.push_async_callback(story.close)
        stack.push_async_callback(gateway.stop)
        await gateway.start()
        tenants = cast(secrets.token_urlsafe(12), slow=server.kind == "pymap")
        await _run_unless(stopped, story.tell(tenants, now=system_clock()))
        took = time.monotonic() - begun
        facts = (
            f"[bold green]Everything held.[/] {took:.0f} seconds, {crm.requests} HTTP requests, public interfaces only."
        )
        log = audit / "meridian-law"
        verify = f"{_program()} audit verify {log} --vkey @{log / 'vkey'}"
        if not options.serve:
            screen.panel(facts, title="done")
            screen.command("Check a log yourself:", verify)
            _save(options, screen)
            return
        password = await gateway.add_person("demo")
        screen.panel(
            f"{facts}\n\n"
            f"Pages                       [bold cyan]{gateway.url}/admin[/] as demo, [cyan]{password}[/]\n"
            f"Interface                   [bold cyan]{gateway.url}/docs[/]\n"
            f"Admin token                 [cyan]{gateway.token}[/]\n"
            f"Data and log                {options.data}\n\n"
            "Ctrl-C ends it.",
            title="serving",
        )
        screen.command("Ask it something:", f"curl -H 'Authorization: Bearer {gateway.token}' {gateway.url}/v1/plans")
        screen.command("Check a log yourself:", verify)
        _save(options, screen)
        await _serve(gateway, stopped)
        screen.say("ending the gateway and the mail server")


def _program() -> str:
    """How the reader calls this program from where they stand."""
    here = Path(sys.executable).parent / "mailgate"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else here.name


async def _serve(gateway: Gateway, stopped: asyncio.Event) -> None:
    """Until somebody ends it. Raises ChildError when the gateway ends by itself."""
    while gateway.running():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(stopped.wait()), 0.5)
        if stopped.is_set():
            return
    raise ChildError(f"the gateway ended\n{gateway.tail()}")


def _save(options: Options, screen: Screen) -> None:
    if options.record is not None:
        screen.save(options.record, title="make demo")


@contextlib.contextmanager
def _stoppable() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C and SIGTERM set, instead of breaking off what runs."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _run_unless(stopped: asyncio.Event, story: Coroutine[None, None, None]) -> None:
    """Runs the story; when somebody wants to stop, cancels it, waits until it is gone and raises Interrupted."""
    telling, waiting = asyncio.create_task(story), asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait((telling, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not telling.done():
            raise Interrupted
        await telling
    finally:
        for task in (telling, waiting):
            task.cancel()
        await asyncio.gather(telling, waiting, return_exceptions=True)


@asynccontextmanager
async def _server(folder: Path, options: Options) -> AsyncIterator[MailServer]:
    """The mail server: the one wished for, or for `auto` Dovecot when it is installed."""
    kind = options.server if options.server != "auto" else "dovecot" if dovecot_version() else "pymap"
    server = MailServer(folder, options.data / "mailserver.log", kind=kind)
    try:
        yield server
    finally:
        await server.stop()


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mailgate-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear(data: Path) -> None:
    """An empty folder. Only one that an earlier demonstration made, and marked, is removed for it."""
    if data.exists() and any(data.iterdir()):
        if not (data / _MARKER).exists():
            raise FileExistsError(
                f"{data} is not empty and was not made by the demonstration; give another with --data"
            )
        shutil.rmtree(data)
    data.mkdir(parents=True, exist_ok=True)
    (data / _MARKER).touch()
