"""Runs pymap, with the one thing that it lacks: a hold on its own sessions.

asyncio keeps only weak references to tasks. pymap's sessions are tasks that nobody else refers to: Python's collector
of cycles now and then ends one in the middle ("Task was destroyed but it is pending!"); the client sees a closed line.

Run by its path: `python …/pymap_server.py ARGUMENTS`, with pymap's own arguments. It imports nothing of the gateway.
"""

from __future__ import annotations

import asyncio
from typing import Any

_running: set[asyncio.Task[Any]] = set()


def _kept(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


def main() -> None:
    from pymap import main as program

    run = program.run

    async def run_kept(*arguments: Any) -> Any:
        asyncio.get_running_loop().set_task_factory(_kept)
        return await run(*arguments)

    program.run = run_kept  # type: ignore[assignment]  # it is called with the same arguments
    program.main()


if __name__ == "__main__":
    main()
