"""Refusing the improbable: a folder that is suddenly empty, or mostly gone, is more likely a fault than a wish. Pure.

Judged is what is about to be believed of a whole mailbox at once. Refused are

* a folder of which more than `max(FEW, SHARE_PERCENT %)` would go, emptied and deleted folders among them;
* the folders with something gone, when so much of the whole mailbox would go: a server that shows an empty account
  empties many small folders.

What was believed within the last hour counts with it, so a fault that takes a folder away in slices is noticed too:
the share is that of what stood when the hour began.

A refused folder keeps all its copies and its disappearances stay pending; everything else of the mailbox goes on. The
refusal becomes a *guard*: a row with an id, bound to the folder and to the digest of exactly what is gone. A person
approves it, and then just that is carried out. If the messages turn up again the guard falls away by itself.

Trash, Junk and Drafts are emptied all the time, by people and by servers: they have no guard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from connectors.model import SpecialUse
from mailgate.clock import HOUR, MINUTE, Instant

FEW: Final = 50
"""So many disappearances within `WINDOW` are always believed."""
SHARE_PERCENT: Final = 30
"""Above `FEW`, so much of a folder, or of a mailbox."""
WINDOW: Final[Instant] = HOUR

UNGUARDED: Final = frozenset({SpecialUse.TRASH, SpecialUse.JUNK, SpecialUse.DRAFTS})

_SLICE: Final[Instant] = MINUTE

Believed: TypeAlias = Sequence[Sequence[int]]
"""What was believed of a folder, by slices of time, ascending: (since when, how many)."""


class Outcome(StrEnum):
    """How a guard was closed: approved and done; no longer improbable; or other messages are gone by now."""

    CARRIED_OUT = "carried_out"
    RESTORED = "restored"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Disappearance:
    """What is about to be believed of one folder: `gone` of the `known` copies that stand in it or stood there until
    now, and `recent` that were believed within `WINDOW` before. `listed`: the server still lists the folder.
    """

    folder_id: str
    folder: str
    special_use: SpecialUse | None
    known: int
    gone: int
    recent: int = 0
    listed: bool = True

    @property
    def total(self) -> int:
        """What would be gone within the window."""
        return self.gone + self.recent

    @property
    def stood(self) -> int:
        """What stood there when the window began."""
        return self.known + self.recent

    @property
    def guarded(self) -> bool:
        """Whether the folder has a guard at all."""
        return self.special_use not in UNGUARDED


def judge(disappearances: Iterable[Disappearance], standing: frozenset[str] = frozenset()) -> dict[str, str]:
    """The refused folders of one mailbox, by id, with the reason that a person reads. All its folders are to be given,
    also those of which nothing is gone.

    `standing`: ids of folders whose guard stands already. What is refused for its own sake, or was before, is no
    evidence against another folder: everything else goes on.
    """
    guarded = [item for item in disappearances if item.guarded]
    refused = {
        item.folder_id: f"{_of_folder(item)}; {_ADVICE}"
        for item in guarded
        if item.gone and improbable(item.total, item.stood)
    }
    rest = [item for item in guarded if item.folder_id not in refused]
    for item in rest:
        others = rest if item.folder_id in standing else [other for other in rest if other.folder_id not in standing]
        total, stood = sum(other.total for other in others), sum(other.stood for other in others)
        if item.gone and improbable(total, stood):
            refused[item.folder_id] = (
                f"{total} of {stood} messages are gone from the folders of the mailbox at the server, "
                f"{item.gone} of them from the folder {item.folder!r}; {_ADVICE}"
            )
    return refused


def improbable(total: int, stood: int) -> bool:
    """Whether so many of so many are refused."""
    return total > max(FEW, stood * SHARE_PERCENT // 100)


_ADVICE: Final = (
    "their copies are kept. If they were deleted on purpose, approve it; if not, restore them at the server"
)


def _of_folder(item: Disappearance) -> str:
    if not item.listed:
        return f"the folder {item.folder!r} is no more at the server, where {item.stood} messages stood"
    if item.gone >= item.known:
        return f"the folder {item.folder!r} is empty at the server, where {item.stood} messages stood"
    within = " within an hour" if item.recent else ""
    return f"{item.total} of {item.stood} messages are gone from the folder {item.folder!r} at the server{within}"


def digest(addresses: Iterable[tuple[int, int]]) -> bytes:
    """SHA-256 of what is gone: the lines `<UIDVALIDITY>:<UID>\\n`, ascending by number, each once. The order in which
    they are given does not matter.
    """
    lines = (f"{uidvalidity}:{uid}\n".encode() for uidvalidity, uid in sorted(set(addresses)))
    found = hashlib.sha256()
    for line in lines:
        found.update(line)
    return found.digest()


def recent(believed: Believed, now: Instant) -> int:
    """How many were believed within `WINDOW` before `now`."""
    return sum(count for at, count in believed if now - at < WINDOW)


def remember(believed: Believed, now: Instant, count: int) -> list[list[int]]:
    """With `count` more, believed now; what is older than `WINDOW` is left out, and a minute's slices are one, so that
    it stays small.
    """
    kept = [[at, many] for at, many in believed if now - at < WINDOW]
    if kept and 0 <= now - kept[-1][0] < _SLICE:
        kept[-1][1] += count
    else:
        kept.append([now, count])
    return kept
