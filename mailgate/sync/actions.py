"""What a pass decided, as frozen values that print themselves: actions about messages, and settlements of those that
disappeared. None of them reaches the server (S1). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mailgate.clock import Instant
from mailgate.sync.views import Origin, Purged


@dataclass(frozen=True, slots=True)
class Pull:
    """Fetch the message and keep a copy."""

    uid: int

    def __str__(self) -> str:
        return f"pull {self.uid}"


@dataclass(frozen=True, slots=True)
class Return:
    """Fetch the message and bring its purged copy back: a backfill was asked for."""

    uid: int
    purged: Purged

    def __str__(self) -> str:
        return f"bring {self.purged.message_id} back from {self.uid}"


@dataclass(frozen=True, slots=True)
class Link:
    """The message at this UID is the copy that we have. Base becomes what the server says; near becomes that, with
    what the CRM changed and the server did not yet. `left`: addresses that it came from, though nothing said so.
    """

    uid: int
    message_id: str
    flags: frozenset[str]
    labels: frozenset[str] | None = None
    left: tuple[Origin, ...] = ()

    def __str__(self) -> str:
        return f"link {self.uid} to {self.message_id}"


@dataclass(frozen=True, slots=True)
class Merge:
    """Flags or labels changed at the server, where the message stands. Base and near become as with `Link`."""

    uid: int
    message_id: str
    flags: frozenset[str]
    labels: frozenset[str] | None = None

    def __str__(self) -> str:
        said = sorted(self.flags) + [f"label {label}" for label in sorted(self.labels or ())]
        return f"flags of {self.uid} ({self.message_id}): {' '.join(said) or 'none'}"


@dataclass(frozen=True, slots=True)
class Vanish:
    """The original is gone, with evidence; what that means is settled when all other folders were looked at."""

    uid: int

    def __str__(self) -> str:
        return f"vanished {self.uid}"


@dataclass(frozen=True, slots=True)
class Reappear:
    """The original is there after all, as it was."""

    uid: int

    def __str__(self) -> str:
        return f"reappeared {self.uid}"


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing of ours hangs on this address any more."""

    uid: int

    def __str__(self) -> str:
        return f"forget {self.uid}"


@dataclass(frozen=True, slots=True)
class Rebury:
    """The purged message stands at this address now; its tombstone goes with it."""

    uid: int
    tombstone_id: str

    def __str__(self) -> str:
        return f"rebury {self.tombstone_id} at {self.uid}"


@dataclass(frozen=True, slots=True)
class MarkGone:
    """The original of a purged message is gone too."""

    uid: int
    tombstone_id: str

    def __str__(self) -> str:
        return f"original of {self.tombstone_id} gone"


Action: TypeAlias = Pull | Return | Link | Merge | Vanish | Reappear | Forget | Rebury | MarkGone


@dataclass(frozen=True, slots=True)
class Pending:
    """A disappearance that waits. `kept`: pinned or held; `other_origin`: the copy has another original that stands;
    `asked`: the CRM asked for it, or for a move.
    """

    folder_id: str
    uid: int
    uidvalidity: int
    message_id: str
    vanished_at: Instant
    kept: bool
    other_origin: bool
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """The original was deleted and nothing keeps the copy: it goes."""

    message_id: str

    def __str__(self) -> str:
        return f"remove {self.message_id}"


@dataclass(frozen=True, slots=True)
class Detach:
    """The original was deleted, but the copy is pinned or held: it stays, without an original."""

    message_id: str

    def __str__(self) -> str:
        return f"detach {self.message_id}"


@dataclass(frozen=True, slots=True)
class Drop:
    """The message was moved or stands elsewhere too: only this address goes."""

    folder_id: str
    uid: int
    uidvalidity: int
    message_id: str

    def __str__(self) -> str:
        return f"drop the address {self.uid} of {self.message_id}"


Settlement: TypeAlias = Remove | Detach | Drop
