"""Stories of `tests.sync.meddling` over servers in memory: a few of each kind, and those that once went wrong.

Without UIDPLUS a server does not tell where it puts things, and nothing can be removed for ever there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from connectors.memory.line import MemoryLine
from tests.property.reconcile_world import MemoryFar
from tests.soak import also
from tests.sync.engine import NOW
from tests.sync.meddling import Story, told

KINDS: dict[str, dict[str, Any]] = {
    "all": {},
    "condstore": {"qresync": False},
    "plain": {"qresync": False, "condstore": False},
    "no move": {"move": False},
    "no uidplus": {"uidplus": False},
    "no move no uidplus": {"move": False, "uidplus": False},
    "plain no move": {"qresync": False, "condstore": False, "move": False},
    "plain no move no uidplus": {"qresync": False, "condstore": False, "move": False, "uidplus": False},
}
SEEDS = range(5)
LONG = range(5, 300)
WENT_WRONG = {
    "all": (53, 96),
    "condstore": (8, 35, 36, 71),
    "no move": (75, 109, 157, 208),
    "plain no move": (75, 81),
}


@contextmanager
def between_steps(act: Callable[[], None]) -> Iterator[None]:
    """Each step of the gateway's line is one round trip."""
    real = MemoryLine._step

    async def step(line: MemoryLine, command: str | None) -> None:
        act()
        await real(line, command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryLine, "_step", step)
        yield


def _tell(kind: str, seed: int, *, cuts: bool = False) -> None:
    far = MemoryFar("qresync", NOW, **KINDS[kind])
    faults = far.account.faults if cuts else None
    with told(Story(far, seed, halves=not far.account.can_move, faults=faults)) as story:
        story.tell(between_steps, rounds=4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [*SEEDS, *also(LONG)])
def test_a_person_between_any_two_round_trips(kind: str, seed: int) -> None:
    _tell(kind, seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [*range(2), *also(range(2, 300))])
def test_a_person_between_any_two_round_trips_and_a_line_that_drops(kind: str, seed: int) -> None:
    _tell(kind, seed, cuts=True)


@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind, seeds in WENT_WRONG.items() for seed in seeds])
def test_what_went_wrong(kind: str, seed: int) -> None:
    _tell(kind, seed)
