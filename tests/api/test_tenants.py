"""Tenants, plans and subscriptions over HTTP."""

from __future__ import annotations

import pytest

from mailgate.clock import DAY, to_rfc3339
from mailgate.jobs.erase import EraseWorker
from mailgate.store import leftovers
from mailgate.store.erasures import Erasures
from tests.api.conftest import START, Gateway
from tests.api.mail import letter, postman
from tests.postgres import before_the_database


async def test_putting_a_tenant_makes_it_and_putting_it_again_renames_it(gateway: Gateway) -> None:
    made = await gateway.client.put("/v1/tenants/acme", json={"name": "Acme"})
    assert made.status_code == 201
    assert made.json() == {"id": "acme", "name": "Acme", "created_at": to_rfc3339(START)}
    again = await gateway.client.put("/v1/tenants/acme", json={"name": "Acme Ltd"})
    assert again.status_code == 200
    got = await gateway.client.get("/v1/tenants/acme")
    assert got.json()["name"] == "Acme Ltd"


async def test_a_new_tenant_is_on_plan_free(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    found = (await gateway.client.get("/v1/tenants/acme/subscription")).json()
    assert found["plan"] == "free"
    assert found["entitlements"] == {
        "known": True,
        "sync": False,
        "retention_days": 0,
        "mailboxes_per_user": None,
        "shared_mailboxes": None,
        "storage_bytes": 1_073_741_824,
        "sent_per_month": 0,
        "sent_per_day": None,
        "sent_reserved": None,
    }
    assert found["usage"] == {
        "storage_bytes": 0,
        "storage_exceeded": False,
        "mailboxes": 0,
        "sent_this_month": 0,
        "sent_left_this_month": 0,
    }


@before_the_database
@pytest.mark.parametrize("tenant_id", ["a b", "ä", "x" * 65, "a%2Fb%00", "%2E", "%2E%2E"])
async def test_a_tenant_id_of_other_characters_is_refused(gateway: Gateway, tenant_id: str) -> None:
    refused = await gateway.client.put(f"/v1/tenants/{tenant_id}", json={"name": "x"})
    assert refused.status_code in (404, 422)
    assert refused.headers["content-type"] == "application/problem+json"


async def test_tenants_are_listed_in_pages(gateway: Gateway) -> None:
    for name in ("c", "a", "e", "b", "d"):
        await gateway.tenant(name, "free")
    seen: list[str] = []
    cursor: str | None = None
    pages = 0
    while True:
        page = (
            await gateway.client.get("/v1/tenants", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))
        ).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        pages += 1
        if cursor is None:
            break
    assert seen == ["a", "b", "c", "d", "e"]
    assert pages == 3


@before_the_database
@pytest.mark.parametrize("limit", ["0", "201", "x", "99999999999999999999"])
async def test_a_limit_out_of_bounds_is_refused(gateway: Gateway, limit: str) -> None:
    refused = await gateway.client.get("/v1/tenants", params={"limit": limit})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "#/limit"


@before_the_database
@pytest.mark.parametrize("cursor", ["x", "AAAAAAAAAAAAAAAA", "ä", "=" * 20])
async def test_a_bad_cursor_is_refused(gateway: Gateway, cursor: str) -> None:
    refused = await gateway.client.get("/v1/tenants", params={"cursor": cursor})
    assert (refused.status_code, refused.json()["type"]) == (400, "bad_cursor")


async def test_a_cursor_of_another_listing_is_refused(gateway: Gateway) -> None:
    for name in ("a", "b"):
        await gateway.tenant(name, "free")
    cursor = (await gateway.client.get("/v1/tenants?limit=1")).json()["next_cursor"]
    refused = await gateway.client.get("/v1/tokens", params={"cursor": cursor})
    assert (refused.status_code, refused.json()["type"]) == (400, "bad_cursor")


async def test_an_unknown_query_parameter_is_refused(gateway: Gateway) -> None:
    refused = await gateway.client.get("/v1/tenants?limt=3")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "#/limt"


