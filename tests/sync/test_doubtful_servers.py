"""Servers that fell back, that hide, and that refuse: nothing is taken for what it is not, nor missed for ever."""

from __future__ import annotations

from copy import deepcopy

import pytest
from sqlalchemy import insert, update

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount, MemoryFolder
from connectors.model import SpecialUse
from mailgate.clock import DAY, HOUR
from mailgate.ids import new_id
from mailgate.store.schema import messages, operations
from tests.sync.engine import NOW, Engine, mail

KINDS = ["qresync", "condstore", "plain"]


@pytest.fixture(params=KINDS)
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    account = MemoryAccount(condstore=request.param != "plain", qresync=request.param == "qresync")
    account.create_folder("Archive", special_use=SpecialUse.ARCHIVE)
    for n in range(1, 7):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
    return account


async def again(engine: Engine) -> None:
    engine.clock.advance(600)
    await engine.sync()


async def agrees(engine: Engine) -> bool:
    return await engine.near() == engine.far()


async def by_content(engine: Engine) -> dict[bytes, str]:
    return {await engine.raw(row): row.id for row in await engine.rows("messages")}


def backed_up(account: MemoryAccount, name: str = "INBOX") -> MemoryFolder:
    return deepcopy(account.folders[name])


# Servers that fell back.


async def test_uids_that_a_restored_server_gives_again_are_other_messages(
    engine: Engine, account: MemoryAccount
) -> None:
    backup = backed_up(account)
    for n in range(7, 12):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
    await engine.sync()
    before = await by_content(engine)
    account.folders["INBOX"] = backup
    account.append("INBOX", mail(20), internal_date=NOW)
    account.append("INBOX", mail(11), internal_date=NOW - 11 * HOUR)  # delivered once more, under another UID
    await again(engine)
    assert await agrees(engine)
    after = await by_content(engine)
    assert {raw: id_ for raw, id_ in after.items() if raw in before}.items() <= before.items()
    assert len(after) == 8
    assert len(await engine.events("message.created")) == 12
    assert len(await engine.events("folder.reset")) == 1
    await again(engine)
    assert len(await engine.events("folder.reset")) == 1


@pytest.mark.parametrize("fewer", [0, 2])
async def test_a_restored_server_that_outgrew_the_checkpoint_is_found_out(
    engine: Engine, account: MemoryAccount, fewer: int
) -> None:
    """UIDNEXT and HIGHESTMODSEQ are higher than ever, and the newest UIDs name other messages."""
    backup = backed_up(account)
    for n in range(7, 12):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
    await engine.sync()
    before = await by_content(engine)
    known = account.folders["INBOX"].highestmodseq
    account.folders["INBOX"] = backup
    for n in range(20, 27 - fewer):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
    backup.highestmodseq = known + 5
    await again(engine)
    assert await agrees(engine)
    after = await by_content(engine)
    assert {raw: id_ for raw, id_ in after.items() if raw in before}.items() <= before.items()
    assert len(await engine.events("folder.reset")) == 1
    account.append("INBOX", mail(40), internal_date=NOW)
    await again(engine)
    assert len(await engine.events("folder.reset")) == 1


async def test_what_the_crm_added_may_have_another_header_at_the_server(engine: Engine, account: MemoryAccount) -> None:
    """That is no sign of a restored server."""
    await engine.sync()
    (newest,) = [row for row in await engine.rows("origins") if row.uid == 6]
    operation = {
        "id": new_id(NOW),
        "tenant_id": engine.tenant_id,
        "mailbox_id": engine.mailbox_id,
        "seq": 1,
        "kind": "append",
        "state": "applied",
        "message_id": newest.message_id,
        "detail": {},
        "requested_at": NOW,
        "requested_by": "test",
        "finished_at": NOW,
    }
    async with engine.db.write() as tx:
        mine = update(messages).where(messages.c.id == newest.message_id)
        await tx.conn.execute(mine.values(header_token=b"?" * 32, internal_date_at=NOW, anchor_at=NOW))
        await tx.conn.execute(insert(operations).values(operation))
    account.append("INBOX", mail(20), internal_date=NOW)
    await again(engine)
    assert await engine.events("folder.reset") == []


async def test_what_was_purged_stays_purged_on_a_restored_server(engine: Engine, account: MemoryAccount) -> None:
    for n in range(7, 12):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
    backup = backed_up(account)
    account.append("INBOX", mail(12), internal_date=NOW)
    await engine.plan("crm_plus")
    await engine.sync()
    engine.clock.advance(29.75 * 86_400)
    await engine.purge()
    left = len(await engine.rows("messages"))
    assert 0 < left < 12
    account.folders["INBOX"] = backup
    await again(engine)
    assert len(await engine.events("message.created")) == 12
    assert len(await engine.rows("tombstones")) == 12 - left


