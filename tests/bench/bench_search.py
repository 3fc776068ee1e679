"""Search and lists at a million messages of one tenant, on SQLite and on PostgreSQL.

    python -m tests.bench.bench_search [--copies N] [--rounds N] [--database sqlite|postgresql] [--keep FOLDER]

Rows and words are written in bulk, not by an import: the vocabulary is as in mail (Zipf: the word of rank r stands in
about 1/r as many messages as the first), sixty different words a message. Of the words that only old messages have
("frueher"), of a mailbox and a folder where nothing new comes, the index knows no order. What is timed is
`MessageReader.list_page`: the query, and the page with its summaries, folders and pins; HTTP and JSON add two or three
milliseconds to it. Small tenants stand beside. `--keep` leaves the filled database in a folder and asks it again when
it is there already, since filling takes minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from mailgate.actors import SYSTEM
from mailgate.app.core import Core
from mailgate.app.serve import spare_the_collector
from mailgate.clock import DAY, system_clock
from mailgate.ids import new_id, new_ref
from mailgate.messages.model import Address, Summary
from mailgate.messages.summary import encode_summary, seal_summary
from mailgate.messages.tokens import prefixes
from mailgate.settings import DatabaseSettings, Settings
from mailgate.store import search, tenants
from mailgate.store.bulk import insert_many
from mailgate.store.listing import MessageFilter
from mailgate.store.mailboxes import MailboxSpec
from mailgate.store.schema import blobs, folders, mailboxes, messages, origins, pins, search_docs
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.store.tenants import Tenant
from mailgate.store.transaction import Transaction
from mailgate.tenants.timeline import Status
from tests.postgres import Postgres, migrate

VOCABULARY, WORDS, DISTINCT = 50_000, 60, 20_000
BATCH = 10_000
RARE_EVERY, PINNED_EVERY = 250_000, 1_000
OLD = 60 * DAY
"""Beyond this age stand the messages of the quiet mailbox and the quiet folder, and those with "frueher"."""
QUIET_MAILBOX, QUIET_FOLDER = 8, 3
FOLDERS = ("INBOX", "Sent", "Projects", "Former")

_COPY = (
    *("id", "tenant_id", "mailbox_id", "item_ref", "anchor_at", "anchor_source", "internal_date_at", "stored_at"),
    *("size", "flags", "seen", "flagged", "has_files", "thread_id", "header_token", "content_commit", "msgid_commit"),
    *("summary", "data_key", "key_epoch", "blob_id", "indexed", "pins"),
)
_PIN = ("tenant_id", "message_id", "entity_type", "entity_id", "ref", "created_at", "created_by")
_ORIGIN = ("folder_id", "uid", "uidvalidity", "tenant_id", "mailbox_id", "message_id", "flags")


class Filling:
    """Writes `copies` messages of one tenant, spread over 80 days and eight mailboxes, and a few of a quiet ninth."""

    def __init__(self, core: Core, copies: int, tenant: str = "acme") -> None:
        self.core, self.copies, self.tenant, self.chance = core, copies, tenant, random.Random(4)
        self.now = system_clock()
        self.mailboxes: list[str] = []
        self.folders: list[list[str]] = []

    async def fill(self) -> None:
        db = self.core.db
        await tenants.put(db, self.core.ring, self.core.log, self.tenant, "Acme", self.now - 100 * DAY, SYSTEM)
        change = SubscriptionChange("professional", Status.ACTIVE, None, True, 12)
        await self.core.subscriptions.set_outright(self.tenant, change, self.now - 99 * DAY, SYSTEM)
        tenant = await tenants.get(db, self.tenant)
        keys = self.core.ring.tenant(tenant.ref)
        await self._mailboxes()
        self._sets = self._distinct(keys)
        self._rare = search.tokens_of(keys, "text", ["einmalig"])
        self._former = search.tokens_of(keys, "text", ["frueher"])
        self._of_mailbox = [search.mailbox_token(keys, id_) for id_ in self.mailboxes]
        data_key = keys.new_data_key(self.now)
        blob = {
            "id": new_id(self.now), "tenant_id": self.tenant, "content_token": b"t", "size": 1, "stored_size": 1,
            "data_key": b"k", "key_epoch": 1, "refs": self.copies, "created_at": self.now,
        }  # fmt: skip

        async def one_blob(tx: Transaction) -> None:
            await tx.conn.execute(blobs.insert(), [blob])

        await db.transact(one_blob)
        for first in range(0, self.copies, BATCH):
            await db.transact(self._batch(first, data_key, str(blob["id"])))

    async def find(self) -> None:
        """What `fill` made some time ago."""
        async with self.core.db.read() as conn:
            of_tenant = messages.c.tenant_id == self.tenant
            self.now = (await conn.execute(select(func.max(messages.c.anchor_at)).where(of_tenant))).scalar_one()
            made = select(mailboxes.c.id).where(mailboxes.c.tenant_id == self.tenant).order_by(mailboxes.c.created_at)
            self.mailboxes = list((await conn.execute(made)).scalars())
            rows = (await conn.execute(select(folders).where(folders.c.tenant_id == self.tenant))).all()
        names = {(row.mailbox_id, row.name): row.id for row in rows}
        self.folders = [[names[id_, name] for name in FOLDERS] for id_ in self.mailboxes]

    async def _mailboxes(self) -> None:
        for n in range(QUIET_MAILBOX + 1):
            spec = MailboxSpec(
                address=f"user{n}@{self.tenant}.example",
                owner=f"user{n}",
                imap={"host": "imap.acme.example", "port": 993, "security": "tls", "username": f"user{n}"},
                secrets={"imap": {"password": "x"}},
            )
            made = await self.core.mailboxes.create(self.tenant, spec, self.now - 90 * DAY + n, SYSTEM)
            self.mailboxes.append(made.id)
            self.folders.append([new_id(self.now) for _ in FOLDERS])
        rows = [
            (id_, self.tenant, mailbox, name, None, True, True, 1)
            for mailbox, ids in zip(self.mailboxes, self.folders, strict=True)
            for id_, name in zip(ids, FOLDERS, strict=True)
        ]
        columns = ("id", "tenant_id", "mailbox_id", "name", "special_use", "selectable", "followed", "uidvalidity")

        async def work(tx: Transaction) -> None:
            await insert_many(tx.conn, folders, columns, rows, sqlite=tx.sqlite)

        await self.core.db.transact(work)

    def _distinct(self, keys: Any) -> list[list[str]]:
        """Word sets, from which messages take theirs: making sixty tokens a million times over would take hours."""
        tokens = [
            (
                *search.tokens_of(keys, "text", [word(rank)]),
                *search.prefix_tokens(keys, "text", prefixes([word(rank)])),
            )
            for rank in range(1, VOCABULARY + 1)
        ]
        weights = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
        return [
            sorted({token for chosen in self.chance.choices(tokens, cum_weights=weights, k=WORDS) for token in chosen})
            for _ in range(min(DISTINCT, self.copies))
        ]

    def _batch(self, first: int, data_key: Any, blob_id: str) -> Any:
        """Messages `first` and following. They come in no order of age, as imports of several mailboxes do."""
        copies, places, pinned, words = [], [], [], []
        for n in range(first, min(first + BATCH, self.copies)):
            age, which = int(self.chance.uniform(0, 80) * DAY), self.chance.randrange(8)
            seen = self.chance.random() < 0.9
            folder = min(2, int(self.chance.expovariate(1.5)))
            if age > OLD:  # two in a thousand are of what is quiet since
                quiet = self.chance.randrange(1_000)
                which, folder = {0: (QUIET_MAILBOX, 0), 1: (0, QUIET_FOLDER)}.get(quiet, (which, folder))
            anchor = self.now - age
            id_ = new_id(anchor)
            sender = Address("Bob", f"bob{n % 1_000}@other.example")
            summary = encode_summary(Summary(subject=f"Letter {n}", from_=(sender,), snippet="Dear Ann, " * 8))
            sealed = seal_summary(data_key.key, id_, summary)
            token, pins_ = n.to_bytes(8, "big"), int(n % PINNED_EVERY == 0)
            copies.append((
                id_, self.tenant, self.mailboxes[which], new_ref(), anchor, "internaldate", anchor, anchor, 43_000,
                '["\\\\Seen"]' if seen else "[]", seen, n % 100 == 0, n % 4 == 0, id_, token, b"c" * 32, b"m" * 32,
                sealed, data_key.wrapped, data_key.epoch, blob_id, True, pins_,
            ))  # fmt: skip
            if pins_:
                pinned.append((self.tenant, id_, "deal", str(n % 77), new_ref(), anchor, "bench"))
            places.append((self.folders[which][folder], n + 1, 1, self.tenant, self.mailboxes[which], id_, "[]"))
            found = [*self._sets[self.chance.randrange(len(self._sets))], self._of_mailbox[which]]
            if n % RARE_EVERY == 0:
                found += self._rare
            if age > OLD:
                found += self._former
            words.append((search.number(anchor), id_, found))

        async def work(tx: Transaction) -> None:
            await insert_many(tx.conn, messages, _COPY, copies, sqlite=tx.sqlite)
            await insert_many(tx.conn, origins, _ORIGIN, places, sqlite=tx.sqlite)
            await insert_many(tx.conn, pins, _PIN, pinned, sqlite=tx.sqlite)
            docs = [(doc, self.tenant, id_) for doc, id_, _ in words]
            await insert_many(tx.conn, search_docs, ("doc", "tenant_id", "message_id"), docs, sqlite=tx.sqlite)
            await search.insert_words(
                tx, [{"doc": doc, "tenant_id": self.tenant, "terms": tokens} for doc, _, tokens in words]
            )

        return work


async def fill(core: Core, copies: int) -> Filling:
    """A tenant with so many messages, and small ones beside it."""

    async def bare(tx: Transaction) -> None:
        if not tx.sqlite:
            await tx.conn.execute(text("DROP INDEX ix_search_index_terms"))
            await tx.conn.execute(text("DROP INDEX ix_search_index_tenant_id"))

    async def ready(tx: Transaction) -> None:
        if not tx.sqlite:
            await tx.conn.execute(text("SET LOCAL maintenance_work_mem = '1GB'"))
            await tx.conn.execute(text("CREATE INDEX ix_search_index_terms ON search_index USING gin (terms)"))
            await tx.conn.execute(text("CREATE INDEX ix_search_index_tenant_id ON search_index (tenant_id, doc)"))

    await core.db.transact(bare)
    filling = Filling(core, copies)
    await filling.fill()
    for n in range(3):
        await Filling(core, copies // 500, f"beside{n}").fill()
    await core.db.transact(ready)
    if not core.db.sqlite:  # what autovacuum does in a while
        async with create_async_engine(core.db.url, isolation_level="AUTOCOMMIT").connect() as conn:
            await conn.execute(text("VACUUM ANALYZE"))
    return filling


def word(rank: int) -> str:
    return f"wort{rank}"


def wanted(filling: Filling) -> dict[str, tuple[dict[str, Any], dict[str, str] | None]]:
    """What is asked for: filter, and words by field."""
    half = filling.now - 40 * DAY
    return {
        "list 50": ({}, None),
        "list 50 of a folder": ({"folder_id": filling.folders[0][1]}, None),
        "list 50 unseen of a mailbox": ({"mailbox_id": filling.mailboxes[0], "unseen": True}, None),
        "a word of nearly all (1)": ({}, {"text": word(1)}),
        "a common word (10)": ({}, {"text": word(10)}),
        "a word (300)": ({}, {"text": word(300)}),
        "an uncommon word (5 000)": ({}, {"text": word(5_000)}),
        "a rare word (in 4)": ({}, {"text": "einmalig"}),
        "a word of none": ({}, {"text": "nirgends"}),
        "two words (1 and 10)": ({}, {"text": f"{word(1)} {word(10)}"}),
        "two words (20 and 300)": ({}, {"text": f"{word(20)} {word(300)}"}),
        "two words (200 and 5 000)": ({}, {"text": f"{word(200)} {word(5_000)}"}),
        "a prefix of all (wort)": ({}, {"text": "wort*"}),
        "a prefix (of 111 words, wort123)": ({}, {"text": "wort123*"}),
        "a prefix (wort4321) and a word (1)": ({}, {"text": f"wort4321* {word(1)}"}),
        "a prefix (wort123) in a folder": ({"folder_id": filling.folders[0][2]}, {"text": "wort123*"}),
        "a word (10) and unseen": ({"unseen": True}, {"text": word(10)}),
        "a word (300) in a folder": ({"folder_id": filling.folders[0][2]}, {"text": word(300)}),
        "a word (30) before half": ({"before": half}, {"text": word(30)}),
        "a word (300) of a mailbox": ({"mailbox_id": filling.mailboxes[3]}, {"text": word(300)}),
        "a word (30)": ({}, {"text": word(30)}),
        "a word (100)": ({}, {"text": word(100)}),
        "a word of the old only": ({}, {"text": "frueher"}),
        "the same with a common word (10)": ({}, {"text": f"frueher {word(10)}"}),
        "a word (1) of the quiet mailbox": ({"mailbox_id": filling.mailboxes[QUIET_MAILBOX]}, {"text": word(1)}),
        "a word (1) of the quiet folder": ({"folder_id": filling.folders[0][QUIET_FOLDER]}, {"text": word(1)}),
        "list 50 of the quiet mailbox": ({"mailbox_id": filling.mailboxes[QUIET_MAILBOX]}, None),
        "list 50 of the quiet folder": ({"folder_id": filling.folders[0][QUIET_FOLDER]}, None),
        "list 50 of an empty folder": ({"folder_id": filling.folders[1][QUIET_FOLDER]}, None),
        "list 50 pinned": ({"pinned": True}, None),
        "list 50 pinned with files and unseen": ({"pinned": True, "has_files": True, "unseen": True}, None),
        "list 50 pinned of the quiet mailbox": (
            {"pinned": True, "mailbox_id": filling.mailboxes[QUIET_MAILBOX]},
            None,
        ),
        "list 50 unseen of the quiet folder": (
            {"unseen": True, "folder_id": filling.folders[0][QUIET_FOLDER]},
            None,
        ),
        "a word (1) and pinned": ({"pinned": True}, {"text": word(1)}),
        "a word (30) and pinned": ({"pinned": True}, {"text": word(30)}),
        "a word (1), pinned, flagged, not files": (
            {"pinned": True, "flagged": True, "has_files": False},
            {"text": word(1)},
        ),
        "list 50 flagged, not files": ({"flagged": True, "has_files": False}, None),
        "a word (1), flagged, not files": ({"flagged": True, "has_files": False}, {"text": word(1)}),
        "a word (1) and files": ({"has_files": True}, {"text": word(1)}),
        "a word (1) of a thread": ({"thread_id": "0" * 26}, {"text": word(1)}),
        "a word (300) since half": ({"since": half}, {"text": word(300)}),
        "a word (10) from": ({}, {"text": word(10), "from_": "bob1"}),
    }


async def measure(core: Core, tenant: Tenant, filling: Filling, rounds: int) -> None:
    async def page(where: dict[str, Any], words: dict[str, str] | None, after: Any = None) -> Any:
        chosen = MessageFilter(**where, words=words)
        return await core.reader.list_page(tenant, chosen, after=after, limit=50, now=system_clock())

    print(f"{'':45} {'median':>8} {'p95':>8} {'worst':>8} {'processor of the gateway':>8}  ms")
    for name, (where, words) in wanted(filling).items():
        took, spent, found = [], time.process_time(), None
        for _ in range(rounds):
            began = time.perf_counter()
            found = await page(where, words)
            took.append((time.perf_counter() - began) * 1_000)
        assert found is not None
        spent = (time.process_time() - spent) * 1_000 / rounds
        show(f"{name}: {len(found.items)}{'+' if found.next_key else ''}", took, f"{spent:8.1f}")
    for name, words in (
        ("list", None),
        ("a common word (10)", {"text": word(10)}),
        ("a word (300)", {"text": word(300)}),
    ):
        took, key = [], None
        for n in range(5):  # far back, by its cursor
            key = (filling.now - (15 + 12 * n) * DAY, "0" * 26)
            for _ in range(max(1, rounds // 5)):
                began = time.perf_counter()
                await page({}, words, key)
                took.append((time.perf_counter() - began) * 1_000)
        show(f"far back: {name}", took)


def show(name: str, took: list[float], more: str = "") -> None:
    ordered = sorted(took)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    print(f"{name:45} {statistics.median(ordered):8.1f} {p95:8.1f} {ordered[-1]:8.1f} {more}", flush=True)


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield ""
        return
    cluster_folder = folder / "cluster"
    made = cluster_folder.exists()
    cluster_folder.mkdir(exist_ok=True)
    folder.chmod(0o711)
    cluster = Postgres(cluster_folder)
    try:
        url = cluster.url("test_1" if made else cluster.create())
        migrate(url)
        yield url
    finally:
        cluster.stop()


async def run(url: str, folder: Path, copies: int, rounds: int) -> None:
    core = await Core.open(Settings(data_dir=folder / "data", database=DatabaseSettings(url=url)))
    try:
        filled = folder / "filled"
        if filled.exists():
            copies, filling = int(filled.read_text()), Filling(core, 0)
            await filling.find()
            print(f"{copies} messages, written before")
        else:
            began = time.monotonic()
            filling = await fill(core, copies)
            filled.write_text(str(copies))
            print(f"{copies} messages written in {time.monotonic() - began:.0f} s")
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        spare_the_collector()  # as `serve` does
        await measure(core, await tenants.get(core.db, filling.tenant), filling, rounds)
        beside = Filling(core, 0, "beside0")
        await beside.find()
        print("--- the same of a small tenant beside")
        await measure(core, await tenants.get(core.db, beside.tenant), beside, rounds)
    finally:
        await core.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--keep", type=Path, help="keep the filled databases here, and use those that are here")
    given = parser.parse_args()
    for kind in given.database or ("sqlite", "postgresql"):
        print(f"\n--- {kind}")
        if given.keep is None:
            folder = Path(tempfile.mkdtemp(prefix="mailgate-search-", dir="/var/tmp"))
        else:
            folder = given.keep / kind
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with database(kind, folder) as url:
                asyncio.run(run(url, folder, given.copies, given.rounds))
        finally:
            if given.keep is None:
                shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
