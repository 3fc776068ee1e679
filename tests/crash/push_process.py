"""A gateway process that brings operations to the server and kills itself at a step: what test_push_crash.py starts.

    python -m tests.crash.push_process JOB     (JSON: url, folder, port, user, password, step, ahead_s)

Steps: `intend:KIND` before the journal, `sent:KIND` after it and before the command, `done:COMMAND` after the command
and before its answer is written, `confirmed:KIND` after that; of a backfill `begun`, `written` (a batch) and `ended`.
No step: it does everything. Prints the steps that it met.
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

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from mailgate.clock import SECOND, system_clock
from mailgate.store.pushes.store import SqlPushStore
from mailgate.store.sync import SqlSyncStore
from mailgate.sync.operations import Operation
from tests.sync.engine import Engine

COMMANDS = (
    "store_flags",
    "move",
    "copy",
    "expunge",
    "append",
    "create_folder",
    "rename_folder",
    "delete_folder",
)
CONFIRMS = ("marked", "copied", "put", "expunged", "folder_made", "folder_renamed", "folder_deleted")

met: list[str] = []
kinds: dict[str, str] = {}


def install(step: str) -> None:
    """Note the steps, and die at the one that is named."""

    def meet(name: str) -> None:
        met.append(name)
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, attribute: str, before: Callable[..., str | None], after: Callable[..., str | None]) -> None:
        wrapped: Callable[..., Awaitable[Any]] = getattr(owner, attribute)

        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if (name := before(*args)) is not None:
                meet(name)
            result = await wrapped(self, *args, **kwargs)
            if attribute == "open":
                kinds.update((asked.operation.id, asked.operation.kind.value) for asked in result)
            if (name := after(*args)) is not None:
                meet(name)
            return result

        setattr(owner, attribute, call)

    def nothing(*_: Any) -> None:
        return None

    def journalled(word: str) -> Callable[..., str]:
        return lambda _owner, entries, *_: f"{word}:{kinds[next(iter(entries))]}"

    def confirmed(_owner: Any, what: Any, *_: Any) -> str:
        operation = what if isinstance(what, Operation) else what[0].operation
        return f"confirmed:{operation.kind.value}"

    around(SqlPushStore, "open", nothing, nothing)
    around(SqlPushStore, "journal", journalled("intend"), journalled("sent"))
    for name in CONFIRMS:
        around(SqlPushStore, name, nothing, confirmed)
    around(SqlPushStore, "brought_back", lambda *_: "intend:rehydrate", confirmed)
    around(SqlSyncStore, "begin_backfill", nothing, lambda *_: "begun:backfill")
    around(SqlSyncStore, "commit", nothing, lambda _owner, batch: "written:backfill" if batch.backfill else None)
    around(SqlSyncStore, "end_backfill", nothing, lambda *_: "ended:backfill")
    for name in COMMANDS:
        around(ImapConnection, name, nothing, lambda *_, name=name: f"done:{name}")


async def run(job: dict[str, Any]) -> None:
    endpoint = Endpoint("127.0.0.1", job["port"], Security.NONE)
    auth = PasswordAuth(job["user"], job["password"])

    async def connect() -> ImapConnection:
        return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=parse_networks(["127.0.0.0/8"]))

    engine = await Engine.open(
        job["url"],
        Path(job["folder"]),
        MemoryAccount(),
        connect=connect,
        clock=lambda: system_clock() + job["ahead_s"] * SECOND,  # type: ignore[arg-type]
    )
    install(job["step"])
    await engine.sync()
    await engine.close(check=False)
    print(json.dumps(met))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(json.loads(sys.argv[1])))
