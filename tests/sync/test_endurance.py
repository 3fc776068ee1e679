"""Lines and servers that fail again and again: pauses, turns, and what goes on all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from connectors.imap.connection import connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from connectors.port import Connection
from mailgate.clock import HOUR, system_clock
from mailgate.settings import SyncSettings
from mailgate.store import leases
from mailgate.store.fenced import lease_name
from mailgate.sync import context as context_module
from mailgate.sync import mailbox as mailbox_module
from mailgate.sync import rests, run
from mailgate.sync.mailbox import MailboxTask
from tests.fakeimap import FakeImap, Mail, Talk, in_set
from tests.sync.engine import Engine, mail
from tests.sync.test_supervisor import QUICK, is_, running
from tests.waiting import until

LOOPBACK = parse_networks(["127.0.0.0/8"])


@pytest.fixture
async def server() -> AsyncIterator[FakeImap]:
    """Five messages in INBOX."""
    async with FakeImap({"INBOX": [Mail(n, mail(n)) for n in range(1, 6)]}) as server:
        yield server


@pytest.fixture
async def engine(sqlite_url: str, tmp_path: Path, server: FakeImap) -> AsyncIterator[Engine]:
    async def connect() -> Connection:
        endpoint = Endpoint("127.0.0.1", server.port, Security.NONE)
        return await connect_imap(endpoint, PasswordAuth("bob", "x"), ssl_context=None, allow_networks=LOOPBACK)

    clock = system_clock
    made = await Engine.open(sqlite_url, tmp_path, MemoryAccount(), connect=connect, settings=QUICK, clock=clock)  # type: ignore[arg-type]
    yield made
    await made.close()


async def kept(engine: Engine, count: int) -> None:
    """Until so many copies are here."""

    async def here() -> bool:
        return len(await engine.rows("messages")) == count

    await until(here)


async def test_a_server_that_refuses_idle_is_polled(engine: Engine, server: FakeImap) -> None:
    async def refuse(talk: Talk, rest: bytes) -> None:
        await talk.send(talk.tag + b" BAD no such command")

    server.lies["IDLE"] = refuse
    async with running(engine):
        await until(is_(engine, "polling"))
        assert "IDLE was answered BAD" in (await engine.rows("mailboxes"))[0].state_reason
        server.folders["INBOX"].append(Mail(6, mail(6)))
        await kept(engine, 6)
        assert server.accepted == 1


async def test_flags_that_idle_tells_of_arrive_at_once(engine: Engine, server: FakeImap) -> None:
    """Without CONDSTORE all flags are compared only now and then, but not when the server says that some changed."""

    async def tell(talk: Talk, rest: bytes) -> None:
        await talk.send(b"+ idling")
        first = server.folders["INBOX"][0]
        if first.flags != b"\\Flagged":
            first.flags = b"\\Flagged"
            await talk.send(b"* 1 FETCH (FLAGS (\\Flagged))")
        await talk.reader.readuntil(b"\r\n")
        await talk.ok()

    server.lies["IDLE"] = tell
    async with running(engine):

        async def flagged() -> bool:
            return any(row.flagged for row in await engine.rows("messages"))

        await until(flagged)


async def test_a_refused_folder_does_not_keep_the_import_open(engine: Engine, server: FakeImap) -> None:
    async def refuse(talk: Talk, rest: bytes) -> None:
        if b"Private" in rest:
            await talk.send(talk.tag + b" NO permission denied")
        else:
            await talk.truth("EXAMINE", rest)

    server.folders["Private"] = [Mail(1, mail(90))]
    server.lies["EXAMINE"] = refuse
    async with running(engine):
        await until(is_(engine, "live"))
        mailbox = (await engine.rows("mailboxes"))[0]
        assert mailbox.imported_at is not None
        assert mailbox.last_checked_at is not None
        folder = next(row for row in await engine.rows("folders") if row.name == "Private")
        assert "permission denied" in folder.last_error


async def test_a_mailbox_whose_inbox_cannot_be_read_says_so(engine: Engine, server: FakeImap) -> None:
    async def refuse(talk: Talk, rest: bytes) -> None:
        await talk.send(talk.tag + b" NO permission denied")

    server.lies["EXAMINE"] = refuse
    async with running(engine) as supervisor:
        await until(is_(engine, "polling"))
        reason = (await engine.rows("mailboxes"))[0].state_reason
        assert reason == "INBOX can't be read: EXAMINE was answered NO: permission denied; it is asked at an interval"
        del server.lies["EXAMINE"]
        supervisor.wake()
        await until(is_(engine, "live"))
        assert (await engine.rows("mailboxes"))[0].state_reason is None


async def test_waiting_in_line_keeps_the_line_alive_and_ends_at_once(engine: Engine, server: FakeImap) -> None:
    async with running(engine) as supervisor:
        importing = supervisor._shared.importing
        for _ in range(QUICK.imports_at_once):
            await importing.take("another")

        async def waits() -> bool:
            return bool((await engine.rows("mailboxes"))[0].state_reason == "waiting in line")

        await until(waits)
        await engine.enable(False)
        supervisor.wake()

        async def closed() -> bool:
            return not server.open and not supervisor._running

        await until(closed)
        await engine.enable(True)
        supervisor.wake()
        await until(waits)
        for _ in range(QUICK.imports_at_once):
            importing.give_back("another")
        await kept(engine, 5)
        await until(is_(engine, "live"))
        assert not importing.taken


async def test_pauses_grow_with_faults_and_shrink_with_success(
    engine: Engine, server: FakeImap, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.settings = SyncSettings(poll_interval_s=1, backoff_min_s=0.01, backoff_max_s=1)
    pauses: list[float] = []
    real = MailboxTask._next_pause_s

    def noted(self: MailboxTask) -> float:
        pauses.append(real(self))
        return pauses[-1]

    monkeypatch.setattr(MailboxTask, "_next_pause_s", noted)
    monkeypatch.setattr("random.uniform", lambda _low, high: high)

    async def hang_up(talk: Talk, rest: bytes) -> None:
        talk.writer.transport.abort()

    server.lies["LOGIN"] = hang_up
    async with running(engine):

        async def six() -> bool:
            return len(pauses) >= 6

        await until(six)
        assert pauses[:6] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32]
        del server.lies["LOGIN"]
        await until(is_(engine, "live"))
        count = len(pauses)

        async def cut_off() -> None:
            """It pauses, however shortly, and is back."""
            before = len(pauses), server.accepted

            async def back() -> bool:
                return len(pauses) > before[0] and server.accepted > before[1] and await is_(engine, "live")()

            server.hang_up()
            await until(back)

        await cut_off()
        assert pauses[count] == 0.01 * 2**mailbox_module.FRUITFUL
        monkeypatch.setattr(mailbox_module, "STEADY_S", 0.0)
        await cut_off()
        assert pauses[count + 1] == 0.01


async def test_another_owner_is_no_fault(engine: Engine, server: FakeImap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a lease for long begins with the shortest pause once it has the mailbox."""
    engine.settings = SyncSettings(poll_interval_s=1, backoff_min_s=0.01, backoff_max_s=1)
    name = lease_name(engine.mailbox_id)
    fence = await leases.acquire(engine.db, name, "other", HOUR, system_clock())
    assert fence is not None
    attempts: list[int] = []
    real = MailboxTask._attempt

    async def noted(self: MailboxTask) -> float:
        attempts.append(self._faults)
        return await real(self)

    monkeypatch.setattr(MailboxTask, "_attempt", noted)
    async with running(engine) as supervisor:

        async def tried() -> bool:
            for task in supervisor._running.values():
                task._wanted.set()
            return len(attempts) > 5

        await until(tried)
        assert set(attempts) == {0}
        assert server.accepted == 0
        await leases.release(engine.db, name, "other", fence)


