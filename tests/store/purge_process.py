"""A purge in a process of its own, which a test can stop, resume or kill at any step boundary.

    python -m tests.store.purge_process '{"url": …, "folder": …, "now": …, "batch": …, "pause_at": …, "kill_at": …}'

`pause_at`: at the first boundary of this name it prints `paused` and waits for a line. `kill_at`: at the so-manieth
boundary it kills itself, as a power cut would. Ends by printing the run's counts as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from mailgate.actors import COMMAND
from mailgate.blobs import BlobStore
from mailgate.jobs.erase import EraseWorker
from mailgate.store.database import Database
from mailgate.store.erasures import Erasures
from mailgate.store.expiry import Expiry
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.retention import RetentionService
from mailgate.store.subscriptions import Subscriptions
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.timeline import SubscriptionRules
from retention.engine import Step
from retention.model import Graces
from retention.policy import Policy
from tests.forks import Forked, fork

ROOT = Path(__file__).parents[2]
PLANS = ROOT / "config" / "plans.toml"
POLICY = Policy(1, "ab" * 32)


@dataclass
class Process:
    """What a process of the gateway has, as far as a purge needs it; wired like the tests' store."""

    db: Database
    blobs: BlobStore
    log: PurgeLog
    service: RetentionService
    eraser: EraseWorker


def open_process(url: str, folder: Path, now: int, *, batch: int, step: Step, owner: str) -> Process:
    """Open what is at `url` and in `folder` (its blobs)."""
    db = Database(url)
    blobs = BlobStore.open(f"file://{folder}/blobs")
    log = PurgeLog(origin="mail.example", policy=LogPolicy(1, {"days": 30}), version="1", commit="test")
    subscriptions = Subscriptions(db, log, parse_catalogue(PLANS.read_bytes()), SubscriptionRules())
    service = RetentionService(
        db, log, subscriptions, Expiry(subscriptions, Graces()), POLICY, lambda: now, owner, batch=batch, step=step
    )
    return Process(db, blobs, log, service, EraseWorker(Erasures(db, log), blobs, lambda: now, owner))


class Steps:
    """Counts step boundaries, and pauses or dies at the wanted one."""

    def __init__(self, pause_at: str | None, kill_at: int | None) -> None:
        self._pause_at, self._kill_at = pause_at, kill_at
        self.count = 0

    def __call__(self, name: str) -> None:
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == self._pause_at:
            self._pause_at = None
            print("paused", flush=True)
            sys.stdin.readline()


async def main(wanted: dict[str, Any]) -> None:
    """One run, then the erasing that follows from it."""
    steps = Steps(wanted.get("pause_at"), wanted.get("kill_at"))
    process = open_process(
        wanted["url"],
        Path(wanted["folder"]),
        wanted["now"],
        batch=wanted["batch"],
        step=steps,
        owner=f"process {os.getpid()}",
    )
    print("ready", flush=True)
    run = await process.service.run(actor=COMMAND, tenant_id=wanted.get("tenant_id"))
    if wanted.get("erase"):
        await process.eraser.work()
    await process.db.close()
    print(json.dumps({"counts": dict(run.counts), "steps": steps.count}), flush=True)


class Child:
    """The process as the test sees it."""

    def __init__(self, process: Forked) -> None:
        self.process = process

    @classmethod
    async def start(cls, **wanted: Any) -> Child:
        """Start it; it is at work when this returns."""
        child = cls(fork("tests.store.purge_process", **wanted))
        assert await child.line() == "ready"
        return child

    async def line(self) -> str:
        """Its next line; empty when it is gone."""
        return (await asyncio.to_thread(self.process.stdout.readline)).strip()

    async def go_on(self) -> None:
        """Let it go on from a pause."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    async def result(self) -> dict[str, Any]:
        """What it printed last."""
        found: dict[str, Any] = json.loads(await self.line())
        assert await asyncio.to_thread(self.process.wait, 200) == 0
        return found

    async def end(self) -> int:
        """Kill it if it still runs; its exit code."""
        if self.process.returncode is None:
            self.process.kill()
        return await asyncio.to_thread(self.process.wait, 200)


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
