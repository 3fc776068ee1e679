"""What a user deletes while nothing can be brought to the server stays deleted, wherever the line was cut before: it
does not come back, and nothing more is done about it at the server.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount
from mailgate.actors import SYSTEM
from mailgate.store.expiry import Expiry
from mailgate.store.wishes.locks import Locks
from mailgate.store.wishes.messages import SCOPE_COPY
from mailgate.store.wishes.service import Wishes
from retention.model import AnchorFrom, Graces
from retention.policy import ClockLimits
from tests.sync.crm import Crm
from tests.sync.engine import Engine, TestClock, mail
from tests.sync.test_push import ABILITIES, again, changes, server

Opening = Callable[[MemoryAccount], Awaitable[Crm]]


@pytest.fixture
async def opening(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Opening]:
    """Opens engines, each on a database of its own, with what is at the server. It is read once in a test: what each
    story begins with is the same.
    """
    made: list[Engine] = []
    read, clock = tmp_path / "read", TestClock()

    async def open_(account: MemoryAccount) -> Crm:
        if not read.exists():
            read.mkdir()
            shutil.copy(sqlite_url.removeprefix("sqlite:///"), read / "mailgate.db")
            reader = await Engine.open(f"sqlite:///{read}/mailgate.db", read, account, clock=clock)
            await reader.sync()
            await reader.close(check=False)
        folder = tmp_path / str(len(made))
        shutil.copytree(read, folder)
        url = f"sqlite:///{folder}/mailgate.db"
        made.append(await Engine.open(url, folder, account, clock=TestClock(clock.now)))
        return Crm(made[-1])

    yield open_
    for engine in made:
        await engine.close()


async def delete(engine: Engine, message_id: str) -> str:
    """As the CRM does; how far it reaches."""
    locks = Locks(engine.subscriptions, Expiry(engine.subscriptions, Graces()), ClockLimits(), engine.log)
    wishes = Wishes.over(
        engine.db, engine.ring, engine.blobs, locks, max_bytes=1 << 20, anchor_from=AnchorFrom.RECEIVED, at_once=2
    )
    asked = await wishes.messages.delete(engine.tenant_id, message_id, now=engine.clock(), actor=SYSTEM)
    return asked.scope


async def switch(engine: Engine, off: str, *, on: bool) -> None:
    if off == "disabled":
        await engine.enable(on)
    else:
        await engine.plan("professional" if on else "free")


async def came_back(crm: Crm, raw: bytes) -> bool:
    return raw in [await crm.engine.raw(row) for row in await crm.engine.rows("messages")]


async def cut_after(opening: Opening, abilities: str, kind: str, off: str, steps: int) -> bool:
    """One story, cut after so many steps; whether it was."""
    account = server(**ABILITIES[abilities])
    crm = await opening(account)
    if kind == "append":
        n, id_ = 60, await crm.append(60, "Archive")
    else:
        n, id_ = 1, await crm.id(1)
        await crm.move(1, "Archive")
    account.faults.cut_after = steps
    cut = False
    try:
        await again(crm)
    except NetworkError:
        cut = True
    account.faults.cut_after = None
    await switch(crm.engine, off, on=False)
    assert await delete(crm.engine, id_) == SCOPE_COPY
    before = changes(account)
    await switch(crm.engine, off, on=True)
    for _ in range(2):
        await again(crm)
        assert not await came_back(crm, mail(n)), steps
    assert changes(account) == before, steps
    return cut


@pytest.mark.parametrize("kind", ["move", "append"])
@pytest.mark.parametrize(
    ("abilities", "off"), [("no move", "disabled"), ("no move", "free"), ("all", "free"), ("no uidplus", "free")]
)
async def test_what_was_on_its_way_and_is_deleted_does_not_come_back(
    opening: Opening, abilities: str, kind: str, off: str
) -> None:
    steps = 0
    while await cut_after(opening, abilities, kind, off, steps):
        steps += 1
    assert steps > 5


async def test_another_like_it_is_another_message(opening: Opening) -> None:
    """What may stand twice is left alone twice, and no more often."""
    account = server(**ABILITIES["no move"])
    crm = await opening(account)
    id_ = await crm.id(1)
    await crm.move(1, "Archive")
    account.faults.lose_answer = 0
    with pytest.raises(NetworkError):
        await again(crm)
    assert await crm.states() == ["sent"]
    await crm.engine.enable(False)
    await delete(crm.engine, id_)
    graves = await crm.engine.rows("tombstones")
    assert sorted((row.message_id, row.folder) for row in graves if row.folder is not None) == [(id_, "INBOX")]
    assert [row.message_id for row in graves if row.folder is None] == [id_]
    await crm.engine.enable(True)
    await again(crm)
    assert not await came_back(crm, mail(1))
    graves = await crm.engine.rows("tombstones")
    assert sorted((row.message_id, row.folder) for row in graves) == [(id_, "Archive"), (id_, "INBOX")]
    account.append("Work", mail(1), internal_date=crm.engine.clock())
    await again(crm)
    assert await came_back(crm, mail(1))
