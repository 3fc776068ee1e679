"""Operations while the mailbox is live, is imported, or has many of them: at once, together, in turns with passes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from connectors.memory import MemoryConnection
from mailgate.clock import DAY
from mailgate.settings import SyncSettings
from mailgate.sync.supervisor import Supervisor
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Engine, Opened, mail
from tests.sync.test_push import again, agrees, changes, server, start
from tests.waiting import until

SLOW = SyncSettings(poll_interval_s=3_600, backoff_min_s=0.01, backoff_max_s=1)
"""Nothing but what was asked for ends IDLE."""


@contextlib.asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Supervisor]:
    supervisor = engine.supervisor()
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def is_live(engine: Engine) -> bool:
    return bool((await engine.rows("mailboxes"))[0].state == "live")


async def all_applied(crm: Crm) -> bool:
    return set(await crm.states()) == {"applied"}


@pytest.fixture
async def engine(opened: Opened) -> Engine:
    return await opened(server(), settings=SLOW)


async def test_what_is_asked_for_ends_idle(engine: Engine) -> None:
    crm = Crm(engine)
    async with running(engine) as supervisor:
        await until(lambda: is_live(engine))
        for n in range(3):
            await crm.flags(n, add=["\\Flagged"])
            await crm.move(n, "Archive")
            supervisor.wake()
            await until(lambda: all_applied(crm))
        assert await agrees(crm)


async def test_another_process_is_heard_too(engine: Engine) -> None:
    """Nobody calls `wake`: the supervisor sees it when it looks."""
    crm = Crm(engine)
    async with running(engine):
        await until(lambda: is_live(engine))
        await crm.delete(1)
        await until(lambda: all_applied(crm))


async def test_idle_goes_on_in_inbox_afterwards(engine: Engine) -> None:
    crm, account = Crm(engine), engine.account
    async with running(engine) as supervisor:
        await until(lambda: is_live(engine))
        await crm.move(0, "Archive")
        supervisor.wake()
        await until(lambda: all_applied(crm))
        account.append("INBOX", mail(70), internal_date=NOW)

        async def arrived() -> bool:
            return len(await engine.rows("messages")) == 9

        await until(arrived)


async def test_what_waits_for_the_passes_does_not_wait_for_the_next_poll(engine: Engine) -> None:
    crm, account = Crm(engine), engine.account
    async with running(engine) as supervisor:
        await until(lambda: is_live(engine))
        account.move("Work", 1, "Archive")  # nobody tells: only INBOX is open
        await crm.flags(50, add=["\\Flagged"])
        supervisor.wake()
        await until(lambda: all_applied(crm))
        assert [m.flags for m in account.folders["Archive"].messages.values()] == [{"\\Flagged"}]
        assert await agrees(crm)


async def test_a_pause_is_over_by_itself(engine: Engine) -> None:
    crm, account = Crm(engine), engine.account
    async with running(engine) as supervisor:
        await until(lambda: is_live(engine))
        account.faults.refusals["MOVE"] = "INUSE"
        await crm.move(0, "Archive")
        supervisor.wake()

        async def waits() -> bool:
            return (await crm.operations())[0].attempts > 0

        await until(waits)
        del account.faults.refusals["MOVE"]
        engine.clock.advance(2)
        await until(lambda: all_applied(crm))


# Many.


async def test_neighbours_go_together(opened: Opened) -> None:
    account = server()
    for n in range(100, 400):
        account.append("INBOX", mail(n), internal_date=NOW - DAY)
    crm = await start(opened, account)
    ids = [row.id for row in await crm.engine.rows("messages")]
    inbox = await crm.folder("INBOX")
    here = {row.message_id for row in await crm.engine.rows("origins") if row.folder_id == inbox}
    for id_ in ids:
        if id_ in here:
            await crm.flags_id(id_, add=["\\Flagged"])
            await crm.move_id(id_, "Archive")
    await again(crm)
    assert await all_applied(crm)
    sent = [command for command in changes(account) if command.startswith("UID")]
    assert [" ".join(command.split()[:2]) for command in sent] == ["UID STORE", "UID MOVE"] * 2
    assert await agrees(crm)


async def test_passes_have_their_turn_among_many(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.sync.push.pusher.AT_ONCE", 2)
    monkeypatch.setattr("mailgate.sync.push.pusher.Pusher.turn.__defaults__", (2,))
    account = server()
    crm = await start(opened, account)
    for n in range(6):
        await crm.flags(n, add=["\\Flagged"])
    before = len(account.commands)
    await again(crm)
    assert await all_applied(crm)
    names = [command.split(" ")[0] for command in account.commands[before:] if command.startswith(("UID", "EXAMINE"))]
    assert names.count("UID") == 3
    assert "EXAMINE" in names[names.index("UID") : len(names) - names[::-1].index("UID")]


async def test_those_that_wait_hold_up_nothing_behind_them(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.sync.push.pusher.AT_ONCE", 2)
    account = server()
    crm = await start(opened, account)
    for n in range(4):
        await crm.move(n, "Archive")
    for n in (4, 5):
        await crm.flags(n, add=["\\Flagged"])
    account.faults.refusals["MOVE"] = "SERVERBUG"  # no pause for all, as others are
    await again(crm)
    assert (await crm.states())[4:] == ["applied", "applied"]
    assert not set((await crm.states())[:4]) & {"applied", "failed"}


async def test_in_the_middle_of_an_import(opened: Opened) -> None:
    """What was imported already may be changed while the rest still comes."""
    account = server()
    for n in range(200, 260):
        account.append("Archive", mail(n), internal_date=NOW - DAY)
    crm: Crm | None = None
    asked: list[int] = []

    class Watching(MemoryConnection):
        """Asks for something as soon as INBOX is here and the next folder is being fetched."""

        async def _step(self, command: str | None) -> None:
            await super()._step(command)
            if crm is not None and command == "FETCH bodies" and self.open_name == "Archive" and not asked:
                asked.append(len(account.commands))
                await crm.flags(0, add=["\\Flagged"])
                session = supervisor._running[crm.engine.mailbox_id]._session
                assert session is not None
                session.push(1)

    async def connect() -> MemoryConnection:
        connection = Watching(account)
        account.connections.append(connection)
        return connection

    engine = await opened(account, connect=connect, settings=SyncSettings(batch_messages=5, poll_interval_s=3_600))
    crm = Crm(engine)
    async with running(engine) as supervisor:
        await until(lambda: is_live(engine))
    assert await all_applied(crm)
    fetches = [n for n, command in enumerate(account.commands) if command == "FETCH bodies" and n >= asked[0] - 1]
    store = next(n for n, command in enumerate(account.commands) if command.startswith("UID STORE"))
    assert fetches[0] < store < fetches[-1]
    assert await agrees(crm)
