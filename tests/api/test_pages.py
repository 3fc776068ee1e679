"""What holds of every page: who may see and change, what browsers are told, that nothing of others' text is markup."""

from __future__ import annotations

import dataclasses
from http.cookies import SimpleCookie
from typing import Any

import pytest

from mailgate.admin.application import ROUTES, routes
from mailgate.settings import PagesSettings
from mailgate.store.users import Role
from tests.api.conftest import Gateway
from tests.api.hooks import delivered_hook
from tests.api.people import Person, add, person

HOSTILE = "<script>alert(1)</script>\"'&amp;{{7*7}}"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


async def world(gateway: Gateway) -> dict[str, str]:
    await gateway.tenant("acme")
    box = await gateway.mailbox("acme")
    hold = {"scope": {"tenant": True}, "matter": "M-1", "reason": "a claim"}
    hold_id = (await gateway.client.post("/v1/tenants/acme/holds", json=hold)).json()["id"]
    link_id = (await gateway.client.post("/v1/tenants/acme/connect-links")).json()["id"]
    run_id = (await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})).json()["id"]
    await gateway.core.retention.work()
    webhook_id, delivery_id = await delivered_hook(gateway)
    return {
        "webhook_id": webhook_id,
        "delivery_id": delivery_id,
        "event_id": "acme:1",
        "tenant_id": "acme",
        "mailbox_id": box["id"],
        "guard_id": box["id"],
        "n": box["id"],
        "command": "cancel",
        "connect_link_id": link_id,
        "hold_id": hold_id,
        "run_id": run_id,
        "index": "0",
    }


def path_of(route: Any, known: dict[str, str]) -> str:
    return "/admin" + str(route.path).format(**known)


async def test_every_page_asks_who_it_is(gateway: Gateway) -> None:
    known = await world(gateway)
    stranger = Person(gateway)
    await stranger.get("/admin/sign-in")
    for route in ROUTES:
        if route.public:
            continue
        path = path_of(route, known)
        answer = await (stranger.get(path) if route.method == "GET" else stranger.post(path))
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/admin/sign-in"), path
    assert (await gateway.client.get(f"/v1/tenants/acme/mailboxes/{known['mailbox_id']}")).json()["enabled"] is True


async def test_no_change_is_made_without_the_forms_own_token(gateway: Gateway) -> None:
    known = await world(gateway)
    ann = await person(gateway)
    other = await Person(gateway).sign_in()
    for route in ROUTES:
        if route.method == "GET":
            continue
        for token in ("", "0" * 64, other.token, "é"):
            answer = await ann.client.post(path_of(route, known), data={"token": token})
            assert answer.status_code == 403, route.path
    assert (await ann.client.get("/admin/mailboxes")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://gateway.test"}, 303),
        ({"origin": "https://gateway.test"}, 303),
        ({"origin": "http://evil.test"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin"}, 303),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({}, 303),
    ],
)
async def test_a_form_must_come_from_here(gateway: Gateway, headers: dict[str, str], status: int) -> None:
    ann = await person(gateway)
    await ann.get("/admin/account")
    assert (await ann.post("/admin/account/language", {"language": "fr"}, headers=headers)).status_code == status


async def test_compliance_looks_and_changes_nothing(gateway: Gateway) -> None:
    known = await world(gateway)
    cleo = await person(gateway, "cleo", Role.COMPLIANCE)
    for route in ROUTES:
        if route.public or route.path.startswith(("/account", "/sign-out")):
            continue
        path = path_of(route, known)
        answer = await (cleo.get(path) if route.method == "GET" else cleo.post(path))
        if route.path.startswith("/retention/holds/{tenant_id}") and route.method == "POST":
            assert answer.status_code == 422  # theirs to do, but nothing was said
            continue
        assert answer.status_code == (403 if route.role is Role.ADMIN else 200 if route.path not in ("", "/") else 303)
        if answer.status_code == 200:
            assert 'action="/admin/tenants/' not in answer.text, path  # no button that would be refused
            assert "imap.acme.example" not in answer.text, path


async def test_another_tenants_things_are_not_there(gateway: Gateway) -> None:
    known = await world(gateway)
    await gateway.tenant("other")
    bob = await person(gateway, "bob", tenant_id="other")
    absent = known | {"tenant_id": "nobody"}
    for route in ROUTES:
        if "{tenant_id}" not in route.path:
            continue
        for path in (path_of(route, known), path_of(route, absent)):
            answer = await (bob.get(path) if route.method == "GET" else bob.post(path))
            assert answer.status_code == 404, path
    for path in ("/admin/mailboxes", "/admin/mailboxes?tenant=acme", "/admin/tenants", "/admin/tenants?q=acme"):
        text = (await bob.get(path)).text
        assert "ann@acme.example" not in text
        assert ">Acme<" not in text
    assert "ann@" not in (await bob.get(f"/admin/mailboxes/rows?ids={known['mailbox_id']}")).text
    theirs = f"/admin/tenants/other/mailboxes/{known['mailbox_id']}"
    assert (await bob.get(theirs)).status_code == 404
    assert (await bob.post(f"{theirs}/switch", {"enabled": "0"})).status_code == 404
    assert (await gateway.client.get(f"/v1/tenants/acme/mailboxes/{known['mailbox_id']}")).json()["enabled"] is True


async def test_the_name_of_a_link_has_the_number_that_is_seen(gateway: Gateway) -> None:
    await world(gateway)
    text = (await (await person(gateway)).get("/admin/tenants")).text
    assert 'aria-label="1: Mailboxes of Acme">1</a>' in text


async def test_what_browsers_are_told(gateway: Gateway) -> None:
    ann = await person(gateway)
    for path in ("/admin/sign-in", "/admin/mailboxes", "/admin/nothing", "/admin/static/pages.css", "/admin/static/no"):
        answer = await ann.client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
    assert (await ann.client.get("/admin/mailboxes")).headers["cache-control"] == "no-store"
    assert "immutable" in (await ann.client.get("/admin/static/htmx.min.js")).headers["cache-control"]
    page = (await ann.get("/admin/mailboxes")).text
    for forbidden in ("<style", " style=", "onclick=", "javascript:", "http://", "https://"):
        assert forbidden not in page


async def test_the_cookie_can_not_be_read_or_sent_along(gateway: Gateway) -> None:
    await add(gateway)
    plain = await Person(gateway).try_to_sign_in()
    cookie = SimpleCookie(plain.headers.get_list("set-cookie")[0])["mailgate_session"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]) == (True, "lax", "/", "")
    secure = Person(gateway)
    secure.client.base_url = "https://gateway.test"  # type: ignore[assignment]
    answer = await secure.try_to_sign_in()
    cookie = SimpleCookie(answer.headers.get_list("set-cookie")[0])["__Host-mailgate_session"]
    assert (cookie["httponly"], cookie["secure"], cookie["path"], cookie["domain"]) == (True, True, "/", "")


