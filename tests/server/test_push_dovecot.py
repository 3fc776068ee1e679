"""Operations against a real Dovecot, as it is and as poorer servers are: every kind, and what its own record says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import NetworkError
from connectors.imap.connection import ImapConnection, connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security, SpecialUse
from connectors.net import parse_networks
from mailgate.clock import DAY, SECOND, system_clock
from mailgate.settings import SyncSettings
from tests.dovecot import Account, Dovecot
from tests.proxy import Faults, Proxy
from tests.sync.crm import Crm
from tests.sync.engine import Engine, RealClock, mail
from tests.sync.test_push_live import is_live, running
from tests.waiting import until

pytestmark = pytest.mark.server

LOOPBACK = parse_networks(["127.0.0.0/8"])
NAMES = ["Projekte/Größe", "日本語", "a&b", 'with "quotes" and \\']


def received(days: float) -> int:
    """A whole second, so many days ago: what INTERNALDATE can say."""
    return (system_clock() - int(days * DAY)) // SECOND * SECOND


@pytest.fixture(params=["dovecot", "plain_dovecot"])
def account(request: pytest.FixtureRequest) -> Account:
    server: Dovecot = request.getfixturevalue(request.param)
    account = server.account(rawlog=True)
    for n in range(6):
        account.add(mail(n), received_at=received(n))
    return account


@pytest.fixture
async def opened(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Crm]]]:
    made: list[Engine] = []

    async def open_(account: Account, *, port: int | None = None, **options: Any) -> Crm:
        async def connect() -> ImapConnection:
            endpoint = Endpoint("127.0.0.1", port or account.server.port, Security.NONE)
            auth = PasswordAuth(account.name, account.password)
            return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=LOOPBACK)

        options.setdefault("settings", SyncSettings(poll_interval_s=3_600, backoff_min_s=0.05))
        clock: Any = RealClock()
        engine = await Engine.open(sqlite_url, tmp_path, MemoryAccount(), connect=connect, clock=clock, **options)
        made.append(engine)
        await engine.sync()
        return Crm(engine)

    yield open_
    for engine in made:
        await engine.close()


async def far(account: Account, *folders: str) -> dict[str, list[tuple[bytes, tuple[str, ...]]]]:
    """What the server has in these folders."""
    found = {name: await asyncio.to_thread(account.originals, name) for name in folders}
    return {
        name: sorted((raw, tuple(sorted(flags))) for flags, raw in originals.values())
        for name, originals in found.items()
        if originals
    }


async def agrees(crm: Crm, account: Account) -> bool:
    names = [row.name for row in await crm.engine.rows("folders") if row.gone_at is None and row.selectable]
    return await crm.engine.near() == await far(account, *names)


async def test_every_kind(opened: Callable[..., Awaitable[Crm]], account: Account) -> None:
    client = account.imap()
    client.create("Empty")
    client.logout()
    crm = await opened(account)
    await crm.flags(0, add=["\\Flagged", "$Deal"])
    await crm.flags(2, add=["\\Seen"])
    await crm.move(1, "Archive")
    await crm.delete(3)
    await crm.append(60, "Archive", flags=["\\Seen", "$Deal"], received_at=received(1))
    for name in NAMES:
        await crm.create(name)
    await crm.move(4, NAMES[0])
    await crm.rename(NAMES[1], "Тест")
    await crm.remove("Empty")
    await crm.engine.sync()
    assert [(r.kind, r.detail, r.reason) for r in await crm.operations() if r.state != "applied"] == []
    assert await agrees(crm, account)
    there = await far(account, "INBOX", "Archive", NAMES[0])
    assert there["Archive"] == sorted([(mail(1), ()), (mail(60), ("$Deal", "\\Seen"))])
    assert there[NAMES[0]] == [(mail(4), ())]
    assert [raw for raw, _ in there["INBOX"]] == sorted(mail(n) for n in (0, 2, 5))
    names = {row.name for row in await crm.engine.rows("folders") if row.gone_at is None}
    assert {"Тест", NAMES[0], NAMES[2], NAMES[3]} <= names
    assert not {NAMES[1], "Empty"} & names
    assert not await crm.engine.events("message.moved", "message.deleted")


async def test_a_folder_with_others_below_is_renamed_while_changes_in_them_wait(
    opened: Callable[..., Awaitable[Crm]], account: Account
) -> None:
    client = account.imap()
    for name in ("Work", "Work/Old"):
        client.create(name)
        client.subscribe(name)
    client.logout()
    account.add(mail(50), folder="Work", received_at=received(1))
    account.add(mail(51), folder="Work/Old", received_at=received(1))
    crm = await opened(account)
    ids = {n: await crm.id(n) for n in (0, 1, 50, 51)}
    await crm.flags(50, add=["\\Flagged"])
    await crm.flags(51, add=["\\Flagged"])
    await crm.move(0, "Work/Old")
    await crm.rename("Work", "Jobs")
    await crm.flags(51, add=["\\Answered"])
    await crm.move(50, "Work/Old")
    await crm.move(1, "Work")
    ids[60] = await crm.append(60, "Work/Old")
    await crm.engine.sync()
    await crm.engine.sync()
    assert {(r.kind, r.state, r.reason) for r in await crm.operations() if r.state != "applied"} == set()
    assert await far(account, "Jobs", "Jobs/Old") == {
        "Jobs": [(mail(1), ())],
        "Jobs/Old": sorted(
            [(mail(0), ()), (mail(50), ("\\Flagged",)), (mail(51), ("\\Answered", "\\Flagged")), (mail(60), ())]
        ),
    }
    assert {n: await crm.id(n) for n in ids} == ids
    assert await agrees(crm, account)
    client = account.imap()
    shown = b" ".join(item for item in client.lsub()[1] if isinstance(item, bytes))
    client.logout()
    assert b"Jobs/Old" in shown
    assert b"Work" not in shown


async def test_the_server_is_told_no_more_than_it_takes(
    opened: Callable[..., Awaitable[Crm]], account: Account
) -> None:
    """One command for neighbours, never a bare EXPUNGE, and no message fetched that was put somewhere."""
    crm = await opened(account)
    before = len(await asyncio.to_thread(account.commands))
    for n in range(6):
        await crm.flags(n, add=["\\Flagged"])
    for n in range(4):
        await crm.move(n, "Archive")
    await crm.delete(4)
    await crm.append(60, "Archive")
    await crm.engine.sync()
    commands = [line.upper() for line in (await asyncio.to_thread(account.commands))[before:]]
    assert await agrees(crm, account)
    stores = [line for line in commands if "STORE" in line and "FLAGGED" in line]
    assert len(stores) == 1
    assert len([line for line in commands if "UID MOVE" in line or "UID COPY" in line]) == 1
    assert not [line for line in commands if "EXPUNGE" in line and "UID EXPUNGE" not in line]
    assert not [line for line in commands if "CLOSE" in line and "UNSELECT" not in line]
    assert not [line for line in commands if "BODY.PEEK[]" in line]


async def test_live(opened: Callable[..., Awaitable[Crm]], account: Account) -> None:
    crm = await opened(account)
    async with running(crm.engine) as supervisor:
        await until(lambda: is_live(crm.engine))
        await crm.flags(0, add=["\\Flagged"])
        await crm.move(1, "Archive")
        supervisor.wake()

        async def applied() -> bool:
            return set(await crm.states()) == {"applied"}

        await until(applied)
        assert await agrees(crm, account)


async def test_a_folder_made_for_what_is_deleted(opened: Callable[..., Awaitable[Crm]], account: Account) -> None:
    """There may be one of that name already, which other clients made and the store has not seen."""
    crm = await opened(account)
    client = account.imap()
    client.create("Bin")
    client.logout()
    await crm.create("Bin", SpecialUse.TRASH)
    await crm.move(0, "Bin")
    await crm.engine.sync()
    assert await crm.states() == ["applied", "applied"]
    assert await agrees(crm, account)


async def test_a_line_that_breaks_all_the_time(opened: Callable[..., Awaitable[Crm]], account: Account) -> None:
    """Cut by octets that came from the server, a little later each time, until all of it got through."""
    async with Proxy("127.0.0.1", account.server.port) as proxy:
        crm = await opened(account, port=proxy.port)
        moved = await crm.id(1)
        await crm.flags(0, add=["\\Flagged"])
        await crm.move(1, "Archive")
        await crm.delete(2)
        await crm.append(60, "Archive")
        await crm.create("Deals")
        await crm.move(3, "Deals")
        cuts = 0
        for octets in range(200, 20_000, 150):
            proxy.faults = Faults(cut_after=octets)
            try:
                await crm.engine.sync()
            except NetworkError:
                cuts += 1
                crm.engine.clock.advance(120)  # no answer to it could come any more
                continue
            break
        proxy.faults = Faults()
        await crm.engine.sync()
    assert cuts > 10
    assert set(await crm.states()) == {"applied"}
    assert await agrees(crm, account)
    assert await crm.id(1) == moved
    there = await far(account, "INBOX", "Archive", "Deals")
    assert [raw for raw, _ in there["Archive"]] == sorted([mail(1), mail(60)])
    assert [raw for raw, _ in there["Deals"]] == [mail(3)]
    assert len(await crm.engine.rows("messages")) == 6
    assert not await crm.engine.events("message.moved", "message.deleted")
