"""Places that are fewer than those who want one: whose turn it is, fairly between parties (tenants).

A free place goes to the party that holds the fewest; among equals to the one that was served longest ago. Within a
party it is first come, first served. A party with a thousand mailboxes delays one with a single mailbox by at most one
turn.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from types import TracebackType


class Turns:
    """So many `places`; None: without limit."""

    def __init__(self, places: int | None) -> None:
        self._places = places
        self._held: Counter[str] = Counter()
        self._taken = 0
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the party that was served longest ago first

    @property
    def waiting(self) -> bool:
        """Whether anybody waits for a place."""
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        """Whether who comes now has to wait."""
        return bool(self._waiting) or not self._free()

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken

    def resize(self, places: int | None) -> None:
        """From now on so many; nobody who has one is sent away."""
        self._places = places
        self._grant()

    async def take(self, party: str) -> None:
        """Wait for a place. Give it back with `give_back`."""
        if not self._waiting and self._free():
            self._hold(party)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(party, deque()).append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give_back(party)
            else:
                self._leave(party, granted)
            raise

    def give_back(self, party: str) -> None:
        """The place is free for the next."""
        self._taken -= 1
        self._held[party] -= 1
        if not self._held[party]:
            del self._held[party]
        self._grant()

    def _free(self) -> bool:
        return self._places is None or self._taken < self._places

    def _hold(self, party: str) -> None:
        self._taken += 1
        self._held[party] += 1

    def _leave(self, party: str, granted: asyncio.Future[None]) -> None:
        line = self._waiting.get(party)
        if line is not None and granted in line:  # else `_grant` has met it
            line.remove(granted)
            if not line:
                del self._waiting[party]

    def _grant(self) -> None:
        while self._waiting and self._free():
            party = min(self._waiting, key=lambda party: self._held[party])
            line = self._waiting.pop(party)
            granted = line.popleft()
            if line:
                self._waiting[party] = line  # behind the others
            if not granted.cancelled():
                self._hold(party)
                granted.set_result(None)


class Turn:
    """One party's place in `turns`, as an async context manager; may be entered again once left."""

    __slots__ = ("_party", "_turns")

    def __init__(self, turns: Turns, party: str) -> None:
        self._turns = turns
        self._party = party

    async def __aenter__(self) -> None:
        await self._turns.take(self._party)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.give_back(self._party)
