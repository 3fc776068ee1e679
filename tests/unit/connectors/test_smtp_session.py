"""A session with a submission server: TLS, login, each step refused, each step cut. A double on loopback answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import AddressRefusedError, AuthError, NetworkError, ProtocolError, ThrottledError, TlsError
from connectors.model import BearerAuth, Endpoint, PasswordAuth, Security
from connectors.net import parse_networks
from connectors.smtp.errors import CannotCarryError, RefusedError, UnknownOutcomeError
from connectors.smtp.model import Envelope
from connectors.smtp.session import SmtpSession, Timeouts, open_session
from tests.certificates import Certificates, make_certificates
from tests.smtpserver import DROP, HANG, SmtpServer

ANN = PasswordAuth("ann@acme.example", "hunter2-smtp")
LOOPBACK = parse_networks(["127.0.0.0/8"])
TO_BOB = Envelope("ann@acme.example", ("bob@other.example",), 30)


async def hand_over(session: SmtpSession) -> None:
    """A whole message to Bob."""
    await session.offer(TO_BOB)
    await session.transfer(content())


async def content(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks or (b"Subject: Hi\r\n\r\n.dot\r\n",):
        yield chunk


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("smtp-tls"))


@pytest.fixture
async def server() -> AsyncIterator[SmtpServer]:
    made = await SmtpServer().start()
    yield made
    await made.stop()


async def session_with(
    server: SmtpServer,
    auth: PasswordAuth | BearerAuth | None = ANN,
    *,
    security: Security = Security.NONE,
    context: ssl.SSLContext | None = None,
    timeouts: Timeouts | None = None,
    host: str = "127.0.0.1",
    **more: Any,
) -> SmtpSession:
    more = {"allow_networks": LOOPBACK, **more}
    endpoint = Endpoint(host, server.port, security)
    return await open_session(endpoint, auth, ssl_context=context, timeouts=timeouts or Timeouts(60, 60, 60), **more)


async def test_a_message_is_handed_over_byte_for_byte(server: SmtpServer) -> None:
    session = await session_with(server)
    assert session.greeting == "mail.test ESMTP double"
    assert [reply.code for reply in await session.offer(TO_BOB)] == [250]
    big = b"x" * 900 + b"\r\n"
    reply = await session.transfer(content(b"Subject: Hi\r\n", b"\r\n..", b"a\r\n.\r\n", big * 400, b"end"))
    assert str(reply) == "250 2.0.0 queued"
    await session.close()
    (taken,) = server.received
    assert taken.content == b"Subject: Hi\r\n\r\n..a\r\n.\r\n" + big * 400 + b"end\r\n"
    assert taken.options == ["SIZE=30"]


async def test_two_messages_go_over_one_session(server: SmtpServer) -> None:
    session = await session_with(server)
    for _ in range(2):
        await session.offer(TO_BOB)
        await session.transfer(content())
    await session.close()
    assert len(server.received) == 2


def contexts(certificates: Certificates) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's, and one that trusts its authority."""
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificates.certificate, certificates.key)
    return own, ssl.create_default_context(cafile=str(certificates.ca))


@pytest.mark.parametrize("security", [Security.TLS, Security.STARTTLS])
async def test_the_line_is_secured(certificates: Certificates, security: Security) -> None:
    own, trusting = contexts(certificates)
    server = await SmtpServer(
        tls=own if security is Security.TLS else None, starttls=own if security is Security.STARTTLS else None
    ).start()
    session = await session_with(server, security=security, context=trusting)
    await session.offer(TO_BOB)
    await session.transfer(content(b"a\r\n" * 100_000))
    await session.close()
    assert len(server.received) == 1
    with pytest.raises(TlsError, match="certificate was not accepted"):
        await session_with(server, security=security, context=ssl.create_default_context())
    await server.stop()


