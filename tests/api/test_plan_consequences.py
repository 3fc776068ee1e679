"""What follows from a change of plan, as a client of the interface sees it: for each rule of the offer its consequence,
at once, told in the feed and in the purge log.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from connectors.memory import MemoryAccount
from mailgate.clock import DAY, HOUR, from_rfc3339, to_rfc3339
from mailgate.store import tenants
from mailgate.store.schema import events as table
from retention.ledger.export import export_directory
from retention.ledger.replay import replay_directory
from retention.ledger.report import Verdict
from tests.api.conftest import START, Gateway, mailbox_body
from tests.api.mail import Postman, letter, postman
from tests.api.sending import office, smtp_settings
from tests.api.test_two_way import Connected

T = "/v1/tenants/acme"
PATH = f"{T}/subscription"

on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""The statements are tried on both elsewhere; here it is the interface."""


async def events(gateway: Gateway, type_: str = "subscription.changed") -> list[dict[str, Any]]:
    """What the feed was told, the oldest first."""
    query = select(table.c.payload).where(table.c.type == type_).order_by(table.c.seq)
    async with gateway.core.db.read() as conn:
        found = (await conn.execute(query)).scalars().all()
    return [json.loads(entry) if isinstance(entry, str) else entry for entry in found]


async def tick(gateway: Gateway) -> None:
    """What the scheduler does by itself within a minute."""
    await gateway.core.subscriptions.announce_lapses(gateway.clock())


async def purge(gateway: Gateway) -> dict[str, Any]:
    asked = await gateway.client.post("/v1/retention/runs", json={"tenant": "acme"})
    await gateway.core.retention.work()
    run: dict[str, Any] = (await gateway.client.get(f"/v1/retention/runs/{asked.json()['id']}")).json()
    assert run["state"] == "completed", run
    return run


async def test_a_bought_downgrade_shortens_and_switches_off_when_the_period_ends_and_not_before(
    gateway: Gateway,
) -> None:
    await gateway.tenant("acme", "free")
    client = gateway.client
    bought = (await client.post(f"{PATH}/purchase", json={"plan": "professional"})).json()
    end = from_rfc3339(bought["period_end"])
    ids = []
    for number in range(7):
        gateway.clock.forward(1_000)
        ids.append((await gateway.mailbox("acme", f"{number}@acme.example", owner="ann"))["id"])
    young = await Postman(gateway, "acme", ids[0]).deliver(letter("young"), age=0)
    gateway.clock.forward(end - HOUR - gateway.clock())
    old = await Postman(gateway, "acme", ids[1]).deliver(letter("old"), age=31 * DAY)
    await client.post(f"{PATH}/downgrade", json={"plan": "crm_plus"})
    (notice,) = [n for n in (await client.get(f"{PATH}/notices")).json()["items"] if n["kind"] == "change_begins"]
    assert (notice["copies_due"], notice["mailboxes_switched_off"]) == (2, sorted(ids[5:]))

    async def enabled() -> list[str]:
        return [box["id"] for box in (await client.get(f"{T}/mailboxes")).json()["items"] if box["enabled"]]

    async def there() -> set[str]:
        return {item["id"] for item in (await client.get(f"{T}/messages")).json()["items"]}

    gateway.clock.forward(end - 1 - gateway.clock())
    await tick(gateway)
    assert (await enabled(), await there()) == (ids, {young, old})
    gateway.clock.forward(1)
    assert await there() == set()  # the moment itself, whether or not anything has noticed
    await tick(gateway)
    assert await enabled() == ids[:5]
    told = (await events(gateway))[-1]
    assert (told["plan"], told["retention_days"], told["cause"]) == ("crm_plus", 30, "period_ended")
    assert told["mailboxes_switched_off"] == dict.fromkeys(ids[5:], "mailbox_limit")

    # Not forgotten: with room again they are switched on as they were, credentials included.
    await client.post(f"{PATH}/upgrade", json={"plan": "professional"})
    assert await enabled() == ids[:5]  # not by itself
    back = (await client.patch(f"{T}/mailboxes/{ids[6]}", json={"enabled": True})).json()
    assert (back["enabled"], back["state"]) == (True, "connecting")
    assert await gateway.core.mailboxes.secrets(ids[6]) == {"imap": {"password": "hunter2-imap"}}


