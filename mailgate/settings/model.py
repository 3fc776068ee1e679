"""All settings in one model, in the order of the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pydantic import BeforeValidator, model_validator

from mailgate.settings.fields import Section, named, setting
from mailgate.settings.keeping import BillingSettings, ClockSettings, PlansSettings, RetentionSettings
from mailgate.settings.mail import NetSettings, SendingSettings, SyncSettings
from mailgate.settings.providers import (
    OAuthGenericSettings,
    OAuthGoogleSettings,
    OAuthMicrosoftSettings,
    OAuthSettings,
    OidcSettings,
)
from mailgate.settings.serving import (
    AccessLogSettings,
    EventsSettings,
    HttpSettings,
    LimitsSettings,
    LogSettings,
    OnboardingSettings,
    PagesSettings,
    WebhooksSettings,
)
from mailgate.settings.storage import BlobsSettings, DatabaseSettings, KeysSettings, LedgerSettings

_USER_ALONE = re.compile(r"^(postgresql(?:\+\w+)?://[^/?#:@]+)@")


class Settings(Section):
    """All settings. `load` reads them; making one directly looks at neither file nor environment."""

    data_dir: Annotated[Path, BeforeValidator(named)] = setting(
        Path("data"),
        "Directory for everything that has no address of its own. Made when missing, readable by its owner only.",
        written="a path",
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
        if self.database.password and not _USER_ALONE.match(self.database.url):
            raise ValueError(
                "database.password is for a user that database.url names without one: postgresql://user@host/name"
            )
        if "://" in self.ledger.witness:
            raise ValueError("ledger.witness is a directory, not a URL")
        return self

    @property
    def database_url(self) -> str:
        """With the password, percent-encoded as a URL needs it."""
        if self.database.password:
            return _USER_ALONE.sub(rf"\1:{quote(self.database.password, safe='')}@", self.database.url, count=1)
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
    def exports_dir(self) -> Path:
        """Where files lie until they are sent."""
        return self._place("exports")

    @property
    def public_url(self) -> str:
        host = f"[{self.http.host}]" if ":" in self.http.host else self.http.host
        return (self.http.public_url or f"http://{host}:{self.http.port}").rstrip("/")

    def _place(self, name: str) -> Path:
        return self.data_dir.absolute() / name
