"""What clients get about mailboxes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mailgate.sync.state import MailboxState
from mailgate.usecases.accounts import FolderRules, SecurityWord
from mailgate.usecases.types import Answer, Body, Time


class VerifyStep(Answer):
    """One step of trying: resolve, connect, tls, login, folders, and for sending the same as smtp_…, with smtp_sender
    in place of folders.
    """

    step: str = Field(examples=["login"])
    ok: bool
    detail: str = Field(description="what the server said, or how it failed; no secret")
    reason: str | None = Field(description="why it failed, as a slug", examples=["certificate_expired"])
    remedy: str | None = Field(description="what to do about it")


class VerifyAnswer(Answer):
    """How trying went: of each server, the last step failed unless `ok`."""

    ok: bool
    steps: list[VerifyStep]


class AccountAnswer(Answer):
    """A server's settings; no secret."""

    host: str
    port: int
    security: SecurityWord
    username: str


class ConsentAnswer(Answer):
    """The consent by which the account is used without a password; no token."""

    provider: str
    given_at: Time
    refreshed_at: Time | None = Field(description="when its provider last gave an access token")
    lapsed_at: Time | None = Field(description="since when only a new consent of the person helps")
    last_error: str | None = Field(description="why the provider gives no access token; null while it does")


class ProgressAnswer(Answer):
    """Of the first import, in messages; `rate` in messages a second, `eta_s` in seconds, null while unknown."""

    done: int
    total: int
    rate: float | None
    eta_s: int | None


class FolderAnswer(Answer):
    """A folder of the account, as last seen, and as the CRM changed it."""

    id: str
    name: str
    special_use: str | None
    followed: bool
    exists: int = Field(description="messages at the server")
    progress: ProgressAnswer
    imported_at: Time | None
    last_pass_at: Time | None
    last_error: str | None
    pending: Literal["create", "rename"] | None = Field(description="what the mail server does not know of it yet")


class MailboxAnswer(Answer):
    """A mailbox and how it is."""

    id: str
    tenant_id: str
    address: str
    owner: str | None
    shared: bool
    enabled: bool
    imap: AccountAnswer
    smtp: AccountAnswer | None
    folder_rules: FolderRules
    consent: ConsentAnswer | None = Field(description="null where passwords are used")
    state: MailboxState
    state_reason: str | None
    state_changed_at: Time
    progress: ProgressAnswer
    imported_at: Time | None = Field(description="when the first import was complete")
    last_checked_at: Time | None = Field(description="when all folders were last known to agree with the server")
    lag_s: float | None = Field(description="seconds since then")
    pending_operations: int = Field(description="changes that the mail server does not know yet")
    guards_open: int = Field(description="refused deletions that wait for a person, see `/guards`")
    quarantined: int = Field(description="messages that are set aside, see `/quarantine`")
    folders: list[FolderAnswer]
    created_at: Time
    removed_at: Time | None


class SyncRunAnswer(Answer):
    """One pass over a mailbox, or a backfill, that was asked for; `counts` in messages."""

    id: str
    kind: Literal["sync", "backfill"]
    mailbox_id: str
    state: str = Field(description="queued, running, completed, halted or failed")
    trigger: str
    actor: str
    requested_at: Time
    finished_at: Time | None
    counts: dict[str, int]
    detail: str | None = Field(description="why it failed")
    days: int | None = Field(description="of a backfill: how far back it reaches")


class BackfillBody(Body):
    """How far back mail is fetched again."""

    days: int = Field(ge=1, le=36_500, description="at most the days that the plan keeps mail")