async def test_a_name_that_the_certificate_does_not_have_is_refused(certificates: Certificates) -> None:
    own, trusting = contexts(certificates)
    server = await SmtpServer(tls=own).start()

    async def resolver(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    with pytest.raises(TlsError, match="certificate was not accepted"):
        await session_with(server, security=Security.TLS, context=trusting, host="mail.example", resolver=resolver)
    await server.stop()


async def test_a_plain_server_is_not_taken_for_a_secured_one(server: SmtpServer) -> None:
    context = ssl.create_default_context()
    with pytest.raises(TlsError, match="does not speak TLS"):
        await session_with(server, security=Security.TLS, context=context)
    with pytest.raises(TlsError, match="offers no STARTTLS"):
        await session_with(server, security=Security.STARTTLS, context=context)
    assert not any(step.startswith("auth") for step in server.steps)
    with pytest.raises(ValueError, match="ssl_context"):
        await session_with(server, security=Security.TLS)


async def test_a_private_address_is_not_connected_to(server: SmtpServer) -> None:
    with pytest.raises(AddressRefusedError):
        await session_with(server, allow_networks=())
    assert server.connections == 0


async def test_a_refused_login_shows_no_secret(server: SmtpServer) -> None:
    server.script["auth"] = ["535 5.7.8 wrong hunter3 AGFubkBhY21lLmV4YW1wbGUAaHVudGVyMw=="]
    with pytest.raises(AuthError) as found:
        await session_with(server, PasswordAuth("ann@acme.example", "hunter3"))
    assert "hunter3" not in str(found.value)
    assert "AGFub" not in str(found.value)
    server.script["auth"] = ["454 4.7.0 temporary"]
    with pytest.raises(ThrottledError):
        await session_with(server)
    del server.script["auth"]
    with pytest.raises(AuthError):
        await session_with(server, PasswordAuth("ann@acme.example", "wrong"))
    with pytest.raises(AuthError, match="NUL"):
        await session_with(server, PasswordAuth("a\0b", "c"))


async def test_a_server_without_plain_gets_login() -> None:
    server = await SmtpServer(no_plain=True).start()
    await (await session_with(server)).close()
    with pytest.raises(AuthError):
        await session_with(server, PasswordAuth("ann@acme.example", "wrong"))
    assert server.steps.count("auth LOGIN") == 2
    await server.stop()


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("long", [False, True])
async def test_a_token_logs_in(mechanism: str, long: bool) -> None:
    good, bad = ("t" * 450, "u" * 450) if long else ("token-1", "token-2")
    server = await SmtpServer(bearer=frozenset({mechanism}), tokens=lambda _, token: token == good).start()
    try:
        session = await session_with(server, BearerAuth("ann@acme.example", good))
        await hand_over(session)
        await session.close()
        with pytest.raises(AuthError, match=r"access token.*\(401, scope mail\)") as found:
            await session_with(server, BearerAuth("ann@acme.example", bad))
        assert bad not in str(found.value)
        # RFC 4954 §4: an answer that does not fit into the line of a command waits until it is asked for.
        assert [step for step in server.steps if step.startswith("auth")] == [
            f"auth {mechanism}" + ("" if long else " at once")
        ] * 2
    finally:
        await server.stop()


async def test_a_server_that_challenges_without_end_is_left() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        heard.append(await reader.readline())
        writer.write(b"250-hello\r\n250 AUTH OAUTHBEARER\r\n")
        while heard[-1]:
            heard.append(await reader.readline())
            writer.write(b"334 \r\n")
        writer.close()

    heard: list[bytes] = []
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], Security.NONE)
    with pytest.raises(ThrottledError):
        await open_session(endpoint, BearerAuth("ann@acme.example", "token"), ssl_context=None, allow_networks=LOOPBACK)
    server.close()
    await server.wait_closed()
    assert heard[2:4] == [b"AQ==\r\n", b"*\r\n"]


async def test_a_server_without_login_is_told_from_a_wrong_password() -> None:
    server = await SmtpServer(without=("AUTH",)).start()
    with pytest.raises(AuthError, match="use TLS"):
        await session_with(server)
    with pytest.raises(AuthError, match="takes no access tokens"):
        await session_with(server, BearerAuth("ann@acme.example", "token"))
    await server.stop()


@pytest.mark.parametrize("step", ["auth", "mail"])
async def test_an_answer_that_is_none_ends_the_session(server: SmtpServer, step: str) -> None:
    server.script[step] = ["hunter2-smtp to you"]
    with pytest.raises(ProtocolError) as found:
        await hand_over(await session_with(server))
    assert ("hunter2" in str(found.value)) == (step == "mail")


async def test_an_answer_to_the_content_that_is_none_leaves_doubt(server: SmtpServer) -> None:
    server.script["content"] = ["what?"]
    session = await session_with(server)
    with pytest.raises(UnknownOutcomeError):
        await hand_over(session)
    session.drop()


async def test_a_server_that_closes_at_a_recipient_is_believed(server: SmtpServer) -> None:
    server.script["rcpt"] = ["421 4.7.0 slow down"]
    session = await session_with(server)
    with pytest.raises(RefusedError) as found:
        await hand_over(session)
    assert found.value.step == "rcpt"
    session.drop()


