"""What clients send and get about mailboxes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from mailgate.api.types import Answer, Body, TenantId, Time, text
from mailgate.sync.port import MailboxState

# Engines disagree about `\s` beyond ASCII (U+0085, U+FEFF): named, these mean the same to every client.
_BLANKS = r"\s\x00-\x1f\x7f-\xa0\ufeff"

Address = Annotated[str, StringConstraints(max_length=320, pattern=rf"^[^@{_BLANKS}]{{1,64}}@[^@{_BLANKS}]{{1,255}}$")]
Host = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253, pattern=rf"^[^/@\\\[\]{_BLANKS}]+$"),
    Field(description="a DNS name or an IP address", examples=["imap.example.com"]),
]
UserName = Annotated[str, StringConstraints(min_length=1, max_length=320, pattern=r"^[^\x00-\x1f\x7f]+$")]
Password = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1_000, pattern=r"^[^\x00\r\n]+$"),
    Field(description="kept encrypted, never shown", json_schema_extra={"writeOnly": True}),
]
Owner = Annotated[str, text(200), Field(description="the user of the CRM whose mailbox it is")]
SecurityWord = Literal["tls", "starttls", "none"]


class Auth(Body):
    """How to log in."""

    password: Password = Field(repr=False)


class Account(Body):
    """Where and how to reach a server."""

    host: Host
    port: int = Field(ge=1, le=65_535, examples=[993])
    security: SecurityWord = Field(default="tls", description="tls from the first byte, starttls, or none")
    username: UserName
    auth: Auth


class FolderRules(Body):
    """Which folders to follow: shell patterns over whole names; without `include` all of them."""

    include: list[Annotated[str, text(1_000)]] = Field(default=[], max_length=200)
    exclude: list[Annotated[str, text(1_000)]] = Field(default=[], max_length=200)


class MailboxBody(Body):
    """An account to connect."""

    address: Address
    owner: Owner | None = None
    shared: bool = False
    enabled: bool = True
    imap: Account
    smtp: Account | None = None
    folders: FolderRules = FolderRules()


class AccountPatch(Body):
    """What changes of an account. Who changes where credentials go must give them anew."""

    host: Host | None = None
    port: int | None = Field(default=None, ge=1, le=65_535)
    security: SecurityWord | None = None
    username: UserName | None = None
    auth: Auth | None = None


class MailboxPatchBody(Body):
    """What to change; what is absent or null stays."""

    enabled: bool | None = Field(default=None, description="false: connections are closed at once, everything is kept")
    address: Address | None = None
    owner: Owner | None = None
    shared: bool | None = None
    imap: AccountPatch | None = None
    smtp: AccountPatch | None = None
    folders: FolderRules | None = None


class VerifyBody(Body):
    """An account to try, for a tenant."""

    tenant_id: TenantId
    imap: Account
    smtp: Account | None = None


class VerifyStep(Answer):
    """One step of trying."""

    step: str = Field(examples=["login"])
    ok: bool
    detail: str


class VerifyAnswer(Answer):
    """How trying went: the last step failed unless `ok`."""

    ok: bool
    steps: list[VerifyStep]


class AccountAnswer(Answer):
    """A server's settings; no secret."""

    host: str
    port: int
    security: SecurityWord
    username: str


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
