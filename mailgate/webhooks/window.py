"""What of one endpoint's events may be sent now: ordered within each lane, bounded in memory. Pure.

A *lane* is what is delivered in order: the events of a mailbox, or those of a tenant that belong to no mailbox.

    feed:      … 40 41 42 43 44 45 46 47 48 | not read
                  └ position               └ read

Everything up to `position` is settled, but for lanes that are *behind*: one whose delivery failed has a place of its
own, is left out of the page, and reads the feed by itself until it has caught up with `read`. So no lane waits for
another's receiver, and of what waits only one page and one place for each lane behind are remembered.

1. At most one delivery of a lane is on its way, and it is the oldest of those that are not settled.
2. `position` never passes what is neither settled nor in a lane that is behind. Who writes down `position` and the
   lanes that `take_changes` names in one transaction can begin again from there and misses nothing.
3. A lane that is behind never gets events out of a page.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from mailgate.clock import Instant, is_over
from mailgate.webhooks.retries import LONGEST_ASKED

T = TypeVar("T")

PAGE: Final = 100
"""Events that are remembered for one endpoint."""
LANES: Final = 1_000
"""Lanes that may be behind before nothing more is read for the endpoint."""
LONGEST_PAUSE: Final[Instant] = LONGEST_ASKED
"""Between two attempts of a lane."""
TROUBLE: Final = 5
"""Failures in a row after which an endpoint is only asked for one lane at a time whether it is well again."""


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """One event at its place in the feed."""

    position: int
    lane: str
    event: T


@dataclass(frozen=True, slots=True)
class Behind:
    """A lane that is behind: settled up to `position`; what follows failed `attempts` times since `since_at` (None: not
    yet) and is due at `next_at`.
    """

    position: int
    attempts: int
    since_at: Instant | None
    next_at: Instant


def is_due(state: Behind, now: Instant) -> bool:
    """Whether the lane may be tried again."""
    return is_over(state.next_at, now, LONGEST_PAUSE)


class Window(Generic[T]):
    """One endpoint's place in the feed."""

    def __init__(self, position: int, behind: Mapping[str, Behind]) -> None:
        self.read = position
        self.behind = dict(behind)
        self.flying: dict[str, Item[T]] = {}
        self._waiting: dict[str, deque[Item[T]]] = {}
        self._changed: dict[str, Behind | None] = {}
        self._failures = 0

    @property
    def position(self) -> int:
        """Up to where everything is settled, or in a lane that is behind."""
        firsts = [items[0].position for lane, items in self._waiting.items() if lane not in self.behind]
        firsts += [item.position for lane, item in self.flying.items() if lane not in self.behind]
        return min(firsts, default=self.read + 1) - 1

    @property
    def troubled(self) -> bool:
        """Whether the endpoint takes nothing at all at the moment."""
        return self._failures >= TROUBLE and bool(self.behind)

    def room(self) -> int:
        """How many events to read more."""
        due = any(state.position < self.read for state in self.behind.values())
        if due and (self.troubled or len(self.behind) >= LANES):
            return 0
        return max(0, PAGE - len(self.flying) - sum(map(len, self._waiting.values())))

    def take(self, items: Sequence[Item[T]], through: int) -> None:
        """What the feed has after `read`, up to `through`. Events of lanes that are behind are left out."""
        for item in items:
            if item.lane not in self.behind:
                self._waiting.setdefault(item.lane, deque()).append(item)
        self.read = max(self.read, through)

    def hungry(self, now: Instant, room: int) -> list[str]:
        """Lanes behind that are due and of which nothing is loaded, the longest due first, up to `room`."""
        due = [
            (state.next_at, lane)
            for lane, state in self.behind.items()
            if is_due(state, now) and self._reached(state) and lane not in self._waiting and lane not in self.flying
        ]
        return [lane for _, lane in sorted(due)[: self._allowed(room)]]

    def load(self, lane: str, items: Sequence[Item[T]], *, through: int) -> None:
        """The next events of a lane behind, out of those up to `through`. None up to `read`: it has caught up."""
        if items:
            self._waiting[lane] = deque(items)
        elif through >= self.read:
            del self.behind[lane]
            self._changed[lane] = None
        else:
            state = self.behind[lane]
            self.behind[lane] = self._changed[lane] = Behind(
                max(through, state.position), state.attempts, state.since_at, state.next_at
            )

    def startable(self, now: Instant, room: int) -> list[Item[T]]:
        """What may be sent now, the oldest first, up to `room`."""
        heads = []
        for lane, items in self._waiting.items():
            state = self.behind.get(lane)
            due = is_due(state, now) if state is not None else not self.troubled
            if due and lane not in self.flying:
                heads.append(items[0])
        heads.sort(key=lambda item: item.position)
        return heads[: self._allowed(room)]

    def begin(self, item: Item[T]) -> None:
        """It is being sent."""
        self._pop(item)
        self.flying[item.lane] = item

    def skip(self, item: Item[T]) -> None:
        """It need not be sent: it was, before the process began."""
        self._pop(item)
        self._settle(item)

    def delivered(self, item: Item[T], now: Instant) -> None:
        """The receiver has it."""
        del self.flying[item.lane]
        self._failures = 0
        self._settle(item, now)

    def failed(self, item: Item[T], now: Instant, next_at: Instant) -> Behind:
        """The receiver did not take it: the lane is behind, and due again at `next_at`."""
        del self.flying[item.lane]
        self._failures += 1
        self._waiting.pop(item.lane, None)
        attempts, since_at = self.failing(item.lane, now)
        state = Behind(item.position - 1, attempts + 1, since_at, next_at)
        self.behind[item.lane] = self._changed[item.lane] = state
        return state

    def failing(self, lane: str, now: Instant) -> tuple[int, Instant]:
        """How often the first delivery of the lane has failed, and since when (now: never)."""
        state = self.behind.get(lane)
        if state is None:
            return 0, now
        return state.attempts, now if state.since_at is None else state.since_at

    def take_changes(self) -> dict[str, Behind | None]:
        """Lanes whose place is another since this was last called; None: not behind any more."""
        changed, self._changed = self._changed, {}
        return changed

    def _pop(self, item: Item[T]) -> None:
        items = self._waiting[item.lane]
        items.popleft()
        if not items:
            del self._waiting[item.lane]

    def _settle(self, item: Item[T], now: Instant = 0) -> None:
        if item.lane in self.behind:
            self.behind[item.lane] = self._changed[item.lane] = Behind(item.position, 0, None, now)

    def _reached(self, state: Behind) -> bool:
        """Whether what is next in a lane stands in what was read: else its page comes first. After a restart `read`
        may be before the place of a lane, and what it will be tried with again must not be taken for settled.
        """
        return state.position < self.read or (state.position == self.read and state.attempts == 0)

    def _allowed(self, room: int) -> int:
        """While the endpoint takes nothing, one request at a time asks whether it is well again."""
        return min(room, max(0, 1 - len(self.flying))) if self.troubled else room
