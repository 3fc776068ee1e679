"""A pass over an unchanged folder, beside mbsync over the same folder.

    python -m tests.bench.bench_unchanged [--sizes 1000 10000 100000] [--folders N]

One Dovecot folder of each size, read by ours and by mbsync once; then what a pass costs while nothing changed, in bytes
on the line (both ways, counted by a relay), turns of the conversation, statements to the database and seconds. Ours:
the pass itself, with QRESYNC, with CONDSTORE only, and with neither. mbsync: a run less what a run over an empty folder
costs, which leaves out login and list. At last a poll of a mailbox of many folders.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from mailgate.clock import DAY, SECOND, system_clock
from mailgate.settings import SyncSettings
from tests.dovecot import Account, Dovecot, start_dovecot
from tests.postgres import migrate
from tests.sync.engine import Engine, mail
from tests.unchanged import HIDDEN, Cost, Line, Watch, passes, polls

LOOPBACK = parse_networks(["127.0.0.0/8"])


async def open_engine(account: Account, line: Line, folder: Path) -> Engine:
    """An engine over SQLite whose connections go through the line."""

    async def connect() -> ImapConnection:
        endpoint = Endpoint("127.0.0.1", line.port, Security.NONE)
        auth = PasswordAuth(account.name, account.password)
        return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=LOOPBACK)

    url = f"sqlite:///{folder / 'mailgate.db'}"
    await asyncio.to_thread(migrate, url)
    return await Engine.open(
        url,
        folder,
        MemoryAccount(),
        connect=connect,
        clock=system_clock,
        settings=SyncSettings(),  # type: ignore[arg-type]
    )


async def ours(account: Account, size: int) -> dict[str, Cost]:
    """What a pass over the folder costs, by what the server offers."""
    found: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory(prefix="mailgate-bench-") as folder, pytest.MonkeyPatch.context() as patch:
        async with Line(account.server.port) as line:
            engine = await open_engine(account, line, Path(folder))
            await engine.sync()
            assert len(await engine.rows("origins")) == size
            for kind in HIDDEN:
                line.kind = kind
                await engine.sync()  # what another kind of server left open
                with Watch(engine, line) as watch, passes(watch, patch) as costs:
                    await engine.sync()
                found[kind] = costs["Big"]
            await engine.close(check=False)
    return found


def _configure(account: Account, folder: str, place: Path, port: int) -> list[str]:
    """The command that brings the folder into a Maildir."""
    (place / "mail").mkdir(parents=True)
    config = place / "mbsyncrc"
    config.write_text(
        f"IMAPStore far\nHost 127.0.0.1\nPort {port}\nUser {account.name}\n"
        f'Pass "{account.password}"\nAuthMechs LOGIN\nSSLType None\n\n'
        f"MaildirStore near\nPath {place}/mail/\nInbox {place}/mail/INBOX\nSubFolders Verbatim\n\n"
        f"Channel all\nFar :far:\nNear :near:\nPatterns {folder}\nCreate Near\nSync Pull\nSyncState *\n"
    )
    return ["mbsync", "-c", str(config), "all"]


async def mbsync(account: Account, folder: str, place: Path) -> Cost:
    """What mbsync's second run over a folder costs."""
    async with Line(account.server.port) as line:
        command = await asyncio.to_thread(_configure, account, folder, place, line.port)
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        before = Cost(line.sent, line.received, line.round_trips, 0, time.perf_counter())
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        return Cost(line.sent, line.received, line.round_trips, 0, time.perf_counter()) - before


def show(what: str, size: int, cost: Cost) -> None:
    """One line of the table."""
    each = cost.octets / size
    print(
        f"{size:>9,}  {what:<12}{cost.octets:>12,} B {each:>9.2f} B/message {cost.round_trips:>4} round trips "
        f"{cost.statements:>6} statements {cost.seconds * 1000:>10.1f} ms",
        flush=True,
    )


async def measure(server: Dovecot, size: int) -> None:
    """One size."""
    account = server.account()
    at = (system_clock() - 30 * DAY) // SECOND * SECOND
    account.seed(((mail(n), at + n * 20 * SECOND) for n in range(size)), folder="Big")
    for kind, cost in (await ours(account, size)).items():
        show(kind, size, cost)
    with tempfile.TemporaryDirectory(prefix="mailgate-bench-") as place:
        account.maildir("Empty")
        empty = await mbsync(account, "Empty", Path(place) / "empty")
        show("mbsync", size, await mbsync(account, "Big", Path(place) / "big") - empty)


async def many_folders(server: Dovecot, count: int) -> None:
    """A poll of a mailbox with so many folders."""
    account = server.account()
    at = (system_clock() - DAY) // SECOND * SECOND
    for n in range(count):
        account.seed([(mail(n), at)], folder=f"Folder {n}")
    with tempfile.TemporaryDirectory(prefix="mailgate-bench-") as folder, pytest.MonkeyPatch.context() as patch:
        async with Line(account.server.port) as line:
            engine = await open_engine(account, line, Path(folder))
            await engine.sync()
            with Watch(engine, line) as watch:
                async with polls(watch, patch) as costs:
                    await engine.sync()
            await engine.close(check=False)
    show(f"{count} folders", count, costs[-1])


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folders", type=int, default=200)
    args = parser.parse_args()
    for server in start_dovecot():
        for size in args.sizes:
            asyncio.run(measure(server, size))
        asyncio.run(many_folders(server, args.folders))


if __name__ == "__main__":
    main()