async def test_names_are_text_wherever_they_stand(gateway: Gateway) -> None:
    await gateway.client.put("/v1/tenants/acme", json={"name": HOSTILE})
    await gateway.client.put("/v1/tenants/acme/subscription", json={"plan": "professional"})
    box = await gateway.mailbox("acme", "'&copy@acme.example", owner=HOSTILE)
    ann = await person(gateway)
    at = f"/admin/tenants/acme/mailboxes/{box['id']}"
    for path in (
        "/admin/mailboxes",
        f"/admin/mailboxes?q={'%3Cscript%3E'}",
        "/admin/tenants",
        "/admin/tenants/acme",
        "/admin/tenants/acme/connect",
        at,
        f"{at}/edit",
        f"{at}/remove",
    ):
        answer = await ann.get(path)
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        assert "&copy" not in answer.text
        assert ">49" not in answer.text
    answer = await ann.post(
        "/admin/tenants/acme/connect", dict.fromkeys(("address", "imap_host", "imap_port"), HOSTILE)
    )
    assert answer.status_code == 422
    assert "<script>alert" not in answer.text


async def test_every_change_on_a_page_is_in_the_access_log(gateway: Gateway) -> None:
    known = await world(gateway)
    ann = await person(gateway)
    at = f"/admin/tenants/acme/mailboxes/{known['mailbox_id']}"
    await ann.get(at)
    await ann.post(f"{at}/switch", {"enabled": "0"})
    await ann.post(f"{at}/sync")
    found = (await gateway.client.get("/v1/access-log", params={"tenant": "acme", "limit": 2})).json()["items"]
    user = f"user:{(await gateway.client.get('/v1/access-log?kind=sign_in')).json()['items'][0]['actor'][5:]}"
    route = "/admin/tenants/{tenant_id}/mailboxes/{mailbox_id}"
    targets = {"mailbox_id": known["mailbox_id"]}
    assert [(e["actor"], e["method"], e["route"], e["status"], e["targets"]) for e in found] == [
        (user, "POST", f"{route}/sync", 409, targets),
        (user, "POST", f"{route}/switch", 303, targets),
    ]


async def test_only_forms_are_taken(gateway: Gateway) -> None:
    ann = await person(gateway)
    refused = await ann.client.post("/admin/account/language", json={"token": ann.token})
    assert refused.status_code == 415
    assert "The request was not understood" in refused.text
    assert (await gateway.client.post("/v1/tokens", data={"name": "x"})).status_code == 415
    assert (await ann.client.put("/admin/account")).status_code == 405


async def test_there_are_none_when_they_are_switched_off(gateway: Gateway) -> None:
    parts = gateway.app.state.services
    off = parts.settings.model_copy(update={"pages": PagesSettings(enabled=False)})
    assert routes(dataclasses.replace(parts, settings=off)) == []


@pytest.mark.parametrize("language", ["vi", "fr", "it"])
async def test_every_page_comes_in_every_language(gateway: Gateway, language: str) -> None:
    known = await world(gateway)
    ann = await person(gateway)
    for route in ROUTES:
        if route.method == "GET" and not route.public and route.path not in ("", "/"):
            answer = await ann.get(path_of(route, known), headers={"accept-language": language})
            assert answer.status_code == (409 if route.path.endswith("/consent") else 200), route.path
            assert "Settings" not in answer.text
            assert "Sign out" not in answer.text
