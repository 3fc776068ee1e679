"""What will happen to a subscription by itself."""

from __future__ import annotations

from mailgate.clock import DAY, from_rfc3339
from mailgate.tenants.notices import NoticeKind, upcoming
from mailgate.tenants.timeline import Event, EventType, timeline

START, END = from_rfc3339("2026-01-01T00:00:00Z"), from_rfc3339("2026-02-01T00:00:00Z")
BOUGHT = Event("p", EventType.PURCHASED, START, plan="standard", term_months=1)


def kinds(*events: Event, days: int = 400) -> list[tuple[NoticeKind, int]]:
    found = upcoming(timeline(events), START + 1, START + days * DAY)
    return [(notice.kind, (notice.at - START) // DAY) for notice in found]


def test_a_trial_ends() -> None:
    trial = Event("t", EventType.TRIAL_STARTED, START, plan="demo", period_end=START + 14 * DAY)
    assert kinds(trial) == [(NoticeKind.TRIAL_ENDS, 14)]
    assert kinds(trial, days=13) == []


def test_a_renewal_is_due_and_then_its_grace_ends() -> None:
    assert kinds(BOUGHT) == [(NoticeKind.RENEWAL_DUE, 31), (NoticeKind.GRACE_ENDS, 41)]


def test_what_was_cancelled_ends() -> None:
    assert kinds(BOUGHT, Event("c", EventType.CANCELED, START + 1)) == [(NoticeKind.PERIOD_ENDS, 31)]


def test_what_was_bought_begins() -> None:
    lower = Event("d", EventType.DOWNGRADE_BOUGHT, START + 1, plan="crm_plus", term_months=1)
    found = upcoming(timeline([BOUGHT, lower]), START + 1, END)
    assert [(notice.kind, notice.after.plan) for notice in found] == [(NoticeKind.CHANGE_BEGINS, "crm_plus")]
    assert found[0].key == f"change_begins:{END}:crm_plus"
