"""Stories of `tests.sync.meddling` over a real Dovecot: a mail program on a line of its own does something before the
gateway's commands, and between its passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from connectors.imap.session import Session
from tests.dovecot import Dovecot
from tests.server.test_machine_dovecot import DovecotFar
from tests.soak import also
from tests.sync.meddling import Story, told

pytestmark = pytest.mark.server

SEEDS = [*range(4), *also(range(4, 150))]


@contextmanager
def before_commands(act: Callable[[], None]) -> Iterator[None]:
    """Each command of the gateway's line begins after something else was done at the server, and answered."""
    real = Session.start

    def start(session: Session, *arguments: Any, **more: Any) -> Any:
        act()
        return real(session, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "start", start)
        yield


@pytest.mark.parametrize("seed", SEEDS)
def test_a_person_between_any_two_commands(dovecot: Dovecot, seed: int) -> None:
    far = DovecotFar(dovecot.account())
    try:
        with told(Story(far, seed, halves=False)) as story:
            story.tell(before_commands, rounds=4)
    finally:
        far.close()
