"""Folders of an account in which the server ends the line over a search, kept from one line to the next. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

ENOUGH: Final = 2
"""So many lines in a row that ended at a search of the same folder; a line may drop for any other reason once."""


class Searches:
    """What became of searches; folders by name."""

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()

    def are_futile(self, name: str) -> bool:
        """Whether the next one is better not asked: a server that hangs up serves nothing else, either."""
        return self._ended[name] >= ENOUGH

    def ended_the_line(self, name: str) -> None:
        """The line was closed, or silent until we gave up, instead of an answer."""
        self._ended[name] += 1

    def came(self, name: str) -> None:
        """There was an answer, a refusal included."""
        self._ended.pop(name, None)
