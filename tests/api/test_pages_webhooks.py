"""The pages of webhooks and events: how receivers do, what was delivered, who may do what; the feed backwards."""

from __future__ import annotations

import html
import json
import re
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from mailgate.clock import DAY, HOUR, MINUTE, to_rfc3339
from mailgate.store import feed_looking
from mailgate.store.transaction import Transaction
from mailgate.store.users import Role
from mailgate.webhooks.model import Answer
from tests.api.conftest import Gateway
from tests.api.hooks import MAILBOXES, URL, delivering
from tests.api.people import Person, person

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"


def text_of(answer: httpx.Response) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text)))


def secret_of(answer: httpx.Response) -> str:
    found = re.search(r"whsec_[A-Za-z0-9+/=]+", answer.text)
    assert found is not None
    return found[0]


async def made(ann: Person, **form: str) -> tuple[str, str]:
    """An endpoint that is made on the page; its address there and its secret."""
    await ann.get("/admin/webhooks/new")
    answer = await ann.post("/admin/webhooks/new", {"url": URL, **form})
    assert answer.status_code == 200, text_of(answer)
    at = re.search(r'href="(/admin/webhooks/[0-9A-Z]{26})"', answer.text)
    assert at is not None
    return at[1], secret_of(answer)


async def test_an_admin_makes_changes_and_removes_an_endpoint(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    ann = await person(gateway)
    at, secret = await made(
        ann, tenant="acme", description="the CRM", **{"type:message.*": "1", "type:hold.placed": "1"}
    )
    assert secret not in (await ann.get(at)).text  # shown once
    listed = text_of(await ann.get("/admin/webhooks"))
    for said in (URL, "the CRM", "acme", "message.*, hold.placed", "Delivering", "never"):
        assert said in listed
    changed = await ann.post(f"{at}/edit", {"url": f"{URL}/2", "description": "", "type:alarm.raised": "1"})
    assert changed.headers["location"] == f"{at}?done=webhook_changed"
    behind = (await gateway.client.get(f"/v1/webhooks/{at[-26:]}")).json()
    assert (behind["url"], behind["description"], behind["types"]) == (f"{URL}/2", "", ["alarm.raised"])
    rotated = await ann.post(f"{at}/secret", {"overlap": "1"})
    assert secret_of(rotated) != secret
    assert "signs as well until" in text_of(rotated)
    until = (await gateway.client.get(f"/v1/webhooks/{at[-26:]}")).json()["old_secret_until_at"]
    assert until == to_rfc3339(gateway.clock() + HOUR)
    assert (await ann.post(f"{at}/remove")).status_code == 422
    assert (await ann.post(f"{at}/remove", {"sure": "1"})).headers["location"] == "/admin/webhooks?done=webhook_removed"
    assert (await ann.get(at)).status_code == 404
    log = (await gateway.client.get("/v1/access-log", params={"tenant": "acme", "kind": "change"})).json()["items"]
    found = [(e["method"], e["route"].rpartition("}")[2], e["status"]) for e in log if e["actor"].startswith("user:")]
    assert found == [
        *(("POST", "/remove", 303), ("POST", "/remove", 422), ("POST", "/secret", 200), ("POST", "/edit", 303)),
        ("POST", "/admin/webhooks/new", 200),
    ]
    assert all(secret not in json.dumps(entry) for entry in log)


async def test_a_page_says_how_a_receiver_does(gateway: Gateway) -> None:
    async with delivering(gateway) as one:
        ann = await person(gateway)
        at, _ = await made(ann)
        await one.emit(*MAILBOXES)
        await one.settle()
        gateway.clock.forward(MINUTE)
        fine = text_of(await ann.get(at))
        for said in ("Last delivered 1 minute ago", "Failures in a row 0", "Waiting to be sent 0", "204"):
            assert said in fine
        one.receiver.answer = lambda _got: Answer(503, text=HOSTILE)
        await one.emit(MAILBOXES[0])
        await one.settle()
        gateway.clock.forward(HOUR)
        await one.settle()
        await ann.sign_in()
        failing = await ann.get(at)
        assert "<script>alert" not in failing.text
        for said in ("Failing", "Failures in a row 2", "Mailboxes behind 1", HOSTILE, "503", "Waiting to be sent 1"):
            assert said in text_of(failing), said
        assert "Failing" in text_of(await ann.get("/admin/webhooks"))
        waiting = await ann.get(f"{at}?state=waiting")
        assert waiting.text.count("/again") == 1
        assert "/again" not in (await ann.get(f"{at}?state=failed")).text
        for _ in range(40):
            gateway.clock.forward(12 * HOUR)
            await one.settle()
        await ann.sign_in()
        paused = text_of(await ann.get(f"{at}/standing"))
        for said in ("Paused: it failed for too long", "since", "503", "Set right the receiver"):
            assert said in paused
        one.receiver.answer = lambda _got: Answer(200)
        before = len(one.receiver.got)
        await ann.get(at)
        tested = text_of(await ann.post(f"{at}/test"))
        assert "The receiver took it. It answered 204." in tested
        assert one.receiver.got == one.receiver.got[:before]  # a test is no event
        assert (await ann.post(f"{at}/switch", {"enabled": "1"})).headers["location"] == f"{at}?done=webhook_resumed"
        await one.settle()
        assert "Failures in a row 0" in text_of(await ann.get(at))
        assert (await ann.post(f"{at}/switch", {"enabled": "0"})).headers["location"] == f"{at}?done=webhook_paused"
        assert "Somebody paused it" in text_of(await ann.get(at))


async def test_deliveries_are_made_again_one_by_one_or_from_a_place(gateway: Gateway) -> None:
    async with delivering(gateway) as one:
        ann = await person(gateway)
        at, _ = await made(ann)
        await one.emit(MAILBOXES[0])
        gateway.clock.forward(HOUR)
        middle = gateway.clock()
        await one.emit(*MAILBOXES)
        await one.settle()
        await ann.sign_in()
        assert len(one.receiver.got) == 3
        page = await ann.get(at)
        first = re.findall(rf"{at}/deliveries/(\w+)/again", page.text)[-1]
        sent = await ann.post(f"{at}/deliveries/{first}/again")
        assert "The receiver took it." in text_of(sent)
        assert "once more, by hand" in text_of(await ann.get(at))
        since = to_rfc3339(middle)[:16]
        answer = await ann.post(f"{at}/replay", {"since": since})
        assert answer.headers["location"] == f"{at}?done=webhook_replayed"
        await one.settle()
        assert len(one.receiver.got) == 5
        event = min(one.receiver.got, key=lambda got: got.number).body
        answer = await ann.post(f"{at}/replay", {"after": event["cursor"]})
        assert answer.status_code == 303
        await one.settle()
        assert len(one.receiver.got) == 7
        one.receiver.answer = lambda _got: Answer(500)
        await one.emit(*MAILBOXES)
        await one.settle()
        waiting = re.findall(rf"{at}/deliveries/(\w+)/again", (await ann.get(f"{at}?state=waiting")).text)
        hurried = await ann.post(f"{at}/deliveries/{waiting[0]}/again")
        assert hurried.headers["location"] == f"{at}?done=webhook_hurried"
        answer = await ann.post(f"{at}/replay", {"from": "latest"})
        assert answer.headers["location"] == f"{at}?done=webhook_skipped"
        assert "Left out" in text_of(await ann.get(f"{at}?state=canceled"))


async def test_compliance_sees_the_host_and_changes_nothing(gateway: Gateway) -> None:
    async with delivering(gateway) as one:
        made_ = await one.make(url="https://crm.example:8443/hook?key=hunter2", tenant_id="acme")
        await one.emit(MAILBOXES[0])
        await one.settle()
        cleo = await person(gateway, "cleo", Role.COMPLIANCE)
        at = f"/admin/webhooks/{made_['id']}"
        event = one.receiver.got[0].body["id"]
        for path in ("/admin/webhooks", at, f"{at}/standing", f"/admin/events/{quote(event)}"):
            answer = await cleo.get(path)
            assert answer.status_code == 200
            assert "hunter2" not in answer.text, path
            assert 'action="/admin/webhooks/' not in answer.text
        assert "crm.example:8443" in (await cleo.get(at)).text
        assert (await cleo.get(f"{at}/edit")).status_code == 403
        assert (await cleo.post(f"{at}/test")).status_code == 403


async def test_who_is_bound_to_a_tenant_sees_and_makes_its_own_only(gateway: Gateway) -> None:
    async with delivering(gateway) as one:
        await gateway.tenant("other")
        for tenant_id in ("acme", None):
            await one.make(tenant_id=tenant_id, description="not yours")
        await one.emit(None)
        await one.emit(None, tenant_id="other")

        async def of_the_gateway(tx: Transaction) -> None:
            tx.emit(None, "alarm.raised", at=gateway.clock(), payload={"kind": "no_purge"})

        await gateway.core.db.transact(of_the_gateway)
        await one.settle()
        bob = await person(gateway, "bob", tenant_id="other")
        theirs = [
            f"/admin/webhooks/{hook['id']}" for hook in (await gateway.client.get("/v1/webhooks")).json()["items"]
        ]
        at, _ = await made(bob, tenant="acme")
        mine = (await gateway.client.get(f"/v1/webhooks/{at[-26:]}")).json()
        assert mine["tenant_id"] == "other"  # whatever the form said
        for path in ("/admin/webhooks", "/admin/webhooks?tenant=acme"):
            assert "not yours" not in (await bob.get(path)).text
        for path in theirs:
            assert (await bob.get(path)).status_code == 404
            for change in ("edit", "secret", "switch", "test", "replay", "remove"):
                assert (await bob.post(f"{path}/{change}", {"sure": "1", "url": URL})).status_code == 404
        for path in ("/admin/events", "/admin/events?tenant=acme", "/admin/events?tenant=*"):
            text = (await bob.get(path)).text
            assert "other:" in text or "other%3A" in text
            assert "acme%3A" not in text
            assert "%2A%3A" not in text
        for event in ("acme:1", "*:1", "nobody:1"):
            assert (await bob.get(f"/admin/events/{quote(event, safe='')}")).status_code == 404
        assert len((await gateway.client.get("/v1/webhooks")).json()["items"]) == 3


async def test_the_feed_backwards(gateway: Gateway) -> None:
    async with delivering(gateway) as one:
        box = await gateway.mailbox("acme")
        hook = await one.make(tenant_id="acme")
        await one.emit(*([box["id"]] * 3), None)
        await one.settle()
        ann = await person(gateway)
        ids = re.findall(r'href="/admin/events/([^"]+)"', (await ann.get("/admin/events?tenant=acme")).text)
        numbers = [int(id_.removeprefix("acme%3A")) for id_ in ids]
        assert numbers == sorted(numbers, reverse=True)
        for query in (f"mailbox={box['id']}", "mailbox=ann@acme.example", f"mailbox={box['id']}&tenant=acme"):
            shown = await ann.get(f"/admin/events?{query}&type=mailbox.import_finished")
            assert shown.text.count('href="/admin/events/acme%3A') == 3, query
        for query in ("mailbox=nobody@x.example", "tenant=nobody", f"mailbox={MAILBOXES[0]}", "type=hold.*"):
            assert "There is no such event." in text_of(await ann.get(f"/admin/events?{query}"))
        wanted = one.receiver.got[0].body["id"]
        answer = await ann.get(f"/admin/events/{quote(wanted, safe='')}")
        body = json.loads(html.unescape(answer.text.partition("<pre")[2].partition(">")[2].partition("</pre>")[0]))
        assert (
            body
            == (await gateway.client.get("/v1/events", params={"tenant": "acme", "limit": 1_000})).json()["items"][
                int(wanted.rpartition(":")[2]) - 1
            ]
        )
        assert f'href="/admin/webhooks/{hook["id"]}"' in answer.text
        assert "Delivered" in text_of(answer)


async def test_looking_back_is_bounded_and_ends(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_looking, "STRETCH", 4)
    async with delivering(gateway) as one:
        await one.emit(MAILBOXES[1])
        for _ in range(10):
            await one.emit(MAILBOXES[0], None)
        ann = await person(gateway)
        looks: list[dict[str, Any]] = []
        path = f"/admin/events?tenant=acme&type=mailbox.import_finished&mailbox={MAILBOXES[1]}"
        assert "There is no such event" in text_of(await ann.get(path))  # nobody's mailbox
        path = "/admin/events?type=subscription.changed"
        found = 0
        while path:
            page = await ann.get(path)
            found += page.text.count('href="/admin/events/acme%3A')
            following = re.search(r'href="([^"]+)" rel="next"', page.text)
            looks.append({"path": path})
            path = html.unescape(following[1]) if following else ""
            assert len(looks) < 20
        assert len(looks) > 1
        assert found == 1
        assert (await ann.get("/admin/events?cursor=AAAA")).status_code == 400
        gateway.clock.forward(DAY)
