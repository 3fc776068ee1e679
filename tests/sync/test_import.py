"""The first import: everything inside the window, bytes identical, once."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence

import pytest
from sqlalchemy import event

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount
from connectors.model import Folder
from mailgate.blobs import BlobStoreError
from mailgate.clock import DAY, HOUR, Instant
from mailgate.settings import SyncSettings
from mailgate.sync import fetching, pull, slices
from mailgate.sync.arriving import Arrived
from mailgate.sync.incoming import Applied, Batch
from mailgate.sync.prepare import Prepared, Preparer
from mailgate.sync.state import ListingChanges, Owner
from tests.corpus import NASTY
from tests.sync.engine import NOW, Engine, Opened, mail


async def test_everything_inside_the_window_is_kept(engine: Engine, account: MemoryAccount) -> None:
    account.create_folder("Archive")
    for n in range(30):
        account.append("INBOX", mail(n), internal_date=NOW - n * DAY, flags=["\\Seen"] if n % 2 else [])
    account.append("Archive", mail(100), internal_date=NOW - 5 * DAY)
    account.append("Archive", mail(101), internal_date=NOW - 100 * DAY)
    await engine.sync()
    assert await engine.near() == engine.far(since=NOW - 90 * DAY)
    created = await engine.events("message.created")
    assert len(created) == 31
    assert all(event.payload["initial"] for event in created)


def everything(account: MemoryAccount) -> None:
    account.create_folder("Archive")
    for n in range(12):
        account.append("INBOX", mail(n), internal_date=NOW - n * DAY)
    for n in range(5, 20):
        account.append("Archive", mail(n), internal_date=NOW - n * DAY)  # some equal to those in INBOX


async def attempt(engine: Engine) -> bool:
    """One pass; whether the line held."""
    try:
        await engine.sync()
    except NetworkError:
        return False
    return True


async def test_a_line_cut_at_every_step_of_the_import_ends_the_same(opened: Opened) -> None:
    """Each attempt lives one step longer than the last; all of them together do the import once."""
    account = MemoryAccount()
    everything(account)
    settings = SyncSettings(batch_messages=3)
    engine = await opened(account, settings=settings)
    for steps in range(400):
        account.faults.cut_after = steps
        if await attempt(engine):
            break
    account.faults.cut_after = None
    assert await attempt(engine)
    assert await engine.near() == engine.far()
    assert len(await engine.events("message.created")) == len(await engine.rows("messages")) == 27


@pytest.mark.parametrize("steps", range(0, 60, 4))
async def test_an_import_cut_once_goes_on_where_it_was(opened: Opened, steps: int) -> None:
    account = MemoryAccount(condstore=False, qresync=False)
    everything(account)
    engine = await opened(account, settings=SyncSettings(batch_messages=3))
    account.faults.cut_after = steps
    await attempt(engine)
    account.faults.cut_after = None
    kept = len(await engine.rows("messages"))
    account.store_flags("INBOX", 12, ["\\Flagged"])
    account.expunge("INBOX", 11)
    assert await attempt(engine)
    assert await engine.near() == engine.far()
    assert len(await engine.events("message.created")) <= 27
    assert len(await engine.rows("messages")) == 26
    assert kept <= 27


async def test_on_a_slow_line_what_came_is_kept_before_a_batch_is_full(
    engine: Engine, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nothing is seen, and no progress, for as long as two hundred messages take."""
    for n in range(40):
        account.append("INBOX", mail(n), internal_date=NOW - n * HOUR)
    ticks = itertools.count()
    monkeypatch.setattr(pull, "monotonic_s", lambda: next(ticks) * 0.3)  # twice a message
    kept: list[tuple[int, int]] = []
    commit = engine.store.commit

    async def watched(owner: Owner, batch: Batch) -> Applied:
        if batch.messages and batch.progress is not None:
            kept.append((len(batch.messages), batch.progress.done))
        return await commit(owner, batch)

    monkeypatch.setattr(engine.store, "commit", watched)
    await engine.sync()
    assert len(await engine.rows("messages")) == 40
    assert max(count for count, _ in kept) <= 8
    assert kept[-1][1] == 40


