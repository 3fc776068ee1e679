"""Which folders appeared, changed, were renamed or went, from two lists. Pure.

Where the server gives each folder an identity of its own (RFC 8474 §4.2), that tells what a folder is called now. Else
a renamed folder keeps its UIDVALIDITY and its UIDs. Since UIDVALIDITY alone may be equal by chance (servers take it
from the clock), a candidate is only a candidate: the caller compares a few messages before it believes it. Otherwise
a rename is a folder gone and a folder new, and its messages are recognised by content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from connectors.model import Folder, FolderStatus, SpecialUse
from mailgate.clock import DAY, Instant
from mailgate.sync.state import FolderState

WHOLE = frozenset({SpecialUse.ALL, SpecialUse.TRASH, SpecialUse.JUNK})
"""Where every message of a server with labels stands exactly once."""

VIEWS = frozenset({SpecialUse.ALL, SpecialUse.FLAGGED})
"""Folders that show messages of other folders once more: followed only when a rule names them."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which folders are followed: patterns with `*` and `?`, matched without regard to case. No include: all.

    `labelled`: the server's folders are labels (Gmail), and each message stands in one of All Mail, Trash and Spam as
    well. Only those are followed: the others show the same messages once more.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    labelled: bool = False

    def follows(self, folder: Folder) -> bool:
        """Whether the folder's messages are kept in step."""
        if not folder.selectable or _matches(folder.name, self.exclude):
            return False
        if self.labelled:
            return folder.special_use in WHOLE
        if _matches(folder.name, self.include):
            return True
        return not self.include and folder.special_use not in VIEWS


def is_labelled(capabilities: Collection[str], listed: Iterable[Folder]) -> bool:
    """Whether messages stand in All Mail, whatever their labels. People can hide that folder from IMAP: then the
    labels' folders are all that there is.
    """
    return "X-GM-EXT-1" in capabilities and any(f.special_use is SpecialUse.ALL and f.selectable for f in listed)


@dataclass(frozen=True, slots=True)
class Difference:
    """`appeared` and `gone` may hold renames; `changed` by folder id."""

    appeared: Sequence[Folder]
    changed: Mapping[str, Folder]
    gone: Sequence[FolderState]


NAME_LIMIT: Final = 900
"""Characters of a name that can be stored. No mail program makes longer ones; such folders are left out."""

FOLDERS_LIMIT: Final = 10_000
"""Folders of one mailbox; what a server lists beyond is left out, so that one account can't take the others' time."""


def left_out(listed: Sequence[Folder]) -> str | None:
    """What of the server's list is not kept in step, and why; None when nothing is left out."""
    long = sum(len(folder.name) > NAME_LIMIT for folder in listed)
    beyond = max(0, len(listed) - long - FOLDERS_LIMIT)
    said = []
    if long:
        said.append(f"{long} with names of more than {NAME_LIMIT} characters")
    if beyond:
        said.append(f"{beyond} beyond the first {FOLDERS_LIMIT}")
    return f"folders are left out: {', '.join(said)}" if said else None


def storable(listed: Sequence[Folder]) -> list[Folder]:
    """Those that are not left out."""
    return [folder for folder in listed if len(folder.name) <= NAME_LIMIT][:FOLDERS_LIMIT]


def compare(known: Sequence[FolderState], listed: Sequence[Folder], rules: Rules) -> Difference:
    """What differs. A server that lists a folder twice is believed once."""
    by_name = {folder.name: folder for folder in reversed(storable(listed))}
    states = {state.name: state for state in known}
    changed = {
        state.id: by_name[state.name]
        for state in known
        if state.name in by_name and _differs(state, by_name[state.name], rules)
    }
    appeared = [folder for name, folder in by_name.items() if name not in states]
    return Difference(
        sorted(appeared, key=lambda folder: folder.name),
        changed,
        [state for state in known if state.name not in by_name],
    )


