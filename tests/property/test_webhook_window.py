"""The window of an endpoint under failures, kills and slow receivers: every lane in its order, nothing missed.

The world here is a feed of events with lanes, and what is written down: a position and the lanes behind. A kill forgets
all but that, and what was on its way may have arrived or not.
"""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.webhooks import window as window_of
from mailgate.webhooks.window import TROUBLE, Behind, Item, Window
from tests.soak import examples

LANES = ["a/1", "a/2", "a/", "b/1"]
PAUSE = 10


class Endpoint:
    """One endpoint, and its receiver."""

    def __init__(self, seed: int, page: int) -> None:
        self.chance = random.Random(seed)
        self.page = page
        self.feed: list[str] = []
        self.now = 0
        self.position, self.lanes = 0, dict[str, Behind]()
        self.known = set[int]()  # delivered, by the journal
        self.arrived: dict[str, list[int]] = defaultdict(list)
        self.window = Window[None](0, {})

    def happen(self) -> None:
        self.feed += self.chance.choices(LANES, k=self.chance.randint(1, self.page))

    def wait(self) -> None:
        self.now += self.chance.randint(1, 2 * PAUSE)

    def work(self, room: int | None = None) -> None:
        """Read and begin, as the deliverer does."""
        room = room or self.chance.randint(1, 6)
        more = self.window.room()
        if more:
            through = min(len(self.feed), self.window.read + more)
            self.window.take(self.events(self.window.read, through), through)
        for lane in self.window.hungry(self.now, room):
            after, read = self.window.behind[lane].position, self.window.read
            found = [item for item in self.events(after, read) if item.lane == lane][:3]
            cut = found[-1].position if len(found) == 3 else read
            if self.chance.random() < 0.2:  # the feed's page ended before, of which all was delivered
                cut = self.chance.randint(after, read)
                found = [item for item in found if item.position <= cut]
            self.window.load(lane, found, through=cut)
        for item in self.window.startable(self.now, room):
            self.window.begin(item)

    def answer(self, well: bool | None = None) -> None:
        if not self.window.flying:
            return
        item = self.window.flying[self.chance.choice(sorted(self.window.flying))]
        if self.chance.random() < 0.5 if well is None else well:
            self.arrive(item)
            self.known.add(item.position)
            self.window.delivered(item, self.now)
        else:
            self.window.failed(item, self.now, self.now + PAUSE)
        self.write()

    def kill(self) -> None:
        """Requests may have arrived although nobody knows."""
        for item in list(self.window.flying.values()):
            if self.chance.random() < 0.5:
                self.arrive(item)
        self.window = Window(self.position, self.lanes)

    def write(self) -> None:
        for lane, state in self.window.take_changes().items():
            if state is None:
                del self.lanes[lane]
            else:
                self.lanes[lane] = state
        self.position = max(self.position, self.window.position)

    def check(self) -> None:
        """Memory is bounded; what stands before the written position arrived, or its lane is written down as behind."""
        window = self.window
        loaded = sum(map(len, window._waiting.values())) + len(window.flying)
        assert loaded <= window_of.PAGE + 3 * len(window.behind)
        for item in self.events(0, self.position):
            behind = self.lanes.get(item.lane)
            assert behind is not None
            assert item.position > behind.position

    def events(self, after: int, through: int) -> list[Item[None]]:
        """Those that the journal does not know as delivered."""
        return [
            Item(position, self.feed[position - 1], None)
            for position in range(after + 1, through + 1)
            if position not in self.known
        ]

    def arrive(self, item: Item[None]) -> None:
        """It comes after everything of its lane that is before it in the feed."""
        before = {p for p in range(1, item.position) if self.feed[p - 1] == item.lane}
        assert before <= set(self.arrived[item.lane])
        self.arrived[item.lane].append(item.position)

    def recover(self) -> None:
        """The receiver is well again: all of it arrives, with no more time than the pauses."""
        for _ in range(20 * len(self.feed) + 50):
            if (self.position, self.lanes) == (len(self.feed), {}):
                break
            self.now += PAUSE
            self.work(6)
            while self.window.flying:
                self.answer(well=True)
            self.write()
            self.check()
        for lane in LANES:
            assert set(self.arrived[lane]) == {p for p, of in enumerate(self.feed, 1) if of == lane}
        assert (self.position, self.lanes) == (len(self.feed), {})


@given(seed=st.integers(0, 2**32), small=st.booleans())
@examples(100)
def test_in_order_and_nothing_missed(seed: int, small: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if small:  # so that every bound is met
            for name, value in (("PAGE", 5), ("LANES", 2), ("TROUBLE", 3)):
                patch.setattr(window_of, name, value)
        one = Endpoint(seed, 3 if small else 12)
        steps = [one.happen, one.wait, one.work, one.answer, one.write, one.kill]
        for step in one.chance.choices(steps, weights=[10, 12, 35, 40, 5, 2], k=200):
            step()
            one.check()
        one.recover()


def filled(lanes: list[str]) -> Window[None]:
    window = Window[None](0, {})
    window.take([Item(n, lane, None) for n, lane in enumerate(lanes, 1)], len(lanes))
    return window


def test_a_lane_that_fails_holds_back_no_other() -> None:
    window = filled(["a/1", "a/1", "a/2", "a/2"])
    first, other = window.startable(0, 9)
    window.begin(first)
    window.begin(other)
    assert window.startable(0, 9) == []  # one of each lane at a time
    window.failed(first, 0, PAUSE)
    window.delivered(other, 0)
    (next_,) = window.startable(0, 9)
    assert (next_.lane, next_.position) == ("a/2", 4)
    assert window.position == 3  # over what the failed lane has a place for itself
    assert window.take_changes() == {"a/1": Behind(0, 1, 0, PAUSE)}


def test_an_endpoint_that_takes_nothing_is_asked_one_thing_at_a_time() -> None:
    window = filled([f"a/{n}" for n in range(TROUBLE + 3)])
    for item in window.startable(0, TROUBLE):
        window.begin(item)
        window.failed(item, 0, PAUSE)
    assert window.troubled
    assert window.startable(PAUSE, 9) == []
    (lane,) = window.hungry(PAUSE, 9)
    window.load(lane, [Item(1, lane, None)], through=window.read)
    (probe,) = window.startable(PAUSE, 9)
    window.begin(probe)
    assert window.hungry(PAUSE, 9) == []
    window.delivered(probe, PAUSE)
    assert len(window.startable(PAUSE, 9)) == 3


@given(st.lists(st.sampled_from(LANES), max_size=60))
def test_without_failures_the_position_follows(lanes: list[str]) -> None:
    window = filled(lanes)
    while items := window.startable(0, 3):
        for item in items:
            window.begin(item)
        assert window.position == min(item.position for item in items) - 1
        for item in items:
            window.delivered(item, 0)
    assert window.position == len(lanes)
    assert window.take_changes() == {}


def test_after_a_restart_a_lane_keeps_its_failures_until_its_page_is_there() -> None:
    """Else an endpoint whose process is often restarted would never be given up."""
    window = Window[None](2, {"a/1": Behind(2, 3, 7, 50)})
    assert window.hungry(100, 9) == []
    window.take([Item(3, "a/1", None)], 3)
    assert window.hungry(100, 9) == ["a/1"]
    assert window.failing("a/1", 100) == (3, 7)
