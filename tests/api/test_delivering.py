"""Webhooks are delivered: in order, at least once, signed, tried again; on both databases."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from mailgate.alarms import Kind
from mailgate.clock import DAY, HOUR, SECOND, from_rfc3339, to_rfc3339
from mailgate.store.prune import prune
from mailgate.webhooks.model import Answer
from tests.api.conftest import Gateway
from tests.api.hooks import MAILBOXES, Delivering, Got, delivering

ONE, TWO = MAILBOXES


@pytest.fixture
async def hooks(gateway: Gateway) -> AsyncIterator[Delivering]:
    async with delivering(gateway) as made:
        yield made


def refuse(mailbox_id: str) -> Callable[[Got], Answer]:
    """A receiver that does not take what is about this mailbox."""
    return lambda got: Answer(500 if got.body.get("mailbox_id") == mailbox_id else 204)


async def test_in_order_by_mailbox_whatever_fails(hooks: Delivering) -> None:
    made = await hooks.make(types=["mailbox.*"])
    hooks.receiver.answer = refuse(ONE)
    await hooks.emit(ONE, TWO, ONE, None, TWO)
    await hooks.settle()
    first = hooks.receiver.numbers(ONE)
    assert len(first) == 1  # the second waits behind it
    assert len(hooks.receiver.numbers(TWO)) == 2
    assert [item["state"] for item in await hooks.deliveries(made["id"])].count("waiting") == 1
    hooks.receiver.answer = lambda _got: Answer(204)
    await hooks.emit(ONE)
    hooks.gateway.clock.forward(10 * SECOND)
    await hooks.settle()
    tried = hooks.receiver.numbers(ONE)
    assert tried == sorted(tried)
    assert len(set(tried)) == 3
    ids = [got.headers["webhook-id"] for got in hooks.receiver.got if got.number == first[0]]
    assert len(ids) == 2
    assert len(set(ids)) == 1
    assert {item["state"] for item in await hooks.deliveries(made["id"])} == {"delivered"}
    assert "retention.run_completed" not in {got.body["type"] for got in hooks.receiver.got}


async def test_cut_between_request_and_outcome_it_comes_again(hooks: Delivering) -> None:
    made = await hooks.make()
    await hooks.emit(ONE, ONE)
    hooks.receiver.held = asyncio.Event()
    await hooks.deliverer.work()
    await hooks.receiver.until(1)
    (sending,) = await hooks.deliveries(made["id"])
    assert (sending["state"], sending["attempts"]) == ("sending", 1)
    await hooks.kill()
    hooks.receiver.held = None
    hooks.deliverer = await hooks.another()
    await hooks.settle()
    first, again, second = hooks.receiver.got
    assert first.headers["webhook-id"] == again.headers["webhook-id"] == sending["message_ref"]
    assert second.number == first.number + 1
    delivered = await hooks.deliveries(made["id"], state="delivered")
    assert sorted(item["attempts"] for item in delivered) == [1, 2]


async def test_two_processes_deliver_once(hooks: Delivering) -> None:
    await hooks.make()
    other = await hooks.another()
    other._journal._owner = "another"
    await hooks.emit(ONE, TWO, None)
    await hooks.deliverer.work()
    await other.work()
    await hooks.settle()
    await other.work()
    assert len(hooks.receiver.got) == 3
    await other.stop()


async def test_after_three_days_it_is_paused_and_told_and_goes_on_when_enabled(hooks: Delivering) -> None:
    made = await hooks.make(tenant_id="acme", types=["mailbox.*"])
    hooks.receiver.answer = lambda _got: Answer(503, text="no room")
    await hooks.emit(ONE, ONE)
    clock, begun = hooks.gateway.clock, hooks.gateway.clock()
    await hooks.settle()
    while (await hooks.look(made["id"]))["state"] == "enabled":
        (waiting,) = await hooks.deliveries(made["id"], state="waiting")
        clock.at = from_rfc3339(waiting["next_at"])
        await hooks.settle()
    assert clock.at == begun + 3 * DAY
    found = await hooks.look(made["id"])
    assert (found["state"], found["reason"]) == ("paused", "failing")
    assert "503" in found["detail"]
    await hooks.gateway.core.alarms.look(clock())
    (alarm,) = [each for each in await hooks.gateway.core.alarms.standing() if each.kind is Kind.WEBHOOK_PAUSED]
    assert alarm.tenant_id == "acme"
    assert "crm.example" in alarm.detail
    assert "/hook" not in alarm.detail
    tried = len(hooks.receiver.got)
    clock.forward(DAY)
    await hooks.settle()
    assert len(hooks.receiver.got) == tried
    hooks.receiver.answer = lambda _got: Answer(204)
    enabled = await hooks.gateway.client.patch(f"/v1/webhooks/{made['id']}", json={"state": "enabled"})
    assert (enabled.status_code, enabled.json()["reason"]) == (200, None)
    await hooks.settle()
    assert len(set(hooks.receiver.numbers(ONE))) == 2
    await hooks.gateway.core.alarms.look(clock())
    assert Kind.WEBHOOK_PAUSED not in {each.kind for each in await hooks.gateway.core.alarms.standing()}


async def test_the_place_moves_on_durably_and_replay_goes_back(hooks: Delivering) -> None:
    made = await hooks.make(types=["mailbox.*"])
    hooks.gateway.clock.forward(HOUR)
    since = {"since": to_rfc3339(hooks.gateway.clock())}
    await hooks.emit(*[ONE, TWO] * 3)
    await hooks.settle()
    await hooks.deliverer.stop()
    hooks.deliverer = await hooks.another()
    await hooks.settle()
    assert len(hooks.receiver.got) == 6  # nothing twice after an orderly end
    again = await hooks.gateway.client.post(f"/v1/webhooks/{made['id']}/replay", json=since)
    assert again.status_code == 202, again.text
    await hooks.settle()
    ids = [got.headers["webhook-id"] for got in hooks.receiver.got]
    assert ids[6:] != []
    assert set(ids[6:]) == set(ids[:6])
    in_order = sorted(hooks.receiver.got[:6], key=lambda got: got.number)
    cursor = in_order[3].body["cursor"]
    await hooks.gateway.client.post(f"/v1/webhooks/{made['id']}/replay", json={"after": cursor})
    await hooks.settle()
    assert sorted(hooks.receiver.numbers()[-2:]) == [got.number for got in in_order[4:]]
    assert len(hooks.receiver.got) == 14


async def test_what_the_feed_has_no_more_pauses_and_says_so(hooks: Delivering) -> None:
    made = await hooks.make()
    url = f"/v1/webhooks/{made['id']}"
    await hooks.gateway.client.patch(url, json={"state": "paused"})
    await hooks.emit(ONE)
    hooks.gateway.clock.forward(40 * DAY)
    await prune(hooks.gateway.core.db, hooks.gateway.clock(), longest_days=3_650, idempotency_hours=24)
    await hooks.emit(TWO)
    refused = await hooks.gateway.client.patch(url, json={"state": "enabled"})
    assert (refused.status_code, refused.json()["type"]) == (410, "cursor_expired")
    await hooks.gateway.client.post(f"{url}/replay", json={"since": "2026-01-01T00:00:00Z"})
    assert (await hooks.gateway.client.patch(url, json={"state": "enabled"})).status_code == 200
    await hooks.settle()
    assert TWO in {got.body.get("mailbox_id") for got in hooks.receiver.got}


async def test_signed_with_both_secrets_during_a_rotation(hooks: Delivering) -> None:
    made = await hooks.make()
    url = f"/v1/webhooks/{made['id']}"
    rotated = (await hooks.gateway.client.post(f"{url}/rotate-secret", json={"overlap_hours": 1})).json()

    def signatures(got: Got) -> int:
        return len(got.headers["webhook-signature"].split(" "))

    await hooks.emit(ONE)
    await hooks.settle()
    got = hooks.receiver.got[-1]
    assert signatures(got) == 2
    for secret in (made["secret"], rotated["secret"]):
        assert verified(secret, got.headers, got.raw)
    hooks.gateway.clock.forward(HOUR)
    await hooks.emit(ONE)
    await hooks.settle()
    assert signatures(hooks.receiver.got[-1]) == 1
    assert not verified(made["secret"], hooks.receiver.got[-1].headers, hooks.receiver.got[-1].raw)


def verified(secret: str, sent: Mapping[str, str], body: bytes) -> bool:
    """By the published rules, without any library of theirs; the clock is the test's, so no age is judged."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{sent['webhook-id']}.{sent['webhook-timestamp']}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return expected in sent["webhook-signature"].split(" ")
