"""What is given about accounts: over HTTP as JSON, on the pages by forms, in the shell as options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from mailgate.consents.model import ProviderName
from mailgate.usecases.types import Body, Matching, TenantId, one_of, text

# Engines disagree about `\s` beyond ASCII (U+0085, U+FEFF): named, these mean the same to every client.
_BLANKS = r"\s\x00-\x1f\x7f-\xa0\ufeff"

# Without a name and angle brackets around it, a comment, or a list of others: RFC 5322 has these beside an address.
_OTHER = rf"@<>(),;:\\\"{_BLANKS}"
Address = Annotated[
    str,
    StringConstraints(max_length=320),
    Matching(
        rf"^[^\[\]{_OTHER}]{{1,64}}@(?:[^\[\]{_OTHER}]{{1,255}}|\[[A-Za-z0-9:.]{{1,253}}\])$",
        "this is no address; write it alone, like ann@example.com",
    ),
    Field(examples=["ann@acme.example"]),
]
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
Provider = Annotated[ProviderName, Field(strict=False)]
Token = Annotated[
    str,
    StringConstraints(min_length=1, max_length=16_384, pattern=r"^[\x21-\x7e]+$"),
    Field(description="kept encrypted, never shown", json_schema_extra={"writeOnly": True}),
]
Owner = Annotated[str, text(200), Field(description="the user of the CRM whose mailbox it is")]
SecurityWord = Literal["tls", "starttls", "none"]


class OAuth2(Body):
    """The consent of a person, by which mail servers take access tokens in place of a password. `smtp` without tokens
    has the consent of `imap`.
    """

    provider: Provider
    refresh_token: Token | None = Field(default=None, repr=False)
    access_token: Token | None = Field(default=None, repr=False)
    expires_in: int | None = Field(
        default=None, ge=0, le=86_400 * 30, description="seconds that the access token is good for"
    )


class Auth(Body):
    """How to log in: exactly one of them."""

    model_config = ConfigDict(json_schema_extra=lambda schema: one_of(schema, ("password", "oauth2")))

    password: Password | None = Field(default=None, repr=False)
    oauth2: OAuth2 | None = None

    @model_validator(mode="after")
    def _one(self) -> Auth:
        if len(self.model_fields_set) != 1 or (self.password is None) == (self.oauth2 is None):
            raise ValueError("give either password or oauth2")
        return self


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
    address: Address | None = Field(
        default=None, description="from whom mail is to come: it is tried whether the server lets this account send so"
    )
    imap: Account
    smtp: Account | None = None
