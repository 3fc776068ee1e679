"""Bringing purged mail back, killed with kill -9 at every step, from a real Dovecot: each message once, as it was."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from sqlalchemy import select

from mailgate.actors import Actor
from mailgate.clock import DAY
from mailgate.store import operations, runs
from mailgate.store.expiry import Expiry
from mailgate.store.schema import log_leaves
from mailgate.store.wishes.backfill import Backfills
from mailgate.store.wishes.locks import Locks
from mailgate.store.wishes.rehydrate import PinWanted, Rehydrations
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from retention.ledger.schema import parse_leaf
from retention.model import Graces
from retention.policy import ClockLimits
from tests.crash.test_push_crash import begun, ended, filled, near_and_far, start
from tests.dovecot import Account, Dovecot

pytestmark = [pytest.mark.crash, pytest.mark.server, pytest.mark.timeout(600)]

USER = Actor("token", "T1")


async def killed(account: Account, url: str, folder: Path, step: str) -> None:
    code, output, errors = ended(await asyncio.to_thread(start, account, url, folder, step))
    assert code == -signal.SIGKILL, (step, output, errors)


async def test_killed_at_every_step(database_url: str, tmp_path: Path, dovecot: Dovecot) -> None:
    account = filled(dovecot)
    crm = await begun(account, database_url, tmp_path)
    engine = crm.engine
    before = {row.id: await engine.raw(row) for row in await engine.rows("messages")}
    created = len(await engine.events("message.created"))
    await engine.plan("free")
    await engine.purge()
    await engine.plan("professional")
    code, _, errors = ended(await asyncio.to_thread(start, account, database_url, tmp_path))
    assert code == 0, errors
    assert await engine.rows("messages") == [], "nothing comes back by itself"

    locks = Locks(engine.subscriptions, Expiry(engine.subscriptions, Graces()), ClockLimits(), engine.log)
    wanted = min(before)
    asking = Rehydrations(engine.db, engine.ring, locks)
    pin = PinWanted("deal", "D-1", "why")
    asked = await asking.ask(engine.tenant_id, wanted, [pin], engine.clock(), USER)
    for step in ("intend:rehydrate", "confirmed:rehydrate"):
        await killed(account, database_url, tmp_path, step)
    (row,) = await engine.rows("messages")
    assert (row.id, row.pins, row.anchor_source) == (wanted, 1, "rehydrated")
    assert row.keep_until_at >= row.stored_at + 7 * DAY - 60_000_000
    assert (await operations.get(engine.db, engine.tenant_id, asked.operation_ids[0])).state == "applied"

    run_id = await Backfills(engine.db, locks).ask(engine.tenant_id, engine.mailbox_id, 90, engine.clock(), USER)
    for step in ("begun:backfill", "written:backfill", "written:backfill", "ended:backfill"):
        await killed(account, database_url, tmp_path, step)
    code, _, errors = ended(await asyncio.to_thread(start, account, database_url, tmp_path))
    assert code == 0, errors
    assert {row.id: await engine.raw(row) for row in await engine.rows("messages")} == before
    near, far = await near_and_far(engine, account)
    assert near == far
    assert len(await engine.events("message.created")) == created
    assert len(await engine.events("message.rehydrated")) == len(before)
    run = await runs.get(engine.db, run_id)
    assert (run.state, dict(run.counts)) == (runs.COMPLETED, {"new": 0, "rehydrated": len(before) - 1})
    async with engine.db.read() as conn:
        bodies = list((await conn.execute(select(log_leaves.c.body).order_by(log_leaves.c.idx))).scalars())
    report = replay_leaves(bodies)
    assert report.verdict is Verdict.OK, report.lines()
    kinds = [parse_leaf(body)["type"] for body in bodies]
    assert kinds.count("rehydrate") == kinds.count("item.purge") == len(before)
    await engine.close()
