"""What was handed over and never answered: believed to be sent when something turns up that only a message that was
taken brings about, and never sent again by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import update

from connectors.memory import MemoryAccount
from connectors.model import SpecialUse
from mailgate.clock import HOUR, SECOND
from mailgate.errors import ConflictError
from mailgate.store import tenants
from mailgate.store.check import doctor
from mailgate.store.schema import tenants as tenants_table
from mailgate.store.sending.accept import Wish
from mailgate.store.sending.queue import Claim
from mailgate.store.sync import SqlSyncStore
from mailgate.store.transaction import Transaction
from mailgate.submissions.model import RecipientState, SubmissionState
from tests.sync.engine import NOW, Engine, mail
from tests.sync.test_sent_copies import REPORT, Desk, only

SENT, UNCERTAIN = SubmissionState.SENT, SubmissionState.UNCERTAIN


@pytest.fixture
def account() -> MemoryAccount:
    account = MemoryAccount(now=NOW)
    account.create_folder("Sent", special_use=SpecialUse.SENT)
    return account


@pytest.fixture
async def desk(engine: Engine) -> AsyncIterator[Desk]:
    await engine.sync()
    yield await Desk.at(engine)
    report = await doctor(engine.db, engine.blobs, engine.ring)
    assert report.healthy, report.findings


def filed(engine: Engine, account: MemoryAccount, claim: Claim, folder: str = "Sent") -> None:
    """The server files what was handed over."""
    raw = mail(1, message_id=claim.envelope.rfc_message_id.strip("<>"))
    account.append(folder, raw, internal_date=engine.clock.now - engine.clock.now % SECOND)


async def test_its_copy_in_sent_settles_it(desk: Desk, engine: Engine, account: MemoryAccount) -> None:
    account.append("INBOX", mail(5), internal_date=NOW)
    await desk.pass_()
    parent = await only(engine)
    await engine.pin(parent.id)
    claim = await desk.hand_over(parent_id=parent.id)
    assert (await desk.unanswered(claim)).state is UNCERTAIN
    await desk.pass_()
    assert (await desk.look(claim.id)).state is UNCERTAIN
    filed(engine, account, claim)
    await desk.pass_()
    after = await desk.look(claim.id)
    (copy,) = await engine.rows("messages", lambda c: c.id != parent.id)
    assert (after.state, after.message_id, after.code) == (SENT, copy.id, None)
    assert after.envelope is not None
    assert [item.state for item in after.envelope.recipients] == [RecipientState.ACCEPTED]
    counts = {"accepted": 1, "refused": 0, "waiting": 0}
    assert await desk.told("message.sent") == [(copy.id, {"submission_id": claim.id, **counts})]
    assert copy.pins == 1
    for _ in range(3):
        await desk.pass_(HOUR // SECOND)
    assert len(account.folders["Sent"].messages) == 1
    assert len(await engine.rows("messages")) == 2
    assert not await desk.queue.due(engine.clock(), 10)


async def test_what_was_filed_before_the_answer_came_is_the_copy(
    desk: Desk, engine: Engine, account: MemoryAccount
) -> None:
    claim = await desk.hand_over()
    filed(engine, account, claim)
    await desk.pass_(1)
    copy = await only(engine)
    sent = await desk.answered(claim, wait=3 * SECOND)
    assert (sent.state, sent.message_id) == (SENT, copy.id)
    await desk.pass_()
    await desk.pass_()
    assert (await only(engine)).id == copy.id
    assert len(account.folders["Sent"].messages) == 1


async def test_an_answer_to_it_settles_it(desk: Desk, engine: Engine, account: MemoryAccount) -> None:
    claim = await desk.hand_over()
    await desk.unanswered(claim)
    extra = f"In-Reply-To: {claim.envelope.rfc_message_id}\r\n"
    account.append("INBOX", mail(7, extra=extra), internal_date=NOW)
    await desk.pass_()
    after = await desk.look(claim.id)
    assert after.state is SENT
    (answer,) = await engine.rows("messages", lambda c: c.id != after.message_id)
    (copy,) = await engine.rows("messages", lambda c: c.id == after.message_id)
    assert copy.thread_id == answer.thread_id
    told = dict(await desk.told("message.created"))
    assert told[answer.id]["reply_to_submission_id"] == claim.id
    await desk.pass_()
    await desk.pass_()
    assert len(account.folders["Sent"].messages) == 1


async def test_a_report_that_it_was_returned_settles_it(desk: Desk, engine: Engine, account: MemoryAccount) -> None:
    claim = await desk.hand_over()
    await desk.unanswered(claim)
    report = REPORT.format(action="failed", message_id=claim.envelope.rfc_message_id)
    account.append("INBOX", report.encode(), internal_date=NOW)
    await desk.pass_()
    after = await desk.look(claim.id)
    assert (after.state, after.code) == (SENT, None)
    assert after.envelope is not None
    assert [item.state for item in after.envelope.recipients] == [RecipientState.BOUNCED]
    ((message_id, said),) = await desk.told("message.bounced")
    assert (message_id, said["submission_id"]) == (None, claim.id)
    assert [id_ for id_, _ in await desk.told("message.sent")] == [after.message_id]


async def test_the_same_message_elsewhere_or_earlier_says_nothing(
    desk: Desk, engine: Engine, account: MemoryAccount
) -> None:
    first = await desk.hand_over()
    await desk.unanswered(first)
    account.create_folder("Project")
    filed(engine, account, first, "Project")
    await desk.pass_()
    assert (await desk.look(first.id)).state is UNCERTAIN
    other = await desk.send()
    await desk.pass_()
    assert other.state is SENT
    assert (await desk.look(first.id)).state is UNCERTAIN


async def test_what_was_filed_in_the_moment_of_the_answer_is_filed_once(
    desk: Desk, engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = await desk.hand_over()
    filed(engine, account, claim)

    async def none_yet(*_: object) -> bool:
        await desk.answered(claim, wait=3 * SECOND)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(SqlSyncStore, "sent_unfiled", none_yet)
        await engine.sync()
    assert len(await engine.rows("messages")) == 2
    await desk.pass_()
    await desk.pass_()
    assert len(account.folders["Sent"].messages) == 1


async def test_what_is_in_sent_by_now_is_not_sent_again(desk: Desk, engine: Engine, account: MemoryAccount) -> None:
    claim = await desk.hand_over()
    await desk.unanswered(claim)
    filed(engine, account, claim)
    engine.clock.advance(1)
    await engine.sync()  # nobody has looked at what is uncertain since
    tenant = await tenants.get(engine.db, engine.tenant_id)
    with pytest.raises(ConflictError, match="was sent"):
        await desk.submissions.retry(tenant, Wish(engine.mailbox_id), claim.id, engine.clock())
    await desk.pass_(1)
    assert (await desk.look(claim.id)).state is SENT


async def test_a_tenant_that_is_being_erased_holds_up_no_other(
    desk: Desk, engine: Engine, account: MemoryAccount
) -> None:
    claim = await desk.hand_over()
    await desk.unanswered(claim)
    filed(engine, account, claim)
    engine.clock.advance(1)
    await engine.sync()

    async def erasing(at: int | None) -> None:
        async def work(tx: Transaction) -> None:
            await tx.conn.execute(update(tenants_table).values(erasing_at=at))

        await engine.db.transact(work)

    await erasing(engine.clock())
    await desk.queue.resolve(engine.clock())
    assert await desk.told("message.sent") == []
    await erasing(None)
    await desk.queue.resolve(engine.clock())
    assert len(await desk.told("message.sent")) == 1
