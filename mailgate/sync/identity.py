"""Recognising a message again without its address: after a move, a UIDVALIDITY change, or a purge. Pure.

A message is known by a keyed token of its header block, by its size and by its INTERNALDATE. Equal content is not one
message (S9): three equal messages at the server are three messages, so recognition pairs one to one, as a multiset.

1. Every known thing is paired at most once, and so is every message at the server.
2. Better agreement goes first: token, size and date; then token and size; then token and date. For tombstones the token
   alone is enough: they hold nothing else of the message, and blocking is their purpose.
3. Between equals the order given decides, so the same input gives the same pairs.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from mailgate.clock import Instant

F = TypeVar("F", bound=Hashable)
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Likeness:
    """What a message is recognised by. `token` is that of its header, untimed; `size` in bytes; `email` is the keyed
    token of the server's own identity of it (X-GM-MSGID); None where it is not known.
    """

    token: bytes
    size: int | None = None
    internal_date: Instant | None = None
    email: bytes | None = None


@dataclass(frozen=True, slots=True)
class Candidate(Generic[K]):
    """A known thing that may be met again. `token_suffices`: no size or date need agree (a tombstone)."""

    key: K
    likeness: Likeness
    token_suffices: bool = False


_Trait: TypeAlias = Callable[[Likeness], Hashable | None]
"""What must be equal, beside the token; None: not known, so equal to nothing."""

_TRAITS: tuple[_Trait, ...] = (
    lambda like: None if like.size is None or like.internal_date is None else (like.size, like.internal_date),
    lambda like: like.size,
    lambda like: like.internal_date,
)


def pair(far: Sequence[tuple[F, Likeness]], known: Sequence[Candidate[K]]) -> dict[F, K]:
    """Which known thing each message at the server is; messages that are nothing known are left out."""
    by_token: defaultdict[bytes, list[Candidate[K]]] = defaultdict(list)
    for candidate in known:
        by_token[candidate.likeness.token].append(candidate)
    groups: defaultdict[bytes, list[tuple[F, Likeness]]] = defaultdict(list)
    for key, likeness in far:
        if likeness.token in by_token:
            groups[likeness.token].append((key, likeness))
    pairs: dict[F, K] = {}
    for token, messages in groups.items():
        _pair_group(messages, by_token[token], pairs)
    return pairs


def _pair_group(messages: list[tuple[F, Likeness]], candidates: list[Candidate[K]], pairs: dict[F, K]) -> None:
    """Pair messages and candidates of one token, the best agreement first; in time linear in their number, since a
    sender can make thousands that are alike.
    """
    left = messages
    free = dict(enumerate(candidates))
    for trait in _TRAITS:
        by_trait: defaultdict[Hashable, deque[int]] = defaultdict(deque)
        for number, candidate in free.items():
            by_trait[trait(candidate.likeness)].append(number)
        unpaired: list[tuple[F, Likeness]] = []
        for key, likeness in left:
            wanted = trait(likeness)
            equal = by_trait.get(wanted) if wanted is not None else None
            if equal:
                pairs[key] = free.pop(equal.popleft()).key
            else:
                unpaired.append((key, likeness))
        left = unpaired
    sufficing = [candidate for candidate in free.values() if candidate.token_suffices]
    for (key, _), candidate in zip(left, sufficing, strict=False):
        pairs[key] = candidate.key
