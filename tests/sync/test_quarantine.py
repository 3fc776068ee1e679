"""One broken message never stops a folder: it is set aside, its bytes are kept if they came, and it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from connectors.errors import FolderGoneError, NetworkError
from connectors.memory import MemoryAccount
from mailgate.actors import SYSTEM
from mailgate.clock import DAY, system_clock
from mailgate.errors import NotFoundError
from mailgate.messages.model import Summary
from mailgate.settings import SyncSettings
from mailgate.store import quarantine as entries
from mailgate.store.mailboxes import MailboxPatch
from mailgate.store.quarantine import Entry
from mailgate.store.search import Indexer
from mailgate.sync import prepare, retries
from mailgate.sync.context import Context
from mailgate.sync.incoming import Applied, Aside, Batch, Cause
from mailgate.sync.port import BatchRefusedError
from mailgate.sync.state import Owner
from tests.sync.engine import NOW, Engine, Opened, mail
from tests.sync.test_supervisor import is_
from tests.waiting import until


async def again(engine: Engine) -> None:
    engine.clock.advance(600)
    await engine.sync()


async def aside(engine: Engine) -> list[Entry]:
    page = await entries.list_page(engine.db, "acme", engine.mailbox_id, limit=100)
    return list(page.items)


async def ask(engine: Engine, entry: Entry) -> Entry:
    return await entries.ask(engine.db, "acme", engine.mailbox_id, entry.id, engine.clock())


def breaks(monkeypatch: pytest.MonkeyPatch, subject: bytes) -> None:
    """From now on reading a message of this subject breaks."""
    read = prepare.parse_summary

    def broken(raw: bytes, *, whole_size: int | None = None) -> Summary:
        if subject in raw:
            raise RecursionError
        return read(raw, whole_size=whole_size)

    monkeypatch.setattr(prepare, "parse_summary", broken)


@pytest.fixture
def mailed(account: MemoryAccount) -> MemoryAccount:
    """Some mail, the second of which is the one that matters."""
    for n in range(1, 5):
        account.append("INBOX", mail(n, extra="X-Odd: yes\r\n" if n == 2 else ""), internal_date=NOW - DAY)
    return account


async def test_bytes_that_cannot_be_read_are_kept_as_a_copy(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        breaks(patch, b"X-Odd")
        await engine.sync()
    assert len(await engine.rows("messages")) == 4
    assert await engine.near() == engine.far()
    (entry,) = await aside(engine)
    assert (entry.cause, entry.folder, entry.uid, entry.attempts) == (Cause.UNREADABLE, "INBOX", 2, 1)
    assert entry.reason == "it can't be read: RecursionError; its bytes are kept"
    (copy,) = await engine.rows("messages", lambda c: c.id == entry.message_id)
    assert await engine.raw(copy) == mailed.folders["INBOX"].messages[2].raw
    assert entry.size == copy.size
    assert await engine.summary(copy) == Summary(defects=("unread",))
    assert (copy.thread_id, copy.msgid_token) == (copy.id, None)
    await again(engine)
    assert [item.attempts for item in await aside(engine)] == [1]  # nothing has changed: it is not tried again

    await Indexer(engine.db, engine.ring, engine.blobs, engine.clock, "x").work()
    await ask(engine, entry)
    commands = len(mailed.commands)
    await engine.sync()
    assert "FETCH bodies" not in mailed.commands[commands:]  # the bytes are here
    assert await aside(engine) == []
    (mended,) = await engine.rows("messages", lambda c: c.id == entry.message_id)
    assert (await engine.summary(mended)).subject == "Number 2"
    assert (mended.indexed, mended.blob_id, mended.anchor_at) == (False, copy.blob_id, copy.anchor_at)
    assert mended.msgid_token is not None
    (event,) = await engine.events("message.updated")
    assert event.payload == {"anchor_at": copy.anchor_at, "expires_at": copy.anchor_at + 90 * DAY}
    assert len(await engine.events("message.created")) == 4


async def test_a_copy_that_could_be_read_at_last_joins_its_thread(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.append("INBOX", mail(1), internal_date=NOW - DAY)
    account.append("INBOX", mail(2, extra="X-Odd: yes\r\nIn-Reply-To: <1@example.org>\r\n"), internal_date=NOW - DAY)
    account.append("INBOX", mail(3, extra="In-Reply-To: <2@example.org>\r\n"), internal_date=NOW - DAY)
    with monkeypatch.context() as patch:
        breaks(patch, b"X-Odd")
        await engine.sync()
    assert len({row.thread_id for row in await engine.rows("messages")}) == 3
    (entry,) = await aside(engine)
    await ask(engine, entry)
    await engine.sync()
    assert len({row.thread_id for row in await engine.rows("messages")}) == 1


async def test_a_retry_that_fails_says_so_and_is_not_repeated(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch, b"X-Odd")
    await engine.sync()
    (entry,) = await aside(engine)
    assert (await ask(engine, entry)).retry_at is not None
    await again(engine)
    await again(engine)
    (tried,) = await aside(engine)
    assert (tried.attempts, tried.retry_at, tried.first_seen_at) == (2, None, entry.first_seen_at)
    assert tried.last_seen_at > entry.last_seen_at


async def test_bytes_that_are_lost_are_said_to_be(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch, b"X-Odd")
    await engine.sync()
    (entry,) = await aside(engine)
    with monkeypatch.context() as patch:
        patch.setattr("mailgate.blobs.store.BlobStore.read", failing_read)
        await ask(engine, entry)
        await engine.sync()
    assert (await aside(engine))[0].reason == "its bytes can't be had: the disk is gone"


async def failing_read(*_: object) -> Any:
    from mailgate.blobs.errors import BlobStoreError

    raise BlobStoreError("the disk is gone")
    yield b""


async def test_a_new_version_tries_everything_once(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailed.faults.withheld.add(("INBOX", 3))
    with monkeypatch.context() as patch:
        breaks(patch, b"X-Odd")
        await engine.sync()
    assert {entry.cause for entry in await aside(engine)} == {Cause.UNREADABLE, Cause.NOT_SENT}
    monkeypatch.setattr(entries, "BUILD", "9.9.9")
    await again(engine)
    (left,) = await aside(engine)
    assert (left.cause, left.attempts) == (Cause.NOT_SENT, 2)
    await again(engine)
    assert (await aside(engine))[0].attempts == 2


async def test_a_purge_takes_unreadable_bytes_as_any_copy(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch, b"X-Odd")
    await engine.sync()
    (entry,) = await aside(engine)
    engine.clock.advance(90 * 86_400)
    await engine.purge()
    assert await engine.rows("messages") == []
    assert await aside(engine) == []
    assert await engine.rows("blobs") == []
    (copy_event,) = [row for row in await engine.events("message.purged") if row.message_id == entry.message_id]
    async with engine.db.read() as conn:
        leaves = (await conn.exec_driver_sql("SELECT type FROM log_leaves")).scalars().all()
    assert leaves.count("item.purge") == 4
    await again(engine)
    assert await engine.rows("messages") == []  # and it is not fetched again
    assert copy_event.payload["reason"] == "age"


async def test_unreadable_bytes_can_be_pinned(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch, b"X-Odd")
    await engine.sync()
    (entry,) = await aside(engine)
    assert entry.message_id is not None
    await engine.pin(entry.message_id)
    mailed.expunge("INBOX", 2)
    await again(engine)
    engine.clock.advance(90 * 86_400)
    await engine.purge()
    assert [row.id for row in await engine.rows("messages")] == [entry.message_id]
    assert [item.id for item in await aside(engine)] == [entry.id]
    monkeypatch.undo()
    await ask(engine, entry)
    await engine.sync()  # the original is gone, but the bytes are here
    assert await aside(engine) == []


async def test_an_unreadable_message_goes_with_its_original(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch, b"X-Odd")
    await engine.sync()
    mailed.expunge("INBOX", 2)
    await again(engine)
    assert await aside(engine) == []
    assert len(await engine.rows("messages")) == 3


async def test_an_unreadable_message_that_moves_stays_one(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch, b"X-Odd")
    mailed.create_folder("Archive")
    await engine.sync()
    (entry,) = await aside(engine)
    mailed.move("INBOX", 2, "Archive")
    await again(engine)
    mailed.change_uidvalidity("Archive")
    await again(engine)
    assert [item.message_id for item in await aside(engine)] == [entry.message_id]
    assert len(await engine.rows("messages")) == 4
    assert await engine.near() == engine.far()


Refuses = Callable[[Batch], bool]


def refusing(engine: Engine, monkeypatch: pytest.MonkeyPatch, refuses: Refuses) -> None:
    """The database refuses such batches."""
    commit = engine.store.commit

    async def refuse(owner: Owner, batch: Batch) -> Applied:
        if refuses(batch):
            raise BatchRefusedError("DataError")
        return await commit(owner, batch)

    monkeypatch.setattr(engine.store, "commit", refuse)


async def test_what_the_database_refuses_is_kept_without_what_it_says(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(engine, monkeypatch, lambda batch: any(m.uid == 2 and m.msgid_token is not None for m in batch.messages))
    await engine.sync()
    monkeypatch.undo()
    assert await engine.near() == engine.far()
    (entry,) = await aside(engine)
    assert (entry.cause, entry.reason) == (Cause.REFUSED, "the database refused what it says; its bytes are kept")
    (copy,) = await engine.rows("messages", lambda c: c.id == entry.message_id)
    assert await engine.raw(copy) == mailed.folders["INBOX"].messages[2].raw
    await ask(engine, entry)
    await engine.sync()
    assert await aside(engine) == []
    (copy,) = await engine.rows("messages", lambda c: c.id == entry.message_id)
    assert (await engine.summary(copy)).subject == "Number 2"


async def test_what_the_database_refuses_altogether_is_set_aside_and_can_be_fetched_again(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(engine, monkeypatch, lambda batch: any(message.uid == 2 for message in batch.messages))
    await engine.sync()
    monkeypatch.undo()
    assert len(await engine.rows("messages")) == 3
    (entry,) = await aside(engine)
    assert (entry.cause, entry.message_id, entry.attempts) == (Cause.REFUSED, None, 1)
    assert len(await engine.rows("blobs")) == 3
    await ask(engine, entry)
    await engine.sync()
    assert await engine.near() == engine.far()
    assert await aside(engine) == []
    assert len(await engine.events("message.created")) == 4


async def test_a_real_refusal_of_the_database(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that the column does not take."""
    read = prepare._read

    def of_unknown_files(raw: bytes, size: int) -> Any:
        reading = read(raw, size)
        return replace(reading, has_files=None) if reading.msgid == b"<2@example.org>" else reading  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "_read", of_unknown_files)
    await engine.sync()
    assert len(await engine.rows("messages")) == 4
    (entry,) = await aside(engine)
    assert entry.cause is Cause.REFUSED


