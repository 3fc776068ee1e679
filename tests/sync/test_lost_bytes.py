"""Copies whose bytes are gone from the blob store get them from the mail server again."""

from __future__ import annotations

import contextlib

import pytest
from sqlalchemy import select, update

from connectors.errors import NetworkError
from connectors.memory import MemoryAccount
from mailgate.blobs import BlobMissingError
from mailgate.clock import DAY, Instant
from mailgate.store import lost
from mailgate.store import quarantine as entries
from mailgate.store.check import doctor
from mailgate.store.schema import blob_erasures, blobs, quarantine
from mailgate.sync.incoming import Refilled
from mailgate.sync.state import Owner
from tests.sync.engine import NOW, Engine, mail


@pytest.fixture
async def robbed(engine: Engine) -> Engine:
    """Three messages; the first is gone from the store, and set aside for it."""
    for n in range(1, 4):
        engine.account.append("INBOX", mail(n), internal_date=NOW - DAY)
    await engine.sync()
    await rob(engine, 1)
    return engine


async def rob(engine: Engine, n: int) -> None:
    rows = sorted(await engine.rows("messages"), key=lambda row: row.id)
    subjects = [(await engine.summary(row)).subject for row in rows]
    row = rows[next(at for at, subject in enumerate(subjects) if subject.split()[-1] == str(n))]
    await engine.blobs.erase(row.blob_id)
    async with engine.db.write() as tx:
        assert await lost.set_aside(tx, [row.id], engine.clock()) == 1
    with pytest.raises(BlobMissingError):
        await engine.raw(row)


async def again(engine: Engine) -> None:
    engine.clock.advance(600)
    await engine.sync()


async def reasons(engine: Engine) -> list[str]:
    page = await entries.list_page(engine.db, "acme", engine.mailbox_id, limit=100)
    return [entry.reason for entry in page.items]


async def raws(engine: Engine) -> set[bytes]:
    return {await engine.raw(row) for row in await engine.rows("messages")}


async def test_they_are_fetched_again(robbed: Engine) -> None:
    before = {row.id for row in await robbed.rows("messages")}
    await again(robbed)
    assert await raws(robbed) == {mail(n) for n in range(1, 4)}
    assert {row.id for row in await robbed.rows("messages")} == before
    assert await reasons(robbed) == []


@pytest.mark.parametrize("harm", ["gone", "cut", "other bytes"])
async def test_what_a_disk_lost_is_found_and_fetched_again(engine: Engine, harm: str) -> None:
    """All but the bytes of what stays without its original, which is told."""
    for n in range(1, 4):
        engine.account.append("INBOX", mail(n), internal_date=NOW - DAY)
    await engine.sync()
    rows = await engine.rows("messages")
    (kept,) = [row for row in rows if (await engine.summary(row)).subject == "Number 3"]
    await engine.pin(kept.id)
    engine.account.expunge("INBOX", 3)
    await engine.sync()
    stored = await engine.rows("blobs")
    tokens = {row.id: row.content_token for row in stored}
    folder = engine.blobs.shared_directory
    assert folder is not None
    (file,) = (path for path in folder.rglob("*") if path.is_file())
    content = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        size = sum(row.stored_size for row in stored)
        file.write_bytes(content[:40] if harm == "cut" else content[:-size] + bytes(size))
    found = (await doctor(engine.db, engine.blobs, engine.ring, deep=True)).lost
    assert found == set(tokens)
    assert await lost.set_aside_of(engine.db, found, engine.clock()) == (3, 2)
    await again(engine)
    assert await reasons(engine) == []
    left = (await doctor(engine.db, engine.blobs, engine.ring, deep=True)).lost
    assert left == {kept.blob_id}
    assert await lost.set_aside_of(engine.db, left, engine.clock()) == (1, 0)
    file.write_bytes(content)  # as it was, for the doctor at the end
    async with engine.db.write() as tx:
        mine = update(blobs).where(blobs.c.id == kept.blob_id)
        await tx.conn.execute(mine.values(content_token=tokens[kept.blob_id]))


async def test_where_the_message_stands_by_now(robbed: Engine) -> None:
    robbed.account.create_folder("Deals")
    robbed.account.move("INBOX", 1, "Deals")
    await again(robbed)
    await again(robbed)
    assert await raws(robbed) == {mail(n) for n in range(1, 4)}
    assert await reasons(robbed) == []


