"""A process that delivers webhooks until it is killed: what test_deliver_crash.py starts.

python -m tests.crash.deliver_process JOB     (JSON: url, folder)
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import uvloop

from mailgate.app.core import Core
from mailgate.app.outside import deliverer_of
from mailgate.metrics import Metrics
from mailgate.settings import DatabaseSettings, NetSettings, Settings, WebhooksSettings
from mailgate.store.feed import Publisher
from mailgate.webhooks.calling import Caller


def settings_of(url: str, folder: str) -> Settings:
    return Settings(
        data_dir=Path(folder) / "data",
        database=DatabaseSettings(url=url),
        net=NetSettings(allow="127.0.0.0/8"),
        webhooks=WebhooksSettings(allow_http=True),
    )


async def main(job: dict[str, Any]) -> None:
    core = await Core.open(settings_of(job["url"], job["folder"]))
    await Publisher(core.db, core.owner).publish(core.clock())
    caller = Caller(ssl.create_default_context(), allow=core.settings.net.allow)
    deliverer = deliverer_of(core, caller, Metrics())
    deliverer.start()
    await asyncio.Event().wait()  # until it is killed


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(json.loads(sys.argv[1])))
