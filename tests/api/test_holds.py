"""Holds over HTTP and on the command line's side of the interface: who may, what they say, what they do to a copy."""

from __future__ import annotations

import pytest

from mailgate.clock import DAY, to_rfc3339
from tests.api.conftest import START, Gateway
from tests.api.mail import letter, postman
from tests.postgres import before_the_database

TENANT = {"scope": {"tenant": True}, "matter": "M-1", "reason": "a claim"}


async def test_a_hold_keeps_a_copy_until_its_release_has_passed(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    message_id = await post.deliver(letter("evidence"))
    async with await gateway.token("compliance") as compliance:
        body = {"scope": {"message_ids": [message_id]}, "matter": "M-1", "reason": "a claim"}
        placed = await compliance.post("/v1/tenants/acme/holds", json=body)
        assert placed.status_code == 201, placed.text
        hold = placed.json()
        assert hold["scope"] == {"kind": "messages", "mailbox_id": None, "messages": 1}
        assert (hold["matter"], hold["placed_at"], hold["protects_until"]) == ("M-1", to_rfc3339(START), None)
        shown = (await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}")).json()
        assert (shown["held"], shown["expires_at"]) == (True, None)

        gateway.clock.forward(70 * DAY)
        assert (await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}")).status_code == 200
        preview = (await compliance.get("/v1/retention/preview?tenant=acme&limit=1")).json()
        assert (preview["purged"], preview["kept"], preview["items"][0]["kept_by"]) == (0, {"held": 1}, "held")

        released = await compliance.post(f"/v1/tenants/acme/holds/{hold['id']}/release", json={"reason": "settled"})
        assert released.status_code == 200, released.text
        assert released.json()["protects_until"] == to_rfc3339(START + 100 * DAY)
        again = await compliance.post(f"/v1/tenants/acme/holds/{hold['id']}/release", json={"reason": "settled"})
        assert (again.status_code, again.json()["type"]) == (409, "hold_released")
        whole = (await compliance.get(f"/v1/tenants/acme/holds/{hold['id']}")).json()
        assert (whole["message_ids"], whole["release_reason"]) == ([message_id], "settled")
    gateway.clock.forward(30 * DAY)
    gone = await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}")
    assert (gone.status_code, gone.json()["type"]) == (410, "expired")


async def test_holds_are_listed(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    ids = []
    for scope in ({"tenant": True}, {"mailbox": post.mailbox_id}):
        gateway.clock.forward(DAY)
        ids.append((await gateway.client.post("/v1/tenants/acme/holds", json=TENANT | {"scope": scope})).json()["id"])
    await gateway.client.post(f"/v1/tenants/acme/holds/{ids[0]}/release", json={"reason": "settled"})
    page = (await gateway.client.get("/v1/tenants/acme/holds?limit=1")).json()
    assert [hold["id"] for hold in page["items"]] == [ids[1]]
    assert page["items"][0]["scope"] == {"kind": "mailbox", "mailbox_id": post.mailbox_id, "messages": None}
    rest = (await gateway.client.get(f"/v1/tenants/acme/holds?limit=1&cursor={page['next_cursor']}")).json()
    assert ([hold["id"] for hold in rest["items"]], rest["next_cursor"]) == ([ids[0]], None)
    standing = (await gateway.client.get("/v1/tenants/acme/holds?standing=true")).json()
    assert [hold["id"] for hold in standing["items"]] == [ids[1]]


async def test_a_purged_message_can_not_be_held_and_is_named(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    gone = await post.deliver(letter("gone"))
    gateway.clock.forward(60 * DAY)
    await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})
    await gateway.core.retention.work()
    body = TENANT | {"scope": {"message_ids": [gone]}}
    refused = await gateway.client.post("/v1/tenants/acme/holds", json=body)
    assert (refused.status_code, refused.json()["type"], refused.json()["message_ids"]) == (409, "purged", [gone])
    unknown = await gateway.client.post("/v1/tenants/acme/holds", json=TENANT | {"scope": {"message_ids": ["0" * 26]}})
    assert (unknown.status_code, unknown.json()["type"]) == (404, "message_not_found")


@before_the_database
@pytest.mark.parametrize(
    ("scope", "pointer"),
    [
        ({}, "#/scope"),
        ("tenant", "#/scope"),
        ({"tenant": False}, "#/scope/tenant"),
        ({"tenant": True, "message_ids": ["0" * 26]}, "#/scope/message_ids"),
        ({"message_ids": []}, "#/scope/message_ids"),
        ({"message_ids": ["x"]}, "#/scope/message_ids/0"),
        ({"mailbox": "x"}, "#/scope/mailbox"),
    ],
    ids=str,
)
async def test_a_scope_is_exactly_one_thing_and_what_is_wrong_with_it_is_said(
    gateway: Gateway, scope: object, pointer: str
) -> None:
    """Not what would be wrong with it if another kind had been meant."""
    await gateway.tenant()
    refused = await gateway.client.post("/v1/tenants/acme/holds", json=TENANT | {"scope": scope})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert (error["location"], error["pointer"]) == ("body", pointer)
    assert pointer != "#/scope" or '{"mailbox": id}' in error["detail"]


async def test_holds_are_for_compliance(gateway: Gateway) -> None:
    await gateway.tenant()
    async with await gateway.token("crm") as crm:
        assert (await crm.post("/v1/tenants/acme/holds", json=TENANT)).status_code == 403
        assert (await crm.get("/v1/tenants/acme/holds")).status_code == 403
    await gateway.tenant("other")
    async with await gateway.token("compliance", tenant_id="other") as other:
        assert (await other.post("/v1/tenants/acme/holds", json=TENANT)).status_code == 404
