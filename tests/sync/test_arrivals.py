"""New mail that IDLE told of: taken at once where EXISTS says all, and left to a pass where it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from connectors.memory import MemoryAccount
from connectors.port import FolderChange
from mailgate.clock import DAY
from mailgate.sync import arrivals
from mailgate.sync.breakers import Breakers
from tests.sync.engine import NOW, Engine, Opened, mail
from tests.sync.test_push_live import SLOW, is_live, running
from tests.waiting import until


def server(**abilities: Any) -> MemoryAccount:
    account = MemoryAccount(now=NOW, **abilities)
    account.create_folder("Archive")
    account.append("Archive", mail(50), internal_date=NOW - DAY)
    for n in range(3):
        account.append("INBOX", mail(n), internal_date=NOW - DAY)
    return account


async def here(engine: Engine, count: int) -> None:
    """So many copies are here, and the line is in IDLE again."""

    async def check() -> bool:
        idle = engine.account.commands[-1] == "IDLE"
        return idle and len(await engine.rows("messages")) == count

    await until(check)


async def inbox(engine: Engine) -> tuple[int, int, int | None]:
    (row,) = [row for row in await engine.rows("folders") if row.name == "INBOX"]
    return row.uidnext, row.exists_count, row.highestmodseq


@pytest.mark.parametrize("abilities", [{}, {"condstore": False, "qresync": False}])
async def test_what_came_is_fetched_and_nothing_else_is_asked(opened: Opened, abilities: dict[str, bool]) -> None:
    engine = await opened(server(**abilities), settings=SLOW)
    account = engine.account
    async with running(engine):
        await until(lambda: is_live(engine))
        await here(engine, 4)
        uidnext, exists, modseq = await inbox(engine)
        before = len(account.commands)
        account.append("INBOX", mail(3), internal_date=NOW)
        await here(engine, 5)
        assert account.commands[before:] == ["FETCH bodies", "IDLE"]
        assert await inbox(engine) == (uidnext + 1, exists + 1, modseq), "what else changed is for the next pass"
        for n in (4, 5, 6):
            account.append("INBOX", mail(n), internal_date=NOW)
        await here(engine, 8)
    await engine.sync()
    assert len(await engine.events("message.created", "message.updated")) == 8, "the pass finds nothing new"
    assert await inbox(engine) == (8, 7, account.folders["INBOX"].highestmodseq if modseq is not None else None)
    assert await engine.near() == engine.far()


async def test_flags_that_change_with_it_are_for_a_pass(opened: Opened) -> None:
    engine = await opened(server(), settings=SLOW)
    account = engine.account
    async with running(engine):
        await until(lambda: is_live(engine))
        await here(engine, 4)
        account.store_flags("INBOX", 1, frozenset({"\\Seen"}))
        account.append("INBOX", mail(3), internal_date=NOW)
        await here(engine, 5)

        async def agree() -> bool:
            return await engine.near() == engine.far()

        await until(agree)


async def test_uids_that_were_left_out_are_for_a_pass(opened: Opened) -> None:
    engine = await opened(server(), settings=SLOW)
    account = engine.account
    async with running(engine):
        await until(lambda: is_live(engine))
        await here(engine, 4)
        account.folders["INBOX"].uidnext += 5
        account.append("INBOX", mail(3), internal_date=NOW)
        await here(engine, 5)
        assert (await inbox(engine))[:2] == (10, 4)
    assert await engine.near() == engine.far()


@pytest.mark.parametrize("exists", [0, 2, 3, 3 + arrivals.MOST + 1, 2**32 - 1])
async def test_a_number_that_new_mail_does_not_explain_is_for_a_pass(opened: Opened, exists: int) -> None:
    """A list of as many UIDs as a server claims would fill the memory."""
    engine = await opened(server(), settings=SLOW)
    await engine.sync()
    (row,) = [row for row in await engine.rows("folders") if row.name == "INBOX"]
    (folder,) = [state for state in await engine.store.folders(engine.mailbox_id) if state.id == row.id]
    context: Any = SimpleNamespace(looked_at={folder.id: NOW}, backfill=None, breakers=Breakers(), in_step=folder.id)
    assert arrivals.expected(context, folder, FolderChange(exists=4)) == [4]
    assert arrivals.expected(context, folder, FolderChange(exists=exists)) == []
    context.in_step = None  # opened again since: it may have lost messages of which nobody was told
    assert arrivals.expected(context, folder, FolderChange(exists=4)) == []


async def test_what_equals_one_that_stands_here_may_be_that_one_moved_out_and_back(opened: Opened) -> None:
    """It came back before anybody was told that it went: one message. A second one that is equal is another."""
    engine = await opened(server(), settings=SLOW)
    account = engine.account
    async with running(engine):
        await until(lambda: is_live(engine))
        await here(engine, 4)
        folder = account.folders["INBOX"]
        back = folder.messages[1]
        account.append("INBOX", back.raw, internal_date=back.internal_date)
        del folder.messages[1]
        folder.expunged.append((folder.highestmodseq, 1))

        async def moved() -> bool:
            return {row.uid for row in await engine.rows("origins") if row.vanished_at is None} == {1, 2, 3, 4}

        await until(moved)
        assert len(await engine.rows("messages")) == 4
        account.append("INBOX", back.raw, internal_date=back.internal_date)
        await here(engine, 5)
    assert await engine.near() == engine.far()


async def test_what_was_moved_here_is_the_same_message(opened: Opened) -> None:
    engine = await opened(server(), settings=SLOW)
    async with running(engine):
        await until(lambda: is_live(engine))
        await here(engine, 4)
        (archive,) = [row.id for row in await engine.rows("folders") if row.name == "Archive"]
        (id_,) = [row.message_id for row in await engine.rows("origins") if row.folder_id == archive]
        engine.account.move("Archive", 1, "INBOX")

        async def moved() -> bool:
            return [row.message_id for row in await engine.rows("origins") if row.uid == 4] == [id_]

        await until(moved)
        assert len(await engine.rows("messages")) == 4
    assert len(await engine.events("message.created")) == 4


async def test_a_message_that_does_not_answer_is_for_a_pass(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came with it is kept, and not fetched twice."""
    engine = await opened(server(), settings=SLOW)
    account = engine.account
    took: list[bool] = []
    take = arrivals.take

    async def watched(*arguments: object) -> bool:
        took.append(await take(*arguments))  # type: ignore[arg-type]
        account.faults.withheld.clear()
        return took[-1]

    monkeypatch.setattr(arrivals, "take", watched)
    async with running(engine):
        await until(lambda: is_live(engine))
        await here(engine, 4)
        account.faults.withheld.add(("INBOX", 5))
        account.append("INBOX", mail(3), internal_date=NOW)
        account.append("INBOX", mail(4), internal_date=NOW)
        await here(engine, 6)
    assert False in took
    assert await engine.near() == engine.far()
    assert len(await engine.events("message.created")) == 6
