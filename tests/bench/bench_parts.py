"""Where the processor time of a first import goes: each part of the work on its own, over the same messages.

    python -m tests.bench.bench_parts [--messages N]

One thread, nothing beside it, every part over all messages: what the parts cost where nobody waits for anybody. An
import adds what threads and processes cost each other. Bodies come from Dovecot over loopback, rows go into SQLite.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvloop
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connectors.imap.connection import connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, MessageMeta, PasswordAuth, Security
from mailgate.clock import system_clock
from mailgate.messages.headers import header_digest_input
from mailgate.messages.parser import parse_summary
from mailgate.messages.summary import encode_summary, seal_summary
from mailgate.store import messages as message_rows
from mailgate.store.transaction import Transaction
from mailgate.sync.arriving import Arrived, MemorySink
from mailgate.sync.incoming import PreparedMessage
from mailgate.sync.prepare import Preparer
from retention.ledger.commitment import Committer
from retention.model import AnchorFrom
from tests.bench.bench_import import LOOPBACK, messages
from tests.dovecot import Account, Dovecot, start_dovecot
from tests.postgres import migrate
from tests.sync.engine import Engine

SIZES = (43_000, 2_300)
BATCH = 200
KEY = bytes(range(32))


class Table:
    """One line for each part: µs a message for each size."""

    def __init__(self) -> None:
        self.lines: dict[str, list[tuple[float, float]]] = {}

    @contextlib.contextmanager
    def part(self, name: str, count: int) -> Iterator[None]:
        before = resource.getrusage(resource.RUSAGE_SELF)
        yield
        after = resource.getrusage(resource.RUSAGE_SELF)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        self.lines.setdefault(name, []).append((user / count * 1e6, system / count * 1e6))

    def each(self, name: str, raws: Sequence[bytes], work: Callable[[bytes], object]) -> None:
        work(raws[0])
        with self.part(name, len(raws)):
            for raw in raws:
                work(raw)

    def show(self) -> None:
        print(f"{'µs a message, program + system':<34}" + "".join(f"{size:>10} B each" for size in SIZES))
        for name, found in self.lines.items():
            print(f"{name:<34}" + "".join(f"{user + system:>8.1f} ({system:>4.1f})" for user, system in found))


async def fetch(server: Dovecot, account: Account, table: Table, count: int, *, tls: bool) -> None:
    """The wire, up to whole messages in memory."""
    port, security = (server.tls_port, Security.TLS) if tls else (server.port, Security.NONE)
    endpoint, auth = Endpoint(server.host, port, security), PasswordAuth(account.name, account.password)
    context = server.ssl_context() if tls else None
    source = await connect_imap(endpoint, auth, ssl_context=context, allow_networks=LOOPBACK)
    await source.open("INBOX")
    uids = await source.list_uids()
    with table.part(f"wire and sink, {'TLS' if tls else 'plain'}", count):
        async for fetched in source.fetch_bodies(uids, lambda _: MemorySink()):
            fetched.sink.abandon()
    await source.close()


async def rows(engine: Engine, prepared: Sequence[PreparedMessage], table: Table) -> None:
    """The rows of copies, their events and usage, committed by batches."""
    folder_id = (await engine.rows("folders"))[0].id
    place = message_rows.Place(engine.tenant_id, engine.mailbox_id, folder_id, 1)
    with table.part("rows, events, commit", len(prepared)):
        for start in range(0, len(prepared), BATCH):

            async def work(tx: Transaction, batch: Sequence[PreparedMessage] = prepared[start : start + BATCH]) -> None:
                horizon = await engine.store._expiry.horizon(tx.conn, engine.tenant_id, engine.clock())
                await message_rows.add(tx, place, batch, horizon=horizon, initial=True)

            await engine.db.transact(work)


async def measure(server: Dovecot, table: Table, count: int, mean: int, folder: Path) -> None:
    """Every part for messages of this size."""
    account, now = server.account(), system_clock()
    mails = list(messages(count, mean))
    account.seed(mails)
    raws = [raw for raw, _ in mails]
    for tls in (False, True):
        await fetch(server, account, table, count, tls=tls)
    url = f"sqlite:///{folder / 'mailgate.db'}"
    migrate(url)
    engine = await Engine.open(url, folder, MemoryAccount())
    await engine.sync()
    async with engine.db.read() as conn:
        ref = (await conn.exec_driver_sql("SELECT ref FROM tenants")).scalar_one()
    keys = engine.ring.tenant(ref)
    preparer = Preparer(engine.tenant_id, keys, engine.blobs, max_bytes=1 << 30, anchor_from=next(iter(AnchorFrom)))
    compress, aead, committer = zstandard.ZstdCompressor(level=1).compress, AESGCM(KEY), Committer(keys.ledger_key)
    packed = {id(raw): compress(raw) for raw in raws}
    summaries = {id(raw): parse_summary(raw) for raw in raws}
    numbers = iter(range(10 * count))
    table.each("header token", raws, lambda raw: keys.mac("header", header_digest_input(raw)))
    table.each("SHA-256", raws, lambda raw: hashlib.sha256(raw).digest())
    table.each("zstd", raws, compress)
    table.each("AES-GCM", raws, lambda raw: aead.encrypt(bytes(12), packed[id(raw)], b""))
    table.each("parse (headers, MIME, snippet)", raws, parse_summary)
    table.each(
        "encode and seal the summary",
        raws,
        lambda raw: seal_summary(KEY, "id", encode_summary(summaries[id(raw)])),
    )
    table.each(
        "data keys, ids, commitments",
        raws,
        lambda _: (
            keys.new_data_key(now),
            keys.new_data_key(now),
            committer.commit(ref := os.urandom(16).hex(), "content", KEY),
            committer.commit(ref, "msgid", KEY),
        ),
    )
    disk = engine.blobs._disk
    assert disk is not None
    table.each("write a file", raws, lambda raw: disk.write(f"00/bench{next(numbers)}", packed[id(raw)]))
    with table.part("make them durable (syncfs)", count):
        engine.blobs.settle()
    arrived = [
        Arrived(MessageMeta(n + 1, frozenset({"\\Seen"}), now, len(raw), 1), MemorySink(raw), len(raw))
        for n, raw in enumerate(raws)
    ]
    with table.part("all of the preparing together", count):
        preparer.add_tokens(arrived)
        prepared = preparer.prepare(arrived, now).messages
    await rows(engine, prepared, table)
    await engine.close(check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=1_000)
    options = parser.parse_args()
    table = Table()
    with contextlib.contextmanager(start_dovecot)() as server, tempfile.TemporaryDirectory("-bench") as name:
        for mean in SIZES:
            folder = Path(name) / str(mean)
            folder.mkdir()
            uvloop.run(measure(server, table, options.messages, mean, folder))
    table.show()


if __name__ == "__main__":
    main()
