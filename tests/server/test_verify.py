"""Checking an account's settings: each way in which they fail, made for real, is told with its step and its reason.

Reading against Dovecot, sending against aiosmtpd; what no real server does on demand is a scripted one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.model import Endpoint, PasswordAuth, Security
from mailgate.app.verify import SmtpVerifier, Verifier
from mailgate.settings import NetSettings, OnboardingSettings, Settings
from mailgate.usecases.parts import Step, Verification
from mailgate.usecases.remedies import REMEDIES
from tests.certificates import make_certificates
from tests.dovecot import Account, Dovecot
from tests.servers import free_port
from tests.smtpserver import HANG, SmtpServer
from tests.unit.connectors.scripted import Talk, serve

pytestmark = pytest.mark.server

SETTINGS = Settings(net=NetSettings(allow=("127.0.0.0/8",)), onboarding=OnboardingSettings(verify_timeout_s=20))
HASTY = Settings(net=NetSettings(allow=("127.0.0.0/8",)), onboarding=OnboardingSettings(verify_timeout_s=1))
OPENING = ["resolve", "connect", "tls", "login"]
ANN = PasswordAuth("ann@acme.example", "hunter2-smtp")


def trusting(server: Dovecot) -> ssl.SSLContext:
    return server.ssl_context()


async def here(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


async def reading(
    host: str,
    port: int,
    security: Security = Security.NONE,
    auth: PasswordAuth = ANN,
    *,
    context: ssl.SSLContext | None = None,
    settings: Settings = SETTINGS,
    resolver: Callable[[str, int], Awaitable[list[str]]] = here,
) -> Verification:
    told: list[Step] = []
    verifier = Verifier(settings, context or ssl.create_default_context(), resolver=resolver)
    found = await verifier(Endpoint(host, port, security), auth, told=told.append)
    assert told == list(found.steps)  # each is told when it is over
    assert auth.password not in repr(found)
    return found


def failure(found: Verification) -> tuple[str, str | None]:
    """The step that failed, with the reason; everything before went well."""
    assert not found.ok
    assert all(step.ok for step in found.steps[:-1])
    last = found.steps[-1]
    assert not last.ok
    assert last.detail
    assert last.reason in REMEDIES  # there is something to do about it
    return last.step, last.reason


@contextlib.asynccontextmanager
async def listening(context: ssl.SSLContext | None = None, greeting: bytes = b"") -> AsyncIterator[int]:
    """Accepts, greets, and says no more until the client hangs up."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


# Reading.


@pytest.mark.parametrize("security", [Security.TLS, Security.STARTTLS, Security.NONE])
async def test_an_account_that_is_right_passes_every_step(
    dovecot: Dovecot, dovecot_account: Account, security: Security
) -> None:
    port = dovecot.tls_port if security is Security.TLS else dovecot.port
    auth = PasswordAuth(dovecot_account.name, dovecot_account.password)
    found = await reading("localhost", port, security, auth, context=trusting(dovecot))
    assert found.ok, found
    opening = [step for step in OPENING if step != "tls" or security is not Security.NONE]
    assert [step.step for step in found.steps] == [*opening, "folders"]
    assert found.steps[-1].detail == "6 folders"
    assert not {"SELECT", "EXAMINE", "STORE", "APPEND"} & {line.split()[0] for line in dovecot_account.commands()}


@pytest.mark.parametrize(("code", "reason"), [(socket.EAI_NONAME, "name_not_found"), (socket.EAI_AGAIN, "dns_failed")])
async def test_a_name_that_is_not_there(code: int, reason: str) -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(code, "no such name")

    assert failure(await reading("imap.acme.example", 993, resolver=resolver)) == ("resolve", reason)


async def test_a_name_that_leads_inside() -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        return ["10.0.0.8", "169.254.169.254"]

    found = await reading("imap.acme.example", 993, resolver=resolver)
    assert failure(found) == ("resolve", "address_refused")


async def test_a_port_on_which_nothing_listens() -> None:
    found = await reading("localhost", free_port(), Security.TLS)
    assert failure(found) == ("connect", "connection_refused")


@pytest.mark.parametrize(
    ("security", "step"), [(Security.TLS, "tls"), (Security.STARTTLS, "connect"), (Security.NONE, "connect")]
)
async def test_a_port_that_is_silent_is_given_up(security: Security, step: str) -> None:
    async with listening() as port:
        found = await reading("localhost", port, security, settings=HASTY)
    failed = found.steps[-1]
    assert (failed.step, failed.reason in ("silent", "timed_out")) == (step, True)


