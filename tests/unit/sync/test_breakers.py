"""Which message is suspected of ending the line, and when it is given up."""

from __future__ import annotations

from connectors.errors import NetworkError, ProtocolError
from mailgate.sync.breakers import ENOUGH, ONE_BY_ONE, STUCK, Breakers

HERE = ("folder", 1)
TODO = [5, 4, 3]
DROPPED = NetworkError("reset")
NONSENSE = ProtocolError("nonsense")


def test_nothing_is_suspected_while_something_comes() -> None:
    breakers = Breakers()
    for _ in range(20):
        breakers.ended(HERE, TODO, 2, DROPPED)
    assert breakers.next(HERE, TODO) == TODO


def test_lines_that_end_before_anything_came_raise_suspicion() -> None:
    breakers = Breakers()
    for _ in range(STUCK):
        assert breakers.next(HERE, TODO) == TODO
        breakers.ended(HERE, TODO, 3, DROPPED)
    assert breakers.next(HERE, TODO) == [5]
    assert breakers.next(("folder", 2), TODO) == TODO


def test_suspects_come_last_and_are_given_up_in_the_end() -> None:
    breakers = Breakers()
    breakers.ended(HERE, TODO, 2, NONSENSE)
    todo, tried = list(TODO), []
    while not (gone := breakers.given_up(HERE, todo)):
        (uid,) = breakers.next(HERE, todo)
        tried.append(uid)
        if uid == 5:
            breakers.ended(HERE, [uid], 1, DROPPED)
        else:
            breakers.came(HERE)
            todo.remove(uid)
    assert tried == [5, 4, 3] + [5] * (ENOUGH - 1)
    assert list(gone) == [5]
    assert gone[5].endswith("reset")
    assert breakers.given_up(("folder", 2), TODO) == {}


def test_nonsense_counts_more_than_a_dropped_line() -> None:
    breakers = Breakers()
    breakers.ended(HERE, TODO, 3, NONSENSE)
    count = 0
    while not breakers.given_up(HERE, TODO):
        breakers.ended(HERE, [5], 1, NONSENSE)
        count += 1
    assert 1 < count < ENOUGH


def test_suspicion_ends_when_enough_came() -> None:
    breakers = Breakers()
    breakers.ended(HERE, TODO, 3, NONSENSE)
    for _ in range(ONE_BY_ONE):
        assert len(breakers.next(HERE, TODO)) == 1
        breakers.came(HERE)
    assert breakers.next(HERE, TODO) == TODO
