"""A gateway process that stops itself (SIGSTOP) just before it makes sure that the mailbox is its own: what
test_stalled_owner.py starts.

    python -m tests.crash.stalled_process JOB      (JSON: url, folder, port, user, password)

Made to go on, it prints as JSON how its pass ended, and whether it still had a connection.
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

from connectors.errors import ConnectorError
from connectors.memory import MemoryAccount
from connectors.port import Connect
from mailgate.clock import system_clock
from mailgate.errors import MailgateError
from mailgate.settings import SyncSettings
from mailgate.sync.context import Context
from tests.sync.engine import Engine

LEASE_S = 5


async def run(job: dict[str, Any], connect: Connect) -> None:
    engine = await Engine.open(
        job["url"],
        Path(job["folder"]),
        MemoryAccount(),
        settings=SyncSettings(lease_s=LEASE_S),
        connect=connect,
        clock=system_clock,  # type: ignore[arg-type]
    )
    engine.process = "stalled"
    real = Context.own_for

    async def stalling(self: Context, seconds: float) -> None:
        print("stops", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        await real(self, seconds)

    Context.own_for = stalling  # type: ignore[method-assign]
    outcome = "it went on"
    try:
        await engine.sync()
    except MailgateError as error:
        outcome = error.slug
    except ConnectorError as error:
        outcome = str(error)
    print(json.dumps(outcome), flush=True)
    await engine.close(check=False)


if __name__ == "__main__":
    from tests.crash.test_stalled_owner import connector

    told = json.loads(sys.argv[1])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(told, connector(told["port"], told["user"], told["password"])))
