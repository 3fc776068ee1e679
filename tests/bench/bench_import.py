"""The first import, everything done (parsed, compressed, encrypted, rows, durable), beside mbsync with fsync and beside
the limit of the server.

    python -m tests.bench.bench_import [--messages N] [--mean BYTES] [--rounds R] [--tls] [--url DATABASE]
        [--sync-ms N ...]

All ask the same Dovecot for the same mailbox over loopback, in turn: ours each time from nothing into a new database
(SQLite unless `--url` names an empty one) and blob store, in a process of its own that is set up as `mailgate serve`
sets itself up; mbsync into a new Maildir; and a raw socket with one FETCH, whose bytes are thrown away. Without
`--messages` and `--mean`: 2 000 messages of 43 kB, then 10 000 of 2.3 kB. The mail is generated: sizes spread like
those of real mail, text that compresses like text, attachments that don't.

How long the disk takes for a sync decides the comparison, since mbsync syncs each file and ours each batch. With
`--sync-ms 0 0.5 2` both run with a library before the C library's that makes every fsync, fdatasync and syncfs wait so
long first (`slow_disk`), 0 being this disk as it is. What is printed says so: no real disk was slow.

On a busy machine look at the processor time of a message rather than at the clock. Nothing is deleted before the last
round: ext4 passes over inodes that were freed within the last minutes, one by one, so that a file made after ten
thousand were removed costs 120 µs instead of 15. (The first rounds suffer from what was removed before.)
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import math
import os
import random
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from mailgate.app.serve import _share_arenas, share_the_interpreter, spare_the_collector
from mailgate.clock import DAY, MINUTE, system_clock
from mailgate.settings import SyncSettings
from mailgate.sync.supervisor import Supervisor
from tests.bench.bench_wire import raw
from tests.bench.slow_disk import SlowDisk
from tests.dovecot import Account, Dovecot, start_dovecot
from tests.postgres import migrate
from tests.sync.engine import Engine

LOOPBACK = parse_networks(["127.0.0.0/8"])
TEXT = """the offer for your project is attached please find the invoice of last month with the contract and the
delivery date we would like to confirm that the order has been shipped and will arrive on thursday if you have any
questions call the office or answer this message thank you for the meeting regards from the team of customer service"""
WORDS = TEXT.split()
SPREAD = 1.1
"""Of the sizes, as a log-normal distribution: many small messages, few large ones."""


def messages(count: int, mean: int, seed: int = 1) -> Iterator[tuple[bytes, int]]:
    """(raw, received_at): sizes of about `mean` bytes, received over the last 80 days."""
    rng = random.Random(seed)
    noise = base64.encodebytes(rng.randbytes(3_000_000)).replace(b"\n", b"\r\n")
    mu = math.log(mean) - SPREAD * SPREAD / 2
    begin = system_clock() - 80 * DAY
    for n in range(count):
        size = min(int(rng.lognormvariate(mu, SPREAD)), 3_000_000)
        yield _message(rng, n, size, noise), begin + n * 80 * DAY // count // MINUTE * MINUTE


def _message(rng: random.Random, n: int, size: int, noise: bytes) -> bytes:
    """One message: four hops, text, and base64 of noise up to the size."""
    words = rng.choices(WORDS, k=min(size, 2_000 + size // 5) // 6 + 5)
    text = "\r\n".join(" ".join(words[i : i + 11]) for i in range(0, len(words), 11)).encode()
    fields = [
        *(
            f"Received: from mx{k}.example.org (mx{k}.example.org [192.0.2.{k + 1}])\r\n"
            f"\tby mail.example.com with ESMTPS id {rng.getrandbits(32):08x};\r\n\tMon, 01 Jan 2024 00:00:0{k} +0000"
            for k in range(4)
        ),
        f"Message-ID: <{n}.{rng.getrandbits(32):08x}@example.org>",
        "Date: Mon, 01 Jan 2024 00:00:00 +0000",
        f"From: Ann Example <ann{n % 50}@example.org>",
        "To: Bob <bob@example.com>",
        f"Subject: {' '.join(words[:5])}",
        "MIME-Version: 1.0",
    ]
    plain = b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + text + b"\r\n"
    head = "\r\n".join(fields).encode() + b"\r\n"
    lines = min(size - len(head) - len(plain), len(noise)) // 78  # whole lines, so that the base64 is sound
    if lines < 12:
        return head + plain
    start = rng.randrange(len(noise) // 78 - lines + 1) * 78
    parts = [
        b'Content-Type: multipart/mixed; boundary="=_b"\r\n\r\n--=_b\r\n' + plain,
        b'--=_b\r\nContent-Type: application/pdf; name="offer.pdf"\r\nContent-Transfer-Encoding: base64\r\n',
        b'Content-Disposition: attachment; filename="offer.pdf"\r\n\r\n' + noise[start : start + lines * 78],
        b"--=_b--\r\n",
    ]
    return head + b"".join(parts)


async def ours(job: dict[str, object]) -> dict[str, float]:
    """One import in this process: seconds until all was there, until the first was visible, and peak memory."""
    folder = Path(str(job["folder"]))
    endpoint = Endpoint("127.0.0.1", int(str(job["port"])), Security(str(job["security"])))
    auth = PasswordAuth(str(job["user"]), str(job["password"]))
    context = ssl.create_default_context(cafile=str(job["ca"])) if job["ca"] else None

    async def connect() -> ImapConnection:
        return await connect_imap(endpoint, auth, ssl_context=context, allow_networks=LOOPBACK)

    url = str(job["url"] or f"sqlite:///{folder / 'mailgate.db'}")
    engine = await Engine.open(
        url,
        folder,
        MemoryAccount(),
        settings=SyncSettings(),
        connect=connect,
        clock=system_clock,  # type: ignore[arg-type]
    )
    first: list[float] = []
    commit = engine.store.commit

    async def watched(*args: object) -> object:
        applied = await commit(*args)  # type: ignore[arg-type]
        if applied.created and not first:
            first.append(time.perf_counter() - begin)
        return applied

    engine.store.commit = watched  # type: ignore[method-assign, assignment]
    spare_the_collector()
    share_the_interpreter()
    before = _processor_time()
    begin = time.perf_counter()
    supervisor: Supervisor = engine.supervisor()
    await supervisor.sync_once(engine.mailbox_id)
    seconds = time.perf_counter() - begin
    user, system = (now - then for now, then in zip(_processor_time(), before, strict=True))
    async with engine.db.read() as conn:
        count = (await conn.exec_driver_sql("SELECT count(*) FROM messages")).scalar_one()
    await engine.close(check=False)
    return {
        "seconds": seconds,
        "first": first[0],
        "count": count,
        "user": user,
        "system": system,
    }


def _processor_time() -> tuple[float, float]:
    """Seconds in the program and in the system, of this process and of those it started that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime for of in used), sum(of.ru_stime for of in used)