async def test_a_server_in_clear_on_the_port_for_tls(dovecot: Dovecot) -> None:
    found = await reading("localhost", dovecot.port, Security.TLS, context=trusting(dovecot))
    assert failure(found) == ("tls", "no_tls")


async def test_tls_on_the_port_for_starttls(dovecot: Dovecot) -> None:
    """Who waits for a greeting and who waits for a handshake wait for each other."""
    found = await reading("localhost", dovecot.tls_port, Security.STARTTLS, settings=HASTY)
    assert found.steps[-1].step == "connect"
    assert found.steps[-1].reason in ("silent", "timed_out")


async def test_another_protocol_on_the_port() -> None:
    async with listening(greeting=b"220 mail.test ESMTP\r\n") as port:
        assert failure(await reading("localhost", port)) == ("connect", "other_protocol")


@pytest.mark.parametrize("security", [Security.TLS, Security.STARTTLS])
async def test_a_certificate_that_nobody_vouches_for(dovecot: Dovecot, security: Security) -> None:
    port = dovecot.tls_port if security is Security.TLS else dovecot.port
    assert failure(await reading("localhost", port, security)) == ("tls", "certificate_untrusted")


async def test_a_certificate_for_another_name(dovecot: Dovecot) -> None:
    found = await reading("imap.acme.example", dovecot.tls_port, Security.TLS, context=trusting(dovecot))
    assert failure(found) == ("tls", "certificate_other_name")


@pytest.mark.parametrize("days", [(-30, -1), (2, 30)])
async def test_a_certificate_out_of_its_time(tmp_path: Path, days: tuple[int, int]) -> None:
    made = make_certificates(tmp_path, days=days)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(made.certificate, made.key)
    async with listening(own) as port:
        context = ssl.create_default_context(cafile=str(made.ca))
        found = await reading("localhost", port, Security.TLS, context=context)
    assert failure(found) == ("tls", "certificate_expired")


async def test_a_login_that_is_refused(dovecot: Dovecot, dovecot_account: Account) -> None:
    auth = PasswordAuth(dovecot_account.name, "not the password")
    found = await reading("localhost", dovecot.tls_port, Security.TLS, auth, context=trusting(dovecot))
    assert failure(found) == ("login", "login_refused")
    assert "not the password" not in found.steps[-1].detail


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"NO [ALERT] Your account is not enabled for IMAP use. Please visit your account settings", "service_off"),
        (b"NO [ALERT] You are yet to enable IMAP for your account", "service_off"),
        (b"NO [ALERT] Application-specific password required: https://help.example/185833", "app_password_needed"),
        (b"NO [AUTHENTICATIONFAILED] Invalid credentials", "login_refused"),
        (b"NO [UNAVAILABLE] come back later", "busy"),
        (b"NO [LIMIT] Too many simultaneous connections", "busy"),
        (b"BAD what?", "login_refused"),
    ],
)
async def test_what_a_server_says_about_a_login_is_understood(said: bytes, reason: str) -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1] ready")
        await talk.answer(b"LOGIN", status=said)
        await talk.gone()

    async with serve(script) as server:
        assert failure(await reading("localhost", server.port)) == ("login", reason)


async def test_a_server_that_takes_no_password_in_clear() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready")
        await talk.gone()

    async with serve(script) as server:
        assert failure(await reading("localhost", server.port)) == ("login", "protection_needed")


async def test_folders_that_are_not_listed() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet(b"IMAP4rev1")
        await talk.answer(b"LIST", status=b"NO not today")
        await talk.gone()

    async with serve(script) as server:
        assert failure(await reading("localhost", server.port)) == ("folders", "folders_refused")


async def test_a_line_that_is_cut_at_the_login_is_the_logins_fault() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1] ready")
        await talk.expect(b"LOGIN")

    async with serve(script) as server:
        assert failure(await reading("localhost", server.port)) == ("login", "closed")


# Sending.


async def sending(
    port: int,
    security: Security = Security.NONE,
    auth: PasswordAuth = ANN,
    *,
    sender: str | None = "ann@acme.example",
    context: ssl.SSLContext | None = None,
    settings: Settings = SETTINGS,
) -> Verification:
    told: list[Step] = []
    verifier = SmtpVerifier(settings, context or ssl.create_default_context(), resolver=here)
    found = await verifier(Endpoint("localhost", port, security), auth, sender=sender, told=told.append)
    assert told == list(found.steps)
    assert auth.password not in repr(found)
    return found


