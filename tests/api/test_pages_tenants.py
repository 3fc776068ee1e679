"""The tenants' pages: what one has, what will happen, the commands that the rules allow now, from when the others."""

from __future__ import annotations

import re

from mailgate.clock import DAY, to_rfc3339
from mailgate.store.users import Role
from tests.api.conftest import START, Gateway
from tests.api.mail import letter, postman
from tests.api.people import person


def offered(text: str) -> list[str]:
    return re.findall(r'action="/admin/tenants/acme/subscription/(\w+)"', text)


async def test_tenants_are_found_by_name_id_and_plan(gateway: Gateway) -> None:
    await gateway.tenant("acme", "standard")
    await gateway.tenant("beta", "free")
    await gateway.mailbox("acme")
    ann = await person(gateway)
    for query, expected in (
        ("", ["acme", "beta"]),
        ("q=ACM", ["acme"]),
        ("q=%5f", []),
        ("plan=free", ["beta"]),
        ("plan=standard", ["acme"]),
    ):
        text = (await ann.get(f"/admin/tenants?{query}")).text
        assert re.findall(r'scope="row"[^>]*><a href="/admin/tenants/(\w+)"', text) == expected, query
    assert re.search(r'href="/admin/mailboxes\?tenant=acme"[^>]*>1<', (await ann.get("/admin/tenants")).text)


async def test_a_tenant_shows_what_it_has(gateway: Gateway) -> None:
    post = await postman(gateway, "acme", "crm_plus")
    await post.deliver(letter(), index=False, age=5 * DAY)
    ends = to_rfc3339(START + 12 * DAY)
    body = {"plan": "crm_plus", "period_end": ends, "seats": 3}
    await gateway.client.put("/v1/tenants/acme/subscription", json=body)
    ann = await person(gateway)
    text = (await ann.get("/admin/tenants/acme")).text
    for expected in ("<b>CRM+</b>", "1 of 3", "0, 10,000 left", "30 days", "not renewed automatically", "1 mailbox"):
        assert expected in text, expected
    assert "The plan ends: CRM+ → Free" in text
    assert "1 copy becomes due then" in text
    assert "Set by an admin" in text
    assert "the token of the environment (MAILGATE_ADMIN_TOKEN)" in text
    assert re.search(r'<th scope="col" class="here" aria-current="true">CRM\+<', text)


async def test_the_buttons_are_those_that_the_rules_allow_and_the_others_say_from_when(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    ann = await person(gateway)
    assert offered((await ann.get("/admin/tenants/acme")).text) == ["purchase"]
    done = await ann.post(
        "/admin/tenants/acme/subscription/purchase", {"plan": "standard", "term": "3", "seats": "4", "do": "command"}
    )
    assert done.headers["location"] == "/admin/tenants/acme?done=subscription"
    text = (await ann.get("/admin/tenants/acme")).text
    assert offered(text) == ["upgrade", "cancel", "seats"]
    assert '<span class="dim">ann</span>' in text  # whose doing it was, by name
    found = (await gateway.client.get("/v1/tenants/acme/subscription")).json()
    assert (found["plan"], found["term_months"], found["seats"]["max"]) == ("standard", 3, 4)
    assert re.search(r"<dt>Renew</dt><dd>Possible in the last 30 days[^<]+<strong>From <time", text)
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    looked = (await cleo.get("/admin/tenants/acme")).text
    assert offered(looked) == []
    assert re.findall(r"<dt>(\w[^<]*)</dt><dd>[^<]*<strong>An admin can do it now", looked) == [
        *("Upgrade", "Cancel", "Change seats"),
    ]
    assert re.search(r"<dt>Renew</dt><dd>Possible in the last 30 days[^<]+<strong>From <time", looked)
    assert re.search(r"<dt>Downgrade</dt><dd>Possible on the last day[^<]+<strong>From <time", text)
    gateway.clock.forward(70 * DAY)
    await ann.sign_in()
    assert "renew" in offered((await ann.get("/admin/tenants/acme")).text)
    assert gateway.sync.woken


async def test_a_price_is_said_and_nothing_is_changed(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    ann = await person(gateway)
    form = {"plan": "professional", "term": "12", "seats": "2", "do": "quote"}
    answer = await ann.post("/admin/tenants/acme/subscription/purchase", form)
    assert "It costs €842.00, due 27 May 2026" in answer.text
    assert 'value="2"' in answer.text
    assert (await gateway.client.get("/v1/tenants/acme/subscription")).json()["plan"] == "free"


async def test_what_the_rules_forbid_is_said(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    ann = await person(gateway)
    for command, form, status in (
        ("renew", {"term": "1"}, 409),
        ("purchase", {"plan": "nonsense"}, 422),
        ("purchase", {"plan": "standard", "seats": "-1"}, 422),
        ("purchase", {"plan": "standard", "term": "7"}, 422),
        ("nonsense", {}, 422),
    ):
        answer = await ann.post(f"/admin/tenants/acme/subscription/{command}", form)
        assert answer.status_code == status, command
        assert 'role="alert"' in answer.text
