"""Operations under whose commands a person moves the message: it is deleted where it stands, and appended once."""

from __future__ import annotations

import pytest

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount
from connectors.memory.line import MemoryLine
from mailgate.actors import SYSTEM
from mailgate.clock import DAY
from mailgate.store.mailboxes import MailboxSpec
from tests.sync.crm import Crm
from tests.sync.engine import NOW, Opened, mail
from tests.sync.test_moved_meanwhile import before
from tests.sync.test_push import ABILITIES, again, agrees, changes, server, start
from tests.sync.test_push_meets import settled


@pytest.fixture(params=ABILITIES)
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    return server(**ABILITIES[request.param])


@pytest.fixture
async def crm(opened: Opened, account: MemoryAccount) -> Crm:
    return await start(opened, account)


def everywhere(account: MemoryAccount, raw: bytes) -> list[str]:
    """The folders in which this stands."""
    return sorted(name for name, folder in account.folders.items() for m in folder.messages.values() if m.raw == raw)


# Deletions.


@pytest.mark.parametrize("command", ["UID STORE", "UID EXPUNGE", "STATUS"])
@pytest.mark.parametrize("to", ["Archive", "INBOX"])
async def test_a_deletion_follows_a_move_under_its_command(
    crm: Crm, account: MemoryAccount, command: str, to: str
) -> None:
    """Before the mark, before the removal; into another folder, and out and back."""
    if not account.uidplus:
        pytest.skip("it needs UIDPLUS")
    await crm.delete(1)

    def move() -> None:
        if 2 in account.folders["INBOX"].messages:
            uid = account.move("INBOX", 2, "Archive")
            if to == "INBOX":
                account.move("Archive", uid, "INBOX")

    with before((command, move)):
        await again(crm)
    assert await settled(crm) == ["applied"]
    assert everywhere(account, mail(1)) == []
    assert await agrees(crm)
    assert len(await crm.engine.events("message.created")) == 8
    assert len(await crm.removals()) == 1


async def test_a_deletion_whose_answer_was_lost_follows_a_move(crm: Crm, account: MemoryAccount) -> None:
    if not account.uidplus:
        pytest.skip("it needs UIDPLUS")
    await crm.delete(1)
    account.faults.lose_answer = 0  # of the mark
    with pytest.raises(NetworkError):
        await again(crm)
    account.move("INBOX", 2, "Archive")
    assert await settled(crm) == ["applied"]
    assert everywhere(account, mail(1)) == []
    assert await agrees(crm)


async def test_mail_that_comes_at_the_same_time_only_delays_a_deletion(crm: Crm, account: MemoryAccount) -> None:
    if not account.uidplus:
        pytest.skip("it needs UIDPLUS")
    await crm.delete(1)
    with before(("UID EXPUNGE", lambda: account.append("Work", mail(70), internal_date=NOW))):
        await again(crm)
    assert await crm.states() == ["applied"]
    assert await agrees(crm)
    assert len([command for command in changes(account) if command.startswith("UID EXPUNGE")]) == 1


# Appends.


@pytest.mark.parametrize("moves", [1, 2])
async def test_an_append_whose_message_was_moved_on_at_once(crm: Crm, account: MemoryAccount, moves: int) -> None:
    """Its answer is lost, and when somebody looks for it in the folder, a person has it elsewhere."""
    id_ = await crm.append(60, "Work")
    account.faults.lose_answer = 0
    with pytest.raises(NetworkError):
        await again(crm)
    uid = account.move("Work", 2, "Archive")
    if moves == 2:
        account.move("Archive", uid, "INBOX")
    assert await settled(crm) == ["applied"]
    assert everywhere(account, mail(60)) == ["Archive" if moves == 1 else "INBOX"]
    assert await crm.id(60) == id_
    assert await agrees(crm)
    (told,) = await crm.engine.events("message.moved")
    assert told.payload["from_folder_id"] == await crm.folder("Work")
    assert told.payload["folder_id"] == await crm.folder(everywhere(account, mail(60))[0])