async def test_a_message_that_the_server_never_sends_is_set_aside(engine: Engine, account: MemoryAccount) -> None:
    for n in range(4):
        account.append("INBOX", mail(n), internal_date=NOW)
    account.faults.withheld.add(("INBOX", 2))
    await engine.sync()
    assert len(await engine.rows("messages")) == 3
    aside = await engine.rows("quarantine")
    assert [(row.uid, row.reason) for row in aside] == [(2, "the server lists it but does not send it")]
    folder = (await engine.rows("folders"))[0]
    assert folder.uidnext == 5


async def test_a_message_that_is_too_large_is_set_aside(opened: Opened) -> None:
    account = MemoryAccount()
    account.append("INBOX", mail(1, body="x" * (2 << 20)), internal_date=NOW)
    account.append("INBOX", mail(2), internal_date=NOW)
    engine = await opened(account, settings=SyncSettings(max_message_bytes=1 << 20))
    await engine.sync()
    assert len(await engine.rows("messages")) == 1
    assert "more than sync.max_message_bytes" in (await engine.rows("quarantine"))[0].reason


async def test_a_huge_message_is_streamed_and_identical(engine: Engine, account: MemoryAccount) -> None:
    raw = mail(1, body="0123456789abcdef\r\n" * 300_000)
    account.append("INBOX", raw, internal_date=NOW)
    await engine.sync()
    message = (await engine.rows("messages"))[0]
    assert message.size == len(raw)
    assert await engine.raw(message) == raw
    account.append("INBOX", raw, internal_date=NOW)  # the same bytes again share the blob
    engine.clock.advance(600)
    await engine.sync()
    assert len(await engine.rows("messages")) == 2
    assert len(await engine.rows("blobs")) == 1


async def test_what_a_message_larger_than_is_parsed_says(engine: Engine, account: MemoryAccount) -> None:
    """Of the part that was cut the size is told as of the whole, and nothing had to be repaired."""
    content = bytes(range(256)) * 20_000
    encoded = base64.encodebytes(content).replace(b"\n", b"\r\n")
    raw = (
        b"Subject: huge\r\nContent-Type: multipart/mixed; boundary=q\r\n\r\n--q\r\n\r\nsee the file\r\n--q\r\n"
        b"Content-Type: video/mp4; name=a.mp4\r\nContent-Transfer-Encoding: base64\r\n\r\n" + encoded + b"--q--\r\n"
    )
    account.append("INBOX", raw, internal_date=NOW)
    await engine.sync()
    summary = await engine.summary((await engine.rows("messages"))[0])
    assert (summary.subject, summary.snippet, summary.has_files) == ("huge", "see the file", True)
    assert summary.defects == ("not_parsed_whole",)
    assert [part.filename for part in summary.parts] == [None, "a.mp4"]
    assert summary.parts[1].size == pytest.approx(len(content), rel=0.001)


ODD = {
    "empty": b"",
    "no header": b"\r\njust text",
    "no body": b"Subject: x\r\n",
    "not mail": bytes(range(256)) * 3,
    "NUL bytes": b"Subject: a\x00b\r\nFrom: \x00\r\n\r\n\x00\x00",
    "surrogates": b"Subject: \xed\xa0\x80\r\nMessage-ID: <\xed\xa0\x80@x>\r\n\r\n",
    "endless header": b"X: " + b"y" * 500_000 + b"\r\n\r\n",
}


async def test_whatever_a_message_is_its_bytes_are_kept(engine: Engine, account: MemoryAccount) -> None:
    for raw in [*ODD.values(), *NASTY.values()]:
        account.append("INBOX", raw, internal_date=NOW)
    await engine.sync()
    assert await engine.rows("quarantine") == []
    assert await engine.near() == engine.far()


