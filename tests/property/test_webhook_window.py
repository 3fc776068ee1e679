"""The window of an endpoint under failures, kills and slow receivers: every lane in its order, nothing missed.

The world here is a feed of events with lanes, and what is written down: a position and the lanes behind. A kill forgets
all but that, and what was on its way may have arrived or not.
"""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mailgate.webhooks.window import PAGE, TROUBLE, Behind, Item, Window

LANES = ["a/1", "a/2", "a/", "b/1"]
PAUSE = 10


class Endpoint(RuleBasedStateMachine):
    """One endpoint."""

    @initialize()
    def begin(self) -> None:
        self.feed: list[str] = []
        self.now = 0
        self.position, self.lanes = 0, dict[str, Behind]()
        self.known = set[int]()  # delivered, by the journal
        self.arrived: dict[str, list[int]] = defaultdict(list)
        self.window = Window[None](0, {})

    @rule(lanes=st.lists(st.sampled_from(LANES), min_size=1, max_size=150))
    def happen(self, lanes: list[str]) -> None:
        self.feed += lanes

    @rule(by=st.integers(1, 2 * PAUSE))
    def wait(self, by: int) -> None:
        self.now += by

    @rule(room=st.integers(1, 6))
    def work(self, room: int) -> None:
        """Read and begin, as the deliverer does."""
        more = self.window.room()
        if more:
            through = min(len(self.feed), self.window.read + more)
            self.window.take(self.events(self.window.read, through), through)
        for lane in self.window.hungry(self.now, room):
            after, read = self.window.behind[lane].position, self.window.read
            found = [item for item in self.events(after, read) if item.lane == lane][:3]
            self.window.load(lane, found, through=found[-1].position if len(found) == 3 else read)
        for item in self.window.startable(self.now, room):
            self.window.begin(item)

    @rule(data=st.data(), well=st.booleans())
    def answer(self, data: st.DataObject, well: bool) -> None:
        if not self.window.flying:
            return
        item = self.window.flying[data.draw(st.sampled_from(sorted(self.window.flying)))]
        if well:
            self.arrive(item)
            self.known.add(item.position)
            self.window.delivered(item, self.now)
        else:
            self.window.failed(item, self.now, self.now + PAUSE)
        self.write()

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        """Requests may have arrived although nobody knows."""
        for item in list(self.window.flying.values()):
            if data.draw(st.booleans()):
                self.arrive(item)
        self.window = Window(self.position, self.lanes)

    @rule()
    def write(self) -> None:
        for lane, state in self.window.take_changes().items():
            if state is None:
                del self.lanes[lane]
            else:
                self.lanes[lane] = state
        self.position = max(self.position, self.window.position)

    @invariant()
    def memory_is_bounded(self) -> None:
        window = self.window
        loaded = sum(map(len, window._waiting.values())) + len(window.flying)
        assert loaded <= PAGE + 3 * len(window.behind)

    @invariant()
    def nothing_is_passed_over(self) -> None:
        """What stands before the written position has arrived, or its lane is written down as behind it."""
        for item in self.events(0, self.position):
            behind = self.lanes.get(item.lane)
            assert behind is not None and item.position > behind.position  # noqa: PT018

    def events(self, after: int, through: int) -> list[Item[None]]:
        """Those that the journal does not know as delivered."""
        return [
            Item(position, self.feed[position - 1], None)
            for position in range(after + 1, through + 1)
            if position not in self.known
        ]

    def arrive(self, item: Item[None]) -> None:
        """It comes after everything of its lane that is before it in the feed."""
        self.arrived[item.lane].append(item.position)
        before = {p for p in range(1, item.position) if self.feed[p - 1] == item.lane}
        assert before <= set(self.arrived[item.lane])

    def teardown(self) -> None:
        """The receiver is well again: all of it arrives, with no more time than the pauses."""
        if not hasattr(self, "feed"):
            return
        for _ in range(10 * len(self.feed) + 50):
            self.now += PAUSE
            self.work(6)
            for item in list(self.window.flying.values()):
                self.arrive(item)
                self.known.add(item.position)
                self.window.delivered(item, self.now)
            self.write()
            self.nothing_is_passed_over()
        for lane in LANES:
            assert set(self.arrived[lane]) == {p for p, of in enumerate(self.feed, 1) if of == lane}
        assert (self.position, self.lanes) == (len(self.feed), {})


TestEndpoint = Endpoint.TestCase
TestEndpoint.settings = settings(max_examples=40, stateful_step_count=30)


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
