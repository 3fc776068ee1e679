"""Many mailboxes in one process, live over IDLE: memory of each, time until all are live, latency of new mail, and what
an idle one costs; beside bare connections that log in, EXAMINE and IDLE, and do nothing else.

    python -m tests.bench.bench_mailboxes [--mailboxes N] [--mails M] [--idle SECONDS] [--line plain|tls]

Both sides connect to the same Dovecot on loopback, each from a process of its own. Ours is a gateway on SQLite: one
process that meets the mailboxes for the first time and imports them, then one that is started again over its database,
for them and for a single mailbox. Memory is what the process grew by since just before the first connection, divided by
the mailboxes. Latency is from the moment at which EXISTS is read from the socket until the message is committed;
Dovecot itself tells after half a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import random
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop
from sqlalchemy import Engine, event, func, select

from connectors.imap.session import Session
from connectors.imap.source import ImapSource
from connectors.port import Connect, Source
from mailgate.actors import SYSTEM
from mailgate.app.core import Core
from mailgate.app.outside import imap_connector, supervisor_of
from mailgate.app.serve import _share_arenas, share_the_interpreter, spare_the_collector
from mailgate.clock import DAY, SECOND, system_clock
from mailgate.logs import configure
from mailgate.settings import LogSettings, Settings
from mailgate.store import tenants
from mailgate.store.mailboxes import MailboxSpec
from mailgate.store.schema import mailboxes, messages
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.store.sync import SqlSyncStore
from mailgate.store.transaction import Transaction
from mailgate.sync.incoming import Batch
from mailgate.sync.state import MailboxConfig, Owner
from tests.dovecot import Account, Dovecot, start_dovecot

MAILS_EACH = 3
"""Messages that lie in every INBOX from the beginning."""
MAILBOXES_OF_A_TENANT = 10
AT_ONCE = 32
"""Bare connections that are opened side by side."""
PACE_S = 0.1
"""Between two deliveries."""


def mail(n: int) -> bytes:
    """One short message."""
    head = f"Message-ID: <{n}@bench.example>\r\nSubject: Number {n}\r\nFrom: ann@example.org\r\nTo: bob@example.com\r\n"
    return (head + "\r\n" + f"Text of number {n}. " * 40 + "\r\n").encode()


def seed(server: Dovecot, count: int) -> list[Account]:
    """So many accounts with a few messages each."""
    now = system_clock() // SECOND * SECOND
    accounts = [server.account(f"box{n}@mail.example") for n in range(count)]
    for n, account in enumerate(accounts):
        account.seed((mail(n * MAILS_EACH + k), now - k * DAY) for k in range(MAILS_EACH))
    return accounts


def job_of(server: Dovecot, accounts: Sequence[Account], *, tls: bool, **more: Any) -> dict[str, Any]:
    """What a child process is told."""
    return {
        "port": server.tls_port if tls else server.port,
        "ca": str(server.certificates.ca) if tls else None,
        "names": [account.name for account in accounts],
        "password": accounts[0].password,
        **more,
    }


class Child:
    """A process that does one job and prints what it measured, a line of JSON for each part."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bench_mailboxes", "--job", json.dumps(job)],
            stdout=subprocess.PIPE,
            text=True,
        )

    def told(self) -> dict[str, Any]:
        """The next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the child ended with {self._process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told

    def end(self) -> None:
        """Wait until it has ended; one that hangs is killed."""
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def resident() -> int:
    """Bytes of this process that lie in memory, without what is garbage."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


# The bare side.


class Bare(asyncio.Protocol):
    """Logs in, EXAMINEs INBOX and IDLEs."""

    __slots__ = ("idling", "lines", "tail", "transport")

    def __init__(self, name: str, password: str) -> None:
        login = b'a LOGIN "%s" "%s"\r\n' % (name.encode(), password.encode())
        self.lines = [login, b"b EXAMINE INBOX\r\n", b"c IDLE\r\n"]
        self.tail = b""
        self.idling: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self.tail = (self.tail + data).split(b"\r\n")
        for line in lines:
            if line.startswith((b"a OK", b"b OK")) or (line.startswith(b"* OK") and len(self.lines) == 3):
                self.transport.write(self.lines.pop(0))
            elif line.startswith(b"+") and self.idling is not None:
                self.idling.set_result(None)
                self.idling = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.idling is not None and not self.idling.done():
            self.idling.set_exception(exc or ConnectionError("the server hung up"))


