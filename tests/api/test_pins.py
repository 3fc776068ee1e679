"""Pins over HTTP: accepted ones keep the copy, late ones get a clear 409, ids of records are any text."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from mailgate.actors import COMMAND
from mailgate.clock import DAY, HOUR, to_rfc3339
from mailgate.ids import new_id
from tests.api.conftest import START, Gateway
from tests.api.mail import letter, postman
from tests.postgres import before_the_database


async def purge(gateway: Gateway) -> dict[str, Any]:
    run = await gateway.core.retention.run(actor=COMMAND)
    return dict(run.counts)


async def test_a_pin_is_made_once_and_its_note_replaced(gateway: Gateway) -> None:
    post = await postman(gateway)
    message_id = await post.deliver(letter())
    path = f"/v1/tenants/acme/messages/{message_id}/pins/deal/D-1"
    made = await gateway.client.put(path, json={"note": "the offer"})
    assert made.status_code == 201
    assert made.json() == {
        "message_id": message_id,
        "entity_type": "deal",
        "entity_id": "D-1",
        "note": "the offer",
        "created_at": to_rfc3339(START),
        "created_by": "token:environment",
    }
    gateway.clock.forward(HOUR)
    again = await gateway.client.put(path, json={"note": "the last offer"})
    assert (again.status_code, again.json()["created_at"]) == (200, to_rfc3339(START))
    bare = await gateway.client.put(path)
    assert (bare.status_code, bare.json()["note"]) == (200, "the last offer")
    found = (await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}")).json()
    assert [pin["note"] for pin in found["pins"]] == ["the last offer"]
    assert found["expires_at"] is None


async def test_with_the_last_pin_gone_the_age_counts_as_before(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    message_id = await post.deliver(letter(), age=DAY)
    path = f"/v1/tenants/acme/messages/{message_id}"
    for record in ("deal/D-1", "task/T-1"):
        await gateway.client.put(f"{path}/pins/{record}")
    assert (await gateway.client.delete(f"{path}/pins/deal/D-1")).status_code == 204
    assert (await gateway.client.get(path)).json()["expires_at"] is None
    assert (await gateway.client.delete(f"{path}/pins/task/T-1")).status_code == 204
    assert (await gateway.client.get(path)).json()["expires_at"] == to_rfc3339(START - DAY + 60 * DAY)
    refused = await gateway.client.delete(f"{path}/pins/task/T-1")
    assert (refused.status_code, refused.json()["type"]) == (404, "pin_not_found")


async def test_records_of_one_message_have_a_limit(gateway: Gateway) -> None:
    gateway.core.pins._most = 2
    post = await postman(gateway)
    pins = f"/v1/tenants/acme/messages/{await post.deliver(letter())}/pins"
    for record in ("deal/D-1", "deal/D-2"):
        assert (await gateway.client.put(f"{pins}/{record}")).status_code == 201
    refused = await gateway.client.put(f"{pins}/deal/D-3")
    assert (refused.status_code, refused.json()["type"]) == (409, "too_many_pins")
    assert (await gateway.client.put(f"{pins}/deal/D-2", json={"note": "the same"})).status_code == 200
    listed = (await gateway.client.get("/v1/tenants/acme/pins")).json()["items"]
    assert [pin["entity_id"] for pin in listed] == ["D-1", "D-2"]
    assert (await gateway.client.delete(f"{pins}/deal/D-1")).status_code == 204
    assert (await gateway.client.put(f"{pins}/deal/D-3")).status_code == 201


ENTITY_IDS = [
    "a/b",
    "/",
    "a%2Fb",
    "a/../b",
    "...",
    ".a",
    "a.",
    "ä ö",
    "line\nbreak",
    "?x=1#y",
    "x" * 200,
    "名前",
    "+",
    " ",
]


@pytest.mark.parametrize("entity_id", ENTITY_IDS)
async def test_an_entity_id_is_any_text(gateway: Gateway, entity_id: str) -> None:
    post = await postman(gateway)
    message_id = await post.deliver(letter(), index=False)
    coded = quote(entity_id, safe="").replace(".", "%2E")
    path = f"/v1/tenants/acme/messages/{message_id}/pins/deal/{coded}"
    made = await gateway.client.put(path)
    assert made.status_code == 201, made.text
    assert made.json()["entity_id"] == entity_id
    listed = await gateway.client.get("/v1/tenants/acme/pins", params={"entity_type": "deal", "entity_id": entity_id})
    assert [item["message_id"] for item in listed.json()["items"]] == [message_id]
    assert (await gateway.client.delete(path)).status_code == 204
    await gateway.client.put(path)
    gone = await gateway.client.delete(f"/v1/tenants/acme/pins/deal/{coded}")
    assert gone.json() == {"removed": 1}


@before_the_database
@pytest.mark.parametrize(
    ("entity_type", "entity_id", "status"),
    [
        ("deal", "x" * 201, 422),
        ("de al", "1", 422),
        ("x" * 65, "1", 422),
        ("deal", "%00", 422),
        ("deal", "", 404),
        ("deal", "%2E", 422),
        ("deal", "%2e%2E", 422),
    ],
)
async def test_bad_records_are_refused(gateway: Gateway, entity_type: str, entity_id: str, status: int) -> None:
    post = await postman(gateway)
    message_id = await post.deliver(letter(), index=False)
    refused = await gateway.client.put(f"/v1/tenants/acme/messages/{message_id}/pins/{quote(entity_type)}/{entity_id}")
    assert refused.status_code == status, refused.text


async def test_a_record_that_clients_take_out_of_a_path_is_refused_in_a_body_too(gateway: Gateway) -> None:
    post = await postman(gateway)
    message_id = await post.deliver(letter(), index=False)
    path = f"/v1/tenants/acme/messages/{message_id}/rehydrate"
    refused = await gateway.client.post(path, json={"pins": [{"entity_type": "deal", "entity_id": ".."}]})
    assert (refused.status_code, refused.json()["type"]) == (422, "invalid")
    assert refused.json()["errors"][0]["pointer"] == "#/pins/0/entity_id"


@pytest.mark.parametrize("slash", ["%2F", "%2f"])
async def test_a_slash_in_another_name_than_an_entity_id_is_no_end_of_it(gateway: Gateway, slash: str) -> None:
    """`de/al` `D-1` would be taken for `de` `al/D-1`, and a tenant with a slash for a tenant and a route."""
    post = await postman(gateway)
    message_id = await post.deliver(letter(), index=False)
    await gateway.client.put(f"/v1/tenants/acme/messages/{message_id}/pins/de/al%2FD-1")
    for method, path in (
        ("PUT", f"tenants/acme/messages/{message_id}/pins/de{slash}al/D-1"),
        ("DELETE", f"tenants/acme/messages/{message_id}/pins/de{slash}al/D-1"),
        ("DELETE", f"tenants/acme/pins/de{slash}al/D-1"),
        ("DELETE", f"tenants/acme/pins{slash}de/al"),
        ("GET", f"tenants/acme{slash}messages"),
        ("GET", f"tenants/acme/messages/{message_id}{slash}raw"),
        ("GET", f"purge-log/acme/tile/0{slash}000"),
    ):
        refused = await gateway.client.request(method, f"/v1/{path}")
        assert (refused.status_code, refused.json()["type"]) == (422, "invalid"), path
        assert "%2F" in refused.json()["detail"]
    pins = (await gateway.client.get("/v1/tenants/acme/pins")).json()["items"]
    assert [(pin["entity_type"], pin["entity_id"]) for pin in pins] == [("de", "al/D-1")]


@before_the_database
@pytest.mark.parametrize("note", ["", "x" * 4_001, "a\0b", 5])
async def test_bad_notes_are_refused(gateway: Gateway, note: object) -> None:
    post = await postman(gateway)
    message_id = await post.deliver(letter(), index=False)
    refused = await gateway.client.put(f"/v1/tenants/acme/messages/{message_id}/pins/deal/D-1", json={"note": note})
    assert refused.status_code == 422


async def test_pins_are_listed_by_record_in_pages(gateway: Gateway) -> None:
    post = await postman(gateway)
    for n in range(3):
        message_id = await post.deliver(letter(f"m{n}"), index=False)
        for record in ("deal/D-1", f"task/T-{n}"):
            await gateway.client.put(f"/v1/tenants/acme/messages/{message_id}/pins/{record}")
    seen: list[tuple[str, str]] = []
    cursor: str | None = None
    while True:
        params: dict[str, str | int] = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await gateway.client.get("/v1/tenants/acme/pins", params=params)).json()
        seen += [(item["entity_type"], item["entity_id"]) for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [("deal", "D-1")] * 3 + [("task", f"T-{n}") for n in range(3)]
    of_one = (await gateway.client.get("/v1/tenants/acme/pins?entity_type=task")).json()["items"]
    assert len(of_one) == 3


async def test_a_pin_after_the_purge_is_too_late_and_says_so(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    kept, gone = await post.deliver(letter("kept")), await post.deliver(letter("gone"))
    await gateway.client.put(f"/v1/tenants/acme/messages/{kept}/pins/deal/D-1")
    gateway.clock.forward(60 * DAY)
    counts = await purge(gateway)
    assert (counts["purged"], counts["kept"]) == (1, {"pinned": 1})
    for what in ("", "/raw", "/parts/1"):
        refused = await gateway.client.get(f"/v1/tenants/acme/messages/{gone}{what}")
        assert (refused.status_code, refused.json()["type"]) == (410, "purged")
        assert refused.json()["reason"] == "age"
    refused = await gateway.client.put(f"/v1/tenants/acme/messages/{gone}/pins/deal/D-1")
    assert (refused.status_code, refused.json()["type"]) == (409, "purged")
    assert refused.json()["message_id"] == gone
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{kept}")).status_code == 200


async def test_a_pin_of_an_expired_copy_is_in_time(gateway: Gateway) -> None:
    post = await postman(gateway, plan="standard")
    message_id = await post.deliver(letter())
    gateway.clock.forward(60 * DAY)
    assert (await gateway.client.put(f"/v1/tenants/acme/messages/{message_id}/pins/deal/D-1")).status_code == 201
    assert (await purge(gateway))["purged"] == 0
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{message_id}/raw")).status_code == 200


async def test_on_free_the_pinned_stay_readable(gateway: Gateway) -> None:
    post = await postman(gateway)
    kept, gone = await post.deliver(letter("kept")), await post.deliver(letter("gone"))
    await gateway.client.put(f"/v1/tenants/acme/messages/{kept}/pins/task/T-1")
    gateway.clock.forward(HOUR)
    await gateway.client.put("/v1/tenants/acme/subscription", json={"plan": "free"})
    assert [item["id"] for item in (await gateway.client.get("/v1/tenants/acme/messages")).json()["items"]] == [kept]
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{gone}")).json()["type"] == "expired"
    assert (await purge(gateway))["purged"] == 1
    assert (await gateway.client.get(f"/v1/tenants/acme/messages/{kept}")).json()["subject"] == "kept"


async def test_pins_of_an_unknown_message(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    there = await postman(gateway, "other")
    theirs = await there.deliver(letter(), index=False)
    for message_id in (theirs, new_id(START)):
        path = f"/v1/tenants/acme/messages/{message_id}/pins/deal/D-1"
        refused = await gateway.client.put(path)
        assert (refused.status_code, refused.json()["type"]) == (404, "message_not_found")
        assert (await gateway.client.delete(path)).status_code == 404
