"""Opening a session: greeting, login, refusals, secrets."""

from __future__ import annotations

import base64
import logging
import socket
import ssl
import traceback

import pytest

from connectors.errors import (
    AddressRefusedError,
    AuthError,
    ConnectorError,
    NetworkError,
    ProtocolError,
    Retry,
    ThrottledError,
    TlsError,
)
from connectors.imap.connect import open_session
from connectors.imap.connection import connect_imap
from connectors.imap.settings import Timeouts
from connectors.model import Endpoint, PasswordAuth, Security
from tests.unit.connectors.scripted import AUTH, LOOPBACK, QUICK, Talk, connect, serve

SECRET = 'p"a\\ss wörd'
PLAIN = base64.b64encode(f"\0user\0{SECRET}".encode())


async def test_login_with_quoting_and_capabilities_asked_for() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK hello")
        await talk.answer(b"CAPABILITY", b"* CAPABILITY IMAP4rev1")
        await talk.answer(b"LOGIN")
        await talk.answer(b"CAPABILITY", b"* CAPABILITY IMAP4rev1 idle")
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server, auth=PasswordAuth('us"er', "back\\slash"))
        assert source.capabilities == {"IMAP4REV1", "IDLE"}
        await source.close()
    assert server.heard[1].split(b" ", 1)[1] == b'LOGIN "us\\"er" "back\\\\slash"'


@pytest.mark.parametrize("literal", [b"", b" LITERAL+", b" LITERAL-"])
async def test_what_no_quoted_string_can_hold_is_sent_as_literal(literal: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1" + literal + b"] hello")
        await talk.answer(b"LOGIN", b"* CAPABILITY IMAP4rev1")
        await talk.gone()

    async with serve(script) as server:
        await (await connect(server, auth=PasswordAuth("ü", "line\r\nbreak"))).close()
    plus = b"+" if literal else b""
    expected = b"LOGIN {2%s}\r\n\xc3\xbc {11%s}\r\nline\r\nbreak" % (plus, plus)
    assert server.heard[0].split(b" ", 1)[1] == expected


async def test_authenticate_plain_in_one_line() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR LOGINDISABLED] hello")
        await talk.answer(b"AUTHENTICATE PLAIN " + PLAIN, status=b"OK [CAPABILITY IMAP4rev1] in")
        await talk.gone()

    async with serve(script) as server:
        await (await connect(server, auth=PasswordAuth("user", SECRET))).close()


async def test_authenticate_plain_in_two_steps() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello")
        tag = await talk.expect(b"AUTHENTICATE PLAIN")
        await talk.send(b"+ ")
        assert await talk.line() == PLAIN
        await talk.send(b"* CAPABILITY IMAP4rev1", tag + b" OK in")
        await talk.gone()

    async with serve(script) as server:
        await (await connect(server, auth=PasswordAuth("user", SECRET))).close()


async def test_a_challenge_that_plain_does_not_have_is_cancelled() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello")
        tag = await talk.expect(b"AUTHENTICATE PLAIN")
        await talk.send(b"+ eyJzdGF0dXMiOiI0MDAifQ==")
        assert await talk.line() == b"*"
        await talk.send(tag + b" NO cancelled")

    async with serve(script) as server:
        with pytest.raises(AuthError):
            await connect(server)


async def test_preauth_needs_no_login() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* PREAUTH [CAPABILITY IMAP4rev1] hello")
        await talk.gone()

    async with serve(script) as server:
        await (await connect(server)).close()
    assert not any(b"LOGIN" in line for line in server.heard)


async def test_a_server_that_takes_no_password_gets_none() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hello")
        await talk.gone()

    async with serve(script) as server:
        with pytest.raises(AuthError, match="TLS"):
            await connect(server)
    assert server.heard == []


@pytest.mark.parametrize("auth", [PasswordAuth("a\0b", "x"), PasswordAuth("a", "x\0")])
async def test_nul_is_never_sent(auth: PasswordAuth) -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1] hello")
        await talk.gone()

    async with serve(script) as server:
        with pytest.raises(AuthError):
            await connect(server, auth=auth)
    assert server.heard == []


