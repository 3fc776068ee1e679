"""What needs nothing said takes no body: a POST all of whose fields are optional is understood without one."""

from __future__ import annotations

from typing import Any

import pytest

from mailgate.clock import DAY
from tests.api.conftest import Gateway

# Nothing here hangs on the database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

SUBSCRIPTION = "/v1/tenants/acme/subscription"
SAID_ELSEWHERE = {
    "/v1/tenants/{tenant_id}/mailboxes/{mailbox_id}/submissions",
    "/v1/webhooks/{webhook_id}/replay",
    "/v1/billing/stripe",
}
"""A letter may leave each of its fields out, but not all of its recipients; a replay must begin somewhere; what Stripe
says is Stripe's.
"""


def _demands(document: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Whether a value of this schema must have some field."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    some = schema.get("anyOf")
    if some is not None:
        return all(_demands(document, one) for one in some if one != {"type": "null"})
    return schema.get("type") != "object" or bool(schema.get("required"))


async def test_the_document_demands_a_body_only_where_a_field_is_needed(gateway: Gateway) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    bodies = {
        path: operation["post"]["requestBody"]
        for path, operation in document["paths"].items()
        if "requestBody" in operation.get("post", {}) and path not in SAID_ELSEWHERE
    }
    needless = {
        path
        for path, body in bodies.items()
        if body.get("required") and not any(_demands(document, c["schema"]) for c in body["content"].values())
    }
    assert needless == set()
    optional = {path.rpartition("/")[2] for path, body in bodies.items() if not body.get("required")}
    assert {"cancel", "resume", "retry", "renew", "runs", "rehydrate"} <= optional


async def test_commands_without_values_need_no_body(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")

    async def post(path: str, kind: str | None = None) -> tuple[int, dict[str, Any]]:
        answer = await gateway.client.post(path, headers={} if kind is None else {"content-type": kind})
        return answer.status_code, answer.json()

    bought = await gateway.client.post(f"{SUBSCRIPTION}/purchase", json={"plan": "standard"})
    assert bought.json()["term_months"] == 1  # the shortest term
    for kind in (None, "application/json", "application/x-www-form-urlencoded"):
        status, found = await post(f"{SUBSCRIPTION}/cancel", kind)
        assert (status, found["status"]) == (200, "canceled")
        status, found = await post(f"{SUBSCRIPTION}/resume", kind)
        assert (status, found["status"]) == (200, "active")
        gateway.clock.forward(1)
    gateway.clock.forward(35 * DAY)
    status, found = await post(f"{SUBSCRIPTION}/retry")
    assert (status, found["status"]) == (200, "active")
    status, found = await post(f"{SUBSCRIPTION}/renew")
    assert (status, found["pending_change"]["term_months"]) == (200, 1)
    status, found = await post("/v1/retention/runs")
    assert (status, found["tenant_id"], found["dry_run"]) == (202, None, False)


async def test_what_is_said_is_still_checked(gateway: Gateway) -> None:
    await gateway.tenant("acme", "standard")
    refused = await gateway.client.post(f"{SUBSCRIPTION}/cancel", json={"at_once": True})
    assert (refused.status_code, refused.json()["type"]) == (422, "invalid")
    refused = await gateway.client.post(f"{SUBSCRIPTION}/upgrade")
    assert (refused.status_code, refused.json()["type"]) == (422, "invalid")