@on_one_database
@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("seats", {"seats": 2}),
        ("downgrade", {"plan": "standard", "seats": 2}),
        ("downgrade", {"plan": "crm_plus"}),  # which has that many in this test
    ],
)
async def test_users_over_the_seats_of_the_next_period_are_switched_off_those_connected_last_first(
    gateway: Gateway, command: str, body: dict[str, Any]
) -> None:
    await gateway.tenant("acme", "free")
    client = gateway.client
    object.__setattr__(gateway.core.subscriptions.catalogue.plans["crm_plus"], "seats", 2)
    bought = (await client.post(f"{PATH}/purchase", json={"plan": "professional"})).json()
    end = from_rfc3339(bought["period_end"])
    boxes = {}

    async def connect(name: str, **what: Any) -> None:
        gateway.clock.forward(1_000)
        boxes[name] = (await gateway.mailbox("acme", f"{name}@acme.example", **what))["id"]

    async def enabled() -> set[str]:
        return {box["id"] for box in (await client.get(f"{T}/mailboxes")).json()["items"] if box["enabled"]}

    await connect("ann", owner="ann")
    await connect("bob", owner="bob")
    gateway.clock.forward(end - HOUR - gateway.clock())
    assert (await client.post(f"{PATH}/{command}", json=body)).is_success
    # Meanwhile more users come, for whom there is room until then.
    await connect("carl", owner="carl")
    await connect("dora")
    await connect("info", shared=True)
    await connect("ann2", owner="ann")
    over = {boxes["carl"]: "seat_limit", boxes["dora"]: "seat_limit"}
    (notice,) = [n for n in (await client.get(f"{PATH}/notices")).json()["items"] if n["at"] == to_rfc3339(end)]
    assert notice["mailboxes_switched_off"] == sorted(over)
    gateway.clock.forward(end - 1 - gateway.clock())
    await tick(gateway)
    assert await enabled() == set(boxes.values())
    gateway.clock.forward(1)
    await tick(gateway)
    assert await enabled() == set(boxes.values()) - set(over)
    assert (await events(gateway))[-1]["mailboxes_switched_off"] == over
    box = (await client.get(f"{T}/mailboxes/{boxes['carl']}")).json()
    assert (box["state"], "seats" in box["state_reason"]) == ("disabled", True)
    refused = await client.patch(f"{T}/mailboxes/{boxes['carl']}", json={"enabled": True})
    assert (refused.status_code, refused.json()["type"]) == (409, "seat_limit")
    await client.patch(f"{T}/mailboxes/{boxes['bob']}", json={"enabled": False})
    assert (await client.patch(f"{T}/mailboxes/{boxes['carl']}", json={"enabled": True})).json()["enabled"]


@on_one_database
@pytest.mark.parametrize("what", ["cancel", "downgrade"])
async def test_a_notice_counts_the_very_copies_that_the_purge_takes_then(gateway: Gateway, what: str) -> None:
    await gateway.tenant("acme", "free")
    client = gateway.client
    bought = (await client.post(f"{PATH}/purchase", json={"plan": "professional"})).json()
    post = Postman(gateway, "acme", (await gateway.mailbox("acme"))["id"])
    end = from_rfc3339(bought["period_end"])
    gateway.clock.forward(end - HOUR - gateway.clock())
    letters = [letter(f"{age} days") for age in (0, 29, 30, 31, 45, 89)]
    ids = [await post.deliver(raw, age=age * DAY) for raw, age in zip(letters, (0, 29, 30, 31, 45, 89), strict=True)]
    await client.put(f"{T}/messages/{ids[4]}/pins/deal/D-1")
    assert (await client.post(f"{PATH}/{what}", json={} if what == "cancel" else {"plan": "crm_plus"})).is_success
    (notice,) = [n for n in (await client.get(f"{PATH}/notices")).json()["items"] if n["at"] == to_rfc3339(end)]
    assert (await purge(gateway))["purged"] == 0
    gateway.clock.forward(end - gateway.clock())
    await tick(gateway)
    assert (await purge(gateway))["purged"] == notice["copies_due"] == (5 if what == "cancel" else 3)
    gone = [
        raw
        for raw, id_ in zip(letters, ids, strict=True)
        if (await client.get(f"{T}/messages/{id_}")).json().get("type") == "purged"
    ]
    assert sum(map(len, gone)) == notice["bytes_due"]


