"""Trying an account's settings, one step after the other, so that a person learns which one is wrong."""

from __future__ import annotations

import ssl

from connectors.errors import (
    AddressRefusedError,
    AuthError,
    ConnectorError,
    NetworkError,
    ServerError,
    ThrottledError,
    TlsError,
)
from connectors.imap.connection import connect_imap
from connectors.imap.session import Timeouts
from connectors.model import Endpoint, PasswordAuth
from connectors.net import checked_addresses
from connectors.smtp.errors import RefusedError
from connectors.smtp.session import Timeouts as SmtpTimeouts
from connectors.smtp.session import open_session
from mailgate.settings import Settings
from mailgate.usecases.parts import Verification

STEPS = ("resolve", "connect", "tls", "login", "folders")
SMTP_STEPS = ("smtp_connect", "smtp_tls", "smtp_login")


def tls_context() -> ssl.SSLContext:
    """What all connections to mail servers share: the system's authorities, host names checked, TLS 1.2 or later."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Verifier:
    """Connects once, looks, and leaves; keeps nothing."""

    def __init__(self, settings: Settings, context: ssl.SSLContext) -> None:
        self._allow = settings.net.allow
        self._timeouts = Timeouts(connect_s=settings.sync.connect_timeout_s)
        self._context = context

    async def __call__(self, endpoint: Endpoint, auth: PasswordAuth) -> Verification:
        """Name, connection, TLS, login, list of folders."""
        try:
            await checked_addresses(endpoint.host, endpoint.port, allow=self._allow)
        except ConnectorError as error:
            return _failed("resolve", error)
        try:
            source = await connect_imap(
                endpoint, auth, ssl_context=self._context, allow_networks=self._allow, timeouts=self._timeouts
            )
        except ConnectorError as error:
            return _failed(_step_of(error), error)
        try:
            folders = await source.list_folders()
        except ConnectorError as error:
            return _failed("folders", error)
        finally:
            await source.close()
        return Verification(True, (*_passed("folders"), ("folders", True, f"{len(folders)} folders")))


class SmtpVerifier:
    """The same of a submission server: connects, logs in, sends nothing."""

    def __init__(self, settings: Settings, context: ssl.SSLContext) -> None:
        self._allow = settings.net.allow
        self._timeouts = SmtpTimeouts(
            connect_s=settings.sync.connect_timeout_s, command_s=settings.sync.command_timeout_s
        )
        self._context = context

    async def __call__(self, endpoint: Endpoint, auth: PasswordAuth) -> Verification:
        """Name, connection, TLS, login."""
        try:
            session = await open_session(
                endpoint, auth, ssl_context=self._context, allow_networks=self._allow, timeouts=self._timeouts
            )
        except ConnectorError as error:
            step = f"smtp_{_step_of(error)}" if not isinstance(error, RefusedError) else "smtp_connect"
            passed = SMTP_STEPS[: SMTP_STEPS.index(step)]
            return Verification(False, (*((name, True, "") for name in passed), (step, False, str(error))))
        await session.close()
        return Verification(True, tuple((name, True, "") for name in SMTP_STEPS))


def _step_of(error: ConnectorError) -> str:
    if isinstance(error, TlsError):
        return "tls"
    if isinstance(error, AuthError | ThrottledError | ServerError):
        return "login"
    if isinstance(error, NetworkError | AddressRefusedError):
        return "connect"
    return "login"


def _failed(step: str, error: ConnectorError) -> Verification:
    return Verification(False, (*_passed(step), (step, False, str(error))))


def _passed(before: str) -> tuple[tuple[str, bool, str], ...]:
    return tuple((name, True, "") for name in STEPS[: STEPS.index(before)])