async def bare(job: Mapping[str, Any]) -> None:
    """Every account, connected and idling."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(cafile=job["ca"]) if job["ca"] else None
    turn = asyncio.Semaphore(AT_ONCE)
    open_: list[Bare] = []

    async def connect(name: str) -> None:
        async with turn:
            _, protocol = await loop.create_connection(
                lambda: Bare(name, job["password"]),
                "127.0.0.1",
                job["port"],
                ssl=context,
                server_hostname="127.0.0.1" if context else None,
            )
            open_.append(protocol)
            if protocol.idling is not None:
                await protocol.idling

    before, began = resident(), time.perf_counter()
    await asyncio.gather(*(connect(name) for name in job["names"]))
    took = time.perf_counter() - began
    tell({"live_s": took, "kib": (resident() - before) / 1024 / len(open_)})
    for protocol in open_:
        protocol.transport.abort()


# Our side.


class Counters:
    """What the process did since `reset`; `exists_s`: when EXISTS came, by mailbox."""

    def __init__(self) -> None:
        self.exists_s: dict[str, float] = {}
        self.latency_s: list[float] = []
        self.names: dict[int, str] = {}
        self.reset()

    def reset(self) -> None:
        self.sent = self.received = self.reads = self.writes = self.transactions = 0
        self.began_s, self.cpu_s = time.perf_counter(), time.process_time()

    def each_minute(self, count: int) -> dict[str, float]:
        """All of it since `reset`, for one of `count` mailboxes in one minute."""
        elapsed_s = time.perf_counter() - self.began_s
        share = 60 / elapsed_s / count
        return {
            "sent": self.sent * share,
            "received": self.received * share,
            "reads": self.reads * share,
            "writes": self.writes * share,
            "transactions": self.transactions * share,
            "cpu_ms": (time.process_time() - self.cpu_s) * share * 1_000,
            "processor": (time.process_time() - self.cpu_s) / elapsed_s,
        }


def watch(counters: Counters) -> None:
    """Have the gateway's own classes counted."""
    write, received, changed = Session._write, Session.received, ImapSource._changed
    commit, committed = SqlSyncStore.commit, Transaction.committed

    def counting_write(self: Session, data: bytes) -> None:
        counters.sent += len(data)
        write(self, data)

    def counting_received(self: Session, data: bytearray, size: int) -> None:
        counters.received += size
        received(self, data, size)

    def timing_changed(self: ImapSource, **change: Any) -> None:
        if change.get("exists") is not None:
            counters.exists_s.setdefault(counters.names[id(self)], time.perf_counter())
        changed(self, **change)

    async def timing_commit(self: SqlSyncStore, owner: Owner, batch: Batch) -> Any:
        applied = await commit(self, owner, batch)
        if batch.messages and owner.mailbox_id in counters.exists_s:
            counters.latency_s.append(time.perf_counter() - counters.exists_s.pop(owner.mailbox_id))
        return applied

    def counting_committed(self: Transaction) -> None:
        counters.transactions += 1
        committed(self)

    def counting_statement(_conn: Any, _cursor: Any, text: str, *_: Any) -> None:
        if text.startswith(("SELECT", "PRAGMA", "BEGIN", "WITH")):
            counters.reads += 1
        else:
            counters.writes += 1

    Session._write = counting_write  # type: ignore[method-assign]
    Session.received = counting_received  # type: ignore[method-assign]
    ImapSource._changed = timing_changed  # type: ignore[method-assign]
    SqlSyncStore.commit = timing_commit  # type: ignore[method-assign]
    Transaction.committed = counting_committed  # type: ignore[method-assign]
    event.listen(Engine, "before_cursor_execute", counting_statement)


async def ours(job: Mapping[str, Any]) -> None:
    """A gateway over the folder, until every mailbox is live, all deliveries are there and a while was idle."""
    configure(LogSettings(level="error", format="console"))
    counters = Counters()
    watch(counters)
    settings = Settings.model_validate(
        {"data_dir": job["folder"], "net": {"allow": ["127.0.0.0/8"]}, "sync": job["sync"], "database": {"url": ""}}
    )
    core = await Core.open(settings)
    count = len(job["names"])
    async with core.db.read() as conn:
        known = (await conn.execute(select(func.count()).select_from(mailboxes))).scalar_one()
    if not known:
        await connect_all(core, job)
    context = ssl.create_default_context(cafile=job["ca"])
    connector = imap_connector(core, context)

    def named(config: MailboxConfig) -> Connect:
        connect = connector(config)

        async def connected() -> Source:
            source = await connect()
            counters.names[id(source)] = config.id
            return source

        return connected  # type: ignore[return-value]

    async def number(query: Any) -> int:
        async with core.db.read() as conn:
            return int((await conn.execute(query)).scalar_one())

    live = select(func.count()).where(mailboxes.c.state == "live", mailboxes.c.last_checked_at >= core.clock())
    arrived = select(func.count()).select_from(messages)
    await number(live)
    spare_the_collector()  # this, and the next, as `serve` does
    share_the_interpreter()
    before = resident()
    supervisor = supervisor_of(core, named)
    began = time.perf_counter()
    running = asyncio.create_task(supervisor.run())
    try:
        while await number(live) < count:  # noqa: ASYNC110 - a look at the database, which wakes nobody
            await asyncio.sleep(0.05)
        took = time.perf_counter() - began
        tell({"live_s": took, "kib": (resident() - before) / 1024 / count, "rss_mib": resident() / 2**20})
        wanted = await number(arrived) + job["mails"]
        tell({"ready": True})
        while await number(arrived) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        latency = sorted(counters.latency_s)
        if len(latency) > 1:
            cuts = statistics.quantiles(latency, n=20)
            tell({"count": len(latency), "p50_ms": statistics.median(latency) * 1e3, "p95_ms": cuts[18] * 1e3})
        if job["idle_s"]:
            counters.reset()
            await asyncio.sleep(job["idle_s"])  # what is measured is waiting
            tell(counters.each_minute(count))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await core.close()