@on_one_database
async def test_an_upgrade_keeps_longer_what_is_there_and_brings_nothing_back(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    kept = await post.deliver(letter("kept"), age=20 * DAY)
    gone = await post.deliver(letter("gone"), age=45 * DAY)
    gateway.clock.forward(20 * DAY)
    assert (await purge(gateway))["purged"] == 1
    expires = (await gateway.client.get(f"{T}/messages/{kept}")).json()["expires_at"]
    await gateway.client.put(PATH, json={"plan": "professional"})
    later = (await gateway.client.get(f"{T}/messages/{kept}")).json()["expires_at"]
    assert from_rfc3339(later) - from_rfc3339(expires) == 30 * DAY
    assert (await gateway.client.get(f"{T}/messages/{gone}")).json()["type"] == "purged"
    assert len((await gateway.client.get(f"{T}/messages")).json()["items"]) == 1
    asked = await gateway.client.post(f"{T}/mailboxes/{post.mailbox_id}/backfill", json={"days": 90})
    assert asked.status_code == 202  # only this asks the mail server for it again
    (told,) = await events(gateway, "mailbox.backfill_requested")
    assert (told["days"], told["run_id"]) == (90, asked.json()["id"])


@on_one_database
async def test_sending_limits_of_the_plan_answer_429_with_when_it_frees_up(gateway: Gateway) -> None:
    plan = gateway.core.subscriptions.catalogue.plans["professional"]
    for name, value in (("sent_per_day", 2), ("sent_per_month", 4), ("sent_reserved", 1)):
        object.__setattr__(plan, name, value)
    async with office(gateway) as acme:

        async def refused(purpose: str) -> tuple[str, int, str]:
            found = await acme.submit(status=429, purpose=purpose)
            assert found["type"] == "sending_limit"
            return found["limit"], found["most"], found["retry_at"]

        async def usage() -> tuple[int, int]:
            found = (await gateway.client.get(PATH)).json()["usage"]
            return found["sent_this_month"], found["sent_left_this_month"]

        for _ in range(2):
            await acme.submit(purpose="user")
        for purpose in ("user", "service"):
            assert await refused(purpose) == ("day", 2, "2026-05-28T00:00:00Z")
        gateway.clock.forward(DAY)
        await acme.submit(purpose="user")
        # What is left of the month is the CRM's own.
        assert await refused("user") == ("month_without_reserve", 3, "2026-06-01T00:00:00Z")
        assert await usage() == (3, 1)
        await acme.submit(purpose="service")
        gateway.clock.forward(DAY)
        for purpose in ("user", "service"):
            assert await refused(purpose) == ("month", 4, "2026-06-01T00:00:00Z")
        assert await usage() == (4, 0)
        gateway.clock.forward(from_rfc3339("2026-06-01T00:00:00Z") - gateway.clock())
        await acme.submit(purpose="user")
        assert await usage() == (1, 3)


@on_one_database
async def test_on_free_all_can_be_read_and_deleted_and_nothing_added_or_sent(gateway: Gateway) -> None:
    post = await postman(gateway)
    client, box = gateway.client, f"{T}/mailboxes/{post.mailbox_id}"
    ids = [await post.deliver(letter(str(n), files=(("a.txt", "text/plain", b"x"),))) for n in range(3)]
    gone = await post.deliver(letter("gone"))
    for message_id in ids:
        assert (await client.put(f"{T}/messages/{message_id}/pins/deal/D-1")).status_code == 201
    folder = await post.folder("Projects")
    await client.patch(box, json={"smtp": smtp_settings(587)})
    await client.put(PATH, json={"plan": "free"})
    await purge(gateway)

    base = f"{T}/messages/{ids[0]}"
    for path in (f"{T}/messages", base, f"{base}/raw", f"{base}/parts/1", f"{T}/pins?entity_type=deal&entity_id=D-1"):
        assert (await client.get(path)).status_code == 200, path
    assert (await client.get(f"{T}/messages", params={"q": "offer"})).status_code == 200
    raw = {"content": letter("new"), "headers": {"content-type": "message/rfc822"}}
    for method, path, more in (
        ("POST", f"{box}/messages?folder_id={folder}", raw),
        ("POST", f"{box}/submissions", {"json": {"to": ["bob@other.example"], "text": "Hi"}}),
        ("POST", f"{box}/folders", {"json": {"name": "New"}}),
        ("POST", f"{box}/sync", {}),
        ("POST", f"{box}/backfill", {"json": {"days": 1}}),
        ("POST", f"{T}/messages/{gone}/rehydrate", {}),
        ("POST", f"{T}/mailboxes", {"json": mailbox_body("new@acme.example")}),
        ("PATCH", base, {"json": {"folder_id": folder}}),
    ):
        answer = await client.request(method, path, **more)
        assert (answer.status_code, answer.json()["type"]) == (409, "not_entitled"), path

    # Over the limit no pin is added; what is unpinned goes at once, which brings the use below it again.
    object.__setattr__(gateway.core.subscriptions.catalogue.plans["free"], "storage_bytes", 1_000)
    usage = (await client.get(PATH)).json()["usage"]
    assert usage["storage_exceeded"]
    new = f"{T}/messages/{ids[1]}/pins/deal/D-2"
    assert (await client.put(new)).json()["type"] == "storage_exceeded"
    assert (await client.delete(base)).json()["type"] == "pinned"  # what a record needs is not deleted under it
    for message_id in (ids[0], ids[2]):
        assert (await client.delete(f"{T}/messages/{message_id}/pins/deal/D-1")).status_code == 204
        assert (await client.get(f"{T}/messages/{message_id}")).status_code == 410
    assert (await client.put(new)).status_code == 201
    assert not (await client.get(PATH)).json()["usage"]["storage_exceeded"]


@on_one_database
async def test_a_purchase_told_after_the_trial_ended_and_a_purge_ran(gateway: Gateway, tmp_path: Path) -> None:
    """It holds from when it was bought; what the purge took by what was known then is gone here, and can be fetched."""
    await gateway.tenant("acme", "free")
    client, end = gateway.client, START + 14 * DAY
    begun = {"id": "t", "type": "trial_started", "effective_at": to_rfc3339(START), "plan": "demo"}
    await client.post(f"{PATH}/events", json=begun)
    post = Postman(gateway, "acme", (await gateway.mailbox("acme"))["id"])
    loose, pinned = await post.deliver(letter("loose")), await post.deliver(letter("pinned"))
    await client.put(f"{T}/messages/{pinned}/pins/deal/D-1")
    gateway.clock.forward(14 * DAY + HOUR)
    assert (await purge(gateway))["purged"] == 1
    bought = {"id": "b", "type": "purchased", "effective_at": to_rfc3339(end - HOUR), "plan": "standard"}
    late = (await client.post(f"{PATH}/events", json={**bought, "term_months": 1})).json()
    found = late["subscription"]
    assert (late["changed_past"], found["plan"], found["since"]) == (True, "standard", to_rfc3339(end - HOUR))
    assert (await events(gateway))[-1]["changed_past"]

    assert [item["id"] for item in (await client.get(f"{T}/messages")).json()["items"]] == [pinned]
    assert (await client.get(f"{T}/messages/{loose}")).json()["type"] == "purged"
    asked = await client.post(f"{T}/mailboxes/{post.mailbox_id}/backfill", json={"days": 60})
    assert asked.status_code == 202
    assert (await purge(gateway))["purged"] == 0

    # The log says under which plan each copy was judged, and then that another one held: an auditor accepts both.
    tenant = await tenants.get(gateway.core.db, "acme")
    signed = await gateway.core.log_reader.checkpoint(tenant, gateway.clock())
    bodies = [body async for body in gateway.core.log_reader.entries(tenant, 0, signed.size)]
    key = gateway.core.log_reader.verifier(tenant)
    export_directory(tmp_path / "log", key, signed.note, bodies)
    report = replay_directory(tmp_path / "log", key)
    assert report.verdict is Verdict.OK, report.lines()
    effective = [leaf for leaf in map(json.loads, bodies) if leaf["type"] == "plan.effective"]
    assert [leaf["plan"] for leaf in effective] == ["demo", "free", "standard"]


@on_one_database
async def test_an_end_told_late_makes_nothing_due_before_it_was_told(gateway: Gateway) -> None:
    """The other way round: the plan had ended without our knowing. Copies go from then on."""
    post = await postman(gateway, plan="standard")
    message_id = await post.deliver(letter())
    gateway.clock.forward(10 * DAY)
    assert (await purge(gateway))["purged"] == 0
    ended = {"id": "e", "type": "ended", "effective_at": to_rfc3339(START + DAY)}
    told = (await gateway.client.post(f"{PATH}/events", json=ended)).json()
    assert (told["changed_past"], told["subscription"]["plan"]) == (True, "free")
    assert (await gateway.client.get(f"{T}/messages/{message_id}")).json()["type"] == "expired"
    mended = {"id": "m", "type": "set", "effective_at": to_rfc3339(START + DAY), "plan": "standard"}
    await gateway.client.post(f"{PATH}/events", json=mended)
    assert (await gateway.client.get(f"{T}/messages/{message_id}")).status_code == 200  # not purged yet: kept
    assert (await purge(gateway))["purged"] == 0


@on_one_database
async def test_ten_days_of_grace_for_what_was_paid_and_none_for_a_trial(gateway: Gateway) -> None:
    """As the gateway is set up when nobody sets anything."""

    async def holds(tenant_id: str) -> tuple[str, str]:
        found = (await gateway.client.get(f"/v1/tenants/{tenant_id}/subscription")).json()
        return found["plan"], found["status"]

    for tenant_id, event in (
        ("paid", {"type": "purchased", "plan": "standard", "period_end": to_rfc3339(START + 14 * DAY)}),
        ("trial", {"type": "trial_started", "plan": "demo"}),
    ):
        await gateway.tenant(tenant_id, "free")
        body = {"id": "1", "effective_at": to_rfc3339(START), **event}
        assert (await gateway.client.post(f"/v1/tenants/{tenant_id}/subscription/events", json=body)).is_success
    gateway.clock.forward(14 * DAY - 1)
    assert (await holds("paid"), await holds("trial")) == (("standard", "active"), ("demo", "trialing"))
    gateway.clock.forward(1)
    assert (await holds("paid"), await holds("trial")) == (("standard", "past_due"), ("free", "expired"))
    gateway.clock.forward(10 * DAY - 1)
    assert await holds("paid") == ("standard", "past_due")
    gateway.clock.forward(1)
    assert await holds("paid") == ("free", "canceled")


@on_one_database
async def test_the_page_has_what_it_shows(gateway: Gateway) -> None:
    """Plan, end, users now and at most, storage used and allowed, messages left, comparison, history of purchases."""
    await gateway.tenant("acme", "free")
    client = gateway.client
    await client.post(f"{PATH}/purchase", json={"plan": "standard", "seats": 3})
    await client.post(f"{PATH}/purchase", json={"plan": "standard", "seats": 3})  # refused: no history of it
    post = Postman(gateway, "acme", (await gateway.mailbox("acme", owner="ann"))["id"])
    raw = letter("one")
    await post.deliver(raw)
    gateway.clock.forward(DAY)
    await client.post(f"{PATH}/seats", json={"seats": 4})
    found = (await client.get(PATH)).json()
    plan = gateway.core.subscriptions.catalogue.plans["standard"]
    assert (found["plan"], found["status"], found["auto_renew"]) == ("standard", "active", True)
    assert found["period_end"] == to_rfc3339(START + 31 * DAY)
    assert found["seats"] == {"used": 1, "max": 4}
    assert (found["usage"]["storage_bytes"], found["entitlements"]["storage_bytes"]) == (len(raw), plan.storage_bytes)
    assert (found["usage"]["mailboxes"], found["usage"]["sent_left_this_month"]) == (1, plan.sent_per_month)
    compared = {item["name"]: item for item in (await client.get("/v1/plans")).json()["items"]}
    assert set(compared) == set(gateway.core.subscriptions.catalogue.plans)
    assert compared["professional"]["prices"][-1] == {"term_months": 12, "amount": 42_100}  # monthly or yearly
    history = (await client.get(f"{PATH}/history")).json()["items"]
    assert [(item["event_type"], item["seats"]) for item in history] == [("seats_changed", 4), ("purchased", 3)]


@on_one_database
@pytest.mark.parametrize("plan", ["free", "crm_plus", "demo", "standard", "professional", "nfr"])
async def test_two_way_sync_on_every_plan_but_free(gateway: Gateway, plan: str) -> None:
    account = MemoryAccount(now=START)
    account.append("INBOX", letter("first"), internal_date=START - DAY)
    await gateway.tenant()
    two_way = Connected(gateway, account, (await gateway.mailbox("acme"))["id"])
    await two_way.sync(1)
    first = (await two_way.only())["id"]
    await two_way.ask("PUT", f"/messages/{first}/pins/deal/D-1", status=201)
    await two_way.ask("PUT", "/subscription", status=200, json={"plan": plan})
    said, before = len(account.commands), two_way.at_server()
    flag = {"json": {"flags": {"add": ["\\Flagged"]}}}
    if plan == "free":
        refused = await two_way.ask("PATCH", f"/messages/{first}", status=409, **flag)
        assert refused["type"] == "not_entitled"
        account.append("INBOX", letter("second"), internal_date=gateway.clock())
        await two_way.sync()
        assert len(account.commands) == said  # nothing in either direction
        assert [message["id"] for message in await two_way.messages()] == [first]
        await purge(gateway)
        assert two_way.at_server()["INBOX"][:1] == before["INBOX"]
        return
    await two_way.ask("PATCH", f"/messages/{first}", **flag)
    account.append("INBOX", letter("second"), internal_date=gateway.clock())
    await two_way.sync()
    assert two_way.at_server()["INBOX"][0] == (letter("first"), {"\\Flagged"})
    assert sorted(message["subject"] for message in await two_way.messages()) == ["first", "second"]
