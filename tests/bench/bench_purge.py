"""How fast a purge is: rows, log entry, tombstone, event, blob key and the erased object of each copy, durably.

    python -m tests.bench.bench_purge [copies] [sqlite|postgresql|both] [words]

Somebody reads and a sync stores meanwhile; how long they waited is told too, and how long the longest batch took. The
copies have as many words in the text index as mail has, unless fewer are asked for: a million are made sooner then.
PostgreSQL's commits are durable, and the garbage collector is spared as `serve` does it. Files and databases lie under
TMPDIR: on a disk that others write to, syncfs waits for what they wrote.

Beside it, in the same run, the raw limit: the same rows deleted by one bare DELETE per 500, and as many files unlinked.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from sqlalchemy import select, text

from mailgate.actors import COMMAND
from mailgate.app.serve import share_the_interpreter, spare_the_collector
from mailgate.blobs import BlobStore
from mailgate.clock import DAY, SECOND
from mailgate.jobs.erase import EraseWorker
from mailgate.jobs.worker import Worker
from mailgate.keys import KeyRing, TenantKeys
from mailgate.messages.tokens import prefixes
from mailgate.store import leftovers
from mailgate.store.database import Database
from mailgate.store.erasures import Erasures
from mailgate.store.expiry import Expiry
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.retention import RetentionService
from mailgate.store.schema import messages
from mailgate.store.search import prefix_tokens, tokens_of
from mailgate.store.subscriptions import Subscriptions
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.timeline import SubscriptionRules
from retention.model import Graces
from retention.policy import Policy
from tests.store.builder import Builder, Home, Seed

NOW = 20_000 * DAY
PLANS = Path(__file__).parents[2] / "config" / "plans.toml"
_BATCH = 500
_APART = 2 * SECOND
"""So long after another a message came: a million in 23 days."""
_RAW = 50_000
"""Rows and files of the bare minimum, at most."""
_VOCABULARY, _WORD_SETS = 20_000, 1_000


async def measure(url: str, folder: Path, copies: int, words_each: int = 148) -> dict[str, float]:
    """Fill the database, purge it, and do the bare minimum on as much; rates per second, memory in MB, waits in ms.

    As in the gateway: ids are of the time when a copy came, the clock goes on, and what a batch frees is erased while
    the next batches are purged. The time is taken until the last object is gone, durably, and recorded.
    """
    clock = _Clock()
    db = Database(url)
    ring = KeyRing.open(f"file://{folder}/keys", create=True)
    blobs = BlobStore.open(f"file://{folder}/blobs")
    policy = Policy(1, "ab" * 32)
    log = PurgeLog(origin="bench", policy=LogPolicy(1, policy.document), version="1", commit="bench")
    subscriptions = Subscriptions(db, log, parse_catalogue(PLANS.read_bytes()), SubscriptionRules())
    builder = Builder(db, ring, log, subscriptions, blobs, NOW, packed=True)
    service = RetentionService(db, log, subscriptions, Expiry(subscriptions, Graces()), policy, clock, "bench")
    erasing = Worker("erase", EraseWorker(Erasures(db, log), blobs, clock, "bench").work)
    service.on_purged = erasing.wake

    filling = time.perf_counter()
    home = await builder.home("acme", "crm_plus")
    words = _word_sets(ring.tenant(home.tenant.ref), words_each)
    other = await builder.home("other", "crm_plus")
    for start in range(0, copies, _BATCH):
        builder.now = NOW - 60 * DAY + start * _APART
        count = min(_BATCH, copies - start)
        ages = [builder.now - (_BATCH - n) * _APART for n in range(count)]
        await builder.copies(home, [Seed(at, indexed=True, tokens=next(words)) for at in ages])
    builder.now = NOW
    print(f"  filled with {copies} copies in {time.perf_counter() - filling:.1f} s", file=sys.stderr)
    if not db.sqlite:
        async with db.write() as tx:
            await tx.conn.execute(text("ANALYZE"))

    spare_the_collector()
    share_the_interpreter()
    batches = _held(db)
    before, cpu = _rss(), time.process_time()
    beside = _Beside(db, builder, other)
    watching = asyncio.create_task(beside.work())
    begun = time.perf_counter()
    erasing.start()
    run = await service.run(actor=COMMAND, approve_brake=True)
    purged_in = time.perf_counter() - begun
    while (await Erasures(db, log).pending())[0]:
        erasing.wake()
        await asyncio.sleep(0.005)
    both_in = time.perf_counter() - begun
    peak, cpu = _rss(), time.process_time() - cpu
    beside.over = True
    await watching
    sweeping, swept_cpu = time.perf_counter(), time.process_time()
    swept = await leftovers.sweep(db)
    sweeping, swept_cpu = time.perf_counter() - sweeping, time.process_time() - swept_cpu
    assert swept == copies, swept
    await erasing.stop()
    assert run.counts["purged"] == copies, run
    assert not list(blobs.list_ids())[beside.written :]
    few = min(copies, _RAW)
    raw = await _raw(db, _files(folder / "raw", few))
    await db.close()
    return {
        "purge": copies / purged_in,
        "both": copies / both_in,
        "raw": few / raw,
        "sweep": swept / sweeping,
        "sweep_us": swept_cpu / swept * 1e6,
        "cpu_us": cpu / copies * 1e6,
        "grown_mb": peak - before,
        "peak_mb": peak,
        "read_p99_ms": _percentile(beside.reads, 99),
        "read_max_ms": max(beside.reads),
        "write_p99_ms": _percentile(beside.writes, 99),
        "write_max_ms": max(beside.writes),
        "batch_ms": max(batches),
        "load": os.getloadavg()[0],
    }


def _word_sets(keys: TenantKeys, count: int) -> Iterator[list[str]]:
    """What stands in the index of message after message, over and over: the tokens of so many different words and of
    their beginnings, some five for each. Words are as common as in mail (Zipf), and share their first letters.
    """
    chance = random.Random(4)
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvw", "aeiou")]
    tokens = []
    for _ in range(_VOCABULARY):
        word = "".join(chance.choices(syllables, k=chance.randint(2, 4)))[chance.randint(0, 1) :]
        tokens.append([*tokens_of(keys, "text", [word]), *prefix_tokens(keys, "text", prefixes([word]))])
    weights = list(itertools.accumulate(1 / rank for rank in range(1, _VOCABULARY + 1)))
    sets = []
    for _ in range(_WORD_SETS):
        words = set[int]()
        while len(words) < count:
            words.update(chance.choices(range(_VOCABULARY), cum_weights=weights, k=count - len(words)))
        sets.append(sorted({token for word in words for token in tokens[word]}))
    return itertools.cycle(sets)


def _held(db: Database) -> list[float]:
    """How long each transaction lasts from now on, in ms, without the wait for its turn on SQLite."""
    lasted: list[float] = []

    def watched(transact: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def timed(work: Any) -> Any:
            begun = time.perf_counter()
            try:
                return await transact(work)
            finally:
                lasted.append((time.perf_counter() - begun) * 1e3)

        return timed

    for name in ("_visit_writer", "_made"):
        setattr(db, name, watched(getattr(db, name)))
    return lasted


class _Clock:
    """Begins at NOW and goes on."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()

    def __call__(self) -> int:
        return NOW + int((time.perf_counter() - self._begun) * 1e6)


