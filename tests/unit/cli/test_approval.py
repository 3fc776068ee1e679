"""What somebody is told to type after a purge that halted."""

from __future__ import annotations

import pytest

from mailgate.cli.purge import _approval
from mailgate.store import runs


@pytest.mark.parametrize(
    ("state", "detail", "tenant", "said"),
    [
        (runs.COMPLETED, None, None, None),
        (runs.FAILED, "the disk is full", "acme", None),
        (runs.HALTED, "something else", "acme", None),
        (
            runs.HALTED,
            "brake: acme: 8 of 9 copies would go. Look, then approve it (approve_brake)",
            "acme",
            "to approve as many as that: mailgate purge --tenant acme --approve-brake; another number:",
        ),
        (runs.HALTED, "the clock jumped; approve it (approve_clock)", None, "mailgate purge --approve-clock"),
    ],
)
def test_what_is_said(state: str, detail: str | None, tenant: str | None, said: str | None) -> None:
    found = _approval({"state": state, "detail": detail}, tenant)
    assert found is None if said is None else found is not None and said in found
