"""`mailgate serve` by a clock that the test owns: what the week starts, and kills.

python -m tests.crm.gateway_process JOB     (JSON: settings, token, clock)

`clock` is a file of eight bytes: how many microseconds the gateway's time is ahead of the machine's.
"""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path

import uvloop

from mailgate import logs
from mailgate.app.core import Secrets
from mailgate.app.serve import serve
from mailgate.clock import Clock, system_clock
from mailgate.settings import Settings


def clock_of(path: Path) -> Clock:
    """The machine's time and what the file says. A process that wrote it is seen at once."""
    with path.open("rb") as file:
        shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    return lambda: system_clock() + int.from_bytes(shared[:8], "little", signed=True)


def main() -> None:
    job = json.loads(sys.argv[1])
    settings = Settings.model_validate(job["settings"])
    logs.configure(settings.log)
    uvloop.run(serve(settings, Secrets(admin_token=job["token"]), clock=clock_of(Path(job["clock"]))))


if __name__ == "__main__":
    main()
