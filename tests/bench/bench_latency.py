"""One new message alone, from the moment at which EXISTS is read from the socket until it is committed: how long, and
what is done meanwhile, one after the other; beside the limit.

    python -m tests.bench.bench_latency [--mails N] [--trace] [--commits N]

The limit is a bare client on the same server that, as soon as EXISTS is read, leaves IDLE, fetches the message, writes
it into one new file, syncs the file and its folder, and commits one row to SQLite (WAL, synchronous=FULL): nothing that
keeps mail does less. What one sync and one such commit cost on this disk is measured by itself as well.

Counts hold when the machine is busy with something else, times do not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvloop
from sqlalchemy import Engine, event, func, select

from connectors.imap.session import Session
from connectors.imap.source import ImapSource
from mailgate.app.core import Core
from mailgate.app.outside import imap_connector, supervisor_of
from mailgate.app.serve import share_the_interpreter, spare_the_collector
from mailgate.app.verify import tls_context
from mailgate.clock import SECOND, system_clock
from mailgate.logs import configure
from mailgate.settings import LogSettings, Settings
from mailgate.store.schema import mailboxes, messages
from mailgate.store.sync import SqlSyncStore
from mailgate.sync.workers import Workers
from tests.bench.bench_mailboxes import connect_all, mail
from tests.dovecot import Account, start_dovecot

SEEDED = 3
ENOUGH_S = 20.0
"""So long a message may take, Dovecot's own half second included."""


class Trace:
    """What happened since EXISTS, while `began_s` is set: (seconds, what)."""

    def __init__(self) -> None:
        self.began_s: float | None = None
        self.steps: list[tuple[float, str]] = []
        self.done: list[list[tuple[float, str]]] = []
        self.cpu_ms: list[float] = []
        self._cpu_s = 0.0

    def begin(self) -> None:
        if self.began_s is None:
            self.began_s, self.steps = time.perf_counter(), [(0.0, "EXISTS")]
            self._cpu_s = time.process_time()

    def note(self, what: str) -> None:
        if self.began_s is not None:
            self.steps.append((time.perf_counter() - self.began_s, what))

    def end(self) -> None:
        self.cpu_ms.append((time.process_time() - self._cpu_s) * 1e3)
        self.note("committed")
        self.done.append(self.steps)
        self.began_s = None

    def count(self, start: str) -> float:
        """How many steps of a run begin so, the median."""
        return statistics.median(sum(what.startswith(start) for _, what in steps) for steps in self.done)

    def latencies_ms(self) -> list[float]:
        return sorted(steps[-1][0] * 1e3 for steps in self.done)


def watch(trace: Trace) -> None:
    """Have the gateway's own classes tell what they do."""
    write, received, changed = Session._write, Session.received, ImapSource._changed
    commit, run, fsync = SqlSyncStore.commit, Workers.run, os.fsync

    def told_write(self: Session, data: bytes) -> None:
        trace.note(f"imap > {data[:60].split(b' ', 1)[-1].decode('latin-1').strip()}")
        write(self, data)

    def told_received(self: Session, data: bytearray, size: int) -> None:
        trace.note(f"imap < {size} bytes")
        received(self, data, size)

    def told_changed(self: ImapSource, **change: Any) -> None:
        if change.get("exists") is not None:
            trace.begin()
        changed(self, **change)

    async def told_commit(self: SqlSyncStore, owner: Any, batch: Any) -> Any:
        trace.note("commit begins")
        applied = await commit(self, owner, batch)
        if batch.messages:
            trace.end()
        return applied

    async def told_run(self: Workers, work: Callable[[], Any], *, bulk: bool) -> Any:
        trace.note("thread >")
        try:
            return await run(self, work, bulk=bulk)
        finally:
            trace.note("thread <")

    def told_fsync(descriptor: int) -> None:
        began_s = time.perf_counter()
        fsync(descriptor)
        trace.note(f"fsync ({(time.perf_counter() - began_s) * 1e3:.2f} ms, {threading.current_thread().name})")

    def told_statement(_conn: Any, _cursor: Any, text: str, *_: Any) -> None:
        words = re.sub(r"\s+", " ", text)
        table = re.search(r"(?:FROM|INTO|UPDATE) (\w+)", words)
        trace.note(f"sql {words.split(' ', 1)[0]} {table[1] if table else words}")

    def told_end(_conn: Any) -> None:
        trace.note("sql COMMIT")

    Session._write = told_write  # type: ignore[method-assign]
    Session.received = told_received  # type: ignore[method-assign]
    ImapSource._changed = told_changed  # type: ignore[method-assign]
    SqlSyncStore.commit = told_commit  # type: ignore[method-assign]
    Workers.run = told_run  # type: ignore[method-assign,assignment]
    os.fsync = told_fsync  # type: ignore[assignment]
    event.listen(Engine, "before_cursor_execute", told_statement)
    event.listen(Engine, "commit", told_end)