@pytest.mark.parametrize(
    ("status", "error", "retry_after_s"),
    [
        (b"NO [AUTHENTICATIONFAILED] Authentication failed.", AuthError, None),
        (b"NO Invalid credentials, please try again", AuthError, None),
        (b"NO", AuthError, None),
        (b"NO Login failed.", AuthError, None),
        (b"NO Login failed: authentication failure", AuthError, None),
        (b"NO Login failed: generic failure", ThrottledError, None),
        (b"NO generic failure", ThrottledError, None),
        (b"NO [AUTHENTICATIONFAILED] generic failure", AuthError, None),
        (b"NO System Error (Failure)", ThrottledError, None),
        (b"NO [OVERQUOTA] Account exceeded command or bandwidth limits. (Failure)", ThrottledError, None),
        (b"NO [ALERT] Account exceeded command or bandwidth limits. (Failure)", ThrottledError, None),
        (b"BAD [AUTHENTICATIONFAILED] no", AuthError, None),
        (b"NO [UNAVAILABLE] Temporary authentication failure.", ThrottledError, None),
        (b"NO [LIMIT] x", ThrottledError, None),
        (b"NO [INUSE] x", ThrottledError, None),
        (b"NO [ALERT] Too many simultaneous connections. (Failure)", ThrottledError, None),
        (b"NO Request is throttled. Suggested Backoff Time: 299961 milliseconds", ThrottledError, 299.961),
        (b"BAD User is authenticated but not connected.", ThrottledError, None),
        (b"BAD syntax", ProtocolError, None),
    ],
)
async def test_a_refused_login(status: bytes, error: type[ConnectorError], retry_after_s: float | None) -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1] hello")
        await talk.answer(b"LOGIN", status=status)
        await talk.gone()

    async with serve(script) as server:
        with pytest.raises(ConnectorError) as caught:
            await connect(server)
    assert type(caught.value) is error
    assert caught.value.retry_after_s == retry_after_s
    assert (caught.value.retry is Retry.NEVER) == (error is AuthError)


