"""An eraser in a process of its own that kills itself before the so-manieth call by which it changes the disk.

    python -m tests.crash.erase_process '{"url": …, "folder": …, "now": …, "kill_at": …, "holes": …}'

`kill_at` 0: it only counts them. Ends by printing how many there were.
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

from mailgate.blobs import packs
from tests.store.purge_process import open_process


class Calls:
    """Counts calls, and dies before the wanted one."""

    def __init__(self, kill_at: int) -> None:
        self._kill_at = kill_at
        self.count = 0

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, counted."""

        def counting(*given: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)

        return counting


async def main(wanted: dict[str, Any]) -> None:
    """Work the queue off once."""
    calls = Calls(wanted["kill_at"])
    packs._punch = calls.counted(packs._punch if wanted["holes"] else packs._no_punch)
    os.pwrite = calls.counted(os.pwrite)
    os.unlink = calls.counted(os.unlink)
    process = open_process(
        wanted["url"], Path(wanted["folder"]), wanted["now"], batch=2, step=lambda _: None, owner=f"{os.getpid()}"
    )
    assert process.blobs._disk is not None
    process.blobs._disk.settle = calls.counted(process.blobs._disk.settle)  # type: ignore[method-assign]
    await process.eraser.work()
    await process.db.close()
    print(calls.count, flush=True)


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
