"""A fault that comes back with every attempt, as a full disk or a database that is away does: it is said once, and once
more when it changes or is over; the attempts are made ever farther apart, up to a bound.
"""

from __future__ import annotations

import random
from typing import Final

LONGEST_PAUSE_S: Final = 30.0
"""Within this time, what stopped for a fault goes on once it is over."""
_FIRST_PAUSE_S: Final = 1.0


class Trouble:
    """What is wrong with one thing that is tried again and again."""

    def __init__(self) -> None:
        self.times = 0
        """How often in a row it failed."""
        self._said: str | None = None

    def met(self, what: str) -> bool:
        """It failed, for this reason. Whether that is to be said: it is another one than was said last."""
        self.times += 1
        news, self._said = what != self._said, what
        return news

    def over(self) -> int:
        """It works: how often it had failed."""
        times, self.times, self._said = self.times, 0, None
        return times

    @property
    def pause_s(self) -> float:
        """How long to wait before it is tried again: twice as long with each failure, with jitter; 0: all is well."""
        if not self.times:
            return 0.0
        grown_s = _FIRST_PAUSE_S * 2.0 ** min(self.times - 1, 30)
        return min(LONGEST_PAUSE_S, grown_s) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
