"""A backfill brings older mail, and mail that was purged, back; nothing else does (S2, R11)."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from sqlalchemy import select, update

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount
from mailgate.actors import SYSTEM, Actor
from mailgate.clock import DAY
from mailgate.errors import ConflictError, PreconditionError
from mailgate.store import runs
from mailgate.store.expiry import Expiry
from mailgate.store.runs import RunRecord
from mailgate.store.schema import log_leaves, tombstones
from mailgate.store.wishes.backfill import Backfills
from mailgate.store.wishes.locks import Locks
from mailgate.sync.state import MailboxState
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from retention.ledger.schema import parse_leaf
from retention.model import Graces
from retention.policy import ClockLimits
from tests.sync.engine import NOW, Engine, mail

USER = Actor("token", "T1")
AGES = (50, 29, 28, 1)
"""Days of age of mails 0 to 3, when the mailbox was connected on a plan of 30 days."""


class Filled:
    """An engine and what a backfill of it is asked by; `ids`: of the mails that it had, by number."""

    def __init__(self, engine: Engine, account: MemoryAccount, ids: dict[int, str]) -> None:
        self.engine, self.account, self.ids = engine, account, ids
        locks = Locks(engine.subscriptions, Expiry(engine.subscriptions, Graces()), ClockLimits(), engine.log)
        self.backfills = Backfills(engine.db, locks)

    async def ask(self, days: int = 90) -> str:
        engine = self.engine
        return await self.backfills.ask(engine.tenant_id, engine.mailbox_id, days, engine.clock(), USER)

    async def sync(self) -> None:
        self.engine.clock.advance(600)
        await self.engine.sync()

    async def run(self, run_id: str) -> RunRecord:
        return await runs.get(self.engine.db, run_id)

    async def here(self) -> dict[int, str]:
        """The copies by number of their mail."""
        found = {}
        for row in await self.engine.rows("messages"):
            raw = await self.engine.raw(row)
            found[next(n for n in range(100) if mail(n) == raw)] = row.id
        return found

    async def returned(self) -> list[dict[str, Any]]:
        """The log's rehydrate entries; the log is replayed first."""
        async with self.engine.db.read() as conn:
            bodies = list((await conn.execute(select(log_leaves.c.body).order_by(log_leaves.c.idx))).scalars())
        report = replay_leaves(bodies)
        assert report.verdict is Verdict.OK, report.lines()
        return [leaf for leaf in map(parse_leaf, bodies) if leaf["type"] == "rehydrate"]


@pytest.fixture
async def filled(engine: Engine, account: MemoryAccount) -> Filled:
    """Mail 0 is older than the plan was and never came; 1 and 2 were purged; 3 is young. Now the plan has 90 days."""
    await engine.plan("crm_plus")
    account.create_folder("Archive")
    for n, days in enumerate(AGES):
        account.append("INBOX", mail(n), internal_date=NOW - days * DAY)
    await engine.sync()
    filled = Filled(engine, account, {})
    filled.ids = await filled.here()
    assert sorted(filled.ids) == [1, 2, 3]
    engine.clock.advance(5 * 86_400)
    await engine.purge()
    await engine.plan("professional")
    await filled.sync()
    assert sorted(await filled.here()) == [3]
    return filled


async def test_it_brings_older_and_purged_mail_back(filled: Filled) -> None:
    engine = filled.engine
    run_id = await filled.ask()
    assert (await filled.run(run_id)).state == runs.QUEUED
    before = len(await engine.events())
    await filled.sync()
    here = await filled.here()
    assert sorted(here) == [0, 1, 2, 3]
    assert {n: here[n] for n in (1, 2, 3)} == filled.ids, "they are the same messages"
    assert await engine.near() == engine.far()
    assert await engine.rows("tombstones") == []
    told = (await engine.events())[before:]
    created = [event for event in told if event.type == "message.created"]
    assert [(event.message_id, event.payload.get("initial")) for event in created] == [(here[0], True)]
    back = [event for event in told if event.type == "message.rehydrated"]
    assert sorted(event.message_id for event in back) == sorted([here[1], here[2]])
    assert all(event.payload["initial"] for event in back)
    rows = {row.id: row for row in await engine.rows("messages")}
    for n in (1, 2):
        row = rows[here[n]]
        assert (row.anchor_at, row.anchor_source, row.keep_until_at) == (NOW - AGES[n] * DAY, "internaldate", None)
    assert all(event.payload["expires_at"] == rows[event.message_id].anchor_at + 90 * DAY for event in back)
    leaves = await filled.returned()
    assert sorted(leaf["item_ref"] for leaf in leaves) == sorted(rows[here[n]].item_ref for n in (1, 2))
    assert {leaf["actor"]["ref"] for leaf in leaves} == {"T1"}
    run = await filled.run(run_id)
    assert (run.state, run.days, str(run.actor)) == (runs.COMPLETED, 90, "token:T1")
    assert dict(run.counts) == {"new": 1, "rehydrated": 2}
    (asked,) = await engine.events("mailbox.backfill_requested")
    assert (asked.payload["days"], asked.payload["run_id"]) == (90, run_id)
    (box,) = await engine.rows("mailboxes")
    assert (box.backfill_id, box.progress_done, box.progress_total) == (None, 4, 4)
    assert len(await engine.events("mailbox.import_finished")) == 1, "a backfill is no first import"
    (finished,) = await engine.events("mailbox.backfill_finished")
    assert finished.payload == {"run_id": run_id, "state": "completed", "new": 1, "rehydrated": 2}
    states = [event.payload["state"] for event in told if event.type == "mailbox.state_changed"]
    assert MailboxState.IMPORTING in states


