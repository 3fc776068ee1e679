"""What was sent is one message: here at once, in Sent at the server once, whoever put it there; and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from typing import Any

import pytest

from connectors.memory import MemoryAccount
from connectors.model import SpecialUse
from mailgate.actors import SYSTEM
from mailgate.clock import DAY, HOUR, MINUTE, SECOND, Instant
from mailgate.store import tenants
from mailgate.store.expiry import Expiry
from mailgate.store.mailboxes import MailboxPatch
from mailgate.store.pins import Pins
from mailgate.store.reading import MessageReader
from mailgate.store.sending.accept import LetterRequest, Submissions, Wish
from mailgate.store.sending.allowance import CountedAllowance
from mailgate.store.sending.filing import Filing
from mailgate.store.sending.queue import Claim, SendQueue
from mailgate.store.sending.records import Submission
from mailgate.store.wishes.locks import Locks
from mailgate.submissions.compose import File
from mailgate.submissions.decide import Answer, Outcome
from mailgate.submissions.model import RecipientState, SubmissionState
from retention.model import AnchorFrom, Graces
from retention.policy import ClockLimits
from tests.sync.engine import NOW, Engine, mail

WAIT: Instant = 3 * MINUTE
SMTP = {"host": "smtp.example.com", "port": 465, "security": "tls", "username": "bob"}
FILES = (File("a.pdf", "application/pdf", b"%PDF-1.7"),)


@dataclass
class Desk:
    """Sends for the engine's mailbox; the server takes everything."""

    engine: Engine
    submissions: Submissions
    queue: SendQueue

    @classmethod
    async def at(cls, engine: Engine) -> Desk:
        limits = ClockLimits(max_backward=HOUR, max_forward=1_000 * DAY)
        expiry = Expiry(engine.subscriptions, Graces())
        pins = Pins(engine.db, engine.ring, engine.log, expiry)
        locks = Locks(engine.subscriptions, expiry, limits, engine.log)
        reader = MessageReader(
            engine.db,
            engine.ring,
            engine.blobs,
            expiry,
            pins,
            clock_limits=limits,
            parse_bytes=1 << 20,
            parses_at_once=1,
        )
        allowance = CountedAllowance()
        submissions = Submissions(
            engine.db,
            engine.ring,
            engine.blobs,
            locks,
            reader,
            allowance,
            max_bytes=1 << 20,
            max_recipients=10,
            give_up=DAY,
            anchor_from=AnchorFrom.RECEIVED,
            at_once=1,
        )
        queue = SendQueue(engine.db, engine.ring, locks, Filing(expiry, pins, AnchorFrom.RECEIVED), allowance)
        patch = MailboxPatch(smtp=SMTP, secrets={"smtp": {"password": "secret"}})
        await engine.mailboxes.update(engine.tenant_id, engine.mailbox_id, patch, engine.clock(), SYSTEM)
        return cls(engine, submissions, queue)

    async def send(self, *, wait: Instant = 0, to: str = "cy@example.com") -> Submission:
        """A letter that the server takes; for `wait` it may file it by itself."""
        return await self.answered(await self.hand_over(to=to), wait=wait)

    async def hand_over(self, *, to: str = "cy@example.com", parent_id: str | None = None) -> Claim:
        """A letter that the server has to its last byte."""
        engine = self.engine
        tenant = await tenants.get(engine.db, engine.tenant_id)
        letter = LetterRequest(to=(("Cy", to),), subject="Offer", text="Dear Cy", html="<p>Dear Cy</p>", files=FILES)
        wish = Wish(engine.mailbox_id, parent_id=parent_id, pin_to_parent=parent_id is not None)
        made = await self.submissions.send_letter(tenant, wish, letter, engine.clock(), SYSTEM)
        await self.queue.enter("p", HOUR, engine.clock())
        claim = await self.queue.claim("p", made.id, engine.tenant_id, engine.mailbox_id, engine.clock())
        assert claim is not None
        await self.queue.journal(claim, [to], engine.clock())
        return claim

    async def answered(self, claim: Claim, *, wait: Instant = 0) -> Submission:
        """The server says that it took it."""
        outcome = Outcome({recipient.address: None for recipient in claim.envelope.recipients})
        await self.queue.finish(claim, outcome, "250 ok", self.engine.clock(), wait)
        return await self.look(claim.id)

    async def unanswered(self, claim: Claim) -> Submission:
        """The answer is lost."""
        lost = Answer("no_answer", "the line was closed")
        outcome = Outcome({recipient.address: None for recipient in claim.envelope.recipients}, lost, unknown=True)
        await self.queue.finish(claim, outcome, None, self.engine.clock(), 0)
        return await self.look(claim.id)

    async def look(self, submission_id: str) -> Submission:
        tenant = await tenants.get(self.engine.db, self.engine.tenant_id)
        return await self.submissions.get(tenant, self.engine.mailbox_id, submission_id)

    async def told(self, type_: str) -> list[tuple[str | None, dict[str, Any]]]:
        """What the feed says of submissions: copies and payloads."""
        events = await self.engine.rows("events", lambda c: c.type == type_)
        return [(event.message_id, event.payload) for event in events]

    async def raw(self, sent: Submission) -> bytes:
        """The bytes of the copy."""
        (row,) = await self.engine.rows("messages", lambda c: c.id == sent.message_id)
        found: bytes = await self.engine.raw(row)
        return found

    async def pass_(self, seconds: float = 600) -> None:
        """Time passes, copies are filed, the mailbox is looked at."""
        self.engine.clock.advance(seconds)
        self.engine.account.now = self.engine.clock.now
        await self.queue.file_due(self.engine.clock())
        await self.engine.sync()
        await self.queue.resolve(self.engine.clock())


