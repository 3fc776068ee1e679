"""What a submission is at each moment. Pure.

    queued ──claim──▶ queued (claimed: connecting, MAIL, RCPT)
       ▲                 │ journal, before DATA
       │                 ▼
       │◀──refused──  sending ──the server's 250──▶ sent
       │                 │ killed, or the line was lost behind the last byte
       │ (by request)    ▼
       └───────────  uncertain ──its copy, an answer or a report turns up──▶ sent

A submission that is queued was not handed over, or not to those recipients that wait; one that is `sending` may have
been. What may have been is never sent again by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class SubmissionState(StrEnum):
    """The words of the interface."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    CANCELED = "canceled"
    UNCERTAIN = "uncertain"


class RecipientState(StrEnum):
    """Of one recipient: `waiting` for the first or another attempt; `bounced`: accepted, and returned later."""

    WAITING = "waiting"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNCERTAIN = "uncertain"
    CANCELED = "canceled"
    BOUNCED = "bounced"


@dataclass(frozen=True, slots=True)
class Recipient:
    """One address of the envelope, and the last thing that was said about it."""

    address: str
    state: RecipientState = RecipientState.WAITING
    code: str | None = None
    text: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For the sealed column."""
        return {"address": self.address, "state": self.state.value, "code": self.code, "text": self.text}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Recipient:
        """The inverse."""
        return cls(value["address"], RecipientState(value["state"]), value["code"], value["text"])


def waiting(recipients: Iterable[Recipient]) -> list[Recipient]:
    """Those that another attempt is for."""
    return [recipient for recipient in recipients if recipient.state is RecipientState.WAITING]


def accepted(recipients: Iterable[Recipient]) -> list[Recipient]:
    """Those for whom the server took responsibility, whatever came later."""
    taken = (RecipientState.ACCEPTED, RecipientState.BOUNCED)
    return [recipient for recipient in recipients if recipient.state in taken]
