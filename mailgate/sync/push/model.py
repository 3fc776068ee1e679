"""What is known of an operation, what a look at the server showed, and what may be done next: frozen values. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from connectors.model import SpecialUse
from mailgate.clock import Instant
from mailgate.sync.identity import Likeness
from mailgate.sync.state import FolderState


@dataclass(frozen=True, slots=True)
class Original:
    """Where an original stands, as far as is known; `flags` and `labels` are the base's."""

    folder: FolderState
    uidvalidity: int
    uid: int
    flags: frozenset[str] = frozenset()
    labels: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """Where the raw bytes of a copy lie."""

    blob_id: str
    data_key: bytes
    key_epoch: int
    size: int


@dataclass(frozen=True, slots=True)
class Copy:
    """The copy that an operation is about. `originals` are those that stand; `missing`: one has disappeared, or its
    folder was renumbered, and the passes have not settled what that means.
    """

    message_id: str
    originals: tuple[Original, ...]
    missing: bool
    pins: int
    likeness: Likeness
    msgid_token: bytes | None
    stored: StoredBytes


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that an operation names. `gone`: not at the server any more; `on_its_way`: create, delete or None."""

    folder: FolderState
    gone: bool = False
    on_its_way: str | None = None

    @property
    def void(self) -> bool:
        """Nothing can be put there."""
        return self.gone or not self.folder.selectable


@dataclass(frozen=True, slots=True)
class Buried:
    """What is left of a copy that was purged: what it is recognised by (its untimed header token), and where its
    originals were last known to stand, as (folder name, UIDVALIDITY, UID). `deleted`: a user did that, not retention.
    """

    message_id: str
    item_ref: str
    anchor_at: Instant
    header_mac: bytes
    addresses: tuple[tuple[str, int, int], ...]
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the store knows of an operation's message and of its `folder_id`. `purged`: the copy was, by retention."""

    copy: Copy | None = None
    purged: bool = False
    place: Place | None = None
    buried: Buried | None = None


class Seen(Enum):
    """Of an original: whether the UID is in its folder; UNKNOWN: the folder was renumbered, or can't be opened."""

    THERE = "there"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a message was put."""

    uidvalidity: int
    uid: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a look at the server showed. `searched`: the target could be searched for `found`; `listed`: names of all
    folders, `containers`: of those that only hold others; `exists`: messages in the folder, None when it does not say;
    `looked`: every folder had a pass since the command was sent, so what it did would have been met. `unanswered`: the
    server may still be carrying out the command, whose line was lost.
    """

    source: Seen = Seen.UNKNOWN
    found: Address | None = None
    searched: bool = True
    listed: frozenset[str] = frozenset()
    exists: int | None = None
    looked: bool = False
    unanswered: bool = False
    containers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Store:
    """Set and remove flags of one original."""

    original: Original
    add: frozenset[str]
    remove: frozenset[str]


@dataclass(frozen=True, slots=True)
class StoreLabels:
    """Set and remove labels of one original."""

    original: Original
    add: frozenset[str]
    remove: frozenset[str]


@dataclass(frozen=True, slots=True)
class Move:
    """Move the original at once."""

    original: Original
    to: FolderState


@dataclass(frozen=True, slots=True)
class CopyThenExpunge:
    """Move in two halves; `copied`: where the first half put it."""

    original: Original
    to: FolderState
    copied: Address | None = None


@dataclass(frozen=True, slots=True)
class TakeBack:
    """The first half of a move goes again, from where it stands: what somebody did with the original counts."""

    original: Original


@dataclass(frozen=True, slots=True)
class Expunge:
    """Remove the original for ever."""

    original: Original


@dataclass(frozen=True, slots=True)
class Append:
    """Put the copy's bytes into the folder."""

    to: FolderState


@dataclass(frozen=True, slots=True)
class CreateFolder:
    """Make the folder."""

    name: str
    special_use: SpecialUse | None


@dataclass(frozen=True, slots=True)
class RenameFolder:
    """Call the folder otherwise."""

    name: str
    to: str


@dataclass(frozen=True, slots=True)
class DeleteFolder:
    """Remove the folder with what is in it."""

    name: str


@dataclass(frozen=True, slots=True)
class BringBack:
    """Fetch the original of a purged copy again. Nothing changes at the server, so it may be done twice."""

    buried: Buried


@dataclass(frozen=True, slots=True)
class LookUp:
    """Find out at the server: whether the `original` is still there, whether it is in `target` by now, which folders
    there are and what is in this one.
    """

    original: Original | None = None
    target: FolderState | None = None
    folder: FolderState | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """Both sides agree. `at`: where the message stands, when only a look at the server showed it."""

    at: Address | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """It will not be done. `code` is a slug; `reason` is for a person."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now. `until` None: until what is known has changed."""

    reason: str
    until: Instant | None = None


Step: TypeAlias = (
    Store
    | StoreLabels
    | Move
    | CopyThenExpunge
    | TakeBack
    | Expunge
    | Append
    | CreateFolder
    | RenameFolder
    | DeleteFolder
    | BringBack
    | LookUp
    | Applied
    | Failed
    | Wait
)
