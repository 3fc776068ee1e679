"""The rotation of keys, the erasure of a tenant, or a restore, in a process that kills itself at a step boundary.

    python -m tests.crash.upkeep_process '{"what": …, "url": …, "folder": …, "now": …, "kill_after": {name: times}}'

`kill_after`: how often a boundary of each name was the end already; at the first one that it was fewer than twice, this
process says its name and ends as by a power cut.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from mailgate.actors import Actor
from mailgate.blobs import BlobStore
from mailgate.clock import DAY
from mailgate.keys import KeyRing
from mailgate.store.database import Database
from mailgate.store.key_epochs import KeyRotation
from mailgate.store.log import LogPolicy, PurgeLog
from mailgate.store.log_reading import LogReader
from mailgate.store.mailboxes import Mailboxes
from mailgate.store.restore import Restore
from mailgate.store.subscriptions import Subscriptions
from mailgate.store.tenant_erasure import TenantErasures
from mailgate.store.witness import Witness
from mailgate.tenants.catalogue import parse_catalogue
from mailgate.tenants.timeline import SubscriptionRules
from tests.store.purge_process import PLANS

ADMIN = Actor("token", "T1")
OWNER = "test"
KILLS = 2
"""How often a boundary of one name is the end: the second time in the middle of a walk, where there is one."""


def _killer(killed: dict[str, int]) -> Callable[[str], None]:
    def step(name: str) -> None:
        if killed.get(name, 0) < KILLS:
            print(name, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    return step


async def main(wanted: dict[str, Any]) -> None:
    """The work, to its end or its kill."""
    folder, now = Path(wanted["folder"]), wanted["now"]

    def clock() -> int:
        return int(now)

    db = Database(wanted["url"])
    ring = KeyRing.open(f"file://{folder}/keys", create=False)
    log = PurgeLog(origin="mail.example", policy=LogPolicy(1, {"days": 30}), version="1", commit="test")
    subscriptions = Subscriptions(db, log, parse_catalogue(PLANS.read_bytes()), SubscriptionRules())
    step = _killer(wanted["kill_after"])
    if wanted["what"] == "rotation":
        rotation = KeyRotation(db, ring, log, clock, OWNER, keep=35 * DAY, batch=1, step=step)
        await rotation.rotate(ADMIN, at_once=True)
    elif wanted["what"] == "erasure":
        await TenantErasures(db, ring, log, subscriptions, clock, OWNER, batch=1, step=step).work()
    else:
        witness = Witness(folder / "witness")
        reader = LogReader(db, origin="mail.example", seed=ring.ledger_seed, witness=witness, owner=OWNER)
        erasures = TenantErasures(db, ring, log, subscriptions, clock, OWNER)
        mailboxes = Mailboxes(db, ring, subscriptions)
        blobs = BlobStore.open(f"file://{folder}/blobs")
        restore = Restore(
            db, blobs, reader, witness, subscriptions, mailboxes, erasures, log, clock, batch=2, step=step
        )
        await restore.run(ADMIN)
        blobs.close()
    await db.close()
    print("done", flush=True)


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
