"""Mailboxes over HTTP: connecting answers at once, credentials are never shown, wrong settings are named."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from connectors.model import Endpoint, PasswordAuth, Security
from mailgate.clock import DAY, SECOND, to_rfc3339
from mailgate.ids import new_id
from mailgate.usecases.parts import Step, Verification
from mailgate.usecases.remedies import REMEDIES
from tests.api.conftest import START, Gateway, mailbox_body


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


UNKNOWN = new_id(START)


async def test_connecting_answers_at_once_and_wakes_the_sync(gateway: Gateway) -> None:
    await gateway.tenant()
    made = await gateway.client.post(
        "/v1/tenants/acme/mailboxes",
        json=mailbox_body(owner="ann", folders={"include": ["INBOX", "Sent*"], "exclude": ["*Junk*"]}),
    )
    assert made.status_code == 201
    found = made.json()
    assert made.headers["location"] == f"/v1/tenants/acme/mailboxes/{found['id']}"
    assert (found["state"], found["state_reason"], found["enabled"]) == ("connecting", None, True)
    assert found["folder_rules"] == {"include": ["INBOX", "Sent*"], "exclude": ["*Junk*"]}
    assert found["progress"] == {"done": 0, "total": 0, "rate": None, "eta_s": None}
    assert (found["last_checked_at"], found["lag_s"], found["folders"]) == (None, None, [])
    assert gateway.sync.woken[-1] == found["id"]
    assert (await gateway.client.get(f"/v1/tenants/acme/mailboxes/{found['id']}")).json() == found


async def test_no_answer_shows_a_credential(gateway: Gateway) -> None:
    await gateway.tenant()
    smtp = {"host": "smtp.acme.example", "port": 465, "username": "ann", "auth": {"password": "hunter2-smtp"}}
    made = await gateway.client.post("/v1/tenants/acme/mailboxes", json=mailbox_body(smtp=smtp))
    answers = [
        made,
        await gateway.client.get("/v1/tenants/acme/mailboxes"),
        await gateway.client.get(f"/v1/tenants/acme/mailboxes/{made.json()['id']}"),
        await gateway.client.patch(
            f"/v1/tenants/acme/mailboxes/{made.json()['id']}", json={"imap": {"auth": {"password": "hunter2-new"}}}
        ),
        await gateway.client.post("/v1/tenants/acme/mailboxes", json=mailbox_body() | {"password": "hunter2-wrong"}),
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 422]
    assert not any("hunter2" in answer.text for answer in answers)


async def test_the_credentials_are_kept_for_the_connector(gateway: Gateway) -> None:
    await gateway.tenant()
    mailbox = await gateway.mailbox("acme")
    assert await gateway.core.mailboxes.secrets(mailbox["id"]) == {"imap": {"password": "hunter2-imap"}}
    await gateway.client.patch(
        f"/v1/tenants/acme/mailboxes/{mailbox['id']}", json={"imap": {"auth": {"password": "new"}}}
    )
    assert await gateway.core.mailboxes.secrets(mailbox["id"]) == {"imap": {"password": "new"}}


async def test_on_free_nothing_is_connected(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    refused = await gateway.client.post("/v1/tenants/acme/mailboxes", json=mailbox_body())
    assert (refused.status_code, refused.json()["type"]) == (409, "not_entitled")
    assert (await gateway.client.get("/v1/tenants/acme/mailboxes")).json()["items"] == []


async def test_the_same_account_is_connected_once(gateway: Gateway) -> None:
    await gateway.tenant()
    first = await gateway.mailbox("acme")
    refused = await gateway.client.post("/v1/tenants/acme/mailboxes", json=mailbox_body())
    assert (refused.status_code, refused.json()["type"]) == (409, "mailbox_exists")
    assert refused.json()["mailbox_id"] == first["id"]


async def test_switching_off_and_on(gateway: Gateway) -> None:
    await gateway.tenant()
    path = f"/v1/tenants/acme/mailboxes/{(await gateway.mailbox('acme'))['id']}"
    off = (await gateway.client.patch(path, json={"enabled": False})).json()
    assert (off["enabled"], off["state"]) == (False, "disabled")
    refused = await gateway.client.post(f"{path}/sync")
    assert (refused.status_code, refused.json()["type"]) == (409, "mailbox_disabled")
    on = (await gateway.client.patch(path, json={"enabled": True})).json()
    assert (on["enabled"], on["state"]) == (True, "connecting")


async def test_a_stored_password_is_not_sent_to_another_server(gateway: Gateway) -> None:
    await gateway.tenant()
    path = f"/v1/tenants/acme/mailboxes/{(await gateway.mailbox('acme'))['id']}"
    refused = await gateway.client.patch(path, json={"imap": {"host": "imap.elsewhere.example"}})
    assert (refused.status_code, refused.json()["type"]) == (422, "credentials_needed")
    moved = await gateway.client.patch(
        path, json={"imap": {"host": "imap.elsewhere.example", "auth": {"password": "other"}}}
    )
    assert moved.json()["imap"] == {
        "host": "imap.elsewhere.example",
        "port": 993,
        "security": "tls",
        "username": "ann@acme.example",
    }


async def test_removing_destroys_the_credentials_and_keeps_the_row(gateway: Gateway) -> None:
    await gateway.tenant()
    mailbox = await gateway.mailbox("acme")
    path = f"/v1/tenants/acme/mailboxes/{mailbox['id']}"
    assert (await gateway.client.delete(path)).status_code == 204
    found = (await gateway.client.get(path)).json()
    assert (found["enabled"], found["state"], found["removed_at"]) == (False, "disabled", to_rfc3339(START))
    assert (await gateway.client.get("/v1/tenants/acme/mailboxes")).json()["items"] == []
    refused = await gateway.client.post(f"{path}/sync")
    assert (refused.status_code, refused.json()["type"]) == (409, "mailbox_removed")
    refused = await gateway.client.patch(path, json={"enabled": True})
    assert (refused.status_code, refused.json()["type"]) == (409, "mailbox_removed")


async def test_a_pass_is_asked_for_and_listed(gateway: Gateway) -> None:
    await gateway.tenant()
    path = f"/v1/tenants/acme/mailboxes/{(await gateway.mailbox('acme'))['id']}"
    first = await gateway.client.post(f"{path}/sync")
    assert (first.status_code, first.json()["state"]) == (202, "queued")
    gateway.clock.forward(SECOND)
    second = (await gateway.client.post(f"{path}/sync")).json()
    page = (await gateway.client.get(f"{path}/runs?limit=1")).json()
    assert [item["id"] for item in page["items"]] == [second["id"]]
    rest = (await gateway.client.get(f"{path}/runs", params={"limit": 1, "cursor": page["next_cursor"]})).json()
    assert [item["id"] for item in rest["items"]] == [first.json()["id"]]


async def test_after_becoming_free_no_pass_is_made(gateway: Gateway) -> None:
    await gateway.tenant()
    mailbox = await gateway.mailbox("acme")
    gateway.clock.forward(DAY)
    await gateway.client.put("/v1/tenants/acme/subscription", json={"plan": "free"})
    refused = await gateway.client.post(f"/v1/tenants/acme/mailboxes/{mailbox['id']}/sync")
    assert (refused.status_code, refused.json()["type"]) == (409, "not_entitled")


async def test_verifying_names_each_step(gateway: Gateway) -> None:
    await gateway.tenant()
    gateway.verify.answer = Verification(
        False, (Step("resolve", True), Step("login", False, "the server said no", "login_refused"))
    )
    body = {"tenant_id": "acme", "imap": mailbox_body()["imap"]}
    answer = await gateway.client.post("/v1/mailboxes/verify", json=body)
    assert answer.status_code == 200
    assert answer.json() == {
        "ok": False,
        "steps": [
            {"step": "resolve", "ok": True, "detail": "", "reason": None, "remedy": None},
            {
                "step": "login",
                "ok": False,
                "detail": "the server said no",
                "reason": "login_refused",
                "remedy": REMEDIES["login_refused"],
            },
        ],
    }
    assert gateway.verify.tried == [
        (Endpoint("imap.acme.example", 993, Security.TLS), PasswordAuth("ann@acme.example", "hunter2-imap"))
    ]


async def test_verifying_on_free_connects_nowhere(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    body = {"tenant_id": "acme", "imap": mailbox_body()["imap"]}
    refused = await gateway.client.post("/v1/mailboxes/verify", json=body)
    assert (refused.status_code, refused.json()["type"]) == (409, "not_entitled")
    refused = await gateway.client.post("/v1/mailboxes/verify", json=body | {"tenant_id": "nobody"})
    assert (refused.status_code, refused.json()["type"]) == (404, "tenant_not_found")
    assert gateway.verify.tried == []


async def test_checks_are_bounded(gateway: Gateway) -> None:
    await gateway.tenant()
    body = {"tenant_id": "acme", "imap": mailbox_body()["imap"]}
    checks = gateway.app.state.services.checks
    with contextlib.ExitStack() as taken:
        for _ in range(gateway.core.settings.onboarding.checks_at_once):
            taken.enter_context(checks.place(None))
        refused = await gateway.client.post("/v1/mailboxes/verify", json=body)
        assert (refused.status_code, refused.json()["type"]) == (503, "too_many_checks")
        assert (await gateway.client.get("/v1/autoconfig?address=a@x.example")).status_code == 503
    await gateway.tenant("other")
    with contextlib.ExitStack() as taken:
        for _ in range(gateway.core.settings.onboarding.checks_at_once // 2):
            taken.enter_context(checks.place("acme"))
        assert (await gateway.client.post("/v1/mailboxes/verify", json=body)).status_code == 503
        others = await gateway.client.post("/v1/mailboxes/verify", json=body | {"tenant_id": "other"})
        assert others.status_code == 200  # one tenant does not take all
        async with await gateway.token("crm", tenant_id="acme") as bound:
            assert (await bound.get("/v1/autoconfig?address=a@gmail.com")).status_code == 503
        assert (await gateway.client.get("/v1/autoconfig?address=a@gmail.com")).status_code == 200
    assert (await gateway.client.post("/v1/mailboxes/verify", json=body)).status_code == 200


def changed(path: str, value: Any) -> dict[str, Any]:
    body = mailbox_body()
    *parents, last = path.split("/")
    at = body
    for part in parents:
        at = at[part]
    at[last] = value
    return body


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("address", "no address"),
        ("address", "a\0b@acme.example"),
        ("address", "<ann@acme.example>"),
        ("address", "Ann<ann@acme.example>"),
        ("address", "ann@acme.example,bob@acme.example"),
        ("address", '"ann"@acme.example'),
        ("address", "ann@[acme"),
        ("imap/host", ""),
        ("imap/host", "imap.example\r\nX"),
        ("imap/host", "http://imap.example"),
        ("imap/port", 0),
        ("imap/port", 65_536),
        ("imap/port", "many"),
        ("imap/port", True),
        ("imap/port", "993"),
        ("imap/security", "ssl"),
        ("imap/username", "ann\r\nA LOGOUT"),
        ("imap/auth/password", ""),
        ("imap/auth/password", "a\nb"),
        ("imap/auth/token", "x"),
        ("owner", "x" * 201),
        ("enabled", "perhaps"),
        ("enabled", 1),
        ("folders", {"include": ["x" * 1_001]}),
        ("color", "red"),
    ],
)
async def test_wrong_settings_are_named(gateway: Gateway, pointer: str, value: Any) -> None:
    await gateway.tenant()
    refused = await gateway.client.post("/v1/tenants/acme/mailboxes", json=changed(pointer, value))
    assert refused.status_code == 422
    problem = refused.json()
    assert problem["type"] == "invalid"
    assert problem["errors"][0]["pointer"].startswith(f"#/{pointer}")
    if pointer == "address":
        assert "write it alone, like ann@example.com" in problem["detail"]


@pytest.mark.parametrize(
    "address", ["ann@[192.0.2.1]", "ann.@acme.example", "ännä+x@bücher.example", "o'brien@acme.ie"]
)
async def test_addresses_that_people_have_are_taken(gateway: Gateway, address: str) -> None:
    await gateway.tenant()
    made = await gateway.client.post("/v1/tenants/acme/mailboxes", json=changed("address", address))
    assert (made.status_code, made.json()["address"]) == (201, address)


@pytest.mark.parametrize("what", ["", "/folders", "/runs"])
async def test_another_tenants_mailbox_is_not_found(gateway: Gateway, what: str) -> None:
    await gateway.tenant("acme")
    await gateway.tenant("other")
    theirs = await gateway.mailbox("other")
    for mailbox_id in (theirs["id"], UNKNOWN):
        refused = await gateway.client.get(f"/v1/tenants/acme/mailboxes/{mailbox_id}{what}")
        assert (refused.status_code, refused.json()["type"]) == (404, "mailbox_not_found")


async def test_a_backfill_is_asked_for_and_shown(gateway: Gateway) -> None:
    await gateway.tenant("acme", "standard")
    made = (await gateway.client.post("/v1/tenants/acme/mailboxes", json=mailbox_body())).json()
    path = f"/v1/tenants/acme/mailboxes/{made['id']}"
    beyond = await gateway.client.post(f"{path}/backfill", json={"days": 61})
    assert (beyond.status_code, beyond.json()["type"]) == (422, "days_beyond_plan")
    assert "60" in beyond.json()["detail"]
    answer = await gateway.client.post(f"{path}/backfill", json={"days": 60})
    assert answer.status_code == 202
    run = answer.json()
    assert (run["kind"], run["state"], run["days"], run["counts"]) == (
        "backfill",
        "queued",
        60,
        {"new": 0, "rehydrated": 0},
    )
    assert run["actor"].startswith("token:")
    assert made["id"] in gateway.sync.woken
    assert (await gateway.client.get(f"{path}/runs")).json()["items"] == [run]
    again = await gateway.client.post(f"{path}/backfill", json={"days": 30})
    assert again.json()["id"] == run["id"]
    await gateway.client.patch(path, json={"enabled": False})
    off = await gateway.client.post(f"{path}/backfill", json={"days": 30})
    assert (off.status_code, off.json()["type"]) == (409, "mailbox_disabled")
    nothing = await gateway.client.post(f"{path}/backfill", json={"days": 0})
    assert nothing.status_code == 422