# The limit.


class Bare(asyncio.Protocol):
    """Waits in IDLE; at EXISTS it fetches what is new and calls `keep` with it."""

    def __init__(self, account: Account, uidnext: int, keep: Callable[[bytes], None]) -> None:
        self._lines = [
            b'a LOGIN "%s" "%s"\r\n' % (account.name.encode(), account.password.encode()),
            b"b EXAMINE INBOX\r\n",
            b"c IDLE\r\n",
        ]
        self._uidnext = uidnext
        self._keep = keep
        self._data = b""
        self._began_s: float | None = None
        self.took_s: list[float] = []
        self.idling = asyncio.Event()
        self.kept = asyncio.Event()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._began_s is not None:
            if b"\r\nf OK" in self._data:
                self._keep(self._data)
                self.took_s.append(time.perf_counter() - self._began_s)
                self._began_s, self._data = None, b""
                self._uidnext += 1
                self.idling.clear()
                self.transport.write(b"c IDLE\r\n")
                self.kept.set()
            return
        *lines, self._data = self._data.split(b"\r\n")
        for line in lines:
            if line.startswith((b"a OK", b"b OK")) or (line.startswith(b"* OK") and len(self._lines) == 3):
                self.transport.write(self._lines.pop(0))
            elif line.startswith(b"+"):
                self.idling.set()
            elif line.endswith(b" EXISTS") and self.idling.is_set():
                self._began_s = time.perf_counter()
                self.transport.write(b"DONE\r\nf UID FETCH %d:* (FLAGS BODY.PEEK[])\r\n" % self._uidnext)


class Floor:
    """One durable file and one durable row for each message, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "floor"
        self._folder.mkdir()
        self._conn = sqlite3.connect(folder / "floor.db", isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._conn.execute(f"PRAGMA {pragma}")
        self._conn.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY, name TEXT, size INTEGER)")
        self._number = 0
        self.file_s: list[float] = []
        self.folder_s: list[float] = []
        self.commit_s: list[float] = []

    def keep(self, data: bytes) -> None:
        self._number += 1
        began_s = time.perf_counter()
        with (self._folder / str(self._number)).open("wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
        file_s = time.perf_counter()
        descriptor = os.open(self._folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        folder_s = time.perf_counter()
        self._conn.execute("INSERT INTO kept (name, size) VALUES (?, ?)", (str(self._number), len(data)))
        self.file_s.append(file_s - began_s)
        self.folder_s.append(folder_s - file_s)
        self.commit_s.append(time.perf_counter() - folder_s)

    def close(self) -> None:
        self._conn.close()


async def bare(port: int, account: Account, floor: Floor, mails: int) -> list[float]:
    """How long the bare client took for each of so many messages, in ms."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Bare(account, SEEDED + 1, floor.keep), "127.0.0.1", port)
    await client.idling.wait()
    for n in range(mails):
        client.kept.clear()
        await client.idling.wait()
        await asyncio.to_thread(account.add, mail(2_000_000 + n), received_at=system_clock() // SECOND * SECOND)
        async with asyncio.timeout(ENOUGH_S):
            await client.kept.wait()
    client.transport.abort()
    return sorted(took * 1e3 for took in client.took_s)


# Ours.


async def ours(folder: str, port: int, account: Account, trace: Trace, mails: int) -> None:
    """A gateway with one mailbox, and so many messages one after the other."""
    configure(LogSettings(level="error", format="console"))
    settings = Settings.model_validate(
        {"data_dir": folder, "net": {"allow": ["127.0.0.0/8"]}, "database": {"url": ""}},
    )
    core = await Core.open(settings)
    await connect_all(core, {"names": [account.name], "password": account.password, "port": port, "ca": None})
    supervisor = supervisor_of(core, imap_connector(core, tls_context()))
    running = asyncio.create_task(supervisor.run())

    async def number(query: Any) -> int:
        async with core.db.read() as conn:
            return int((await conn.execute(query)).scalar_one())

    try:
        while not await number(select(func.count()).where(mailboxes.c.state == "live")):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.5)  # the first words about it are written
        spare_the_collector()  # this, and the next, as `serve` does
        share_the_interpreter()
        trace.done.clear()
        trace.cpu_ms.clear()
        for n in range(mails):
            await asyncio.to_thread(account.add, mail(1_000_000 + n), received_at=system_clock() // SECOND * SECOND)
            async with asyncio.timeout(ENOUGH_S):
                while len(trace.done) <= n:  # noqa: ASYNC110 - nothing of the gateway's shall be woken
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)
        assert await number(select(func.count()).select_from(messages)) == SEEDED + mails
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await core.close()


