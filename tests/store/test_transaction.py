"""The unit of work: what is numbered has no gaps, what is rolled back leaves nothing, writers wait for each other."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from mailgate.actors import SYSTEM
from mailgate.store import tenants
from mailgate.store.database import Database
from mailgate.store.schema import events, log_leaves, tenant_heads
from mailgate.store.transaction import Transaction
from retention.ledger import leaves
from tests.postgres import Postgres
from tests.store.conftest import NOW, Store


async def _tenant(store: Store, tenant_id: str = "acme") -> tenants.Tenant:
    return (await tenants.put(store.db, store.ring, store.log, tenant_id, tenant_id.title(), NOW, SYSTEM))[0]


def _note(store: Store, tx: Transaction, tenant: tenants.Tenant) -> None:
    """One event and one leaf."""
    tx.emit(tenant.id, "mailbox.state_changed", at=NOW, payload={"state": "live"})
    store.log.write(
        tx, tenant.id, tenant.ref, leaves.pin_remove, at=NOW, actor=SYSTEM, item_ref="i", pin_ref="p", reason="unpinned"
    )


async def test_events_and_leaves_of_concurrent_writers_are_numbered_without_gaps(store: Store) -> None:
    ours, theirs = await _tenant(store), await _tenant(store, "other")

    async def work(tenant: tenants.Tenant) -> None:
        async with store.db.write() as tx:
            _note(store, tx, tenant)
            _note(store, tx, tenant)

    await asyncio.gather(*(work(tenant) for _ in range(10) for tenant in (ours, theirs)))
    async with store.db.read() as conn:
        for tenant in (ours, theirs):
            seqs = (await conn.execute(select(events.c.seq).where(events.c.tenant_id == tenant.id))).scalars()
            assert sorted(seqs) == list(range(1, 21))
            idx = (await conn.execute(select(log_leaves.c.idx).where(log_leaves.c.tenant_id == tenant.id))).scalars()
            assert sorted(idx) == list(range(21))  # the policy stands first


async def test_transactions_over_several_tenants_do_not_deadlock(store: Store) -> None:
    made = [await _tenant(store, name) for name in ("a", "b", "c")]

    async def work(order: list[tenants.Tenant]) -> None:
        async with store.db.write() as tx:
            for tenant in order:
                _note(store, tx, tenant)

    await asyncio.gather(*(work(order) for _ in range(8) for order in (made, made[::-1])))
    async with store.db.read() as conn:
        sizes = (await conn.execute(select(tenant_heads.c.event_seq))).scalars().all()
    assert sizes == [16, 16, 16]


async def test_a_rolled_back_transaction_leaves_nothing(store: Store) -> None:
    tenant = await _tenant(store)
    called = []

    async def work(tx: Transaction) -> None:
        _note(store, tx, tenant)
        tx.count(tenant.id, copies=1, storage_bytes=5)
        tx.after_commit(lambda: called.append(1))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.db.transact(work)
    async with store.db.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(events))).scalar_one() == 0
        head = (await conn.execute(select(tenant_heads))).one()
    assert (head.copies, head.log_size, called) == (0, 1, [])


async def test_what_follows_a_commit_is_called_after_it(store: Store) -> None:
    tenant = await _tenant(store)
    called = []
    async with store.db.write() as tx:
        tx.emit(tenant.id, "message.pinned", at=NOW)
        tx.after_commit(lambda: called.append(1))
        assert called == []
    assert called == [1]


async def test_readers_cannot_write_on_sqlite(store: Store) -> None:
    if not store.db.sqlite:
        return
    async with store.db.read() as conn:
        with pytest.raises(Exception, match="readonly"):
            await conn.execute(tenant_heads.delete())


@pytest.mark.postgresql
async def test_a_database_that_can_be_written_again_is_written_to(postgresql_url: str, postgres: Postgres) -> None:
    """What a server says of a session when it begins may stay so for the session's whole life."""
    name = postgresql_url.rpartition("/")[2]
    mark = text("INSERT INTO installation (key, value) VALUES (:key, 'x')")
    operator, db = Database(postgres.url("postgres")), Database(postgresql_url)
    async with AsyncExitStack() as open_:
        for each in (operator, db):
            open_.push_async_callback(each.close)
        async with operator.write() as tx:
            await tx.conn.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
        async with db.read():  # two sessions begin meanwhile
            with pytest.raises(DBAPIError, match="read-only"):
                async with db.write() as tx:
                    await tx.conn.execute(mark, {"key": "one"})
        async with operator.write() as tx:
            await tx.conn.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
        async with db.write() as first, db.write() as second:
            await first.conn.execute(mark, {"key": "one"})
            await second.conn.execute(mark, {"key": "two"})


