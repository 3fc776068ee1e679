"""Quarantine over HTTP: what is set aside and why, its bytes if they came, and another attempt."""

from __future__ import annotations

import pytest

from mailgate.ids import new_id
from mailgate.sync.incoming import Cause
from tests.api.conftest import START, Gateway
from tests.api.mail import Postman, letter, postman
from tests.api.trouble import set_aside


def path(post: Postman, rest: str = "") -> str:
    return f"/v1/tenants/{post.tenant_id}/mailboxes/{post.mailbox_id}/quarantine{rest}"


async def test_what_is_set_aside_is_shown_and_tried_again(gateway: Gateway) -> None:
    post = await postman(gateway)
    entry_id = await set_aside(post, 5, Cause.TOO_LARGE)
    (shown,) = (await gateway.client.get(path(post))).json()["items"]
    assert shown == {
        "id": entry_id,
        "mailbox_id": post.mailbox_id,
        "folder_id": await post.folder(),
        "folder": "INBOX",
        "uidvalidity": 7,
        "uid": 5,
        "cause": "too_large",
        "reason": "it is too_large",
        "size": 1000,
        "message_id": None,
        "attempts": 1,
        "first_seen_at": shown["first_seen_at"],
        "last_seen_at": shown["first_seen_at"],
        "retry_at": None,
    }
    mailbox = (await gateway.client.get(f"/v1/tenants/acme/mailboxes/{post.mailbox_id}")).json()
    assert (mailbox["guards_open"], mailbox["quarantined"]) == (0, 1)
    (of_list,) = (await gateway.client.get("/v1/tenants/acme/mailboxes")).json()["items"]
    assert of_list["quarantined"] == 1
    assert "mailgate_quarantined_messages 1.0" in (await gateway.client.get("/metrics")).text
    gateway.sync.woken.clear()
    asked = await gateway.client.post(path(post, f"/{entry_id}/retry"))
    assert asked.status_code == 202, asked.text
    run_id = asked.json().pop("run_id")
    assert asked.json() == {**shown, "retry_at": shown["first_seen_at"], "run_id": run_id}
    runs = (await gateway.client.get(f"/v1/tenants/acme/mailboxes/{post.mailbox_id}/runs")).json()["items"]
    assert [run["id"] for run in runs] == [run_id]
    assert gateway.sync.woken == [post.mailbox_id]


async def test_bytes_that_are_kept_are_served(gateway: Gateway) -> None:
    post = await postman(gateway)
    raw = letter("unreadable")
    message_id = await post.deliver(raw, index=False)
    kept = await set_aside(post, 1, Cause.UNREADABLE, message_id=message_id)
    answer = await gateway.client.get(path(post, f"/{kept}/raw"))
    assert (answer.status_code, answer.content) == (200, raw)
    assert answer.headers["content-type"] == "message/rfc822"
    same = await gateway.client.get(path(post, f"/{kept}/raw"), headers={"if-none-match": answer.headers["etag"]})
    assert same.status_code == 304
    other = await set_aside(post, 9)
    missing = await gateway.client.get(path(post, f"/{other}/raw"))
    assert (missing.status_code, missing.json()["type"]) == (404, "bytes_not_kept")
    assert "not_sent" in missing.json()["detail"]


async def test_pages(gateway: Gateway) -> None:
    post = await postman(gateway)
    ids = [await set_aside(post, uid) for uid in range(1, 6)]
    page = (await gateway.client.get(path(post), params={"limit": 3})).json()
    rest = (await gateway.client.get(path(post), params={"limit": 3, "cursor": page["next_cursor"]})).json()
    assert [item["id"] for item in page["items"] + rest["items"]] == sorted(ids, reverse=True)
    assert rest["next_cursor"] is None


async def test_who_may(gateway: Gateway) -> None:
    post = await postman(gateway)
    entry_id = await set_aside(post, 5)
    async with await gateway.token("compliance") as client:
        assert (await client.get(path(post))).status_code == 200
        assert (await client.get(path(post, f"/{entry_id}/raw"))).status_code == 403
        assert (await client.post(path(post, f"/{entry_id}/retry"))).status_code == 403
    async with await gateway.token("crm") as client:
        assert (await client.post(path(post, f"/{entry_id}/retry"))).status_code == 202
    await gateway.tenant("other")
    async with await gateway.token("crm", tenant_id="other") as client:
        for method, rest in (("GET", ""), ("GET", f"/{entry_id}/raw"), ("POST", f"/{entry_id}/retry")):
            assert (await client.request(method, path(post, rest))).status_code == 404


async def test_what_is_not_there(gateway: Gateway) -> None:
    post = await postman(gateway)
    entry_id, missing = await set_aside(post, 5), new_id(START)
    other = await gateway.mailbox("acme", "ben@acme.example")
    elsewhere = f"/v1/tenants/acme/mailboxes/{other['id']}/quarantine/{entry_id}"
    for address in (path(post, f"/{missing}"), elsewhere):
        unknown = await gateway.client.post(f"{address}/retry")
        assert (unknown.status_code, unknown.json()["type"]) == (404, "entry_not_found")
        assert (await gateway.client.get(f"{address}/raw")).status_code == 404


@pytest.mark.parametrize("why", ["mailbox_disabled", "not_entitled", "mailbox_removed"])
async def test_nothing_is_tried_where_nothing_may_run(gateway: Gateway, why: str) -> None:
    post = await postman(gateway)
    entry_id = await set_aside(post, 5)
    mailbox = f"/v1/tenants/acme/mailboxes/{post.mailbox_id}"
    if why == "mailbox_disabled":
        await gateway.client.patch(mailbox, json={"enabled": False})
    elif why == "not_entitled":
        await gateway.client.put("/v1/tenants/acme/subscription", json={"plan": "free"})
    else:
        await gateway.client.delete(mailbox)
    refused = await gateway.client.post(path(post, f"/{entry_id}/retry"))
    assert (refused.status_code, refused.json()["type"]) == (409, why)
