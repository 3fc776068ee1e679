"""What others do at the server arrives: new mail, flags, moves, deletions, folders, a new UIDVALIDITY."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount, MemoryConnection
from connectors.model import MessageMeta, QResync, Selected, SpecialUse
from mailgate.clock import DAY, HOUR
from tests.sync.engine import NOW, Engine, mail


@pytest.fixture(params=["qresync", "condstore", "plain"])
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    """A server of each kind, with three folders and some mail."""
    account = MemoryAccount(condstore=request.param != "plain", qresync=request.param == "qresync")
    account.create_folder("Archive", special_use=SpecialUse.ARCHIVE)
    account.create_folder("Trash", special_use=SpecialUse.TRASH)
    for n in range(6):
        account.append("INBOX", mail(n), internal_date=NOW - n * DAY, flags=["\\Seen"] if n % 2 else [])
    account.append("Archive", mail(50), internal_date=NOW - 3 * DAY)
    return account


async def agrees(engine: Engine) -> bool:
    return await engine.near() == engine.far(since=NOW - 90 * DAY)


async def again(engine: Engine) -> None:
    """A later session: what a pass needs to know of time has passed."""
    engine.clock.advance(600)
    await engine.sync()


async def ids(engine: Engine) -> dict[str, str]:
    """Message id by subject-bearing header token: stable over moves."""
    return {row.header_token.hex(): row.id for row in await engine.rows("messages")}


async def test_new_mail(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    account.append("INBOX", mail(7), internal_date=NOW, flags=["$Label", "\\Flagged"])
    account.append("Archive", mail(8), internal_date=NOW - HOUR)
    await again(engine)
    assert await agrees(engine)
    created = await engine.events("message.created")
    assert len(created) == 9
    assert [event.payload.get("initial", False) for event in created[-2:]] == [False, False]


async def test_flags(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    account.store_flags("INBOX", 1, ["\\Seen", "\\Answered"])
    account.store_flags("INBOX", 2, [])
    account.store_flags("Archive", 1, ["\\Flagged"])
    await again(engine)
    assert await agrees(engine)
    assert len(await engine.events("message.updated")) == 3
    row = next(row for row in await engine.rows("messages") if row.flagged)
    assert row.flags == ["\\Flagged"]


async def test_a_deletion_removes_the_copy(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    account.expunge("INBOX", 3)
    await again(engine)
    assert await agrees(engine)
    assert len(await engine.events("message.deleted")) == 1
    async with engine.db.read() as conn:
        leaves = (await conn.exec_driver_sql("SELECT type FROM log_leaves")).scalars().all()
    assert leaves.count("item.remove") == 1


async def test_a_move_keeps_the_message(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    before = await ids(engine)
    account.move("INBOX", 2, "Archive")
    account.move("Archive", 1, "INBOX")
    account.move("INBOX", 4, "Trash")
    await again(engine)
    assert await agrees(engine)
    assert await ids(engine) == before
    assert len(await engine.events("message.moved")) == 3
    assert len(await engine.events("message.created")) == 7
    assert not await engine.events("message.deleted")


async def test_a_copy_is_a_message_of_its_own(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    account.copy("INBOX", 2, "Archive")
    await again(engine)
    assert await agrees(engine)
    assert len(await engine.rows("messages")) == 8
    assert len(await engine.rows("blobs")) == 7


async def test_a_moved_message_found_before_it_is_missed(engine: Engine, account: MemoryAccount) -> None:
    """The target folder is read before the source folder is known to have lost it."""
    await engine.sync()
    before = await ids(engine)
    account.move("Archive", 1, "INBOX")
    account.move("INBOX", 1, "Archive")
    await again(engine)
    assert await ids(engine) == before
    assert await agrees(engine)


async def test_uidvalidity_change_keeps_every_message(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    before = await ids(engine)
    account.change_uidvalidity("INBOX")
    account.append("INBOX", mail(9), internal_date=NOW)
    account.expunge("INBOX", 1)
    await again(engine)
    assert await agrees(engine)
    after = await ids(engine)
    assert {key: after[key] for key in after if key in before} == {k: v for k, v in before.items() if k in after}
    assert len(after) == 7
    assert len(await engine.events("folder.reset")) == 1
    assert len(await engine.events("message.created")) == 8
    assert len(await engine.events("message.deleted")) == 1


async def test_a_message_moved_out_of_a_renumbered_folder_keeps_its_id(engine: Engine, account: MemoryAccount) -> None:
    """The target folder is read first; the source can't say what it lost, since its numbers changed too."""
    await engine.sync()
    before = await ids(engine)
    numbers = account.change_uidvalidity("INBOX")
    account.move("INBOX", numbers[1], "Archive")
    await again(engine)
    assert await agrees(engine)
    assert await ids(engine) == before
    assert len(await engine.events("message.moved")) == 1