async def test_two_processes_on_one_sqlite_file_wait_for_each_other(store: Store, database_url: str) -> None:
    tenant = await _tenant(store)
    other = Database(database_url)

    async def work(db: Database) -> None:
        async with db.write() as tx:
            _note(store, tx, tenant)

    await asyncio.gather(*(work(db) for _ in range(10) for db in (store.db, other)))
    await other.close()
    async with store.db.read() as conn:
        assert (await conn.execute(select(tenant_heads.c.event_seq))).scalar_one() == 20


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_cancelled_transaction_leaves_no_lock_behind(database_url: str, at_once: bool) -> None:
    """Cancelled at any of its steps: closing a connection over an open cursor keeps SQLite's lock until it is
    collected.
    """
    db = Database(database_url, busy_timeout_s=0.3)
    claim = text(
        "INSERT INTO leases (name, owner, fence, expires_at) VALUES ('l', 'me', 1, 1)"
        " ON CONFLICT (name) DO UPDATE SET fence = leases.fence + 1 RETURNING fence"
    )

    async def work(tx: Transaction) -> int:
        await tx.conn.execute(claim)
        return int((await tx.conn.execute(claim)).scalar_one())

    gc.disable()
    try:
        last = await db.transact(work)
        for steps in range(60):
            task = asyncio.create_task(db.transact(work, at_once=at_once))
            for _ in range(steps):
                await asyncio.sleep(0)  # one step of the loop, wherever that leads
            task.cancel()
            await asyncio.wait({task})
            fence = await db.transact(work)
            assert fence - last in (2, 4)  # all of the cancelled one, or nothing
            last = fence
    finally:
        gc.enable()
        await db.close()


async def test_a_cancelled_wait_for_the_writer_ends_at_once(database_url: str) -> None:
    db = Database(database_url)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def first(_tx: Transaction) -> None:
        entered.set()
        await leave.wait()

    async def second(tx: Transaction) -> None:
        await tx.conn.execute(text("UPDATE leases SET fence = 0"))
        if not db.sqlite:
            await leave.wait()

    busy = asyncio.create_task(db.transact(first))
    await entered.wait()
    waiting = asyncio.create_task(db.transact(second))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert not busy.done()
    leave.set()
    await busy
    await db.close()


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_a_transaction_that_began_ends_before_its_caller_is_cancelled(
    sqlite_url: str, cancellations: int
) -> None:
    db = Database(sqlite_url)
    entered, leave, committed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(tx: Transaction) -> None:
        tx.after_commit(committed.set)
        entered.set()
        await leave.wait()

    task = asyncio.create_task(db.transact(work))
    await entered.wait()
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    leave.set()
    await asyncio.wait({task})
    assert task.cancelled()
    assert committed.is_set()
    await db.close()


async def test_a_write_ahead_log_that_somebody_reads_is_not_emptied(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}/wal.db", busy_timeout_s=0.1)
    wal = tmp_path / "wal.db-wal"
    async with db.write() as tx:
        await tx.conn.execute(text("CREATE TABLE t (n INTEGER)"))
    async with db.read() as reading:
        await reading.execute(text("SELECT * FROM t"))
        async with db.write() as tx:
            await tx.conn.execute(text("INSERT INTO t VALUES (1)"))
        assert not await db.truncate_wal()
        assert wal.stat().st_size
    assert await db.truncate_wal()
    assert wal.stat().st_size == 0
    await db.close()


async def test_no_writer_waits_until_the_write_ahead_log_can_be_emptied(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}/wal.db", busy_timeout_s=600)
    async with db.write() as tx:
        await tx.conn.execute(text("CREATE TABLE t (n INTEGER)"))
    async with db.read() as reading:
        await reading.execute(text("SELECT * FROM t"))
        async with db.write() as tx:
            await tx.conn.execute(text("INSERT INTO t VALUES (1)"))
        emptying = asyncio.create_task(db.truncate_wal())
        await asyncio.sleep(0)  # it has its turn before the writer
        async with db.write() as tx:
            await tx.conn.execute(text("INSERT INTO t VALUES (2)"))
        assert not emptying.done()
    assert await emptying
    await db.close()


async def test_the_writer_has_more_room_for_a_while_and_gives_it_back(store: Store) -> None:
    async def room() -> list[object]:
        if not store.db.sqlite:
            return []
        async with store.db.write() as tx:
            names = ("cache_size", "wal_autocheckpoint")
            return [(await tx.conn.exec_driver_sql(f"PRAGMA {name}")).scalar_one() for name in names]

    usual = await room()
    meanwhile: list[object] = []

    async def long_work() -> None:
        async with store.db.roomy():
            meanwhile.extend(await room())
            raise RuntimeError("it ended badly")

    with pytest.raises(RuntimeError, match="it ended badly"):
        await long_work()
    assert await room() == usual
    assert (usual, meanwhile) == (([-8192, 8192], [-16384, 32768]) if store.db.sqlite else ([], []))


async def test_one_bulk_transaction_at_most_is_before_anybody_else(store: Store) -> None:
    """Two purges and a sync, which asks last: it waits for the one that is in work, not for the one that waits too."""
    if not store.db.sqlite:
        pytest.skip("PostgreSQL has many writers")
    order: list[str] = []
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def long(tx: Transaction) -> None:
        begun.set()
        await goes_on.wait()
        order.append("long")

    def short(name: str) -> Callable[[Transaction], Awaitable[None]]:
        async def work(_: Transaction) -> None:
            order.append(name)

        return work

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(store.db.transact(long, bulk=True))
        await begun.wait()
        tasks.create_task(store.db.transact(short("bulk"), bulk=True))
        await asyncio.sleep(0)  # it stands in its queue now
        tasks.create_task(store.db.transact(short("sync")))
        await asyncio.sleep(0)
        goes_on.set()
    assert order == ["long", "sync", "bulk"]