async def test_a_raised_limit_is_tried_by_itself(opened: Opened) -> None:
    account = MemoryAccount()
    account.append("INBOX", mail(1, body="x" * (2 << 20)), internal_date=NOW)
    account.append("INBOX", mail(2), internal_date=NOW)
    engine = await opened(account, settings=SyncSettings(max_message_bytes=1 << 20))
    await engine.sync()
    (entry,) = await aside(engine)
    assert (entry.cause, entry.message_id) == (Cause.TOO_LARGE, None)
    assert entry.size == len(account.folders["INBOX"].messages[1].raw)
    await ask(engine, entry)
    await again(engine)
    assert [item.attempts for item in await aside(engine)] == [2]  # still too large
    engine.settings = SyncSettings(max_message_bytes=4 << 20)
    await again(engine)
    assert await aside(engine) == []
    assert await engine.near() == engine.far()


@pytest.mark.parametrize("token", [True, False])
async def test_entries_follow_a_new_uidvalidity(opened: Opened, token: bool) -> None:
    account = MemoryAccount()
    account.append("INBOX", mail(2), internal_date=NOW)
    account.append("INBOX", mail(1, body="x" * (2 << 20)), internal_date=NOW)
    engine = await opened(account, settings=SyncSettings(max_message_bytes=1 << 20))
    if not token:
        account.faults.withheld.add(("INBOX", 2))
    await engine.sync()
    (entry,) = await aside(engine)
    account.expunge("INBOX", 1)
    account.faults.withheld.clear()
    account.change_uidvalidity("INBOX")
    await again(engine)
    (followed,) = await aside(engine)
    assert followed.uid == 1
    assert followed.uidvalidity == account.folders["INBOX"].uidvalidity
    assert (followed.id == entry.id, followed.attempts) == ((True, 2) if token else (False, 1))


