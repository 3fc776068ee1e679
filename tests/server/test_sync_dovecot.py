"""The engine against a real Dovecot: import, live changes, and what the server's own record says of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from mailgate.clock import DAY, HOUR, SECOND, system_clock
from mailgate.settings import SyncSettings
from tests.corpus import NASTY
from tests.dovecot import Account, Dovecot
from tests.sync.engine import Engine, mail
from tests.waiting import until

pytestmark = pytest.mark.server

LOOPBACK = parse_networks(["127.0.0.0/8"])
NAMES = ["Projekte/Größe", "日本語", "Тест", "a&b", "Ünï/Ö/&-", 'with "quotes" and \\', "עברית", "🙂"]


def received(days: float) -> int:
    """A whole second, so many days ago: what INTERNALDATE can say."""
    return (system_clock() - int(days * DAY)) // SECOND * SECOND


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    return dovecot.account(rawlog=True)


@pytest.fixture
async def opened(database_url: str, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Engine]]]:
    made: list[Engine] = []

    async def open_(account: Account, *, tls: bool = False, **options: Any) -> Engine:
        server = account.server
        endpoint = Endpoint(
            server.host, server.tls_port if tls else server.port, Security.TLS if tls else Security.NONE
        )
        context = server.ssl_context() if tls else None

        async def connect() -> ImapConnection:
            auth = PasswordAuth(account.name, account.password)
            return await connect_imap(endpoint, auth, ssl_context=context, allow_networks=LOOPBACK)

        options.setdefault("settings", SyncSettings(poll_interval_s=1, backoff_min_s=0.05))
        engine = await Engine.open(
            database_url, tmp_path, MemoryAccount(), connect=connect, clock=system_clock, **options
        )
        made.append(engine)
        return engine

    yield open_
    for engine in made:
        await engine.close()


@contextlib.asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[None]:
    task = asyncio.create_task(engine.supervisor().run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def is_live(engine: Engine) -> bool:
    return bool((await engine.rows("mailboxes"))[0].state == "live")


async def agree(engine: Engine, account: Account, *folders: str) -> bool:
    """Whether every copy equals its original, flags and bytes, in these folders."""
    near = await engine.near()
    for folder in folders:
        originals = await asyncio.to_thread(account.originals, folder)
        if near.get(folder, []) != sorted((raw, tuple(sorted(flags))) for flags, raw in originals.values()):
            return False
    return True


def say(account: Account, folder: str, *commands: tuple[str, ...]) -> None:
    """What another client does."""
    client = account.imap()
    client.select(f'"{folder}"')
    for command in commands:
        answer, _ = client.uid(*command) if command[0] != "EXPUNGE" else client.expunge()
        assert answer == "OK"
    client.logout()


async def test_everything_is_imported_byte_for_byte(opened: Callable[..., Awaitable[Engine]], account: Account) -> None:
    for n in range(60):
        account.add(mail(n), received_at=received(n), flags=[r"\Seen"] if n % 3 else [])
    account.add(mail(500), received_at=received(95))
    for number, name in enumerate(NAMES):
        account.add(mail(1000 + number), folder=name, received_at=received(1))
    engine = await opened(account, tls=True)
    await engine.sync()
    assert await agree(engine, account, *NAMES, "Sent", "Trash")
    near = await engine.near()
    assert len(near["INBOX"]) == 60
    assert set(NAMES) < set(near) | {""}
    folders = {row.name: row.special_use for row in await engine.rows("folders")}
    assert folders["INBOX"] == "inbox"
    assert folders["Sent"] == "sent"
    assert set(NAMES) <= set(folders)
    said = "\n".join(account.commands()).upper()
    assert " SELECT " not in said
    assert "BODY[]" not in said
    assert "STORE" not in said


async def test_nasty_mail_is_imported_byte_for_byte(opened: Callable[..., Awaitable[Engine]], account: Account) -> None:
    for raw in NASTY.values():
        account.add(raw, received_at=received(1))
    engine = await opened(account)
    await engine.sync()
    assert await engine.rows("quarantine") == []
    assert await agree(engine, account, "INBOX")


async def test_new_mail_flags_moves_and_deletions_arrive(
    opened: Callable[..., Awaitable[Engine]], account: Account
) -> None:
    for n in range(8):
        account.add(mail(n), received_at=received(n))
    account.add(mail(100), folder="Archive", received_at=received(2))
    engine = await opened(account)

    async def same() -> bool:
        return await agree(engine, account, "INBOX", "Archive")

    async with running(engine):
        await until(lambda: is_live(engine))
        assert await same()
        before = {row.header_token: row.id for row in await engine.rows("messages")}
        account.add(mail(9), received_at=received(0))
        await until(same)
        await asyncio.to_thread(say, account, "INBOX", ("STORE", "3", "+FLAGS", r"(\Flagged $Work)"))
        await until(same)
        await asyncio.to_thread(say, account, "INBOX", ("MOVE", "4", "Archive"))
        await asyncio.to_thread(say, account, "Archive", ("MOVE", "1", "INBOX"))
        await until(same)
        await asyncio.to_thread(say, account, "INBOX", ("STORE", "5", "+FLAGS", r"(\Deleted)"), ("EXPUNGE",))

        async def removed() -> bool:
            return len(await engine.rows("messages")) == 9 and await same()

        await until(removed)
        after = {row.header_token: row.id for row in await engine.rows("messages")}
        assert all(after[token] == id_ for token, id_ in before.items() if token in after)
    assert len(await engine.events("message.moved")) == 2
    assert len(await engine.events("message.created")) == 10
    assert len(await engine.events("message.deleted")) == 1


async def test_a_new_uidvalidity_costs_no_message_its_id(
    opened: Callable[..., Awaitable[Engine]], own_dovecot: Dovecot
) -> None:
    account = own_dovecot.account()
    for n in range(20):
        account.add(mail(n % 15), received_at=received(n % 15 + HOUR / DAY))  # five of them twice
    engine = await opened(account)
    await engine.sync()
    before = sorted(row.id for row in await engine.rows("messages"))
    own_dovecot.stop()
    account.renew_uidvalidity()
    own_dovecot.start()
    await engine.sync()
    assert sorted(row.id for row in await engine.rows("messages")) == before
    assert await agree(engine, account, "INBOX")
    assert len(await engine.events("folder.reset")) >= 1
    assert len(await engine.events("message.created")) == 20


async def test_switching_off_hangs_up_at_once(opened: Callable[..., Awaitable[Engine]], own_dovecot: Dovecot) -> None:
    account = own_dovecot.account(rawlog=True)
    account.add(mail(1), received_at=received(1))
    engine = await opened(account)
    async with running(engine):
        await until(lambda: is_live(engine))
        assert own_dovecot.connections() == 1
        await engine.enable(False)

        async def closed() -> bool:
            return own_dovecot.connections() == 0

        await until(closed)
        assert len(await engine.rows("messages")) == 1


async def test_a_tenant_on_free_never_connects(opened: Callable[..., Awaitable[Engine]], account: Account) -> None:
    account.add(mail(1), received_at=received(1))
    engine = await opened(account)
    await engine.plan("free")
    async with running(engine):

        async def resting() -> bool:
            return bool((await engine.rows("mailboxes"))[0].state == "not_entitled")

        await until(resting)
    assert account.logins() == 0


async def test_a_server_that_restarts_is_met_again(
    opened: Callable[..., Awaitable[Engine]], own_dovecot: Dovecot
) -> None:
    account = own_dovecot.account()
    account.add(mail(1), received_at=received(1))
    engine = await opened(account)
    async with running(engine):
        await until(lambda: is_live(engine))
        await asyncio.to_thread(own_dovecot.kill)

        async def noticed() -> bool:
            return bool((await engine.rows("mailboxes"))[0].state == "backoff")

        await until(noticed)
        account.add(mail(2), received_at=received(0))
        await asyncio.to_thread(own_dovecot.start)
        await until(lambda: agree(engine, account, "INBOX"))


@pytest.mark.parametrize("capability", ["IMAP4rev1 UIDPLUS MOVE IDLE CONDSTORE ENABLE", "IMAP4rev1"])
async def test_poorer_servers(opened: Callable[..., Awaitable[Engine]], capability: str, poor_dovecot: Any) -> None:
    account = poor_dovecot(capability).account()
    for n in range(10):
        account.add(mail(n), received_at=received(n))
    engine = await opened(account)
    await engine.sync()
    say(account, "INBOX", ("STORE", "2", "+FLAGS", r"(\Seen)"), ("STORE", "5", "+FLAGS", r"(\Deleted)"), ("EXPUNGE",))
    account.add(mail(20), received_at=received(0))
    account.add(mail(21), folder="Archive", received_at=received(0))
    await engine.sync()
    assert await agree(engine, account, "INBOX", "Archive")
    assert len(await engine.rows("messages")) == 11


@pytest.fixture
def poor_dovecot() -> Any:
    """Dovecot that hides what it can."""
    from tests.dovecot import start_dovecot

    with contextlib.ExitStack() as stack:

        def start(capability: str) -> Dovecot:
            return stack.enter_context(
                contextlib.contextmanager(start_dovecot)(settings=f"imap_capability = {capability}")
            )

        yield start
