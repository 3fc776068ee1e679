"""Every setting of the gateway: one model, read from a TOML file and the environment; a wrong value is refused.

Where values come from, later ones win: the defaults here → the file (`--config`, else `MAILGATE_CONFIG`, else
`./mailgate.toml`, else `/etc/mailgate/mailgate.toml`) → the environment (`MAILGATE_SECTION__KEY`; lists separated by
commas or as JSON).

Nothing else reads a configuration file or a MAILGATE_ variable, but for secrets that have no place in a file:
`MAILGATE_ADMIN_TOKEN` (the first admin token), `MAILGATE_MASTER_KEY` (see mailgate.keys) and, for the commands
`key rotate` and `mailbox add`, `MAILGATE_NEW_MASTER_KEY` and `MAILGATE_MAILBOX_PASSWORD`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from mailgate.errors import ConfigurationError

ENV_PREFIX = "MAILGATE_"
CONFIG_VARIABLE = "MAILGATE_CONFIG"
ADMIN_TOKEN_VARIABLE = "MAILGATE_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
MASTER_KEY_VARIABLE = "MAILGATE_MASTER_KEY"
NEW_MASTER_KEY_VARIABLE = "MAILGATE_NEW_MASTER_KEY"
SEARCH_PATH = (Path("mailgate.toml"), Path("/etc/mailgate/mailgate.toml"))

MAILBOX_PASSWORD_VARIABLE = "MAILGATE_MAILBOX_PASSWORD"  # noqa: S105 - the name of a variable

_NOT_SETTINGS = frozenset(
    {
        CONFIG_VARIABLE,
        ADMIN_TOKEN_VARIABLE,
        MASTER_KEY_VARIABLE,
        NEW_MASTER_KEY_VARIABLE,
        MAILBOX_PASSWORD_VARIABLE,
    }
)
# What Kubernetes sets in every container beside a service that is named mailgate.
_FROM_KUBERNETES = re.compile(r"MAILGATE_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)")

KIB = 1024
MIB = 1024 * KIB

Network: TypeAlias = IPv4Network | IPv6Network


def _listed(value: object) -> object:
    """A list as the environment can write it: JSON, or values separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def _networks(value: object) -> object:
    """Networks as text: a number would be taken for the address that it is in binary."""
    entries = _listed(value)
    if isinstance(entries, (list, tuple)) and not all(isinstance(entry, (str, Network)) for entry in entries):
        raise ValueError('networks are written as text, e.g. ["10.0.0.0/8"]')
    return entries


