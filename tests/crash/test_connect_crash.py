"""A process that connects a mailbox by a link is killed: the mailbox is there and the link used, or neither."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from sqlalchemy import select

from mailgate.actors import SYSTEM
from mailgate.app.core import Core
from mailgate.clock import DAY, HOUR, system_clock
from mailgate.settings import DatabaseSettings, Settings
from mailgate.store import tenants
from mailgate.store.connect_links import LinkSpec, LinkState
from mailgate.store.schema import events
from mailgate.store.subscriptions import SubscriptionChange
from mailgate.tenants.timeline import Status
from tests.forks import fork

pytestmark = pytest.mark.crash


async def test_killed_at_any_step_there_is_a_mailbox_and_a_used_link_or_neither(
    database_url: str, tmp_path: Path
) -> None:
    core = await Core.open(Settings(data_dir=tmp_path / "data", database=DatabaseSettings(url=database_url)))
    now = system_clock()
    await tenants.put(core.db, core.ring, core.log, "acme", "Acme", now, SYSTEM)
    change = SubscriptionChange("professional", Status.ACTIVE, now + 30 * DAY, True, None)
    await core.subscriptions.set_outright("acme", change, now, SYSTEM)
    link, secret = await core.links.create("acme", LinkSpec(now + HOUR, owner="ann"), now, SYSTEM)

    async def standing() -> tuple[LinkState, int, int]:
        found = await core.links.get("acme", link.id)
        boxes = (await core.mailboxes.list_page("acme", after=None, limit=10)).items
        async with core.db.read() as conn:
            told = (await conn.execute(select(events.c.seq).where(events.c.type == "connect_link.used"))).all()
        assert found.mailbox_id == (boxes[0].id if boxes else None)
        return found.state(system_clock(), 30), len(boxes), len(told)

    def run(kill_at: str | None) -> tuple[int | None, str]:
        wanted = {"url": database_url, "folder": str(tmp_path / "data"), "secret": secret, "kill_at": kill_at}
        process = fork("tests.crash.connect_process", **wanted)
        _, errors = process.communicate(timeout=120)
        return process.returncode, errors

    for kill_at, expected in (("locked", 0), ("used", 0), ("committed", 1)):
        ended, errors = run(kill_at)
        assert ended == -signal.SIGKILL, errors
        state = LinkState.USED if expected else LinkState.OPEN
        assert await standing() == (state, expected, expected), kill_at
    ended, errors = run(None)  # the person reloads the page: nothing is done twice
    assert ended == 1
    assert "this link was used already" in errors
    assert await standing() == (LinkState.USED, 1, 1)
    await core.close()
