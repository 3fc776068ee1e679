"""Sets of UIDs as ranges: ascending, disjoint, as short as the server says them. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence


def ranges(uids: Iterable[int]) -> list[range]:
    """Ascending UIDs as ranges."""
    found: list[range] = []
    for uid in uids:
        if found and found[-1].stop == uid:
            found[-1] = range(found[-1].start, uid + 1)
        else:
            found.append(range(uid, uid + 1))
    return found


def among(uids: Iterable[int], where: Sequence[range]) -> list[int]:
    """Those of the UIDs that are in one of the ranges."""
    starts = [item.start for item in where]
    found: list[int] = []
    for uid in uids:
        at = bisect_right(starts, uid) - 1
        if at >= 0 and uid in where[at]:
            found.append(uid)
    return found