def _named(value: object) -> object:
    """A path that was given: an empty one would mean the working directory."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("it is empty; name a directory, or leave it out for the default")
    return value


def setting(default: Any, description: str, *, unit: str | None = None, secret: bool = False, **bounds: Any) -> Any:
    """One setting: default, what it does, unit, bounds. `secret` keeps the value out of every printed form."""
    return Field(
        default, description=description, json_schema_extra={"unit": unit, "secret": secret}, repr=not secret, **bounds
    )


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


class DatabaseSettings(Section):
    """Where rows live. SQLite serves one process; PostgreSQL as many as one likes."""

    url: str = setting(
        "",
        "Database URL: sqlite:///path or postgresql://user:password@host/name. Empty: sqlite in data_dir.",
        secret=True,
    )
    pool_size: int = setting(
        8,
        "Connections that one process keeps open (SQLite: readers beside the one writer).",
        unit="connections",
        ge=1,
        le=200,
    )
    busy_timeout_s: float = setting(
        30.0, "SQLite: how long to wait for another process's write.", unit="seconds", ge=0.1, le=600
    )


class BlobsSettings(Section):
    """Where the bytes of messages live, compressed and encrypted."""

    url: str = setting(
        "",
        "Blob store URL: file:///path, s3://bucket/prefix, gs://… or az://…. Empty: a directory in data_dir.",
        secret=True,
    )


class KeysSettings(Section):
    """Where keys live: never in the database, never beside the blobs in a shared store."""

    url: str = setting(
        "", "Key store URL: file:///path. Empty: a directory in data_dir. Back it up apart from the database."
    )
    rotate: Literal["monthly", "never"] = setting(
        "monthly",
        "After a month what survived it is wrapped under the new month's keys by itself, and the old keys are "
        "destroyed; or only by `mailgate key rotate`.",
    )
    keep_epochs_days: int = setting(
        35,
        "The key of a month stays for so long after nothing needs it: a database backup that is older can't be read "
        "any more. Keep no backup for longer.",
        unit="days",
        ge=1,
        le=3_650,
    )


class LedgerSettings(Section):
    """The purge log."""

    origin: str = setting(
        "",
        "Name of this installation in the purge log (a DNS name that you own); fixed for good by the first start. "
        "Empty: the machine's name.",
        max_length=200,
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?)?$",
    )
    witness: str = setting(
        "",
        "Directory for a copy of every signed log checkpoint, on other storage than the database, so that a restored "
        "backup is noticed. "
        "Empty: in data_dir, where a rollback of the whole disk would go unseen.",
    )
    keep_entries: bool = setting(
        True,
        "Keep a copy of the logs' entries there too. Without it a restored backup can't be brought up to date by "
        "`mailgate restore`.",
    )
    timestamp_url: str = setting(
        "",
        "Where a time-stamping authority answers (RFC 3161 over HTTP); it is asked for a stamp on the newest "
        "checkpoint of each log. Empty: no stamps.",
        max_length=2_000,
        pattern=r"^(https?://[^\s]+)?$",
    )
    timestamp_ca: str = setting(
        "",
        "PEM file with the authority's root certificates. With it, stamps are verified before they are kept; without "
        "it, only auditors verify them.",
    )
    sign_interval_s: int = setting(
        3600, "How often a log that grew is signed, beside after each run.", unit="seconds", ge=60, le=86_400
    )


class HttpSettings(Section):
    """The HTTP interface."""

    host: str = setting("127.0.0.1", "Address to listen on.", min_length=1, max_length=255)
    port: int = setting(8025, "Port to listen on; 0 takes a free one.", unit="port", ge=0, le=65_535)
    public_url: str = setting(
        "",
        "The address by which clients reach the gateway. Empty: http://host:port.",
        pattern=r"^(https?://[^\s/]+(/\S*)?)?$",
    )
    docs: bool = setting(True, "Serve the reference at /docs.")
    shutdown_grace_s: float = setting(
        10.0, "How long running requests may go on after a signal to stop.", unit="seconds", ge=0, le=300
    )


class NetSettings(Section):
    """What the gateway may connect to."""

    allow: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = setting(
        (),
        "Private, loopback or link-local networks to which mail servers and webhooks may resolve; others are refused.",
        unit="networks",
    )


class SyncSettings(Section):
    """Reading mailboxes."""

    poll_interval_s: int = setting(60, "How often folders without IDLE are checked.", unit="seconds", ge=1, le=86_400)
    idle_reissue_s: int = setting(
        600,
        "How long one IDLE lasts before it is issued again, which proves that the line is alive.",
        unit="seconds",
        ge=5,
        le=1_740,
    )
    connect_timeout_s: float = setting(20.0, "Time for name, connection, TLS and login.", unit="seconds", ge=1, le=300)
    command_timeout_s: float = setting(
        60.0, "Time for a server's next bytes in answer to a command.", unit="seconds", ge=1, le=900
    )
    batch_bytes: int = setting(
        8 * MIB,
        "Bytes of messages that an import commits together; bounds memory.",
        unit="bytes",
        ge=256 * KIB,
        le=256 * MIB,
    )
    batch_messages: int = setting(500, "Messages that an import commits together.", unit="messages", ge=1, le=5_000)
    max_message_bytes: int = setting(
        256 * MIB, "A larger message is set aside, not stored.", unit="bytes", ge=1 * MIB, le=2048 * MIB
    )
    imports_at_once: int = setting(
        4,
        "First imports that run at the same time; the others wait in line, fairly between tenants; live mailboxes "
        "do not wait.",
        unit="mailboxes",
        ge=1,
        le=100,
    )
    connects_at_once: int = setting(
        32,
        "Connections that are being opened at the same time, to all mail servers together.",
        unit="connections",
        ge=1,
        le=1_000,
    )
    host_connects_at_once: int = setting(
        16,
        "The same to one mail server; fewer while it refuses or does not answer.",
        unit="connections",
        ge=1,
        le=1_000,
    )
    host_connections: int = setting(
        0,
        "Connections to one mail server that are open at the same time (each mailbox has one); mailboxes beyond take "
        "turns, fairly between tenants. 0: no limit.",
        unit="connections",
        ge=0,
        le=100_000,
    )
    lease_s: int = setting(
        30, "How long a mailbox stays owned by a process that went silent.", unit="seconds", ge=5, le=600
    )
    backoff_min_s: float = setting(5.0, "First pause after a fault of line or server.", unit="seconds", ge=0.01, le=600)
    backoff_max_s: float = setting(900.0, "Longest pause between attempts.", unit="seconds", ge=1, le=86_400)
    push_attempts: int = setting(
        8,
        "How often the mail server may put off a change that the CRM asked for, before it fails.",
        unit="attempts",
        ge=1,
        le=100,
    )


class SendingSettings(Section):
    """Outgoing mail."""

    max_message_bytes: int = setting(
        25 * MIB,
        "Largest message that is sent, as it leaves (files grow by a third on the way); bounds memory.",
        unit="bytes",
        ge=64 * KIB,
        le=256 * MIB,
    )
    max_recipients: int = setting(100, "Recipients of one message at most.", unit="addresses", ge=1, le=10_000)
    at_once: int = setting(8, "Messages that one process sends at the same time.", unit="connections", ge=1, le=500)
    host_connections: int = setting(
        4, "Connections of one process to one server at the same time.", unit="connections", ge=1, le=500
    )
    give_up_hours: int = setting(
        24, "How long a message that the server puts off is tried again.", unit="hours", ge=1, le=240
    )
    command_timeout_s: float = setting(300.0, "Time for an answer to a command.", unit="seconds", ge=1, le=1_800)
    end_timeout_s: float = setting(
        600.0,
        "Time for the answer to a whole message; a server that took it may still be silent.",
        unit="seconds",
        ge=1,
        le=3_600,
    )


_URL: Final = r"^(https?://[^\s/@]+(/[^\s#]*)?)?$"
_CLIENT_ID: Final = "The gateway's client id there. Empty: this provider is not offered."
_ITS_SECRET: Final = "The client secret that belongs to it. Empty: a public client, which has none."  # noqa: S105
_HOSTS: Final = "Mail servers that get its access tokens; no others do."
_Words: TypeAlias = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=500)], ...], BeforeValidator(_listed)]


class OAuthSettings(Section):
    """Signing in to mail servers without passwords (OAuth 2.0). Providers follow; each is registered there with the
    redirect address `<http.public_url>/v1/oauth/callback/<google, microsoft or generic>`."""

    refresh_ahead_s: int = setting(
        300,
        "An access token is renewed so long before it expires, or in its last quarter.",
        unit="seconds",
        ge=0,
        le=3_600,
    )
    timeout_s: float = setting(15.0, "Time for a provider's answer.", unit="seconds", ge=1, le=45)


class OAuthGoogleSettings(Section):
    """Gmail and Google Workspace."""

    client_id: str = setting("", _CLIENT_ID, max_length=500)
    client_secret: str = setting("", _ITS_SECRET, secret=True, max_length=500)
    hosts: _Words = setting(("imap.gmail.com", "smtp.gmail.com"), _HOSTS, max_length=50)


class OAuthMicrosoftSettings(Section):
    """Microsoft 365 and Outlook.com."""

    client_id: str = setting("", _CLIENT_ID, max_length=500)
    client_secret: str = setting("", _ITS_SECRET, secret=True, max_length=500)
    directory: str = setting(
        "common",
        "Whose accounts may sign in: common (all), organizations, consumers, or the id of one directory.",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
    )
    hosts: _Words = setting(
        ("outlook.office365.com", "smtp.office365.com", "imap-mail.outlook.com", "smtp-mail.outlook.com"),
        _HOSTS,
        max_length=50,
    )


class OAuthGenericSettings(Section):
    """Any other authorisation server, such as one's own."""

    title: str = setting("", "What people know it by. Empty: the host of authorize_url.", max_length=100)
    client_id: str = setting("", _CLIENT_ID, max_length=500)
    client_secret: str = setting("", _ITS_SECRET, secret=True, max_length=500)
    authorize_url: str = setting("", "Where people consent.", pattern=_URL, max_length=2_000)
    token_url: str = setting("", "Where tokens are given.", pattern=_URL, max_length=2_000)
    scopes: _Words = setting((), "What is asked for.", max_length=50)
    hosts: _Words = setting((), _HOSTS, max_length=50)

    @model_validator(mode="after")
    def _whole(self) -> OAuthGenericSettings:
        if self.client_id and not (self.authorize_url and self.token_url and self.hosts):
            raise ValueError("oauth_generic needs client_id, authorize_url, token_url and hosts together")
        return self


