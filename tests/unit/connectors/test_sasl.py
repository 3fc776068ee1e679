"""Logging in by access token: what is said, what challenges tell, and that nothing shows the token."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import AuthError, ProtocolError, ThrottledError
from connectors.model import BearerAuth, Endpoint, Security
from connectors.sasl import Dialogue, exchange, read_challenge
from tests.unit.connectors.scripted import Talk, connect, serve

ENDPOINT = Endpoint("imap.example.com", 993, Security.TLS)
TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
AUTH = BearerAuth("user@example.com", TOKEN, 99)
GMAIL = b"eyJzdGF0dXMiOiI0MDAiLCJzY2hlbWVzIjoiQmVhcmVyIiwic2NvcGUiOiJodHRwczovL21haWwuZ29vZ2xlLmNvbS8ifQ=="


def test_oauthbearer_says_what_rfc_7628_has_as_its_example() -> None:
    """§4.1, but for the port, which is our own."""
    said = exchange(AUTH, Endpoint("server.example.com", 143, Security.STARTTLS), ["XOAUTH2", "OAUTHBEARER", "PLAIN"])
    assert said.mechanism == "OAUTHBEARER"
    assert base64.b64decode(said.first) == (
        b"n,a=user@example.com,\1host=server.example.com\1port=143\1auth=Bearer " + TOKEN.encode() + b"\1\1"
    )
    assert base64.b64decode(said.last) == b"\1"


def test_a_name_that_gs2_would_take_apart_is_escaped() -> None:
    said = exchange(BearerAuth("a=b,c", "t"), ENDPOINT, ["OAUTHBEARER"])
    assert base64.b64decode(said.first).startswith(b"n,a=a=3Db=2Cc,\1")


@pytest.mark.parametrize("token", ["", "a b", "a\1b", "a\r\nb", "ä", "x" * 20_000])
def test_what_no_token_may_hold_is_not_sent(token: str) -> None:
    with pytest.raises(AuthError) as found:
        exchange(BearerAuth("user", token), ENDPOINT, ["XOAUTH2"])
    assert not token or token not in str(found.value)


@pytest.mark.parametrize("name", ["", "a\1auth=Bearer x", "a\0", "a\r\nb"])
def test_a_name_with_control_characters_is_not_sent(name: str) -> None:
    with pytest.raises(AuthError):
        exchange(BearerAuth(name, "t"), ENDPOINT, ["XOAUTH2"])


def test_no_repr_shows_the_token() -> None:
    said = exchange(AUTH, ENDPOINT, ["XOAUTH2"])
    assert TOKEN not in repr(AUTH)
    assert said.first not in repr(said)


def test_a_challenge_tells_its_status() -> None:
    assert read_challenge(GMAIL.decode()) == "400, scope https://mail.google.com/"
    assert read_challenge(base64.b64encode(b'{"status":"invalid_token"}').decode()) == "invalid_token"


@given(st.one_of(st.text(), st.binary().map(lambda raw: base64.b64encode(raw).decode()), st.just(b"[" * 9_000)))
def test_no_challenge_is_too_odd(challenge: str) -> None:
    said = read_challenge(str(challenge))
    assert said is None or said.isprintable()


def test_the_dialogue_ends() -> None:
    said = exchange(AUTH, ENDPOINT, ["XOAUTH2"])
    asked = Dialogue(said, initial=False)
    assert [asked.answer(""), asked.answer(GMAIL.decode()), asked.answer("")] == [said.first, "", None]
    assert asked.refusal("no") == "no (400, scope https://mail.google.com/)"
    assert Dialogue(said, initial=True).refusal("no") == "no"


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("initial", [True, False])
async def test_a_token_logs_in_over_imap(mechanism: str, initial: bool) -> None:
    word = mechanism.encode()

    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 AUTH=%s%s] hello" % (word, b" SASL-IR" if initial else b""))
        if initial:
            tag, command = (await talk.line()).split(b" ", 1)
            _, _, first = command.split(b" ")
        else:
            tag = await talk.expect(b"AUTHENTICATE " + word)
            await talk.send(b"+ ")
            first = await talk.line()
        assert TOKEN.encode() in base64.b64decode(first)
        await talk.send(b"* CAPABILITY IMAP4rev1 IDLE", tag + b" OK in")
        await talk.gone()

    async with serve(script) as server:
        source = await connect(server, auth=AUTH)
        assert source.access_until == 99
        assert "IDLE" in source.capabilities
        await source.close()


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (b"NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", AuthError, "400, scope https://mail.google.com/"),
        (b"NO AUTHENTICATE failed.", AuthError, "access token"),
        (b"NO [UNAVAILABLE] later", ThrottledError, "later"),
        (b"BAD what", ProtocolError, "what"),
        (b"NO " + TOKEN.encode(), AuthError, "***"),
    ],
)
@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("mechanism", [b"XOAUTH2", b"OAUTHBEARER"])
async def test_a_refusal_is_complete_when_its_challenge_was_answered(
    mechanism: bytes, initial: bool, answer: bytes, error: type[Exception], says: str
) -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 AUTH=%s%s] hello" % (mechanism, b" SASL-IR" if initial else b""))
        tag = (await talk.line()).split(b" ", 1)[0]
        if not initial:
            await talk.send(b"+ ")
            await talk.line()
        await talk.send(b"+ " + GMAIL)
        assert await talk.line() == (b"" if mechanism == b"XOAUTH2" else b"AQ==")
        await talk.send(tag + b" " + answer)

    async with serve(script) as server:
        with pytest.raises(error) as found:
            await connect(server, auth=AUTH)
    assert says in str(found.value)
    assert TOKEN not in str(found.value)


async def test_a_refusal_without_a_challenge() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2 SASL-IR] hello")
        tag = (await talk.line()).split(b" ", 1)[0]
        await talk.send(tag + b" NO AUTHENTICATE failed.")

    async with serve(script) as server:
        with pytest.raises(AuthError, match="refused the access token: AUTHENTICATE failed"):
            await connect(server, auth=AUTH)


async def test_a_server_that_asks_on_and_on_is_cancelled() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2 SASL-IR] hello")
        tag = (await talk.line()).split(b" ", 1)[0]
        await talk.send(b"+ ")
        assert await talk.line() == b""
        await talk.send(b"+ ")
        assert await talk.line() == b"*"
        await talk.send(tag + b" BAD cancelled")

    async with serve(script) as server:
        with pytest.raises((AuthError, ProtocolError)):
            await connect(server, auth=AUTH)


async def test_a_server_that_takes_no_tokens_gets_none() -> None:
    async def script(talk: Talk) -> None:
        await talk.send(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello")
        await talk.gone()

    async with serve(script) as server:
        with pytest.raises(AuthError, match="takes no access tokens"):
            await connect(server, auth=AUTH)
    assert server.heard == []
