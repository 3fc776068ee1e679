"""All mailboxes of a process: who runs, who rests, and what happens when something fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from connectors.memory import MemoryAccount, MemorySource
from connectors.memory.account import MemoryConnection
from mailgate.actors import SYSTEM
from mailgate.blobs import BlobStoreError
from mailgate.clock import DAY, HOUR, SECOND, system_clock
from mailgate.settings import SyncSettings
from mailgate.store import leases
from mailgate.store.fenced import lease_name
from mailgate.store.leases import LeaseLostError
from mailgate.store.mailboxes import MailboxPatch
from mailgate.store.schema import runs
from mailgate.store.sync import SqlSyncStore
from mailgate.sync import mailbox as mailbox_module
from mailgate.sync.arriving import Arrived
from mailgate.sync.incoming import Applied, Batch
from mailgate.sync.prepare import Prepared, Preparer
from mailgate.sync.state import Owner
from mailgate.sync.supervisor import Supervisor
from mailgate.sync.workers import WORTH_A_PROCESS
from tests.sync.engine import TABLES, Engine, mail
from tests.waiting import until

NEW_WITHIN = 8
"""Batches of large imports that new mail may wait for."""
QUICK = SyncSettings(poll_interval_s=1, backoff_min_s=0.01, backoff_max_s=1)


@pytest.fixture
def account() -> MemoryAccount:
    account = MemoryAccount()
    account.create_folder("Archive")
    for n in range(5):
        account.append("INBOX", mail(n), internal_date=system_clock() - n * DAY)
    return account


@pytest.fixture
async def engine(sqlite_url: str, tmp_path: Path, account: MemoryAccount) -> AsyncIterator[Engine]:
    made = await Engine.open(sqlite_url, tmp_path, account, settings=QUICK, clock=system_clock)  # type: ignore[arg-type]
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def running(engine: Engine, process: str = "test-1") -> AsyncIterator[Supervisor]:
    supervisor = engine.supervisor(process)
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def state(engine: Engine) -> str:
    mailbox = next(row for row in await engine.rows("mailboxes") if row.id == engine.mailbox_id)
    return str(mailbox.state)


def is_(engine: Engine, wanted: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await state(engine) == wanted

    return check


def agree(engine: Engine) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        try:
            return await engine.near() == engine.far()
        except LookupError:  # one of the copies went between two looks
            return False

    return check


async def test_a_mailbox_goes_live_and_follows(engine: Engine, account: MemoryAccount) -> None:
    async with running(engine):
        await until(is_(engine, "live"))
        assert await engine.near() == engine.far()
        account.append("INBOX", mail(9), internal_date=system_clock())
        await until(agree(engine))
        account.move("INBOX", 2, "Archive")
        account.expunge("INBOX", 3)
        await until(agree(engine))

        async def removed() -> bool:
            return len(await engine.rows("messages")) == 5

        await until(removed)
        assert len(account.connections) == 1
    assert account.connections == []
    states = [event.payload["state"] for event in await engine.events("mailbox.state_changed")]
    assert states == ["connecting", "importing", "live", "connecting"]  # the last one: the gateway was stopped
    assert len(await engine.events("mailbox.import_finished")) == 1


async def test_switching_off_closes_the_connection_at_once_and_keeps_everything(
    engine: Engine, account: MemoryAccount
) -> None:
    async with running(engine) as supervisor:
        await until(is_(engine, "live"))
        await engine.enable(False)
        supervisor.wake()

        async def closed() -> bool:
            return not account.connections

        await until(closed)
        said = len(account.commands)
        account.append("INBOX", mail(9), internal_date=system_clock())
        await asyncio.wait_for(asyncio.shield(_ticks(supervisor, 3)), 10)
        assert len(account.commands) == said
        assert await state(engine) == "disabled"
        assert len(await engine.rows("messages")) == 5
        await engine.enable(True)
        supervisor.wake()
        await until(agree(engine))


async def _ticks(supervisor: Supervisor, count: int) -> None:
    """The supervisor looked at the table so many times more."""
    seen = 0
    look = supervisor._look

    async def counted() -> None:
        nonlocal seen
        await look()
        seen += 1

    supervisor._look = counted  # type: ignore[method-assign]
    while seen < count:
        supervisor.wake()
        await asyncio.sleep(0.01)


async def test_a_tenant_that_does_not_pay_has_no_connection(engine: Engine, account: MemoryAccount) -> None:
    await engine.plan("free")
    async with running(engine) as supervisor:
        await until(is_(engine, "not_entitled"))
        await _ticks(supervisor, 3)
        assert account.commands == []
        await engine.plan("standard")
        supervisor.wake()
        await until(is_(engine, "live"))
        await engine.plan("free")
        supervisor.wake()

        async def closed() -> bool:
            return not account.connections

        await until(closed)
        await until(is_(engine, "not_entitled"))
    assert len(await engine.rows("messages")) == 5


async def test_a_refused_login_waits_for_other_credentials(engine: Engine, account: MemoryAccount) -> None:
    account.faults.reject_login = True
    async with running(engine) as supervisor:
        await until(is_(engine, "auth_failed"))
        await _ticks(supervisor, 5)
        assert account.commands.count("LOGIN") == 1
        account.faults.reject_login = False
        patch = MailboxPatch(secrets={"imap": {"password": "other"}})
        await engine.mailboxes.update(engine.tenant_id, engine.mailbox_id, patch, system_clock(), SYSTEM)
        supervisor.wake()
        await until(is_(engine, "live"))


async def test_the_end_of_an_access_token_is_no_fault(engine: Engine, account: MemoryAccount) -> None:
    """The server ends the line when the token is over: nobody hears of it. An earlier end is a fault like any other."""
    good_for = [0, HOUR, HOUR]

    async def connect() -> MemoryConnection:
        line = await account.connect()
        line.access_until = system_clock() + good_for.pop(0)
        return line

    async def logged_in(times: int) -> None:
        async def check() -> bool:
            return account.commands.count("LOGIN") == times

        await until(check)
        account.append("INBOX", mail(100 + times), internal_date=system_clock())
        await until(agree(engine))

    engine.connect = connect
    async with running(engine):
        await until(is_(engine, "live"))
        account.connections[0].drop("BYE session expired")
        await logged_in(2)
        states = [event.payload["state"] for event in await engine.events("mailbox.state_changed")]
        assert states == ["connecting", "importing", "live"]
        account.connections[0].drop("BYE session expired")
        await logged_in(3)
        await until(is_(engine, "live"))
        told = [event.payload for event in await engine.events("mailbox.state_changed")]
        (why,) = [payload["reason"] for payload in told if payload["state"] == "backoff"]
        assert "session expired" in why
        assert "reason" not in told[-1]


async def test_an_unreachable_server_is_tried_again(engine: Engine, account: MemoryAccount) -> None:
    account.faults.unreachable = True
    async with running(engine):

        async def refused() -> bool:  # the row says so until the next attempt begins, which is soon
            return "backoff" in [event.payload["state"] for event in await engine.events("mailbox.state_changed")]

        await until(refused)
        told = [event.payload for event in await engine.events("mailbox.state_changed")]
        why = next(payload["reason"] for payload in told if payload["state"] == "backoff")
        assert why.startswith("connection refused; tried again at 20")
        assert (await engine.rows("mailboxes"))[0].enabled
        account.faults.unreachable = False
        await until(agree(engine))


async def test_one_process_owns_a_mailbox(engine: Engine, account: MemoryAccount) -> None:
    async with running(engine, "first"):
        await until(is_(engine, "live"))
        async with running(engine, "second") as second:
            await _ticks(second, 5)
            assert account.commands.count("LOGIN") == 1
    async with running(engine, "second"):

        async def connected() -> bool:
            return account.commands.count("LOGIN") == 2

        await until(connected)


async def test_a_stalled_owner_that_wakes_up_writes_nothing(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    now = system_clock()
    stalled = await engine.store.acquire(engine.mailbox_id, engine.tenant_id, "stalled", 5 * SECOND, now)
    assert stalled is not None
    later = now + 6 * SECOND
    taken = await engine.store.acquire(engine.mailbox_id, engine.tenant_id, "other", 5 * SECOND, later)
    assert taken is not None
    folder = (await engine.store.folders(engine.mailbox_id))[0]
    for moment in (now + SECOND, later):
        with pytest.raises(LeaseLostError):
            await engine.store.commit(stalled, Batch(folder=folder, uidvalidity=2, now=moment))
        with pytest.raises(LeaseLostError):
            await engine.store.set_floor(stalled, 0, moment)
    assert await engine.store.renew([stalled], 5 * SECOND, later) == [stalled]
    await engine.store.commit(taken, Batch(folder=folder, uidvalidity=2, now=later))
    await engine.store.release(taken)


async def test_losing_the_lease_ends_the_session(engine: Engine, account: MemoryAccount) -> None:
    async with running(engine, "first") as supervisor:
        await until(is_(engine, "live"))
        name = lease_name(engine.mailbox_id)
        taken = await leases.acquire(engine.db, name, "other", 3600 * SECOND, system_clock() + HOUR)
        assert taken is not None
        account.append("INBOX", mail(9), internal_date=system_clock())
        supervisor._renewed_s = -1e9
        supervisor.wake()

        async def closed() -> bool:
            return not account.connections

        await until(closed)
        assert len(await engine.rows("messages")) == 5
        await leases.release(engine.db, name, "other", taken)


async def test_a_pass_can_be_asked_for(engine: Engine, account: MemoryAccount) -> None:
    TABLES["runs"] = runs
    engine.settings = SyncSettings(poll_interval_s=3600)
    async with running(engine) as supervisor:
        await until(is_(engine, "live"))
        account.append("Archive", mail(9), internal_date=system_clock())
        run_id = await supervisor.sync_now(engine.mailbox_id, engine.tenant_id, "token:1")
        await supervisor.sync_now(engine.mailbox_id, engine.tenant_id, "token:1")

        async def done() -> bool:
            return (await engine.rows("runs", lambda c: c.id == run_id))[0].state == "completed"

        await until(done)
        assert (await engine.rows("runs", lambda c: c.id == run_id))[0].counts["new"] == 1


async def test_a_pass_asked_for_while_the_server_is_away_fails_visibly(engine: Engine, account: MemoryAccount) -> None:
    TABLES["runs"] = runs
    account.faults.unreachable = True
    async with running(engine) as supervisor:
        run_id = await supervisor.sync_now(engine.mailbox_id, engine.tenant_id, "token:1")

        async def done() -> bool:
            return (await engine.rows("runs", lambda c: c.id == run_id))[0].state == "failed"

        await until(done)
        assert (await engine.rows("runs", lambda c: c.id == run_id))[0].detail == "connection refused"


async def test_a_defect_in_one_session_does_not_end_the_others(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = MemorySource.list_folders
    broken = True

    async def list_folders(self: MemorySource) -> object:
        if broken:
            raise RuntimeError("a defect")
        return await listed(self)

    monkeypatch.setattr(MemorySource, "list_folders", list_folders)
    async with running(engine):
        await until(is_(engine, "backoff"))
        broken = False
        await until(agree(engine))


async def test_a_large_import_does_not_hold_up_another_mailbox(engine: Engine, account: MemoryAccount) -> None:
    engine.settings = SyncSettings(poll_interval_s=1, imports_at_once=1)
    large = MemoryAccount()
    async with running(engine) as supervisor:
        await until(is_(engine, "live"))
        for n in range(600):
            large.append("INBOX", mail(n, body=f"{n} " * 5_000), internal_date=system_clock() - HOUR)
        large_id = await engine.add_mailbox("large", large)
        supervisor.wake()

        async def importing() -> bool:
            return len(await engine.rows("messages", lambda c: c.mailbox_id == large_id)) > 0

        await until(importing)
        account.append("INBOX", mail(9), internal_date=system_clock())

        async def arrived() -> bool:
            return len(await engine.rows("messages", lambda c: c.mailbox_id == engine.mailbox_id)) == 6

        await until(arrived)

        async def imported() -> bool:
            return len(await engine.rows("messages", lambda c: c.mailbox_id == large_id)) == 600

        await until(imported)
    created = await engine.events("message.created")
    order = [event.mailbox_id for event in created]
    assert order.index(engine.mailbox_id, 5) < len(order) - 100


@pytest.mark.parametrize("size", [20, WORTH_A_PROCESS])
async def test_two_large_imports_share_and_hold_up_nobodys_new_mail(
    engine: Engine, account: MemoryAccount, size: int
) -> None:
    """Counted in batches that are written: neither of two tenants' imports waits for the end of the other's, and what
    is new in a third mailbox waits for few of theirs. In threads, and in a process beside.
    """
    engine.settings = SyncSettings(poll_interval_s=1, batch_messages=size)
    commit, written, new = engine.store.commit, list[str](), list[int]()

    async def counted(owner: Owner, batch: Batch) -> Applied:
        done = await commit(owner, batch)
        written.extend([owner.mailbox_id] if batch.messages else [])
        if len(set(written)) == 2 and len(written) >= 12 and not new:
            new.append(len(written))
            account.append("INBOX", mail(9), internal_date=system_clock())
        return done

    async with running(engine) as supervisor:
        await until(is_(engine, "live"))
        engine.store.commit = counted  # type: ignore[method-assign]
        large = []
        for tenant_id in ("one", "two"):
            other = MemoryAccount()
            for n in range(30 * size):
                other.append("INBOX", mail(n, body=f"{n} " * 1_000), internal_date=system_clock() - HOUR)
            await engine.add_tenant(tenant_id)
            large.append(await engine.add_mailbox(tenant_id, other, tenant_id=tenant_id))
        supervisor.wake()

        async def imported() -> bool:
            return all(row.imported_at is not None for row in await engine.rows("mailboxes"))

        await until(imported)

        async def there() -> bool:
            return engine.mailbox_id in written

        await until(there)
    assert written.index(engine.mailbox_id) - new[0] <= NEW_WITHIN
    first = large[0] if written[::-1].index(large[0]) > written[::-1].index(large[1]) else large[1]
    while_both = written[: len(written) - written[::-1].index(first)]
    (second,) = {*large} - {first}
    assert while_both.count(first) >= 30
    assert while_both.count(second) > 15


async def test_an_import_that_the_plan_interrupts_goes_on_without_fetching_again(
    engine: Engine, account: MemoryAccount
) -> None:
    engine.settings = SyncSettings(poll_interval_s=1, batch_messages=5)
    for n in range(100, 400):
        account.append("INBOX", mail(n, body=f"{n} " * 2_000), internal_date=system_clock() - HOUR)
    async with running(engine) as supervisor:

        async def half() -> bool:
            return len(await engine.rows("messages")) > 50

        await until(half)
        await engine.plan("free")
        supervisor.wake()
        await until(is_(engine, "not_entitled"))
        assert account.connections == []
        kept = {row.id for row in await engine.rows("messages")}
        assert len(kept) < 305
        await engine.plan("professional")
        supervisor.wake()

        async def whole() -> bool:
            return len(await engine.rows("messages")) == 305

        await until(whole)
        assert await engine.near() == engine.far()
        assert kept <= {row.id for row in await engine.rows("messages")}
    assert len(await engine.events("message.created")) == 305


def test_an_owner_shows_what_it_owns() -> None:
    assert "fence=3" in repr(Owner("m", "t", "p", 3))


async def _takes_nothing(engine: Engine, yes: bool) -> None:
    """The database is one of a full or read-only disk: it can be read."""
    async with engine.db._writer.connect() as conn:
        raw = await conn.get_raw_connection()
        cursor = await raw.driver_connection.execute(f"PRAGMA query_only={'ON' if yes else 'OFF'}")  # type: ignore[union-attr]
        await cursor.close()


async def test_a_database_that_takes_nothing_is_told_once_and_no_server_is_bothered(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox_module, "LONGEST_OUTAGE_PAUSE_S", 0.02)
    attempts = {"look": 0, "lease": 0}
    renew = SqlSyncStore.renew

    async def counted(self: SqlSyncStore, owners: list[Owner], ttl: int, now: int) -> list[Owner]:
        attempts["look" if asyncio.current_task() is looking else "lease"] += 1
        return await renew(self, owners, ttl, now)

    monkeypatch.setattr(SqlSyncStore, "renew", counted)
    with capture_logs() as said:
        async with running(engine) as supervisor:
            looking = next(task for task in asyncio.all_tasks() if "Supervisor.run" in repr(task.get_coro()))
            await until(is_(engine, "live"))
            await _takes_nothing(engine, True)
            account.append("INBOX", mail(9), internal_date=system_clock())
            logins = account.commands.count("LOGIN")
            supervisor._renewed_s = -1e9

            async def tried() -> bool:
                supervisor.wake()
                return min(attempts.values()) >= 5

            await until(tried)
            assert account.commands.count("LOGIN") == logins
            told = [entry for entry in said if entry["log_level"] in ("error", "warning")]
            assert sorted(entry["event"] for entry in told) == ["mailbox_fault", "supervisor_failed"]
            for entry in told:
                assert "readonly database; let it be written" in (entry.get("why") or entry["reason"])
                assert not entry.get("exc_info")
            await _takes_nothing(engine, False)
            await until(agree(engine))
            await until(is_(engine, "live"))

            async def told_over() -> bool:
                return {"supervisor_resumed", "database_usable"} <= {entry["event"] for entry in said}

            await until(told_over)


async def test_who_is_woken_and_stopped_at_once_ends(engine: Engine) -> None:
    async with running(engine) as supervisor:
        await until(is_(engine, "live"))
        task = next(task for task in asyncio.all_tasks() if "Supervisor.run" in repr(task.get_coro()))
        supervisor.wake()
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=20)
        task.cancel()
        assert done


async def test_a_disk_that_takes_no_mail_is_told_once(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    def failing(self: Preparer, batch: Sequence[Arrived], now: int) -> Prepared:
        nonlocal attempts
        attempts += 1
        raise BlobStoreError("a blob can't be stored: Read-only file system")

    with capture_logs() as said:

        def told(event: str) -> int:
            return sum(entry["event"] == event and entry["log_level"] != "debug" for entry in said)

        async with running(engine):
            await until(is_(engine, "live"))
            with monkeypatch.context() as patch:
                patch.setattr(Preparer, "prepare", failing)
                account.append("INBOX", mail(9), internal_date=system_clock())

                async def tried() -> bool:
                    return attempts >= 4

                await until(tried)
                await until(is_(engine, "backoff"))
                assert "Read-only file system" in (await engine.rows("mailboxes"))[0].state_reason
                assert (told("mailbox_fault"), told("blobs_usable")) == (1, 0)
            await until(agree(engine))

            async def over() -> bool:
                return told("blobs_usable") == 1

            await until(over)
        assert told("mailbox_fault") == 1
