"""What follows from an attempt: the table of outcomes, and when the next attempt is. Pure.

| what happened | recipients that were tried | the submission |
|---|---|---|
| 250 to the content | accepted where RCPT was; refused by 5yz; waiting by 4yz | sent, or queued for those that wait |
| 5yz to MAIL, DATA or content, nothing accepted | refused | failed, unless others wait |
| 4yz, greeting or line, before the end of the content | waiting | queued, with a growing pause |
| the server can't carry it (SMTPUTF8, SIZE) | refused | failed |
| the login was refused | waiting | queued until the credentials change, or an hour passed |
| the end of the content was sent, no answer | uncertain | uncertain; tried again only by request |
| … and a trace of it turns up (`store.sending.queue`, 4) | accepted where uncertain | sent, or queued for others |
| whatever waits when its time is over | refused (`gave_up`) | sent or failed |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from mailgate.clock import HOUR, MINUTE, Instant
from mailgate.submissions.model import Recipient, RecipientState, SubmissionState, accepted, waiting

FIRST_PAUSE: Final[Instant] = MINUTE
LONGEST_PAUSE: Final[Instant] = HOUR
LOGIN_PAUSE: Final[Instant] = HOUR
LONGEST_ASKED: Final[Instant] = 6 * HOUR
"""The longest pause that a server is granted, and so the longest of all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server, or we, said to one recipient or to all: `code` of the reply or a slug, `text` for a person."""

    code: str
    text: str
    transient: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """An attempt, as far as it came.

    `each`: the answer to RCPT by address, None where it was accepted. `whole`: what ended the attempt, None when the
    content was accepted. `unknown`: its end was sent, and `whole` says what went wrong then. `login`: it was refused.
    """

    each: dict[str, Answer | None]
    whole: Answer | None = None
    unknown: bool = False
    login: bool = False
    pause: Instant | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the submission. `newly`: recipients accepted just now; `next_at` only while it is queued."""

    state: SubmissionState
    recipients: tuple[Recipient, ...]
    newly: int
    next_at: Instant | None = None
    code: str | None = None
    text: str | None = None


def pause(attempts: int, spread: int) -> Instant:
    """How long to wait after so many attempts: doubling from a minute to an hour, and up to a fifth more. `spread` is
    any number that differs between submissions, so that they do not come back together.
    """
    base = min(FIRST_PAUSE << min(attempts - 1, 10), LONGEST_PAUSE)
    return base + base // 5 * (spread % 101) // 100


def verdict(
    recipients: Sequence[Recipient], outcome: Outcome, *, now: Instant, attempts: int, give_up_at: Instant, spread: int
) -> Verdict:
    """What follows. `attempts` counts this one; from `give_up_at` on nothing waits any more."""
    after = tuple(_recipient(recipient, outcome) for recipient in recipients)
    newly = len(accepted(after)) - len(accepted(recipients))
    said = outcome.whole or next((answer for answer in outcome.each.values() if answer is not None), None)
    code, text = (None, None) if said is None else (said.code, said.text)
    if any(recipient.state is RecipientState.UNCERTAIN for recipient in after):
        return Verdict(SubmissionState.UNCERTAIN, after, newly, code=code, text=text)
    if waiting(after):
        wait = LOGIN_PAUSE if outcome.login else max(pause(attempts, spread), min(outcome.pause or 0, LONGEST_ASKED))
        if now + wait < give_up_at:
            return Verdict(SubmissionState.QUEUED, after, newly, now + wait, code, text)
        after = give_up(after)
    return Verdict(ended(after), after, newly, code=code, text=text)


def taken(recipients: Sequence[Recipient], *, now: Instant, give_up_at: Instant) -> Verdict:
    """What follows when it turns out that the server took what was uncertain."""
    after = tuple(
        replace(recipient, state=RecipientState.ACCEPTED, code=None, text=None)
        if recipient.state is RecipientState.UNCERTAIN
        else recipient
        for recipient in recipients
    )
    if waiting(after) and now < give_up_at:
        return Verdict(SubmissionState.QUEUED, after, len(accepted(after)), now)
    after = give_up(after)
    return Verdict(ended(after), after, len(accepted(after)))


def ended(recipients: Sequence[Recipient]) -> SubmissionState:
    """The state when nobody waits any more."""
    return SubmissionState.SENT if accepted(recipients) else SubmissionState.FAILED


def give_up(recipients: Sequence[Recipient]) -> tuple[Recipient, ...]:
    """Nothing waits any more: the last answer of the server stays as the reason."""
    return tuple(
        replace(recipient, state=RecipientState.REFUSED, code=recipient.code or "gave_up")
        if recipient.state is RecipientState.WAITING
        else recipient
        for recipient in recipients
    )


def again(recipients: Sequence[Recipient]) -> tuple[Recipient, ...]:
    """By request: whoever did not get it for sure is tried again."""
    tried = (RecipientState.UNCERTAIN, RecipientState.REFUSED, RecipientState.CANCELED)
    return tuple(Recipient(recipient.address) if recipient.state in tried else recipient for recipient in recipients)


def _recipient(recipient: Recipient, outcome: Outcome) -> Recipient:
    if recipient.state is not RecipientState.WAITING:
        return recipient
    answer = outcome.each.get(recipient.address, outcome.whole)
    if answer is None and recipient.address in outcome.each:
        if outcome.whole is None:
            return replace(recipient, state=RecipientState.ACCEPTED, code=None, text=None)
        if outcome.unknown:
            state = RecipientState.UNCERTAIN
            return replace(recipient, state=state, code=outcome.whole.code, text=outcome.whole.text)
        answer = outcome.whole
    if answer is None:
        return recipient
    state = RecipientState.WAITING if answer.transient or outcome.login else RecipientState.REFUSED
    return replace(recipient, state=state, code=answer.code, text=answer.text)
