"""Webhooks over HTTP: endpoints and who sees them, their secrets, tests, deliveries and their retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from mailgate.actors import SYSTEM
from mailgate.alarms import Kind
from mailgate.clock import DAY, SECOND
from mailgate.store.prune import prune
from mailgate.store.schema import webhook_deliveries, webhook_lanes, webhooks
from mailgate.store.tenant_erasure import Reason
from mailgate.webhooks.model import Answer
from tests.api.conftest import ADMIN, Gateway
from tests.api.hooks import MAILBOXES, URL, Delivering, delivering

ONE, TWO = MAILBOXES


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here does not hang on the database; see test_delivering.py for what does."""
    return sqlite_url


@pytest.fixture
async def hooks(gateway: Gateway) -> AsyncIterator[Delivering]:
    async with delivering(gateway) as made:
        yield made


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"]


async def test_an_endpoint_from_making_to_removing(hooks: Delivering) -> None:
    client = hooks.gateway.client
    made = await hooks.make(types=["message.*"], description="the CRM")
    assert made["secret"].startswith("whsec_")
    url = f"/v1/webhooks/{made['id']}"
    found = (await client.get(url)).json()
    assert found == {name: value for name, value in made.items() if name != "secret"}
    assert (await client.get("/v1/webhooks")).json()["items"] == [found]
    changed = (await client.patch(url, json={"url": URL + "/2", "types": [], "description": ""})).json()
    assert (changed["url"], changed["types"], changed["state"]) == (URL + "/2", [], "enabled")
    paused = (await client.patch(url, json={"state": "paused"})).json()
    assert (paused["state"], paused["reason"]) == ("paused", "requested")
    assert (await client.delete(url)).status_code == 204
    assert problem(await client.get(url)) == (404, "webhook_not_found")
    assert problem(await client.delete(url)) == (404, "webhook_not_found")


async def test_what_is_refused(hooks: Delivering) -> None:
    client = hooks.gateway.client

    async def post(**body: Any) -> tuple[int, str]:
        return problem(await client.post("/v1/webhooks", json={"url": URL, **body}))

    assert await post(url="http://crm.example/") == (422, "url_invalid")
    assert await post(url="https://127.0.0.1/") == (422, "url_invalid")
    assert await post(url="https://user:pass@crm.example/") == (422, "url_invalid")
    assert await post(types=["message.vanished"]) == (422, "type_unknown")
    assert await post(tenant_id="nobody") == (404, "tenant_not_found")
    made = await hooks.make()
    replay = f"/v1/webhooks/{made['id']}/replay"
    assert problem(await client.post(replay, json={})) == (422, "replay_invalid")
    assert problem(await client.post(replay, json={"after": "nonsense"})) == (400, "bad_cursor")
    for _ in range(hooks.gateway.core.settings.webhooks.per_tenant - 1):
        await hooks.make()
    assert await post() == (409, "too_many_webhooks")
    await hooks.make(tenant_id="acme")


async def test_a_bound_token_makes_and_sees_its_tenants_only(hooks: Delivering) -> None:
    gateway = hooks.gateway
    await gateway.tenant("other")
    for_all, others = await hooks.make(), await hooks.make(tenant_id="other")
    async with await gateway.token("crm", tenant_id="acme") as bound:
        assert problem(await bound.post("/v1/webhooks", json={"url": URL})) == (403, "forbidden")
        assert (await bound.post("/v1/webhooks", json={"url": URL, "tenant_id": "other"})).status_code == 403
        mine = (await bound.post("/v1/webhooks", json={"url": URL, "tenant_id": "acme"})).json()
        assert [item["id"] for item in (await bound.get("/v1/webhooks")).json()["items"]] == [mine["id"]]
        for foreign in (for_all, others):
            url = f"/v1/webhooks/{foreign['id']}"
            assert (await bound.get(url)).status_code == 404
            assert (await bound.patch(url, json={"state": "paused"})).status_code == 404
            assert (await bound.get(f"{url}/deliveries")).status_code == 404
            assert (await bound.post(f"{url}/test")).status_code == 404
            assert (await bound.post(f"{url}/rotate-secret", json={})).status_code == 404
            assert (await bound.post(f"{url}/replay", json={"after": "latest"})).status_code == 404
            assert (await bound.delete(url)).status_code == 404
    await hooks.emit(ONE)
    await hooks.emit(TWO, tenant_id="other")
    await hooks.settle()
    assert {item["tenant_id"] for item in await hooks.deliveries(mine["id"])} == {"acme"}
    assert {item["tenant_id"] for item in await hooks.deliveries(others["id"])} == {"other"}
    assert {item["tenant_id"] for item in await hooks.deliveries(for_all["id"])} >= {"acme", "other"}


