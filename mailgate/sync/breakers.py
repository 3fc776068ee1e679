"""Messages that end the line whenever they are asked for: servers that crash or talk nonsense over one message.

Without this, such a message would be asked for again by each session, first of all, and nothing behind it would ever
come (one broken message never stops a folder). In a folder where that may be so, messages are fetched one by one,
suspects last; whichever ended the line often enough is set aside, with the reason, and can be tried again.

Nothing of this is stored: after a restart it is found out again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from connectors.errors import ConnectorError, ProtocolError

Where: TypeAlias = tuple[str, int]
"""Folder id and UIDVALIDITY."""

STUCK: Final = 2
"""So many lines in a row that ended before anything came, and a message is suspected."""

ENOUGH: Final = 6
"""Points with which a message is set aside. A line that drops may drop for any reason; nonsense is the message's."""

_DROPPED: Final = 1
_NONSENSE: Final = 3

ONE_BY_ONE: Final = 2_000
"""So many messages come one by one before nothing is suspected any more: more are not in flight at once."""


@dataclass(slots=True)
class Breakers:
    """What is suspected in one mailbox, kept from session to session."""

    _stuck: defaultdict[Where, int] = field(default_factory=lambda: defaultdict(int))
    _careful: dict[Where, int] = field(default_factory=dict)
    _points: defaultdict[tuple[Where, int], int] = field(default_factory=lambda: defaultdict(int))
    _reasons: dict[tuple[Where, int], str] = field(default_factory=dict)

    def next(self, where: Where, todo: Sequence[int]) -> list[int]:
        """Which of these to ask for now, in order: all, or one where something is suspected."""
        if where not in self._careful:
            return list(todo)
        return [min(todo, key=lambda uid: self._points.get((where, uid), 0))]

    def given_up(self, where: Where, todo: Sequence[int]) -> dict[int, str]:
        """Which of these are to be set aside, and why."""
        if where not in self._careful:
            return {}
        found = (uid for uid in todo if self._points.get((where, uid), 0) >= ENOUGH)
        return {
            uid: f"asking for it ended the connection again and again: {self._reasons[where, uid]}" for uid in found
        }

    def came(self, where: Where) -> None:
        """What was asked for came."""
        self._stuck.pop(where, None)
        if where in self._careful:
            self._careful[where] -= 1
            if not self._careful[where]:
                del self._careful[where]

    def ended(self, where: Where, asked: Sequence[int], waiting: int, error: ConnectorError) -> None:
        """The line ended while `waiting` of these were still to come."""
        nonsense = isinstance(error, ProtocolError)
        if len(asked) == 1 and where in self._careful:
            self._points[where, asked[0]] += _NONSENSE if nonsense else _DROPPED
            self._reasons[where, asked[0]] = str(error)
            return
        self._stuck[where] = self._stuck[where] + 1 if waiting == len(asked) else 0
        if nonsense or self._stuck[where] >= STUCK:
            self._careful[where] = ONE_BY_ONE
