"""Subscriptions over HTTP: commands and refusals, another system's events, limits, storage, quotes, notices."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from mailgate.app.plans import PlanFile
from mailgate.clock import DAY, to_rfc3339
from mailgate.settings import PlansSettings
from mailgate.store import notices
from mailgate.store.alarms import Alarms
from mailgate.store.schema import events as table
from tests.api.conftest import START, Gateway, mailbox_body
from tests.api.mail import Postman, letter, postman
from tests.postgres import before_the_database

PLANS = ("standard", "crm_plus")
PATH = "/v1/tenants/acme/subscription"


async def tell(gateway: Gateway, **body: Any) -> dict[str, Any]:
    told = await gateway.client.post(f"{PATH}/events", json=body)
    assert told.status_code == 200, told.text
    found: dict[str, Any] = told.json()
    return found


async def events(gateway: Gateway, type_: str) -> list[dict[str, Any]]:
    """What the feed was told, the oldest first."""
    query = select(table.c.payload).where(table.c.type == type_).order_by(table.c.tenant_id, table.c.seq)
    async with gateway.core.db.read() as conn:
        found = (await conn.execute(query)).scalars().all()
    return [json.loads(entry) if isinstance(entry, str) else entry for entry in found]


async def test_commands_are_for_the_crm_and_outright_changes_for_the_admin(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    await gateway.tenant("other", "free")
    async with await gateway.token("crm", tenant_id="acme") as crm:
        bought = await crm.post(f"{PATH}/purchase", json={"plan": "standard"})
        assert bought.status_code == 200
        assert (await crm.put(PATH, json={"plan": "professional"})).status_code == 403
        told = {"id": "1", "type": "ended", "effective_at": to_rfc3339(START)}
        assert (await crm.post(f"{PATH}/events", json=told)).status_code == 403
        elsewhere = await crm.post("/v1/tenants/other/subscription/purchase", json={"plan": "standard"})
        assert elsewhere.status_code == 404
    async with await gateway.token("compliance") as compliance:
        assert (await compliance.get(PATH)).status_code == 200
        assert (await compliance.post(f"{PATH}/cancel", json={})).status_code == 403


async def test_a_refusal_says_from_when_and_changes_nothing(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    bought = (await gateway.client.post(f"{PATH}/purchase", json={"plan": "standard", "term_months": 3})).json()
    refused = await gateway.client.post(f"{PATH}/renew", json={})
    assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
    problem = refused.json()
    assert (problem["type"], problem["allowed_at"]) == ("renew_too_early", "2026-07-28T00:00:00Z")
    assert (await gateway.client.get(PATH)).json() == bought
    assert len((await gateway.client.get(f"{PATH}/history")).json()["items"]) == 1


async def test_the_page_knows_what_the_rules_allow(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    await gateway.client.post(f"{PATH}/purchase", json={"plan": "standard"})
    gateway.clock.forward(DAY)
    found = {item["command"]: item for item in (await gateway.client.get(f"{PATH}/options")).json()["items"]}
    assert [name for name, item in found.items() if item["allowed"]] == ["renew", "upgrade", "cancel", "seats"]
    assert (found["downgrade"]["reason"], found["downgrade"]["allowed_at"]) == (
        "downgrade_too_early",
        "2026-06-26T00:00:00Z",
    )


STORY: list[dict[str, Any]] = [
    {"id": "e1", "type": "purchased", "effective_at": to_rfc3339(START), "plan": "standard", "term_months": 1},
    {"id": "e2", "type": "renewal_failed", "effective_at": to_rfc3339(START + 31 * DAY)},
    {"id": "e3", "type": "renewed", "effective_at": to_rfc3339(START + 35 * DAY)},
    {"id": "e4", "type": "upgraded", "effective_at": to_rfc3339(START + 40 * DAY), "plan": "professional"},
]


async def test_any_order_and_any_repetition_of_events_give_the_same_timeline(gateway: Gateway) -> None:
    gateway.clock.forward(50 * DAY)
    told = []
    for number, order in enumerate(list(permutations(STORY))[::5]):
        tenant = await gateway.tenant(f"t{number}", "free")
        for event in (*order, *order[:2]):
            done = await gateway.client.post(f"/v1/tenants/{tenant}/subscription/events", json=event)
            assert done.status_code == 200
        items = (await gateway.client.get(f"/v1/tenants/{tenant}/subscription/history")).json()["items"]
        told.append([{key: item[key] for key in ("plan", "status", "effective_at", "event_id")} for item in items])
    assert all(entry == told[0] for entry in told)
    assert [(entry["plan"], entry["status"]) for entry in told[0]] == [
        ("professional", "active"),
        ("standard", "active"),
        ("standard", "past_due"),
        ("standard", "active"),
    ]


async def test_an_event_counts_once_and_its_id_can_not_mean_two_things(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    assert (await tell(gateway, **STORY[0]))["applied"]
    assert not (await tell(gateway, **STORY[0]))["applied"]
    refused = await gateway.client.post(f"{PATH}/events", json={**STORY[0], "plan": "professional"})
    assert (refused.status_code, refused.json()["type"]) == (409, "event_id_reused")
    assert (await gateway.client.get(PATH)).json()["plan"] == "standard"


async def test_a_billing_systems_id_may_be_any_text(gateway: Gateway) -> None:
    """Also one that no leaf of the purge log has room or letters for: the log names it by its hash."""
    await gateway.tenant("acme", "free")
    ids = [
        "inv-1:7",
        "invoice 2026/08 #15",
        "ann@acme.example",
        "Rechnung № 5 😀",
        "a" * 190,
        "😀" * 190,
        'x"\\\x01\u2028',
    ]
    for number, id_ in enumerate(ids):
        told = {"id": id_, "type": "set", "effective_at": to_rfc3339(START + number), "plan": PLANS[number % 2]}
        gateway.clock.forward(1)
        assert (await tell(gateway, **told))["applied"]
        assert not (await tell(gateway, **told))["applied"]
    items = (await gateway.client.get(f"{PATH}/history")).json()["items"]
    assert [item["event_id"] for item in reversed(items)] == ids
    leaves = (await gateway.client.get("/v1/purge-log?tenant=acme&type=plan.effective")).json()["items"]
    refs = [leaf["leaf"]["event_ref"] for leaf in reversed(leaves)][-len(ids) :]
    hashes = [f"sha256:{hashlib.sha256(id_.encode()).hexdigest()[:56]}" for id_ in ids]
    assert refs == ["inv-1:7", *hashes[1:]]


async def test_a_late_event_changes_the_past_and_says_so(gateway: Gateway) -> None:
    """The renewal was paid in time, but the gateway heard of it after the days of grace."""
    await gateway.tenant("acme", "free")
    await tell(gateway, **STORY[0])
    gateway.clock.forward(50 * DAY)
    assert (await gateway.client.get(PATH)).json()["plan"] == "free"
    late = await tell(gateway, **STORY[2])
    assert (late["applied"], late["changed_past"], late["subscription"]["plan"]) == (True, True, "standard")
    assert [event["changed_past"] for event in await events(gateway, "subscription.changed")] == [False, True]


@before_the_database
@pytest.mark.parametrize(
    ("body", "slug"),
    [
        ({"type": "purchased", "plan": "standard"}, "period_end_missing"),
        ({"type": "purchased", "term_months": 1}, "plan_missing"),
        ({"type": "trial_started", "plan": "standard"}, "period_end_missing"),
        ({"type": "seats_changed"}, "seats_missing"),
        ({"type": "upgraded", "plan": "gold"}, "plan_unknown"),
        ({"type": "purchased", "plan": "standard", "period_end": to_rfc3339(START)}, "period_end_invalid"),
        ({"type": "trial_started", "plan": "demo", "period_end": to_rfc3339(START - DAY)}, "period_end_invalid"),
        ({"type": "set", "plan": "standard", "period_end": to_rfc3339(START)}, "period_end_invalid"),
        ({"type": "trial_started", "plan": "gold"}, "plan_unknown"),
        ({"type": "purchased", "plan": "free", "term_months": 1}, "plan_not_on_sale"),
        ({"type": "bought"}, "invalid"),
        ({"type": "canceled", "id": ""}, "invalid"),
    ],
)
async def test_events_that_make_no_sense_are_refused(gateway: Gateway, body: dict[str, Any], slug: str) -> None:
    await gateway.tenant("acme", "free")
    refused = await gateway.client.post(f"{PATH}/events", json={"id": "1", "effective_at": to_rfc3339(START), **body})
    assert (refused.status_code, refused.json()["type"]) == (422, slug)


async def test_an_end_in_the_past_is_a_slip_and_ends_nothing(gateway: Gateway) -> None:
    """Set outright with the year of before, a plan would be over at once, and all that is attached to nothing due."""
    await gateway.tenant("acme", "standard")
    for status in ("active", "trialing", "canceled"):
        body = {"plan": "standard", "status": status, "period_end": to_rfc3339(START - 300 * DAY)}
        refused = await gateway.client.put(PATH, json=body)
        assert (refused.status_code, refused.json()["type"]) == (422, "period_end_invalid")
    assert (await gateway.client.get(PATH)).json()["plan"] == "standard"
    due = {"plan": "standard", "status": "past_due", "period_end": to_rfc3339(START - 9 * DAY)}
    assert (await gateway.client.put(PATH, json=due)).json()["status"] == "past_due"


async def test_what_was_told_stays_told_when_the_plans_change(gateway: Gateway) -> None:
    """Repeats are ignored, also of an event whose plan is sold no more, or whose trials last otherwise by now."""
    await gateway.tenant("acme", "free")
    trial = {"id": "1", "type": "trial_started", "effective_at": to_rfc3339(START), "plan": "demo"}
    bought = {"id": "2", "type": "purchased", "effective_at": to_rfc3339(START), "plan": "standard", "term_months": 1}
    first = [await tell(gateway, **trial), await tell(gateway, **bought)]
    assert first[0]["subscription"]["period_end"] == to_rfc3339(START + 14 * DAY)
    subscriptions = gateway.core.subscriptions
    plans = {name: replace(plan, trial_days=7) for name, plan in subscriptions.catalogue.plans.items()}
    del plans["standard"]
    subscriptions.catalogue = replace(subscriptions.catalogue, plans=plans)
    assert not (await tell(gateway, **trial))["applied"]
    assert not (await tell(gateway, **bought))["applied"]
    moved = await gateway.client.post(f"{PATH}/events", json={**trial, "period_end": to_rfc3339(START + 7 * DAY)})
    assert (moved.status_code, moved.json()["type"]) == (409, "event_id_reused")
    new = await gateway.client.post(f"{PATH}/events", json={**bought, "id": "3"})
    assert (new.status_code, new.json()["type"]) == (422, "plan_unknown")


async def test_mailboxes_over_the_new_limit_are_switched_off_last_connected_first(gateway: Gateway) -> None:
    await gateway.tenant("acme", "professional")
    ids = []
    for number in range(7):
        gateway.clock.forward(1_000)
        ids.append((await gateway.mailbox("acme", f"{number}@acme.example", owner="ann"))["id"])
    bob = (await gateway.mailbox("acme", "bob@acme.example", owner="bob"))["id"]
    await gateway.client.put(PATH, json={"plan": "standard"})
    listed = (await gateway.client.get("/v1/tenants/acme/mailboxes")).json()["items"]
    off = [item for item in listed if not item["enabled"]]
    assert [item["id"] for item in off] == ids[5:]
    assert {item["state"] for item in off} == {"disabled"}
    assert "allows 5 mailboxes" in off[0]["state_reason"]
    named = (await events(gateway, "subscription.changed"))[-1]["mailboxes_switched_off"]
    assert named == dict.fromkeys(ids[5:], "mailbox_limit")

    # Not forgotten: one comes back as it was once there is room.
    path = f"/v1/tenants/acme/mailboxes/{ids[6]}"
    refused = await gateway.client.patch(path, json={"enabled": True})
    assert (refused.status_code, refused.json()["type"]) == (409, "mailbox_limit")
    await gateway.client.patch(f"/v1/tenants/acme/mailboxes/{ids[0]}", json={"enabled": False})
    assert (await gateway.client.patch(path, json={"enabled": True})).json()["enabled"]
    moved = await gateway.client.patch(f"/v1/tenants/acme/mailboxes/{bob}", json={"owner": "ann"})
    assert (moved.status_code, moved.json()["type"]) == (409, "mailbox_limit")


async def test_a_plan_limits_what_can_be_connected(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    await gateway.client.put(PATH, json={"plan": "demo", "seats": 1})
    for number in range(3):
        await gateway.mailbox("acme", f"s{number}@acme.example", shared=True)
    for number in range(10):
        await gateway.mailbox("acme", f"{number}@acme.example", owner="ann")
    for body, slug in (
        (mailbox_body("s9@acme.example", shared=True), "shared_mailbox_limit"),
        (mailbox_body("10@acme.example", owner="ann"), "mailbox_limit"),
        (mailbox_body("bob@acme.example", owner="bob"), "seat_limit"),
    ):
        refused = await gateway.client.post("/v1/tenants/acme/mailboxes", json=body)
        assert (refused.status_code, refused.json()["type"]) == (409, slug)
    assert (await gateway.client.get(PATH)).json()["seats"] == {"used": 1, "max": 1}


async def test_becoming_free_switches_nothing_off_and_becoming_paid_goes_on(gateway: Gateway) -> None:
    await gateway.tenant("acme", "standard")
    mailbox = await gateway.mailbox("acme")
    plans = gateway.core.subscriptions.catalogue.plans
    object.__setattr__(plans["free"], "mailboxes_per_user", 0)  # also where Free allows none: nothing is connected
    await gateway.client.put(PATH, json={"plan": "free"})
    path = f"/v1/tenants/acme/mailboxes/{mailbox['id']}"
    assert (await gateway.client.get(path)).json()["enabled"]
    await gateway.client.put(PATH, json={"plan": "crm_plus"})
    assert (await gateway.client.get(path)).json()["enabled"]


async def test_over_the_storage_limit_on_free_all_is_read_and_deleted_and_nothing_added(gateway: Gateway) -> None:
    post = await postman(gateway)
    big = await post.deliver(letter(text="x" * 4_000))
    small = await post.deliver(letter())
    pin = "/v1/tenants/acme/messages/{}/pins/deal/D-1"
    for message_id in (big, small):
        assert (await gateway.client.put(pin.format(message_id))).status_code == 201
    plans = gateway.core.subscriptions.catalogue.plans
    object.__setattr__(plans["free"], "storage_bytes", 3_000)
    await gateway.client.put(PATH, json={"plan": "free"})
    usage = (await gateway.client.get(PATH)).json()["usage"]
    assert usage["storage_exceeded"]
    refused = await gateway.client.put(pin.format(small).replace("D-1", "D-2"))
    assert (refused.status_code, refused.json()["type"]) == (409, "storage_exceeded")
    assert (await gateway.client.put(pin.format(small))).status_code == 200  # it stands already
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{big}/raw")).status_code == 200
    assert (await gateway.client.delete(pin.format(big))).status_code == 204
    gone = await gateway.client.get(f"/v1/tenants/acme/messages/{big}")
    assert gone.status_code == 410  # attached to nothing, on Free: and with it the use is below the limit
    assert not (await gateway.client.get(PATH)).json()["usage"]["storage_exceeded"]
    assert (await gateway.client.put(pin.format(small).replace("D-1", "D-2"))).status_code == 201
    again = await gateway.client.put(pin.format(big))
    assert (again.status_code, again.json()["type"]) == (409, "storage_exceeded")  # it would be above it again


async def test_a_quote_is_prorated_and_changes_nothing(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    await gateway.client.post(f"{PATH}/purchase", json={"plan": "standard", "seats": 2})
    before = (await gateway.client.get(PATH)).json()
    gateway.clock.forward(31 * DAY // 2)
    found = (await gateway.client.post(f"{PATH}/quote", json={"command": "upgrade", "plan": "professional"})).json()
    assert (found["amount"], found["full_amount"], found["currency"]) == (2_000, 7_800, "EUR")
    refused = await gateway.client.post(f"{PATH}/quote", json={"command": "downgrade", "plan": "crm_plus"})
    assert (refused.status_code, refused.json()["type"]) == (409, "downgrade_too_early")
    assert (await gateway.client.get(PATH)).json() == before


async def test_notices_say_what_will_happen_when_and_how_many_copies_it_touches(gateway: Gateway) -> None:
    await gateway.tenant("acme", "free")
    await gateway.client.post(f"{PATH}/purchase", json={"plan": "professional"})
    post = Postman(gateway, "acme", (await gateway.mailbox("acme"))["id"])
    old = [await post.deliver(letter(f"old {n}"), age=n * DAY) for n in (1, 10, 45)]
    await gateway.client.put(f"/v1/tenants/acme/messages/{old[0]}/pins/deal/D-1")
    await gateway.client.post(f"{PATH}/cancel", json={})
    gateway.clock.forward(DAY + 1)
    items = (await gateway.client.get(f"{PATH}/notices")).json()["items"]
    end = START + 31 * DAY
    assert [(item["kind"], item["at"], item["plan_after"]) for item in items] == [
        ("period_ends", to_rfc3339(end), "free")
    ]
    assert items[0]["copies_due"] == 2  # one is pinned

    async def give() -> int:
        core = gateway.core
        return await notices.give(core.db, core.subscriptions, core.expiry, (30, 7, 1), core.clock())

    assert [await give(), await give()] == [1, 0]
    gateway.clock.forward(25 * DAY)
    assert [await give(), await give()] == [1, 0]
    told = await events(gateway, "subscription.notice")
    assert [(event["kind"], event["copies_due"]) for event in told] == [("period_ends", 2), ("period_ends", 2)]


async def test_plans_that_were_changed_are_taken_over_and_wrong_ones_are_not(gateway: Gateway, tmp_path: Path) -> None:
    await gateway.tenant("acme", "standard")
    core = gateway.core
    source = (await gateway.client.get("/v1/plans")).json()
    text = _plans_text()
    file = tmp_path / "plans.toml"
    watched = _watch(gateway, file)
    file.write_text(text.replace("retention_days = 60", "retention_days = 61").replace("version = 2", "version = 3"))
    assert await watched.look()
    await core.subscriptions.announce_lapses(core.clock())
    assert (await gateway.client.get(PATH)).json()["entitlements"]["retention_days"] == 61
    assert (await gateway.client.get("/v1/plans")).json()["sha256"] != source["sha256"]
    assert (await events(gateway, "subscription.changed"))[-1]["retention_days"] == 61
    file.write_text("version = 4")
    assert not await watched.look()
    assert watched.fault == f"plans.toml has no [plans.…] table (in {file})"
    assert (await gateway.client.get(PATH)).json()["entitlements"]["retention_days"] == 61
    alarms = Alarms(core.db, core.retention, core.subscriptions, core.log_reader, plans_fault=lambda: watched.fault)

    async def standing() -> list[tuple[str, str]]:
        await alarms.look(core.clock())
        found = (await gateway.client.get("/v1/alarms", params={"standing": True})).json()["items"]
        return [(alarm["kind"], alarm["detail"]) for alarm in found]

    assert await standing() == [("plans_refused", watched.fault)]
    file.unlink()
    assert not await watched.look()
    assert [detail for _, detail in await standing()] == [
        f"the plans {file} do not exist: put them there, or name them by `plans.file`"
    ]
    file.write_text(text.replace("retention_days = 60", "retention_days = 61").replace("version = 2", "version = 3"))
    assert not await watched.look()  # they are those that held all the time
    assert await standing() == []
    async with await gateway.token("compliance") as compliance:
        leaves = (await compliance.get("/v1/purge-log", params={"tenant": "acme"})).json()["items"]
    assert [leaf["type"] for leaf in leaves[:2]] == ["plan.effective", "policy.set"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_another_order_of_the_plans_lets_another_contract_hold(gateway: Gateway, tmp_path: Path) -> None:
    await gateway.tenant("acme", "free")
    for contract, plan in (("sub_1", "professional"), ("sub_2", "standard")):
        sold = {"type": "purchased", "plan": plan, "term_months": 1, "contract": contract}
        await tell(gateway, id=contract, effective_at=to_rfc3339(START), **sold)
    assert (await gateway.client.get(PATH)).json()["plan"] == "professional"
    file = tmp_path / "plans.toml"
    file.write_text(_plans_text().replace("rank = 3", "rank = 5").replace("version = 2", "version = 3"))
    assert await _watch(gateway, file).look()
    assert (await gateway.client.get(PATH)).json()["plan"] == "standard"


def _plans_text() -> str:
    return (Path(__file__).parents[2] / "config" / "plans.toml").read_text(encoding="utf-8")


def _watch(gateway: Gateway, file: Path) -> PlanFile:
    core = gateway.core
    settings = core.settings.model_copy(update={"plans": PlansSettings(file=str(file))})
    return PlanFile(settings, core.db, core.log, core.subscriptions, core.retention, core.clock)
