"""The providers that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from connectors.oauth.model import Provider
from mailgate.consents.model import ProviderName
from mailgate.settings import Settings

_GOOGLE = "https://accounts.google.com/o/oauth2/v2/auth"
_GOOGLE_TOKENS = "https://oauth2.googleapis.com/token"
_MICROSOFT = "https://login.microsoftonline.com/{}/oauth2/v2.0/{}"
_OUTLOOK = "https://outlook.office.com/"
CALLBACK = "/v1/oauth/callback/"


@dataclass(frozen=True, slots=True)
class Offered:
    """A provider that is set up, the mail servers that get its tokens, and where it sends people back to."""

    provider: Provider
    hosts: frozenset[str]
    redirect_uri: str


def offered(settings: Settings) -> Mapping[ProviderName, Offered]:
    """By name, those that have a client id."""
    google, microsoft, generic = settings.oauth_google, settings.oauth_microsoft, settings.oauth_generic
    found = (
        Provider(
            name=ProviderName.GOOGLE,
            title="Google",
            authorize_url=_GOOGLE,
            token_url=_GOOGLE_TOKENS,
            client_id=google.client_id,
            client_secret=google.client_secret,
            scopes=("https://mail.google.com/",),
            extra={"access_type": "offline", "prompt": "consent"},  # else it gives a refresh token only once
        ),
        Provider(
            name=ProviderName.MICROSOFT,
            title="Microsoft",
            authorize_url=_MICROSOFT.format(microsoft.directory, "authorize"),
            token_url=_MICROSOFT.format(microsoft.directory, "token"),
            client_id=microsoft.client_id,
            client_secret=microsoft.client_secret,
            scopes=(f"{_OUTLOOK}IMAP.AccessAsUser.All", f"{_OUTLOOK}SMTP.Send", "offline_access"),
            extra={"prompt": "select_account"},
        ),
        Provider(
            name=ProviderName.GENERIC,
            title=generic.title or urlsplit(generic.authorize_url).hostname or ProviderName.GENERIC.value,
            authorize_url=generic.authorize_url,
            token_url=generic.token_url,
            client_id=generic.client_id,
            client_secret=generic.client_secret,
            scopes=generic.scopes,
        ),
    )
    hosts = {"google": google.hosts, "microsoft": microsoft.hosts, "generic": generic.hosts}
    return {
        ProviderName(provider.name): Offered(
            provider,
            frozenset(host.lower() for host in hosts[provider.name]),
            settings.public_url + CALLBACK + provider.name,
        )
        for provider in found
        if provider.client_id
    }