def percentile(sorted_ms: Sequence[float], share: float) -> float:
    return sorted_ms[min(len(sorted_ms) - 1, round(share * (len(sorted_ms) - 1)))]


def show(label: str, values_ms: Sequence[float]) -> None:
    ordered = sorted(values_ms)
    best, middle, high = ordered[0], percentile(ordered, 0.5), percentile(ordered, 0.95)
    print(f"  {label:<46} best {best:6.2f} ms   p50 {middle:6.2f} ms   p95 {high:6.2f} ms", flush=True)


@contextlib.contextmanager
def seeded(accounts: int) -> Iterator[tuple[int, list[Account]]]:
    with contextlib.contextmanager(start_dovecot)() as server:
        found = [server.account(f"one{n}@mail.example") for n in range(accounts)]
        now = system_clock() // SECOND * SECOND
        for account in found:
            account.seed((mail(n), now) for n in range(SEEDED))
        yield server.port, found


async def measure(port: int, accounts: Sequence[Account], options: argparse.Namespace) -> None:
    trace = Trace()
    with tempfile.TemporaryDirectory(prefix="mailgate-bench-") as folder:
        floor = Floor(Path(folder))
        for n in range(options.commits):
            floor.keep(mail(n))
        show("one file written and synced", [took * 1e3 for took in floor.file_s])
        show("its folder synced", [took * 1e3 for took in floor.folder_s])
        show("one row committed to SQLite", [took * 1e3 for took in floor.commit_s])
        show("EXISTS → fetched, file and row durable: bare", await bare(port, accounts[0], floor, options.mails))
        floor.close()
        watch(trace)
        await ours(folder, port, accounts[1], trace, options.mails)
    show("EXISTS → committed: ours", trace.latencies_ms())
    show("processor time of it, all threads", trace.cpu_ms)
    kinds = {
        "commands": "imap >",
        "statements": "sql ",
        "of them COMMITs": "sql COMMIT",
        "visits to threads": "thread >",
        "fsyncs of files": "fsync",
    }
    print("  " + ", ".join(f"{trace.count(start):g} {name}" for name, start in kinds.items()))
    if options.trace:
        ordered = sorted(trace.done, key=lambda steps: steps[-1][0])
        for at_s, what in ordered[len(ordered) // 2]:
            print(f"  {at_s * 1e3:8.2f} ms  {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mails", type=int, default=20)
    parser.add_argument("--commits", type=int, default=50)
    parser.add_argument("--trace", action="store_true", help="print the run in the middle, step by step")
    options = parser.parse_args()
    with seeded(2) as (port, accounts):
        uvloop.run(measure(port, accounts, options))


if __name__ == "__main__":
    main()