async def test_entries_go_with_the_original(engine: Engine, mailed: MemoryAccount) -> None:
    mailed.create_folder("Old")
    mailed.append("Old", mail(9), internal_date=NOW)
    mailed.faults.withheld |= {("INBOX", 2), ("INBOX", 3), ("Old", 1)}
    await engine.sync()
    assert len(await aside(engine)) == 3
    mailed.expunge("INBOX", 2)
    mailed.delete_folder("Old")
    await again(engine)
    assert [entry.uid for entry in await aside(engine)] == [3]


async def test_entries_go_with_the_mailbox(engine: Engine, mailed: MemoryAccount) -> None:
    mailed.faults.withheld.add(("INBOX", 3))
    await engine.sync()
    await engine.mailboxes.remove("acme", engine.mailbox_id, engine.clock(), SYSTEM)
    assert await aside(engine) == []


async def test_a_retry_of_what_is_gone_or_too_old_ends_the_entry(engine: Engine, mailed: MemoryAccount) -> None:
    mailed.faults.withheld |= {("INBOX", 1), ("INBOX", 2)}
    await engine.sync()
    first, second = sorted(await aside(engine), key=lambda entry: entry.uid)
    mailed.faults.withheld.clear()
    mailed.expunge("INBOX", 1)
    await ask(engine, first)
    await engine.sync()
    assert [entry.uid for entry in await aside(engine)] == [2]
    engine.clock.advance(91 * 86_400)
    await ask(engine, second)
    await engine.sync()
    assert await aside(engine) == []
    assert len(await engine.rows("messages")) == 2


