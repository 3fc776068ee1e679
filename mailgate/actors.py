"""Who did something: recorded beside every change, in rows, events and the purge log."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """`kind` is token, user, link (a connect link), command, system or billing; `ref` names it: an id, a schedule.
    Never a secret.
    """

    kind: str
    ref: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.ref}"


SYSTEM = Actor("system", "gateway")
SCHEDULE = Actor("system", "schedule")
COMMAND = Actor("command", "cli")
