"""What messages that are new at an address turn out to be: copies that wait to be recognised, or purged ones. Pure.

Where the server says which messages are one (X-GM-MSGID), that decides among those with equal headers: the same
identity is the same message, wherever else it stands; another identity is another message (S9). Elsewhere, and for what
was purged or copied before the server said so, likeness decides (`mailgate.sync.identity`).

What is equal to a copy that is believed to stand in another folder may have been moved here since that folder was
looked at: it is a suspect until somebody looked there again.

Where somebody else's doings make the server's answers contradict each other, nothing can be said of what has gone from
a folder (S8). But a list of its UIDs that lacks one, and was made after an equal message was met, tells that it stands
there no more: it is the one that was met. Nothing is deleted by that; where it was believed to stand is counted anew.

A move in two halves marks the original when its copy stands already. What is met with that mark and equals it in all is
the original: somebody moved it away under the command.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from mailgate.clock import Instant
from mailgate.sync.identity import Candidate, Likeness, pair
from mailgate.sync.incoming import Known
from mailgate.sync.uids import among
from mailgate.sync.views import Near, Origin, Tombstoned

Unlisted: TypeAlias = Mapping[tuple[str, int], Sequence[range]]
"""By folder id and UIDVALIDITY: UIDs that the folder's list lacked, in a look that was doubtful."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """What messages at the server turned out to be; `suspects`: UIDs that may have been moved here, and from where.
    `left`: where what was met at a UID was believed to stand until now.
    """

    near: dict[int, Near]
    suspects: dict[int, frozenset[str]]
    left: dict[int, tuple[Origin, ...]] = field(default_factory=dict)


def recognise(
    far: Sequence[tuple[int, Likeness]],
    known: Sequence[Known],
    here: str,
    looked_again: frozenset[str],
    unlisted: Unlisted | None = None,
    marked: Collection[int] = (),
) -> Recognised:
    """Pair messages with what is known. `here`: the folder in which they were met; `looked_again`: folders that were
    looked at after it was listed. `unlisted`: what these looks, and the one at `here`, lacked where they were doubtful.
    `marked`: UIDs of those that are marked to be removed.
    """
    found = Recognised({}, {})
    originals = {_all(item.likeness): item.near for item in known if item.marks}
    found.near.update((uid, originals[_all(like)]) for uid, like in far if uid in marked and _all(like) in originals)
    far = [item for item in far if item[0] not in found.near]
    if unlisted:
        known = [_freed(item, unlisted) for item in known]
    same: dict[tuple[bytes, bytes], Known] = {}
    for item in known:
        if item.likeness.email is not None:
            same.setdefault((item.likeness.token, item.likeness.email), item)
    named: list[tuple[int, Likeness]] = []
    nameless: list[tuple[int, Likeness]] = []
    met: set[str] = set()
    for uid, likeness in far:
        match = None if likeness.email is None else same.get((likeness.token, likeness.email))
        if match is None:
            (nameless if likeness.email is None else named).append((uid, likeness))
        elif places := _places([match], looked_again, here):
            found.suspects[uid] = places
        else:
            _meet(found, uid, match)
            met.add(match.key)
    # What the server calls otherwise is another message.
    met |= _pair(found, named, [item for item in known if item.likeness.email is None], looked_again, here)
    _pair(found, nameless, [item for item in known if item.key not in met], looked_again, here)
    return found


def _all(likeness: Likeness) -> tuple[bytes, int | None, Instant | None]:
    """All that COPY and MOVE keep (RFC 9051 §6.4.7, RFC 6851 §3.1)."""
    return likeness.token, likeness.size, likeness.internal_date


def _freed(item: Known, unlisted: Unlisted) -> Known:
    """Free, when it stands at none of its addresses any more. It keeps them, to be told from what was free before."""
    if item.free or not item.origins:
        return item
    left = all(among([at.uid], unlisted.get((at.folder_id, at.uidvalidity), ())) for at in item.origins)
    return replace(item, free=True, folder_ids=()) if left else item


def _meet(found: Recognised, uid: int, item: Known) -> None:
    found.near[uid] = item.near
    if item.free and item.origins:
        found.left[uid] = item.origins


def _pair(
    found: Recognised,
    far: Sequence[tuple[int, Likeness]],
    known: Sequence[Known],
    looked_again: frozenset[str],
    here: str,
) -> set[str]:
    """Pair by likeness; the keys of what was paired."""
    free = {item.key: item for item in known if item.free}
    candidates = [Candidate(key, item.likeness, isinstance(item.near, Tombstoned)) for key, item in free.items()]
    pairs = pair(far, candidates)
    for uid, key in pairs.items():
        _meet(found, uid, free[key])
    elsewhere: dict[bytes, list[Known]] = {}
    for item in known:
        if not item.free:
            elsewhere.setdefault(item.likeness.token, []).append(item)
    for uid, likeness in far:
        if uid not in pairs and (places := _places(elsewhere.get(likeness.token, ()), looked_again, here)):
            found.suspects[uid] = places
    return set(pairs.values())


def _places(items: Sequence[Known], looked_again: frozenset[str], here: str) -> frozenset[str]:
    """Where else these are believed to stand, and nobody looked again."""
    return frozenset(folder_id for item in items for folder_id in item.folder_ids) - looked_again - {here}