async def test_a_folder_may_fall_back_twice(engine: Engine, account: MemoryAccount) -> None:
    backup, older = backed_up(account), backed_up(account)
    for n in (70, 71, 7):
        account.append("INBOX", mail(n), internal_date=NOW)
    await engine.sync()
    before = await by_content(engine)
    for state in (backup, older):
        account.folders["INBOX"] = state
        account.append("INBOX", mail(8), internal_date=NOW)
        account.append("INBOX", mail(7), internal_date=NOW)
        await again(engine)
        assert await agrees(engine)
        account.append("INBOX", mail(9), internal_date=NOW)
        await again(engine)
    after = await by_content(engine)
    assert {raw: id_ for raw, id_ in after.items() if raw in before}.items() <= before.items()
    assert len(after) == 9


async def test_a_restored_server_is_recognised_after_a_cut(engine: Engine, account: MemoryAccount) -> None:
    backup = backed_up(account)
    for n in (70, 71, 7):
        account.append("INBOX", mail(n), internal_date=NOW)
    await engine.sync()
    before = await by_content(engine)
    account.folders["INBOX"] = backup
    account.append("INBOX", mail(9), internal_date=NOW)
    account.append("INBOX", mail(7), internal_date=NOW)
    cut = 0
    for steps in range(2, 24):
        account.faults.cut_after = steps
        try:
            await again(engine)
        except NetworkError:
            cut += 1
    assert cut > 8
    account.faults.cut_after = None
    await again(engine)
    assert await agrees(engine)
    after = await by_content(engine)
    assert {raw: id_ for raw, id_ in after.items() if raw in before}.items() <= before.items()
    assert len(after) == 8


# Servers that hide.


@pytest.mark.parametrize("gone", [1, 6])
async def test_one_gone_and_one_come_that_cannot_be_read_are_both_noticed(
    engine: Engine, account: MemoryAccount, gone: int
) -> None:
    await engine.sync()
    account.expunge("INBOX", gone)
    uid = account.append("INBOX", mail(7), internal_date=NOW)
    account.faults.withheld.add(("INBOX", uid))
    await again(engine)
    assert len(await engine.rows("messages")) == 5
    (aside,) = await engine.rows("quarantine")
    assert aside.uid == uid


async def test_one_come_and_gone_between_two_looks_is_nothing(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    account.expunge("INBOX", account.append("INBOX", mail(7), internal_date=NOW))
    await again(engine)
    account.commands.clear()
    await again(engine)
    assert await agrees(engine)
    assert "SEARCH ALL" not in account.commands


async def test_a_count_that_contradicts_the_list_proves_nothing_and_vouches_for_nothing(
    engine: Engine, account: MemoryAccount
) -> None:
    """The server counts one less than it lists while one is gone: later, when it counts right, that one is missed."""
    await engine.sync()
    account.expunge("INBOX", 3)
    account.faults.exists_lie["INBOX"] = -1
    if account.qresync:
        account.qresync = False  # else VANISHED tells, whatever the count
    await again(engine)
    assert len(await engine.rows("messages")) == 6
    account.faults.exists_lie["INBOX"] = 0
    await again(engine)
    assert await agrees(engine)


async def test_a_count_of_nothing_is_no_evidence(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    account.qresync = False
    account.faults.exists_lie["INBOX"] = -6
    await again(engine)
    account.faults.exists_lie.clear()
    await again(engine)
    assert await agrees(engine)
    assert not await engine.events("message.deleted")
    assert len(await engine.events("message.created")) == 6


# Folders that are refused.


async def test_a_folder_refused_for_a_day_no_longer_holds_deletions_back(
    engine: Engine, account: MemoryAccount
) -> None:
    account.append("Archive", mail(50), internal_date=NOW - DAY)
    await engine.sync()
    account.faults.refuse.add("Archive")
    await again(engine)
    account.expunge("INBOX", 1)
    await again(engine)
    engine.clock.advance(22 * 3600)
    await again(engine)
    assert len(await engine.rows("messages")) == 7  # it may have been moved to where nobody can look
    engine.clock.advance(3 * 3600)
    await again(engine)
    assert len(await engine.rows("messages")) == 6
    account.faults.refuse.clear()
    account.append("Archive", mail(51), internal_date=NOW)
    await again(engine)
    assert await agrees(engine)
    account.expunge("INBOX", 2)
    account.faults.refuse.add("Archive")
    await again(engine)
    assert len(await engine.rows("messages")) == 7  # the day begins anew


async def test_a_folder_that_is_not_listed_and_refused_may_still_be_there(
    engine: Engine, account: MemoryAccount
) -> None:
    account.append("Archive", mail(50), internal_date=NOW - DAY)
    await engine.sync()
    before = await by_content(engine)
    account.faults.unlisted.add("Archive")
    account.faults.refuse.add("Archive")
    await again(engine)
    assert await by_content(engine) == before
    account.faults.refuse.clear()  # now it says that the folder is there, listed or not
    await again(engine)
    assert await by_content(engine) == before
    account.faults.unlisted.clear()
    await again(engine)
    assert await by_content(engine) == before
    assert await agrees(engine)
