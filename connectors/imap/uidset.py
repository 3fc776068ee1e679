"""Sets of UIDs as IMAP writes them (RFC 9051 §9, sequence-set), kept as ranges: never expanded, whatever a server
claims.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

MAX_UID = 0xFFFFFFFF


class UidSet:
    """Ascending, disjoint, joined ranges with a membership test of logarithmic cost."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, ranges: Iterable[range]) -> None:
        joined = join(ranges)
        self._starts = [r.start for r in joined]
        self._stops = [r.stop for r in joined]

    def __contains__(self, uid: object) -> bool:
        if not isinstance(uid, int):
            return False
        at = bisect_right(self._starts, uid) - 1
        return at >= 0 and uid < self._stops[at]

    def __iter__(self) -> Iterator[range]:
        return (range(a, b) for a, b in zip(self._starts, self._stops, strict=True))

    def __bool__(self) -> bool:
        return bool(self._starts)


def join(ranges: Iterable[range]) -> list[range]:
    """The same numbers as ascending, disjoint ranges that do not touch. Empty ranges vanish. Raises ValueError for
    steps.
    """
    found: list[range] = []
    for r in sorted((r for r in ranges if len(r)), key=lambda r: r.start):
        if r.step != 1:
            raise ValueError("a range of UIDs has step 1")
        if found and r.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, r.stop))
        else:
            found.append(r)
    return found


def ranges_of(uids: Iterable[int]) -> list[range]:
    """Single UIDs as joined ranges; only neighbours are joined, so the set holds nothing that was not given."""
    found: list[range] = []
    start = stop = 0
    for uid in sorted(uids):
        if uid == stop:
            stop = uid + 1
        elif uid > stop:
            if stop > start:
                found.append(range(start, stop))
            start, stop = uid, uid + 1
    if stop > start:
        found.append(range(start, stop))
    return found


def size(ranges: Iterable[range]) -> int:
    """How many numbers; without making them."""
    return sum(r.stop - r.start for r in ranges)


def format_set(ranges: Sequence[range]) -> str:
    """`1:3,7,9:*`. A range that reaches the highest possible UID ends in `*`. Raises ValueError for an empty set or
    UID 0.
    """
    if not ranges:
        raise ValueError("an empty set has no form on the wire")
    words = []
    for r in ranges:
        if r.start < 1 or r.stop <= r.start:
            raise ValueError(f"not UIDs: {r}")
        if r.stop > MAX_UID:
            words.append(f"{r.start}:*")
        elif r.stop - r.start == 1:
            words.append(str(r.start))
        else:
            words.append(f"{r.start}:{r.stop - 1}")
    return ",".join(words)


def format_sets(ranges: Iterable[range], limit: int = 1_000) -> Iterator[tuple[str, list[range]]]:
    """The ranges cut into sets of at most `limit` characters each (RFC 2683 §3.2.1.5: keep command lines short)."""
    chosen: list[range] = []
    length = 0
    for r in ranges:
        word = len(format_set([r])) + 1
        if chosen and length + word > limit:
            yield format_set(chosen), chosen
            chosen, length = [], 0
        chosen.append(r)
        length += word
    if chosen:
        yield format_set(chosen), chosen


def parse_set(text: bytes) -> tuple[range, ...]:
    """A set from a response, where `*` has no place (RFC 9051 §7.5.1 uid-set). Reversed ranges are turned. Raises
    ValueError.
    """
    found = []
    for word in text.split(b","):
        first, colon, last = word.partition(b":")
        if not first.isdigit() or (colon and not last.isdigit()):
            raise ValueError("not a set of numbers")
        a = int(first)
        b = int(last) if colon else a
        if a > b:
            a, b = b, a
        if a < 1 or b > MAX_UID:
            raise ValueError("a number out of range")
        found.append(range(a, b + 1))
    return tuple(join(found))
