"""The contract of `connectors.port.Source`: the same tests for the double and for every real server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime

import pytest

from connectors.errors import FolderGoneError, NetworkError, ServerError
from connectors.model import FlagsChange, MessageMeta, QResync, SpecialUse
from connectors.port import FolderChange, Source
from tests.contract.accounts import Remote, remote_of
from tests.wirelog import Bytes

DAY = 86_400_000_000
NOON = int(datetime(2023, 11, 14, 12, tzinfo=UTC).timestamp()) * 1_000_000
EVERYTHING = [range(1, 1 << 32)]


@pytest.fixture(
    params=[
        "memory",
        "memory-condstore",
        "memory-plain",
        pytest.param("dovecot", marks=pytest.mark.server),
        pytest.param("dovecot-starttls", marks=pytest.mark.server),
        pytest.param("dovecot-tls", marks=pytest.mark.server),
        pytest.param("dovecot-plain", marks=pytest.mark.server),
        pytest.param("cyrus", marks=pytest.mark.server),
        pytest.param("courier", marks=pytest.mark.server),
        pytest.param("pymap", marks=pytest.mark.server),
    ]
)
async def remote(request: pytest.FixtureRequest) -> AsyncIterator[Remote]:
    async with remote_of(request) as made:
        yield made


@pytest.fixture
async def source(remote: Remote) -> AsyncIterator[Source]:
    source = await remote.connect()
    yield source
    await source.close()


def message(number: int, size: int = 0) -> bytes:
    head = b"From: a@mail.example\r\nSubject: Number %d\r\n\r\n* 1 EXPUNGE\r\n)\r\n" % number
    lines = b"".join(b"%s\r\n" % hashlib.sha256(b"%d %d" % (number, n)).hexdigest().encode() for n in range(size // 66))
    return head + lines


def stored(remote: Remote, raw: bytes) -> bytes:
    """What the server serves of a message that it was given."""
    return raw if remote.line_ends else raw.replace(b"\r\n", b"\n")


async def fill(remote: Remote, count: int, folder: str = "INBOX") -> list[int]:
    return [await remote.append(folder, message(n), received_at=NOON + n * DAY) for n in range(count)]


async def metas(source: Source, uids: list[range], **more: int) -> list[MessageMeta]:
    return [meta async for batch in source.fetch_meta(uids, **more) for meta in batch]


async def flags(source: Source, uids: list[range], **more: int) -> list[FlagsChange]:
    return [change async for batch in source.fetch_flags(uids, **more) for change in batch]


async def bodies(source: Source, uids: list[int]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    async for fetched in source.fetch_bodies(uids, lambda _: Bytes()):
        assert fetched.meta.uid not in found
        assert len(fetched.sink.data) == fetched.octets
        found[fetched.meta.uid] = bytes(fetched.sink.data)
    return found


async def test_capabilities_are_upper_case(source: Source, remote: Remote) -> None:
    assert "IMAP4REV1" in source.capabilities
    assert all(word == word.upper() for word in source.capabilities)
    assert ("QRESYNC" in source.capabilities) == remote.qresync


async def test_the_identity_of_a_folder_goes_with_it_and_is_no_other_ones(source: Source, remote: Remote) -> None:
    one, two, new = (remote.folder(name) for name in ("One", "Two", "Three"))
    for name in (one, two):
        await remote.create_folder(name)
    before = [(await source.open(name)).object_id for name in (one, two)]
    assert (None not in before) == ("OBJECTID" in source.capabilities)
    await source.open("INBOX")
    await remote.rename_folder(one, new)
    await remote.rename_folder(two, one)
    await remote.rename_folder(new, two)
    if not remote.identities:
        return
    assert [(await source.open(name)).object_id for name in (two, one)] == before
    assert before[0] is None or len({*before, (await source.open("INBOX")).object_id}) == 3


async def test_folders_inbox_first_with_their_uses_and_names_in_any_script(source: Source, remote: Remote) -> None:
    strange = {remote.folder(name) for name in remote.names}
    for name in strange:
        await remote.create_folder(name)
    folders = await source.list_folders()
    names = [folder.name for folder in folders]
    assert names[0] == "INBOX"
    assert names[1:] == sorted(names[1:])
    assert strange <= set(names)
    uses = {folder.special_use: folder.name for folder in folders if folder.special_use is not None}
    assert uses == {
        SpecialUse.INBOX: "INBOX",
        SpecialUse.DRAFTS: remote.folder("Drafts"),
        SpecialUse.SENT: remote.folder("Sent"),
        SpecialUse.TRASH: remote.folder("Trash"),
        SpecialUse.JUNK: remote.folder("Junk"),
        SpecialUse.ARCHIVE: remote.folder("Archive"),
    }
    for folder in folders:
        if folder.selectable:
            assert (await source.open(folder.name)).status.exists == 0


async def test_status_of_many_folders_and_of_one_that_is_not_there(source: Source, remote: Remote) -> None:
    await fill(remote, 3)
    size, missing = remote.folder("Größe"), remote.folder("no such folder")
    names = ["INBOX", size, missing, *map(remote.folder, ["Sent", "Drafts", "Junk", "Trash"])]
    await remote.create_folder(size)
    for listed in (False, True):  # once the folders are known, the real source may ask in another way
        if listed:
            await source.list_folders()
        found = await source.status(names)
        assert list(found) == names
        assert found[missing] is None
        inbox, empty = found["INBOX"], found[size]
        assert inbox is not None
        assert empty is not None
        assert (inbox.exists, inbox.uidnext) == (3, 4)
        assert (empty.exists, empty.uidnext) == (0, 1)
        assert (inbox.highestmodseq is not None) == remote.condstore
        opened = await source.open("INBOX")
        assert opened.status.uidvalidity == inbox.uidvalidity


async def test_status_of_nothing(source: Source) -> None:
    assert await source.status([]) == {}


async def test_open_says_what_is_there(source: Source, remote: Remote) -> None:
    await fill(remote, 2)
    selected = await source.open("INBOX")
    assert (selected.status.exists, selected.status.uidnext) == (2, 3 if remote.opens_with_uidnext else None)
    assert (selected.status.highestmodseq is not None) == remote.condstore
    assert selected.read_only
    assert not selected.resynced
    assert (await source.open("INBOX")).status == selected.status


async def test_a_folder_that_is_not_there(source: Source, remote: Remote) -> None:
    with pytest.raises(FolderGoneError):
        await source.open(remote.folder("no such folder"))
    assert (await source.open("INBOX")).status.exists == 0


async def test_uids_and_dates(source: Source, remote: Remote) -> None:
    uids = await fill(remote, 5)
    await remote.expunge("INBOX", uids[1])
    assert (await source.open("INBOX")).status.exists == 4
    assert await source.list_uids() == [1, 3, 4, 5]
    assert await source.search_since(date(2023, 11, 16)) == [3, 4, 5]
    assert await source.search_since(date(2030, 1, 1)) == []


async def test_an_empty_folder(source: Source) -> None:
    await source.open("INBOX")
    assert await source.list_uids() == []
    assert await source.search_since(date(2020, 1, 1)) == []
    assert await metas(source, EVERYTHING) == []
    assert await bodies(source, [1, 2]) == {}


async def test_metadata(source: Source, remote: Remote) -> None:
    raw = message(0)
    uid = await remote.append("INBOX", raw, received_at=NOON, flags=["\\Seen", "$Forwarded"])
    await remote.append("INBOX", message(1), received_at=NOON)
    await source.open("INBOX")
    first, second = await metas(source, EVERYTHING)
    assert first.uid == uid
    assert first.flags == {"\\Seen", "$Forwarded"} if remote.keywords else {"\\Seen"}
    assert first.internal_date == NOON
    assert first.size == len(stored(remote, raw))
    assert (first.modseq is not None) == remote.condstore
    assert second.flags == frozenset()


async def test_only_what_was_asked_for_is_answered(source: Source, remote: Remote) -> None:
    await fill(remote, 6)
    await source.open("INBOX")
    assert [m.uid for m in await metas(source, [range(5, 6), range(2, 4), range(3, 4), range(90, 95)])] == [2, 3, 5]
    assert await metas(source, []) == []
    assert await metas(source, [range(4, 4)]) == []
    # RFC 9051 §9: `100:*` names the last message too, which nobody asked for
    assert await metas(source, [range(100, 1 << 32)]) == []
    assert [f.uid for f in await flags(source, [range(6, 1 << 32), range(1, 2)])] == [1, 6]


async def test_changes_since_a_modseq(source: Source, remote: Remote) -> None:
    uids = await fill(remote, 4)
    before = (await source.open("INBOX")).status.highestmodseq
    if before is None:
        with pytest.raises(ValueError, match="CONDSTORE"):
            await flags(source, EVERYTHING, changed_since=1)
        return
    await remote.store_flags("INBOX", uids[2], ["\\Flagged"])
    await source.noop()
    changed = await flags(source, EVERYTHING, changed_since=before)
    assert [(c.uid, c.flags) for c in changed] == [(3, {"\\Flagged"})]
    assert [m.uid for m in await metas(source, EVERYTHING, changed_since=before)] == [3]
    assert changed[0].modseq is not None
    assert await flags(source, EVERYTHING, changed_since=changed[0].modseq) == []


async def test_bodies_are_the_bytes_and_reading_leaves_no_trace(source: Source, remote: Remote) -> None:
    raws = [message(n, size) for n, size in enumerate([0, 100, 70_000, 5, 300_000, 1])]
    uids = [await remote.append("INBOX", raw, received_at=NOON) for raw in raws]
    await source.open("INBOX")
    expected = {uid: stored(remote, raw) for uid, raw in zip(uids, raws, strict=True)}
    assert await bodies(source, [*reversed(uids), uids[0], 77]) == expected
    assert [m.flags for m in await metas(source, EVERYTHING)] == [frozenset()] * 6
    await source.open("INBOX")
    assert {f.flags for f in await flags(source, EVERYTHING)} == {frozenset()}


async def test_many_bodies(source: Source, remote: Remote) -> None:
    uids = await fill(remote, 50)
    await source.open("INBOX")
    assert await bodies(source, uids) == {uid: stored(remote, message(n)) for n, uid in enumerate(uids)}


async def test_a_message_expunged_meanwhile_is_missing(source: Source, remote: Remote) -> None:
    uids = await fill(remote, 5)
    await source.open("INBOX")
    await remote.expunge("INBOX", uids[2])
    await source.noop()
    assert sorted(await bodies(source, uids)) == [1, 2, 4, 5]


async def test_headers(source: Source, remote: Remote) -> None:
    uid = await remote.append("INBOX", b"Subject: a\r\nX: b\r\n\r\nbody\r\n\r\nmore", received_at=NOON)
    await source.open("INBOX")
    ((meta, header),) = [item async for item in source.fetch_headers([uid])]
    assert meta.uid == uid
    assert header == stored(remote, b"Subject: a\r\nX: b\r\n\r\n")


async def test_a_caller_that_stops_early_leaves_the_line_in_order(source: Source, remote: Remote) -> None:
    uids = [await remote.append("INBOX", message(n, 30_000), received_at=NOON) for n in range(40)]
    await source.open("INBOX")
    async with contextlib.aclosing(source.fetch_bodies(uids, lambda _: Bytes())) as stream:
        async for _ in stream:
            break
    async with contextlib.aclosing(source.fetch_meta(EVERYTHING)) as batches:
        async for _ in batches:
            break
    assert await source.list_uids() == uids
    assert len(await bodies(source, uids)) == 40


async def test_a_sink_that_fails_fails_its_caller(source: Source, remote: Remote) -> None:
    class Full:
        def write(self, chunk: memoryview, /) -> None:
            raise OSError(28, "No space left on device")

    uids = await fill(remote, 3)
    await source.open("INBOX")
    with pytest.raises(OSError, match="No space left"):
        async for _ in source.fetch_bodies(uids, lambda _: Full()):
            pass


async def test_resync(source: Source, remote: Remote) -> None:
    uids = await fill(remote, 6)
    before = (await source.open("INBOX")).status
    await source.open(remote.folder("Sent"))
    await remote.expunge("INBOX", uids[1])
    await remote.expunge("INBOX", uids[2])
    await remote.store_flags("INBOX", uids[4], ["\\Seen"])
    new = await remote.append("INBOX", message(9), received_at=NOON)
    selected = await source.open("INBOX", QResync(before.uidvalidity, before.highestmodseq or 1))
    assert selected.status.exists == 5
    assert selected.resynced == remote.qresync
    if remote.qresync:
        assert selected.vanished == (range(2, 4),)
        assert {(c.uid, c.flags) for c in selected.changed} == {(5, frozenset({"\\Seen"})), (new, frozenset())}
        assert selected.status.highestmodseq is not None
        again = await source.open("INBOX", QResync(before.uidvalidity, selected.status.highestmodseq))
        assert (again.resynced, again.vanished, again.changed) == (True, (), ())
    other = await source.open("INBOX", QResync(before.uidvalidity + 1, before.highestmodseq or 1))
    assert (other.resynced, other.vanished, other.changed) == (False, (), ())


async def test_idle_without_news(source: Source) -> None:
    await source.open("INBOX")
    assert await source.idle(0.05) is None
    assert await source.idle(0) is None


async def test_idle_hears_of_new_mail_flags_and_expunges(source: Source, remote: Remote) -> None:
    uids = await fill(remote, 2)
    await source.open("INBOX")

    async def heard(task: asyncio.Task[FolderChange | None]) -> FolderChange:
        change = await task
        assert change is not None
        return change

    waiting = asyncio.create_task(source.idle(200))
    await remote.append("INBOX", message(5), received_at=NOON)
    assert (await heard(waiting)).exists == 3
    waiting = asyncio.create_task(source.idle(200))
    await remote.store_flags("INBOX", uids[0], ["\\Flagged"])
    assert (await heard(waiting)).flags
    waiting = asyncio.create_task(source.idle(200))
    await remote.expunge("INBOX", uids[0])
    change = await heard(waiting)
    while not change.expunged:  # the server may tell of \Deleted first
        change = await heard(asyncio.create_task(source.idle(200)))
    assert await source.list_uids() == [2, 3]


async def test_news_heard_between_two_idles_are_told_by_the_next(source: Source, remote: Remote) -> None:
    await source.open("INBOX")
    await remote.append("INBOX", message(1), received_at=NOON)
    await source.noop()
    change = await source.idle(200)
    assert change is not None
    assert (change.exists, change.expunged) == (1, False)


async def test_idle_may_be_cancelled(source: Source, remote: Remote) -> None:
    await fill(remote, 1)
    await source.open("INBOX")
    for _ in range(3):
        waiting = asyncio.create_task(source.idle(60))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await source.list_uids() == [1]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(source.idle(60), 0.05)
    await source.noop()


async def test_a_line_that_drops_ends_what_waits(source: Source, remote: Remote) -> None:
    await source.open("INBOX")
    waiting = asyncio.create_task(source.idle(60))
    await asyncio.sleep(0)
    await remote.drop_connections()
    with pytest.raises(NetworkError):
        await waiting
    with pytest.raises(NetworkError):
        await source.noop()
    with pytest.raises(NetworkError):
        await source.open("INBOX")


async def test_close_ends_what_is_in_flight_and_may_be_repeated(source: Source) -> None:
    await source.open("INBOX")
    waiting = asyncio.create_task(source.idle(60))
    await asyncio.sleep(0)
    await source.close()
    with pytest.raises(NetworkError):
        await waiting
    await source.close()
    for call in (source.noop, source.list_folders, source.list_uids):
        with pytest.raises(NetworkError):
            await call()
    with pytest.raises(NetworkError):
        await bodies(source, [1])
    with pytest.raises(NetworkError):
        await source.idle(1)


async def test_without_an_open_folder_there_is_nothing_to_read(source: Source) -> None:
    with pytest.raises(ServerError):
        await source.list_uids()


async def test_two_connections_see_the_same(source: Source, remote: Remote) -> None:
    await fill(remote, 2)
    other = await remote.connect()
    try:
        assert (await source.open("INBOX")).status == (await other.open("INBOX")).status
        await other.close()
        assert await source.list_uids() == [1, 2]
    finally:
        await other.close()
