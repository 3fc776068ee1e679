"""The access log's page: people and tokens by name, one's own tenant only, by day; nothing of others' is markup."""

from __future__ import annotations

import re

import pytest

from mailgate.clock import DAY, to_rfc3339
from mailgate.store.users import Role
from tests.api.conftest import START, Gateway
from tests.api.people import Person, person


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database; test_access_log's listing is the same."""
    return sqlite_url


def rows(text: str) -> list[str]:
    return re.findall(r"<code>([A-Z]+ [^<]+)</code>", text)


async def test_it_says_who_did_what_and_when(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    gateway.clock.forward(DAY)
    await gateway.tenant("other", "free")
    hostile = "<b>a token</b>"
    made = await gateway.client.post("/v1/tokens", json={"name": hostile, "scopes": ["crm"]})
    async with gateway.with_token(made.json()["token"]) as client:
        await client.put("/v1/tenants/acme", json={"name": "Acme"})
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    text = (await cleo.get("/admin/access-log")).text
    assert len(rows(text)) == 4
    assert ">cleo<" in text
    assert "&lt;b&gt;a token" in text
    assert hostile not in text
    days = [to_rfc3339(START + n * DAY)[:10] for n in (0, 1)]
    for query, count in (
        ("tenant=acme", 2),
        ("tenant=nobody", 0),
        ("kind=sign_in", 0),
        ("actor=token:environment", 3),
        (f"until={days[0]}", 1),
        (f"since={days[1]}", 3),
        (f"since={days[0]}&until={days[1]}", 4),
        ("since=yesterday&kind=nonsense", 4),
    ):
        assert len(rows((await cleo.get(f"/admin/access-log?{query}")).text)) == count, query


async def test_who_is_bound_to_a_tenant_sees_that_one(gateway: Gateway) -> None:
    for name in ("acme", "other"):
        await gateway.tenant(name, "free")
    bob: Person = await person(gateway, "bob", Role.COMPLIANCE, "other")
    for query in ("", "?tenant=acme"):
        text = (await bob.get(f"/admin/access-log{query}")).text
        assert rows(text) == ["PUT /v1/tenants/{tenant_id}"]
        assert 'data-label="Tenant">acme<' not in text


async def test_it_is_paged(gateway: Gateway) -> None:
    for n in range(101):
        await gateway.client.put("/v1/tenants/acme", json={"name": f"Acme {n}"})
    ann = await person(gateway)
    first = (await ann.get("/admin/access-log?kind=change")).text
    link = re.search(r'href="([^"]+)" rel="next"', first)
    assert link is not None
    second = (await ann.get(link[1].replace("&amp;", "&"))).text
    assert (len(rows(first)), len(rows(second))) == (100, 1)
