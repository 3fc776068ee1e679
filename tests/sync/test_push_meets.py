"""Operations that meet what other clients do at the server: moves, deletions, new numbers, in every order."""

from __future__ import annotations

import pytest

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount, MemoryConnection
from connectors.model import Selected
from mailgate.clock import DAY
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Opened, mail
from tests.sync.test_push import ABILITIES, again, agrees, changes, server, start


@pytest.fixture(params=ABILITIES)
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    return server(**ABILITIES[request.param])


@pytest.fixture
async def crm(opened: Opened, account: MemoryAccount) -> Crm:
    return await start(opened, account)


async def settled(crm: Crm) -> list[str]:
    """Passes until no operation waits any more."""
    for _ in range(4):
        await again(crm)
    return await crm.states()


# Gone.


async def test_what_is_gone_is_gone_the_others_are_done(crm: Crm, account: MemoryAccount) -> None:
    for n in (0, 1, 2):
        await crm.move(n, "Archive")
    for n in (3, 4):
        await crm.flags(n, add=["\\Flagged"])
    account.expunge("INBOX", 2)
    account.expunge("INBOX", 5)
    assert await settled(crm) == ["applied", "failed gone_at_server", "applied", "applied", "failed gone_at_server"]
    assert await agrees(crm)
    assert len(await crm.engine.rows("messages")) == 6


async def test_what_is_gone_while_it_is_pinned_stays_here(crm: Crm, account: MemoryAccount) -> None:
    await crm.engine.pin(await crm.id(1))
    await crm.move(1, "Archive")
    account.expunge("INBOX", 2)
    assert await settled(crm) == ["failed gone_at_server"]
    assert await crm.stands(1) == []
    assert (await crm.message(1)).moving_to is None
    assert await agrees(crm)


async def test_a_deletion_of_what_is_gone_is_done(crm: Crm, account: MemoryAccount) -> None:
    if not account.uidplus:
        pytest.skip("it needs UIDPLUS")
    await crm.delete(1)
    account.expunge("INBOX", 2)
    assert await settled(crm) == ["applied"]
    assert await agrees(crm)
    assert len(await crm.removals()) == 1
    assert not [command for command in changes(account) if "EXPUNGE" in command]


# Moved.


async def test_what_the_server_moved_elsewhere_stays_there(crm: Crm, account: MemoryAccount) -> None:
    id_ = await crm.id(1)
    await crm.move(1, "Archive")
    account.move("INBOX", 2, "Trash")
    assert await settled(crm) == ["failed moved_at_server"]
    assert await crm.id(1) == id_
    assert await crm.stands(1) == [("Trash", 1)]
    assert await agrees(crm)
    last = (await crm.engine.events("message.moved"))[-1]
    assert last.payload["folder_id"] == await crm.folder("Trash")


async def test_what_the_server_moved_where_it_was_wanted_is_there(crm: Crm, account: MemoryAccount) -> None:
    await crm.move(1, "Archive")
    account.move("INBOX", 2, "Archive")
    assert await settled(crm) == ["applied"]
    assert await crm.stands(1) == [("Archive", 1)]
    assert await agrees(crm)
    assert not await crm.engine.events("message.moved")


async def test_flags_and_deletions_follow_a_move(crm: Crm, account: MemoryAccount) -> None:
    await crm.flags(0, add=["\\Flagged"])
    account.move("INBOX", 1, "Archive")
    if account.uidplus:
        await crm.delete(1)
        account.move("INBOX", 2, "Archive")
    assert set(await settled(crm)) == {"applied"}
    assert [(m.raw, m.flags) for m in account.folders["Archive"].messages.values()] == [(mail(0), {"\\Flagged"})]
    assert await agrees(crm)


# Renamed.