async def test_setting_a_subscription(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    end = START + 30 * DAY
    body = {"plan": "standard", "period_end": to_rfc3339(end), "auto_renew": True, "seats": 7}
    found = (await gateway.client.put("/v1/tenants/acme/subscription", json=body)).json()
    assert (found["plan"], found["status"], found["auto_renew"]) == ("standard", "active", True)
    assert found["seats"] == {"used": 0, "max": 7}
    assert found["entitlements"]["retention_days"] == 60
    assert found["period_end"] == to_rfc3339(end)
    assert gateway.sync.woken == [None]


async def test_a_period_that_nobody_renewed_ends_in_free(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    body = {"plan": "standard", "period_end": to_rfc3339(START + DAY)}
    await gateway.client.put("/v1/tenants/acme/subscription", json=body)
    gateway.clock.forward(DAY)
    found = (await gateway.client.get("/v1/tenants/acme/subscription")).json()
    assert (found["plan"], found["status"], found["period_start"]) == ("free", "expired", to_rfc3339(START + DAY))


async def test_the_history_names_each_period_and_its_event(gateway: Gateway) -> None:
    await gateway.tenant("acme", "standard")
    gateway.clock.forward(DAY)
    await gateway.client.put("/v1/tenants/acme/subscription", json={"plan": "professional"})
    items = (await gateway.client.get("/v1/tenants/acme/subscription/history")).json()["items"]
    assert [(item["plan"], item["event_type"]) for item in items] == [("professional", "set"), ("standard", "set")]
    assert items[0]["actor"] == "token:environment"


@before_the_database
@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({"plan": "gold"}, 422, "plan_unknown"),
        ({"plan": "standard", "status": "paid"}, 422, "invalid"),
        ({"plan": "standard", "period_end": "tomorrow"}, 422, "invalid"),
        ({"plan": "standard", "period_end": "2026-01-31T00:00:00"}, 422, "invalid"),
        ({"plan": "standard", "period_end": 5}, 422, "invalid"),
        ({"plan": "standard", "seats": 0}, 422, "invalid"),
        ({"plan": "standard", "seats": True}, 422, "invalid"),
        ({"plan": "standard", "seats": "5"}, 422, "invalid"),
        ({"plan": "standard", "seats": 5.5}, 422, "invalid"),
        ({"plan": "standard", "auto_renew": 1}, 422, "invalid"),
        ({"plan": "standard", "auto_renew": "yes"}, 422, "invalid"),
        ({"plan": "standard", "price": 5}, 422, "invalid"),
        ({"plan": "a\0b"}, 422, "invalid"),
        ([], 422, "invalid"),
    ],
)
async def test_bad_subscriptions_are_refused(gateway: Gateway, body: object, status: int, slug: str) -> None:
    await gateway.tenant("acme", "free")
    refused = await gateway.client.put("/v1/tenants/acme/subscription", json=body)
    assert (refused.status_code, refused.json()["type"]) == (status, slug)


async def test_a_whole_number_may_be_written_with_a_point(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    put = await gateway.client.put("/v1/tenants/acme/subscription", json={"plan": "standard", "seats": 5.0})
    assert put.status_code == 200
    assert put.json()["seats"]["max"] == 5


async def test_plans_are_compared(gateway: Gateway) -> None:
    plans = (await gateway.client.get("/v1/plans")).json()
    assert [(plan["name"], plan["sync"], plan["retention_days"]) for plan in plans["items"]] == [
        ("free", False, 0),
        ("demo", True, 30),
        ("crm_plus", True, 30),
        ("standard", True, 60),
        ("nfr", True, 90),
        ("professional", True, 90),
    ]
    assert plans["sha256"] == gateway.core.catalogue.sha256


@pytest.mark.parametrize("path", ["", "/subscription", "/subscription/history", "/mailboxes"])
async def test_an_unknown_tenant_is_not_found(gateway: Gateway, path: str) -> None:
    refused = await gateway.client.get(f"/v1/tenants/nobody{path}")
    assert (refused.status_code, refused.json()["type"]) == (404, "tenant_not_found")


async def test_a_tenant_that_is_erased_is_gone_at_once_and_its_log_stays(gateway: Gateway) -> None:
    core = gateway.core
    post = await postman(gateway, "acme")
    message_id = await post.deliver(letter())
    await gateway.tenant("other")
    bound = await gateway.token("crm", tenant_id="acme")
    asked = await bound.delete("/v1/tenants/acme", params={"reason": "erasure_request"})
    assert asked.status_code == 202, asked.text
    begun = asked.json()
    assert (begun["state"], begun["reason"], begun["purged"]) == ("erasing", "erasure_request", 0)
    assert (await bound.get("/v1/tenants/acme")).status_code == 401
    for path in ("", "/mailboxes", f"/messages/{message_id}", "/subscription", "/retention"):
        assert (await gateway.client.get(f"/v1/tenants/acme{path}")).status_code == 404, path
    listed = (await gateway.client.get("/v1/tenants")).json()["items"]
    assert [tenant["id"] for tenant in listed] == ["other"]
    events = await gateway.client.get("/v1/events", params={"tenant": "acme"})
    assert events.status_code == 404

    await core.tenant_erasures.work()
    await EraseWorker(Erasures(core.db, core.log), core.blobs, core.clock, "test").work()
    await leftovers.sweep(core.db)
    await core.tenant_erasures.work()
    again = await gateway.client.delete("/v1/tenants/acme")
    assert again.status_code == 200
    assert again.json() == begun | {
        "state": "erased",
        "erased_at": again.json()["erased_at"],
        "purged": 1,
        "bytes": len(letter()),
    }
    kept = await gateway.client.get("/v1/purge-log", params={"tenant": "acme", "reason": "erasure_request"})
    assert [leaf["type"] for leaf in kept.json()["items"]] == ["item.purge"]
    assert (await gateway.client.get("/v1/purge-log/acme/checkpoint")).status_code == 200
    refused = await gateway.client.put("/v1/tenants/acme", json={"name": "Acme"})
    assert (refused.status_code, refused.json()["type"]) == (409, "tenant_erased")
    assert (await gateway.client.delete("/v1/tenants/nobody")).status_code == 404


async def test_a_hold_forbids_to_erase_a_tenant(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    body = {"scope": {"tenant": True}, "matter": "M", "reason": "asked"}
    assert (await gateway.client.post("/v1/tenants/acme/holds", json=body)).status_code == 201
    refused = await gateway.client.delete("/v1/tenants/acme")
    assert (refused.status_code, refused.json()["type"]) == (409, "held")
    assert (await gateway.client.get("/v1/tenants/acme")).status_code == 200