async def connect_all(core: Core, job: Mapping[str, Any]) -> None:
    """Tenants and mailboxes, as the CRM would make them."""
    for n, name in enumerate(job["names"]):
        tenant_id = f"tenant{n // MAILBOXES_OF_A_TENANT}"
        if n % MAILBOXES_OF_A_TENANT == 0:
            await tenants.put(core.db, core.ring, core.log, tenant_id, tenant_id, core.clock(), SYSTEM)
            change = SubscriptionChange("professional")
            await core.subscriptions.set_outright(tenant_id, change, core.clock(), SYSTEM)
        security = "tls" if job["ca"] else "none"
        imap = {"host": "127.0.0.1", "port": job["port"], "security": security, "username": name}
        spec = MailboxSpec(name, imap, {"imap": {"password": job["password"]}})
        await core.mailboxes.create(tenant_id, spec, core.clock(), SYSTEM)


def tell(what: Mapping[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def deliver(accounts: Sequence[Account], count: int) -> None:
    """So many messages to accounts taken at random, one after the other, none to an account that was just given one."""
    rng = random.Random(1)
    some = [account for _ in range(count) for account in rng.sample(list(accounts), 1)]
    for n, account in enumerate(some):
        account.add(mail(1_000_000 + n), received_at=system_clock() // SECOND * SECOND)
        time.sleep(PACE_S if len(accounts) > 1 else 10 * PACE_S)


def measure(
    server: Dovecot,
    accounts: Sequence[Account],
    *,
    tls: bool,
    mails: int,
    idle_s: float,
    sync: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """First start, second start with deliveries and a while of idling, of one gateway."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="mailgate-bench-") as folder:
        job = job_of(server, accounts, tls=tls, kind="ours", folder=folder, sync=dict(sync or {}))
        first = Child({**job, "mails": 0, "idle_s": 0})
        try:
            found["first"] = first.told()
        finally:
            first.end()
        again = Child({**job, "mails": mails, "idle_s": idle_s})
        try:
            found["again"] = again.told()
            again.told()
            deliver(accounts, mails)
            found["mail"] = again.told()
            found["idle"] = again.told()
        finally:
            again.end()
    return found


def measure_bare(server: Dovecot, accounts: Sequence[Account], *, tls: bool) -> dict[str, Any]:
    """The peer."""
    child = Child(job_of(server, accounts, tls=tls, kind="bare"))
    try:
        return child.told()
    finally:
        child.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mailboxes", type=int, default=1_000)
    parser.add_argument("--mails", type=int, default=100)
    parser.add_argument("--idle", type=float, default=60.0)
    parser.add_argument("--line", choices=["plain", "tls"])
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        _share_arenas()
        uvloop.run((ours if job["kind"] == "ours" else bare)(job))
        return
    for line in ("plain", "tls") if options.line is None else (options.line,):
        print(f"{options.mailboxes} mailboxes, {line}, Python {sys.version.split()[0]}, uvloop {uvloop.__version__}")
        with contextlib.contextmanager(start_dovecot)() as server:
            accounts = seed(server, options.mailboxes)
            compare(server, accounts, options, tls=line == "tls")


def compare(server: Dovecot, accounts: Sequence[Account], options: argparse.Namespace, *, tls: bool) -> None:
    """Measure and print, the peer first."""
    peer = measure_bare(server, accounts, tls=tls)
    say(f"bare connections   {peer['kib']:7.1f} KiB each   all idling after {peer['live_s']:6.1f} s")
    many = measure(server, accounts, tls=tls, mails=options.mails, idle_s=options.idle)
    for name, label in (("first", "ours, first start"), ("again", "ours, started again")):
        part = many[name]
        say(
            f"{label:<18} {part['kib']:6.1f} KiB each   all live after   {part['live_s']:6.1f} s"
            f"   (process {part['rss_mib']:.0f} MiB)"
        )
    idle = many["idle"]
    say(
        f"an idle mailbox, a minute: {idle['sent']:.0f} bytes sent, {idle['received']:.0f} received, "
        f"{idle['reads']:.2f} statements that read, {idle['writes']:.2f} that write in "
        f"{idle['transactions']:.2f} transactions, {idle['cpu_ms']:.1f} ms of a processor "
        f"(all: {idle['processor']:.0%} of one)"
    )
    one = measure(server, accounts[:1], tls=tls, mails=20, idle_s=1)
    for label, part in (("alone", one["mail"]), (f"with {len(accounts)} idle", many["mail"])):
        say(
            f"EXISTS → committed, {label:<16} p50 {part['p50_ms']:6.1f} ms   p95 {part['p95_ms']:6.1f} ms"
            f"   of {part['count']}"
        )


def say(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    main()
