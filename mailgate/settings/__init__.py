"""Every setting of the gateway: one model, read from a TOML file and the environment; a wrong value is refused.

Where values come from, later ones win: the defaults here → the file (`--config`, else `MAILGATE_CONFIG`, else
`./mailgate.toml`, else `/etc/mailgate/mailgate.toml`) → the environment (`MAILGATE_SECTION__KEY`; lists separated by
commas or as JSON).

Nothing else reads a configuration file or a MAILGATE_ variable, but for secrets that have no place in a file:
`MAILGATE_ADMIN_TOKEN` (the first admin token), `MAILGATE_MASTER_KEY` (see mailgate.keys) and, for the commands
`key rotate` and `mailbox add`, `MAILGATE_NEW_MASTER_KEY` and `MAILGATE_MAILBOX_PASSWORD`.
"""

from __future__ import annotations

from mailgate.settings.fields import choices_of, facts_of, unit_of
from mailgate.settings.keeping import BillingSettings, ClockSettings, PlansSettings, RetentionSettings
from mailgate.settings.mail import NetSettings, SendingSettings, SyncSettings
from mailgate.settings.model import Settings
from mailgate.settings.providers import (
    OAuthGenericSettings,
    OAuthGoogleSettings,
    OAuthMicrosoftSettings,
    OAuthSettings,
    OidcSettings,
)
from mailgate.settings.reading import (
    ADMIN_TOKEN_VARIABLE,
    CONFIG_VARIABLE,
    ENV_PREFIX,
    MAILBOX_PASSWORD_VARIABLE,
    MASTER_KEY_VARIABLE,
    NEW_MASTER_KEY_VARIABLE,
    each,
    load,
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

__all__ = [
    "ADMIN_TOKEN_VARIABLE",
    "AccessLogSettings",
    "BillingSettings",
    "BlobsSettings",
    "CONFIG_VARIABLE",
    "ClockSettings",
    "DatabaseSettings",
    "ENV_PREFIX",
    "EventsSettings",
    "HttpSettings",
    "KeysSettings",
    "LedgerSettings",
    "LimitsSettings",
    "LogSettings",
    "MAILBOX_PASSWORD_VARIABLE",
    "MASTER_KEY_VARIABLE",
    "NEW_MASTER_KEY_VARIABLE",
    "NetSettings",
    "OAuthGenericSettings",
    "OAuthGoogleSettings",
    "OAuthMicrosoftSettings",
    "OAuthSettings",
    "OidcSettings",
    "OnboardingSettings",
    "PagesSettings",
    "PlansSettings",
    "RetentionSettings",
    "SendingSettings",
    "Settings",
    "SyncSettings",
    "WebhooksSettings",
    "choices_of",
    "each",
    "facts_of",
    "load",
    "unit_of",
]
