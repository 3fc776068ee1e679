"""Sending when something goes wrong: put off, refused, cut at each step, killed; and never twice by itself."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select

from mailgate.actors import SCHEDULE
from mailgate.clock import DAY, HOUR, MINUTE, SECOND, to_rfc3339
from mailgate.errors import ConflictError
from mailgate.jobs.send import LEASE
from mailgate.store.prune import UNSENT_BYTES_KEPT, prune
from mailgate.store.schema import leases
from mailgate.store.sending.queue import SENDER, ClaimLostError
from mailgate.submissions.decide import Outcome
from tests.api.conftest import Gateway
from tests.api.sending import Office, office, smtp_settings
from tests.smtpserver import DROP, HANG, recipients_of

BOB = "bob@other.example"


@pytest.fixture
async def acme(gateway: Gateway) -> AsyncIterator[Office]:
    async with office(gateway) as made:
        yield made


STEPS = ("connect", "ehlo", "auth", "mail", "rcpt", "data", "content")
# Behind the last byte nobody knows, and the double can't cut a login.
CUTS = [(step, DROP) for step in STEPS if step not in ("auth", "content")]


@pytest.mark.parametrize(
    ("step", "answer"), [*((step, said) for step in STEPS for said in ("421 4.3.2 closing", "450 4.2.1 busy")), *CUTS]
)
async def test_what_is_put_off_is_sent_later_once(acme: Office, step: str, answer: str) -> None:
    acme.server.script[step] = [answer, ""]
    made = await acme.send()
    assert made["state"] == "queued"
    assert made["attempts"] == 1
    assert made["last_response"]
    assert made["message_id"] is None
    await acme.work()
    assert (await acme.get(made["id"]))["attempts"] == 1  # not at once
    acme.gateway.clock.forward(2 * MINUTE)
    await acme.work()
    after = await acme.get(made["id"])
    assert (after["state"], after["attempts"]) == ("sent", 2)
    assert recipients_of(acme.server.received) == [BOB]


@pytest.mark.parametrize("answer", ["421 4.3.2 closing", "535 5.7.8 no"])
async def test_a_clock_that_is_set_back_puts_nothing_off(acme: Office, answer: str) -> None:
    clock = acme.gateway.clock
    clock.forward(400 * DAY)
    acme.server.script["mail" if answer < "5" else "auth"] = [answer, ""]
    made = await acme.send()
    assert (made["state"], made["attempts"]) == ("queued", 1)
    waiting = await acme.submit()  # not tried yet
    clock.forward(-400 * DAY)
    for _ in range(2):  # one at a time for a mailbox
        await acme.work()
    assert [(await acme.get(each["id"]))["state"] for each in (made, waiting)] == ["sent", "sent"]


async def test_what_a_client_put_off_is_sent_then_whatever_the_clock_said(acme: Office) -> None:
    clock = acme.gateway.clock
    made = await acme.submit(send_at=to_rfc3339(clock() + DAY))
    clock.forward(-400 * DAY)
    await acme.work()
    assert (await acme.get(made["id"]))["state"] == "queued"
    clock.forward(402 * DAY)
    await acme.work()
    assert (await acme.get(made["id"]))["state"] == "sent"


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "content"])
async def test_what_is_refused_has_failed_and_can_be_asked_for_again(acme: Office, step: str) -> None:
    acme.server.script[step] = ["552 5.2.2 full", ""]
    made = await acme.send()
    assert (made["state"], made["code"]) == ("failed", "5.2.2")
    assert made["recipients"][0]["state"] == "refused"
    assert [event.type for event in await acme.events()] == ["message.failed"]
    again = await acme.gateway.client.post(f"{acme.base}/{made['id']}/retry")
    assert (again.status_code, again.json()["state"]) == (202, "queued")
    await acme.work()
    assert (await acme.get(made["id"]))["state"] == "sent"
    refused = await acme.gateway.client.post(f"{acme.base}/{made['id']}/retry")
    assert (refused.status_code, refused.json()["type"]) == (409, "not_retryable")


async def test_what_was_cut_behind_the_last_byte_is_uncertain_and_never_sent_again_by_itself(acme: Office) -> None:
    acme.server.script["content"] = [DROP, ""]
    made = await acme.send()
    assert (made["state"], made["code"]) == ("uncertain", "no_answer")
    assert made["recipients"][0]["state"] == "uncertain"
    for _ in range(3):
        acme.gateway.clock.forward(DAY)
        await acme.work()
    assert acme.server.connections == 1
    failed = [event.payload for event in await acme.events() if event.type == "message.failed"]
    assert failed == [{"submission_id": made["id"], "state": "uncertain", "code": "no_answer"}]
    await acme.gateway.client.post(f"{acme.base}/{made['id']}/retry")
    await acme.work()
    assert (await acme.get(made["id"]))["state"] == "sent"


async def test_a_process_that_is_gone_before_the_journal_promised_nothing(acme: Office) -> None:
    made = await acme.submit()
    queue, clock = acme.gateway.core.send_queue, acme.gateway.clock
    assert await queue.enter("dead", LEASE, clock())
    ((id_, tenant_id, mailbox_id),) = await queue.due(clock(), 10)
    assert await queue.claim("dead", id_, tenant_id, mailbox_id, clock()) is not None
    await acme.work()
    assert acme.server.connections == 0  # it may be alive
    clock.forward(LEASE)
    await acme.work()
    assert (await acme.get(made["id"]))["state"] == "sent"


async def test_a_process_that_is_gone_behind_the_journal_leaves_doubt(acme: Office) -> None:
    made = await acme.submit()
    queue, clock = acme.gateway.core.send_queue, acme.gateway.clock
    await queue.enter("dead", LEASE, clock())
    claim = await queue.claim("dead", made["id"], "acme", acme.mailbox_id, clock())
    assert claim is not None
    assert "bob" not in repr(claim)
    await queue.journal(claim, [BOB], clock())
    assert (await acme.get(made["id"]))["state"] == "sending"
    await acme.work()
    assert (await acme.get(made["id"]))["state"] == "sending"
    late = await acme.gateway.client.delete(f"{acme.base}/{made['id']}")
    assert late.status_code == 409
    clock.forward(LEASE)
    await acme.work()
    assert (await acme.get(made["id"]))["state"] == "uncertain"
    assert acme.server.connections == 0
    # The answer that comes after all is believed.
    await queue.finish(claim, Outcome({BOB: None}), "250 late", clock(), 0)
    after = await acme.get(made["id"])
    assert (after["state"], after["last_response"]) == ("sent", "250 late")


async def test_an_answer_to_an_older_attempt_is_not_believed(acme: Office) -> None:
    made = await acme.submit()
    queue, clock = acme.gateway.core.send_queue, acme.gateway.clock
    await queue.enter("slow", LEASE, clock())
    claim = await queue.claim("slow", made["id"], "acme", acme.mailbox_id, clock())
    assert claim is not None
    clock.forward(LEASE)
    await acme.work()  # another process took over, and sent it
    assert (await acme.get(made["id"]))["state"] == "sent"
    with pytest.raises(ClaimLostError):
        await queue.journal(claim, [BOB], clock())
    with pytest.raises(ClaimLostError):
        await queue.finish(claim, Outcome({BOB: None}), None, clock(), 0)
    assert recipients_of(acme.server.received) == [BOB]


async def test_what_is_canceled_while_it_connects_is_not_sent(acme: Office) -> None:
    made = await acme.submit()
    queue, clock = acme.gateway.core.send_queue, acme.gateway.clock
    await queue.enter("process-2", LEASE, clock())
    claim = await queue.claim("process-2", made["id"], "acme", acme.mailbox_id, clock())
    assert claim is not None
    canceled = await acme.gateway.client.delete(f"{acme.base}/{made['id']}")
    assert canceled.status_code == 200
    with pytest.raises(ConflictError):
        await queue.journal(claim, [BOB], clock())


async def test_processes_that_were_killed_long_ago_are_forgotten(acme: Office) -> None:
    core, clock = acme.gateway.core, acme.gateway.clock
    await core.send_queue.enter("dead", LEASE, clock())
    clock.forward(2 * DAY)
    await core.send_queue.enter("alive", LEASE, clock())
    await core.send_queue.forget_ended(clock())
    async with core.db.read() as conn:
        names = (await conn.execute(select(leases.c.name).where(leases.c.name.startswith(SENDER)))).scalars().all()
    assert names == [SENDER + "alive"]


async def test_two_processes_send_each_message_once(acme: Office) -> None:
    ids = [(await acme.submit(subject=str(n)))["id"] for n in range(4)]
    other = acme.process("process-2")
    for _ in range(4):
        await acme.sender.work()
        await other.work()
        await acme.sender.idle()
        await other.idle()
    assert [(await acme.get(id_))["state"] for id_ in ids] == ["sent"] * 4
    assert len(acme.server.received) == 4


async def test_a_refused_login_is_not_tried_again_before_the_settings_change(acme: Office) -> None:
    acme.server.users.clear()
    first = await acme.send()
    second = await acme.submit()
    assert (first["state"], first["code"]) == ("queued", "auth_failed")
    acme.gateway.clock.forward(30 * MINUTE)
    await acme.work()
    assert acme.server.connections == 1
    acme.server.users["ann@acme.example"] = "hunter2-smtp"
    changed = await acme.gateway.client.patch(
        f"/v1/tenants/acme/mailboxes/{acme.mailbox_id}", json={"smtp": smtp_settings(acme.server.port)}
    )
    assert changed.status_code == 200
    await acme.work()
    await acme.work()
    assert (await acme.get(first["id"]))["state"] == "sent"
    assert (await acme.get(second["id"]))["state"] == "sent"


async def test_what_waits_is_given_up(acme: Office) -> None:
    acme.server.script["rcpt"] = ["450 4.2.1 busy"]
    made = await acme.send()
    for _ in range(40):
        acme.gateway.clock.forward(HOUR + 15 * MINUTE)
        await acme.work()
    after = await acme.get(made["id"])
    assert (after["state"], after["recipients"][0]["code"]) == ("failed", "4.2.1")


async def test_a_removed_mailbox_sends_nothing_more(acme: Office) -> None:
    made = await acme.submit()
    await acme.gateway.client.delete(f"/v1/tenants/acme/mailboxes/{acme.mailbox_id}")
    await acme.work()
    after = await acme.get(made["id"])
    assert (after["state"], after["code"]) == ("failed", "mailbox_removed")
    assert acme.server.connections == 0


async def test_bytes_that_nobody_asked_for_again_are_forgotten(acme: Office) -> None:
    acme.server.script["content"] = [DROP]
    made = await acme.send()
    core, clock = acme.gateway.core, acme.gateway.clock
    clock.forward(UNSENT_BYTES_KEPT + 2 * DAY)
    await prune(core.db, clock(), longest_days=90, idempotency_hours=24)
    again = await acme.gateway.client.post(f"{acme.base}/{made['id']}/retry")
    assert (again.status_code, again.json()["type"]) == (409, "not_retryable")
    clock.forward(100 * DAY)
    pruned = await prune(core.db, clock(), longest_days=90, idempotency_hours=24)
    assert pruned.submissions == 1


async def test_who_got_a_message_is_forgotten_with_its_copy(acme: Office) -> None:
    made = await acme.send()
    core, clock = acme.gateway.core, acme.gateway.clock
    clock.forward(91 * DAY)
    await core.retention.request_run(actor=SCHEDULE, trigger="schedule")
    await core.retention.work()
    found = await acme.get(made["id"])
    assert (found["recipients"], found["last_response"], found["rfc_message_id"]) == (None, None, None)
    await acme.work()  # nothing of it waits to be filed any more
    await prune(core.db, clock(), longest_days=90, idempotency_hours=24)
    gone = await acme.gateway.client.get(f"{acme.base}/{made['id']}")
    assert gone.status_code == 404


async def test_no_secret_and_no_address_is_logged(acme: Office, log: io.StringIO) -> None:
    acme.server.script["rcpt"] = ["550 5.1.1 nobody"]
    await acme.send()
    written = "".join(line for line in log.getvalue().splitlines() if '"mail.log"' not in line)  # the double's own
    assert "attempted" in written
    assert "hunter2" not in written
    assert BOB not in written


async def test_a_process_that_is_told_to_stop_gives_back_what_it_did_not_send(acme: Office) -> None:
    acme.server.script["mail"] = [HANG]
    made = await acme.submit()
    other = acme.process("process-2")
    await other.work()
    await other.stop()
    row = await acme.row(made["id"])
    assert (row.state, row.claimed_by, row.attempts) == ("queued", None, 0)
    del acme.server.script["mail"]
    acme.gateway.clock.forward(SECOND)
    await acme.work()
    assert (await acme.get(made["id"]))["state"] == "sent"
