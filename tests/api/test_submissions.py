"""Sending: what is asked for, what reaches the server, what becomes of it. Both databases, a scripted server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from email import message_from_bytes
from email.policy import default

import pytest
from httpx import Response

from mailgate.actors import SYSTEM
from mailgate.clock import DAY, HOUR, MINUTE, to_rfc3339
from mailgate.store.schema import submissions
from tests.api.conftest import Gateway
from tests.api.mail import letter
from tests.api.sending import LETTER, Office, office, smtp_settings


@pytest.fixture
async def acme(gateway: Gateway) -> AsyncIterator[Office]:
    async with office(gateway) as made:
        yield made


async def test_a_letter_is_queued_sent_and_kept(acme: Office) -> None:
    await acme.post.folder("Sent", special_use="sent")
    made = await acme.submit(cc=["Cy <cy@other.example>"], bcc=["dora@other.example"])
    assert made["state"] == "queued"
    assert made["message_id"] is None
    assert acme.server.connections == 0

    await acme.work()

    sent = await acme.get(made["id"])
    assert sent["state"] == "sent"
    assert sent["last_response"] == "250 2.0.0 queued"
    assert {(r["address"], r["state"]) for r in sent["recipients"]} == {
        ("bob@other.example", "accepted"),
        ("cy@other.example", "accepted"),
        ("dora@other.example", "accepted"),
    }
    (taken,) = acme.server.received
    assert taken.sender == "ann@acme.example"
    assert taken.recipients == ["bob@other.example", "cy@other.example", "dora@other.example"]
    assert b"dora" not in taken.content
    said = message_from_bytes(taken.content, policy=default)
    assert said["Message-ID"] == sent["rfc_message_id"]
    copy = (await acme.gateway.client.get(f"/v1/tenants/acme/messages/{sent['message_id']}")).json()
    assert copy["subject"] == "Offer"
    assert copy["flags"] == ["\\Seen"]
    assert [folder["name"] for folder in copy["folders"]] == ["Sent"]
    raw = await acme.gateway.client.get(f"/v1/tenants/acme/messages/{sent['message_id']}/raw")
    assert raw.content == taken.content
    types = [event.type for event in await acme.events()]
    assert types == ["message.created", "message.sent"]


async def test_a_message_is_sent_once_however_often_the_worker_looks(acme: Office) -> None:
    await acme.submit(key="k-1")
    again = await acme.submit(key="k-1")
    for _ in range(3):
        await acme.work()
    assert len(acme.server.received) == 1
    assert (await acme.get(again["id"]))["state"] == "sent"


async def test_a_whole_message_is_sent_without_its_bcc(acme: Office) -> None:
    raw = letter(
        To="bob@other.example", From="Ann <ann@acme.example>", Bcc="eve@other.example", Message_ID="<1@a.example>"
    )
    made = await acme.gateway.client.post(
        acme.base, params={"purpose": "service"}, content=raw, headers={"content-type": "message/rfc822"}
    )
    assert made.status_code == 202, made.text
    await acme.work()
    (taken,) = acme.server.received
    assert taken.recipients == ["bob@other.example", "eve@other.example"]
    assert b"eve" not in taken.content.lower()
    assert b"Bcc" not in taken.content
    assert b"Message-ID: <1@a.example>" in taken.content
    assert (await acme.get(made.json()["id"]))["purpose"] == "service"


async def test_an_answer_names_its_parent_and_is_pinned_like_it(acme: Office) -> None:
    parent = await acme.post.deliver(letter(Message_ID="<q@other.example>", References="<p@other.example>"))
    put = await acme.gateway.client.put(f"/v1/tenants/acme/messages/{parent}/pins/deal/D-7", json={"note": "x"})
    assert put.status_code == 201
    sent = await acme.send(in_reply_to_message_id=parent, pin_to_parent=True)
    said = message_from_bytes(acme.server.received[0].content, policy=default)
    assert said["In-Reply-To"] == "<q@other.example>"
    assert said["References"] == "<p@other.example> <q@other.example>"
    copy = (await acme.gateway.client.get(f"/v1/tenants/acme/messages/{sent['message_id']}")).json()
    assert [(pin["entity_type"], pin["entity_id"]) for pin in copy["pins"]] == [("deal", "D-7")]
    asked = (await acme.gateway.client.get(f"/v1/tenants/acme/messages/{parent}")).json()
    assert copy["thread_id"] == asked["thread_id"]


async def test_files_are_given_or_taken_from_kept_messages(acme: Office) -> None:
    kept = await acme.post.deliver(letter(files=(("plan.pdf", "application/pdf", b"%PDF-1"),)))
    part = (await acme.gateway.client.get(f"/v1/tenants/acme/messages/{kept}")).json()["parts"][-1]
    await acme.send(
        attachments=[
            {"filename": "ä.txt", "content_type": "text/plain", "content_base64": base64.b64encode(b"hi").decode()},
            {"message_id": kept, "part_id": part["part_id"]},
        ]
    )
    said = message_from_bytes(acme.server.received[0].content, policy=default)
    files = [(part.get_filename(), part.get_payload(decode=True)) for part in said.iter_attachments()]
    assert files == [("ä.txt", b"hi"), ("plan.pdf", b"%PDF-1")]


async def test_send_at_is_waited_for(acme: Office) -> None:
    made = await acme.submit(send_at=to_rfc3339(acme.gateway.clock() + HOUR))
    await acme.work()
    assert acme.server.connections == 0
    acme.gateway.clock.forward(HOUR)
    await acme.work()
    assert (await acme.get(made["id"]))["state"] == "sent"


async def test_what_is_queued_can_be_called_back(acme: Office) -> None:
    made = await acme.submit()
    gone = await acme.gateway.client.delete(f"{acme.base}/{made['id']}")
    assert gone.status_code == 200
    assert gone.json()["state"] == "canceled"
    await acme.work()
    assert acme.server.connections == 0
    again = await acme.gateway.client.delete(f"{acme.base}/{made['id']}")
    assert (again.status_code, again.json()["type"]) == (409, "not_queued")


async def test_each_recipient_has_an_answer_of_its_own(acme: Office) -> None:
    acme.server.script["rcpt:no@other.example"] = ["550 5.1.1 no such user"]
    acme.server.script["rcpt:late@other.example"] = ["450 4.2.1 busy", ""]
    made = await acme.send(to=["bob@other.example", "no@other.example", "late@other.example"])
    assert made["state"] == "queued"
    assert made["message_id"] is not None
    states = {r["address"]: (r["state"], r["code"]) for r in made["recipients"]}
    assert states == {
        "bob@other.example": ("accepted", None),
        "no@other.example": ("refused", "5.1.1"),
        "late@other.example": ("waiting", "4.2.1"),
    }
    acme.gateway.clock.forward(HOUR)
    await acme.work()
    after = await acme.get(made["id"])
    assert after["state"] == "sent"
    assert [message.recipients for message in acme.server.received] == [["bob@other.example"], ["late@other.example"]]
    failed = [event.payload for event in await acme.events() if event.type == "message.failed"]
    assert [(f["submission_id"], f["refused"], f["accepted"]) for f in failed] == [(made["id"], 1, 2)]


async def test_a_mailbox_without_settings_for_sending_says_so(acme: Office) -> None:
    other = await acme.gateway.mailbox("acme", "eve@acme.example")
    made = await acme.gateway.client.post(
        f"/v1/tenants/acme/mailboxes/{other['id']}/submissions", json={"to": ["bob@other.example"]}
    )
    assert (made.status_code, made.json()["type"]) == (409, "no_smtp")


async def test_unpaid_tenants_and_disabled_mailboxes_open_no_connection(acme: Office) -> None:
    made = await acme.submit()
    client = acme.gateway.client
    await client.put("/v1/tenants/acme/subscription", json={"plan": "free"})
    assert (await acme.submit(status=409))["type"] == "not_entitled"
    await acme.work()
    waits = await acme.get(made["id"])
    assert (waits["state"], waits["code"]) == ("queued", "not_entitled")
    await client.put("/v1/tenants/acme/subscription", json={"plan": "standard"})
    await client.patch(f"/v1/tenants/acme/mailboxes/{acme.mailbox_id}", json={"enabled": False})
    assert (await acme.submit(status=409))["type"] == "mailbox_disabled"
    acme.gateway.clock.forward(2 * MINUTE)
    await acme.work()
    assert (await acme.get(made["id"]))["code"] == "mailbox_disabled"
    assert acme.server.connections == 0
    await client.patch(f"/v1/tenants/acme/mailboxes/{acme.mailbox_id}", json={"enabled": True})
    acme.gateway.clock.forward(2 * MINUTE)
    await acme.work()
    assert (await acme.get(made["id"]))["state"] == "sent"


async def test_verify_tries_sending_too(gateway: Gateway) -> None:
    await gateway.tenant("acme")
    body = {"tenant_id": "acme", "imap": {**smtp_settings(993)}, "smtp": smtp_settings(587)}
    tried = await gateway.client.post("/v1/mailboxes/verify", json=body)
    assert tried.status_code == 200, tried.text
    assert [step["step"] for step in tried.json()["steps"]] == ["resolve", "login", "smtp_connect", "smtp_login"]
    ((endpoint, auth),) = gateway.verify.smtp_tried
    assert (endpoint.port, auth.password) == (587, "hunter2-smtp")


async def test_a_letter_that_waits_over_months_outlives_their_keys(acme: Office) -> None:
    """The copy's own key waits inside the submission, where no column says of which month it is."""
    gateway, months = acme.gateway, 100 * DAY
    made = await acme.submit(send_at=to_rfc3339(gateway.clock() + months))
    for _ in range(2):
        gateway.clock.forward(months // 2)
        rotated = await gateway.core.keys.rotate(SYSTEM, at_once=True)
        assert rotated.wrapped["submissions"] == 1
        assert rotated.destroyed
    assert (await gateway.core.keys.rotate(SYSTEM, at_once=True)).wrapped == {}
    await acme.work()
    sent = await acme.get(made["id"])
    assert sent["state"] == "sent"
    copy = await gateway.client.get(f"/v1/tenants/acme/messages/{sent['message_id']}/raw")
    assert copy.content == acme.server.received[0].content


async def test_after_a_backup_was_restored_nothing_is_sent_by_itself(acme: Office) -> None:
    """What waited then may have been sent since; what was to be sent later than now was not."""
    gateway = acme.gateway
    due = await acme.submit()
    later = await acme.submit(send_at=to_rfc3339(gateway.clock() + HOUR))
    await gateway.core.restore.run(SYSTEM)
    await acme.work()
    assert acme.server.received == []
    asked = await acme.get(due["id"])
    assert (asked["state"], asked["code"]) == ("uncertain", "backup_restored")
    assert (await acme.get(later["id"]))["state"] == "queued"
    again = await gateway.client.post(f"{acme.base}/{due['id']}/retry")
    assert again.status_code == 202, again.text


@pytest.mark.parametrize("state", ["queued", "sending"])
async def test_what_was_in_work_when_the_backup_was_made_waits_for_a_person_as_well(acme: Office, state: str) -> None:
    """The process of then has it no more, whatever its lease in the backup says."""
    gateway = acme.gateway
    made = await acme.submit()
    assert await gateway.core.send_queue.enter("process-0", DAY, gateway.clock())
    claimed = {"state": state, "claimed_by": "process-0", "attempts": 1}
    async with gateway.core.db.write() as tx:
        await tx.conn.execute(submissions.update().values(claimed))
    await gateway.core.restore.run(SYSTEM)
    await acme.work()
    assert acme.server.received == []
    asked = await acme.get(made["id"])
    assert (asked["state"], asked["code"]) == ("uncertain", "backup_restored")
    assert (await acme.send())["state"] == "sent"  # nobody waits for it
    assert (await gateway.client.post(f"{acme.base}/{made['id']}/retry")).status_code == 202
    await acme.work()
    assert (await acme.get(made["id"]))["state"] == "sent"
    assert len(acme.server.received) == 2


async def test_large_letters_that_are_taken_at_a_time_are_few(acme: Office) -> None:
    gateway = acme.gateway
    limits = gateway.core.settings.limits
    async with await gateway.token("crm", tenant_id="acme") as bound:
        started, going = asyncio.Semaphore(0), asyncio.Event()

        async def coming() -> AsyncIterator[bytes]:
            started.release()
            await going.wait()
            yield b"{}"

        async def take() -> Response:
            return await bound.post(acme.base, content=coming(), headers={"content-type": "application/json"})

        taken = [asyncio.create_task(take()) for _ in range(limits.uploads_at_once // 2)]
        for _ in taken:
            await started.acquire()
        large = {**LETTER, "text": "x" * limits.request_bytes}
        refused = await bound.post(acme.base, json=large)
        assert (refused.status_code, refused.json()["type"]) == (429, "too_many_uploads")
        assert (await bound.post(acme.base, json=LETTER)).status_code == 202
        assert (await gateway.client.post(acme.base, json=large)).status_code == 202  # one tenant does not take all
        going.set()
        assert {answer.status_code for answer in await asyncio.gather(*taken)} == {422}
        assert (await bound.post(acme.base, json=large)).status_code == 202