class RetentionSettings(Section):
    """When copies are due and how they are purged. Every value is part of the policy version in the purge log."""

    anchor: Literal["received", "stored"] = setting(
        "received",
        "From when a copy's age counts: received at the mail server (never later than stored here), or stored here.",
    )
    min_residence_days: int = setting(
        0, "A copy stays at least this long after it was stored here.", unit="days", ge=0, le=3_650
    )
    plan_shrink_grace_days: int = setting(
        0, "After a plan shrinks, the longer retention goes on for this long.", unit="days", ge=0, le=3_650
    )
    unpin_grace_days: int = setting(
        0, "A copy stays at least this long after its last pin was removed.", unit="days", ge=0, le=3_650
    )
    hold_release_days: int = setting(30, "A released hold still protects for this long.", unit="days", ge=0, le=3_650)
    past_due_grace_days: int = setting(
        10, "A failed renewal keeps the old plan for this long.", unit="days", ge=0, le=365
    )
    rehydrate_days: int = setting(
        7, "A purged copy that was brought back without a pin stays this long.", unit="days", ge=1, le=365
    )
    brake_min: int = setting(
        1_000,
        "A purge that would take more of a tenant's copies than this, and than brake_share, halts unless explained.",
        unit="copies",
        ge=0,
        le=1_000_000_000,
    )
    brake_share: int = setting(20, "The share of a tenant's copies for the same.", unit="percent", ge=0, le=100)
    purge_interval_s: int = setting(3600, "How often the purge runs.", unit="seconds", ge=10, le=86_400)
    batch_size: int = setting(500, "Copies that one purge transaction takes at most.", unit="messages", ge=1, le=500)
    erase_interval_s: int = setting(60, "How often queued erasures of blobs are tried.", unit="seconds", ge=1, le=3_600)


