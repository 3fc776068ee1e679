"""A mailbox is connected by a connect link, in a process of its own that kills itself at a step, as a power cut would.

    python -m tests.crash.connect_process '{"url": …, "folder": …, "secret": …, "kill_at": …}'

`kill_at`: locked, used (both inside the transaction), committed; null: it goes through to the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvloop

from mailgate.app.core import Core
from mailgate.settings import DatabaseSettings, Settings
from mailgate.store.connect_links import ConnectLinks
from mailgate.usecases import connect_links
from mailgate.usecases.accounts import MailboxBody

ACCOUNT = {
    "address": "ann@acme.example",
    "imap": {"host": "imap.acme.example", "port": 993, "username": "ann", "auth": {"password": "hunter2"}},
}


async def main(url: str, folder: str, secret: str, kill_at: str | None) -> None:
    """The use case behind the page, once the check went well."""

    def step(name: str) -> None:
        if name == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    class Killed(ConnectLinks):
        async def use(self, *arguments: Any) -> None:
            step("locked")
            await super().use(*arguments)
            step("used")

    settings = Settings(data_dir=Path(folder), database=DatabaseSettings(url=url))
    core = await Core.open(settings, create=False)
    links = Killed(core.db, core.subscriptions, most_attempts=30)
    link = await links.find(secret)
    assert link is not None
    told = SimpleNamespace(changed=lambda _mailbox_id: step("committed"))
    parts: Any = SimpleNamespace(mailboxes=core.mailboxes, links=links, clock=core.clock, sync=told)
    await connect_links.connect(parts, link, MailboxBody.model_validate(ACCOUNT))
    await core.close()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main(**json.loads(sys.argv[1])))
