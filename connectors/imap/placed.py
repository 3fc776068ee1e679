"""Where messages were put: the response codes COPYUID and APPENDUID (RFC 4315 §3). Pure.

The command has been carried out when one of these is read. So a code that contradicts itself or the command is never
an error: it is as if the server had told nothing, and the caller looks for the messages by content.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from connectors.imap.uidset import MAX_UID
from connectors.port import Placed


def parse_copyuid(arguments: bytes, wanted: Container[int], count: int) -> Placed | None:
    """`38505 304,319:320 3956:3958`: the nth UID of the first set went to the nth of the second.

    The sets are read in the order in which they are written. None when the first holds what is not in `wanted` or more
    than `count`, when the sets differ in size, or when a UID stands twice in one.
    """
    words = arguments.split(b" ")
    uidvalidity = _number(words[0])
    if len(words) != 3 or uidvalidity is None:
        return None
    try:
        sources = list(_expand(words[1], count))
        targets = list(_expand(words[2], count))
    except ValueError:
        return None
    if len(sources) != len(targets) or not all(uid in wanted for uid in sources):
        return None
    if len(set(sources)) < len(sources) or len(set(targets)) < len(targets):
        return None
    return Placed(uidvalidity, dict(zip(sources, targets, strict=True)))


def parse_appenduid(arguments: bytes) -> Placed | None:
    """`38505 3955`."""
    words = arguments.split(b" ")
    numbers = [number for word in words if (number := _number(word)) is not None]
    if len(words) != 2 or len(numbers) != 2:
        return None
    return Placed(numbers[0], {0: numbers[1]})


def join_placed(said: Sequence[Placed | None]) -> Placed | None:
    """One answer out of those of several commands; None when one of them can't be used."""
    known = [placed for placed in said if placed is not None]
    if not known or len(known) < len(said) or len({placed.uidvalidity for placed in known}) > 1:
        return None
    uids = {uid: to for placed in known for uid, to in placed.uids.items()}
    return Placed(known[0].uidvalidity, uids)


def _number(word: bytes) -> int | None:
    if not word.isdigit() or len(word) > 10:
        return None
    number = int(word)
    return number if 0 < number <= MAX_UID else None


def _expand(text: bytes, limit: int) -> Iterator[int]:
    """The UIDs of a set in its own order; `4:2` is `2:4` (RFC 4315 §4). More than `limit` are never made."""
    left = limit
    for word in text.split(b","):
        first, colon, last = word.partition(b":")
        a = _number(first)
        b = _number(last) if colon else a
        if a is None or b is None:
            raise ValueError("not a set of UIDs")
        a, b = min(a, b), max(a, b)
        left -= b - a + 1
        if left < 0:
            raise ValueError("more UIDs than were named")
        yield from range(a, b + 1)
