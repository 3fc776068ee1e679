"""Guards over HTTP: what was refused and why, and an admin's leave for exactly that."""

from __future__ import annotations

from mailgate.clock import HOUR
from mailgate.ids import new_id
from tests.api.conftest import START, Gateway
from tests.api.mail import Postman, letter, postman
from tests.api.trouble import vanish


def path(post: Postman, rest: str = "") -> str:
    return f"/v1/tenants/{post.tenant_id}/mailboxes/{post.mailbox_id}/guards{rest}"


async def test_what_was_refused_is_shown_and_approved(gateway: Gateway) -> None:
    post = await postman(gateway)
    ids = [await post.deliver(letter(f"n{n}"), index=False) for n in range(3)]
    guard_id = await vanish(post, ids)
    listed = (await gateway.client.get(path(post))).json()
    (shown,) = listed["items"]
    assert listed["next_cursor"] is None
    assert shown == {
        "id": guard_id,
        "mailbox_id": post.mailbox_id,
        "folder_id": await post.folder(),
        "folder": "INBOX",
        "state": "open",
        "reason": "the folder 'INBOX' is empty at the server",
        "known": 3,
        "gone": 3,
        "uidvalidity": 7,
        "digest": shown["digest"],
        "raised_at": shown["raised_at"],
        "approved_at": None,
        "approved_by": None,
        "closed_at": None,
        "outcome": None,
    }
    assert len(bytes.fromhex(shown["digest"])) == 32
    mailbox = (await gateway.client.get(f"/v1/tenants/acme/mailboxes/{post.mailbox_id}")).json()
    assert (mailbox["guards_open"], mailbox["quarantined"]) == (1, 0)
    assert "mailgate_guards_open 1.0" in (await gateway.client.get("/metrics")).text
    gateway.clock.forward(HOUR)
    gateway.sync.woken.clear()
    approved = await gateway.client.post(path(post, f"/{guard_id}/approve"))
    assert approved.status_code == 200, approved.text
    assert approved.json()["state"] == "approved"
    assert approved.json()["approved_by"] == "token:environment"
    assert approved.json()["approved_at"] > shown["raised_at"]
    assert gateway.sync.woken == [post.mailbox_id]
    again = await gateway.client.post(path(post, f"/{guard_id}/approve"))
    assert again.json() == approved.json()
    events = [event for event in (await _events(gateway)) if event.startswith("mailbox.guard")]
    assert events == ["mailbox.guard_refused", "mailbox.guard_approved"]


async def test_what_a_guard_keeps_stays_in_its_folder(gateway: Gateway) -> None:
    post = await postman(gateway)
    ids = [await post.deliver(letter(f"n{n}"), index=False) for n in range(3)]
    await vanish(post, ids)
    folder_id = await post.folder()
    listed = (await gateway.client.get("/v1/tenants/acme/messages", params={"folder": folder_id})).json()["items"]
    assert sorted(item["id"] for item in listed) == sorted(ids)
    assert [[folder["id"] for folder in item["folders"]] for item in listed] == [[folder_id]] * 3
    assert all(item["origin"]["present"] for item in listed), "nobody believes yet that it went"
    assert not any(at["present"] for item in listed for at in item["origin"]["locations"])


async def _events(gateway: Gateway) -> list[str]:
    async with gateway.core.db.read() as conn:
        return list((await conn.exec_driver_sql("SELECT type FROM events ORDER BY seq")).scalars())


async def test_evidence_that_changed_is_not_approved(gateway: Gateway) -> None:
    post = await postman(gateway)
    ids = [await post.deliver(letter(f"n{n}"), index=False) for n in range(3)]
    first = await vanish(post, ids[:2])
    gateway.clock.forward(HOUR)
    second = await vanish(post, ids)
    refused = await gateway.client.post(path(post, f"/{first}/approve"))
    assert (refused.status_code, refused.json()["type"]) == (409, "guard_changed")
    assert refused.json()["guard_id"] == first
    shown = {item["id"]: item for item in (await gateway.client.get(path(post))).json()["items"]}
    assert (shown[first]["state"], shown[first]["outcome"], shown[second]["state"]) == ("closed", "changed", "open")
    for open_, id_ in (("true", second), ("false", first)):
        listed = await gateway.client.get(path(post), params={"open": open_})
        assert [item["id"] for item in listed.json()["items"]] == [id_]
    page = (await gateway.client.get(path(post), params={"limit": 1})).json()
    assert [item["id"] for item in page["items"]] == [second]
    rest = (await gateway.client.get(path(post), params={"limit": 1, "cursor": page["next_cursor"]})).json()
    assert ([item["id"] for item in rest["items"]], rest["next_cursor"]) == ([first], None)


async def test_only_an_admin_approves(gateway: Gateway) -> None:
    post = await postman(gateway)
    guard_id = await vanish(post, [await post.deliver(letter(), index=False)])
    for scope in ("crm", "compliance"):
        async with await gateway.token(scope) as client:
            assert len((await client.get(path(post))).json()["items"]) == 1
            assert (await client.post(path(post, f"/{guard_id}/approve"))).status_code == 403
    await gateway.tenant("other")
    async with await gateway.token("admin", tenant_id="other") as client:
        assert (await client.get(path(post))).status_code == 404
        assert (await client.post(path(post, f"/{guard_id}/approve"))).status_code == 404
    async with await gateway.token("admin", tenant_id="acme") as client:
        answer = await client.post(path(post, f"/{guard_id}/approve"))
        assert answer.json()["approved_by"].startswith("token:")


async def test_what_is_not_there(gateway: Gateway) -> None:
    post = await postman(gateway)
    missing = new_id(START)
    assert (await gateway.client.get(f"/v1/tenants/acme/mailboxes/{missing}/guards")).status_code == 404
    unknown = await gateway.client.post(path(post, f"/{missing}/approve"))
    assert (unknown.status_code, unknown.json()["type"]) == (404, "guard_not_found")
    other = await gateway.mailbox("acme", "ben@acme.example")
    guard_id = await vanish(post, [await post.deliver(letter(), index=False)])
    elsewhere = await gateway.client.post(f"/v1/tenants/acme/mailboxes/{other['id']}/guards/{guard_id}/approve")
    assert elsewhere.status_code == 404


async def test_a_mailbox_that_is_off_or_gone(gateway: Gateway) -> None:
    post = await postman(gateway)
    guard_id = await vanish(post, [await post.deliver(letter(), index=False)])
    mailbox = f"/v1/tenants/acme/mailboxes/{post.mailbox_id}"
    await gateway.client.patch(mailbox, json={"enabled": False})
    gateway.sync.woken.clear()
    assert (await gateway.client.post(path(post, f"/{guard_id}/approve"))).json()["state"] == "approved"
    assert gateway.sync.woken == []  # it is carried out when the mailbox runs again
    await gateway.client.delete(mailbox)
    removed = await gateway.client.post(path(post, f"/{guard_id}/approve"))
    assert (removed.status_code, removed.json()["type"]) == (409, "mailbox_removed")
    assert "mailgate_guards_open 0.0" in (await gateway.client.get("/metrics")).text