@pytest.mark.parametrize(
    ("greeting", "error", "text"),
    [
        (b"* BYE too late\r\n", NetworkError, "too late"),
        (b"* BYE [UNAVAILABLE] busy\r\n", ThrottledError, "busy"),
        (b"* BYE Too many connections from your IP\r\n", ThrottledError, "Too many"),
        (b"220 mail.example ESMTP ready\r\n", ProtocolError, "220 mail.example ESMTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ProtocolError, "SSH-2.0"),
        (b"a1 OK hello\r\n", ProtocolError, "greeted"),
        (b"* NO hello\r\n", ProtocolError, "greeted"),
        (b"", NetworkError, "closed"),
        (b"* OK hel", NetworkError, "closed"),
    ],
)
async def test_a_greeting_that_is_none(greeting: bytes, error: type[ConnectorError], text: str) -> None:
    async def script(talk: Talk) -> None:
        await talk.raw(greeting)

    async with serve(script) as server:
        with pytest.raises(ConnectorError, match=text) as caught:
            await connect(server)
    assert type(caught.value) is error


@pytest.mark.patient
async def test_no_greeting_in_time() -> None:
    async with serve(Talk.gone) as server:
        with pytest.raises(NetworkError, match="no greeting"):
            await connect(server, timeouts=Timeouts(connect_s=20))


async def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        endpoint = Endpoint("127.0.0.1", bound.getsockname()[1], Security.NONE)
        with pytest.raises(NetworkError, match="cannot connect"):
            await connect_imap(endpoint, AUTH, ssl_context=None, allow_networks=LOOPBACK, timeouts=QUICK)


async def test_private_addresses_are_refused_before_anything_is_sent() -> None:
    async with serve(Talk.gone) as server:
        with pytest.raises(AddressRefusedError, match=r"net\.allow"):
            await open_session(Endpoint("localhost", server.port, Security.NONE), AUTH, ssl_context=None)
    assert server.talks == []


async def test_what_was_judged_is_connected_to_and_the_next_address_is_tried() -> None:
    async def script(talk: Talk) -> None:
        await talk.greet()
        await talk.gone()

    asked: list[str] = []

    async def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["10.0.0.1", "127.0.0.2", "127.0.0.1"]  # not allowed; nobody listens; the server

    async with serve(script) as server:
        source = await connect_imap(
            Endpoint("mail.example", server.port, Security.NONE),
            AUTH,
            ssl_context=None,
            allow_networks=LOOPBACK,
            timeouts=QUICK,
            resolver=resolver,
        )
        await source.close()
    assert asked == ["mail.example"]


async def test_an_unknown_host() -> None:
    async def resolver(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(NetworkError, match=r"mail\.example was not found"):
        await open_session(Endpoint("mail.example", 1, Security.NONE), AUTH, ssl_context=None, resolver=resolver)


async def test_tls_without_a_context_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="ssl_context"):
        await open_session(Endpoint("127.0.0.1", 1, Security.TLS), AUTH, ssl_context=None)


async def test_tls_with_a_server_that_speaks_none() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK hello")
        await talk.gone()

    async with serve(script) as server:
        with pytest.raises(TlsError, match=r"does not speak TLS on port \d+; try security starttls"):
            await open_session(
                Endpoint("127.0.0.1", server.port, Security.TLS),
                AUTH,
                ssl_context=ssl.create_default_context(),
                allow_networks=LOOPBACK,
                timeouts=QUICK,
            )


async def starttls(port: int) -> None:
    await open_session(
        Endpoint("127.0.0.1", port, Security.STARTTLS),
        AUTH,
        ssl_context=ssl.create_default_context(),
        allow_networks=LOOPBACK,
        timeouts=QUICK,
    )


@pytest.mark.parametrize("injected", [b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n", b"x", b"* OK", b"A1 OK \r\n", b"\r\n"])
async def test_what_comes_in_clear_behind_the_ok_to_starttls_is_an_attack(injected: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hello")
        tag = await talk.expect(b"STARTTLS")
        await talk.raw(tag + b" OK go ahead\r\n" + injected)
        await talk.gone()

    async with serve(script) as server:
        with pytest.raises(ProtocolError):
            await starttls(server.port)
    assert len(server.heard) == 1


async def test_starttls_refused_sends_no_password() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello")
        await talk.answer(b"STARTTLS", status=b"BAD unknown command")
        await talk.gone()

    async with serve(script) as server:
        with pytest.raises(TlsError, match="STARTTLS"):
            await starttls(server.port)
    assert len(server.heard) == 1


async def test_preauth_rules_out_starttls() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* PREAUTH hello")
        await talk.gone()

    async with serve(script) as server:
        with pytest.raises(TlsError, match="PREAUTH"):
            await starttls(server.port)
    assert server.heard == []


async def test_a_handshake_that_fails_behind_starttls() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK hello")
        tag = await talk.expect(b"STARTTLS")
        await talk.send(tag + b" OK go ahead")
        await talk.reader.read(1)
        await talk.raw(b"no TLS at all\r\n")

    async with serve(script) as server:
        with pytest.raises(TlsError):
            await starttls(server.port)


@pytest.mark.parametrize(
    "answer",
    [
        b"NO wrong password %s for user",
        b"BAD LOGIN user %s",
        b"NO [UNAVAILABLE] " + b"x" * 150 + b" %s and more",
        b"NO " + b"y" * 190 + b"%s",
        b"OK [CAPABILITY IMAP4rev1] welcome %s",
    ],
)
@pytest.mark.parametrize("bye", [False, True])
async def test_no_secret_is_shown(answer: bytes, bye: bool, caplog: pytest.LogCaptureFixture) -> None:
    # The server repeats the password, as some do.
    echo = answer % SECRET.encode() + b" " + PLAIN

    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello")
        tag, rest = await talk.command()
        assert PLAIN in rest
        if bye:
            await talk.send(b"* BYE " + echo)
        else:
            await talk.send(tag + b" " + echo)
            await talk.raw(tag + b" " + rest + b"\r\n")
        await talk.gone()

    auth = PasswordAuth("user", SECRET)
    shown = [repr(auth)]
    with caplog.at_level(logging.DEBUG):
        async with serve(script) as server:
            try:
                source = await connect(server, auth=auth)
                shown += [repr(source), repr(source._session), repr(source._session.__dict__)]
                await source.noop()
            except ConnectorError as error:
                shown += [repr(error), *traceback.format_exception(error)]
    shown.append(caplog.text)
    for text in shown:
        assert SECRET not in text
        assert SECRET[:6] not in text
        assert PLAIN.decode() not in text