class ClockSettings(Section):
    """Sanity of the machine's clock."""

    max_forward_step_days: int = setting(
        100,
        "If the clock is further ahead of the last recorded time than this, the purge halts and asks.",
        unit="days",
        ge=1,
        le=3_650,
    )
    max_backward_step_s: int = setting(
        300,
        "If the clock is further behind the last run than this, the purge halts and asks.",
        unit="seconds",
        ge=0,
        le=86_400,
    )


class PlansSettings(Section):
    """What is sold."""

    file: str = setting(
        "",
        "Path of plans.toml. Empty: the plans that come with the program. A change is taken over while it runs.",
    )
    notice_days: Annotated[tuple[Annotated[int, Field(ge=1, le=365)], ...], BeforeValidator(_listed)] = setting(
        (30, 7, 1),
        "How long before a plan changes by itself the feed says so, and how far ahead notices look.",
        unit="days",
        max_length=20,
    )


class EventsSettings(Section):
    """The change feed."""

    keep_days: int = setting(
        30, "How long events are kept; a reader that stays away longer takes a new snapshot.", unit="days", ge=1, le=400
    )
    readers: int = setting(
        200,
        "Readers of the feed that one process keeps waiting or streams to at the same time, half of them at most with "
        "tokens of one tenant; others are told to come back.",
        unit="readers",
        ge=1,
        le=10_000,
    )
    keep_alive_s: float = setting(
        15.0, "How often a stream without events says that it is alive.", unit="seconds", ge=0.05, le=300
    )
    poll_interval_s: float = setting(
        1.0,
        "How often is looked for events of which no process told, as after one was killed.",
        unit="seconds",
        ge=0.05,
        le=60,
    )