async def test_a_move_from_a_folder_that_changes_while_it_is_looked_at_again(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of what is left contradicts the count then, and says nothing of what has gone."""
    await engine.sync()
    before = await ids(engine)
    opened = MemoryConnection.open

    async def meanwhile(line: MemoryConnection, name: str, since: QResync | None = None) -> Selected:
        selected = await opened(line, name, since)
        if name == "INBOX" and 3 in account.folders["INBOX"].messages:
            account.move("INBOX", 3, "Archive")
        return selected

    account.move("INBOX", 2, "Archive")
    monkeypatch.setattr(MemoryConnection, "open", meanwhile)
    await again(engine)
    await again(engine)
    assert await agrees(engine)
    assert await ids(engine) == before
    assert not await engine.events("message.deleted")


async def test_a_move_while_the_clock_is_set_back(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was looked at before seems to have been looked at afterwards."""
    await engine.sync()
    before = await ids(engine)
    engine.clock.advance(600)
    opened = MemoryConnection.open

    async def meanwhile(line: MemoryConnection, name: str, since: QResync | None = None) -> Selected:
        if name == "INBOX" and 2 in account.folders["INBOX"].messages:
            account.move("INBOX", 2, "Archive")
            engine.clock.advance(-300)
        return await opened(line, name, since)

    monkeypatch.setattr(MemoryConnection, "open", meanwhile)
    await engine.sync()
    await again(engine)
    assert await agrees(engine)
    assert await ids(engine) == before
    assert not await engine.events("message.deleted")


async def test_a_renamed_folder_from_which_messages_were_moved(engine: Engine, account: MemoryAccount) -> None:
    account.append("Archive", mail(51), internal_date=NOW)
    await engine.sync()
    before = {row.name: row.id for row in await engine.rows("folders")}
    account.rename_folder("Archive", "Archiv")
    account.move("Archiv", 2, "Trash")
    await again(engine)
    assert await agrees(engine)
    assert {row.name: row.id for row in await engine.rows("folders")}["Archiv"] == before["Archive"]


async def test_a_message_moved_on_before_anybody_looked_keeps_its_id(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes through Trash to Archive, each time behind our back: no look ever sees it, and all were looked at."""
    await engine.sync()
    before = await ids(engine)
    opened = MemoryConnection.open
    steps = [("INBOX", "INBOX", "Trash"), ("Trash", "Trash", "Archive")]

    async def meanwhile(line: MemoryConnection, name: str, since: QResync | None = None) -> Selected:
        if steps and name == steps[0][0]:
            _, source, target = steps.pop(0)
            account.move(source, max(account.folders[source].messages), target)
        return await opened(line, name, since)

    monkeypatch.setattr(MemoryConnection, "open", meanwhile)
    await again(engine)
    assert steps == []
    await again(engine)
    assert await agrees(engine)
    assert await ids(engine) == before
    assert not await engine.events("message.deleted")


async def test_a_recognition_that_was_cut_sees_what_changed_since(engine: Engine, account: MemoryAccount) -> None:
    """What the cut pass recognised already may be gone, or marked, when the next one begins."""
    await engine.sync()
    known = await ids(engine)
    for cut in range(8 + engine.db.sqlite, 26, 2):  # each database takes every second
        account.change_uidvalidity("INBOX")
        for n in range(2):
            account.append("INBOX", mail(100 * cut + n), internal_date=NOW)
        account.faults.cut_after = cut
        with contextlib.suppress(NetworkError):
            await again(engine)
        account.faults.cut_after = None
        gone, marked, moved = sorted(account.folders["INBOX"].messages)[:3]
        account.expunge("INBOX", gone)
        account.store_flags("INBOX", marked, ["\\Flagged", f"${cut}"])
        account.move("INBOX", moved, "Archive")
        await again(engine)
        assert await agrees(engine)
        after = await ids(engine)
        assert {token: known.get(token, id_) for token, id_ in after.items()} == after
        known |= after


async def test_what_is_moved_away_while_it_is_recognised(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.sync()
    before = await ids(engine)
    account.change_uidvalidity("INBOX")
    fetch = MemoryConnection.fetch_headers

    def meanwhile(line: MemoryConnection, uids: Sequence[int]) -> AsyncIterator[tuple[MessageMeta, bytes]]:
        if line.open_name == "INBOX" and 2 in account.folders["INBOX"].messages:
            account.move("INBOX", 2, "Archive")
        return fetch(line, uids)

    monkeypatch.setattr(MemoryConnection, "fetch_headers", meanwhile)
    await again(engine)
    await again(engine)
    assert await agrees(engine)
    assert await ids(engine) == before
    assert not await engine.events("message.deleted")


async def test_identical_messages_survive_uidvalidity_change_one_by_one(engine: Engine, account: MemoryAccount) -> None:
    for _ in range(3):
        account.append("INBOX", mail(77), internal_date=NOW - DAY)
    await engine.sync()
    before = sorted(row.id for row in await engine.rows("messages"))
    account.change_uidvalidity("INBOX")
    await again(engine)
    assert sorted(row.id for row in await engine.rows("messages")) == before
    assert await agrees(engine)


async def test_folders_come_and_go(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    account.create_folder("Projekte/Größe 漢字")
    account.append("Projekte/Größe 漢字", mail(60), internal_date=NOW)
    await again(engine)
    assert await agrees(engine)
    account.delete_folder("Projekte/Größe 漢字")
    await again(engine)
    assert await agrees(engine)
    assert len(await engine.events("message.deleted")) == 1
    assert len(await engine.events("folder.deleted")) == 1


async def test_a_renamed_folder_keeps_its_messages(engine: Engine, account: MemoryAccount) -> None:
    account.create_folder("Old")
    account.append("Old", mail(60), internal_date=NOW)
    await engine.sync()
    before = await ids(engine)
    account.rename_folder("Old", "New")
    await again(engine)
    assert await agrees(engine)
    assert await ids(engine) == before
    assert len(await engine.events("folder.renamed")) == 1
    assert not await engine.events("message.moved", "message.deleted")


async def test_a_folder_recreated_is_read_anew(engine: Engine, account: MemoryAccount) -> None:
    account.create_folder("Old")
    account.append("Old", mail(60), internal_date=NOW)
    await engine.sync()
    account.delete_folder("Old")
    account.create_folder("Old")
    account.append("Old", mail(61), internal_date=NOW)
    await again(engine)
    assert await agrees(engine)


async def test_an_emptied_folder_is_not_believed(engine: Engine, account: MemoryAccount) -> None:
    for n in range(100, 160):
        account.append("Archive", mail(n), internal_date=NOW - DAY)
    await engine.sync()
    for uid in list(account.folders["Archive"].messages):
        account.expunge("Archive", uid)
    await again(engine)
    assert len(await engine.rows("messages")) == 67
    mailbox = (await engine.rows("mailboxes"))[0]
    assert mailbox.state == "needs_approval"
    assert "empty at the server" in mailbox.state_reason
    account.expunge("INBOX", 1)
    await again(engine)
    assert len(await engine.rows("messages")) == 66


async def test_nothing_new_writes_nothing(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    folders = await engine.rows("folders")
    events = await engine.events()
    await again(engine)
    assert [tuple(row)[:-3] for row in await engine.rows("folders")] == [tuple(row)[:-3] for row in folders]
    assert len(await engine.events()) == len(events)


async def test_reading_never_marks_anything(engine: Engine, account: MemoryAccount) -> None:
    before = engine.far()
    await engine.sync()
    assert engine.far() == before
    assert not any(command.startswith("SELECT") for command in account.commands)


async def test_a_few_new_messages_need_no_look_at_every_copy(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether anything at all waits to be recognised is asked for whole folders only: the answer takes all rows."""
    await engine.sync()

    async def never(*_: object) -> bool:
        raise AssertionError("every row was looked at for one new message")

    monkeypatch.setattr(type(engine.store), "has_free", never)
    account.append("INBOX", mail(20), internal_date=NOW)
    await again(engine)
    assert await agrees(engine)