async def test_a_server_that_never_lets_in_is_left_after_a_while(
    engine: Engine, server: FakeImap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says something all the time, so no command ever times out."""
    engine.settings = SyncSettings(backoff_min_s=0.05, connect_timeout_s=1, command_timeout_s=1)

    async def drip(talk: Talk, rest: bytes) -> None:
        while True:
            await talk.send(b"* OK still busy")
            await asyncio.sleep(0.05)

    server.lies["LOGIN"] = drip
    async with running(engine):

        async def left() -> bool:
            row = (await engine.rows("mailboxes"))[0]  # one look: the next attempt begins a moment later
            said = "the login was not completed within 2 s"
            return row.state == "backoff" and (row.state_reason or "").startswith(said)

        await until(left)
        del server.lies["LOGIN"]
        await kept(engine, 5)


@pytest.mark.parametrize("command", ["LIST", "STATUS", "EXAMINE", "UID SEARCH", "UID FETCH"])
async def test_a_server_that_only_keeps_the_line_alive_is_left(
    engine: Engine, server: FakeImap, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A mailbox would seem to be importing for ever, and hold one of the few turns to import."""

    async def drip(talk: Talk, rest: bytes) -> None:
        while True:
            await talk.send(b"* OK still busy")
            await asyncio.sleep(0.05)

    monkeypatch.setattr(context_module, "STALLED_S", 0.5)
    server.lies[command] = drip
    server.folders["Archive"] = [Mail(1, mail(1000))]
    async with running(engine) as supervisor:

        async def left() -> bool:
            row = (await engine.rows("mailboxes"))[0]  # one look: the next attempt begins a moment later
            said = "the server kept the line alive but brought nothing for 0.5 s"
            return row.state == "backoff" and (row.state_reason or "").startswith(said)

        await until(left)
        server.lies.clear()
        await kept(engine, 6)
        await until(is_(engine, "live"))
        assert not supervisor._shared.importing.taken


async def kill(talk: Talk, rest: bytes) -> None:
    talk.writer.transport.abort()


async def babble(talk: Talk, rest: bytes) -> None:
    await talk.raw(b"* 3 FETCH (UID 3 FLAGS () BODY[] {5}\r\nshort but then it goes on\r\n)\r\n")


@pytest.mark.parametrize("strike", [kill, babble])
async def test_a_message_that_ends_the_line_is_set_aside_and_the_others_come(
    engine: Engine, server: FakeImap, strike: Callable[[Talk, bytes], Awaitable[None]]
) -> None:
    """Servers crash over single messages, for ever; everything behind them is wanted all the same."""
    server.folders["INBOX"] = [Mail(n, mail(n)) for n in range(1, 30)]

    async def fetch(talk: Talk, rest: bytes) -> None:
        asked = rest.split(b" ")[2]
        if b"BODY.PEEK[]" not in rest or not in_set(asked, 3):
            await talk.truth("UID FETCH", rest)
            return
        for number, message in enumerate(server.folders["INBOX"], start=1):
            if in_set(asked, message.uid) and message.uid != 3:
                await talk.answer(number, message, rest)
            elif message.uid == 3:
                await strike(talk, rest)
                return

    server.lies["UID FETCH"] = fetch
    async with running(engine):
        await until(is_(engine, "live"))
        assert len(await engine.rows("messages")) == 28
        (aside,) = await engine.rows("quarantine")
        assert aside.uid == 3
        assert aside.reason.startswith("asking for it ended the connection again and again: ")
        mailbox = (await engine.rows("mailboxes"))[0]
        assert mailbox.imported_at is not None
        assert mailbox.progress_done == mailbox.progress_total
        server.folders["INBOX"].append(Mail(30, mail(30)))
        await kept(engine, 29)


@pytest.mark.parametrize("strike", [kill, babble])
async def test_a_message_whose_header_ends_the_line_is_set_aside_and_the_others_come(
    engine: Engine, server: FakeImap, strike: Callable[[Talk, bytes], Awaitable[None]]
) -> None:
    """Where messages are looked at before they are fetched: after a UIDVALIDITY change, here."""
    server.folders["INBOX"] = [Mail(n, mail(n)) for n in range(1, 30)]
    async with running(engine):
        await until(is_(engine, "live"))
        await kept(engine, 29)
    server.uidvalidity["INBOX"] = 2
    server.folders["INBOX"].append(Mail(30, mail(30)))

    async def fetch(talk: Talk, rest: bytes) -> None:
        asked = rest.split(b" ")[2]
        if b"BODY.PEEK[" not in rest or not in_set(asked, 3):
            await talk.truth("UID FETCH", rest)
            return
        for number, message in enumerate(server.folders["INBOX"], start=1):
            if in_set(asked, message.uid) and message.uid != 3:
                await talk.answer(number, message, rest)
            elif message.uid == 3:
                await strike(talk, rest)
                return

    server.lies["UID FETCH"] = fetch
    async with running(engine):
        await kept(engine, 30)
        await until(is_(engine, "live"))
        (aside,) = await engine.rows("quarantine")
        assert aside.uid == 3
        assert len(await engine.events("message.created")) == 30
        assert not await engine.events("message.deleted")


async def test_a_server_that_hangs_up_on_searches_is_asked_for_everything(engine: Engine, server: FakeImap) -> None:
    """As go-imap 1.2 does, among mail that it can't parse: in one folder only."""

    async def hang_up(talk: Talk, rest: bytes) -> None:
        if talk.folder == "Odd":
            raise ConnectionResetError
        await talk.truth("UID SEARCH", rest)

    server.folders["Odd"] = [Mail(n, mail(n)) for n in range(6, 9)]
    server.lies["UID SEARCH"] = hang_up
    async with running(engine):
        await kept(engine, 8)
        await until(is_(engine, "live"))
        assert server.accepted == 3
        server.folders["Odd"].append(Mail(9, mail(9)))
        await kept(engine, 9)
        assert server.accepted == 3


async def test_a_folder_over_which_the_line_always_ends_holds_up_no_other(
    engine: Engine, server: FakeImap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rests, "ENOUGH", 3)
    monkeypatch.setattr(run, "ENOUGH", 3)

    async def hang_up(talk: Talk, rest: bytes) -> None:
        if b"Odd" in rest:
            raise ConnectionResetError
        await talk.truth("EXAMINE", rest)

    server.folders |= {"Odd": [Mail(1, mail(90))], "Zoo": [Mail(n, mail(n)) for n in range(6, 9)]}
    server.lies["EXAMINE"] = hang_up
    async with running(engine) as supervisor:
        await kept(engine, 8)
        await until(is_(engine, "live"))
        rows = {row.name: row.last_error for row in await engine.rows("folders")}
        assert rows["INBOX"] is None
        assert rows["Odd"].startswith("reading it ended the connection 3 times and more: ")
        del server.lies["EXAMINE"]
        await supervisor.sync_now(engine.mailbox_id, engine.tenant_id, "test")

        async def read() -> bool:
            return all(row.last_error is None for row in await engine.rows("folders"))

        await until(read)


async def test_a_folder_that_cannot_be_opened_is_tried_ever_more_seldom(
    server: FakeImap, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is listed otherwise than before, and all when somebody asks for a pass, are tried at once."""

    async def refuse(talk: Talk, rest: bytes) -> None:
        if b"Private" in rest:
            await talk.send(talk.tag + b" NO [NOPERM] permission denied")
        else:
            await talk.truth(rest.split(b" ")[0].decode(), rest)

    def tries() -> int:
        return sum(b"Private" in rest for rest in server.heard)

    async def private() -> Any:
        return next(row for row in await engine.rows("folders") if row.name == "Private")

    server.folders["Private"] = []
    server.lies |= {"EXAMINE": refuse, "STATUS": refuse}
    passes = asyncio.Queue[int]()
    agree = run.Session._agree

    async def counted(self: run.Session) -> None:
        await agree(self)
        await passes.put(tries())

    monkeypatch.setattr(run.Session, "_agree", counted)
    async with running(engine) as supervisor:
        seen = [await passes.get() for _ in range(8)]
        assert seen[0] > 0  # import
        assert seen[-1] < 2 * 8
        assert any(before == after for before, after in pairwise(seen))
        row = await private()
        assert row.last_error.startswith("EXAMINE was answered NO: permission denied; tried again after 20")
        del server.lies["EXAMINE"], server.lies["STATUS"]
        run_id = await supervisor.sync_now(engine.mailbox_id, engine.tenant_id, "test")

        async def read() -> bool:
            return (await private()).last_error is None

        await until(read)
        assert run_id