class _Beside:
    """Somebody who reads a page of messages, and a sync that stores one, again and again: how long each waited (ms)."""

    def __init__(self, db: Database, builder: Builder, home: Home) -> None:
        self.over = False
        self.written = 0
        self.reads: list[float] = []
        self.writes: list[float] = []
        self._db, self._builder, self._home = db, builder, home

    async def work(self) -> None:
        page = select(messages).where(messages.c.tenant_id == "other").order_by(messages.c.id.desc()).limit(50)
        while not self.over or not self.writes:
            begun = time.perf_counter()
            async with self._db.read() as conn:
                (await conn.execute(page)).all()
            read = time.perf_counter()
            await self._builder.copies(self._home, [Seed(NOW)])
            self.written += 1
            self.reads.append((read - begun) * 1e3)
            self.writes.append((time.perf_counter() - read) * 1e3)
            await asyncio.sleep(0.1)


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def _files(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    names = [folder / f"{n:08d}" for n in range(count)]
    for name in names:
        name.write_bytes(b"x" * 200)
    return names


async def _raw(db: Database, names: list[Path]) -> float:
    """Seconds for rows of the same width deleted in batches of 500, each committed, and files unlinked."""
    copies = len(names)
    async with db.write() as tx:
        await tx.conn.execute(text("CREATE TABLE raw (id BIGINT PRIMARY KEY, body TEXT)"))
    for start in range(0, copies, 10_000):
        async with db.write() as tx:
            await tx.conn.execute(
                text("INSERT INTO raw VALUES (:id, :body)"),
                [{"id": n, "body": "x" * 500} for n in range(start, min(copies, start + 10_000))],
            )
    begun = time.perf_counter()
    for start in range(0, copies, 500):
        async with db.write() as tx:
            await tx.conn.execute(text(f"DELETE FROM raw WHERE id >= {start} AND id < {start + 500}"))  # noqa: S608
    for name in names:
        name.unlink()
    return time.perf_counter() - begun


def _rss() -> float:
    """The process's peak memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def show(name: str, found: dict[str, float]) -> None:
    """Four lines per database."""
    print(
        f"purge {name:11s} {found['both']:7.0f} copies/s with everything erased (rows alone {found['purge']:.0f}/s; "
        f"{found['cpu_us']:.0f} µs of this process's CPU each); bare DELETE + unlink {found['raw']:.0f}/s; "
        f"load {found['load']:.1f}\n"
        f"  words taken out of the index behind it: {found['sweep']:.0f} copies/s, {found['sweep_us']:.0f} µs each\n"
        f"  memory +{found['grown_mb']:.0f} MB, peak {found['peak_mb']:.0f} MB\n"
        f"  beside it a page of 50 took at most {found['read_max_ms']:.0f} ms (p99 {found['read_p99_ms']:.0f}), "
        f"storing a message {found['write_max_ms']:.0f} ms (p99 {found['write_p99_ms']:.0f}); the longest batch took "
        f"{found['batch_ms']:.0f} ms"
    )


def _measured(make: Callable[[], Awaitable[dict[str, float]]]) -> dict[str, float]:
    return uvloop.run(make())  # type: ignore[arg-type]


@pytest.mark.bench
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_purge(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Goal: 10 000 copies/s with everything, memory flat."""
    url = request.getfixturevalue(f"{kind}_url")
    copies = int(os.environ.get("BENCH_COPIES", "20000"))
    found = _measured(lambda: measure(url, tmp_path, copies))
    show(kind, found)
    assert found["grown_mb"] < 100


def _main() -> None:
    from tests.postgres import DURABLE, Postgres, migrate

    copies = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    kinds = sys.argv[2] if len(sys.argv) > 2 else "both"
    words = int(sys.argv[3]) if len(sys.argv) > 3 else 148
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL runs as another user
        if kinds in ("sqlite", "both"):
            url = f"sqlite:///{folder}/mailgate.db"
            migrate(url)
            (folder / "a").mkdir()
            show("sqlite", _measured(lambda: measure(url, folder / "a", copies, words)))
        if kinds in ("postgresql", "both"):
            (folder / "pg").mkdir()
            cluster = Postgres(folder / "pg", DURABLE)
            try:
                url = cluster.url(cluster.create())
                migrate(url)
                (folder / "b").mkdir()
                show("postgresql", _measured(lambda: measure(url, folder / "b", copies, words)))
            finally:
                cluster.stop()


if __name__ == "__main__":
    _main()
