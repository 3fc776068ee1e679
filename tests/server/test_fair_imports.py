"""Large imports on slow lines, against Dovecot: they hold up nobody's new mail, and a tenant that stops paying in the
middle of one has no connection, and loses nothing that it has when it pays again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.imap.connection import connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from connectors.port import Connect, Connection
from mailgate.clock import DAY, SECOND, system_clock
from mailgate.settings import SyncSettings
from tests.dovecot import Account, Dovecot
from tests.proxy import Faults, Proxy
from tests.sync.engine import Engine, mail
from tests.sync.test_supervisor import _ticks, is_, running
from tests.waiting import until

pytestmark = pytest.mark.server

LINE = 300_000
"""Bytes per second of the slow line."""
_BODIES = re.compile(r" UID FETCH (\S+) \(.*BODY\.PEEK\[\]")


def connector(account: Account, port: int) -> Connect:
    async def connect() -> Connection:
        endpoint, auth = Endpoint("127.0.0.1", port, Security.NONE), PasswordAuth(account.name, account.password)
        allow = parse_networks(["127.0.0.0/8"])
        return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=allow)

    return connect


def seed(account: Account, folder: str, count: int, octets: int) -> None:
    now = system_clock() // SECOND * SECOND
    line = "0123456789abcdef" * 4 + "\r\n"
    account.seed(
        ((mail(n, body=f"{n}\r\n" + line * (octets // 66)), now - DAY - n * SECOND) for n in range(count)),
        folder=folder,
    )


@pytest.fixture
async def proxy(dovecot: Dovecot) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", dovecot.port, Faults(rate=LINE)) as made:
        yield made


@pytest.fixture
async def engine(sqlite_url: str, tmp_path: Path, dovecot_account: Account, proxy: Proxy) -> AsyncIterator[Engine]:
    """Its mailbox is reached over the slow line."""
    made = await Engine.open(
        sqlite_url,
        tmp_path,
        MemoryAccount(),
        settings=SyncSettings(imports_at_once=2, batch_messages=50),  # the small one need not win a race
        connect=connector(dovecot_account, proxy.port),
        clock=system_clock,  # type: ignore[arg-type]
    )
    yield made
    await made.close()


async def stored(engine: Engine, mailbox_id: str) -> int:
    return len(await engine.rows("messages", lambda c: c.mailbox_id == mailbox_id))


async def test_new_mail_of_others_and_of_the_same_mailbox_is_there_long_before_an_import_ends(
    engine: Engine, dovecot: Dovecot, dovecot_account: Account
) -> None:
    large, small = dovecot_account, dovecot.account()
    now = system_clock() // SECOND * SECOND
    large.add(mail(9_000), received_at=now)
    seed(large, "Archive", 1_500, 5_000)
    small_id = await engine.add_mailbox("small", MemoryAccount())
    engine.others["small"] = connector(small, dovecot.port)
    async with running(engine):

        async def importing() -> bool:
            live = await engine.rows("mailboxes", lambda c: (c.id == small_id) & (c.state == "live"))
            return bool(live) and await stored(engine, engine.mailbox_id) > 20

        await until(importing)
        small.add(mail(9_001), received_at=now)
        large.add(mail(9_002), received_at=now)

        async def both() -> bool:
            new = [event for event in await engine.events("message.created") if not event.payload.get("initial")]
            return {event.mailbox_id for event in new} == {small_id, engine.mailbox_id}

        await until(both)
        assert await is_(engine, "importing")()
        assert await stored(engine, engine.mailbox_id) < 1_400


def bodies(commands: list[str]) -> list[int]:
    """UIDs whose bytes were asked for."""
    asked: list[int] = []
    for line in commands:
        found = _BODIES.search(line)
        for part in found[1].split(",") if found else ():
            first, _, last = part.partition(":")
            low, high = sorted((int(first), int(last or first)))
            asked += range(low, high + 1)
    return asked


async def test_a_tenant_that_becomes_free_in_the_middle_of_an_import_stops_and_goes_on_when_it_pays(
    engine: Engine, dovecot: Dovecot, dovecot_account: Account, proxy: Proxy
) -> None:
    seed(dovecot_account, "INBOX", 400, 10_000)
    async with running(engine) as supervisor:

        async def begun() -> bool:
            return await stored(engine, engine.mailbox_id) > 60

        await until(begun)
        await engine.plan("free")  # nobody tells the supervisor: it looks by itself

        async def stopped() -> bool:
            return not proxy.open and await is_(engine, "not_entitled")()

        await until(stopped)
        kept = {row.uid for row in await engine.rows("origins")}
        assert 60 < len(kept) < 400

        async def gone() -> bool:
            return not await asyncio.to_thread(dovecot.sessions, dovecot_account)

        await until(gone)
        said = len(dovecot_account.commands())
        await _ticks(supervisor, 5)
        assert proxy.accepted == 1
        assert len(dovecot_account.commands()) == said
        proxy.faults = Faults()
        await engine.plan("professional")

        async def whole() -> bool:
            return await stored(engine, engine.mailbox_id) == 400

        await until(whole)
        await until(is_(engine, "live"))
    assert proxy.accepted == 2
    assert not kept & set(bodies(dovecot_account.commands()[said:]))
    assert len(await engine.events("message.created")) == 400
    originals = {raw for _, raw in dovecot_account.originals().values()}
    assert {await engine.raw(row) for row in await engine.rows("messages")} == originals
