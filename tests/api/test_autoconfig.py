"""`GET /v1/autoconfig`: what was found for an address, and what was tried."""

from __future__ import annotations

import pytest

from tests.api.conftest import Gateway

# Nothing here hangs on the database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize("name", ["address", "email"])
async def test_a_known_provider(gateway: Gateway, name: str) -> None:
    answer = await gateway.client.get("/v1/autoconfig", params={name: "ann@gmail.com"})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "address": "ann@gmail.com",
        "domain": "gmail.com",
        "online": True,
        "found": {
            "source": "built_in",
            "guess": False,
            "provider": "Gmail",
            "provider_id": "gmail",
            "imap": {"host": "imap.gmail.com", "port": 993, "security": "tls", "username": "ann@gmail.com"},
            "smtp": {"host": "smtp.gmail.com", "port": 465, "security": "tls", "username": "ann@gmail.com"},
            "needs": ["app_password"],
            "oauth": "google",
            "help": "https://support.google.com/accounts/answer/185833",
        },
        "tried": [{"source": "built_in", "target": "gmail.com", "outcome": "found", "detail": ""}],
    }


async def test_nobody_knows(gateway: Gateway) -> None:
    found = (await gateway.client.get("/v1/autoconfig", params={"address": "ann@nowhere.example"})).json()
    assert found["found"] is None
    tried = [(attempt["source"], attempt["outcome"]) for attempt in found["tried"]]
    assert tried == [(s, "nothing") for s in ("built_in", "autoconfig", "autoconfig", "srv", "mx", "guess")]


async def test_a_provider_without_imap(gateway: Gateway) -> None:
    found = (await gateway.client.get("/v1/autoconfig", params={"address": "ann@tuta.com"})).json()["found"]
    assert (found["imap"], found["needs"]) == (None, ["no_imap"])


@pytest.mark.parametrize(
    ("params", "slug"),
    [
        ({}, "invalid"),
        ({"address": "ann"}, "invalid"),
        ({"address": "ann@acme.example\r\nBcc: eve@evil.example"}, "invalid"),
        ({"address": "ann@acme.example", "more": "1"}, "invalid"),
        ({"address": "ann@127.0.0.1"}, "address_invalid"),
        ({"address": "ann@localhost"}, "address_invalid"),
    ],
)
async def test_what_is_no_address(gateway: Gateway, params: dict[str, str], slug: str) -> None:
    refused = await gateway.client.get("/v1/autoconfig", params=params)
    assert (refused.status_code, refused.json()["type"]) == (422, slug)
