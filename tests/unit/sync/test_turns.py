"""Whose turn it is: limits kept, fair between parties, nothing lost by who leaves the line."""

from __future__ import annotations

import asyncio

import hypothesis
from hypothesis import strategies as st

from mailgate.sync.turns import Turn, Turns


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_party_with_many_delays_one_with_few_by_one_turn() -> None:
    turns = Turns(1)
    await turns.take("large")
    order: list[str] = []

    async def wait(party: str) -> None:
        async with Turn(turns, party):
            order.append(party)

    tasks = [asyncio.create_task(wait("large")) for _ in range(5)]
    await settle()
    tasks.append(asyncio.create_task(wait("small")))
    await settle()
    assert turns.waiting
    turns.give_back("large")
    await asyncio.gather(*tasks)
    assert order.index("small") <= 1
    assert turns.taken == 0


async def test_places_go_to_who_holds_the_fewest() -> None:
    turns = Turns(3)
    for _ in range(3):
        await turns.take("large")
    waiting = [asyncio.create_task(turns.take("large")), asyncio.create_task(turns.take("small"))]
    await settle()
    turns.give_back("large")
    await settle()
    assert [task.done() for task in waiting] == [False, True]
    turns.give_back("small")
    await asyncio.gather(*waiting)


async def test_who_leaves_the_line_takes_no_place() -> None:
    turns = Turns(1)
    await turns.take("a")
    leaving, staying = asyncio.create_task(turns.take("a")), asyncio.create_task(turns.take("a"))
    await settle()
    leaving.cancel()
    turns.give_back("a")  # before the one that leaves has run
    await staying
    assert turns.taken == 1
    turns.give_back("a")
    assert turns.taken == 0
    assert not turns.full


async def test_a_place_that_came_with_the_cancellation_is_given_on() -> None:
    turns = Turns(1)
    await turns.take("a")
    first, second = asyncio.create_task(turns.take("a")), asyncio.create_task(turns.take("b"))
    await settle()
    turns.give_back("a")
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert turns.taken == 0


async def test_fewer_places_send_nobody_away_and_more_let_in_at_once() -> None:
    turns = Turns(3)
    for _ in range(3):
        await turns.take("a")
    turns.resize(1)
    waiting = asyncio.create_task(turns.take("b"))
    turns.give_back("a")
    turns.give_back("a")
    await settle()
    assert not waiting.done()
    turns.resize(None)
    await waiting


@hypothesis.given(
    places=st.integers(1, 4),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "give", "leave"])), max_size=40),
)
def test_never_more_than_there_are_and_never_idle(places: int, steps: list[tuple[str, str]]) -> None:
    async def play() -> None:
        turns = Turns(places)
        tasks: list[tuple[str, asyncio.Task[None]]] = []
        for party, step in steps:
            holding = next((pair for pair in tasks if pair[0] == party and pair[1].done()), None)
            waiting = next((pair for pair in tasks if pair[0] == party and not pair[1].done()), None)
            if step == "take":
                tasks.append((party, asyncio.create_task(turns.take(party))))
            elif step == "give" and holding is not None:
                tasks.remove(holding)
                turns.give_back(party)
            elif step == "leave" and waiting is not None:
                tasks.remove(waiting)
                waiting[1].cancel()
            await settle()
            taken = sum(task.done() for _, task in tasks)
            assert turns.taken == taken == min(places, len(tasks))
            assert turns.waiting == (len(tasks) > places)
        for _, task in tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)

    asyncio.run(play())
