"""What somebody is told to type after a purge that halted."""

from __future__ import annotations

import pytest

from mailgate.cli.purge import _approval, _warn
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


def test_what_is_said_before_a_purge_that_the_brake_would_halt(capsys: pytest.CaptureFixture[str]) -> None:
    _warn({})
    assert capsys.readouterr().out == ""
    _warn({"acme": 8})
    assert capsys.readouterr().out.splitlines() == [
        "the brake would halt it for tenant acme: 8 would go at once, so none of them do",
        "if it is meant, the purge takes them with --approve-brake",
    ]
    _warn({f"t{n:02}": 8 for n in range(22)})
    said = capsys.readouterr().out
    assert "t19" in said
    assert "t20" not in said
    assert "and for 2 tenants more" in said
