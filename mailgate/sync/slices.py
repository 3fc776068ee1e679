"""How many messages of a long import are asked for at a time.

Commands are pipelined, and the server answers them in order: whatever else is to be asked on the line waits until all
that were sent are answered. So an import is asked for in slices of a few seconds, measured as it goes; between two of
them there is room for new mail and for what the CRM wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mailgate.clock import monotonic_s

SLICE_S: Final = 5.0
FIRST: Final = 250
LEAST: Final = 20
GROWTH: Final = 16
"""A slice is at most so many times as large as the last one: the messages before may have been small. Few slices are
small, since between two of them the line is idle while the last messages are kept.
"""


class Slices:
    """Of one session's imports."""

    def __init__(self) -> None:
        self._size = FIRST
        self._began_s = 0.0

    def next(self, uids: Sequence[int]) -> Sequence[int]:
        """The first of them, as many as come in about `SLICE_S`."""
        self._began_s = monotonic_s()
        return uids[: self._size]

    def took(self, count: int) -> None:
        """So many of the last slice came."""
        took_s = max(monotonic_s() - self._began_s, 1e-6)
        self._size = max(LEAST, min(round(count / took_s * SLICE_S), self._size * GROWTH))