async def test_a_secret_is_shown_once_and_kept_sealed(hooks: Delivering) -> None:
    made = await hooks.make()
    url = f"/v1/webhooks/{made['id']}"
    rotated = (await hooks.gateway.client.post(f"{url}/rotate-secret", json={"overlap_hours": 2})).json()
    assert rotated["secret"] != made["secret"]
    assert rotated["old_secret_until_at"] is not None
    assert "secret" not in (await hooks.gateway.client.get(url)).json()
    async with hooks.gateway.core.db.read() as conn:
        row = (await conn.execute(select(webhooks))).one()
    for secret in (made["secret"], rotated["secret"]):
        assert secret.encode() not in row.secret + row.old_secret
    assert await hooks.gateway.core.webhooks.secrets(made["id"]) == [rotated["secret"], made["secret"]]
    at_once = (await hooks.gateway.client.post(f"{url}/rotate-secret", json={"overlap_hours": 0})).json()
    assert await hooks.gateway.core.webhooks.secrets(made["id"]) == [at_once["secret"]]


async def test_a_test_is_sent_and_its_outcome_shown(hooks: Delivering) -> None:
    made = await hooks.make()
    tried = (await hooks.gateway.client.post(f"/v1/webhooks/{made['id']}/test")).json()
    assert (tried["kind"], tried["state"], tried["status"], tried["event_type"]) == (
        "test",
        "delivered",
        204,
        "webhook.test",
    )
    assert [item["id"] for item in await hooks.deliveries(made["id"])] == [tried["id"]]
    retry = f"/v1/webhooks/{made['id']}/deliveries/{tried['id']}/retry"
    assert problem(await hooks.gateway.client.post(retry)) == (409, "not_an_event")


async def test_what_waits_is_tried_at_once_and_what_is_over_once_more(hooks: Delivering) -> None:
    client = hooks.gateway.client
    made = await hooks.make()
    hooks.receiver.answer = lambda _got: Answer(500, text="oops", retry_after="7200")
    await hooks.emit(ONE)
    await hooks.settle()
    (waiting,) = await hooks.deliveries(made["id"])
    assert (waiting["state"], waiting["status"], waiting["response"]) == ("waiting", 500, "oops")
    hooks.receiver.answer = lambda _got: Answer(200)
    retry = f"/v1/webhooks/{made['id']}/deliveries/{waiting['id']}/retry"
    assert (await client.post(retry)).status_code == 200
    await hooks.settle()
    (delivered,) = await hooks.deliveries(made["id"], state="delivered")
    assert (delivered["id"], delivered["attempts"]) == (waiting["id"], 2)
    again = (await client.post(retry)).json()  # by the call of the interface, which takes everything
    assert (again["kind"], again["state"], again["message_ref"]) == ("again", "delivered", waiting["message_ref"])
    assert again["id"] != waiting["id"]
    hooks.receiver.answer = lambda _got: Answer(500)
    await hooks.emit(ONE)
    await hooks.settle()
    (waiting,) = await hooks.deliveries(made["id"], state="waiting")
    await client.patch(f"/v1/webhooks/{made['id']}", json={"state": "paused"})
    retry = f"/v1/webhooks/{made['id']}/deliveries/{waiting['id']}/retry"
    assert problem(await client.post(retry)) == (409, "webhook_paused")


async def test_deliveries_are_paged_and_filtered(hooks: Delivering) -> None:
    made = await hooks.make()
    await hooks.emit(*[ONE] * 5)
    await hooks.settle()
    url = f"/v1/webhooks/{made['id']}/deliveries"
    seen, params = [], {"limit": "2"}
    while True:
        page = (await hooks.gateway.client.get(url, params=params)).json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert len(seen) == len(set(seen)) == 5
    assert seen == sorted(seen, reverse=True)
    assert await hooks.deliveries(made["id"], state="failed") == []


async def test_gone_pauses_at_once(hooks: Delivering) -> None:
    made = await hooks.make()
    hooks.receiver.answer = lambda _got: Answer(410)
    await hooks.emit(ONE, TWO)
    await hooks.settle()
    found = await hooks.look(made["id"])
    assert (found["state"], found["reason"]) == ("paused", "gone")


