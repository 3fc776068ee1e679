"""What a token endpoint may answer, and what follows: tokens, a lapsed consent, or later; no words show a secret."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.errors import AuthError, ConnectorError, NetworkError, Retry
from connectors.oauth.errors import ConsentLapsedError, TokenEndpointError
from connectors.oauth.model import Provider, Tokens, challenge_of, consent_url, read_answer

GOOD = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3599, "refresh_token": "rt-2", "scope": "mail"}
PROVIDER = Provider(
    "generic",
    "Acme",
    "https://id.example/a?tenant=7",
    "https://id.example/t",
    "cid",
    "hush",
    ("mail", "off"),
    {"p": "c"},
)


def read(told: object, status: int = 200, **more: float) -> Tokens:
    return read_answer(status, json.dumps(told).encode(), host="id.example", secrets=("rt-1",), **more)  # type: ignore[arg-type]


def test_tokens() -> None:
    assert read(GOOD) == Tokens("at-1", "rt-2", 3599, "mail")
    assert read({**GOOD, "refresh_token": None}).refresh_token is None
    assert not any(secret in repr(read(GOOD)) for secret in ("at-1", "rt-2"))


@pytest.mark.parametrize(
    ("said", "means"),
    [
        (None, 3600),
        ("3600", 3600),
        (12.7, 12),
        (-5, 0),
        ("soon", 3600),
        (10**12, 30 * 86_400),
        ([1], 3600),
        (1e400, 3600),
    ],
)
def test_how_long_a_token_is_good(said: object, means: int) -> None:
    told = {**GOOD, "expires_in": said}
    if said == 1e400:
        assert read_answer(200, json.dumps(told).encode(), host="h").expires_in_s == means
    else:
        assert read(told).expires_in_s == means


@pytest.mark.parametrize(
    "told",
    [
        {},
        [],
        {**GOOD, "access_token": ""},
        {**GOOD, "access_token": 5},
        {**GOOD, "access_token": "a\nb"},
        {**GOOD, "token_type": "mac"},
        {**GOOD, "token_type": None},
        {**GOOD, "refresh_token": "x" * 20_000},
        {**GOOD, "refresh_token": 7},
    ],
)
def test_an_odd_answer_disables_nothing(told: object) -> None:
    with pytest.raises(TokenEndpointError) as found:
        read(told)
    assert found.value.retry is Retry.LATER
    assert not isinstance(found.value, AuthError)


@pytest.mark.parametrize("code", ["invalid_grant", "interaction_required", "consent_required", "login_required"])
def test_a_lapsed_consent(code: str) -> None:
    with pytest.raises(ConsentLapsedError, match=code) as found:
        read({"error": code, "error_description": "the token rt-1 was revoked\r\nX: y"}, 400)
    assert "rt-1" not in str(found.value)
    assert "\r" not in str(found.value)
    assert found.value.retry is Retry.NEVER


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_no_lapsed_consent_whatever_it_says(status: int) -> None:
    with pytest.raises(TokenEndpointError) as found:
        read({"error": "invalid_grant"}, status, retry_after_s=7.0)
    assert found.value.retry_after_s == 7.0


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client", "invalid_scope"])
def test_a_registration_that_is_refused_is_the_operators(code: str) -> None:
    with pytest.raises(TokenEndpointError, match="registration") as found:
        read({"error": code}, 401)
    assert found.value.ours
    assert isinstance(found.value, NetworkError)


@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_answer_is_too_odd(status: int, body: bytes) -> None:
    with pytest.raises(ConnectorError) as found:
        read_answer(status, body, host="id.example")
    assert str(found.value).isprintable()


def test_where_consent_is_given() -> None:
    """RFC 7636 appendix B for the challenge."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert challenge_of(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    url = consent_url(
        PROVIDER, redirect_uri="https://gw/cb?x=1&y", state="s&t", verifier=verifier, login_hint="a+b@c.example"
    )
    asked = parse_qs(urlsplit(url).query)
    assert asked == {
        "tenant": ["7"],
        "p": ["c"],
        "response_type": ["code"],
        "client_id": ["cid"],
        "redirect_uri": ["https://gw/cb?x=1&y"],
        "scope": ["mail off"],
        "state": ["s&t"],
        "code_challenge": ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"],
        "code_challenge_method": ["S256"],
        "login_hint": ["a+b@c.example"],
    }
    assert "hush" not in url
    assert "hush" not in repr(PROVIDER)
