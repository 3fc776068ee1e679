"""Sending, killed with kill -9 at every step: what was not handed over is sent by the next process, what may have been
is uncertain, and the server never gets anything twice unless somebody asks for it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import func, select

from mailgate.actors import SYSTEM
from mailgate.app.core import Core
from mailgate.settings import DatabaseSettings, Settings
from mailgate.store import tenants
from mailgate.store.check import doctor
from mailgate.store.mailboxes import MailboxSpec
from mailgate.store.schema import messages
from mailgate.store.sending.accept import LetterRequest, Wish
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.submissions.model import SubmissionState
from tests.crash.send_process import STEPS
from tests.forks import fork
from tests.smtpserver import SmtpServer, recipients_of

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

SENT, UNCERTAIN = SubmissionState.SENT, SubmissionState.UNCERTAIN
OUTCOMES = {
    "claimed": (SENT, 1),
    "offered": (SENT, 1),
    "journalled": (UNCERTAIN, 0),
    "ended": (UNCERTAIN, 1),
    "answered": (UNCERTAIN, 1),
    "written": (SENT, 1),
}
"""What the next process finds: the state, and how many messages the server has."""


async def child(url: str, folder: Path, step: str) -> int:
    """A process that sends; how it ended."""
    process = fork("tests.crash.send_process", url=url, folder=str(folder), step=step)
    await asyncio.to_thread(process.communicate)
    return process.wait()


def test_every_step_has_an_outcome() -> None:
    assert set(OUTCOMES) == set(STEPS)


@pytest.mark.parametrize("step", STEPS)
async def test_a_killed_process_sends_nothing_twice(database_url: str, tmp_path: Path, step: str) -> None:
    server = await SmtpServer().start()
    core = await Core.open(Settings(data_dir=tmp_path, database=DatabaseSettings(url=database_url)))
    now = core.clock()
    tenant, _ = await tenants.put(core.db, core.ring, core.log, "acme", "Acme", now, SYSTEM)
    await core.subscriptions.set_outright("acme", SubscriptionChange("standard"), now, SYSTEM)
    imap = {"host": "imap.acme.example", "port": 993, "security": "tls", "username": "ann"}
    smtp = {"host": "127.0.0.1", "port": server.port, "security": "none", "username": "ann@acme.example"}
    secrets = {"imap": {"password": "x"}, "smtp": {"password": "hunter2-smtp"}}
    spec = MailboxSpec("ann@acme.example", imap, secrets, smtp=smtp)
    mailbox = await core.mailboxes.create("acme", spec, now, SYSTEM)
    wish = Wish(mailbox.id)
    letter = LetterRequest(to=(("", "bob@other.example"),), subject="Hi", text="x")
    made = await core.submissions.send_letter(tenant, wish, letter, now, SYSTEM)

    assert await child(database_url, tmp_path, step) == -9
    assert await child(database_url, tmp_path, "") == 0
    found = await core.submissions.get(tenant, mailbox.id, made.id)
    assert (found.state, len(server.received)) == OUTCOMES[step]

    if found.state is UNCERTAIN:
        before = len(server.received)
        assert await child(database_url, tmp_path, "") == 0
        assert len(server.received) == before
        await core.submissions.retry(tenant, wish, made.id, core.clock())
        assert await child(database_url, tmp_path, "") == 0
        found = await core.submissions.get(tenant, mailbox.id, made.id)
        assert (found.state, len(server.received)) == (SENT, before + 1)
    assert set(recipients_of(server.received)) == {"bob@other.example"}
    async with core.db.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(messages))).scalar_one() == 1
    report = await doctor(core.db, core.blobs, core.ring)
    assert report.healthy, report.findings
    await core.close()
    await server.stop()
