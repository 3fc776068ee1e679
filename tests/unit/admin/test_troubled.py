"""How long a mailbox was in trouble, day by day, from the changes of its state."""

from __future__ import annotations

import pytest

from mailgate.admin.mailbox import troubled
from mailgate.clock import DAY, HOUR, Instant

TODAY: Instant = 1_795_910_400_000_000 // DAY * DAY
NOW = TODAY + 10 * HOUR


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], [0, 0, 0]),
        ([(TODAY + 9 * HOUR, "live")], [0, 0, 0]),
        ([(TODAY + 9 * HOUR, "backoff")], [0, 0, HOUR]),
        ([(TODAY + 9 * HOUR, "live"), (TODAY + 2 * HOUR, "auth_failed")], [0, 0, 7 * HOUR]),
        # One kind of trouble after another, over midnight.
        (
            [(TODAY + HOUR, "live"), (TODAY - HOUR, "needs_approval"), (TODAY - 3 * HOUR, "backoff")],
            [0, 3 * HOUR, HOUR],
        ),
        # It began before what is shown.
        ([(TODAY - 9 * DAY, "backoff")], [DAY, DAY, 10 * HOUR]),
        ([(TODAY - DAY, "polling"), (TODAY - 9 * DAY, "backoff")], [DAY, 0, 0]),
        # A clock of another process that is ahead.
        ([(NOW + HOUR, "backoff"), (NOW - HOUR, "backoff")], [0, 0, HOUR]),
    ],
)
def test_time_in_trouble_is_counted_day_by_day(changes: list[tuple[Instant, str]], expected: list[Instant]) -> None:
    found = troubled(changes, NOW, 3)
    assert [at for at, _ in found] == [TODAY - 2 * DAY, TODAY - DAY, TODAY]
    assert [lasted for _, lasted in found] == expected
