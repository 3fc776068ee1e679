"""The contract of `connectors.port.Target`: the same tests for the double and for every real server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable

import pytest

from connectors.errors import FolderGoneError, NetworkError, Retry, ServerError
from connectors.model import Namespace, SpecialUse
from connectors.port import Connection, Placed
from tests.contract.accounts import Remote, remote_of
from tests.contract.test_source import DAY, EVERYTHING, NOON, bodies, fill, message, metas, stored

SEEN = frozenset({"\\Seen"})
LARGE = 300_000


@pytest.fixture(
    params=[
        "memory",
        "memory-plain",
        pytest.param("dovecot", marks=pytest.mark.server),
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
async def line(remote: Remote) -> AsyncIterator[Connection]:
    line = await remote.connect()
    yield line
    await line.close()


async def pieces(raw: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for at in range(0, len(raw), size):
        yield raw[at : at + size]


async def flags_of(remote: Remote, folder: str = "INBOX") -> dict[int, frozenset[str]]:
    return {uid: flags for uid, (flags, _) in (await remote.originals(folder)).items()}


async def contents(remote: Remote, folder: str) -> list[bytes]:
    return sorted(raw for _, raw in (await remote.originals(folder)).values())


def kept(remote: Remote, flags: Iterable[str]) -> frozenset[str]:
    return frozenset(flag for flag in flags if remote.keywords or flag.startswith("\\"))


# Opening


async def test_select_opens_for_writing(line: Connection, remote: Remote) -> None:
    await fill(remote, 2)
    selected = await line.select("INBOX")
    assert not selected.read_only
    assert selected.status.exists == 2
    permanent = selected.permanent_flags
    assert permanent is not None
    assert {"\\Seen", "\\Answered", "\\Flagged", "\\Draft"} <= permanent
    assert ("\\*" in permanent) == remote.keywords
    assert (await line.open("INBOX")).read_only


async def test_select_of_a_folder_that_is_not_there(line: Connection, remote: Remote) -> None:
    with pytest.raises(FolderGoneError):
        await line.select(remote.folder("Nowhere"))


async def test_where_folders_stand(line: Connection, remote: Remote) -> None:
    namespace = await line.namespace()
    assert namespace.name_of("Work", "Old") == remote.folder("Work", "Old")
    assert namespace.name_of("INBOX") == "INBOX"
    assert namespace.parts_of(remote.folder("Work", "Old")) == ("Work", "Old")
    assert {folder.delimiter for folder in await line.list_folders()} == {namespace.delimiter}


def test_names_that_cannot_be() -> None:
    namespace = Namespace("INBOX.", ".")
    for parts in ((), ("",), ("a", ""), ("a.b",), ("a\nb",), ("a\0",), ("a\x9f",), ("\ud800",)):
        with pytest.raises(ValueError):
            namespace.name_of(*parts)
    assert Namespace("", None).name_of("a.b/c") == "a.b/c"
    with pytest.raises(ValueError):
        Namespace("", None).name_of("a", "b")
    assert Namespace("", None).parts_of("a.b") == ("a.b",)
    assert namespace.parts_of("Shared.Work") == ("Shared", "Work")
    assert namespace.name_of("inbox") == "INBOX"
    assert namespace.parts_of("INBOX.") == ("INBOX", "")


# Flags


async def test_flags_are_added_and_removed(line: Connection, remote: Remote) -> None:
    one, two, three = await fill(remote, 3)
    await remote.store_flags("INBOX", one, ["\\Seen", "\\Flagged"])
    await remote.store_flags("INBOX", two, ["\\Answered"])
    await line.select("INBOX")
    told = await line.store_flags([two, one, 999], add=frozenset({"\\Answered", "$Work"}), remove=SEEN)
    assert told == {
        one: kept(remote, ["\\Flagged", "\\Answered", "$Work"]),
        two: kept(remote, ["\\Answered", "$Work"]),
    }
    assert await flags_of(remote) == {**told, three: frozenset()}


async def test_flags_that_are_so_already(line: Connection, remote: Remote) -> None:
    (uid,) = await fill(remote, 1)
    await line.select("INBOX")
    for _ in range(2):
        assert await line.store_flags([uid], add=SEEN) == {uid: SEEN}
    for _ in range(2):
        assert await line.store_flags([uid], remove=SEEN) == {uid: frozenset()}
    assert await line.store_flags([uid]) == {}
    assert await line.store_flags([], add=SEEN) == {}
    assert await line.store_flags([999], add=SEEN) == {}


@pytest.mark.parametrize(
    "flag",
    ["\\Deleted", "\\deleted", "\\Recent", "", "\\", "a b", "a]b", "a)b", "(a", "{1}", "a%", "*", "\\*", 'a"', "a\\b",
     "é", "a\r\nb LOGOUT", "\x7f", "x" * 5_000],
)  # fmt: skip
async def test_what_is_no_flag_never_leaves(line: Connection, remote: Remote, flag: str) -> None:
    (uid,) = await fill(remote, 1)
    await line.select("INBOX")
    with pytest.raises(ValueError):
        await line.store_flags([uid], add=frozenset({flag}))
    if flag.lower() == "\\deleted":
        assert await line.store_flags([uid], remove=frozenset({flag})) == {uid: frozenset()}  # what we left may go
    else:
        with pytest.raises(ValueError):
            await line.store_flags([uid], remove=frozenset({flag}))
    with pytest.raises(ValueError):
        await line.append("INBOX", 3, pieces(b"a\r\n"), flags=frozenset({flag}))
    assert await flags_of(remote) == {uid: frozenset()}


async def test_a_change_to_many_messages(line: Connection, remote: Remote) -> None:
    for n in range(5):
        await line.append("INBOX", len(message(n)), pieces(message(n)))
    for _ in range(7):
        await line.select("INBOX")
        await line.copy(await line.list_uids(), "INBOX")
    await line.open("INBOX")
    uids = await line.list_uids()
    assert len(uids) == 640
    odd = uids[::2]  # no two neighbours: the set is long, and is cut
    await line.select("INBOX")
    assert await line.store_flags(odd, add=SEEN) == dict.fromkeys(odd, SEEN)
    assert await flags_of(remote) == {uid: SEEN if uid in odd else frozenset() for uid in uids}
    if line.abilities.expunge:
        await line.expunge(odd)
        assert sorted(await flags_of(remote)) == uids[1::2]


async def test_nothing_is_changed_in_a_folder_that_is_open_for_reading(line: Connection, remote: Remote) -> None:
    (uid,) = await fill(remote, 1)
    for opened in (line.noop, lambda: line.open("INBOX")):
        await opened()
        for call in (
            line.store_flags([uid], add=SEEN),
            line.expunge([uid]),
            line.move([uid], remote.folder("Archive")),
        ):
            with pytest.raises(ValueError):
                await call
    assert await flags_of(remote) == {uid: frozenset()}
    await line.copy([uid], remote.folder("Archive"))
    assert len(await remote.originals(remote.folder("Archive"))) == 1


# Moving, copying, removing


async def test_a_move(line: Connection, remote: Remote) -> None:
    archive = remote.folder("Archive")
    one, two, three = await fill(remote, 3)
    await remote.store_flags("INBOX", two, ["\\Seen"])
    await line.select("INBOX")
    if not line.abilities.move:
        with pytest.raises(ValueError):
            await line.move([one], archive)
        return
    placed = await line.move([three, two, 999], archive)
    assert sorted(await remote.originals("INBOX")) == [one]
    found = await remote.originals(archive)
    assert sorted(found.values(), key=lambda item: item[1]) == [
        (SEEN, stored(remote, message(1))),
        (frozenset(), stored(remote, message(2))),
    ]
    selected = await line.open(archive)
    by_uid = {meta.uid: meta for meta in await metas(line, EVERYTHING)}
    assert sorted(meta.internal_date for meta in by_uid.values() if meta.internal_date) == [NOON + DAY, NOON + 2 * DAY]
    check_placed(line, placed, selected.status.uidvalidity, {two: message(1), three: message(2)}, found, remote)


async def test_a_copy(line: Connection, remote: Remote) -> None:
    archive = remote.folder("Archive")
    one, two = await fill(remote, 2)
    await remote.store_flags("INBOX", two, ["\\Seen"])
    await line.select("INBOX")
    placed = await line.copy([one, two], archive)
    assert sorted(await remote.originals("INBOX")) == [one, two]
    found = await remote.originals(archive)
    assert len(found) == 2
    uidvalidity = (await line.open(archive)).status.uidvalidity
    if remote.copies:
        assert sorted(raw for _, raw in found.values()) == sorted(stored(remote, message(n)) for n in range(2))
        check_placed(line, placed, uidvalidity, {one: message(0), two: message(1)}, found, remote)
        assert {flags for flags, _ in found.values()} == {SEEN, frozenset()}


def check_placed(
    line: Connection,
    placed: Placed | None,
    uidvalidity: int,
    moved: dict[int, bytes],
    found: dict[int, tuple[frozenset[str], bytes]],
    remote: Remote,
) -> None:
    """Where the server says it is, it is."""
    assert (placed is not None) == line.abilities.places
    if placed is not None:
        assert placed.uidvalidity == uidvalidity
        assert {uid: found[to][1] for uid, to in placed.uids.items()} == {
            uid: stored(remote, raw) for uid, raw in moved.items()
        }


async def test_to_a_folder_that_is_not_there(line: Connection, remote: Remote) -> None:
    nowhere = remote.folder("Nowhere")
    (uid,) = await fill(remote, 1)
    await line.select("INBOX")
    with pytest.raises(FolderGoneError):
        await line.copy([uid], nowhere)
    if line.abilities.move:
        with pytest.raises(FolderGoneError):
            await line.move([uid], nowhere)
    for size in (len(message(0)), LARGE):
        with pytest.raises(FolderGoneError):
            await line.append(nowhere, size, pieces(message(0).ljust(size, b"x")))
    await line.noop()
    assert sorted(await remote.originals("INBOX")) == [uid]
    assert nowhere not in [folder.name for folder in await line.list_folders()]


async def test_messages_that_are_gone_are_passed_over(line: Connection, remote: Remote) -> None:
    (uid,) = await fill(remote, 1)
    await line.select("INBOX")
    await remote.expunge("INBOX", uid)
    await line.noop()
    await line.copy([uid], remote.folder("Archive"))
    if line.abilities.move:
        await line.move([uid], remote.folder("Archive"))
    if line.abilities.expunge:
        await line.expunge([uid])
    assert await remote.originals(remote.folder("Archive")) == {}
    assert await line.copy([], remote.folder("Archive")) is None


async def test_exactly_the_named_messages_are_removed(line: Connection, remote: Remote) -> None:
    one, two, three, four = await fill(remote, 4)
    await remote.store_flags("INBOX", three, ["\\Deleted"])
    await line.select("INBOX")
    await line.expunge([two, four, 999])
    assert await flags_of(remote) == {one: frozenset(), three: frozenset({"\\Deleted"})}
    await line.expunge([])
    await line.close()
    assert sorted(await flags_of(remote)) == [one, three]


# Appending


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
async def test_append(line: Connection, remote: Remote, size: int) -> None:
    drafts = remote.folder("Drafts")
    raw = message(7, size)
    wanted = frozenset({"\\Seen", "\\Draft", "$Work"})
    placed = await line.append(drafts, len(raw), pieces(raw), flags=wanted, internal_date=NOON)
    ((uid, (flags, found)),) = (await remote.originals(drafts)).items()
    assert (flags, found) == (kept(remote, wanted), stored(remote, raw))
    selected = await line.open(drafts)
    ((meta),) = await metas(line, EVERYTHING)
    assert (meta.uid, meta.internal_date) == (uid, NOON)
    assert await bodies(line, [uid]) == {uid: stored(remote, raw)}
    assert (placed is not None) == line.abilities.places
    if placed is not None:
        assert placed == Placed(selected.status.uidvalidity, {0: uid})


async def test_append_without_flags_and_date(line: Connection, remote: Remote) -> None:
    await line.select("INBOX")
    for n in range(3):
        await line.append("INBOX", len(message(n)), pieces(message(n), 1))
    assert await contents(remote, "INBOX") == [stored(remote, message(n)) for n in range(3)]
    assert set((await flags_of(remote)).values()) == {frozenset()}


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
async def test_append_to_the_folder_that_is_open_for_reading(line: Connection, remote: Remote, size: int) -> None:
    raw = message(7, size)
    for name in ("INBOX", remote.folder("Drafts")):
        await line.open(name)
        await line.append(name, len(raw), pieces(raw))
        assert await contents(remote, name) == [stored(remote, raw)]


@pytest.mark.parametrize("size", [100, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("off", [-1, 1, -90, 20_000])
async def test_a_message_of_another_size_is_never_stored(line: Connection, remote: Remote, size: int, off: int) -> None:
    raw = message(1, 2 * size)[: size + off]
    with pytest.raises(ValueError):
        await line.append("INBOX", size, pieces(raw))
    with contextlib.suppress(NetworkError):
        await line.close()
    assert await remote.originals("INBOX") == {}


@pytest.mark.parametrize("size", [100, LARGE], ids=["small", "large"])
async def test_a_message_whose_bytes_end_in_an_error_is_never_stored(
    line: Connection, remote: Remote, size: int
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield message(1, size)[: size - 1]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await line.append("INBOX", size, broken())
    await line.close()
    assert await remote.originals("INBOX") == {}


# Folders


async def test_a_folder_is_made_renamed_and_deleted(line: Connection, remote: Remote) -> None:
    for name in remote.names:
        before, after = remote.folder(name), remote.folder(f"{name} 2")
        await line.create_folder(before)
        await remote.append(before, message(1), received_at=NOON)
        assert before in [folder.name for folder in await line.list_folders()]
        await line.rename_folder(before, after)
        names = [folder.name for folder in await line.list_folders()]
        assert after in names
        assert before not in names
        assert await contents(remote, after) == [stored(remote, message(1))]
        await line.delete_folder(after)
        assert after not in [folder.name for folder in await line.list_folders()]


async def test_a_folder_inside_another_goes_along(line: Connection, remote: Remote) -> None:
    await line.create_folder(remote.folder("Work"))
    await line.create_folder(remote.folder("Work", "Old"))
    await line.rename_folder(remote.folder("Work"), remote.folder("Play"))
    names = {folder.name for folder in await line.list_folders()}
    assert {remote.folder("Play"), remote.folder("Play", "Old")} <= names
    assert not {remote.folder("Work"), remote.folder("Work", "Old")} & names


async def test_subscriptions_go_along(line: Connection, remote: Remote) -> None:
    """Mail programs that show what is subscribed show what was made, and lose nothing that is called otherwise."""
    work, old, hidden, beside = (
        remote.folder(*path) for path in (("Work",), ("Work", "Old"), ("Work", "No"), ("Work2",))
    )
    for name in (work, old, hidden, beside):
        await line.create_folder(name)
    await remote.unsubscribe(hidden)
    assert {work, old, beside} <= await remote.subscribed()
    await line.rename_folder(work, remote.folder("Play"))
    standing = await remote.subscribed()
    assert {remote.folder("Play"), remote.folder("Play", "Old"), beside} <= standing
    assert not {work, old, hidden, remote.folder("Play", "No")} & standing
    await line.delete_folder(beside)
    assert beside not in await remote.subscribed()
    # What the line's end cut off is done later, from the same or from nothing.
    await line.resubscribe(remote.folder("Play", "Old"), None)
    assert remote.folder("Play", "Old") not in await remote.subscribed()
    await line.resubscribe(None, remote.folder("Play", "Old"))
    await line.resubscribe(work, remote.folder("Play"))
    assert {remote.folder("Play"), remote.folder("Play", "Old")} <= await remote.subscribed()


async def test_folders_that_are_in_the_way(line: Connection, remote: Remote) -> None:
    for name in ("Work", "Play"):
        await line.create_folder(remote.folder(name))
    if not remote.breaks:
        for change in (
            line.create_folder(remote.folder("Work")),
            line.rename_folder(remote.folder("Work"), remote.folder("Play")),
        ):
            with pytest.raises(ServerError) as refused:
                await change
            assert refused.value.code == "ALREADYEXISTS"
            assert refused.value.retry is Retry.NEVER
        with pytest.raises(ServerError):
            await line.delete_folder("INBOX")
        await line.noop()


async def test_folders_that_are_not_there(line: Connection, remote: Remote) -> None:
    nowhere = remote.folder("Nowhere")
    with pytest.raises(FolderGoneError):
        await line.delete_folder(nowhere)
    if remote.refuses:
        with pytest.raises(FolderGoneError):
            await line.rename_folder(nowhere, remote.folder("Elsewhere"))
        await line.noop()


async def test_the_open_folder_may_go(line: Connection, remote: Remote) -> None:
    for change in ("rename", "delete"):
        await line.create_folder(remote.folder("Work"))
        await remote.append(remote.folder("Work"), message(1), received_at=NOON, flags=["\\Deleted"])
        await line.select(remote.folder("Work"))
        if change == "rename":
            await line.rename_folder(remote.folder("Work"), remote.folder("Play"))
            assert len(await remote.originals(remote.folder("Play"))) == 1
        else:
            await line.delete_folder(remote.folder("Work"))
        await line.noop()
        await line.open("INBOX")


async def test_a_folder_with_a_use(line: Connection, remote: Remote) -> None:
    """Whether the server keeps the use or not, the folder is made."""
    await line.create_folder(remote.folder("Stars"), SpecialUse.FLAGGED)
    uses = {folder.name: folder.special_use for folder in await line.list_folders()}
    assert uses[remote.folder("Stars")] in (SpecialUse.FLAGGED, None)


# The line


async def test_one_line_reads_and_writes_in_turn(line: Connection, remote: Remote) -> None:
    (uid,) = await fill(remote, 1)
    await line.open("INBOX")
    assert await bodies(line, [uid]) == {uid: stored(remote, message(0))}
    await line.select("INBOX")
    await line.store_flags([uid], add=SEEN)
    await line.append("INBOX", len(message(1)), pieces(message(1)))
    await line.open("INBOX")
    assert {meta.flags for meta in await metas(line, EVERYTHING)} == {SEEN, frozenset()}


async def test_another_line_hears_of_a_change(line: Connection, remote: Remote) -> None:
    (uid,) = await fill(remote, 1)
    other = await remote.connect()
    try:
        await other.open("INBOX")
        await line.select("INBOX")
        await line.store_flags([uid], add=SEEN)
        await other.noop()
        (change,) = [change async for batch in other.fetch_flags(EVERYTHING) for change in batch]
        assert change.flags == SEEN
    finally:
        await other.close()


async def test_a_line_that_is_down_changes_nothing(line: Connection, remote: Remote) -> None:
    (uid,) = await fill(remote, 1)
    await line.select("INBOX")
    await remote.drop_connections()
    with contextlib.suppress(NetworkError):
        while True:
            await line.noop()
    for call in (
        line.store_flags([uid], add=SEEN),
        line.copy([uid], "INBOX"),
        line.expunge([uid]),
        line.append("INBOX", len(message(1)), pieces(message(1))),
        line.append("INBOX", LARGE, pieces(message(1, LARGE)[:LARGE])),
        line.create_folder(remote.folder("Work")),
        line.select("INBOX"),
    ):
        with pytest.raises(NetworkError):
            await call
    assert await flags_of(remote) == {uid: frozenset()}


async def test_how_long_a_change_may_take(line: Connection) -> None:
    one = line.longest_s()
    assert 0 < one <= line.longest_s(1_000)
    assert line.longest_s(1, 100_000_000) >= one
    assert line.longest_s(None) > 0
