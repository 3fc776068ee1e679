"""A gateway process that imports one mailbox and kills itself at a step: what test_import_crash.py starts.

    python -m tests.crash.import_process JOB      (JSON: url, folder, port, user, password, step, nth)

Steps, in the order in which a batch meets them: `list` the folders, `fetch` a body, `put` a blob into its batch,
`store` the file of several, `settle` a batch, `write` inside its transaction, `commit` before it is committed,
`committed` after, `check` at the end. No step: it imports to the end, and prints how often it met each.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from connectors.imap.connection import ImapConnection, connect_imap
from connectors.imap.source import ImapSource
from connectors.memory import MemoryAccount
from connectors.model import Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from mailgate.blobs.batch import PackedBlobs
from mailgate.blobs.disk import LocalDisk
from mailgate.blobs.store import BlobStore
from mailgate.clock import system_clock
from mailgate.settings import SyncSettings
from mailgate.store import messages
from mailgate.store.sync import SqlSyncStore
from mailgate.store.transaction import Transaction
from mailgate.sync.arriving import MemorySink
from tests.sync.engine import Engine

STEPS = ("list", "fetch", "put", "store", "settle", "write", "commit", "committed", "check")

met: collections.Counter[str] = collections.Counter()


def install(step: str, nth: int) -> None:
    """Count steps, and die at the nth of the one named."""

    def count(name: str) -> None:
        met[name] += 1
        if name == step and met[name] == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(owner: Any, attribute: str, name: str) -> None:
        wrapped: Callable[..., Any] = getattr(owner, attribute)

        def call(*args: Any, **kwargs: Any) -> Any:
            count(name)
            return wrapped(*args, **kwargs)

        setattr(owner, attribute, call)

    before(ImapSource, "list_folders", "list")
    before(MemorySink, "write", "fetch")
    before(PackedBlobs, "put", "put")
    before(LocalDisk, "write", "store")
    before(BlobStore, "settle", "settle")
    before(messages, "add", "write")
    before(Transaction, "flush", "commit")
    before(Transaction, "committed", "committed")
    before(SqlSyncStore, "checked", "check")


async def run(job: dict[str, Any]) -> None:
    endpoint = Endpoint("127.0.0.1", job["port"], Security.NONE)
    auth = PasswordAuth(job["user"], job["password"])

    async def connect() -> ImapConnection:
        return await connect_imap(endpoint, auth, ssl_context=None, allow_networks=parse_networks(["127.0.0.0/8"]))

    engine = await Engine.open(
        job["url"],
        Path(job["folder"]),
        MemoryAccount(),
        settings=SyncSettings(batch_messages=4),
        connect=connect,
        clock=system_clock,  # type: ignore[arg-type]
    )
    install(job["step"], job["nth"])
    print("ready", flush=True)
    await engine.sync()
    await engine.close(check=False)
    print(json.dumps(met))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(json.loads(sys.argv[1])))