async def test_an_append_that_was_deleted_since_and_moved_on_is_followed(crm: Crm, account: MemoryAccount) -> None:
    """It is met under its own id; what can't be deleted for ever there is shown again."""
    id_ = await crm.append(60, "Work")
    await crm.delete(60)
    account.faults.lose_answer = 0
    with pytest.raises(NetworkError):
        await again(crm)
    account.move("Work", 2, "Archive")
    assert await settled(crm) == ["applied", "applied" if account.uidplus else "failed no_uidplus"]
    assert everywhere(account, mail(60)) == ([] if account.uidplus else ["Archive"])
    if not account.uidplus:
        assert await crm.id(60) == id_
    assert await agrees(crm)
    assert len(await crm.engine.rows("messages")) == 8 + (not account.uidplus)


async def test_an_append_that_was_not_done_is_done_after_a_look(crm: Crm, account: MemoryAccount) -> None:
    id_ = await crm.append(60, "Work")
    account.faults.cut_before = 0
    with pytest.raises(NetworkError):
        await again(crm)
    await again(crm)
    assert await crm.states() == ["applied"]
    assert everywhere(account, mail(60)) == ["Work"]
    assert await crm.id(60) == id_


# Moves in two halves.


@pytest.mark.parametrize("gone", [False, True])
async def test_a_message_that_is_taken_away_between_the_halves_of_its_move(opened: Opened, *, gone: bool) -> None:
    """The copy goes again: what the person did counts."""
    account = server(move=False)
    crm = await start(opened, account)
    id_ = await crm.id(1)
    await crm.move(1, "Work")
    copied = False
    real = MemoryLine._step

    async def step(line: MemoryLine, command: str | None) -> None:
        nonlocal copied
        if copied and command is not None and command.startswith("SELECT"):
            copied = False
            (account.expunge("INBOX", 2) if gone else account.move("INBOX", 2, "Archive"))
        copied |= command is not None and command.startswith("UID COPY")
        await real(line, command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryLine, "_step", step)
        await again(crm)
    assert await settled(crm) == ["failed gone_at_server" if gone else "failed moved_at_server"]
    assert everywhere(account, mail(1)) == ([] if gone else ["Archive"])
    assert await agrees(crm)
    if not gone:
        assert await crm.id(1) == id_
    assert len(await crm.engine.events("message.created")) == 8


@pytest.mark.parametrize("done", [True, False])
async def test_what_is_purged_before_it_is_known_whether_it_was_copied_does_not_return(
    opened: Opened, *, done: bool
) -> None:
    """It stands twice by then, or once: neither is fetched again, and what else comes is."""
    account = server(move=False)
    crm = await start(opened, account)
    await crm.move(1, "Work")
    if done:
        account.faults.lose_answer = 0
    else:
        account.faults.cut_before = 0
    with pytest.raises(NetworkError):
        await again(crm)
    assert everywhere(account, mail(1)) == (["INBOX", "Work"] if done else ["INBOX"])
    await crm.engine.plan("free")
    crm.engine.clock.advance(60)
    await crm.engine.purge()
    assert await crm.engine.rows("messages") == []
    await crm.engine.plan("professional")
    account.append("Work", mail(70), internal_date=crm.engine.clock())
    for _ in range(3):
        await again(crm)
    assert [row.id for row in await crm.engine.rows("messages")] == [await crm.id(70)]
    assert await crm.states() == ["failed purged"]
    assert everywhere(account, mail(1)) == (["INBOX", "Work"] if done else ["INBOX"])


