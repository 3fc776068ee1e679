"""Waiting for news that can be trusted: a line that died in silence is left in bounded time, and nothing stays unseen.

Time-outs are short here; what bounds the wait is `idle_s` (until IDLE is issued again) and `command_s` (until its DONE
must have been answered).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.imap.settings import Timeouts
from connectors.memory import MemoryAccount
from connectors.port import Source
from mailgate.clock import SECOND, system_clock
from mailgate.settings import SyncSettings
from tests.dovecot import Account
from tests.fakeimap import FakeImap, Mail, Talk
from tests.proxy import Faults, Proxy
from tests.replay import connecting
from tests.server.test_sync_dovecot import agree, running
from tests.sync.engine import Engine, mail
from tests.waiting import until

SHORT = Timeouts(command_s=1, idle_s=0.3, logout_s=0.1)
"""For lines that are to be left."""
RESTLESS = Timeouts(idle_s=0.3)
"""For lines that are to stay, however slow the machine is."""
Watch = Callable[[Callable[[], Awaitable[Source]]], Awaitable[Engine]]


@pytest.fixture
async def watch(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Watch]:
    """Opens an engine that polls other folders once an hour: what comes in time was heard by IDLE, or read anew after a
    line was left.
    """
    made: list[Engine] = []

    async def open_(connect: Callable[[], Awaitable[Source]]) -> Engine:
        engine = await Engine.open(
            sqlite_url,
            tmp_path,
            MemoryAccount(),
            connect=connect,  # type: ignore[arg-type]
            clock=system_clock,  # type: ignore[arg-type]  # a real server has the real time
            settings=SyncSettings(poll_interval_s=3_600, backoff_min_s=0.05, backoff_max_s=1),
        )
        made.append(engine)
        return engine

    yield open_
    for engine in made:
        await engine.close()


def now() -> int:
    return system_clock() // SECOND * SECOND


async def in_state(engine: Engine, *states: str) -> bool:
    rows: list[Any] = await engine.rows("mailboxes")
    return rows[0].state in states


async def has(engine: Engine, count: int) -> bool:
    return len(await engine.rows("messages")) == count


@pytest.mark.server
async def test_a_line_that_a_router_forgot(watch: Watch, dovecot_account: Account) -> None:
    account = dovecot_account
    async with Proxy("127.0.0.1", account.server.port) as proxy:
        engine = await watch(connecting(account, proxy.port, SHORT))
        async with running(engine):
            await until(lambda: in_state(engine, "live"))
            for round_ in range(2):
                lines = proxy.accepted
                proxy.silence()
                account.add(mail(round_), received_at=now())
                await until(lambda: agree(engine, account, "INBOX"))
                assert proxy.accepted > lines  # the dead line was left
                await until(lambda: in_state(engine, "live"))
    assert len(await engine.events("message.created")) == 2


@pytest.mark.server
async def test_a_line_that_is_deaf_from_the_beginning_of_idle(watch: Watch, dovecot_account: Account) -> None:
    account = dovecot_account
    async with Proxy("127.0.0.1", account.server.port) as proxy:
        engine = await watch(connecting(account, proxy.port, SHORT))
        for _ in range(2):  # the first imports, the second only looks
            before = proxy.to_client
            async with running(engine):
                await until(lambda: in_state(engine, "live"))
                whole = proxy.to_client - before
        proxy.faults = Faults(stall_after=whole - 5)
        lines = proxy.accepted
        async with running(engine):
            await until(lambda: _accepted(proxy, lines + 2))
            proxy.faults = Faults()
            account.add(mail(1), received_at=now())
            await until(lambda: agree(engine, account, "INBOX"))


async def _accepted(proxy: Proxy, count: int) -> bool:
    return proxy.accepted >= count


@pytest.mark.server
async def test_a_quiet_line_is_proved_alive_again_and_again(watch: Watch, dovecot_account: Account) -> None:
    account = dovecot_account
    engine = await watch(connecting(account, account.server.port, RESTLESS))
    async with running(engine):

        async def idled() -> bool:
            return sum(line == "DONE" for line in account.commands()) >= 4

        await until(idled)
        assert account.logins() == 1
        account.add(mail(1), received_at=now())
        await until(lambda: agree(engine, account, "INBOX"))


async def never_answers_done(talk: Talk, rest: bytes) -> None:
    await talk.send(b"+ idling")
    await talk.reader.readuntil(b"\r\n")
    await talk.reader.read()


async def never_grants(talk: Talk, rest: bytes) -> None:
    await talk.reader.read()


async def refuses(talk: Talk, rest: bytes) -> None:
    await talk.send(talk.tag + b" NO not on this server")


async def does_not_know_it(talk: Talk, rest: bytes) -> None:
    await talk.send(talk.tag + b" BAD unknown command")


async def ends_it_at_once(talk: Talk, rest: bytes) -> None:
    await talk.send(b"+ idling", talk.tag + b" OK enough")


@pytest.mark.parametrize("lie", [never_answers_done, never_grants])
async def test_a_server_that_dies_in_idle(watch: Watch, lie: Any) -> None:
    server = FakeImap({"INBOX": [Mail(1, mail(1))]}, lies={"IDLE": lie})
    async with server:
        engine = await watch(_to(server, SHORT))
        async with running(engine):
            await until(lambda: has(engine, 1))
            for uid in (2, 3):
                await until(lambda count=uid - 1: _idles(server, count))  # type: ignore[misc]
                server.folders["INBOX"].append(Mail(uid, mail(uid)))
                await until(lambda count=uid: has(engine, count))  # type: ignore[misc]
            assert server.accepted >= 3
            await until(lambda: _only_one_open(server))  # what was left is closed, too
    assert not await engine.rows("quarantine")


@pytest.mark.parametrize("lie", [refuses, does_not_know_it])
async def test_a_server_that_offers_idle_and_refuses_it(watch: Watch, lie: Any) -> None:
    server = FakeImap({"INBOX": [Mail(1, mail(1))]}, lies={"IDLE": lie})
    async with server:
        engine = await watch(_to(server))
        async with running(engine):
            await until(lambda: in_state(engine, "polling"))
            (row,) = await engine.rows("mailboxes")
            assert "interval" in row.state_reason
            assert server.accepted == 1  # a refusal is no fault of the line
            assert sum(word.startswith(b"IDLE") for word in server.heard) == 1  # nor asked for again and again


async def test_a_server_without_idle(watch: Watch) -> None:
    server = FakeImap({"INBOX": [Mail(1, mail(1))]}, capabilities=b"IMAP4rev1")
    async with server:
        engine = await watch(_to(server))
        async with running(engine):
            await until(lambda: in_state(engine, "polling"))
            assert not [word for word in server.heard if word.startswith(b"IDLE")]


async def test_a_server_that_ends_each_idle_at_once_is_not_asked_without_pause() -> None:
    server = FakeImap({"INBOX": [Mail(1, mail(1))]}, lies={"IDLE": ends_it_at_once})
    async with server:
        source = await _to(server)()
        await source.open("INBOX")
        assert await source.idle(0.2) is None
        assert sum(word.startswith(b"IDLE") for word in server.heard) == 1
        await source.close()


async def _only_one_open(server: FakeImap) -> bool:
    return len(server.open) <= 1


async def _idles(server: FakeImap, times: int) -> bool:
    return sum(word.startswith(b"IDLE") for word in server.heard) >= times


def _to(server: FakeImap, timeouts: Timeouts = RESTLESS) -> Callable[[], Awaitable[Source]]:
    class Bob:
        name, password = "bob", "x"

    return connecting(Bob(), server.port, timeouts)  # type: ignore[arg-type]