@dataclass
class Ran:
    """What one program took for the mailbox; processor time of all its processes, memory in MB."""

    seconds: float
    user: float = 0.0
    system: float = 0.0
    first: float = 0.0
    memory: float = 0.0
    syncs: int = 0


def run_ours(
    server: Dovecot,
    account: Account,
    count: int,
    folder: Path,
    *,
    tls: bool,
    url: str,
    profile: str,
    disk: SlowDisk | None = None,
) -> Ran:
    migrate(url or f"sqlite:///{folder / 'mailgate.db'}")
    job = {
        "folder": str(folder),
        "port": server.tls_port if tls else server.port,
        "security": "tls" if tls else "none",
        "user": account.name,
        "password": account.password,
        "ca": str(server.certificates.ca) if tls else "",
        "url": url,
    }
    program = [sys.executable, *(["-m", "cProfile", "-o", profile] if profile else [])]
    command = [*program, "-m", "tests.bench.bench_import", "--job", json.dumps(job)]
    peak = 0.0
    with tempfile.TemporaryFile("w+") as errors:
        environment = None if disk is None else disk.environment(os.environ)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        while process.poll() is None:
            peak = max(peak, sum(map(_memory, [process.pid, *_descendants(process.pid)])))
            time.sleep(0.5)  # looking at its pages costs the system time
        output, _ = process.communicate()
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(errors.read())
    result = json.loads(output.splitlines()[-1])
    if result.pop("count") != count:
        raise RuntimeError(f"not the {count} messages that there are: {result}")
    return Ran(**result, memory=peak, syncs=0 if disk is None else disk.syncs())


def _descendants(pid: int, program: bytes | None = None) -> list[int]:
    """Processes that it started, and theirs, but for those that run its own program: until one has its own, its memory
    is its parent's.
    """
    program = _program(pid) if program is None else program
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in path.read_text().split()]
    own = [child for child in found if _program(child) != program]
    return own + [further for child in own for further in _descendants(child, program)]