async def test_what_may_stand_twice_when_its_mailbox_is_removed_does_not_return(opened: Opened) -> None:
    account = server(move=False)
    crm = await start(opened, account)
    engine = crm.engine
    await crm.move(1, "Work")
    account.faults.lose_answer = 0
    with pytest.raises(NetworkError):
        await again(crm)
    assert everywhere(account, mail(1)) == ["INBOX", "Work"]
    before = await engine.mailboxes.get(engine.tenant_id, engine.mailbox_id)
    await engine.mailboxes.remove(engine.tenant_id, engine.mailbox_id, engine.clock(), SYSTEM)
    await engine.purge()
    assert await engine.rows("messages") == []
    spec = MailboxSpec(before.address, before.imap, {"imap": {"password": "secret"}})
    engine.mailbox_id = (await engine.mailboxes.create(engine.tenant_id, spec, engine.clock(), SYSTEM)).id
    account.append("Work", mail(70), internal_date=engine.clock())
    for _ in range(2):
        await again(crm)
    assert [row.id for row in await engine.rows("messages")] == [await crm.id(70)]


@pytest.mark.parametrize("way", [["Archive"], ["Work"], ["Archive", "INBOX"], ["Archive", "Work", "Trash"]])
@pytest.mark.parametrize("cut", [False, True])
async def test_a_message_that_is_moved_on_with_our_mark(opened: Opened, way: list[str], *, cut: bool) -> None:
    """It is known by the mark, and does not keep it: another client would remove it for ever."""
    account = server(move=False)
    crm = await start(opened, account)
    id_ = await crm.id(1)
    await crm.move(1, "Work")

    def move() -> None:
        at, uid = "INBOX", 2
        for to in way:
            uid = account.move(at, uid, to)
            at = to
        account.faults.lose_answer = 0 if cut else None

    with before(("UID EXPUNGE", move)):
        if cut:
            with pytest.raises(NetworkError):
                await again(crm)
        else:
            await again(crm)
    ended = "applied" if way[-1] in ("Work", "INBOX") else "failed moved_at_server"
    assert await settled(crm) == [ended]
    assert everywhere(account, mail(1)) == ["Work" if ended == "applied" else way[-1]]
    assert await crm.id(1) == id_
    assert "\\Deleted" not in {
        flag for at in account.folders.values() for m in at.messages.values() for flag in m.flags
    }
    assert await agrees(crm)
    assert len(await crm.engine.events("message.created")) == 8


async def test_our_mark_is_taken_off_though_the_line_is_cut_again_and_again(opened: Opened) -> None:
    account = server(move=False)
    crm = await start(opened, account)
    await crm.move(1, "Work")

    def cut() -> None:
        account.faults.cut_before = 0

    with before(
        ("UID EXPUNGE", lambda: account.move("INBOX", 2, "Archive")),
        ("UID EXPUNGE", cut),  # of what was copied
        ("UID STORE", lambda: None),
        ("UID STORE 1 -FLAGS", cut),
        ("UID STORE 1 -FLAGS", cut),
    ):
        for _ in range(3):
            with pytest.raises(NetworkError):
                await again(crm)
        assert await settled(crm) == ["failed moved_at_server"]
    assert everywhere(account, mail(1)) == ["Archive"]
    assert [m.flags for m in account.folders["Archive"].messages.values()] == [frozenset({"\\Seen"})]
    assert await agrees(crm)


async def test_equal_messages_in_a_renumbered_folder_are_counted(opened: Opened) -> None:
    """One that stood there before is not taken for the copy that was not made."""
    account = server(move=False)
    account.append("Work", mail(1), internal_date=NOW - DAY, flags=["\\Seen"])
    crm = await start(opened, account)
    inbox = await crm.folder("INBOX")
    (id_,) = [r.message_id for r in await crm.engine.rows("origins") if (r.folder_id, r.uid) == (inbox, 2)]
    await crm.move_id(id_, "Work")
    account.faults.cut_before = 0
    with pytest.raises(NetworkError):
        await again(crm)
    account.change_uidvalidity("Work")
    assert await settled(crm) == ["applied"]
    assert everywhere(account, mail(1)) == ["Work", "Work"]
    assert await agrees(crm)
    assert len(await crm.engine.rows("messages")) == 9