async def test_a_message_that_still_is_not_sent_stays(engine: Engine, mailed: MemoryAccount) -> None:
    mailed.faults.withheld.add(("INBOX", 3))
    await engine.sync()
    (entry,) = await aside(engine)
    await ask(engine, entry)
    await again(engine)
    (tried,) = await aside(engine)
    assert (tried.id, tried.attempts, tried.retry_at, tried.cause) == (entry.id, 2, None, Cause.NOT_SENT)
    mailed.faults.withheld.clear()
    await ask(engine, entry)
    await again(engine)
    assert await aside(engine) == []
    assert await engine.near() == engine.far()


async def test_a_live_mailbox_tries_at_once(opened: Opened) -> None:
    account = MemoryAccount()
    for n in range(1, 4):
        account.append("INBOX", mail(n), internal_date=system_clock() - DAY)
    account.faults.withheld.add(("INBOX", 2))
    engine = await opened(account, clock=system_clock, settings=SyncSettings(poll_interval_s=3600))
    supervisor = engine.supervisor()
    running = asyncio.create_task(supervisor.run())
    try:
        await until(is_(engine, "live"))
        (entry,) = await aside(engine)
        account.faults.withheld.clear()
        await ask(engine, entry)
        await supervisor.sync_now(engine.mailbox_id, "acme", "token:x")

        async def taken() -> bool:
            return not await aside(engine)

        await until(taken)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert await engine.near() == engine.far()


async def test_a_folder_that_cannot_be_opened_does_not_use_up_the_retry(engine: Engine, mailed: MemoryAccount) -> None:
    mailed.create_folder("Old")
    mailed.append("Old", mail(9), internal_date=NOW)
    mailed.faults.withheld.add(("Old", 1))
    await engine.sync()
    (entry,) = await aside(engine)
    mailed.faults.withheld.clear()
    mailed.faults.refuse.add("Old")
    await ask(engine, entry)
    await again(engine)
    assert (await aside(engine))[0].retry_at is not None
    mailed.faults.refuse.clear()
    await again(engine)
    assert await aside(engine) == []


