"""Purged mail that is asked for again, from a real Dovecot, as it is and as poorer servers are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from mailgate.actors import Actor
from mailgate.errors import GoneError
from mailgate.store import operations
from mailgate.store.expiry import Expiry
from mailgate.store.wishes.backfill import Backfills
from mailgate.store.wishes.locks import Locks
from mailgate.store.wishes.rehydrate import Rehydrations
from retention.model import Graces
from retention.policy import ClockLimits
from tests.dovecot import Account
from tests.server.test_push_dovecot import account, agrees, opened
from tests.sync.crm import Crm

__all__ = ["account", "opened"]

pytestmark = pytest.mark.server

USER = Actor("token", "T1")


async def purged(crm: Crm) -> dict[int, str]:
    """Everything was purged, and the plan has synchronization again; the ids by number of the mail."""
    ids = {n: await crm.id(n) for n in range(6)}
    await crm.engine.plan("free")
    await crm.engine.purge()
    await crm.engine.plan("professional")
    assert await crm.engine.rows("messages") == []
    return ids


def locks(crm: Crm) -> Locks:
    engine = crm.engine
    return Locks(engine.subscriptions, Expiry(engine.subscriptions, Graces()), ClockLimits(), engine.log)


async def test_one_by_one(opened: Callable[..., Awaitable[Crm]], account: Account) -> None:
    """Where it stood; in another folder; in a folder that was renumbered; and not at all."""
    crm = await opened(account)
    engine = crm.engine
    ids = await purged(crm)
    client = account.imap()
    client.create("Elsewhere")
    client.select("INBOX")
    assert client.uid("COPY", "2", "Elsewhere")[0] == "OK"
    client.uid("STORE", "2", "+FLAGS", "\\Deleted")
    client.uid("STORE", "3", "+FLAGS", "\\Deleted")
    client.expunge()
    client.logout()
    asking = Rehydrations(engine.db, engine.ring, locks(crm))
    asked = {n: await asking.ask(engine.tenant_id, ids[n], (), engine.clock(), USER) for n in (0, 1, 2)}
    await engine.sync()
    states = {n: await operations.get(engine.db, engine.tenant_id, item.operation_ids[0]) for n, item in asked.items()}
    assert [states[n].state for n in (0, 1, 2)] == ["applied", "applied", "failed"]
    assert states[2].code == "gone_at_server"
    assert {n: await crm.id(n) for n in (0, 1)} == {n: ids[n] for n in (0, 1)}
    assert await crm.stands(0) == [("INBOX", 1)]
    assert [name for name, _ in await crm.stands(1)] == ["Elsewhere"]
    with pytest.raises(GoneError):
        await asking.ask(engine.tenant_id, ids[2], (), engine.clock(), USER)


async def test_all_of_them(opened: Callable[..., Awaitable[Crm]], account: Account) -> None:
    crm = await opened(account)
    engine = crm.engine
    ids = await purged(crm)
    await engine.sync()
    assert await engine.rows("messages") == []
    client = account.imap()
    client.create("Elsewhere")
    client.select("INBOX")
    client.uid("COPY", "2,3", "Elsewhere")
    client.uid("STORE", "2,3", "+FLAGS", "\\Deleted")
    client.expunge()
    client.logout()
    await Backfills(engine.db, locks(crm)).ask(engine.tenant_id, engine.mailbox_id, 90, engine.clock(), USER)
    await engine.sync()
    await engine.sync()
    assert {n: await crm.id(n) for n in range(6)} == ids
    assert await agrees(crm, account)
    assert len(await engine.events("message.created")) == 6
