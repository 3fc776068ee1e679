"""A purge that meets an import which was killed with kill -9: what had come goes but for what is pinned, the rest comes
when the import goes on, nothing that was purged comes back, and nothing comes twice.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from connectors.memory import MemoryAccount
from mailgate.clock import system_clock
from mailgate.store.schema import log_leaves
from retention.ledger.replay import replay_leaves
from retention.ledger.report import Verdict
from tests.crash.import_process import STEPS
from tests.crash.test_import_crash import MESSAGES, account, finish, start
from tests.dovecot import Account
from tests.sync.engine import Engine

__all__ = ["account"]

pytestmark = [pytest.mark.crash, pytest.mark.server]

Address = tuple[str, int]


async def opened(url: str, folder: Path) -> Engine:
    return await Engine.open(url, folder, MemoryAccount(), clock=system_clock)  # type: ignore[arg-type]


async def standing(engine: Engine) -> Counter[Address]:
    """Where copies stand, as often as they do."""
    names = {row.id: row.name for row in await engine.rows("folders")}
    return Counter((names[row.folder_id], row.uid) for row in await engine.rows("origins") if row.vanished_at is None)


async def bytes_of(engine: Engine) -> dict[Address, bytes]:
    names = {row.id: row.name for row in await engine.rows("folders")}
    copies: dict[str, Any] = {row.id: row for row in await engine.rows("messages")}
    return {
        (names[row.folder_id], row.uid): await engine.raw(copies[row.message_id])
        for row in await engine.rows("origins")
    }


def at_server(account: Account) -> dict[Address, bytes]:
    return {(name, uid): raw for name in ("INBOX", "Archive") for uid, (_, raw) in account.originals(name).items()}


async def purge_all_but_one(engine: Engine) -> tuple[set[Address], set[Address]]:
    """The tenant cancels, and comes back later: what was here and was purged, and what is pinned and stays."""
    before = await standing(engine)
    if copies := await engine.rows("messages"):
        await engine.pin(min(row.id for row in copies))
    await engine.plan("free")
    await engine.purge()
    await engine.plan("professional")
    pinned = set(await standing(engine))
    assert len(pinned) == bool(copies)
    return set(before) - pinned, pinned


@pytest.mark.parametrize(
    ("step", "nth"), [*((step, 1) for step in STEPS), ("put", 11), ("write", 2), ("commit", 6), ("committed", 8)]
)
async def test_a_purge_between_a_kill_and_the_rest(
    database_url: str, tmp_path: Path, account: Account, step: str, nth: int
) -> None:
    start(account, database_url, tmp_path, step, nth).communicate(timeout=240)
    engine = await opened(database_url, tmp_path)
    purged, pinned = await purge_all_but_one(engine)
    assert purged or step != "committed" or nth == 1
    await engine.close(check=False)  # what the killed process had in hand is there yet

    start(account, database_url, tmp_path, "commit", 3).communicate(timeout=240)  # and killed once more
    finish(start(account, database_url, tmp_path))

    engine = await opened(database_url, tmp_path)
    there = at_server(account)
    assert len(there) == MESSAGES
    assert await standing(engine) == Counter(set(there) - purged), "all that was not purged, once"
    assert await bytes_of(engine) == {place: raw for place, raw in there.items() if place not in purged}
    assert pinned <= set(await standing(engine))
    assert len(await engine.events("message.created")) == MESSAGES
    assert len(await engine.events("mailbox.import_finished")) == 1
    async with engine.db.read() as conn:
        bodies = list((await conn.execute(select(log_leaves.c.body).order_by(log_leaves.c.idx))).scalars())
    report = replay_leaves(bodies)
    assert report.verdict is Verdict.OK, report.lines()
    assert sum(report.facts["purged"].values()) == len(purged) == len(await engine.rows("tombstones"))
    await engine.purge()
    assert await standing(engine) == Counter(set(there) - purged)
    await engine.close()