@pytest.mark.patient
async def test_a_name_that_takes_too_long_is_given_up(server: SmtpServer) -> None:
    async def never(_host: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(NetworkError, match="not resolved"):
        await session_with(server, resolver=never, timeouts=Timeouts(20, 60, 60))


async def test_a_server_without_8bitmime_gets_no_8_bits() -> None:
    server = await SmtpServer(without=("8BITMIME", "SIZE")).start()
    session = await session_with(server)
    with pytest.raises(CannotCarryError) as found:
        await session.offer(Envelope("ann@acme.example", ("bob@x.example",), 30, eight_bit=True))
    assert found.value.code == "no_8bitmime"
    await hand_over(session)
    assert server.received[0].options == []
    with pytest.raises(ProtocolError, match="control character"):
        await session.offer(Envelope("ann@acme.example", ("bob\r\nRCPT TO:<eve@x.example",), 30))
    await session.close()
    await server.stop()


async def test_a_line_that_is_gone_is_told(server: SmtpServer) -> None:
    session = await session_with(server)
    session.drop()
    with pytest.raises(NetworkError):
        await session.offer(TO_BOB)
    await session.close()


@pytest.mark.parametrize("step", ["connect", "ehlo"])
async def test_a_server_that_is_not_ready_says_so(server: SmtpServer, step: str) -> None:
    server.script[step] = ["421 4.3.2 later"]
    with pytest.raises((RefusedError, NetworkError)) as found:
        await session_with(server)
    assert found.value.retry == "later"


@pytest.mark.parametrize(("answer", "retry"), [("450 4.2.1 busy", "later"), ("552 5.2.2 full", "never")])
@pytest.mark.parametrize("step", ["mail", "data", "content"])
async def test_a_refusal_says_at_which_step(server: SmtpServer, step: str, answer: str, retry: str) -> None:
    server.script[step] = [answer]
    session = await session_with(server)
    with pytest.raises(RefusedError) as found:
        await hand_over(session)
    assert (found.value.step, str(found.value.reply), found.value.retry) == (step, answer, retry)
    await session.close()


async def test_each_recipient_has_an_answer(server: SmtpServer) -> None:
    server.script["rcpt:b@x.example"] = ["550 5.1.1 nobody"]
    server.script["rcpt:c@x.example"] = ["452 4.5.3 too many"]
    session = await session_with(server)
    replies = await session.offer(Envelope("ann@acme.example", ("a@x.example", "b@x.example", "c@x.example"), 30))
    assert [reply.code for reply in replies] == [250, 550, 452]
    await session.close()


@pytest.mark.parametrize("step", ["mail", "rcpt", "data"])
async def test_a_line_that_is_cut_before_the_content_is_a_fault_of_the_line(server: SmtpServer, step: str) -> None:
    server.script[step] = [DROP]
    session = await session_with(server)
    with pytest.raises(NetworkError):
        await hand_over(session)
    session.drop()


async def test_a_line_that_is_cut_behind_the_content_leaves_doubt(server: SmtpServer) -> None:
    server.script["content"] = [DROP]
    session = await session_with(server)
    await session.offer(TO_BOB)
    with pytest.raises(UnknownOutcomeError):
        await session.transfer(content())
    session.drop()


@pytest.mark.patient
async def test_an_answer_that_never_comes_leaves_doubt(server: SmtpServer) -> None:
    server.script["content"] = [HANG]
    session = await session_with(server, timeouts=Timeouts(20, 60, 100))
    await session.offer(TO_BOB)
    with pytest.raises(UnknownOutcomeError):
        await session.transfer(content())
    session.drop()


@pytest.mark.patient
async def test_a_silent_server_is_left(server: SmtpServer) -> None:
    server.script["mail"] = [HANG]
    session = await session_with(server, timeouts=Timeouts(20, 60, 100))
    with pytest.raises(NetworkError, match="in time"):
        await session.offer(TO_BOB)
    session.drop()


async def test_a_content_that_breaks_off_is_not_ended(server: SmtpServer) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"Subject: Hi\r\n\r\nhalf"
        raise RuntimeError("the disk")

    session = await session_with(server)
    await session.offer(TO_BOB)
    with pytest.raises(RuntimeError):
        await session.transfer(broken())
    session.drop()
    assert server.received == []


async def test_what_the_server_can_not_carry_is_not_tried() -> None:
    server = await SmtpServer(utf8=False, size=1_000).start()
    session = await session_with(server)
    with pytest.raises(CannotCarryError) as found:
        await session.offer(Envelope("ann@acme.example", ("jürgen@x.example",), 30, utf8=True))
    assert found.value.code == "no_smtputf8"
    with pytest.raises(CannotCarryError) as found:
        await session.offer(Envelope("ann@acme.example", ("bob@x.example",), 1_001))
    assert found.value.code == "too_large_for_server"
    assert "mail" not in server.steps
    await session.close()
    await server.stop()


async def test_addresses_of_any_script_are_sent_where_the_server_takes_them(server: SmtpServer) -> None:
    session = await session_with(server)
    await session.offer(Envelope("ann@acme.example", ("jürgen@x.example",), 30, utf8=True, eight_bit=True))
    await session.transfer(content("Subject: ä\r\n\r\n".encode()))
    await session.close()
    (taken,) = server.received
    assert taken.recipients == ["jürgen@x.example"]
    assert taken.options == ["SIZE=30", "BODY=8BITMIME", "SMTPUTF8"]


async def test_a_server_that_is_not_there() -> None:
    server = await SmtpServer().start()
    await server.stop()
    with pytest.raises(NetworkError, match="cannot connect"):
        await session_with(server)


def test_no_secret_is_shown(tmp_path: Path) -> None:
    assert "hunter2" not in repr(ANN)
    assert "token-1" not in repr(BearerAuth("a", "token-1"))
