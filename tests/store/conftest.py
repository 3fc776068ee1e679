"""The store's parts on a new database and key store; at the end of each test the store checks itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailgate.blobs import BlobStore
from mailgate.clock import DAY, Instant
from mailgate.keys import KeyRing
from mailgate.store.check import doctor
from mailgate.store.database import Database
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.log_reading import LogReader
from mailgate.store.mailboxes import Mailboxes
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.witness import Witness
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.timeline import SubscriptionRules
from tests.store.purge_process import Child

NOW: Instant = 20_000 * DAY
PLANS = Path(__file__).parents[2] / "config" / "plans.toml"


@dataclass
class Store:
    """Everything of the store that one process has."""

    db: Database
    ring: KeyRing
    blobs: BlobStore
    log: PurgeLog
    reader: LogReader
    subscriptions: Subscriptions
    mailboxes: Mailboxes


@pytest.fixture
async def children(store: Store, tmp_path: Path, database_url: str) -> AsyncIterator[Any]:
    """Starts purging processes on the same store; ends them."""
    del store  # it is there first
    started: list[Child] = []

    async def start(**wanted: Any) -> Child:
        usual = {"url": database_url, "folder": str(tmp_path), "now": NOW, "batch": 500, "tenant_id": "acme"}
        child = await Child.start(**usual | wanted)
        started.append(child)
        return child

    yield start
    for child in started:
        await child.end()


@pytest.fixture
async def store(database_url: str, tmp_path: Path) -> AsyncIterator[Store]:
    db = Database(database_url)
    ring = KeyRing.open(f"file://{tmp_path}/keys", create=True)
    blobs = BlobStore.open(f"file://{tmp_path}/blobs")
    log = PurgeLog(origin="mail.example", policy=LogPolicy(1, {"days": 30}), version="1", commit="test")
    subscriptions = Subscriptions(db, log, parse_catalogue(PLANS.read_bytes()), SubscriptionRules())
    await subscriptions.compute_anew()  # as each start does: it remembers the rules
    reader = LogReader(
        db, origin="mail.example", seed=ring.ledger_seed, witness=Witness(tmp_path / "witness"), owner="test"
    )
    yield Store(db, ring, blobs, log, reader, subscriptions, Mailboxes(db, ring, subscriptions))
    try:
        report = await doctor(db, blobs, ring, deep=True)
    finally:
        await db.close()  # its threads would keep the run from ending
    assert report.healthy, report.findings
