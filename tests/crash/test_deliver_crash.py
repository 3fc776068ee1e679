"""Webhooks while the process that delivers is killed with kill -9 between a request and its outcome: every event comes,
each mailbox's in order, and what comes twice has the same `webhook-id`. The receiver verifies with Standard Webhooks'
own library, as a customer's would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from mailgate.actors import SYSTEM
from mailgate.app.core import Core
from mailgate.store import tenants
from mailgate.store.feed import Publisher
from mailgate.store.transaction import Transaction
from tests.crash.deliver_process import settings_of
from tests.forks import Forked, fork

pytestmark = pytest.mark.crash

MAILBOXES = [f"01KSKBP800DNN0GF2D5XF3BNE{n}" for n in range(2)]
EACH = 4


class Receiver:
    """A plain HTTP server; of the third request and the sixth it kills the sender before it answers."""

    def __init__(self) -> None:
        self.secret = ""
        self.child: Forked | None = None
        self.seen: list[tuple[str, str, str]] = []
        self.kills = 0
        self.changed = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(lines["content-length"]))
                signature = next(line for line in head.split("\r\n") if line.lower().startswith("webhook-signature"))
                lines["webhook-signature"] = signature.partition(": ")[2]
                event = Webhook(self.secret).verify(body, lines)
                self.seen.append((event["mailbox_id"], event["id"], lines["webhook-id"]))
                if len(self.seen) % 3 == 0 and self.kills < 2 and self.child is not None:
                    self.child.kill()
                    self.kills += 1
                    self.child = None
                self.changed.set()
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def core(database_url: str, tmp_path: Path) -> AsyncIterator[Core]:
    core = await Core.open(settings_of(database_url, str(tmp_path)))
    yield core
    await core.close()


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """On PostgreSQL the same is seen in process: tests/api/test_delivering.py."""
    return sqlite_url


async def test_killed_between_request_and_outcome(core: Core, database_url: str, tmp_path: Path) -> None:
    receiver = Receiver()
    server = await asyncio.start_server(receiver, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await tenants.put(core.db, core.ring, core.log, "acme", "Acme", core.clock(), SYSTEM)
    await Publisher(core.db, core.owner).publish(core.clock())
    _, receiver.secret = await core.webhooks.create(url=f"http://127.0.0.1:{port}/", tenant_id="acme")

    async def work(tx: Transaction) -> None:
        for _ in range(EACH):
            for mailbox_id in MAILBOXES:
                tx.emit("acme", "mailbox.import_finished", at=core.clock(), mailbox_id=mailbox_id)

    await core.db.transact(work)
    child: Forked | None = None
    wanted = dict.fromkeys(MAILBOXES, EACH)
    try:
        while {mailbox_id: len(_ids(receiver, mailbox_id)) for mailbox_id in MAILBOXES} != wanted:
            if receiver.child is None:
                if child is not None:
                    child.wait()
                receiver.child = child = fork("tests.crash.deliver_process", url=database_url, folder=str(tmp_path))
            receiver.changed.clear()
            await receiver.changed.wait()
    finally:
        if child is not None:
            child.kill()
            child.wait()
        server.close()
    assert receiver.kills == 2
    assert len(receiver.seen) > 2 * EACH  # something came twice
    for mailbox_id in MAILBOXES:
        numbers = [int(id_.rpartition(":")[2]) for of, id_, _ in receiver.seen if of == mailbox_id]
        assert numbers == sorted(numbers)
    assert len({ref for _, _, ref in receiver.seen}) == 2 * EACH


def _ids(receiver: Receiver, mailbox_id: str) -> set[str]:
    return {id_ for of, id_, _ in receiver.seen if of == mailbox_id}
