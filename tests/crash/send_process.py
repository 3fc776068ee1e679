"""A process that sends what is queued and kills itself at a step: what test_send_crash.py starts.

    python -m tests.crash.send_process JOB     (JSON: url, folder, step)

Steps: `claimed`, `offered` before the journal, `journalled` after it and before DATA, `ended` when the last byte was
written and the answer was not read, `answered` when it was and nothing is written of it yet, `written` after that. No
step: it sends everything.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from connectors.smtp.session import SmtpSession
from mailgate.app.core import Core
from mailgate.jobs.send import Sender
from mailgate.metrics import Metrics
from mailgate.settings import DatabaseSettings, Settings
from mailgate.store.sending.queue import SendQueue
from tests.api.sending import connect

STEPS = ("claimed", "offered", "journalled", "ended", "answered", "written")


def install(step: str) -> None:
    """Die at the step that is named."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, attribute: str, *, before: str | None = None, after: str | None = None) -> None:
        wrapped: Callable[..., Awaitable[Any]] = getattr(owner, attribute)

        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if before == step:
                die()
            result = await wrapped(self, *args, **kwargs)
            if after == step:
                die()
            return result

        setattr(owner, attribute, call)

    around(SendQueue, "claim", after="claimed")
    around(SendQueue, "journal", before="offered", after="journalled")
    around(SmtpSession, "_answer", before="ended", after="answered")
    around(SendQueue, "finish", after="written")


async def run(job: dict[str, Any]) -> None:
    settings = Settings(data_dir=Path(job["folder"]), database=DatabaseSettings(url=job["url"]))
    core = await Core.open(settings)
    sender = Sender(core.send_queue, core.blobs, connect, core.mailboxes.secrets, core.clock, core.owner, Metrics())
    install(job["step"])
    await sender.work()
    await sender.idle()
    await sender.stop()
    await core.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(json.loads(sys.argv[1])))
