"""When mailboxes are polled: about once an interval each, and never all together."""

from __future__ import annotations

import itertools

from mailgate.clock import SECOND, Instant
from mailgate.sync.pace import next_poll_at

INTERVAL_S = 60
NOW: Instant = 1_700_000_000 * SECOND


def polls(mailbox_id: str, rounds: int) -> list[Instant]:
    """When a mailbox that went live at `NOW` is polled, if polling takes no time."""
    now = NOW
    found = [now]
    for _ in range(rounds):
        now = next_poll_at(mailbox_id, now, INTERVAL_S)
        found.append(now)
    return found


def test_polls_are_an_interval_apart_give_or_take_a_tenth() -> None:
    for n in range(50):
        times = polls(f"mailbox {n}", 20)
        for before, after in itertools.pairwise(times):
            assert 0.9 * INTERVAL_S <= (after - before) / SECOND <= 1.1 * INTERVAL_S


def test_mailboxes_that_went_live_together_are_soon_polled_apart() -> None:
    phases = [polls(f"mailbox {n}", 8)[-1] // SECOND % INTERVAL_S for n in range(1_000)]
    in_one_second = max(phases.count(second) for second in range(INTERVAL_S))
    assert in_one_second < 40  # of 1 000; 17 if they were spread evenly
