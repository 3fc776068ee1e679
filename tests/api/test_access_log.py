"""The access log: what tokens change is in it before they are answered, what they read is counted, nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from mailgate.app.upkeep import Upkeep
from mailgate.clock import DAY, MINUTE, to_rfc3339
from mailgate.store.prune import prune
from tests.api.conftest import START, Gateway
from tests.api.mail import letter, postman


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database, but for the listing."""
    return sqlite_url


async def entries(gateway: Gateway, **query: Any) -> list[dict[str, Any]]:
    answer = await gateway.client.get("/v1/access-log", params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def token_of(gateway: Gateway, *scopes: str, tenant_id: str | None = None) -> tuple[Any, str]:
    client = await gateway.token(*scopes, tenant_id=tenant_id)
    made = (await gateway.client.get("/v1/tokens")).json()["items"][0]["id"]
    return client, f"token:{made}"


async def test_every_change_is_written_with_who_what_where_and_what_came_of_it(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    client, actor = await token_of(gateway, "crm")
    async with client:
        made = await client.post(
            "/v1/tenants/acme/mailboxes",
            params={},
            json={
                "address": "ann@acme.example",
                "imap": {"host": "h", "port": 993, "username": "ann", "auth": {"password": "hunter2-imap"}},
            },
        )
        mailbox_id = made.json()["id"]
        await client.patch(f"/v1/tenants/acme/mailboxes/{mailbox_id}", json={"enabled": False})
        await client.get(f"/v1/tenants/acme/mailboxes/{mailbox_id}")
        await client.delete("/v1/tokens/01J8Z0000000000000000000AB")
    found = await entries(gateway, actor=actor)
    route = "/v1/tenants/{tenant_id}/mailboxes"
    assert [(e["method"], e["route"], e["status"], e["tenant_id"], e["targets"]) for e in reversed(found)] == [
        ("POST", route, 201, "acme", {}),
        ("PATCH", f"{route}/{{mailbox_id}}", 200, "acme", {"mailbox_id": mailbox_id}),
        ("DELETE", "/v1/tokens/{token_id}", 403, None, {"token_id": "01J8Z0000000000000000000AB"}),
    ]
    assert {(e["kind"], e["count"], e["until_at"]) for e in found} == {("change", 1, None)}
    assert "hunter2" not in str(found)


async def test_tenants_that_stand_in_no_path_are_found_too(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    await gateway.client.post("/v1/tokens", json={"name": "x", "scopes": ["crm"], "tenant_id": "acme"})
    await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})
    await gateway.client.post("/v1/retention/runs", json={"tenant": "../../etc"})
    routes = [(e["route"], e["tenant_id"]) for e in await entries(gateway)][:3]
    assert routes == [("/v1/retention/runs", None), ("/v1/retention/runs", "acme"), ("/v1/tokens", "acme")]


async def test_reads_of_messages_are_counted_and_written_once_a_minute(gateway: Gateway) -> None:
    post = await postman(gateway, "acme")
    message_id = await post.deliver(letter(), index=False)
    client, actor = await token_of(gateway, "crm")
    access = gateway.app.state.services.access
    async with client:
        for _ in range(3):
            assert (await client.get(f"/v1/tenants/acme/messages/{message_id}")).status_code == 200
            gateway.clock.forward(MINUTE // 4)
        await client.get("/v1/tenants/acme/messages/01J8Z0000000000000000000AB")
        await client.get("/v1/tenants/acme/subscription")
        await access.tick()
        assert await entries(gateway, actor=actor) == []
        gateway.clock.forward(MINUTE // 4)
        await access.tick()
    (entry,) = await entries(gateway, actor=actor)
    route = "/v1/tenants/{tenant_id}/messages/{message_id}"
    assert (entry["kind"], entry["count"], entry["route"]) == ("read", 3, route)
    assert (entry["tenant_id"], entry["targets"]) == ("acme", {})
    assert (entry["at"], entry["until_at"]) == (to_rfc3339(START), to_rfc3339(START + MINUTE // 2))


async def test_it_is_paged_filtered_by_time_and_kept_to_ones_own_tenant(gateway: Gateway) -> None:
    for name in ("acme", "other"):
        await gateway.tenant(name)
        gateway.clock.forward(MINUTE)
    everything = await entries(gateway)
    assert [e["tenant_id"] for e in everything] == ["other", "other", "acme", "acme"]
    first = (await gateway.client.get("/v1/access-log", params={"limit": 3})).json()
    rest = await entries(gateway, limit=3, cursor=first["next_cursor"])
    assert first["items"] + rest == everything
    assert await entries(gateway, since=to_rfc3339(START + MINUTE)) == everything[:2]
    assert await entries(gateway, until=to_rfc3339(START + MINUTE)) == everything[2:]
    assert await entries(gateway, tenant="acme", kind="change") == everything[2:]
    async with await gateway.token("compliance", tenant_id="acme") as client:
        mine = (await client.get("/v1/access-log")).json()["items"]
        assert {e["tenant_id"] for e in mine} == {"acme"}
        assert (await client.get("/v1/access-log", params={"tenant": "other"})).status_code == 404


async def test_old_entries_are_forgotten(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    for after, gone in ((0, 0), (1_000, 1)):
        now = START + 10 * DAY + after
        pruned = await prune(gateway.core.db, now, longest_days=90, idempotency_hours=24, access_days=10)
        assert pruned.accesses == gone
    assert await entries(gateway) == []


async def test_a_clock_that_jumped_makes_nothing_be_forgotten(gateway: Gateway) -> None:
    """Not the access log, nor the tombstones that keep purged mail from coming back, nor ends of idempotency keys."""
    await gateway.tenant("acme", "free")
    await gateway.core.retention.note_time(gateway.clock())
    gateway.clock.forward(4_000 * DAY)
    await Upkeep(gateway.core).prune()
    gateway.clock.forward(-4_000 * DAY)
    assert await entries(gateway) != []


async def test_what_was_done_is_answered_though_the_log_can_not_be_written(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    async def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(gateway.app.state.services.access, "_write", fail)
    made = await gateway.client.put("/v1/tenants/acme", json={"name": "Acme"})
    assert made.status_code == 201
    assert "access_not_written" in log.getvalue()