async def test_dates_that_make_no_sense_count_as_missing(engine: Engine, account: MemoryAccount) -> None:
    await engine.sync()
    account.append("INBOX", mail(1), internal_date=0)
    account.append("INBOX", mail(2), internal_date=NOW + 400 * DAY)
    engine.clock.advance(600)
    await engine.sync()
    rows = await engine.rows("messages")
    assert {row.anchor_source for row in rows} == {"stored"}
    assert all(abs(row.anchor_at - row.stored_at) < 1_000_000 for row in rows)


async def test_the_floor_stays_where_the_first_connect_put_it(opened: Opened) -> None:
    account = MemoryAccount()
    account.append("INBOX", mail(1), internal_date=NOW - 40 * DAY)
    account.append("INBOX", mail(2), internal_date=NOW - 20 * DAY)
    engine = await opened(account, plan="crm_plus")
    await engine.sync()
    assert len(await engine.rows("messages")) == 1
    await engine.plan("professional")
    account.append("INBOX", mail(3), internal_date=NOW - 50 * DAY)  # somebody copies old mail in
    account.append("INBOX", mail(4), internal_date=NOW - 10 * DAY)
    engine.clock.advance(600)
    await engine.sync()
    assert len(await engine.rows("messages")) == 2


async def test_a_refused_folder_is_named_and_the_others_go_on(engine: Engine, account: MemoryAccount) -> None:
    account.create_folder("Private")
    account.append("INBOX", mail(1), internal_date=NOW)
    account.faults.refuse.add("Private")
    await engine.sync()
    assert len(await engine.rows("messages")) == 1
    private = next(row for row in await engine.rows("folders") if row.name == "Private")
    assert private.last_error == "the server refused to open the folder"
    account.faults.refuse.clear()
    account.append("Private", mail(2), internal_date=NOW)
    engine.clock.advance(600)
    await engine.sync()
    assert await engine.near() == engine.far()
    private = next(row for row in await engine.rows("folders") if row.name == "Private")
    assert private.last_error is None


async def test_a_count_that_contradicts_the_list_deletes_nothing(engine: Engine, account: MemoryAccount) -> None:
    for n in range(4):
        account.append("INBOX", mail(n), internal_date=NOW)
    await engine.sync()
    account.faults.exists_lie["INBOX"] = -2
    engine.clock.advance(600)
    await engine.sync()
    assert len(await engine.rows("messages")) == 4
    account.faults.exists_lie.clear()
    engine.clock.advance(600)
    await engine.sync()
    assert await engine.near() == engine.far()


