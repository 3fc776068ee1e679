"""What an auditor waits for at size: previews of a tenant with many copies, proofs out of its long purge log.

    python -m tests.bench.bench_preview [copies and entries] [sqlite|postgresql|both]

A twentieth of the copies is pinned; later a hold on a mailbox and one on 10 000 messages stand. Goal: a preview of
1 000 000 copies takes less than a second in the 95th percentile. The raw limit beside it is one bare count and sum.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import uvloop
from sqlalchemy import select, text

from mailgate.actors import COMMAND
from mailgate.app.core import Core
from mailgate.clock import DAY, Instant, system_clock
from mailgate.settings import DatabaseSettings, Settings
from mailgate.store import log_search, tenants
from mailgate.store.legal_holds import Scope
from mailgate.store.log_search import EntryFilter
from mailgate.store.schema import messages
from mailgate.store.transaction import Transaction
from tests.bench.purge_history import write_history
from tests.postgres import DURABLE, Postgres, migrate
from tests.store.builder import Builder, Home, Seed

TENANT = "acme"
ROUNDS = 20
_PATTERN = 1_000
_DAYS = 200


async def fill(core: Core, copies: int, now: Instant) -> Home:
    """A tenant on standard with so many copies of up to 200 days in two mailboxes."""
    builder = Builder(core.db, core.ring, core.log, core.subscriptions, None, now)
    home = await builder.home(TENANT, "standard")
    for box in (home, await builder.mailbox(home.tenant)):
        await builder.copies(box, [Seed(now - n * _DAYS * DAY // _PATTERN - 1) for n in range(0, _PATTERN, 2)])

    async def work(tx: Transaction) -> None:
        # Each again and again, under another id and a little older.
        number = "printf('%010d', n)" if tx.sqlite else "lpad(n::text, 10, '0')"
        other = {
            "id": f"{number} || substr(id, 11)",
            "item_ref": f"{number} || substr(item_ref, 11)",
            "anchor_at": "anchor_at - n * 1000003",
            "pins": "CASE WHEN n % 20 = 0 THEN 1 ELSE 0 END",
            "summary": "zeroblob(600)" if tx.sqlite else "decode(repeat('00', 600), 'hex')",
        }
        names = [column.name for column in messages.c]
        numbers = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :most)"
        picked = ", ".join(other.get(name, name) for name in names)
        rows = f"SELECT {picked} FROM messages, numbers"  # noqa: S608 - columns and numbers
        again = text(f"INSERT INTO messages ({', '.join(names)}) {numbers} {rows}")
        await tx.conn.execute(again, {"most": copies // _PATTERN - 1})

    await core.db.transact(work)
    return home


async def timed(name: str, work: Callable[[], Awaitable[object]]) -> None:
    """Median, 95th percentile and processor time of this process, in milliseconds."""
    took, before = [], time.process_time()
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await work()
        took.append((time.perf_counter() - began) * 1_000)
    took.sort()
    used = (time.process_time() - before) * 1_000 / ROUNDS
    print(f"{name:<44}{statistics.median(took):9.1f}{took[round(0.95 * ROUNDS) - 1]:9.1f}{used:9.1f}", flush=True)


async def measure(url: str, folder: Path, count: int) -> None:
    """Fill a database, then ask it."""
    core, now = await Core.open(Settings(data_dir=folder, database=DatabaseSettings(url=url))), system_clock()
    began = time.perf_counter()
    home = await fill(core, count, now)
    await write_history(core, TENANT, count, now)
    if not core.db.sqlite:  # which PostgreSQL does by itself, a minute later
        conn = await asyncpg.connect(url)
        await conn.execute("VACUUM ANALYZE")
        await conn.close()
    print(f"{count} copies, as many entries: filled in {time.perf_counter() - began:.0f} s")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; ms: median, p95, processor")

    async def bare() -> None:
        async with core.db.read() as conn:
            await conn.execute(text("SELECT count(*), sum(size) FROM messages WHERE tenant_id = 'acme'"))

    async def proof() -> None:
        tenant = await tenants.get(core.db, TENANT)
        ref = await core.log_reader.item_ref(TENANT, "00000007000007")
        found = await log_search.page(core.db, TENANT, EntryFilter(item_ref=ref), before=None, limit=50)
        signed = await core.log_reader.checkpoint(tenant, now)
        proofs = await core.log_reader.proofs(tenant, signed, [each.index for each in found.items])
        assert len(proofs) == 1, proofs

    async def previews(when: str) -> None:
        for name, work in {
            "preview, now": lambda: core.retention.preview(TENANT),
            "preview, in 30 days": lambda: core.retention.preview(TENANT, system_clock() + 30 * DAY),
            "preview, as if free": lambda: core.retention.preview(TENANT, None, "free"),
            "preview, of all tenants": lambda: core.retention.preview(None),
            "100 examples": lambda: core.retention.examples(TENANT, None, None, limit=100),
        }.items():
            await timed(f"{name}{when}", work)

    await timed("bare count and sum", bare)
    await previews("")
    async with core.db.read() as conn:
        ids = (await conn.execute(select(messages.c.id).order_by(messages.c.id).limit(10_000))).scalars().all()
    for scope in (Scope(home.mailbox_id), Scope(None, tuple(ids))):
        await core.holds.place(TENANT, scope, matter="M", reason="r", now=system_clock(), actor=COMMAND)
    await previews("; a mailbox and 10 000 held")
    await timed("the proof of an item", proof)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    await core.close()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    kinds = sys.argv[2] if len(sys.argv) > 2 else "both"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL runs as another user
        if kinds in ("sqlite", "both"):
            print("SQLite")
            url = f"sqlite:///{folder}/mailgate.db"
            migrate(url)
            uvloop.run(measure(url, folder / "a", count))
        if kinds in ("postgresql", "both"):
            print("PostgreSQL")
            (folder / "pg").mkdir()
            cluster = Postgres(folder / "pg", DURABLE)
            try:
                url = cluster.url(cluster.create())
                migrate(url)
                uvloop.run(measure(url, folder / "b", count))
            finally:
                cluster.stop()


if __name__ == "__main__":
    main()
