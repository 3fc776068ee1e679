"""A folder of 200 messages emptied by another client of a real Dovecot: refused, explained, approved; or restored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from mailgate.actors import Actor
from mailgate.clock import HOUR, SECOND, system_clock
from mailgate.settings import SyncSettings
from mailgate.store import guards
from mailgate.store.guards import Guard
from mailgate.sync.guards import Outcome
from tests.dovecot import Account, Dovecot
from tests.sync.engine import Engine, mail

pytestmark = pytest.mark.server

LOOPBACK = parse_networks(["127.0.0.0/8"])
COUNT = 200


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    return dovecot.account()


@pytest.fixture
async def engine(sqlite_url: str, tmp_path: Path, account: Account) -> AsyncIterator[Engine]:
    async def connect() -> ImapConnection:
        endpoint = Endpoint(account.server.host, account.server.port, Security.NONE)
        auth = PasswordAuth(account.name, account.password)
        return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=LOOPBACK)

    made = await Engine.open(
        sqlite_url,
        tmp_path,
        MemoryAccount(),
        connect=connect,
        clock=system_clock,  # type: ignore[arg-type]
        settings=SyncSettings(),
    )
    yield made
    await made.close()


def fill(account: Account) -> None:
    at = (system_clock() - HOUR) // SECOND * SECOND
    for n in range(COUNT):
        account.add(mail(n), folder="Archive", received_at=at)


def empty(account: Account) -> None:
    """Another client deletes everything in the folder."""
    client = account.imap()
    client.select("Archive")
    client.uid("STORE", "1:*", "+FLAGS.SILENT", r"(\Deleted)")
    client.expunge()
    client.logout()


async def guards_of(engine: Engine) -> list[Guard]:
    return list((await guards.list_page(engine.db, "acme", engine.mailbox_id, limit=10)).items)


async def mailbox_state(engine: Engine) -> str:
    state: str = (await engine.rows("mailboxes"))[0].state
    return state


async def refused(engine: Engine, account: Account) -> Guard:
    fill(account)
    await engine.sync()
    assert len(await engine.rows("messages")) == COUNT
    empty(account)
    account.add(mail(1000), received_at=system_clock() // SECOND * SECOND)
    await engine.sync()
    assert len(await engine.rows("messages")) == COUNT + 1
    (guard,) = await guards_of(engine)
    assert guard.reason.startswith(f"the folder 'Archive' is empty at the server, where {COUNT} messages stood")
    assert (guard.known, guard.gone) == (COUNT, COUNT)
    assert await mailbox_state(engine) == "needs_approval"
    return guard


async def test_refused_and_approved(engine: Engine, account: Account) -> None:
    guard = await refused(engine, account)
    who = Actor("token", "an-admin")
    await guards.approve(engine.db, "acme", engine.mailbox_id, guard.id, now=engine.clock(), actor=who)
    await engine.sync()
    assert len(await engine.rows("messages")) == 1
    (closed,) = await guards_of(engine)
    assert (closed.id, closed.outcome) == (guard.id, Outcome.CARRIED_OUT)
    assert await mailbox_state(engine) == "live"


async def test_refused_and_restored(engine: Engine, account: Account) -> None:
    await refused(engine, account)
    before = {row.id for row in await engine.rows("messages")}
    fill(account)
    await engine.sync()
    assert {row.id for row in await engine.rows("messages")} == before
    assert [guard.outcome for guard in await guards_of(engine)] == [Outcome.RESTORED]
    assert await mailbox_state(engine) == "live"
    assert not await engine.events("message.deleted")
