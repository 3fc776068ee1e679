"""One owner per mailbox: a process that stalls, loses its lease and wakes up sends nothing and writes nothing more; and
a command beside a gateway leaves the mailbox to it.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.imap.connection import connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from connectors.port import Connect, Connection
from mailgate.clock import SECOND, system_clock
from mailgate.errors import MailgateError
from mailgate.settings import SyncSettings
from mailgate.store.schema import runs
from tests.crash.stalled_process import LEASE_S
from tests.dovecot import Account
from tests.forks import Forked, fork
from tests.sync.crm import Crm
from tests.sync.engine import TABLES, Engine, mail
from tests.sync.test_supervisor import is_, running
from tests.waiting import until

pytestmark = [pytest.mark.crash, pytest.mark.server]


def connector(port: int, user: str, password: str) -> Connect:
    """To Dovecot on loopback."""

    async def connect() -> Connection:
        endpoint = Endpoint("127.0.0.1", port, Security.NONE)
        allow = parse_networks(["127.0.0.0/8"])
        return await connect_imap(endpoint, PasswordAuth(user, password), ssl_context=None, allow_networks=allow)

    return connect


@pytest.fixture
async def engine(database_url: str, tmp_path: Path, dovecot_account: Account) -> AsyncIterator[Engine]:
    account = dovecot_account
    now = system_clock() // SECOND * SECOND
    for n in range(3):
        account.add(mail(n), received_at=now)
    made = await Engine.open(
        database_url,
        tmp_path,
        MemoryAccount(),
        settings=SyncSettings(lease_s=LEASE_S, poll_interval_s=1),
        connect=connector(account.server.port, account.name, account.password),
        clock=system_clock,  # type: ignore[arg-type]
    )
    yield made
    await made.close()


def stalled(url: str, folder: Path, account: Account) -> Forked:
    return fork(
        "tests.crash.stalled_process",
        url=url,
        folder=str(folder),
        port=account.server.port,
        user=account.name,
        password=account.password,
    )


def stores(account: Account) -> list[str]:
    """The commands that change flags."""
    return [line for line in account.commands() if " UID STORE " in line]


async def test_a_stalled_owner_that_wakes_up_sends_and_writes_nothing(
    engine: Engine, database_url: str, tmp_path: Path, dovecot_account: Account
) -> None:
    await engine.sync()
    crm = Crm(engine)
    await crm.flags(1, add=["\\Flagged"])
    process = stalled(database_url, tmp_path, dovecot_account)
    try:
        assert await asyncio.to_thread(process.stdout.readline) == "stops\n"

        async def stopped() -> bool:
            status = Path(f"/proc/{process.pid}/status")
            return "\nState:\tT" in await asyncio.to_thread(status.read_text)

        await until(stopped)
        assert stores(dovecot_account) == []

        async def taken() -> bool:
            try:
                await engine.sync()
            except MailgateError as error:
                if error.slug != "lease_busy":
                    raise
                return False
            return True

        await until(taken)
        assert await crm.states() == ["applied"]
        assert len(stores(dovecot_account)) == 1
        before = (await engine.rows("mailboxes"), await crm.operations(), await engine.rows("origins"))
        process.send_signal(signal.SIGCONT)
        told, _ = await asyncio.to_thread(process.communicate)
        assert json.loads(told) == "lease_lost"
        assert len(stores(dovecot_account)) == 1
        assert (await engine.rows("mailboxes"), await crm.operations(), await engine.rows("origins")) == before
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


async def test_a_command_beside_a_gateway_leaves_the_mailbox_to_it(engine: Engine, dovecot_account: Account) -> None:
    TABLES["runs"] = runs
    async with running(engine, "gateway"):
        await until(is_(engine, "live"))
        command = engine.supervisor("command")
        run_id = await command.sync_now(engine.mailbox_id, engine.tenant_id, "command")
        with pytest.raises(MailgateError) as busy:
            await command.sync_once(engine.mailbox_id, [run_id])
        assert busy.value.slug == "lease_busy"
        assert str(busy.value) == "another process has this mailbox and does what was asked for"

        async def done() -> bool:
            return (await engine.rows("runs", lambda c: c.id == run_id))[0].state == "completed"

        await until(done)
        assert dovecot_account.logins() == 1


async def test_a_gateway_waits_for_a_command_and_goes_on_after_it(engine: Engine, dovecot_account: Account) -> None:
    owner = await engine.store.acquire(engine.mailbox_id, engine.tenant_id, "command", 60 * SECOND, engine.clock())
    assert owner is not None
    async with running(engine, "gateway") as supervisor:

        async def looked() -> bool:
            return engine.mailbox_id in supervisor._running

        await until(looked)
        assert dovecot_account.logins() == 0
        await engine.store.release(owner)
        await until(is_(engine, "live"))