async def test_a_folder_that_fails_in_the_middle_of_a_retry_ends_nothing_else(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailed.faults.withheld.add(("INBOX", 3))
    await engine.sync()
    (entry,) = await aside(engine)
    await ask(engine, entry)

    async def fails(context: Context, uid: int) -> bool:
        raise FolderGoneError("the folder is being rebuilt", code="NONEXISTENT")

    with monkeypatch.context() as patch:
        patch.setattr(retries, "_admitted", fails)
        await again(engine)
    assert [item.attempts for item in await aside(engine)] == [2]
    assert (await engine.rows("mailboxes"))[0].state == "live"


async def test_what_cannot_be_asked_for_stands_in_nobodys_way(
    engine: Engine, mailed: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailgate.sync.retries.AT_ONCE", 1)
    mailed.create_folder("Aside")
    mailed.append("Aside", mail(9), internal_date=NOW)
    mailed.faults.withheld |= {("Aside", 1), ("INBOX", 3)}
    await engine.sync()
    rules = {"include": ["Aside"], "exclude": []}
    await engine.mailboxes.update("acme", engine.mailbox_id, MailboxPatch(folder_rules=rules), engine.clock(), SYSTEM)
    await again(engine)
    mailed.faults.withheld.clear()
    for entry in await aside(engine):
        await ask(engine, entry)
    for _ in range(2):
        await again(engine)
    assert [entry.folder for entry in await aside(engine)] == ["INBOX"]


async def test_a_cut_in_the_middle_of_a_retry_ends_one_session_only(engine: Engine, mailed: MemoryAccount) -> None:
    mailed.faults.withheld.add(("INBOX", 3))
    await engine.sync()
    (entry,) = await aside(engine)
    mailed.faults.withheld.clear()
    await ask(engine, entry)
    steps = 0
    while await aside(engine) and steps < 40:
        mailed.faults.cut_after = steps
        try:
            await engine.sync()
        except NetworkError:
            for left in await aside(engine):
                await ask(engine, left)
        steps += 1
    mailed.faults.cut_after = None
    await again(engine)
    assert await aside(engine) == []
    assert await engine.near() == engine.far()
    assert len(await engine.events("message.created")) == 4


async def test_whatever_a_server_says_is_kept_as_a_reason(engine: Engine, mailed: MemoryAccount) -> None:
    await engine.sync()
    seen: list[Batch] = []
    commit = engine.store.commit

    async def watch(owner: Owner, batch: Batch) -> Applied:
        seen.append(batch)
        hostile = Aside(99, "BAD \x00\ud800\x1b[2J ünlesbar " + "x" * 600, Cause.ENDS_THE_LINE)
        return await commit(owner, replace(batch, aside=[hostile]))

    engine.store.commit = watch  # type: ignore[method-assign]
    mailed.append("INBOX", mail(7), internal_date=NOW)
    await again(engine)
    assert seen
    (entry,) = await aside(engine)
    assert entry.reason.startswith("BAD    [2J ünlesbar xxx")
    assert len(entry.reason) == 500


async def test_entries_are_the_mailboxs_own(engine: Engine, mailed: MemoryAccount) -> None:
    mailed.faults.withheld.add(("INBOX", 3))
    await engine.sync()
    (entry,) = await aside(engine)
    for tenant_id, mailbox_id, entry_id in (
        ("other", engine.mailbox_id, entry.id),
        ("acme", entry.id, entry.id),
        ("acme", engine.mailbox_id, engine.mailbox_id),
    ):
        with pytest.raises(NotFoundError):
            await entries.ask(engine.db, tenant_id, mailbox_id, entry_id, engine.clock())
        with pytest.raises(NotFoundError):
            await entries.get(engine.db, tenant_id, mailbox_id, entry_id)


async def test_nothing_set_aside_costs_one_statement_a_pass(engine: Engine, mailed: MemoryAccount) -> None:
    await engine.sync()
    asked: list[str] = []
    sqlalchemy_event.listen(
        engine.db._reader.sync_engine,
        "before_cursor_execute",
        lambda conn, cursor, statement, *rest: asked.append(statement),
    )
    await again(engine)
    assert len([statement for statement in asked if "quarantine" in statement]) <= 1
