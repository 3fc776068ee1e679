"""Folders that can't be read, and when each is tried again. Pure.

To try at each pass would cost two commands of each such folder for ever; a folder over which the server ends the line
would be met by each line, and nothing behind it would ever come. So attempts are made ever more seldom, at least once
an hour, at once when somebody asks for a pass, and when the folder is listed otherwise than it was.

Nothing of this is stored: after a restart each is tried at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from mailgate.clock import MINUTE, SECOND, Instant
from mailgate.sync.state import FolderState

LONGEST: Final[Instant] = 55 * MINUTE
"""And one poll interval more, until the next pass."""

ENOUGH: Final = 12
"""So many lines in a row that ended over a folder, and brought nothing of it, are no chance. More than it takes to find
a message that ends the line (`mailgate.sync.breakers`).
"""


@dataclass(frozen=True, slots=True)
class _Rest:
    """After `times` failures in a row, the last of them at `at`; `seen`: how the folder was listed then."""

    times: int
    at: Instant
    until: Instant
    seen: object


@dataclass(slots=True)
class Rests:
    """What is known of one mailbox's folders, kept from session to session."""

    interval_s: int = 300
    _rests: dict[str, _Rest] = field(default_factory=dict)
    _lines: Counter[str] = field(default_factory=Counter)
    _served: bool = False  # a folder was read since a line ended over another

    def resting(self, folder: FolderState, now: Instant) -> bool:
        """Whether the folder is not to be tried yet."""
        rest = self._rests.get(folder.id)
        return rest is not None and rest.seen == _seen(folder) and rest.at <= now < rest.until

    def failed(self, folder: FolderState, now: Instant) -> Instant | None:
        """It could not be read: until when it rests; None where the next pass tries it again."""
        before = self._rests.get(folder.id)
        times = 1 if before is None else min(before.times + self._counts(before, now), 30)
        pause = min(LONGEST, self.interval_s * SECOND * ((1 << (times - 1)) - 1))
        self._rests[folder.id] = _Rest(times, now, now + pause, _seen(folder))
        return now + pause if pause else None

    def _counts(self, before: _Rest, now: Instant) -> bool:
        """Whether it is another failure: a pass that follows an import at once finds the same one."""
        return not 0 <= now - before.at < self.interval_s * SECOND // 2

    def ended_the_line(self, folder: FolderState, now: Instant) -> Instant | None:
        """The line ended over it, and nothing of it had come: until when it rests, once that was so often enough."""
        lines = self._lines[folder.id]
        # A server that serves nothing at all is away, whichever folder that is noticed at: each may be tried soon.
        self._lines[folder.id] = lines = lines + 1 if lines < ENOUGH or self._served else lines
        self._served = False
        if lines < ENOUGH:
            return None
        until = now + min(LONGEST, self.interval_s * SECOND << min(lines - ENOUGH, 30))
        self._rests[folder.id] = _Rest(1, now, until, _seen(folder))
        return until

    def ended_lines(self, folder_id: str) -> bool:
        """Whether the last line, or more, ended over it."""
        return folder_id in self._lines

    def came(self, folder_id: str) -> None:
        """It was read, or something of it was."""
        self._rests.pop(folder_id, None)
        self._lines.pop(folder_id, None)
        self._served = True

    def wake(self) -> None:
        """Somebody asks: all are tried now."""
        self._rests = {id_: _Rest(rest.times, rest.at, rest.at, rest.seen) for id_, rest in self._rests.items()}


def _seen(folder: FolderState) -> object:
    return folder.name, folder.special_use, folder.selectable, folder.followed, folder.delimiter