async def test_it_reaches_as_far_as_was_asked(filled: Filled) -> None:
    await filled.ask(34)  # five days later: mail 1 is 34 days old and some seconds
    await filled.sync()
    assert sorted(await filled.here()) == [2, 3]


async def test_what_a_user_deleted_stays_away(filled: Filled) -> None:
    async with filled.engine.db.write() as tx:
        mine = update(tombstones).where(tombstones.c.message_id == filled.ids[1])
        await tx.conn.execute(mine.values(reason="user_deleted"))
    await filled.ask()
    await filled.sync()
    assert sorted(await filled.here()) == [0, 2, 3]


async def test_what_came_back_goes_by_its_age_and_stays_away_again(filled: Filled) -> None:
    await filled.ask()
    await filled.sync()
    await filled.engine.plan("crm_plus")
    await filled.engine.purge()
    assert sorted(await filled.here()) == [3]
    await filled.engine.plan("professional")
    await filled.sync()
    assert sorted(await filled.here()) == [3]
    assert len(await filled.returned()) == 2


@pytest.mark.parametrize("change", ["moved", "renumbered", "renamed", "moved and renumbered"])
async def test_it_finds_what_was_moved_or_renumbered(filled: Filled, change: str) -> None:
    account = filled.account
    if change.startswith("moved"):
        account.move("INBOX", 2, "Archive")
    if change == "renamed":
        account.move("INBOX", 2, "Archive")
        await filled.sync()
        account.rename_folder("Archive", "Old")
    if change.endswith("renumbered"):
        account.change_uidvalidity("INBOX")
        account.change_uidvalidity("Archive")
    await filled.ask()
    await filled.sync()
    await filled.sync()
    here = await filled.here()
    assert {n: here[n] for n in (1, 2, 3)} == filled.ids
    assert await filled.engine.near() == filled.engine.far()
    assert len(await filled.engine.events("message.created")) == 4


async def test_equal_messages_come_back_as_many_as_there_are(engine: Engine, account: MemoryAccount) -> None:
    await engine.plan("crm_plus")
    for _ in range(3):
        account.append("INBOX", mail(1), internal_date=NOW - 29 * DAY)
    await engine.sync()
    ids = {row.id for row in await engine.rows("messages")}
    engine.clock.advance(5 * 86_400)
    await engine.purge()
    await engine.plan("professional")
    account.change_uidvalidity("INBOX")
    account.expunge("INBOX", 1)
    filled = Filled(engine, account, {})
    await filled.ask()
    await filled.sync()
    back = {row.id for row in await engine.rows("messages")}
    assert len(back) == 2
    assert back < ids


async def test_cut_anywhere_it_goes_on_and_ends_in_the_same_state(filled: Filled) -> None:
    filled.account.move("INBOX", 2, "Archive")
    run_id = await filled.ask()
    for steps in range(50):
        filled.account.faults.cut_after = steps
        with contextlib.suppress(NetworkError):
            await filled.sync()
    filled.account.faults.cut_after = None
    await filled.sync()
    here = await filled.here()
    assert {n: here[n] for n in (1, 2, 3)} == filled.ids
    assert await filled.engine.near() == filled.engine.far()
    assert len(await filled.returned()) == 2
    assert len(await filled.engine.events("message.created")) == 4
    assert dict((await filled.run(run_id)).counts) == {"new": 1, "rehydrated": 2}


async def test_nothing_comes_back_without_one(filled: Filled) -> None:
    """A longer plan, a new number, another name: what was purged stays away, and older mail too."""
    account, engine = filled.account, filled.engine
    account.change_uidvalidity("INBOX")
    await filled.sync()
    account.move("INBOX", 2, "Archive")
    await filled.sync()
    account.rename_folder("Archive", "Old")
    await filled.sync()
    await engine.plan("free")
    await engine.plan("professional")
    await filled.sync()
    assert sorted(await filled.here()) == [3]
    assert await filled.returned() == []


async def test_a_plan_that_ends_ends_it(filled: Filled) -> None:
    """What was asked for under one plan does not come back by itself under a later one."""
    engine = filled.engine
    run_id = await filled.ask()
    await engine.plan("free")
    state = MailboxState.NOT_ENTITLED
    await engine.store.set_state(engine.mailbox_id, state, "plan free has no synchronization", engine.clock())
    await engine.plan("professional")
    await filled.sync()
    assert sorted(await filled.here()) == [3]
    assert (await filled.run(run_id)).state == runs.FAILED


async def test_a_removed_mailbox_ends_it(filled: Filled) -> None:
    engine = filled.engine
    run_id = await filled.ask()
    await engine.mailboxes.remove(engine.tenant_id, engine.mailbox_id, engine.clock(), SYSTEM)
    assert (await filled.run(run_id)).detail == "the mailbox was removed"


async def test_asking_again(filled: Filled) -> None:
    run_id = await filled.ask(60)
    assert await filled.ask(60) == run_id
    assert await filled.ask(30) == run_id
    with pytest.raises(ConflictError) as busy:
        await filled.ask(90)
    assert busy.value.slug == "backfill_running"
    await filled.sync()
    assert await filled.ask(60) != run_id


async def test_refusals(filled: Filled) -> None:
    engine = filled.engine

    async def slug(days: int = 30) -> str:
        with pytest.raises((ConflictError, PreconditionError)) as refused:
            await filled.ask(days)
        return refused.value.slug

    with pytest.raises(PreconditionError, match="ask for 1 to 90"):
        await filled.ask(91)
    await engine.enable(False)
    assert await slug() == "mailbox_disabled"
    await engine.enable(True)
    await engine.plan("free")
    assert await slug() == "not_entitled"
    await engine.mailboxes.remove(engine.tenant_id, engine.mailbox_id, engine.clock(), SYSTEM)
    assert await slug() == "mailbox_removed"