class WebhooksSettings(Section):
    """Events that are sent to receivers."""

    at_once: int = setting(16, "Requests to receivers at the same time.", unit="requests", ge=1, le=500)
    timeout_s: float = setting(15.0, "Time for a receiver to answer.", unit="seconds", ge=1, le=120)
    give_up_hours: int = setting(
        72, "How long an event is tried before the endpoint is paused.", unit="hours", ge=1, le=720
    )
    keep_days: int = setting(14, "How long deliveries that are over are listed.", unit="days", ge=1, le=400)
    per_tenant: int = setting(
        20, "Endpoints that one tenant may have, and as many that are for all.", unit="endpoints", ge=1, le=1_000
    )
    allow_http: bool = setting(False, "Receivers may be reached without TLS, over http.")


class LogSettings(Section):
    """The gateway's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", "The least serious entries that are written.")
    format: Literal["auto", "json", "console"] = setting(
        "auto", "json: one object a line; console: for people; auto: console on a terminal, else json."
    )


class OnboardingSettings(Section):
    """Finding a mailbox's settings, checking them, and links by which people connect their mailboxes themselves."""

    lookups: bool = setting(
        True,
        "Ask DNS and an address' domain for its mail servers. Off: only known providers, and a guess that is marked.",
    )
    lookup_timeout_s: float = setting(8.0, "Time for each place that is asked.", unit="seconds", ge=0.1, le=60)
    dns_servers: Annotated[tuple[Annotated[str, Field(max_length=45)], ...], BeforeValidator(_listed)] = setting(
        (),
        "Addresses of the name servers that are asked for services and mail hosts (SRV, MX). Empty: this machine's.",
        max_length=10,
    )
    verify_timeout_s: float = setting(
        45.0, "Time for checking one server's settings, from name to sender.", unit="seconds", ge=1, le=300
    )
    checks_at_once: int = setting(
        20,
        "Accounts that one process checks at once, half of them at most for one tenant; more are answered 503.",
        unit="accounts",
        ge=1,
        le=1_000,
    )
    link_hours: int = setting(
        72, "How long a connect link is good when nothing else is asked for.", unit="hours", ge=1, le=720
    )
    link_attempts: int = setting(
        30,
        "How often servers may be looked up or checked by one connect link; then it is void.",
        unit="attempts",
        ge=1,
        le=1_000,
    )
    link_keep_days: int = setting(
        30, "How long a connect link is listed after it was used, revoked or expired.", unit="days", ge=1, le=400
    )
    return_urls: Annotated[tuple[Annotated[str, Field(max_length=2_000)], ...], BeforeValidator(_listed)] = setting(
        (),
        "Where a person may be sent back to after a connect link: beginnings of URLs, up to a whole part of the path, "
        "such as https://crm.example/settings. Empty: nowhere.",
        max_length=100,
    )
    service_name: str = setting(
        "",
        "What people know the CRM as; the page behind a connect link names it. Empty: the tenant alone.",
        max_length=100,
    )


class LimitsSettings(Section):
    """What one client may ask of the gateway."""

    request_bytes: int = setting(1 * MIB, "Largest body of a request.", unit="bytes", ge=16 * KIB, le=64 * MIB)
    parse_bytes: int = setting(
        32 * MIB,
        "Larger messages are served raw only; their text and parts are not taken apart.",
        unit="bytes",
        ge=1 * MIB,
        le=256 * MIB,
    )
    parses_at_once: int = setting(
        2, "Messages that are taken apart for answers at the same time.", unit="messages", ge=1, le=64
    )
    uploads_at_once: int = setting(
        16,
        "Messages that clients append at the same time, each in about 3 MiB of memory, and letters of more than "
        "limits.request_bytes that they submit; more are answered 429.",
        unit="messages",
        ge=1,
        le=1_000,
    )
    idempotency_hours: int = setting(24, "How long an Idempotency-Key is remembered.", unit="hours", ge=1, le=720)
    requests_per_minute: int = setting(
        6_000,
        "Requests of one token, in the long run; more are answered 429. Each process counts for itself. 0: no limit.",
        unit="requests",
        ge=0,
        le=1_000_000,
    )
    requests_burst: int = setting(
        1_000, "Requests that a token which was quiet may make at once.", unit="requests", ge=1, le=1_000_000
    )