def _program(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _memory(pid: int) -> float:
    """MB that the process has resident; pages that several processes share count once among them."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def run_mbsync(server: Dovecot, account: Account, folder: Path, *, tls: bool, disk: SlowDisk | None = None) -> Ran:
    """The same into a Maildir, fsync on (its default)."""
    config = folder / "mbsyncrc"
    security = f"SSLType IMAPS\nCertificateFile {server.certificates.ca}" if tls else "SSLType None"
    config.write_text(
        f"IMAPStore far\nHost 127.0.0.1\nPort {server.tls_port if tls else server.port}\nUser {account.name}\n"
        f'Pass "{account.password}"\nAuthMechs LOGIN\n{security}\n\n'
        f"MaildirStore near\nPath {folder}/mail/\nInbox {folder}/mail/INBOX\nSubFolders Verbatim\n\n"
        "Channel all\nFar :far:\nNear :near:\nPatterns *\nCreate Near\nSync Pull\nSyncState *\n"
    )
    (folder / "mail").mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    environment = None if disk is None else disk.environment(os.environ)
    command = ["mbsync", "-c", str(config), "all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stderr)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return Ran(seconds, user, system, syncs=0 if disk is None else disk.syncs())


def run_raw(server: Dovecot, account: Account, *, tls: bool) -> Ran:
    """One FETCH on a raw socket, bytes thrown away: as fast as this server can be."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds, _ = raw(server, account, tls=tls)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Ran(seconds, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)


def compare(
    count: int,
    mean: int,
    rounds: int,
    *,
    tls: bool,
    url: str = "",
    profile: str = "",
    sync_ms: Sequence[float | None] = (None,),
) -> float:
    """Print the comparison, for a disk on which a sync takes so long, None: as it is; the last ratio of the medians in
    messages a second.
    """
    ratio = 0.0
    with contextlib.contextmanager(start_dovecot)() as server, tempfile.TemporaryDirectory("-bench") as name:
        account, places = server.account(), itertools.count()

        def place() -> Path:
            folder = Path(name) / str(next(places))
            folder.mkdir()
            return folder

        octets = 0
        for body, received_at in messages(count, mean):
            account.add(body, received_at=received_at)
            octets += len(body)
        print(f"{count} messages, {octets / 1e6:.0f} MB, {'TLS' if tls else 'plain'}, {rounds} rounds in turn")
        run_raw(server, account, tls=tls)  # once unmeasured: Dovecot builds its index
        for wait_ms in sync_ms:
            disk = None if wait_ms is None else SlowDisk(place(), wait_ms)
            if wait_ms is not None:
                print(f"every sync waits {wait_ms:g} ms first, by a library before the C library's")
            ran: dict[str, list[Ran]] = {"mailgate": [], "mbsync": [], "raw socket": []}
            for _ in range(rounds):
                more = {"tls": tls, "disk": disk}
                ran["mailgate"].append(run_ours(server, account, count, place(), url=url, profile=profile, **more))
                ran["mbsync"].append(run_mbsync(server, account, place(), **more))
                ran["raw socket"].append(run_raw(server, account, tls=tls))
            ratio = show(ran, count, octets)
    return ratio


def show(ran: Mapping[str, Sequence[Ran]], count: int, octets: int) -> float:
    """Print what each took for so many messages; the ratio of the medians."""
    print(f"{'':<10} {'s':>7} {'msgs/s':>8} {'MB/s':>7} {'µs of processor a message':>27}")
    median = {name: statistics.median(one.seconds for one in runs) for name, runs in ran.items()}
    for name, runs in ran.items():
        seconds = median[name]
        user, system = (statistics.median(getattr(one, of) for one in runs) for of in ("user", "system"))
        syncs = round(statistics.median(one.syncs for one in runs))
        print(
            f"{name:<10} {seconds:>7.2f} {count / seconds:>8.0f} {octets / 1e6 / seconds:>7.1f} "
            f"{(user + system) / count * 1e6:>12.0f} ({user / count * 1e6:.0f} + {system / count * 1e6:.0f})"
            + (f", {syncs} syncs" if syncs else "")
        )
    own = ran["mailgate"]
    ratio = median["mbsync"] / median["mailgate"]
    bests = min(one.seconds for one in ran["mbsync"]) / min(one.seconds for one in own)
    busy = statistics.median((one.user + one.system) / one.seconds for one in own)
    first = statistics.median(one.first for one in own)
    print(f"ratio to mbsync {ratio:.2f} (of the bests {bests:.2f}), {busy:.2f} processors busy")
    print(f"first message visible after {first:.2f} s, peak memory {max(one.memory for one in own):.0f} MB", flush=True)
    return ratio


@pytest.mark.bench
def test_import_beside_mbsync() -> None:
    assert compare(10_000, 43_000, 3, tls=False) > 2


SIZES = ((2_000, 43_000), (10_000, 2_300))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, help="how many")
    parser.add_argument("--mean", type=int, help="their mean size in bytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--url", default="", help="an empty database; SQLite in a temporary folder without")
    parser.add_argument("--profile", default="", help="write a cProfile of ours to this file")
    parser.add_argument("--sync-ms", type=float, nargs="+", default=[None], help="how long each sync waits first")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        _share_arenas()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(ours(json.loads(options.job)))))
        return
    for count, mean in SIZES if options.mean is None else ((SIZES[0][0], options.mean),):
        how_many = options.messages or count
        compare(
            how_many,
            mean,
            options.rounds,
            tls=options.tls,
            url=options.url,
            profile=options.profile,
            sync_ms=options.sync_ms,
        )


if __name__ == "__main__":
    main()
