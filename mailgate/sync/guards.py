"""Refusing the improbable: a folder that is suddenly empty, or mostly gone, is more likely a fault than a wish. Pure.

A refused folder keeps all its copies, its disappearances stay pending, the mailbox says `needs_approval` and why;
everything else of the mailbox goes on. If the messages turn up again the guard falls away by itself.

Trash, Junk and Drafts are emptied all the time, by people and by servers: they have no guard.
"""

from __future__ import annotations

from dataclasses import dataclass

from connectors.model import SpecialUse

FEW = 50
"""So many disappearances at once are always believed."""
SHARE_PERCENT = 30
"""Above `FEW`, so much of a folder."""

UNGUARDED = frozenset({SpecialUse.TRASH, SpecialUse.JUNK, SpecialUse.DRAFTS})


@dataclass(frozen=True, slots=True)
class Disappearance:
    """What went from one folder and is about to be believed: `gone` of the `known` copies that stood there."""

    folder: str
    special_use: SpecialUse | None
    known: int
    gone: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A guard's verdict, with the reason that a person reads."""

    folder: str
    reason: str


def judge(disappearance: Disappearance) -> Refusal | None:
    """A refusal, or None when the disappearance may be believed."""
    known, gone = disappearance.known, disappearance.gone
    if disappearance.special_use in UNGUARDED or gone <= max(FEW, known * SHARE_PERCENT // 100):
        return None
    if gone >= known:
        what = f"the folder {disappearance.folder!r} is empty at the server, where {known} messages stood"
    else:
        what = f"{gone} of {known} messages are gone from the folder {disappearance.folder!r} at the server"
    return Refusal(
        disappearance.folder,
        f"{what}; their copies are kept. If they were deleted on purpose, "
        "approve it; if not, restore them at the server",
    )