class BillingSettings(Section):
    """Billing systems that tell of subscriptions."""

    stripe_secrets: Annotated[
        tuple[Annotated[str, Field(min_length=8, max_length=200)], ...], BeforeValidator(_listed)
    ] = setting(
        (),
        "Signing secrets of the webhook endpoint at Stripe (whsec_…); while one is rotated, the old and the new one. "
        "Empty: Stripe is not listened to.",
        secret=True,
        max_length=5,
    )


class PagesSettings(Section):
    """The pages at /admin."""

    enabled: bool = setting(True, "Serve them.")
    secure_cookie: bool = setting(
        False,
        "Mark the session's cookie Secure always. It is so anyway over https, and where http.public_url is https.",
    )
    idle_minutes: int = setting(60, "A session that nobody used for so long is over.", unit="minutes", ge=5, le=1_440)
    session_hours: int = setting(12, "How long a session lasts at most.", unit="hours", ge=1, le=720)


class OidcSettings(Section):
    """Signing in to the pages at an OpenID provider, beside passwords. Register there
    `<http.public_url>/admin/sign-in/oidc/callback`."""

    issuer: str = setting(
        "", "The provider, as it calls itself in `iss`. Empty: passwords only.", pattern=_URL, max_length=2_000
    )
    title: str = setting("", "What people know it by. Empty: the issuer's host.", max_length=100)
    client_id: str = setting("", "The gateway's client id there.", max_length=500)
    client_secret: str = setting("", _ITS_SECRET, secret=True, max_length=500)
    scopes: _Words = setting(("openid", "email", "profile"), "What is asked for.", max_length=20)
    name_claim: str = setting(
        "email",
        "The claim that is the user's name here. Of `email` only verified addresses count; choose none that people can "
        "change themselves.",
        min_length=1,
        max_length=100,
    )
    role_claim: str = setting(
        "",
        "The claim that gives people their role; a dot looks inside. Empty: only users that were added here are let "
        "in, with the role that they have here.",
        max_length=100,
    )
    admins: _Words = setting((), "Values of role_claim that make an admin.", max_length=100)
    compliance: _Words = setting((), "Values of role_claim that make compliance.", max_length=100)
    make_users: bool = setting(False, "Make a user, for all tenants, of whoever has a role by role_claim.")

    @model_validator(mode="after")
    def _whole(self) -> OidcSettings:
        if self.issuer and not self.client_id:
            raise ValueError("oidc.issuer needs oidc.client_id")
        if self.make_users and not self.role_claim:
            raise ValueError("oidc.make_users needs oidc.role_claim")
        return self


class AccessLogSettings(Section):
    """Who read or changed what."""

    keep_days: int = setting(400, "How long its entries are kept.", unit="days", ge=1, le=3_650)


