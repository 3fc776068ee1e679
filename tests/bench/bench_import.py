"""The first import, everything done (parsed, compressed, encrypted, rows, durable), beside mbsync with fsync.

    python -m tests.bench.bench_import [--messages N] [--mean BYTES] [--rounds R] [--tls] [--url DATABASE]

Both import the same Dovecot mailbox over loopback, in turn, each time from nothing into a new place: ours into a
database (SQLite unless `--url` names an empty one) and a blob store, mbsync into a Maildir. Ours runs in a process of
its own; its peak memory is the kernel's figure. The mail is generated: sizes spread like those of real mail, text that
compresses like text, attachments that don't.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import math
import random
import resource
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from mailgate.clock import DAY, MINUTE, system_clock
from mailgate.settings import SyncSettings
from mailgate.sync.supervisor import Supervisor
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
    cpu_before = time.process_time()
    begin = time.perf_counter()
    supervisor: Supervisor = engine.supervisor()
    await supervisor.sync_once(engine.mailbox_id)
    seconds = time.perf_counter() - begin
    cpu = time.process_time() - cpu_before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with engine.db.read() as conn:
        count = (await conn.exec_driver_sql("SELECT count(*) FROM messages")).scalar_one()
    await engine.close(check=False)
    return {"seconds": seconds, "first": first[0], "count": count, "rss": peak / 1024, "cpu": cpu}


def run_ours(server: Dovecot, account: Account, *, tls: bool, url: str, profile: str | None) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(prefix="mailgate-bench-"))
    try:
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
        command = [sys.executable, *(["-m", "cProfile", "-o", profile] if profile else [])]
        done = subprocess.run(
            [*command, "-m", "tests.bench.bench_import", "--job", json.dumps(job)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result
    finally:
        shutil.rmtree(folder)


def run_mbsync(server: Dovecot, account: Account, *, tls: bool) -> float:
    """Seconds for the same into a Maildir, fsync on (its default)."""
    folder = Path(tempfile.mkdtemp(prefix="mailgate-mbsync-"))
    try:
        config = folder / "mbsyncrc"
        security = f"SSLType IMAPS\nCertificateFile {server.certificates.ca}" if tls else "SSLType None"
        config.write_text(
            f"IMAPStore far\nHost 127.0.0.1\nPort {server.tls_port if tls else server.port}\nUser {account.name}\n"
            f'Pass "{account.password}"\nAuthMechs LOGIN\n{security}\n\n'
            f"MaildirStore near\nPath {folder}/mail/\nInbox {folder}/mail/INBOX\nSubFolders Verbatim\n\n"
            "Channel all\nFar :far:\nNear :near:\nPatterns *\nCreate Near\nSync Pull\nSyncState *\n"
        )
        (folder / "mail").mkdir()
        begin = time.perf_counter()
        done = subprocess.run(["mbsync", "-c", str(config), "all"], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begin
        if done.returncode:
            raise RuntimeError(done.stderr)
        return seconds
    finally:
        shutil.rmtree(folder)


def compare(count: int, mean: int, rounds: int, *, tls: bool, url: str = "", profile: str | None = None) -> float:
    """Print the comparison; the ratio of the medians in messages a second."""
    with contextlib.contextmanager(start_dovecot)() as server:
        account = server.account()
        octets = 0
        for raw, received_at in messages(count, mean):
            account.add(raw, received_at=received_at)
            octets += len(raw)
        print(f"{count} messages, {octets / 1e6:.0f} MB, {'TLS' if tls else 'plain'}, {rounds} rounds in turn")
        run_mbsync(server, account, tls=tls)  # once unmeasured: Dovecot builds its index
        peer: list[float] = []
        own: list[dict[str, float]] = []
        for _ in range(rounds):
            own.append(run_ours(server, account, tls=tls, url=url, profile=profile))
            peer.append(run_mbsync(server, account, tls=tls))
        assert all(result["count"] == count for result in own), own
        our_s, peer_s = statistics.median(r["seconds"] for r in own), statistics.median(peer)
        print(f"{'':<10} {'s':>7} {'msgs/s':>8} {'MB/s':>7}")
        for name, seconds in (("mailgate", our_s), ("mbsync", peer_s)):
            print(f"{name:<10} {seconds:>7.2f} {count / seconds:>8.0f} {octets / 1e6 / seconds:>7.1f}")
        first = statistics.median(r["first"] for r in own)
        rss = max(r["rss"] for r in own)
        cpu = statistics.median(r["cpu"] for r in own)
        print(f"processor time {cpu / count * 1e6:.0f} µs a message, {cpu / our_s:.2f} processors busy")
        print(f"ratio {peer_s / our_s:.2f}, first message visible after {first:.2f} s, peak memory {rss:.0f} MB")
        return peer_s / our_s


@pytest.mark.bench
def test_import_beside_mbsync() -> None:
    assert compare(10_000, 43_000, 3, tls=False) > 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--mean", type=int, default=43_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--url", default="", help="an empty database; SQLite in a temporary folder without")
    parser.add_argument("--profile", help="write a cProfile of ours to this file")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(ours(json.loads(options.job)))))
        return
    compare(options.messages, options.mean, options.rounds, tls=options.tls, url=options.url, profile=options.profile)


if __name__ == "__main__":
    main()
