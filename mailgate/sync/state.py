"""What the sync engine knows of a mailbox and its folders: the frozen values that the store gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from connectors.model import Endpoint, Folder, PasswordAuth, SpecialUse
from mailgate.clock import Instant
from mailgate.consents.model import Consented

UNSURE: Final = -1
"""As a checkpoint's `exists`: the server contradicted itself, and no count is vouched for."""


class MailboxState(StrEnum):
    """What a mailbox says of itself; the words of the API."""

    DISABLED = "disabled"
    NOT_ENTITLED = "not_entitled"
    CONNECTING = "connecting"
    IMPORTING = "importing"
    LIVE = "live"
    POLLING = "polling"
    BACKOFF = "backoff"
    AUTH_FAILED = "auth_failed"
    NEEDS_APPROVAL = "needs_approval"


@dataclass(frozen=True, slots=True)
class Owner:
    """The proof of ownership that goes with every write of a mailbox's sync: lease owner and fencing number."""

    mailbox_id: str
    tenant_id: str
    process: str
    fence: int


@dataclass(frozen=True, slots=True)
class MailboxHead:
    """As much of a mailbox as the supervisor looks at every second."""

    id: str
    tenant_id: str
    enabled: bool
    config_version: int
    state: str
    state_reason: str | None
    plan: str
    entitled: bool


@dataclass(frozen=True, slots=True)
class Backfill:
    """A backfill that was asked for and is not over: nothing received before `floor_at` is brought back by it. `begun`:
    the folders that it has not read to their end have no checkpoint.
    """

    run_id: str
    floor_at: Instant
    begun: bool = False


def standing(
    refusal: str | None, idle_refused: str | None, left_out: str | None, *, idles: bool
) -> tuple[MailboxState, str | None]:
    """What a mailbox that agrees with its server says of itself, and why: a guard's `refusal` goes before everything;
    without IDLE it is asked at an interval; `left_out`: why some folders are not looked at.
    """
    reasons = [left_out] if left_out is not None else []
    state = MailboxState.POLLING
    if refusal is not None:
        state = MailboxState.NEEDS_APPROVAL
        reasons.insert(0, refusal)
    elif idle_refused is not None:
        reasons.insert(0, f"{idle_refused}; it is asked at an interval")
    elif idles:
        state = MailboxState.LIVE
    else:
        reasons.insert(0, "the server has no IDLE: it is asked at an interval")
    return state, "; ".join(reasons) or None


@dataclass(frozen=True, slots=True)
class MailboxConfig:
    """One mailbox with its decrypted settings; `account_ref` is what tombstones belong to. `repr` shows no secret."""

    id: str
    tenant_id: str
    tenant_ref: str
    account_ref: bytes
    config_version: int
    endpoint: Endpoint
    auth: PasswordAuth | Consented
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    import_floor_at: Instant | None
    imported: bool
    state: MailboxState = MailboxState.CONNECTING
    state_reason: str | None = None
    progress_started_at: Instant | None = None
    backfill: Backfill | None = None


@dataclass(frozen=True, slots=True)
class Entitled:
    """What the tenant may do now: `days` None when the plan is not known."""

    sync: bool
    days: int | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Up to where a folder is known: UIDs below `uidnext`, changes up to `highestmodseq`; `exists` at that moment, or
    UNSURE.
    `doubt`: what of the server's answers was impossible and is not believed.
    """

    uidvalidity: int
    uidnext: int
    highestmodseq: int | None
    exists: int
    looked_at: Instant
    doubt: str | None = None


@dataclass(frozen=True, slots=True)
class FolderState:
    """A folder as the store knows it. `uidnext` None: its first import is not complete; `progress_…` of that import, in
    messages. `unreadable_at`: since when it can't be read. `object_id`: the server's own identity of it, whatever it is
    called (RFC 8474 §4.2 MAILBOXID).
    """

    id: str
    name: str
    special_use: SpecialUse | None
    selectable: bool
    followed: bool
    uidvalidity: int | None = None
    uidnext: int | None = None
    highestmodseq: int | None = None
    exists: int = 0
    delimiter: str | None = None
    last_error: str | None = None
    unreadable_at: Instant | None = None
    progress_done: int = 0
    progress_total: int = 0
    object_id: str | None = None

    @property
    def numbers(self) -> tuple[int | None, int | None, int, int | None]:
        """What STATUS tells of it while nothing changes."""
        return self.uidvalidity, self.uidnext, self.exists, self.highestmodseq


@dataclass(frozen=True, slots=True)
class ListingChanges:
    """How the server's folders differ from the store's. `renamed`: folder id → what it is called now."""

    created: Sequence[tuple[Folder, bool]] = ()
    updated: Mapping[str, tuple[Folder, bool]] = field(default_factory=dict)
    renamed: Mapping[str, Folder] = field(default_factory=dict)
    gone: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """Of the folder and of the whole mailbox; counted in messages."""

    folder_done: int
    folder_total: int
    done: int
    total: int
    started_at: Instant


@dataclass(frozen=True, slots=True)
class PendingCount:
    """How many of a folder's `known` copies wait as disappeared, and when the latest was seen gone (None: nothing is).

    `gone` leaves out what the CRM asked for and what has another original. `known` is counted only where it could
    matter. `recent`: believed shortly before; `listed`: the server still lists the folder.
    """

    folder_id: str
    folder: str
    special_use: SpecialUse | None
    known: int
    gone: int
    latest_at: Instant | None
    recent: int = 0
    listed: bool = True


@dataclass(frozen=True, slots=True)
class OpenGuard:
    """A folder's guard that is not closed. `through_at`: it was approved and found valid; what was seen gone until then
    may be believed.
    """

    id: str
    folder_id: str
    reason: str
    gone: int
    raised_at: Instant
    approved: bool
    through_at: Instant | None

    def names(self, count: PendingCount) -> bool:
        """Whether it is sure, without looking at each, that the guard names what is gone now: nothing went since it
        was raised, and as many as then are gone.
        """
        return count.latest_at is not None and count.latest_at <= self.raised_at and count.gone == self.gone
