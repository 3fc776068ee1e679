"""Sets of UIDs as ranges: ascending, disjoint, as short as the server says them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise


def ranges(uids: Iterable[int]) -> list[range]:
    """Ascending UIDs as ranges."""
    found: list[range] = []
    for uid in uids:
        if found and found[-1].stop == uid:
            found[-1] = range(found[-1].start, uid + 1)
        else:
            found.append(range(uid, uid + 1))
    return found


def among(uids: Iterable[int], where: Iterable[range]) -> list[int]:
    """Those of the UIDs that are in one of the ranges; both ascending."""
    found: list[int] = []
    ahead = iter(where)
    gap = next(ahead, None)
    for uid in uids:
        while gap is not None and gap.stop <= uid:
            gap = next(ahead, None)
        if gap is None:
            break
        if uid >= gap.start:
            found.append(uid)
    return found


def ascending(uids: Sequence[int]) -> Sequence[int]:
    """The same UIDs in order, each once; without a copy where they are so already, as servers list them."""
    return uids if all(a < b for a, b in pairwise(uids)) else sorted(set(uids))
