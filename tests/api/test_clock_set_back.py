"""The machine's clock is set to before a tenant's plan began: nothing stops without a word, and nothing is purged."""

from __future__ import annotations

from mailgate.alarms import Kind
from mailgate.clock import DAY
from mailgate.store.sync import SqlSyncStore
from tests.api.conftest import START, Gateway, mailbox_body
from tests.api.mail import letter, postman

BOXES = "/v1/tenants/acme/mailboxes"


async def entitled(gateway: Gateway) -> dict[str, bool]:
    """What the supervisor goes by, for each tenant."""
    core = gateway.core
    store = SqlSyncStore(core.db, core.mailboxes, core.subscriptions, core.log, core.expiry)
    return {head.tenant_id: head.entitled for head in await store.heads(gateway.clock())}


async def test_the_sync_of_a_paid_tenant_goes_on_and_an_alarm_tells_of_the_clock(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    message_id = await post.deliver(letter())
    await gateway.core.retention.note_time(START)
    gateway.clock.at = START - 30 * DAY
    assert await entitled(gateway) == {"acme": True}
    changed = await gateway.client.patch(f"/v1/tenants/acme/messages/{message_id}", json={"flags": {"add": ["\\Seen"]}})
    assert changed.status_code == 202
    made = await gateway.client.post(BOXES, json=mailbox_body("bob@acme.example"))
    assert made.status_code == 201
    links = await gateway.client.post("/v1/tenants/acme/connect-links", json={})
    assert links.status_code == 201
    await gateway.core.alarms.look(gateway.clock())
    assert [alarm.kind for alarm in await gateway.core.alarms.standing()] == [Kind.CLOCK_ANOMALY]


async def test_a_plan_that_was_over_by_the_latest_time_on_record_is_over(gateway: Gateway) -> None:
    await gateway.tenant("acme", plan="standard")
    await gateway.mailbox("acme")
    gateway.clock.forward(DAY)
    over = {"plan": "free"}
    assert (await gateway.client.put("/v1/tenants/acme/subscription", json=over)).status_code == 200
    await gateway.core.retention.note_time(gateway.clock())
    assert await entitled(gateway) == {"acme": False}
    gateway.clock.at = START - 30 * DAY
    assert await entitled(gateway) == {"acme": False}


async def test_a_clock_that_was_ahead_and_is_right_again_ends_no_plan(gateway: Gateway) -> None:
    """By the latest time on record the plan is over."""
    await gateway.tenant("acme", plan="standard")
    await gateway.mailbox("acme")
    until = {"plan": "standard", "period_end": "2026-06-20T00:00:00Z", "auto_renew": False}
    assert (await gateway.client.put("/v1/tenants/acme/subscription", json=until)).status_code == 200
    await gateway.core.retention.note_time(START)
    await gateway.core.retention.note_time(START + 90 * DAY)
    assert await entitled(gateway) == {"acme": True}