class Settings(Section):
    """All settings. `load` reads them; making one directly looks at neither file nor environment."""

    data_dir: Annotated[Path, BeforeValidator(_named)] = setting(
        Path("data"),
        "Directory for everything that has no address of its own. Made when missing, readable by its owner only.",
    )
    database: DatabaseSettings = DatabaseSettings()
    blobs: BlobsSettings = BlobsSettings()
    keys: KeysSettings = KeysSettings()
    ledger: LedgerSettings = LedgerSettings()
    http: HttpSettings = HttpSettings()
    net: NetSettings = NetSettings()
    sync: SyncSettings = SyncSettings()
    sending: SendingSettings = SendingSettings()
    oauth: OAuthSettings = OAuthSettings()
    oauth_google: OAuthGoogleSettings = OAuthGoogleSettings()
    oauth_microsoft: OAuthMicrosoftSettings = OAuthMicrosoftSettings()
    oauth_generic: OAuthGenericSettings = OAuthGenericSettings()
    retention: RetentionSettings = RetentionSettings()
    clock: ClockSettings = ClockSettings()
    plans: PlansSettings = PlansSettings()
    events: EventsSettings = EventsSettings()
    webhooks: WebhooksSettings = WebhooksSettings()
    log: LogSettings = LogSettings()
    onboarding: OnboardingSettings = OnboardingSettings()
    limits: LimitsSettings = LimitsSettings()
    billing: BillingSettings = BillingSettings()
    pages: PagesSettings = PagesSettings()
    oidc: OidcSettings = OidcSettings()
    access_log: AccessLogSettings = AccessLogSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.sync.backoff_min_s > self.sync.backoff_max_s:
            raise ValueError("sync.backoff_min_s is larger than sync.backoff_max_s")
        return self

    @property
    def database_url(self) -> str:
        return self.database.url or f"sqlite:///{self._place('mailgate.db')}"

    @property
    def blobs_url(self) -> str:
        return self.blobs.url or self._place("blobs").as_uri()

    @property
    def keys_url(self) -> str:
        return self.keys.url or self._place("keys").as_uri()

    @property
    def witness_dir(self) -> Path:
        return Path(self.ledger.witness).absolute() if self.ledger.witness else self._place("witness")

    @property
    def public_url(self) -> str:
        host = f"[{self.http.host}]" if ":" in self.http.host else self.http.host
        return (self.http.public_url or f"http://{host}:{self.http.port}").rstrip("/")

    def _place(self, name: str) -> Path:
        return self.data_dir.absolute() / name


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read file and environment. Raises ConfigurationError: what is wrong, where it was set, and the nearest name."""
    environ = os.environ if environ is None else environ
    file = _file(path, environ)
    values = _read(file) if file else {}
    for name, text in environ.items():
        if name.startswith(ENV_PREFIX) and name not in _NOT_SETTINGS and not _FROM_KUBERNETES.fullmatch(name):
            _overlay(values, name, text)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, file, environ)) from None


def each() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting as (dotted name, field), in the order of the file: for the example file, the docs, their tests."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for key, inner in section.model_fields.items():
                yield f"{name}.{key}", inner
        else:
            yield name, field


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            raise ConfigurationError(f"the configuration file {named} does not exist")
        return named
    return next((candidate for candidate in SEARCH_PATH if candidate.is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{file} can't be read: {error}") from error


def _overlay(values: dict[str, Any], variable: str, text: str) -> None:
    dotted = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
    if dotted not in dict(each()):
        raise ConfigurationError(f"the environment sets {variable}, but there is no setting {dotted}{_nearest(dotted)}")
    section, _, key = dotted.rpartition(".")
    table = values.setdefault(section, {}) if section else values
    if not isinstance(table, dict):
        raise ConfigurationError(f"{section} is a table of settings, not a value")
    table[key] = text


def _nearest(dotted: str) -> str:
    names = [name for name, _ in each()]
    close = difflib.get_close_matches(dotted, names, n=1, cutoff=0.6)
    if not close:  # perhaps the right key in the wrong section
        close = [name for name in names if name.rpartition(".")[2] == dotted.rpartition(".")[2]][:1]
    return f"; did you mean {close[0]}?" if close else "; `mailgate init --print-config` lists them all"


def _explain(error: ValidationError, file: Path | None, environ: Mapping[str, str]) -> str:
    """One line a fault; never the value, which may be a secret."""
    lines = []
    for fault in error.errors(include_input=False, include_url=False):
        known = dict(each())
        parts = [str(part) for part in fault["loc"]]
        dotted = next((name for size in (2, 1) if (name := ".".join(parts[:size])) in known), ".".join(parts[:2]))
        variable = ENV_PREFIX + dotted.upper().replace(".", "__")
        source = f"environment {variable}" if variable in environ else str(file) if file else "settings"
        if fault["type"] == "extra_forbidden":
            lines.append(f"{source}: there is no setting {dotted}{_nearest(dotted)}")
        else:
            lines.append(f"{source}: {dotted + ': ' if dotted else ''}{fault['msg'].removeprefix('Value error, ')}")
    return "\n".join(dict.fromkeys(lines))


def unit_of(field: FieldInfo) -> str | None:
    """The unit of a setting, if it has one."""
    extra = field.json_schema_extra
    unit = extra.get("unit") if isinstance(extra, dict) else None
    return str(unit) if unit else None


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The words that a setting accepts, when it is one of a few."""
    return (
        tuple(str(word) for word in get_args(field.annotation))
        if str(field.annotation).startswith("typing.Literal")
        else ()
    )