@pytest.fixture
def account() -> MemoryAccount:
    account = MemoryAccount(now=NOW)
    account.create_folder("Sent", special_use=SpecialUse.SENT)
    return account


@pytest.fixture
async def desk(engine: Engine) -> Desk:
    await engine.sync()
    return await Desk.at(engine)


async def only(engine: Engine, table: str = "messages") -> Any:
    (row,) = await engine.rows(table)
    return row


def rewritten(raw: bytes, message_id: str | None = None) -> bytes:
    """As a server files it: headers of its own, perhaps another Message-ID, another text."""
    message = message_from_bytes(raw, policy=default)
    message["X-Server"] = "1"
    if message_id is not None:
        del message["Message-ID"]
        message["Message-ID"] = message_id
    return message.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


async def test_a_copy_is_brought_to_sent(desk: Desk, engine: Engine, account: MemoryAccount) -> None:
    sent = await desk.send()
    row = await only(engine)
    assert (row.id, row.flags, row.seen) == (sent.message_id, ["\\Seen"], True)
    await desk.pass_()
    await desk.pass_()
    assert (await only(engine)).id == sent.message_id
    assert (await only(engine, "origins")).message_id == sent.message_id
    (stored,) = account.folders["Sent"].messages.values()
    assert stored.raw == await desk.raw(sent)
    created = await engine.rows("events", lambda c: c.type == "message.created")
    assert len(created) == 1


@pytest.mark.parametrize("how", ["same", "headers", "message_id"])
async def test_what_the_server_files_itself_is_the_same_message(
    desk: Desk, engine: Engine, account: MemoryAccount, how: str
) -> None:
    sent = await desk.send(wait=WAIT)
    raw = await desk.raw(sent)
    filed = {"same": raw, "headers": rewritten(raw), "message_id": rewritten(raw, "<x@exchange.example>")}[how]
    engine.clock.advance(30)
    account.append("Sent", filed, internal_date=engine.clock.now - engine.clock.now % SECOND, flags=["\\Seen"])
    await desk.pass_(10)
    await desk.pass_()
    row = await only(engine)
    assert row.id == sent.message_id
    assert await engine.raw(row) == filed
    assert len(account.folders["Sent"].messages) == 1
    assert (await only(engine, "origins")).message_id == sent.message_id
    assert len(await engine.rows("events", lambda c: c.type == "message.created")) == 1


async def test_what_the_server_does_not_file_in_time_is_brought_there(
    desk: Desk, engine: Engine, account: MemoryAccount
) -> None:
    sent = await desk.send(wait=WAIT)
    await desk.pass_(60)
    assert not account.folders["Sent"].messages
    await desk.pass_()
    assert len(account.folders["Sent"].messages) == 1
    await desk.pass_()
    assert (await only(engine)).id == sent.message_id


async def test_two_letters_that_are_alike_are_two(desk: Desk, engine: Engine, account: MemoryAccount) -> None:
    first, second = await desk.send(wait=WAIT), await desk.send(wait=WAIT)
    for n, sent in enumerate((first, second)):
        filed = rewritten(await desk.raw(sent), f"<{n}@exchange.example>")
        account.append("Sent", filed, internal_date=engine.clock.now - engine.clock.now % SECOND)
    await desk.pass_(10)
    assert {row.id for row in await engine.rows("messages")} == {first.message_id, second.message_id}


async def test_likeness_is_believed_for_ten_minutes_only(desk: Desk, engine: Engine, account: MemoryAccount) -> None:
    sent = await desk.send(wait=HOUR)
    filed = rewritten(await desk.raw(sent), "<x@exchange.example>")
    account.append("Sent", filed, internal_date=NOW - 11 * MINUTE)
    await desk.pass_(10)
    assert len(await engine.rows("messages")) == 2


