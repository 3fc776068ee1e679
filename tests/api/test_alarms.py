"""Alarms over HTTP: the list, who sees what, the feed, /readyz and /metrics."""

from __future__ import annotations

import pytest

from mailgate.alarms import Kind
from mailgate.app.health import checks
from mailgate.clock import DAY, HOUR
from mailgate.store.feed import Publisher
from tests.api.conftest import Gateway


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database."""
    return sqlite_url


@pytest.fixture
async def troubled(gateway: Gateway) -> Gateway:
    """A gateway that did not purge for two days, and two tenants whose logs are not signed."""
    for tenant_id in ("acme", "other"):
        await gateway.tenant(tenant_id)
    gateway.clock.forward(2 * DAY)
    await gateway.core.alarms.look(gateway.clock())
    return gateway


async def test_the_list_with_its_filters(troubled: Gateway) -> None:
    items = (await troubled.client.get("/v1/alarms")).json()["items"]
    assert sorted((item["kind"], item["tenant_id"]) for item in items if item["tenant_id"]) == [
        ("log_unsigned", "acme"),
        ("log_unsigned", "other"),
    ]
    (missed,) = (await troubled.client.get("/v1/alarms?kind=no_purge&standing=true")).json()["items"]
    assert (missed["tenant_id"], missed["cleared_at"]) == (None, None)
    assert "26 hours" in missed["detail"]
    assert "mailgate purge" in missed["remedy"]
    (one,) = (await troubled.client.get("/v1/alarms?tenant=acme")).json()["items"]
    assert one["tenant_id"] == "acme"
    first = (await troubled.client.get("/v1/alarms?limit=2")).json()
    rest = (await troubled.client.get("/v1/alarms", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == [item["id"] for item in items]
    assert (await troubled.client.get("/v1/alarms?standing=false")).json()["items"] == []


async def test_a_bound_token_sees_its_tenants_alarms_only(troubled: Gateway) -> None:
    async with await troubled.token("compliance", tenant_id="acme") as bound:
        assert [item["tenant_id"] for item in (await bound.get("/v1/alarms")).json()["items"]] == ["acme"]
        assert (await bound.get("/v1/alarms?tenant=other")).status_code == 404


async def test_the_feed_tells_them(troubled: Gateway) -> None:
    await Publisher(troubled.core.db, "test").publish(troubled.clock())
    items = (await troubled.client.get("/v1/events?types=alarm.*")).json()["items"]
    told = {(item["type"], item["tenant_id"], item["data"]["kind"]) for item in items}
    assert told == {
        ("alarm.raised", None, "no_purge"),
        ("alarm.raised", "acme", "log_unsigned"),
        ("alarm.raised", "other", "log_unsigned"),
    }
    async with await troubled.token("crm", tenant_id="acme") as bound:
        assert {item["tenant_id"] for item in (await bound.get("/v1/events?types=alarm.*")).json()["items"]} == {"acme"}


async def test_readyz_names_them_and_stays_ready(troubled: Gateway) -> None:
    troubled.health["alarms"] = checks(troubled.core, lambda: {"sync": True})["alarms"]
    answer = await troubled.client.get("/readyz")
    assert answer.status_code == 200
    part = answer.json()["parts"][-1]
    assert (part["name"], part["ok"], part["needed"]) == ("alarms", False, False)
    assert part["detail"].startswith("log_unsigned (2), no_purge; GET /v1/alarms")
    assert "acme" not in answer.text


async def test_metrics_count_them_by_kind(troubled: Gateway) -> None:
    said = (await troubled.client.get("/metrics")).text
    counts = {kind: f'mailgate_alarms{{kind="{kind}"}}' for kind in Kind}
    found = dict(line.rsplit(" ", 1) for line in said.splitlines() if line.startswith("mailgate_alarms{"))
    assert set(found) == set(counts.values())
    assert float(found[counts[Kind.LOG_UNSIGNED]]) == 2
    assert float(found[counts[Kind.CLOCK_ANOMALY]]) == 0


async def test_what_is_over_is_cleared(troubled: Gateway) -> None:
    await troubled.client.post("/v1/retention/runs", json={})
    await troubled.core.retention.work()
    for tenant_id in ("acme", "other"):
        await troubled.client.get(f"/v1/purge-log/{tenant_id}/checkpoint")
    troubled.clock.forward(HOUR)
    await troubled.core.alarms.look(troubled.clock())
    assert (await troubled.client.get("/v1/alarms?standing=true")).json()["items"] == []
    assert len((await troubled.client.get("/v1/alarms?standing=false")).json()["items"]) == 3