def moved(known: Iterable[FolderState], told: Mapping[str, str | None]) -> dict[str, str]:
    """Folder id → what it is called now, of those that have another name: by their own identity (RFC 8474 §4.2).

    `told`: the identity of the folder that has each of these names now, None where there is none. One that is told of
    several names, or of the folder's own as well, tells nothing.
    """
    names: dict[str, list[str]] = {}
    for name, object_id in told.items():
        if object_id is not None:
            names.setdefault(object_id, []).append(name)
    by_identity: dict[str, list[FolderState]] = {}
    for state in known:
        if state.object_id is not None:
            by_identity.setdefault(state.object_id, []).append(state)
    return {
        states[0].id: found[0]
        for object_id, states in by_identity.items()
        if len(states) == 1 and len(found := names.get(object_id, [])) == 1 and found[0] != states[0].name
    }


def by_identity(
    known: Sequence[FolderState],
    listed: Sequence[Folder],
    difference: Difference,
    gone: Sequence[FolderState],
    moved: Mapping[str, str],
) -> tuple[Difference, list[FolderState], dict[str, Folder]]:
    """What differs when these folders are called otherwise now: the rest of the difference, what is gone, and folder id
    → what it is called. Whose name another has now is gone; a name that was left and is listed is a new folder's.
    """
    if not moved:
        return difference, list(gone), {}
    by_name = {folder.name: folder for folder in reversed(listed)}
    renamed = {id_: by_name[name] for id_, name in moved.items()}
    taken = set(moved.values())
    lost = [state for state in known if state.id not in moved and (state.name in taken or state in gone)]
    fresh = {folder.name for folder in difference.appeared} | {state.name for state in known if state.id in moved}
    elsewhere = moved.keys() | {state.id for state in lost}
    return (
        Difference(
            [by_name[name] for name in sorted(fresh - taken) if name in by_name],
            {id_: folder for id_, folder in difference.changed.items() if id_ not in elsewhere},
            difference.gone,
        ),
        lost,
        renamed,
    )


def renames(
    gone: Sequence[FolderState], appeared: Sequence[Folder], statuses: Mapping[str, FolderStatus | None]
) -> dict[str, Folder]:
    """Candidates: folder id → what it may be called now. Only where UIDVALIDITY leaves no choice."""
    old = Counter(state.uidvalidity for state in gone)
    new = Counter(status.uidvalidity for status in statuses.values() if status is not None)
    found: dict[str, Folder] = {}
    for state in gone:
        if state.uidvalidity is None or state.uidnext is None or old[state.uidvalidity] != 1:
            continue
        for folder in appeared:
            status = statuses.get(folder.name)
            if status is None or status.uidvalidity != state.uidvalidity or new[state.uidvalidity] != 1:
                continue
            if status.uidnext is None or status.uidnext >= state.uidnext:
                found[state.id] = folder
    return found


LOST_AFTER: Final[Instant] = DAY
"""So long a folder that can't be read any more may hold back what disappeared from others: it may have been moved
there. After that the disappearances are believed. Nothing is lost by it but identity: what does turn up there again is
downloaded as a new message, unless its copy was kept (pinned or held), which is recognised by content.
"""


def is_lost(folder: FolderState, now: Instant) -> bool:
    """Whether the folder is not waited for before disappearances from other folders are believed: it never could be
    read, or not for long.
    """
    if folder.last_error is None:
        return False
    return folder.uidvalidity is None or (folder.unreadable_at is not None and now - folder.unreadable_at >= LOST_AFTER)


def _differs(state: FolderState, folder: Folder, rules: Rules) -> bool:
    return (state.special_use, state.selectable, state.delimiter, state.followed) != (
        folder.special_use,
        folder.selectable,
        folder.delimiter,
        rules.follows(folder),
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    folded = name.casefold()
    return any(fnmatchcase(folded, pattern.casefold()) for pattern in patterns)