async def test_a_letter_to_oneself_is_two_messages(desk: Desk, engine: Engine, account: MemoryAccount) -> None:
    sent = await desk.send(wait=WAIT, to="bob@example.com")
    account.append("INBOX", rewritten(await desk.raw(sent)), internal_date=NOW)
    await desk.pass_(10)
    assert len(await engine.rows("messages")) == 2


async def test_an_account_without_sent_gets_one(engine: Engine, account: MemoryAccount) -> None:
    account.delete_folder("Sent")
    await engine.sync()
    desk = await Desk.at(engine)
    sent = await desk.send()
    await desk.pass_()
    assert len(account.folders["Sent"].messages) == 1
    assert (await only(engine)).id == sent.message_id


async def test_before_the_folders_are_known_a_copy_waits(engine: Engine, account: MemoryAccount) -> None:
    desk = await Desk.at(engine)
    sent = await desk.send()
    assert (await only(engine)).moving_to is None
    await engine.sync()
    await desk.pass_()
    assert len(account.folders["Sent"].messages) == 1
    assert (await only(engine)).id == sent.message_id


REPORT = (
    "From: mailer-daemon@example.com\r\nTo: bob@example.com\r\nSubject: Undelivered\r\nMIME-Version: 1.0\r\n"
    'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
    "--b\r\nContent-Type: text/plain\r\n\r\nsorry\r\n"
    "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; example.com\r\n\r\n"
    "Final-Recipient: rfc822; CY@example.com\r\nAction: {action}\r\nStatus: 5.1.1\r\n"
    "Diagnostic-Code: smtp; 550 no such user\r\n\r\n"
    "--b\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: {message_id}\r\nSubject: Offer\r\n\r\n--b--\r\n"
)


@pytest.mark.parametrize(
    ("action", "state"), [("failed", RecipientState.BOUNCED), ("delayed", RecipientState.ACCEPTED)]
)
async def test_a_report_marks_who_did_not_get_it(
    desk: Desk, engine: Engine, account: MemoryAccount, action: str, state: RecipientState
) -> None:
    sent = await desk.send()
    assert sent.envelope is not None
    report = REPORT.format(action=action, message_id=sent.envelope.rfc_message_id)
    account.append("INBOX", report.encode(), internal_date=NOW)
    await desk.pass_()
    after = await desk.look(sent.id)
    assert after.state is SubmissionState.SENT
    assert after.envelope is not None
    assert after.envelope.recipients[0].state is state
    told = await engine.rows("events", lambda c: c.type == "message.bounced")
    assert [event.payload["submission_id"] for event in told] == ([sent.id] if action == "failed" else [])


async def test_an_answer_names_what_it_answers(desk: Desk, engine: Engine, account: MemoryAccount) -> None:
    sent = await desk.send()
    assert sent.envelope is not None
    extra = f"In-Reply-To: {sent.envelope.rfc_message_id}\r\n"
    account.append("INBOX", mail(7, extra=extra), internal_date=NOW)
    account.append("INBOX", mail(8, extra="In-Reply-To: <else@where.example>\r\n"), internal_date=NOW)
    await desk.pass_()
    created = await engine.rows("events", lambda c: c.type == "message.created")
    named = [event.payload for event in created if "reply_to_submission_id" in event.payload]
    assert [(p["reply_to_submission_id"], p["in_reply_to_message_id"]) for p in named] == [(sent.id, sent.message_id)]


@pytest.mark.parametrize("filed_as", [None, "<x@exchange.example>"])
async def test_an_answer_to_mail_without_a_message_id_is_in_its_thread(
    desk: Desk, engine: Engine, account: MemoryAccount, filed_as: str | None
) -> None:
    lines = mail(3).split(b"\r\n")
    account.append(
        "INBOX", b"\r\n".join(line for line in lines if not line.lower().startswith(b"message-id")), internal_date=NOW
    )
    await desk.pass_()
    parent = await only(engine)
    claim = await desk.hand_over(parent_id=parent.id)
    sent = await desk.answered(claim, wait=WAIT if filed_as else 0)
    if filed_as is not None:
        raw = rewritten(await desk.raw(sent), filed_as)
        account.append("Sent", raw, internal_date=engine.clock.now - engine.clock.now % SECOND)
    await desk.pass_(10)
    answer = filed_as or claim.envelope.rfc_message_id
    account.append("INBOX", mail(7, extra=f"In-Reply-To: {answer}\r\n"), internal_date=NOW)
    await desk.pass_()
    rows = await engine.rows("messages")
    assert len(rows) == 3
    assert len({row.thread_id for row in rows}) == 1
