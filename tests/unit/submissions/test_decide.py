"""The table of outcomes: each row of it, and when the next attempt is."""

from __future__ import annotations

import pytest

from mailgate.clock import HOUR, MINUTE
from mailgate.submissions.decide import LOGIN_PAUSE, Answer, Outcome, Verdict, again, give_up, pause, verdict
from mailgate.submissions.model import Recipient, RecipientState, SubmissionState, accepted, waiting

A, B = "a@x.example", "b@x.example"
LATER = Answer("4.2.1", "450 4.2.1 busy", transient=True)
NEVER = Answer("5.1.1", "550 5.1.1 nobody")
S, R = SubmissionState, RecipientState


def judged(outcome: Outcome, *recipients: Recipient, now: int = 0, give_up_at: int = 24 * HOUR) -> Verdict:
    who = recipients or (Recipient(A), Recipient(B))
    return verdict(who, outcome, now=now, attempts=1, give_up_at=give_up_at, spread=0)


def states(found: Verdict) -> list[RecipientState]:
    return [recipient.state for recipient in found.recipients]


@pytest.mark.parametrize(
    ("outcome", "state", "recipients"),
    [
        (Outcome({A: None, B: None}), S.SENT, [R.ACCEPTED, R.ACCEPTED]),
        (Outcome({A: None, B: NEVER}), S.SENT, [R.ACCEPTED, R.REFUSED]),
        (Outcome({A: None, B: LATER}), S.QUEUED, [R.ACCEPTED, R.WAITING]),
        (Outcome({A: NEVER, B: NEVER}), S.FAILED, [R.REFUSED, R.REFUSED]),
        (Outcome({A: NEVER, B: LATER}), S.QUEUED, [R.REFUSED, R.WAITING]),
        (Outcome({}, NEVER), S.FAILED, [R.REFUSED, R.REFUSED]),
        (Outcome({}, LATER), S.QUEUED, [R.WAITING, R.WAITING]),
        (Outcome({A: None, B: NEVER}, LATER), S.QUEUED, [R.WAITING, R.REFUSED]),
        (Outcome({A: None, B: LATER}, NEVER), S.QUEUED, [R.REFUSED, R.WAITING]),
        (Outcome({A: None, B: None}, NEVER), S.FAILED, [R.REFUSED, R.REFUSED]),
        (Outcome({A: None, B: NEVER}, LATER, unknown=True), S.UNCERTAIN, [R.UNCERTAIN, R.REFUSED]),
        (Outcome({A: None, B: LATER}, LATER, unknown=True), S.UNCERTAIN, [R.UNCERTAIN, R.WAITING]),
        (Outcome({}, Answer("auth_failed", "no"), login=True), S.QUEUED, [R.WAITING, R.WAITING]),
        (Outcome({}), S.QUEUED, [R.WAITING, R.WAITING]),
    ],
)
def test_what_follows(outcome: Outcome, state: SubmissionState, recipients: list[RecipientState]) -> None:
    found = judged(outcome)
    assert found.state is state
    assert states(found) == recipients
    assert (found.next_at is not None) == (state is S.QUEUED)


def test_the_next_attempt_is_later_each_time() -> None:
    assert judged(Outcome({}, LATER), now=7).next_at == 7 + MINUTE
    assert judged(Outcome({}, LATER, login=True), now=7).next_at == 7 + LOGIN_PAUSE
    assert judged(Outcome({}, LATER, pause=2 * HOUR), now=7).next_at == 7 + 2 * HOUR
    pauses = [pause(attempts, 0) for attempts in range(1, 9)]
    assert pauses == [MINUTE * minutes for minutes in (1, 2, 4, 8, 16, 32, 60, 60)]
    assert pause(1, 100) == MINUTE * 6 // 5
    assert pause(1_000, 0) == HOUR


def test_what_waits_is_given_up_when_its_time_is_over() -> None:
    found = judged(Outcome({A: None, B: LATER}), now=10, give_up_at=20)
    assert (found.state, states(found)) == (S.SENT, [R.ACCEPTED, R.REFUSED])
    assert found.recipients[1].code == "4.2.1"
    assert give_up([Recipient(A)])[0].code == "gave_up"
    found = judged(Outcome({}, LATER), now=10, give_up_at=20)
    assert (found.state, states(found)) == (S.FAILED, [R.REFUSED, R.REFUSED])


def test_who_got_it_is_never_asked_again() -> None:
    before = (Recipient(A, R.ACCEPTED), Recipient(B))
    found = judged(Outcome({B: None}), *before)
    assert (found.state, found.newly) == (S.SENT, 1)
    assert judged(Outcome({B: NEVER}), *before).state is S.SENT
    assert judged(Outcome({}, NEVER), *before).newly == 0
    every = [Recipient(A, state, "c", "t") for state in R]
    assert [r.state for r in again(every)] == [
        R.WAITING,
        R.ACCEPTED,
        R.WAITING,
        R.WAITING,
        R.WAITING,
        R.BOUNCED,
    ]
    assert waiting(every) == [every[0]]
    assert [r.state for r in accepted(every)] == [R.ACCEPTED, R.BOUNCED]
    assert [Recipient.of(r.to_json()) for r in every] == every
