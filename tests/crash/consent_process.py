"""A process that renews an access token and is killed with kill -9 at a step of it."""

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

from mailgate.app.core import Core
from mailgate.settings import DatabaseSettings, OAuthGenericSettings, Settings
from mailgate.store.consents import Consents
from tests.authserver import settings_of

STEPS = ("claimed", "answered", "written")


def install(step: str) -> None:
    """Kill this process at the step."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def around(attribute: str, *, before: str = "", after: str = "") -> None:
        wrapped: Callable[..., Awaitable[Any]] = getattr(Consents, attribute)

        async def call(*args: Any) -> Any:
            if step == before:
                die()
            result = await wrapped(*args)
            if step == after:
                die()
            return result

        setattr(Consents, attribute, call)

    around("claim", after="claimed")
    around("renewed", before="answered", after="written")


def settings(folder: Path, url: str, port: int) -> Settings:
    return Settings(
        data_dir=folder,
        database=DatabaseSettings(url=url),
        oauth_generic=OAuthGenericSettings(**settings_of(port)),
    )


async def run(job: dict[str, Any]) -> None:
    core = await Core.open(settings(Path(job["folder"]), job["url"], job["port"]))
    install(job["step"])
    await core.tokens.bearer(job["mailbox_id"], "ann@acme.example")
    await core.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(json.loads(sys.argv[1])))
