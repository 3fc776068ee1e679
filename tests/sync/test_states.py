"""What a mailbox says of itself is true: while it waits, after a kill, when its server throttles, and how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import AddressRefusedError, ConnectorError, ThrottledError
from connectors.memory import MemoryAccount, MemorySource
from mailgate.actors import SYSTEM
from mailgate.clock import DAY, HOUR, SECOND, system_clock, to_rfc3339
from mailgate.settings import SyncSettings
from mailgate.store.mailboxes import Mailbox, MailboxPatch
from mailgate.store.schema import runs
from mailgate.sync import mailbox as mailbox_module
from mailgate.sync.context import Meter
from mailgate.sync.hosts import Host
from mailgate.sync.mailbox import MailboxTask
from mailgate.sync.state import MailboxState, Progress
from tests.sync.engine import NOW, TABLES, Engine, Opened, mail
from tests.sync.test_supervisor import QUICK, _ticks, agree, is_, running
from tests.waiting import until


@pytest.fixture
async def engine(sqlite_url: str, tmp_path: Path, account: MemoryAccount) -> AsyncIterator[Engine]:
    made = await Engine.open(sqlite_url, tmp_path, account, settings=QUICK, clock=system_clock)  # type: ignore[arg-type]
    yield made
    await made.close()


async def shown(engine: Engine, *, later_s: float = 0, mailbox_id: str = "") -> Mailbox:
    """The mailbox as the API shows it, so many seconds from now."""
    found = await engine.mailboxes.get(engine.tenant_id, mailbox_id or engine.mailbox_id)
    return found.as_of(engine.clock() + round(later_s * SECOND))


# Nobody has it.


@pytest.mark.parametrize("state", ["live", "polling", "importing", "backoff", "needs_approval"])
async def test_what_a_dead_process_said_does_not_stand_for_long(engine: Engine, state: str) -> None:
    now = engine.clock()
    owner = await engine.store.acquire(engine.mailbox_id, engine.tenant_id, "dead", 30 * SECOND, now)
    assert owner is not None
    await engine.store.set_state(engine.mailbox_id, MailboxState(state), "for a reason", now, owner)
    assert (await shown(engine)).state == state
    assert (await shown(engine, later_s=29)).state_reason == "for a reason"
    dead = await shown(engine, later_s=31)
    assert dead.state == "connecting"
    assert dead.state_reason == f"no process has this mailbox since {to_rfc3339(now + 30 * SECOND)}"
    page = await engine.mailboxes.list_page(engine.tenant_id, after=None, limit=10)
    assert page.items[0].as_of(engine.clock() + 31 * SECOND) == dead
    await engine.store.release(owner)
    assert (await shown(engine)).state_reason == "no process has this mailbox"


@pytest.mark.parametrize("state", ["auth_failed", "not_entitled"])
async def test_what_needs_no_process_stands(engine: Engine, state: str) -> None:
    await engine.store.set_state(engine.mailbox_id, MailboxState(state), "for a reason", engine.clock())
    assert (await shown(engine, later_s=3600)).state == state


async def test_a_process_killed_while_connecting_shows_too(engine: Engine) -> None:
    new = await shown(engine)
    assert (new.state, new.state_reason) == ("connecting", None)
    owner = await engine.store.acquire(engine.mailbox_id, engine.tenant_id, "dead", SECOND, engine.clock())
    assert owner is not None
    assert (await shown(engine, later_s=2)).state_reason is not None


async def test_a_stopped_gateway_says_so(engine: Engine, account: MemoryAccount) -> None:
    async with running(engine):
        await until(is_(engine, "live"))
        assert (await shown(engine)).state == "live"
        assert (await shown(engine)).state_reason is None
    assert (await shown(engine)).state_reason == "the gateway was stopped"


async def test_a_pause_keeps_the_mailbox(engine: Engine, account: MemoryAccount) -> None:
    engine.settings = SyncSettings(backoff_min_s=600, lease_s=5)
    account.faults.unreachable = True
    async with running(engine) as supervisor:
        await until(is_(engine, "backoff"))
        first = (await shown(engine)).owned_until_at or 0
        supervisor._renewed_s = -1e9

        async def renewed() -> bool:
            return ((await shown(engine)).owned_until_at or 0) > first

        await until(renewed)
        assert (await shown(engine)).state == "backoff"


# Faults.


def failing(engine: Engine, error: ConnectorError) -> list[float]:
    """Every connection fails so; when each was tried."""
    tried: list[float] = []

    async def connect() -> MemorySource:
        tried.append(asyncio.get_running_loop().time())
        raise error

    engine.connect = connect
    return tried


async def test_an_address_that_is_not_allowed_is_not_tried_again(engine: Engine, account: MemoryAccount) -> None:
    tried = failing(engine, AddressRefusedError("imap.example.com resolves to 10.0.0.1, which net.allow does not list"))
    async with running(engine) as supervisor:
        await until(is_(engine, "backoff"))
        await _ticks(supervisor, 5)
        assert len(tried) == 1
        reason = (await shown(engine)).state_reason
        assert reason is not None
        assert "10.0.0.1" in reason
        assert "when the settings change, or at the next start" in reason
        engine.connect = account.connect
        imap = {"host": "imap.example.org", "port": 993, "security": "tls", "username": "bob"}
        patch = MailboxPatch(imap=imap, secrets={"imap": {"password": "x"}})
        await engine.mailboxes.update(engine.tenant_id, engine.mailbox_id, patch, system_clock(), SYSTEM)
        supervisor.wake()
        await until(is_(engine, "live"))


async def test_an_address_that_is_not_allowed_is_tried_by_the_next_start_and_by_request(engine: Engine) -> None:
    TABLES["runs"] = runs
    tried = failing(engine, AddressRefusedError("private"))
    async with running(engine, "first") as supervisor:
        await until(is_(engine, "backoff"))
        run_id = await supervisor.sync_now(engine.mailbox_id, engine.tenant_id, "token:1")

        async def failed() -> bool:
            return (await engine.rows("runs", lambda c: c.id == run_id))[0].state == "failed"

        await until(failed)
        assert len(tried) == 2
    async with running(engine, "second"):

        async def again() -> bool:
            return len(tried) == 3

        await until(again)


async def test_a_pass_that_can_not_be_made_ends_and_says_why(engine: Engine, account: MemoryAccount) -> None:
    TABLES["runs"] = runs
    account.faults.reject_login = True
    async with running(engine) as supervisor:
        await until(is_(engine, "auth_failed"))
        refused = await supervisor.sync_now(engine.mailbox_id, engine.tenant_id, "token:1")

        async def ended() -> bool:
            return (await engine.rows("runs", lambda c: c.id == refused))[0].state == "failed"

        await until(ended)
        await engine.enable(False)
        off = await supervisor.sync_now(engine.mailbox_id, engine.tenant_id, "token:1")

        async def off_too() -> bool:
            return (await engine.rows("runs", lambda c: c.id == off))[0].detail == "switched off"

        await until(off_too)
    assert account.commands.count("LOGIN") == 1


async def test_pauses_are_within_their_bounds(engine: Engine, account: MemoryAccount) -> None:
    engine.settings = SyncSettings(backoff_min_s=5, backoff_max_s=60)
    supervisor = engine.supervisor()
    head = (await engine.store.heads(engine.clock()))[0]
    firsts, lasts = set(), set()
    for _ in range(50):
        task = MailboxTask(supervisor._parts, supervisor._shared, head)
        pauses = [task._next_pause_s() for _ in range(8)]
        for n, pause_s in enumerate(pauses):
            longest = min(60.0, 5.0 * 2**n)
            assert longest / 2 <= pause_s <= longest
        firsts.add(pauses[0])
        lasts.add(pauses[-1])
    assert len(firsts) > 25  # spread
    assert len(lasts) > 25


# Servers that throttle.


async def test_a_server_that_asks_for_a_pause_is_obeyed_whoever_asks(engine: Engine, account: MemoryAccount) -> None:
    TABLES["runs"] = runs
    tried = failing(engine, ThrottledError("too many connections", retry_after_s=3_600))
    began = system_clock()
    async with running(engine) as supervisor:
        await until(is_(engine, "backoff"))
        reason = (await shown(engine)).state_reason or ""
        at = reason.removeprefix("too many connections; tried again at ")
        assert to_rfc3339(began + 3_600 * SECOND) <= at <= to_rfc3339(system_clock() + 3_602 * SECOND)
        await supervisor.sync_now(engine.mailbox_id, engine.tenant_id, "token:1")
        await _ticks(supervisor, 5)
        assert len(tried) == 1
        assert (await shown(engine)).enabled


async def test_a_server_that_throttles_several_is_left_alone_by_all(engine: Engine, account: MemoryAccount) -> None:
    engine.settings = SyncSettings(host_connects_at_once=1, backoff_min_s=0.01, backoff_max_s=1)
    tried = failing(engine, ThrottledError("too many connections", retry_after_s=3_600))
    second = MemoryAccount()
    second_id = await engine.add_mailbox("second", second)
    engine.others["second"] = engine.connect
    async with running(engine) as supervisor:

        async def both() -> bool:
            return len(tried) == 2

        await until(both)
        third = MemoryAccount()
        third_id = await engine.add_mailbox("third", third)
        supervisor.wake()

        async def wait() -> bool:
            return {(await shown(engine, mailbox_id=id_)).state for id_ in (second_id, third_id)} == {"backoff"}

        await until(wait)
        reason = (await shown(engine, mailbox_id=third_id)).state_reason or ""
        assert reason.startswith("imap.example.com asked for a pause; tried again at ")
        await _ticks(supervisor, 3)
        assert third.commands == []
        assert len(tried) == 2


async def test_a_mailbox_that_waited_for_a_servers_pause_connects_and_says_so(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, let_in, tried = asyncio.Event(), asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(Host, "quiet_s", property(lambda _: 0.0 if over.is_set() else 0.01))

    async def connect() -> MemorySource:
        tried.set()
        await let_in.wait()
        return await account.connect()

    engine.connect = connect
    async with running(engine):
        await until(is_(engine, "backoff"))
        over.set()
        await tried.wait()
        now = await shown(engine)
        assert (now.state, now.state_reason) == ("connecting", None)
        let_in.set()
        await until(is_(engine, "live"))


# The clock is set back.


async def test_a_clock_that_is_set_back_holds_nothing_up(engine: Engine, account: MemoryAccount) -> None:
    account.condstore = account.qresync = False
    account.create_folder("Archive")
    for n in (1, 2):
        account.append("Archive", mail(n), internal_date=system_clock() - DAY)
    ahead = HOUR
    engine.clock = lambda: system_clock() + ahead  # type: ignore[assignment]
    async with running(engine):
        await until(agree(engine))
        await until(is_(engine, "live"))
        ahead = 0
        account.append("Archive", mail(3), internal_date=system_clock() - DAY)
        account.store_flags("Archive", 1, ["\\Flagged"])
        await until(agree(engine))

        async def checked() -> bool:
            return ((await shown(engine)).last_checked_at or 0) <= engine.clock()

        await until(checked)


def test_progress_goes_on_when_the_clock_is_set_back() -> None:
    meter = Meter(NOW)
    assert meter.due(NOW, last=False) is not None
    assert meter.due(NOW + 1, last=False) is None
    assert meter.due(NOW - HOUR, last=False) is not None


# Limits.


async def test_mailboxes_beyond_the_limit_of_a_server_take_turns(engine: Engine, account: MemoryAccount) -> None:
    engine.settings = SyncSettings(poll_interval_s=1, host_connections=1)
    accounts = [account, MemoryAccount(), MemoryAccount()]
    ids = [engine.mailbox_id, *[await engine.add_mailbox(f"box{n}", accounts[n]) for n in (1, 2)]]
    most = 0
    listed = MemorySource.list_folders

    async def counting(self: MemorySource) -> Any:
        nonlocal most
        most = max(most, sum(len(each.connections) for each in accounts))
        return await listed(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySource, "list_folders", counting)
        async with running(engine):

            async def twice_each() -> bool:
                return all(each.commands.count("LOGIN") >= 2 for each in accounts)

            await until(twice_each)
            for each in accounts:
                each.append("INBOX", mail(7), internal_date=system_clock())

            async def arrived() -> bool:
                return len(await engine.rows("messages")) == 3

            await until(arrived)

            async def told() -> bool:
                states = [await shown(engine, mailbox_id=id_) for id_ in ids]
                reason = "takes turns with other mailboxes at imap.example.com (sync.host_connections)"
                return any((box.state, box.state_reason) == ("polling", reason) for box in states)

            await until(told)
    assert most == 1


# Progress.


def note_progress(engine: Engine) -> list[Progress]:
    """What is written of it, as it comes."""
    written: list[Progress] = []
    commit, progress = engine.store.commit, engine.store.progress

    async def noting_commit(owner: Any, batch: Any) -> Any:
        if batch.progress is not None:
            written.append(batch.progress)
        return await commit(owner, batch)

    async def noting_progress(owner: Any, how: Progress, now: int) -> None:
        written.append(how)
        await progress(owner, how, now)

    engine.store.commit = noting_commit  # type: ignore[method-assign]
    engine.store.progress = noting_progress  # type: ignore[method-assign]
    return written


async def test_the_only_folder_with_messages_is_counted_by_its_own_pass(opened: Opened, account: MemoryAccount) -> None:
    account.create_folder("Archive")
    for n in range(20):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
        account.append("INBOX", mail(100 + n), internal_date=NOW - 100 * DAY)  # too old
    engine = await opened(account, settings=SyncSettings(batch_messages=10))
    engine.clock.advance(1)
    written = note_progress(engine)
    await engine.sync()
    commands = account.commands[: next(n for n, said in enumerate(account.commands) if said.startswith("FETCH"))]
    assert sum(said.startswith("EXAMINE") for said in commands) == 1
    assert {how.total for how in written} == {20}
    assert written[-1].done == 20
    assert len(written) == len(set(written))  # nothing is written twice
    box = await shown(engine)
    assert (box.progress_done, box.progress_total) == (20, 20)


async def test_an_import_that_need_not_wait_does_not_say_that_it_does(engine: Engine) -> None:
    await engine.sync()
    events = [row.payload for row in await engine.rows("events") if row.type == "mailbox.state_changed"]
    assert events == [{"state": "connecting"}, {"state": "importing"}, {"state": "live"}]


async def test_the_total_is_known_at_once_and_stays_over_cut_lines(opened: Opened, account: MemoryAccount) -> None:
    for name in ("Archive", "Notes"):
        account.create_folder(name)
    for n in range(60):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
        account.append("Archive", mail(100 + n), internal_date=NOW - 60 * DAY - n * DAY + HOUR)  # half of them too old
    account.append("Notes", mail(500), internal_date=NOW)
    engine = await opened(account, settings=SyncSettings(batch_messages=5))
    written = note_progress(engine)
    inside = len(engine.far(since=NOW - 90 * DAY)["Archive"])
    attempts = 0
    while (await engine.rows("mailboxes"))[0].imported_at is None:
        engine.clock.advance(60)
        attempts += 1
        account.faults.cut_after = 90
        try:
            await engine.sync()
        except ConnectorError:
            continue
    account.faults.cut_after = None
    assert attempts > 2
    assert {how.total for how in written} == {60 + inside + 1}
    done = [how.done for how in written]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == 60 + inside + 1
    assert len({how.started_at for how in written}) == 1


async def test_a_folder_that_can_not_be_read_does_not_keep_progress_from_its_end(
    opened: Opened, account: MemoryAccount
) -> None:
    account.create_folder("Private")
    for n in range(5):
        account.append("INBOX", mail(n), internal_date=NOW)
        account.append("Private", mail(100 + n), internal_date=NOW)
    account.faults.refuse.add("Private")
    engine = await opened(account)
    await engine.sync()
    box = await shown(engine)
    assert (box.progress_done, box.progress_total) == (5, 5)
    assert box.imported_at is not None


# What is left out.


async def test_folders_that_are_left_out_are_named(engine: Engine, account: MemoryAccount) -> None:
    account.create_folder("x" * 901)
    account.create_folder("y" * 900)
    async with running(engine):
        await until(is_(engine, "live"))
        await until(agree(engine))
        assert (await shown(engine)).state_reason == ("folders are left out: 1 with names of more than 900 characters")
        account.delete_folder("x" * 901)

        async def nothing_left_out() -> bool:
            return (await shown(engine)).state_reason is None

        await until(nothing_left_out)


# Idle.


async def test_idle_mailboxes_write_together_and_say_nothing_twice(engine: Engine, account: MemoryAccount) -> None:
    engine.settings = SyncSettings(poll_interval_s=1, lease_s=600)
    accounts = [MemoryAccount() for _ in range(9)]
    for n, each in enumerate(accounts):
        await engine.add_mailbox(f"box{n}", each)
    async with running(engine) as supervisor:

        async def all_live() -> bool:
            return all(row.state == "live" for row in await engine.rows("mailboxes"))

        await until(all_live)
        writes: list[str] = []
        for name in ("set_state", "checked", "checked_many"):
            real = getattr(engine.store, name)

            async def noting(*args: Any, _name: str = name, _real: Any = real, **more: Any) -> Any:
                writes.append(_name)
                return await _real(*args, **more)

            setattr(engine.store, name, noting)
        seen = {row.id: row.last_checked_at for row in await engine.rows("mailboxes")}

        async def checked_again() -> bool:
            found = {row.id: row.last_checked_at for row in await engine.rows("mailboxes")}
            return all(found[id_] > at for id_, at in seen.items())

        await until(checked_again)
        assert set(writes) == {"checked_many"}
        assert supervisor._running
    assert mailbox_module.STEADY_S > 0
