"""`Idempotency-Key`: a repeated POST gets the first one's answer, and makes nothing twice."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from mailgate.clock import DAY
from mailgate.store.schema import idempotency_keys
from tests.api.conftest import Gateway, mailbox_body


async def test_a_repeated_post_answers_the_same_and_makes_one_thing(gateway: Gateway) -> None:
    await gateway.tenant()
    headers = {"idempotency-key": "k-1"}
    first = await gateway.client.post("/v1/tenants/acme/mailboxes", json=mailbox_body(), headers=headers)
    second = await gateway.client.post("/v1/tenants/acme/mailboxes", json=mailbox_body(), headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json() == first.json()
    assert second.headers["location"] == first.headers["location"]
    assert second.headers["idempotent-replayed"] == "true"
    assert len((await gateway.client.get("/v1/tenants/acme/mailboxes")).json()["items"]) == 1


async def test_repeated_posts_at_the_same_time_make_one_thing(gateway: Gateway) -> None:
    headers = {"idempotency-key": "k-2"}
    body = {"name": "one", "scopes": ["crm"]}
    answers = await asyncio.gather(*(gateway.client.post("/v1/tokens", json=body, headers=headers) for _ in range(5)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert 201 in {answer.status_code for answer in answers}
    assert len((await gateway.client.get("/v1/tokens")).json()["items"]) == 1


async def test_a_key_belongs_to_one_request_and_one_token(gateway: Gateway) -> None:
    headers = {"idempotency-key": "k-3"}
    await gateway.client.post("/v1/tokens", json={"name": "one", "scopes": ["crm"]}, headers=headers)
    refused = await gateway.client.post("/v1/tokens", json={"name": "two", "scopes": ["crm"]}, headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (422, "idempotency_key_reused")
    async with await gateway.token("admin") as other:
        made = await other.post("/v1/tokens", json={"name": "one", "scopes": ["crm"]}, headers=headers)
        assert made.status_code == 201
        assert "idempotent-replayed" not in made.headers


async def test_a_refused_post_may_be_tried_again_with_its_key(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    headers = {"idempotency-key": "k-4"}
    refused = await gateway.client.post("/v1/tenants/acme/mailboxes", json=mailbox_body(), headers=headers)
    assert refused.status_code == 409
    await gateway.tenant("acme", "standard")
    made = await gateway.client.post("/v1/tenants/acme/mailboxes", json=mailbox_body(), headers=headers)
    assert made.status_code == 201


async def test_a_key_is_forgotten_after_its_time(gateway: Gateway) -> None:
    headers = {"idempotency-key": "k-5"}
    body = {"name": "one", "scopes": ["crm"]}
    await gateway.client.post("/v1/tokens", json=body, headers=headers)
    gateway.clock.forward(2 * DAY)
    again = await gateway.client.post("/v1/tokens", json=body, headers=headers)
    assert "idempotent-replayed" not in again.headers


@pytest.mark.parametrize("key", ["", "x" * 201])
async def test_a_key_of_the_wrong_size_is_refused(gateway: Gateway, key: str) -> None:
    refused = await gateway.client.post(
        "/v1/tokens", json={"name": "one", "scopes": ["crm"]}, headers={"idempotency-key": key}
    )
    assert refused.status_code == 400


async def test_the_kept_secret_of_a_new_token_is_sealed(gateway: Gateway) -> None:
    made = await gateway.client.post(
        "/v1/tokens", json={"name": "one", "scopes": ["crm"]}, headers={"idempotency-key": "k-6"}
    )
    async with gateway.core.db.read() as conn:
        kept = (await conn.execute(select(idempotency_keys.c.body))).scalar_one()
    assert made.json()["token"].encode() not in kept
