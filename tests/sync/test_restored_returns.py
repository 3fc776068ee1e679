"""What was purged before a backup and brought back after it is purged again once the backup is restored: the restore
names it, the log says that it was lost, and it comes back by the ordinary way, with the holds that it had.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from connectors.memory import MemoryAccount
from mailgate.clock import DAY
from mailgate.errors import ConflictError
from mailgate.store import tenants
from mailgate.store.expiry import Expiry
from mailgate.store.legal_holds import LegalHolds, Scope
from mailgate.store.log_reading import LogReader
from mailgate.store.restore import Restore
from mailgate.store.restored_entries import Replayed
from mailgate.store.schema import metadata
from mailgate.store.tenant_erasure import TenantErasures
from mailgate.store.wishes.rehydrate import PinWanted
from mailgate.store.witness import Witness
from retention.model import Graces
from tests.sync.engine import Engine
from tests.sync.test_rehydrate import USER, Purged, purged

__all__ = ["purged"]

Backup = Mapping[str, Sequence[Any]]
Goes = Callable[[], Awaitable[None]]


class Backups:
    """The database's backups beside a witness that is none of it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._witness = Witness(folder / "witness")
        self._reader = LogReader(
            engine.db, origin="mail.example", seed=engine.ring.ledger_seed, witness=self._witness, owner="test"
        )

    async def sign(self) -> None:
        engine = self._engine
        await self._reader.checkpoint(await tenants.get(engine.db, engine.tenant_id), engine.clock())

    async def make(self) -> Backup:
        await self.sign()
        async with self._engine.db.read() as conn:
            return {table.name: (await conn.execute(select(table))).all() for table in metadata.sorted_tables}

    async def restore(self, backup: Backup, *, batch: int = 500) -> Replayed:
        """The log is signed as it is, the backup put back, and brought up to date."""
        await self.sign()
        engine = self._engine
        async with engine.db.write() as tx:
            for table in reversed(metadata.sorted_tables):
                await tx.conn.execute(table.delete())
            for table in metadata.sorted_tables:
                for row in backup[table.name]:
                    await tx.conn.execute(insert(table).values(row._asdict()))
        erasures = TenantErasures(engine.db, engine.ring, engine.log, engine.subscriptions, engine.clock, "test")
        restore = Restore(
            engine.db,
            engine.blobs,
            self._reader,
            self._witness,
            engine.subscriptions,
            engine.mailboxes,
            erasures,
            engine.log,
            engine.clock,
            batch=batch,
        )
        (told,) = await restore.run(USER)
        return told


@pytest.fixture
def backups(engine: Engine, tmp_path: Path) -> Backups:
    return Backups(engine, tmp_path)


async def lost_in_log(purged: Purged) -> list[str]:
    return [leaf["item_ref"] for leaf in await purged.log() if leaf["type"] == "item.lost"]


@pytest.mark.parametrize("batch", [1, 500])
async def test_it_is_named_and_comes_back_once_more(purged: Purged, backups: Backups, batch: int) -> None:
    backup = await backups.make()
    await purged.ask(0, PinWanted("deal", "D"))
    await purged.sync()
    first = await purged.is_here(0)
    assert first.pins == 1

    told = await backups.restore(backup, batch=batch)
    assert told.not_brought_back == [purged.ids[0]]
    assert await lost_in_log(purged) == [first.item_ref]
    with pytest.raises(ConflictError) as refused:
        await purged.pin(0)
    assert refused.value.slug == "purged"

    await purged.ask(0)
    await purged.sync()
    row = await purged.message(0)
    assert (row.item_ref, row.pins) == (first.item_ref, 0)
    purged.engine.clock.now = row.keep_until_at
    await purged.engine.purge()
    kinds = [leaf["type"] for leaf in await purged.log() if leaf.get("item_ref") == row.item_ref]
    assert kinds == ["item.purge", "rehydrate", "pin.add", "item.lost", "rehydrate", "item.purge"]


async def test_it_is_held_again_when_it_is_here_again(purged: Purged, backups: Backups) -> None:
    engine = purged.engine
    backup = await backups.make()
    await purged.ask(0)
    await purged.sync()
    holds = LegalHolds(engine.db, engine.ring, engine.log, Expiry(engine.subscriptions, Graces()), release_days=30)
    scope = Scope(message_ids=[purged.ids[0]])
    await holds.place(engine.tenant_id, scope, matter="M", reason="r", now=engine.clock(), actor=USER)

    assert (await backups.restore(backup)).not_brought_back == [purged.ids[0]]
    await purged.ask(0)
    await purged.sync()
    engine.clock.advance(400 * 86_400)
    await engine.purge()
    assert await purged.message(0)
    assert await purged.graves(0) == []
    await purged.log()


@pytest.mark.parametrize("gone_there", [True, False])
async def test_what_was_deleted_after_it_came_back_is_not_named(
    purged: Purged, backups: Backups, account: MemoryAccount, *, gone_there: bool
) -> None:
    backup = await backups.make()
    await purged.ask(0)
    await purged.sync()
    row = await purged.is_here(0)
    if gone_there:
        (origin,) = await purged.engine.rows("origins", lambda c: c.message_id == row.id)
        account.expunge("INBOX", origin.uid)
        await purged.sync()
    else:
        purged.engine.clock.now = row.keep_until_at
        await purged.engine.purge()
    assert await purged.engine.rows("messages", lambda c: c.id == row.id) == []

    assert (await backups.restore(backup)).not_brought_back == []
    assert await lost_in_log(purged) == []
    assert bool(await purged.graves(0)) is not gone_there


async def test_a_backup_of_after_its_return_loses_it_too_where_an_older_one_did(
    purged: Purged, backups: Backups
) -> None:
    """The log tells one story, whichever backup it is read into: it was lost, and is purged until it is asked for."""
    oldest = await backups.make()
    await purged.ask(0)
    await purged.sync()
    row = await purged.is_here(0)
    with_it = await backups.make()
    await backups.restore(oldest)
    told = await backups.restore(with_it)
    assert (told.done["item.lost"], told.not_brought_back) == (1, [])
    assert await purged.engine.rows("messages", lambda c: c.id == row.id) == []
    await purged.ask(0)
    await purged.sync()
    assert (await purged.message(0)).item_ref == row.item_ref
    purged.engine.clock.advance(90 * DAY / 1_000_000)
    await purged.engine.purge()
    assert await lost_in_log(purged) == [row.item_ref]