@dataclass
class Tls:
    """Two ends of one trust."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    made = make_certificates(tmp_path_factory.mktemp("smtp-tls"))
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(made.certificate, made.key)
    return Tls(own, ssl.create_default_context(cafile=str(made.ca)))


@contextlib.asynccontextmanager
async def submission(server: SmtpServer) -> AsyncIterator[int]:
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop()


@pytest.mark.parametrize("security", [Security.TLS, Security.STARTTLS, Security.NONE])
async def test_a_submission_server_that_is_right_passes_every_step(tls: Tls, security: Security) -> None:
    server = SmtpServer(
        tls=tls.server if security is Security.TLS else None,
        starttls=tls.server if security is Security.STARTTLS else None,
    )
    async with submission(server) as port:
        found = await sending(port, security, context=tls.client)
    assert found.ok, found
    opening = [f"smtp_{step}" for step in OPENING if step != "tls" or security is not Security.NONE]
    assert [step.step for step in found.steps] == [*opening, "smtp_sender"]
    assert server.received == []
    assert "mail" in server.steps
    assert not {"rcpt", "data"} & {step.partition(":")[0] for step in server.steps}


async def test_without_an_address_no_sender_is_tried() -> None:
    server = SmtpServer()
    async with submission(server) as port:
        found = await sending(port, sender=None)
    assert (found.ok, found.steps[-1].step) == (True, "smtp_login")
    assert "mail" not in server.steps


async def test_a_submission_port_on_which_nothing_listens() -> None:
    assert failure(await sending(free_port(), Security.TLS)) == ("smtp_connect", "connection_refused")


@pytest.mark.parametrize(("security", "step"), [(Security.TLS, "smtp_tls"), (Security.STARTTLS, "smtp_connect")])
async def test_a_submission_port_that_is_silent(security: Security, step: str) -> None:
    async with listening() as port:
        found = await sending(port, security, settings=HASTY)
    assert found.steps[-1].step == step
    assert found.steps[-1].reason in ("silent", "timed_out")


async def test_submission_in_clear_on_the_port_for_tls() -> None:
    async with submission(SmtpServer()) as port:
        assert failure(await sending(port, Security.TLS)) == ("smtp_tls", "no_tls")


async def test_submission_without_starttls() -> None:
    async with submission(SmtpServer()) as port:
        assert failure(await sending(port, Security.STARTTLS)) == ("smtp_tls", "no_starttls")


async def test_submission_with_a_certificate_that_nobody_vouches_for(tls: Tls) -> None:
    async with submission(SmtpServer(tls=tls.server)) as port:
        assert failure(await sending(port, Security.TLS)) == ("smtp_tls", "certificate_untrusted")


@pytest.mark.parametrize("protected", [True, False])
async def test_submission_that_offers_no_login(tls: Tls, protected: bool) -> None:
    server = SmtpServer(tls=tls.server if protected else None, without=("AUTH",))
    async with submission(server) as port:
        found = await sending(port, Security.TLS if protected else Security.NONE, context=tls.client)
    assert failure(found) == ("smtp_login", "no_login_offered" if protected else "protection_needed")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("535 5.7.8 bad credentials", "login_refused"),
        ("535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant", "service_off"),
        ("534 5.7.9 Application-specific password required", "app_password_needed"),
        ("454 4.7.0 Temporary authentication failure", "busy"),
    ],
)
async def test_a_submission_login_that_is_refused(said: str, reason: str) -> None:
    async with submission(SmtpServer(script={"auth": [said]})) as port:
        assert failure(await sending(port)) == ("smtp_login", reason)


async def test_a_wrong_password_for_sending() -> None:
    async with submission(SmtpServer()) as port:
        found = await sending(port, auth=PasswordAuth("ann@acme.example", "not the password"))
    assert failure(found) == ("smtp_login", "login_refused")


@pytest.mark.parametrize(
    ("said", "reason"), [("553 5.7.1 not yours", "sender_refused"), ("451 4.7.1 greylisted", "busy")]
)
async def test_a_sender_that_is_refused(said: str, reason: str) -> None:
    async with submission(SmtpServer(script={"mail": [said]})) as port:
        assert failure(await sending(port)) == ("smtp_sender", reason)


async def test_a_sender_beyond_ascii_that_the_server_does_not_take() -> None:
    async with submission(SmtpServer(utf8=False)) as port:
        found = await sending(port, sender="năm@acme.example")
    assert failure(found) == ("smtp_sender", "sender_refused")


@pytest.mark.patient
async def test_a_server_that_hangs_in_the_middle_ends_in_time() -> None:
    server = SmtpServer(script={"mail": [HANG]})
    async with submission(server) as port:
        found = await sending(port)
        server.release()
    assert found.steps[-1].step == "smtp_sender"
    assert found.steps[-1].reason in ("silent", "timed_out")