async def test_what_arrives_with_the_same_content_keeps_its_own_bytes(robbed: Engine) -> None:
    """And has them for both."""
    robbed.account.append("INBOX", mail(1), internal_date=NOW)
    await again(robbed)
    rows = await robbed.rows("messages")
    assert len(rows) == 4
    assert sorted([await robbed.raw(row) for row in rows]) == sorted([mail(1), *(mail(n) for n in range(1, 4))])
    assert len({row.blob_id for row in rows}) == 3
    assert await reasons(robbed) == []


async def test_other_bytes_in_its_place_are_not_taken_for_them(robbed: Engine) -> None:
    robbed.account.folders["INBOX"].messages[1].raw = mail(1).replace(b"Subject: ", b"Subject: x")
    for _ in range(8):
        await again(robbed)
    assert await reasons(robbed) == ["the mail server has other bytes in its place"]
    (entry,) = await robbed.rows("quarantine")
    assert entry.attempts == lost.ATTEMPTS
    robbed.account.folders["INBOX"].messages[1].raw = mail(1)
    await entries.ask(robbed.db, "acme", robbed.mailbox_id, entry.id, robbed.clock())
    await again(robbed)
    assert await raws(robbed) == {mail(n) for n in range(1, 4)}


async def test_whoever_repairs_again_has_them_asked_for_again(robbed: Engine) -> None:
    """Also what was asked for so often that it is not asked for by itself any more."""
    (entry,) = await robbed.rows("quarantine")
    async with robbed.db.write() as tx:
        spent = update(quarantine).where(quarantine.c.id == entry.id)
        await tx.conn.execute(spent.values(attempts=lost.ATTEMPTS))
    await again(robbed)
    assert len(await reasons(robbed)) == 1
    (blob_id,) = (row.blob_id for row in await robbed.rows("messages") if row.id == entry.message_id)
    assert await lost.set_aside_of(robbed.db, [blob_id], robbed.clock()) == (1, 1)
    await again(robbed)
    assert await reasons(robbed) == []
    assert await raws(robbed) == {mail(n) for n in range(1, 4)}


@pytest.mark.parametrize("steps", range(12))
async def test_a_line_that_drops_meanwhile_costs_an_attempt(robbed: Engine, steps: int) -> None:
    robbed.account.faults.cut_after = steps
    with contextlib.suppress(NetworkError):
        await again(robbed)
    robbed.account.faults.cut_after = None
    await again(robbed)
    assert await raws(robbed) == {mail(n) for n in range(1, 4)}
    assert await reasons(robbed) == []


async def test_copies_that_shared_them_have_them_again_together(engine: Engine) -> None:
    other = MemoryAccount()
    second = await engine.add_mailbox("ann", other)
    for account in (engine.account, other):
        account.append("INBOX", mail(1), internal_date=NOW - DAY)
    await engine.sync()
    await engine.supervisor().sync_once(second)
    rows = await engine.rows("messages")
    (blob_id,) = {row.blob_id for row in rows}
    await engine.blobs.erase(blob_id)
    async with engine.db.write() as tx:
        assert await lost.set_aside(tx, [row.id for row in rows], engine.clock()) == 2
    await again(engine)
    assert [await engine.raw(row) for row in await engine.rows("messages")] == [mail(1), mail(1)]
    assert await engine.rows("quarantine") == []


async def test_a_copy_that_was_purged_meanwhile_wants_none(robbed: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came for it is erased."""
    refill = robbed.store.refill

    async def late(owner: Owner, came: Refilled, now: Instant) -> bool:
        before = robbed.clock.now
        robbed.clock.advance(100 * 86_400)
        await robbed.purge()
        robbed.clock.now = before
        fits = await refill(owner, came, now)
        async with robbed.db.read() as conn:
            erased = set((await conn.execute(select(blob_erasures.c.blob_id))).scalars())
        assert came.blob.id in erased
        return fits

    monkeypatch.setattr(robbed.store, "refill", late)
    await again(robbed)
    assert await reasons(robbed) == []


async def test_an_original_that_is_gone_is_said(robbed: Engine) -> None:
    """Its copy goes with it; the entry as well."""
    robbed.account.expunge("INBOX", 1)
    await again(robbed)
    await again(robbed)
    assert await raws(robbed) == {mail(2), mail(3)}
    assert await reasons(robbed) == []
