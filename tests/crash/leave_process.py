"""Keys are rotated, and a tenant is erased, in a process of its own that kills itself at a step, as a power cut would.

    python -m tests.crash.leave_process '{"url": …, "folder": …, "now": …, "kill_at": …}'

`kill_at`: the name of the step boundary; null: it goes through to the end, and prints what it did.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from mailgate.actors import SYSTEM
from mailgate.blobs import BlobStore
from mailgate.jobs.erase import EraseWorker
from mailgate.keys import KeyRing
from mailgate.store import leftovers
from mailgate.store.database import Database
from mailgate.store.erasures import Erasures
from mailgate.store.key_epochs import KeyRotation
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.tenant_erasure import TenantErasures
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.timeline import SubscriptionRules

PLANS = Path(__file__).parents[2] / "config" / "plans.toml"


async def main(url: str, folder: str, now: int, kill_at: str | None) -> None:
    """Everything that is to be done, or as much as there is time for."""

    def step(name: str) -> None:
        if name == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def clock() -> int:
        return now

    owner = str(os.getpid())
    db = Database(url)
    ring = KeyRing.open(f"file://{folder}/keys", create=False)
    blobs = BlobStore.open(f"file://{folder}/blobs")
    log = PurgeLog(origin="mail.example", policy=LogPolicy(1, {"days": 30}), version="1", commit="test")
    subscriptions = Subscriptions(db, log, parse_catalogue(PLANS.read_bytes()), SubscriptionRules())
    rotated = await KeyRotation(db, ring, log, clock, owner, keep=0, batch=2, step=step).rotate(SYSTEM)
    erasures = TenantErasures(db, ring, log, subscriptions, clock, owner, batch=2, step=step)
    await erasures.work()
    await EraseWorker(Erasures(db, log), blobs, clock, owner).work()
    await leftovers.sweep(db)
    told: dict[str, Any] = {"destroyed": len(rotated.destroyed), "erased": await erasures.work()}
    print(json.dumps(told), flush=True)
    await db.close()
    blobs.close()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main(**json.loads(sys.argv[1])))
