"""What a pass brings: messages made ready for the store, and the batch that is committed at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final

from connectors.model import SpecialUse
from mailgate.clock import Instant
from mailgate.messages.returned import Undelivered
from mailgate.sync.actions import Action
from mailgate.sync.identity import Likeness
from mailgate.sync.state import Checkpoint, Entitled, FolderState, Progress
from mailgate.sync.views import Base, Near, Origin


@dataclass(frozen=True, slots=True)
class View:
    """The two known views of one UID."""

    base: Base | None
    near: Near


@dataclass(frozen=True, slots=True)
class Known:
    """A copy or tombstone whose header token was met at the server.

    `near` is Present, Detached or Tombstoned. `free`: its own address is void, so it may be what was met. Otherwise
    `folder_ids` are the folders where it was last seen to stand, and `origins` its addresses there. `marks`: its
    original was marked to be removed, since its copy stands already where it is moved to.
    """

    near: Near
    key: str
    likeness: Likeness
    free: bool
    folder_ids: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()
    marks: bool = False


@dataclass(slots=True)  # not frozen: to make, and to hand to another process, takes a third of the time
class PreparedBlob:
    """Raw bytes that lie in the blob store already, durably, and are not referred to yet."""

    id: str
    content_token: bytes
    size: int
    stored_size: int
    data_key: bytes
    key_epoch: int

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedBlob, _BLOB(self)


_BLOB: Final = attrgetter(*PreparedBlob.__slots__)  # to pickle values alone takes half of what names and values take


@dataclass(frozen=True, slots=True)
class Bounce:
    """A delivery report: keyed tokens of the Message-IDs of what was not delivered, and to whom."""

    msgid_tokens: tuple[bytes, ...]
    recipients: tuple[Undelivered, ...]


@dataclass(slots=True)  # not frozen: to make, and to hand to another process, takes a third of the time
class PreparedMessage:
    """Everything that a new copy's rows say. `flags` and `labels` sorted, the latter None where the server has no such
    thing; `size` of the bytes that came, not of RFC822.SIZE; `email_token` of the server's own identity of it.
    `replaces`: it is a new version of the copy with that id; `returns`: that copy was purged, and is asked for again.
    `answers`: keyed token of the Message-ID in its In-Reply-To; `bounce`: it reports that another was not delivered.
    `links`: keyed tokens of the Message-IDs by which it joins a thread.
    """

    uid: int
    id: str
    item_ref: str
    anchor_at: Instant
    anchor_source: str
    internal_date_at: Instant | None
    stored_at: Instant
    size: int
    flags: tuple[str, ...]
    has_files: bool
    header_token: bytes
    msgid_token: bytes | None
    content_commit: bytes
    msgid_commit: bytes
    summary: bytes
    data_key: bytes
    key_epoch: int
    blob: PreparedBlob
    labels: tuple[str, ...] | None = None
    email_token: bytes | None = None
    replaces: bool = False
    returns: bool = False
    answers: bytes | None = None
    bounce: Bounce | None = None
    links: tuple[bytes, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedMessage, _MESSAGE(self)


_MESSAGE: Final = attrgetter(*PreparedMessage.__slots__)


@dataclass(frozen=True, slots=True)
class Draft:
    """A copy of which a new version was saved; `item_ref` is what the purge log calls it."""

    message_id: str
    item_ref: str


FILED_IN: Final = frozenset({SpecialUse.SENT, SpecialUse.ALL})
"""Where servers put what was sent through them; Gmail has it in All Mail."""


DRAFTED_IN: Final = frozenset({SpecialUse.DRAFTS, SpecialUse.ALL})
"""Where drafts stand; Gmail has them in All Mail."""


def is_draft(use: SpecialUse | None, flags: frozenset[str]) -> bool:
    """Whether a message of a folder with this use is one: in Drafts all are, elsewhere those that say so."""
    return use is SpecialUse.DRAFTS or "\\Draft" in flags


@dataclass(frozen=True, slots=True)
class SentToken:
    """What a message that appeared in Sent may be known by: keyed tokens of its Message-ID, and of whom it is to, its
    subject and its files.
    """

    uid: int
    msgid: bytes | None
    likeness: bytes
    internal_date: Instant | None


class Cause(StrEnum):
    """Why a message was set aside. What may change: `too_large` by a raised limit, the others by another version.

    `bytes_lost`: its copy is whole but for its bytes, which are gone from the blob store.
    """

    TOO_LARGE = "too_large"
    INCOMPLETE = "incomplete"
    NOT_SENT = "not_sent"
    ENDS_THE_LINE = "ends_the_line"
    UNREADABLE = "unreadable"
    REFUSED = "refused"
    LOST = "bytes_lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Aside:
    """A message that can't be fetched or stored, and why.

    `size` as announced, `limit` the one that it passed, `header_token` if so much of it came. `message_id`: the copy
    that keeps its bytes all the same.
    """

    uid: int
    reason: str
    cause: Cause = Cause.UNKNOWN
    size: int | None = None
    limit: int | None = None
    header_token: bytes | None = None
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """A message set aside that is to be tried again; `kept` is the copy with its bytes, None when they must be fetched
    again. `lost`: there is a copy, but its bytes must be.
    """

    id: str
    folder_id: str
    uidvalidity: int
    uid: int
    kept: KeptCopy | None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class KeptCopy:
    """A copy whose summary is empty since its bytes could not be read; where they are, and its keys."""

    message_id: str
    item_ref: str
    data_key: bytes
    key_epoch: int
    blob: PreparedBlob


@dataclass(frozen=True, slots=True)
class Refilled:
    """The bytes of a copy that had lost them; `content_commit` is what the purge log would say of them."""

    message_id: str
    content_commit: bytes
    blob: PreparedBlob


@dataclass(frozen=True, slots=True)
class Mended:
    """What such a copy says now that its bytes could be read; `links` as in `PreparedMessage`."""

    message_id: str
    has_files: bool
    msgid_token: bytes | None
    msgid_commit: bytes
    summary: bytes
    links: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction writes about one folder, in this order; the checkpoint goes with the last effect it covers.

    `initial`: the messages belong to a first import, or to a backfill; `backfill`: that run, by which purged ones may
    come back. `others_gone`: every message of the folder was looked at under
    this UIDVALIDITY, so what stands under another one has vanished.
    `discarded`: blobs that were prepared but are not needed, to be erased.
    """

    folder: FolderState
    uidvalidity: int
    now: Instant
    actions: Sequence[Action] = ()
    messages: Sequence[PreparedMessage] = ()
    aside: Sequence[Aside] = ()
    discarded: Sequence[PreparedBlob] = ()
    checkpoint: Checkpoint | None = None
    progress: Progress | None = None
    initial: bool = False
    others_gone: bool = False
    backfill: str | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What a transaction did, in messages."""

    created: int = 0
    changed: int = 0
    vanished: int = 0
    removed: int = 0

    def __add__(self, other: Applied) -> Applied:
        return Applied(
            self.created + other.created,
            self.changed + other.changed,
            self.vanished + other.vanished,
            self.removed + other.removed,
        )

    def __sub__(self, other: Applied) -> Applied:
        return Applied(
            self.created - other.created,
            self.changed - other.changed,
            self.vanished - other.vanished,
            self.removed - other.removed,
        )

    def to_json(self) -> dict[str, int]:
        """For a run's row."""
        return {"new": self.created, "changed": self.changed, "gone": self.vanished, "removed": self.removed}


@dataclass(frozen=True, slots=True)
class PollStart:
    """What a poll begins with, as of one moment. `asked`: whether the CRM waits for anything, brought to the server or
    not.
    """

    folders: Sequence[FolderState]
    entitled: Entitled
    retries: Sequence[Retry]
    asked: bool