async def test_new_mail_comes_first_while_inbox_itself_is_imported(
    opened: Opened, account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newest first holds for what comes meanwhile too."""
    monkeypatch.setattr(fetching, "LOOK_S", 0.0)
    monkeypatch.setattr(slices, "FIRST", 20)
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    for n in range(100):
        account.append("INBOX", mail(n), internal_date=NOW - DAY)
    engine = await opened(account, settings=SyncSettings(batch_messages=5))
    commit = engine.store.commit
    arrived: list[int] = []

    async def delivering(owner: Owner, batch: Batch) -> Applied:
        if batch.messages and len(arrived) < 2:
            arrived.append(account.append("INBOX", mail(1000 + len(arrived)), internal_date=NOW))
        return await commit(owner, batch)

    engine.store.commit = delivering  # type: ignore[method-assign]
    await engine.sync()
    uids = {row.message_id: row.uid for row in await engine.rows("origins")}
    order = [uids[event.message_id] for event in await engine.events("message.created")]
    assert sorted(order) == list(range(1, 103))
    assert max(order.index(uid) for uid in arrived) < 60
    assert await engine.near() == engine.far()
    mailbox = (await engine.rows("mailboxes"))[0]
    assert (mailbox.progress_done, mailbox.progress_total) == (102, 102)
    bodies = account.commands.count("FETCH bodies")
    await engine.sync()
    assert account.commands.count("FETCH bodies") == bodies  # the checkpoint covers what came meanwhile


async def test_new_mail_is_seen_during_a_long_import(opened: Opened, account: MemoryAccount) -> None:
    account.create_folder("Archive")
    account.append("INBOX", mail(0), internal_date=NOW)
    for n in range(1, 100):
        account.append("Archive", mail(n), internal_date=NOW - DAY)
    engine = await opened(account, settings=SyncSettings(batch_messages=3, poll_interval_s=1))
    commit = engine.store.commit

    async def commit_slowly(owner: Owner, batch: Batch) -> Applied:
        engine.clock.advance(0.1)
        if len(batch.messages) == 3 and "INBOX" not in account.commands[-3:] and not arrived:
            arrived.append(account.append("INBOX", mail(1000), internal_date=NOW))
        return await commit(owner, batch)

    arrived: list[int] = []
    engine.store.commit = commit_slowly  # type: ignore[method-assign]
    await engine.sync()
    created = await engine.events("message.created")
    position = next(n for n, event in enumerate(created) if not event.payload.get("initial"))
    assert 3 < position < 60
    assert await engine.near() == engine.far()
    mailbox = (await engine.rows("mailboxes"))[0]
    assert (mailbox.progress_done, mailbox.progress_total) == (100, 100)


async def test_a_disk_that_fails_once_loses_nothing_and_leaves_no_gap(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are prepared while others wait or are written: none that comes behind the one that failed is kept."""
    account = MemoryAccount()
    for n in range(40):
        account.append("INBOX", mail(n), internal_date=NOW)
    engine = await opened(account, settings=SyncSettings(batch_messages=5))
    prepare = Preparer.prepare

    def failing(self: Preparer, batch: Sequence[Arrived], now: Instant) -> Prepared:
        if any(arrived.meta.uid == 20 for arrived in batch):
            raise BlobStoreError("the disk is full")
        return prepare(self, batch, now)

    with monkeypatch.context() as patch:
        patch.setattr(Preparer, "prepare", failing)
        with pytest.raises(BlobStoreError):
            await engine.sync()
    kept = sorted(row.uid for row in await engine.rows("origins"))
    assert kept == list(range(1, len(kept) + 1)), "in the order in which they came"
    assert 5 <= len(kept) < 20
    assert await attempt(engine)
    assert await engine.near() == engine.far()
    assert len(await engine.events("message.created")) == 40


async def test_a_disk_that_fails_is_not_filled_with_what_came_in_vain(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = MemoryAccount()
    for n in range(6):
        account.append("INBOX", mail(n, body="0123456789abcdef\r\n" * 70_000), internal_date=NOW)
    engine = await opened(account, settings=SyncSettings(batch_messages=2))

    def failing(self: Preparer, batch: Sequence[Arrived], now: Instant) -> Prepared:
        raise BlobStoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Preparer, "prepare", failing)
        with pytest.raises(BlobStoreError):
            await engine.sync()
    directory = engine.blobs.shared_directory
    assert directory is not None
    assert [path for path in directory.rglob("*#*") if path.is_file()] == []
    assert await attempt(engine)
    assert await engine.near() == engine.far()


async def test_a_long_list_of_folders_is_written_with_few_statements(engine: Engine, account: MemoryAccount) -> None:
    """It holds the only writer of SQLite for so long: five thousand folders took minutes on a busy machine."""
    owner = await engine.store.acquire(engine.mailbox_id, engine.tenant_id, "test", HOUR, engine.clock())
    assert owner is not None
    said: list[str] = []

    async def save(names: Sequence[str]) -> int:
        created = [(Folder(name, "/", frozenset(), None, selectable=True), True) for name in names]
        said.clear()
        known = await engine.store.save_listing(owner, ListingChanges(created=created), engine.clock())
        assert {folder.name for folder in known} >= set(names)
        return len(said)

    writer = engine.db._writer.sync_engine
    event.listen(writer, "before_cursor_execute", lambda *args: said.append(args[2]))
    few = await save(["a", "b"])
    many = [f"Folder {n}" for n in range(1_000)]
    assert await save(many) <= few + 10
    told = [row for row in await engine.rows("events") if row.type == "folder.created"]
    assert len(told) == 1_002
