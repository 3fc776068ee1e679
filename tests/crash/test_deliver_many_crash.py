"""Thousands of events wait for a webhook on PostgreSQL, and the process that delivers is killed with kill -9 again and
again: every event comes, each mailbox's in order, though one mailbox's are refused meanwhile.

Five hundred in `make test`, the ten thousand in `make soak`.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import update
from standardwebhooks.webhooks import Webhook

from mailgate.actors import SYSTEM
from mailgate.app.core import Core
from mailgate.store import tenants
from mailgate.store.feed import Publisher
from mailgate.store.hooks.journal import LEASE
from mailgate.store.schema import leases
from mailgate.store.transaction import Transaction
from tests.crash.deliver_process import settings_of
from tests.forks import Forked, fork

pytestmark = [pytest.mark.crash, pytest.mark.postgresql, pytest.mark.timeout(300)]

MAILBOXES = [f"01KSKBP800DNN0GF2D5XF3BN{n:02}" for n in range(20)]
KILLS = 4


class Receiver(asyncio.Protocol):
    """One connection to the receiver, which keeps what came in `Received`."""

    def __init__(self, all_: Received) -> None:
        self._all = all_
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:]]
            headers = {name.lower(): value for name, _, value in lines}
            length = int(headers["content-length"])
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            status = self._all.take(headers, rest[:length])
            self._transport.write(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n".encode())


class Received:
    """What came, by mailbox and in order; at some of it the sender is killed before it has an answer."""

    def __init__(self, count: int) -> None:
        self.secret = ""
        self.child: Forked | None = None
        self.requests = 0
        self.kills_at = [count * (n + 1) // (KILLS + 1) for n in range(KILLS)]
        self.refused = 0
        self.taken: defaultdict[str, list[int]] = defaultdict(list)
        self.ids: set[str] = set()
        self.changed = asyncio.Event()

    def take(self, headers: dict[str, str], body: bytes) -> int:
        Webhook(self.secret).verify(body, headers)
        event = json.loads(body)
        self.requests += 1
        if self.kills_at and self.requests >= self.kills_at[0] and self.child is not None:
            self.kills_at.pop(0)
            self.child.kill()
            self.child = None
        self.changed.set()
        if event["mailbox_id"] == MAILBOXES[0] and not self.refused:
            self.refused += 1
            return 503
        self.taken[event["mailbox_id"]].append(int(event["id"].rpartition(":")[2]))
        self.ids.add(headers["webhook-id"])
        return 204


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])])
async def test_killed_again_and_again_with_much_that_waits(count: int, postgresql_url: str, tmp_path: Path) -> None:
    core = await Core.open(settings_of(postgresql_url, str(tmp_path)))
    got = Received(count)
    server = await asyncio.get_running_loop().create_server(lambda: Receiver(got), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    await tenants.put(core.db, core.ring, core.log, "acme", "Acme", core.clock(), SYSTEM)
    await Publisher(core.db, core.owner).publish(core.clock())
    _, got.secret = await core.webhooks.create(url=url, tenant_id="acme")

    async def happen(tx: Transaction) -> None:
        for n in range(count):
            mailbox_id = MAILBOXES[n % len(MAILBOXES)]
            tx.emit("acme", "mailbox.import_finished", at=core.clock(), mailbox_id=mailbox_id)

    await core.db.transact(happen)
    publisher = Publisher(core.db, core.owner)
    while await publisher.publish(core.clock()):
        pass
    child: Forked | None = None
    ended: asyncio.Task[tuple[str, str]] | None = None
    try:
        while len(got.ids) < count:
            if got.child is None:
                if ended is not None:
                    await ended
                await _let_lapse(core)
                got.child = child = fork("tests.crash.deliver_process", url=postgresql_url, folder=str(tmp_path))
                ended = asyncio.create_task(asyncio.to_thread(child.communicate))  # its log would fill the pipe
                ended.add_done_callback(lambda _: got.changed.set())
            got.changed.clear()
            await got.changed.wait()
            assert got.child is None or not ended.done(), ended.result()
    finally:
        if child is not None and ended is not None:
            got.child = None
            child.kill()
            await ended
        server.close()
    assert not got.kills_at
    assert got.refused == 1
    assert len(got.ids) == count
    for numbers in got.taken.values():
        assert numbers == sorted(numbers)
        assert len(set(numbers)) == count // len(MAILBOXES)
    await core.close()


async def _let_lapse(core: Core) -> None:
    """The lease of a process that is dead, without the half minute until it lapses."""

    async def work(tx: Transaction) -> None:
        await tx.conn.execute(update(leases).where(leases.c.name == LEASE).values(expires_at=0))

    await core.db.transact(work)
