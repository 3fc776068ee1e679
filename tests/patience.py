"""An event loop for tests about time, over real sockets of their own process: its clock stands still while anything
happens, and jumps to what is due next when nothing does. So limits can be as long as in earnest, and a machine that
stops for a while in the middle of a test lets none of them pass.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

QUIET_S: Final = 0.1
"""Real seconds in which nothing happened. What one end of a line writes is at the other at once, unless the system is
busy.
"""


class PatientLoop(asyncio.SelectorEventLoop):
    """Asked for with `@pytest.mark.patient`. Not for a test whose threads or processes work: their time is real."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        loop: Any = self  # these are asyncio's own, unchanged since 3.7
        if not loop._ready and not loop._stopping:
            due = [handle.when() for handle in loop._scheduled if not handle.cancelled()]
            if due and min(due) > self._now:
                if happened := loop._selector.select(QUIET_S):
                    loop._process_events(happened)
                else:
                    self._now = min(due)
        super()._run_once()  # type: ignore[misc]
