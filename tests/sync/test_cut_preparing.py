"""An import that ends while its messages are being prepared beside: nothing more is kept, no process stays, and what
was written in vain goes as orphans go; what is entitled goes on later as if nothing had been.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from connectors.memory import MemoryAccount
from mailgate.clock import HOUR, SECOND, system_clock
from mailgate.settings import SyncSettings
from mailgate.store import leases, orphans
from mailgate.store.fenced import lease_name
from mailgate.sync import mailbox as mailbox_module
from mailgate.sync.prepare import Prepared
from mailgate.sync.preparing import PreparingProcess
from mailgate.sync.supervisor import Supervisor
from mailgate.sync.workers import Workers
from tests.sync.engine import Engine, mail
from tests.sync.test_supervisor import is_
from tests.waiting import until

COUNT = 400


@pytest.fixture
def account() -> MemoryAccount:
    account = MemoryAccount()
    for n in range(COUNT):
        account.append("INBOX", mail(n, body=f"{n} " * 500), internal_date=system_clock() - HOUR - n)
    return account


def family(pid: int) -> list[int]:
    """A process and its forks."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def running(pid: int) -> bool:
    try:
        return b"mailgate.sync.preparing" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def at_work(supervisor: Supervisor) -> list[int]:
    """Stop the process beside as soon as it is ready, and wait until two pieces are with it; its numbers."""
    workers = supervisor.workers
    asked: list[int] = []
    beside = workers._beside

    def counted(process: PreparingProcess, *given: Any) -> Prepared | None:
        process.wait_until_ready()
        if not asked:
            asked.extend(family(process.pid))
            for pid in asked:
                os.kill(pid, signal.SIGSTOP)
        return beside(process, *given)

    workers._beside = counted  # type: ignore[method-assign]

    async def full() -> bool:
        process = workers.process
        return bool(asked) and process is not None and len(process._free) == 0

    await until(full)
    return asked


@pytest.mark.parametrize("how", ["stopped", "free", "lease lost"])
async def test_an_import_that_ends_while_it_is_prepared(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    engine.clock = system_clock  # type: ignore[assignment]
    engine.settings = SyncSettings(poll_interval_s=1, batch_messages=100)
    monkeypatch.setattr(mailbox_module, "STOP_S", 0.1)
    init = Workers.__init__
    monkeypatch.setattr(Workers, "__init__", lambda self: init(self, processors=2))
    supervisor = engine.supervisor()
    task = asyncio.create_task(supervisor.run())
    pids: list[int] = []
    lease, taken = lease_name(engine.mailbox_id), None
    try:
        pids = await at_work(supervisor)
        if how == "stopped":
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        elif how == "free":
            await engine.plan("free")
            supervisor.wake()
            await until(is_(engine, "not_entitled"))
        else:
            taken = await leases.acquire(engine.db, lease, "another", 600 * SECOND, system_clock() + HOUR)
            assert taken is not None
            supervisor._renewed_s = 0.0  # it looks at once
            supervisor.wake()

            async def let_go() -> bool:
                return not engine.account.connections

            await until(let_go)
        assert engine.account.connections == []
        kept = {row.id for row in await engine.rows("messages")}
        assert len(kept) < COUNT
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        async def gone() -> bool:
            if how != "stopped":
                supervisor.workers._retire()  # as half a minute later
            return not any(map(running, pids))

        await until(gone)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for pid in filter(running, pids):
            os.kill(pid, signal.SIGKILL)
    assert {row.id for row in await engine.rows("messages")} == kept
    assert len(await engine.events("message.created")) == len(kept)
    await orphans.sweep(engine.db, engine.blobs, engine.clock() + HOUR)
    assert set(engine.blobs.list_ids()) == {row.id for row in await engine.rows("blobs")}
    if how == "free":
        await engine.plan("professional")
    if taken is not None:
        await leases.release(engine.db, lease, "another", taken)
    await engine.sync()
    assert kept <= {row.id for row in await engine.rows("messages")}
    assert len(await engine.events("message.created")) == COUNT
    assert await engine.near() == engine.far()