async def test_a_folder_that_was_renamed_a_moment_ago(
    crm: Crm, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since the list of folders was read: what is put into it goes where it is now, and nothing is lost."""
    await crm.flags(5, add=["\\Flagged"])
    for n in (0, 1):
        await crm.move(n, "Work")
    id_ = await crm.append(60, "Work")
    select = MemoryConnection.select

    async def meanwhile(line: MemoryConnection, name: str) -> Selected:
        if "Work" in account.folders:
            account.rename_folder("Work", "Werk")
        return await select(line, name)

    monkeypatch.setattr(MemoryConnection, "select", meanwhile)
    assert set(await settled(crm)) == {"applied"}
    assert await crm.id(60) == id_
    assert {m.raw for m in account.folders["Werk"].messages.values()} == {mail(50), mail(0), mail(1), mail(60)}
    assert await agrees(crm)


@pytest.mark.parametrize("who", ["crm", "lost", "server", "both", "refused"])
async def test_a_folder_with_others_below_is_renamed_while_changes_in_them_wait(
    crm: Crm, account: MemoryAccount, who: str
) -> None:
    """Those asked for before, and those asked for behind it, in it and below it."""
    ids = {n: await crm.id(n) for n in (0, 1, 50, 51)}
    await crm.flags(50, add=["\\Flagged"])
    await crm.flags(51, add=["\\Flagged"])
    await crm.move(0, "Work/Old")
    if who != "server":
        await crm.rename("Work", "Jobs")
    await crm.flags(51, add=["\\Answered"])
    await crm.move(50, "Work/Old")
    await crm.move(1, "Work")
    ids[60] = await crm.append(60, "Work/Old")
    if who == "lost":
        account.faults.lose_answer = 3 if account.can_move else 5
        with pytest.raises(NetworkError):
            await again(crm)
        assert changes(account)[-1].startswith("RENAME")
    if who in ("server", "both"):
        account.rename_folder("Work", "Werk")
    if who == "refused":
        account.create_folder("Jobs")
    states = await settled(crm)
    assert [state for state in states if state != "applied"] == (["failed ALREADYEXISTS"] if who == "refused" else [])
    name = {"server": "Werk", "refused": "Work"}.get(who, "Jobs")
    inside = sorted((m.raw, sorted(m.flags)) for m in account.folders[f"{name}/Old"].messages.values())
    assert inside == sorted(
        [(mail(0), []), (mail(50), ["\\Flagged"]), (mail(51), ["\\Answered", "\\Flagged"]), (mail(60), [])]
    )
    assert [m.raw for m in account.folders[name].messages.values()] == [mail(1)]
    assert {n: await crm.id(n) for n in ids} == ids
    assert not [n for n in account.folders if n.startswith("Work")] or who == "refused"
    assert await agrees(crm)


# New numbers.


@pytest.mark.parametrize("target", [False, True])
async def test_renumbered_folders(crm: Crm, account: MemoryAccount, *, target: bool) -> None:
    ids = sorted(row.id for row in await crm.engine.rows("messages"))
    await crm.flags(0, add=["\\Flagged"])
    await crm.move(1, "Work")
    if account.uidplus:
        await crm.delete(2)
    account.expunge("INBOX", 6)
    account.change_uidvalidity("Work" if target else "INBOX")
    assert set(await settled(crm)) == {"applied"}
    assert await agrees(crm)
    assert {row.id for row in await crm.engine.rows("messages")} < set(ids)
    assert {m.raw for m in account.folders["Work"].messages.values()} == {mail(50), mail(1)}


@pytest.mark.parametrize("fault", ["lose_answer", "cut_before"])
@pytest.mark.parametrize("name", ["INBOX", "Work"])
async def test_renumbered_while_nobody_knew_what_was_done(
    crm: Crm, account: MemoryAccount, fault: str, name: str
) -> None:
    """After a lost answer nothing is known of the command, nor, by its number, of the message."""
    id_ = await crm.id(1)
    await crm.move(1, "Work")
    await crm.append(60, "Work")
    setattr(account.faults, fault, 0)
    with pytest.raises(NetworkError):
        await again(crm)
    account.change_uidvalidity(name)
    assert await settled(crm) == ["applied", "applied"]
    assert await agrees(crm)
    moved = [m.raw for m in account.folders["Work"].messages.values()]
    assert sorted(moved) == sorted([mail(50), mail(60), mail(1)])
    assert await crm.id(1) == id_
    assert len(await crm.engine.rows("messages")) == 9


@pytest.mark.parametrize("fault", ["lose_answer", "cut_before"])
async def test_an_append_whose_folder_was_renumbered(crm: Crm, account: MemoryAccount, fault: str) -> None:
    id_ = await crm.append(60, "Work", flags=["\\Seen"])
    setattr(account.faults, fault, 0)
    with pytest.raises(NetworkError):
        await again(crm)
    account.change_uidvalidity("Work")
    assert await settled(crm) == ["applied"]
    assert await crm.id(60) == id_
    assert [m.raw for m in account.folders["Work"].messages.values()].count(mail(60)) == 1
    assert await agrees(crm)


async def test_an_append_that_is_moved_on_before_it_is_known(crm: Crm, account: MemoryAccount) -> None:
    """The pass over the renumbered folder meets it there, though the CRM has it elsewhere by now."""
    if not account.can_move:
        pytest.skip("MOVE only")
    id_ = await crm.append(60, "Work")
    await crm.move(60, "Archive")
    account.faults.lose_answer = 0
    with pytest.raises(NetworkError):
        await again(crm)
    account.change_uidvalidity("Work")
    assert await settled(crm) == ["applied", "applied"]
    assert await crm.id(60) == id_
    assert [name for name, _ in await crm.stands(60)] == ["Archive"]
    assert await agrees(crm)


# Equal messages.


@pytest.mark.parametrize("fault", ["lose_answer", "cut_before", None])
async def test_equal_messages_are_moved_each_once(crm: Crm, account: MemoryAccount, fault: str | None) -> None:
    for _ in range(3):
        account.append("INBOX", mail(1), internal_date=NOW - DAY, flags=["\\Seen"])
    account.append("Archive", mail(1), internal_date=NOW - DAY)
    await again(crm)
    equal = [row for row in await crm.engine.rows("messages") if await crm.engine.raw(row) == mail(1)]
    assert len(equal) == 5
    inbox = await crm.folder("INBOX")
    standing = {row.message_id for row in await crm.engine.rows("origins") if row.folder_id == inbox}
    moved = sorted(row.id for row in equal if row.id in standing)[:3]
    for id_ in moved:
        await crm.move_id(id_, "Archive")
    if fault is not None:
        setattr(account.faults, fault, 0)
        with pytest.raises(NetworkError):
            await again(crm)
        account.append("Archive", mail(1), internal_date=NOW)
    assert set(await settled(crm)) == {"applied"}
    archive = account.folders["Archive"].messages
    assert len(archive) == 4 + (fault is not None)
    assert {row.id for row in equal} <= {row.id for row in await crm.engine.rows("messages")}
    assert await agrees(crm)
    assert len(await crm.engine.rows("messages")) == 12 + (fault is not None)


async def test_what_was_put_somewhere_is_not_fetched_there(crm: Crm, account: MemoryAccount) -> None:
    await crm.move(0, "Archive")
    await crm.append(60, "Archive")
    before = len(account.commands)
    assert await settled(crm) == ["applied", "applied"]
    assert "FETCH bodies" not in account.commands[before:]


async def test_a_move_that_follows_one_that_failed_begins_where_it_stayed(crm: Crm, account: MemoryAccount) -> None:
    if not account.can_move:
        pytest.skip("it refuses MOVE")
    await crm.move(0, "Archive")
    await crm.move(0, "Work")
    account.folders["Archive"].selectable = False
    assert await settled(crm) == ["failed folder_gone", "applied"]
    account.folders["Archive"].selectable = True
    await again(crm)
    assert [name for name, _ in await crm.stands(0)] == ["Work"]
