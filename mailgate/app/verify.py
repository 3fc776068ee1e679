"""Trying an account's settings, one step after the other, so that a person learns which one is wrong, and why.

Steps are told by the connection itself (`reached`), so what failed is what came next, whatever the error. Nothing is
kept, nothing is sent, and no words hold a secret.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence

from connectors.errors import (
    AddressRefusedError,
    AuthError,
    ConnectorError,
    NetworkError,
    ProtocolError,
    ThrottledError,
    TlsError,
)
from connectors.imap.connection import connect_imap
from connectors.imap.session import Timeouts
from connectors.model import BearerAuth, Endpoint, PasswordAuth, Security
from connectors.net import Resolver, resolve_host
from connectors.reasons import Reason, of_login_text
from connectors.smtp.errors import CannotCarryError, RefusedError
from connectors.smtp.session import Timeouts as SmtpTimeouts
from connectors.smtp.session import open_session
from mailgate.settings import Settings
from mailgate.usecases.parts import Step, Told, Verification, untold

_OPENING = ("resolve", "connect", "tls", "login")
_SMTP = "smtp_"


def tls_context() -> ssl.SSLContext:
    """What all connections to mail servers share: the system's authorities, host names checked, TLS 1.2 or later."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Verifier:
    """Connects once, looks, and leaves."""

    def __init__(self, settings: Settings, context: ssl.SSLContext, *, resolver: Resolver = resolve_host) -> None:
        self._resolver = resolver
        self._allow = settings.net.allow
        self._timeout_s = settings.onboarding.verify_timeout_s
        connect_s = min(settings.sync.connect_timeout_s, self._timeout_s)
        self._timeouts = Timeouts(connect_s=connect_s, command_s=self._timeout_s)
        self._context = context

    async def __call__(
        self, endpoint: Endpoint, auth: PasswordAuth | BearerAuth, *, told: Told = untold
    ) -> Verification:
        """Name, connection, TLS, login, list of folders."""
        trial = _Trial(_steps(endpoint, "folders"), told, "")

        async def trying() -> None:
            connection = await connect_imap(
                endpoint,
                auth,
                ssl_context=self._context,
                allow_networks=self._allow,
                timeouts=self._timeouts,
                resolver=self._resolver,
                reached=trial.reached,
            )
            try:
                folders = await connection.list_folders()
            finally:
                await connection.close()
            trial.reached("folders", f"{len(folders)} folders")

        return await trial.run(trying, self._timeout_s)


class SmtpVerifier:
    """The same of a submission server."""

    def __init__(self, settings: Settings, context: ssl.SSLContext, *, resolver: Resolver = resolve_host) -> None:
        self._resolver = resolver
        self._allow = settings.net.allow
        self._timeout_s = settings.onboarding.verify_timeout_s
        connect_s = min(settings.sync.connect_timeout_s, self._timeout_s)
        self._timeouts = SmtpTimeouts(connect_s=connect_s, command_s=self._timeout_s)
        self._context = context

    async def __call__(
        self, endpoint: Endpoint, auth: PasswordAuth | BearerAuth, *, sender: str | None = None, told: Told = untold
    ) -> Verification:
        """Name, connection, TLS, login, and whether mail may come from this address."""
        trial = _Trial(_steps(endpoint, *([] if sender is None else ["sender"])), told, _SMTP)

        async def trying() -> None:
            session = await open_session(
                endpoint,
                auth,
                ssl_context=self._context,
                allow_networks=self._allow,
                timeouts=self._timeouts,
                resolver=self._resolver,
                reached=trial.reached,
            )
            try:
                if sender is not None:
                    await session.try_sender(sender)
                    trial.reached("sender")
            finally:
                await session.close()

        return await trial.run(trying, self._timeout_s)


def _steps(endpoint: Endpoint, *more: str) -> list[str]:
    return [step for step in _OPENING if step != "tls" or endpoint.security is not Security.NONE] + list(more)


class _Trial:
    """What is known of one trial so far."""

    def __init__(self, steps: Sequence[str], told: Told, prefix: str) -> None:
        self._left = list(steps)
        self._told = told
        self._prefix = prefix
        self._done: list[Step] = []

    def reached(self, step: str, detail: str = "") -> None:
        """This step is done. What was told already, of another address of the same host, is not told again."""
        if step in self._left:
            self._left.remove(step)
            self._add(Step(self._prefix + step, True, detail))

    async def run(self, trying: Callable[[], Awaitable[None]], timeout_s: float) -> Verification:
        """Try, in bounded time; the step that was next when it failed is the one that failed."""
        try:
            async with asyncio.timeout(timeout_s):
                await trying()
        except ConnectorError as error:
            self._failed(str(error), _reason(error, self._left))
        except TimeoutError:
            self._failed(f"not done within {timeout_s:g} s", Reason.TIMED_OUT)
        return Verification(all(step.ok for step in self._done), tuple(self._done))

    def _failed(self, detail: str, reason: Reason) -> None:
        step = self._left[0] if self._left else self._done.pop().step.removeprefix(self._prefix)
        self._add(Step(self._prefix + step, False, detail, reason.value))

    def _add(self, step: Step) -> None:
        self._done.append(step)
        self._told(step)


def _reason(error: ConnectorError, left: Sequence[str]) -> Reason:
    """What is behind it, as far as it can be told. The order of the questions counts: subclasses first."""
    if error.reason is not None:
        return Reason(error.reason)
    if isinstance(error, RefusedError | CannotCarryError):
        at_sender = left[:1] == ["sender"]
        waiting = isinstance(error, RefusedError) and error.reply.transient
        return Reason.BUSY if waiting else Reason.SENDER_REFUSED if at_sender else Reason.CLOSED
    if isinstance(error, AddressRefusedError):
        return Reason.ADDRESS_REFUSED
    if isinstance(error, AuthError):
        return of_login_text(str(error))
    if isinstance(error, ThrottledError):
        # Some say in a temporary refusal what is missing for good.
        found = of_login_text(str(error))
        return Reason.BUSY if found is Reason.LOGIN_REFUSED else found
    if isinstance(error, TlsError):
        return Reason.TLS_FAILED
    if isinstance(error, NetworkError):
        return Reason.CLOSED
    if isinstance(error, ProtocolError):
        return Reason.OTHER_PROTOCOL if left[:1] != ["login"] else of_login_text(str(error))
    return Reason.FOLDERS_REFUSED