async def test_requests_at_once_are_bounded_and_one_slow_endpoint_leaves_room(hooks: Delivering) -> None:
    await hooks.make()
    await hooks.make()
    at_once = hooks.gateway.core.settings.webhooks.at_once
    names = [f"{ONE[:-3]}{n:03d}" for n in range(2 * at_once)]
    await hooks.emit(*names)
    hooks.receiver.held = asyncio.Event()
    await hooks.deliverer.work()
    await hooks.receiver.until(at_once)
    assert len({got.headers["webhook-id"] for got in hooks.receiver.got}) == at_once // 2  # half of them to each
    hooks.receiver.held.set()
    await hooks.settle()
    assert hooks.receiver.most == at_once
    assert len(hooks.receiver.got) == 4 * at_once


async def test_metrics_and_readyz(hooks: Delivering) -> None:
    await hooks.make()
    hooks.receiver.answer = lambda _got: Answer(500)
    await hooks.emit(ONE)
    await hooks.settle()
    hooks.gateway.clock.forward(3 * SECOND)
    await hooks.emit(TWO)
    said = (await hooks.gateway.client.get("/metrics")).text
    assert 'mailgate_webhooks{state="enabled"} 1.0' in said
    assert "mailgate_webhook_deliveries_open 1.0" in said
    assert "mailgate_webhook_mailboxes_behind 1.0" in said
    assert b'mailgate_webhook_deliveries_total{outcome="retry"} 1.0' in hooks.metrics.exposition()
    assert hooks.deliverer.healthy


async def test_deliveries_that_are_over_are_forgotten(hooks: Delivering) -> None:
    made = await hooks.make()
    await hooks.emit(ONE)
    await hooks.settle()
    hooks.gateway.clock.forward(15 * DAY)
    await prune(hooks.gateway.core.db, hooks.gateway.clock(), longest_days=3_650, idempotency_hours=24)
    assert await hooks.deliveries(made["id"]) == []


async def test_an_erased_tenant_leaves_nothing(hooks: Delivering) -> None:
    core = hooks.gateway.core
    await hooks.gateway.tenant("other")
    await hooks.make()
    await hooks.make(tenant_id="acme")
    hooks.receiver.answer = lambda _got: Answer(500)
    await hooks.emit(ONE)
    await hooks.settle()
    await core.tenant_erasures.begin("acme", Reason.OFFBOARDING, SYSTEM)
    before = len(hooks.receiver.got)
    hooks.gateway.clock.forward(DAY)  # what failed is due
    await hooks.settle()
    assert [got for got in hooks.receiver.got[before:] if got.body["tenant_id"] == "acme"] == []
    await core.tenant_erasures.work()
    async with core.db.read() as conn:
        for table in (webhook_lanes, webhook_deliveries, webhooks):
            left = (await conn.execute(select(table).where(table.c.tenant_id == "acme"))).all()
            assert left == [], table.name
        assert len((await conn.execute(select(webhooks))).all()) == 1
    hooks.gateway.clock.forward(DAY)
    await hooks.settle()


async def test_an_event_that_cant_be_shown_holds_up_its_mailbox_only(
    hooks: Delivering, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await hooks.make(types=["mailbox.*"])
    feed = hooks.gateway.core.feed
    real = feed.items

    async def items(ref: str, events: Any, now: int) -> list[dict[str, Any]]:
        if any(event.mailbox_id == ONE for event in events):
            raise KeyError(ONE)
        return await real(ref, events, now)

    monkeypatch.setattr(feed, "items", items)
    await hooks.emit(ONE, TWO)
    await hooks.settle()
    (waiting,) = await hooks.deliveries(made["id"], state="waiting")
    assert (waiting["mailbox_id"], waiting["status"]) == (ONE, None)
    assert "can't show" in waiting["error"]
    assert {got.body["mailbox_id"] for got in hooks.receiver.got} == {TWO}


async def test_an_enabled_endpoint_that_is_too_far_behind_is_paused(hooks: Delivering) -> None:
    made = await hooks.make(types=["mailbox.*"])
    await hooks.emit(ONE)
    hooks.gateway.clock.forward(40 * DAY)  # nobody delivered all the time
    await prune(hooks.gateway.core.db, hooks.gateway.clock(), longest_days=3_650, idempotency_hours=24)
    await hooks.settle()
    assert (await hooks.look(made["id"]))["reason"] == "expired"
    await hooks.gateway.core.alarms.look(hooks.gateway.clock())
    assert Kind.WEBHOOK_PAUSED in {alarm.kind for alarm in await hooks.gateway.core.alarms.standing()}


async def test_no_secret_in_the_log(hooks: Delivering, log: Any) -> None:
    made = await hooks.make(url=f"{URL}/key-that-is-secret")
    hooks.receiver.answer = lambda _got: Answer(410)
    await hooks.emit(ONE)
    await hooks.settle()
    said = log.getvalue()
    assert "webhook_paused" in said
    for secret in (made["secret"], "key-that-is-secret", ADMIN):
        assert secret not in said
