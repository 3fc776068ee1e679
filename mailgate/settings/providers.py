"""Signing in at somebody else: OAuth for mailboxes, OpenID Connect for the users of the pages."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from mailgate.settings.fields import Section, listed, setting

_URL: Final = r"^(https?://[^\s/@]+(/[^\s#]*)?)?$"
_URL_WRITTEN: Final = "https://host/path, without user and fragment"
_CLIENT_ID: Final = "The gateway's client id there. Empty: this provider is not offered."
_ITS_SECRET: Final = "The client secret that belongs to it. Empty: a public client, which has none."  # noqa: S105 - words about one
_HOSTS: Final = "Mail servers that get its access tokens; no others do."
_Words: TypeAlias = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=500)], ...], BeforeValidator(listed)]


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
        written="one of these words, or a directory's id",
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
    authorize_url: str = setting("", "Where people consent.", written=_URL_WRITTEN, pattern=_URL, max_length=2_000)
    token_url: str = setting("", "Where tokens are given.", written=_URL_WRITTEN, pattern=_URL, max_length=2_000)
    scopes: _Words = setting((), "What is asked for.", max_length=50)
    hosts: _Words = setting((), _HOSTS, max_length=50)

    @model_validator(mode="after")
    def _whole(self) -> OAuthGenericSettings:
        if self.client_id and not (self.authorize_url and self.token_url and self.hosts):
            raise ValueError("oauth_generic needs client_id, authorize_url, token_url and hosts together")
        return self


class OidcSettings(Section):
    """Signing in to the pages at an OpenID provider, beside passwords. Register there
    `<http.public_url>/admin/sign-in/oidc/callback`."""

    issuer: str = setting(
        "",
        "The provider, as it calls itself in `iss`. Empty: passwords only.",
        written=_URL_WRITTEN,
        pattern=_URL,
        max_length=2_000,
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
