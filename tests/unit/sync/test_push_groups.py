"""Which flags are worth asking a server for."""

from __future__ import annotations

import pytest

from mailgate.sync.push.groups import keeps


@pytest.mark.parametrize(
    ("permanent", "flag", "expected"),
    [
        (None, "\\Seen", True),
        ({"\\Seen", "\\*"}, "\\seen", True),
        ({"\\Seen", "\\*"}, "\\Flagged", False),
        ({"\\Seen", "\\*"}, "$Work", True),
        ({"\\Seen"}, "$Work", False),
        ({"$work"}, "$Work", True),
        ({"\\*"}, "\\Flagged", True),  # go-imap keeps all of them, and names none
        (set(), "\\Flagged", False),
    ],
)
def test_what_a_server_may_keep(permanent: set[str] | None, flag: str, expected: bool) -> None:
    assert keeps(None if permanent is None else frozenset(permanent), flag) == expected
