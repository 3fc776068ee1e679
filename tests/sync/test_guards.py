"""Improbable deletions: refused, explained, approved one by one, and given up when the mail turns up again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from connectors.memory import MemoryAccount
from connectors.model import SpecialUse
from mailgate.actors import Actor
from mailgate.clock import DAY, HOUR, Instant
from mailgate.errors import ConflictError, NotFoundError
from mailgate.store import guards as guard_rows
from mailgate.store.guards import Guard
from mailgate.store.prune import prune
from mailgate.store.schema import folders, messages, origins
from mailgate.store.transaction import Transaction
from mailgate.sync.actions import Settlement
from mailgate.sync.guards import Outcome
from mailgate.sync.incoming import Applied
from mailgate.sync.state import Owner
from tests.sync.engine import NOW, Engine, mail

WHO = Actor("token", "admin-1")


@pytest.fixture(params=["qresync", "plain"])
def account(request: pytest.FixtureRequest) -> MemoryAccount:
    """A server with an archive of 200 messages and some other mail."""
    account = MemoryAccount(condstore=request.param == "qresync", qresync=request.param == "qresync")
    account.create_folder("Archive", special_use=SpecialUse.ARCHIVE)
    account.create_folder("Trash", special_use=SpecialUse.TRASH)
    for n in range(6):
        account.append("INBOX", mail(n), internal_date=NOW - DAY)
    for n in range(100, 300):
        account.append("Archive", mail(n), internal_date=NOW - DAY)
    return account


async def again(engine: Engine, seconds: float = 600) -> None:
    engine.clock.advance(seconds)
    await engine.sync()


def expunge(account: MemoryAccount, folder: str, uids: Sequence[int] | None = None) -> None:
    for uid in list(account.folders[folder].messages) if uids is None else uids:
        account.expunge(folder, uid)


async def guards_of(engine: Engine, open_: bool | None = None) -> list[Guard]:
    page = await guard_rows.list_page(engine.db, "acme", engine.mailbox_id, open_=open_, limit=100)
    return list(page.items)


async def approve(engine: Engine, guard: Guard) -> Guard:
    return await guard_rows.approve(engine.db, "acme", engine.mailbox_id, guard.id, now=engine.clock(), actor=WHO)


async def mailbox(engine: Engine) -> Any:
    return (await engine.rows("mailboxes"))[0]


async def told(engine: Engine) -> list[tuple[str, str]]:
    found = await engine.events("mailbox.guard_refused", "mailbox.guard_approved", "mailbox.guard_closed")
    return [(row.type.removeprefix("mailbox.guard_"), row.payload["guard_id"]) for row in found]


async def test_an_emptied_folder_is_refused_explained_approved_and_gone(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    expunge(account, "Archive")
    account.expunge("INBOX", 1)
    account.append("INBOX", mail(7), internal_date=NOW)
    await again(engine)
    assert len(await engine.rows("messages")) == 206  # INBOX goes on: one gone, one new
    (guard,) = await guards_of(engine)
    assert (guard.folder, guard.known, guard.gone, guard.outcome) == ("Archive", 200, 200, None)
    assert guard.reason.startswith("the folder 'Archive' is empty at the server, where 200 messages stood")
    assert (await mailbox(engine)).state == "needs_approval"
    assert (await mailbox(engine)).state_reason == guard.reason
    (event,) = await engine.events("mailbox.guard_refused")
    assert event.payload == {"guard_id": guard.id, "folder_id": guard.folder_id, "known": 200, "gone": 200}
    await again(engine)
    assert [item.id for item in await guards_of(engine)] == [guard.id]  # the same evidence is the same guard
    approved = await approve(engine, guard)
    assert (approved.approved_by, approved.closed_at) == ("token:admin-1", None)
    assert len(await engine.rows("messages")) == 206
    await again(engine)
    assert len(await engine.rows("messages")) == 6
    (closed,) = await guards_of(engine)
    assert (closed.outcome, closed.approved_by) == (Outcome.CARRIED_OUT, "token:admin-1")
    assert (await mailbox(engine)).state == "live"
    assert await told(engine) == [("refused", guard.id), ("approved", guard.id), ("closed", guard.id)]
    assert len(await engine.events("message.deleted")) == 201
    assert (await approve(engine, guard)).outcome is Outcome.CARRIED_OUT  # repeating it changes nothing
    assert len(await told(engine)) == 3


async def test_what_turns_up_again_closes_the_guard(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    before = {row.id for row in await engine.rows("messages")}
    lost = dict(account.folders["Archive"].messages)
    expunge(account, "Archive")
    await again(engine)
    (guard,) = await guards_of(engine)
    for message in lost.values():  # restored from a backup: new UIDs
        account.append("Archive", message.raw, internal_date=message.internal_date, flags=message.flags)
    await again(engine)
    assert {row.id for row in await engine.rows("messages")} == before
    assert await engine.near() == engine.far()
    assert [item.outcome for item in await guards_of(engine)] == [Outcome.RESTORED]
    assert (await mailbox(engine)).state == "live"
    assert not await engine.events("message.deleted")
    with pytest.raises(ConflictError) as refused:
        await approve(engine, guard)
    assert refused.value.slug == "guard_changed"


async def test_what_turns_up_again_but_for_a_few_is_no_longer_improbable(
    engine: Engine, account: MemoryAccount
) -> None:
    await engine.sync()
    lost = [account.folders["Archive"].messages[uid] for uid in range(1, 101)]
    expunge(account, "Archive", range(1, 101))
    await again(engine)
    assert len(await guards_of(engine, True)) == 1
    for message in lost[20:]:
        account.append("Archive", message.raw, internal_date=message.internal_date, flags=message.flags)
    await again(engine)
    assert [item.outcome for item in await guards_of(engine)] == [Outcome.RESTORED]
    assert len(await engine.rows("messages")) == 186
    assert await engine.near() == engine.far()
    assert (await mailbox(engine)).state == "live"


async def test_changed_evidence_is_a_new_guard(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    expunge(account, "Archive", range(1, 101))
    await again(engine)
    (first,) = await guards_of(engine)
    await approve(engine, first)
    expunge(account, "Archive", range(101, 111))
    await again(engine)
    assert len(await engine.rows("messages")) == 206  # the approval was for other messages
    second, old = await guards_of(engine)
    assert (old.id, old.outcome, second.outcome) == (first.id, Outcome.CHANGED, None)
    assert (second.known, second.gone) == (200, 110)
    assert [item.id for item in await guards_of(engine, True)] == [second.id]
    assert [item.id for item in await guards_of(engine, False)] == [first.id]
    with pytest.raises(ConflictError, match="no longer what this guard names"):
        await approve(engine, first)
    await approve(engine, second)
    await again(engine)
    assert len(await engine.rows("messages")) == 96
    assert (await mailbox(engine)).state == "live"


async def test_evidence_that_changed_since_the_guard_was_seen_is_not_approved(
    engine: Engine, account: MemoryAccount
) -> None:
    await engine.sync()
    expunge(account, "Archive")
    await again(engine)
    (guard,) = await guards_of(engine)

    async def one_is_back(tx: Transaction) -> None:
        mine = (origins.c.folder_id == guard.folder_id) & (origins.c.uid == 5)
        await tx.conn.execute(update(origins).where(mine).values(vanished_at=None))

    await engine.db.transact(one_is_back)
    with pytest.raises(ConflictError) as refused:
        await approve(engine, guard)
    assert refused.value.slug == "guard_changed"
    assert (await guards_of(engine))[0].approved_at is None


async def test_guards_are_the_mailboxs_own(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    expunge(account, "Archive")
    await again(engine)
    (guard,) = await guards_of(engine)
    for tenant_id, mailbox_id, guard_id in (
        ("other", engine.mailbox_id, guard.id),
        ("acme", guard.id, guard.id),
        ("acme", engine.mailbox_id, engine.mailbox_id),
    ):
        with pytest.raises(NotFoundError):
            await guard_rows.approve(engine.db, tenant_id, mailbox_id, guard_id, now=engine.clock(), actor=WHO)


async def test_a_pin_and_a_hold_keep_their_copies_from_an_approval(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    expunge(account, "Archive")
    await again(engine)
    (guard,) = await guards_of(engine)
    await approve(engine, guard)
    gone = await engine.rows("origins", lambda c: c.vanished_at.is_not(None))
    await engine.pin(gone[0].message_id)
    await again(engine)
    left = {row.id for row in await engine.rows("messages")}
    assert len(left) == 7
    assert gone[0].message_id in left
    assert [item.outcome for item in await guards_of(engine)] == [Outcome.CARRIED_OUT]


async def test_an_approval_that_was_cut_goes_on_with_the_same_messages(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.sync()
    expunge(account, "Archive", range(1, 151))
    await again(engine)
    (guard,) = await guards_of(engine)
    await approve(engine, guard)
    monkeypatch.setattr("mailgate.sync.settling.SETTLE", 40)
    settle = engine.store.settle
    calls = 0

    async def cut(owner: Owner, settlements: Sequence[Settlement], now: Instant, believed: Any) -> Applied:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("killed here")
        return await settle(owner, settlements, now, believed)

    monkeypatch.setattr(engine.store, "settle", cut)
    with pytest.raises(RuntimeError, match="killed here"):
        await again(engine)
    monkeypatch.undo()
    assert len(await engine.rows("messages")) == 166
    expunge(account, "Archive", range(151, 154))
    await again(engine)
    assert len(await engine.rows("messages")) == 56  # what was approved, and not these
    assert [item.outcome for item in await guards_of(engine)] == [Outcome.CARRIED_OUT]
    await again(engine)
    assert len(await engine.rows("messages")) == 53  # three of 53 are believed for their own sake
    assert (await mailbox(engine)).state == "live"


async def test_a_folder_that_is_no_more_is_refused_as_one_that_is_empty(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    account.delete_folder("Archive")
    await again(engine)
    assert len(await engine.rows("messages")) == 206
    (guard,) = await guards_of(engine)
    assert guard.reason.startswith("the folder 'Archive' is no more at the server, where 200 messages stood")
    await approve(engine, guard)
    await again(engine)
    assert len(await engine.rows("messages")) == 6


async def test_a_drain_in_slices_is_noticed(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    for first in (1, 60):
        expunge(account, "Archive", range(first, first + 58))  # 29 % of what stands, each time
        await again(engine)
    assert len(await engine.rows("messages")) == 206 - 58
    (guard,) = await guards_of(engine)
    assert guard.reason.startswith("116 of 200 messages are gone from the folder 'Archive' at the server within an ho")
    assert (await mailbox(engine)).state == "needs_approval"


async def test_slices_hours_apart_are_a_person_who_tidies_up(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    for first in (1, 60, 110):
        expunge(account, "Archive", range(first, first + 40))
        await again(engine, HOUR / 1e6)
    assert len(await engine.rows("messages")) == 206 - 120
    assert await guards_of(engine) == []
    (archive,) = [row for row in await engine.rows("folders") if row.name == "Archive"]
    assert [count for _, count in archive.believed] == [40]


async def test_many_small_folders_that_are_empty_at_once(engine: Engine, account: MemoryAccount) -> None:
    for n in range(8):
        account.create_folder(f"Project {n}")
        for m in range(20):
            account.append(f"Project {n}", mail(1000 + 20 * n + m), internal_date=NOW)
    await engine.sync()
    for n in range(8):
        expunge(account, f"Project {n}")
    await again(engine)
    assert len(await engine.rows("messages")) == 366
    found = await guards_of(engine)
    assert {guard.folder for guard in found} == {f"Project {n}" for n in range(8)}
    account.expunge("INBOX", 1)
    await again(engine)
    assert len(await engine.rows("messages")) == 365  # everything else goes on
    await approve(engine, found[0])
    await again(engine)
    assert len(await engine.rows("messages")) == 345  # one by one
    assert len(await guards_of(engine, True)) == 7


async def test_trash_is_emptied_without_a_question(engine: Engine, account: MemoryAccount) -> None:
    for n in range(1000, 1100):
        account.append("Trash", mail(n), internal_date=NOW)
    await engine.sync()
    expunge(account, "Trash")
    await again(engine)
    assert len(await engine.rows("messages")) == 206
    assert await guards_of(engine) == []


async def test_moved_mail_is_no_deletion(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    for uid in list(account.folders["Archive"].messages):
        account.move("Archive", uid, "INBOX")
    await again(engine)
    assert len(await engine.rows("messages")) == 206
    assert await guards_of(engine) == []
    assert await engine.near() == engine.far()


@pytest.mark.parametrize("wish", ["deleted_at", "moving_to"])
async def test_what_the_crm_asked_for_is_no_evidence(engine: Engine, account: MemoryAccount, wish: str) -> None:
    await engine.sync()
    (trash,) = [row for row in await engine.rows("folders") if row.name == "Trash"]
    archive = select(folders.c.id).where(folders.c.name == "Archive").scalar_subquery()
    asked = select(origins.c.message_id).where(origins.c.folder_id == archive, origins.c.uid <= 150)

    async def ask(tx: Transaction) -> None:
        value = engine.clock() if wish == "deleted_at" else trash.id
        await tx.conn.execute(update(messages).where(messages.c.id.in_(asked)).values({wish: value}))

    await engine.db.transact(ask)
    expunge(account, "Archive", range(1, 181))
    await again(engine)
    assert await guards_of(engine) == []
    assert (await mailbox(engine)).state == "live"
    (archive,) = [row for row in await engine.rows("folders") if row.name == "Archive"]
    assert [count for _, count in archive.believed] == [30]


async def test_a_copy_that_the_purge_takes_meanwhile_makes_another_guard(
    engine: Engine, account: MemoryAccount
) -> None:
    await engine.sync()
    expunge(account, "Archive")
    await again(engine)
    (guard,) = await guards_of(engine)

    async def purged(tx: Transaction) -> None:
        await tx.conn.execute(delete(origins).where(origins.c.folder_id == guard.folder_id, origins.c.uid == 1))

    await engine.db.transact(purged)
    await again(engine)
    second, first = await guards_of(engine)
    assert (first.outcome, second.gone) == (Outcome.CHANGED, 199)
    async with engine.db.read() as conn:
        assert len((await conn.execute(select(origins))).all()) == 205


async def test_old_guards_are_forgotten_once_they_are_closed(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    expunge(account, "Archive", range(1, 101))
    await again(engine)
    expunge(account, "Archive", range(101, 111))
    await again(engine)
    assert [item.outcome for item in await guards_of(engine)] == [None, Outcome.CHANGED]
    for days, left in ((399, 2), (401, 1)):
        await prune(engine.db, engine.clock() + days * DAY, longest_days=90, idempotency_hours=24)
        assert len(await guards_of(engine)) == left
    assert [item.outcome for item in await guards_of(engine)] == [None]


async def test_an_older_guard_waits_while_the_folder_waits(engine: Engine, account: MemoryAccount) -> None:
    """More went, and nobody knows yet whether it was moved: the guard that stands is neither closed nor replaced."""
    await engine.sync()
    expunge(account, "Archive", range(1, 101))
    await again(engine)
    (guard,) = await guards_of(engine)
    account.faults.refuse.add("Trash")  # can't be looked at
    expunge(account, "Archive", range(101, 111))
    await again(engine)
    assert [item.id for item in await guards_of(engine)] == [guard.id]
    assert (await mailbox(engine)).state == "needs_approval"
    account.faults.refuse.clear()
    await again(engine)
    assert [item.outcome for item in await guards_of(engine)] == [None, Outcome.CHANGED]
