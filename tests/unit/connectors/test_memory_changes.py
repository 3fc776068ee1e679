"""The double as a server that is written to: what it keeps, refuses, and leaves half done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from connectors.errors import FolderGoneError, NetworkError, Retry, ServerError, ThrottledError
from connectors.memory import MemoryAccount, MemoryConnection
from connectors.memory.line import MemoryLine
from connectors.model import Namespace
from connectors.port import Abilities

SEEN = frozenset({"\\Seen"})
Change = Callable[[MemoryConnection], Awaitable[object]]


def account(count: int = 3, **offers: object) -> MemoryAccount:
    made = MemoryAccount(**offers)  # type: ignore[arg-type]
    made.create_folder("Archive")
    for n in range(count):
        made.append("INBOX", b"Subject: %d\r\n\r\nbody" % n, internal_date=n)
    return made


async def opened(server: MemoryAccount, folder: str = "INBOX") -> MemoryConnection:
    line = await server.connect()
    await line.select(folder)
    return line


async def chunk(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


CHANGES: dict[str, Change] = {
    "STORE": lambda line: line.store_flags([1], add=SEEN),
    "MOVE": lambda line: line.move([1], "Archive"),
    "COPY": lambda line: line.copy([1], "Archive"),
    "EXPUNGE": lambda line: line.expunge([1]),
    "APPEND": lambda line: line.append("Archive", 1, chunk(b"x")),
    "CREATE": lambda line: line.create_folder("New"),
    "RENAME": lambda line: line.rename_folder("Archive", "New"),
    "DELETE": lambda line: line.delete_folder("Archive"),
}


def state(server: MemoryAccount) -> object:
    return {
        name: [(m.raw, m.flags, m.email_id, m.labels) for m in folder.messages.values()]
        for name, folder in server.folders.items()
    }


@pytest.mark.parametrize("word", CHANGES)
async def test_a_change_cut_before_is_not_done_and_one_whose_answer_is_lost_is(word: str) -> None:
    untouched, done = state(account()), account()
    await CHANGES[word](await opened(done))
    steps = 2 if word == "EXPUNGE" else 1
    for fault, expected in (("cut_before", untouched), ("lose_answer", state(done))):
        server = account()
        setattr(server.faults, fault, steps - 1)
        line = await opened(server)
        with pytest.raises(NetworkError):
            await CHANGES[word](line)
        if word != "EXPUNGE" or fault == "lose_answer":
            assert state(server) == expected
        else:
            assert "\\Deleted" in server.folders["INBOX"].messages[1].flags  # the first half was done
        assert server.connections == []
        with pytest.raises(NetworkError):
            await line.noop()
        await CHANGES[word](await opened(account()))  # the fault was for once


@pytest.mark.parametrize("word", CHANGES)
async def test_a_cut_may_fall_on_every_step_of_a_change(word: str) -> None:
    before, after = state(account()), account()
    await CHANGES[word](await opened(after))
    seen = []
    for steps in range(10):
        server = account()
        line = await opened(server)
        server.faults.cut_after = steps
        try:
            await CHANGES[word](line)
        except NetworkError:
            seen.append(state(server))
        else:
            break
    assert seen[0] == before
    assert seen[-1] == state(after)


@pytest.mark.parametrize("word", CHANGES)
async def test_a_refused_change_is_not_done(word: str) -> None:
    server = account()
    line = await opened(server)
    before = state(server)
    for code, error in (("NOPERM", ServerError), (None, ServerError), ("INUSE", ThrottledError)):
        server.faults.refusals = {word: code}
        with pytest.raises(error) as refused:
            await CHANGES[word](line)
        if isinstance(refused.value, ServerError):
            assert (refused.value.code, refused.value.retry) == (code, Retry.NEVER)
        if word != "EXPUNGE":
            assert state(server) == before
    server.faults.refusals.clear()
    await CHANGES[word](line)


async def test_a_move_may_be_done_in_part() -> None:
    server = account()
    server.faults.move_only = 2
    with pytest.raises(NetworkError):
        await (await opened(server)).move([1, 2, 3], "Archive")
    assert sorted(server.folders["INBOX"].messages) == [3]
    assert len(server.folders["Archive"].messages) == 2


async def test_what_is_offered() -> None:
    server = account(move=False, uidplus=False, prefix="INBOX.", delimiter=".")
    line = await opened(server)
    assert line.abilities == Abilities(move=False, expunge=False, places=False, labels=False)
    assert not {"MOVE", "UIDPLUS"} & line.capabilities
    assert await line.namespace() == Namespace("INBOX.", ".")
    for word in ("MOVE", "EXPUNGE"):
        with pytest.raises(ValueError):
            await CHANGES[word](line)
    assert await line.copy([1], "Archive") is None
    assert await line.append("Archive", 1, chunk(b"x")) is None
    with pytest.raises(ServerError) as refused:
        await line.create_folder("Work")
    assert refused.value.code == "CANNOT"
    await line.create_folder("INBOX.Work")


async def test_flags_that_are_not_kept_are_dropped_in_silence() -> None:
    server = account(keeps_flags=frozenset({"\\Seen", "\\Flagged"}))
    line = await opened(server)
    assert (await line.select("INBOX")).permanent_flags == {"\\Seen", "\\Flagged"}
    assert await line.store_flags([1], add=frozenset({"\\Seen", "Work"})) == {1: SEEN}
    await line.append("INBOX", 1, chunk(b"x"), flags=frozenset({"\\Seen", "Work"}))
    assert server.folders["INBOX"].messages[4].flags == SEEN
    await line.expunge([1])
    assert sorted(server.folders["INBOX"].messages) == [2, 3, 4]


async def test_labels_and_email_ids() -> None:
    server = account(labels=True)
    line = await opened(server)
    await line.store_labels([1, 99], add=frozenset({"\\Inbox", "Work"}))
    await line.store_labels([1], remove=frozenset({"\\Inbox"}))
    await line.move([1], "Archive")
    await line.open("Archive")
    ((meta,),) = [batch async for batch in line.fetch_meta([range(1, 9)])]
    assert (meta.labels, meta.email_id) == ({"Work"}, "1")
    ((change,),) = [batch async for batch in line.fetch_flags([range(1, 9)])]
    assert change.labels == {"Work"}
    assert {m.email_id for m in server.folders["INBOX"].messages.values()} == {"2", "3"}
    with pytest.raises(ValueError):
        await (await opened(account())).store_labels([1], add=frozenset({"a"}))


async def test_object_ids_go_along() -> None:
    server = account(object_ids=True)
    line = await opened(server)
    await line.copy([2], "Archive")
    assert server.folders["Archive"].messages[1].email_id == server.folders["INBOX"].messages[2].email_id == "2"
    assert "OBJECTID" in line.capabilities


async def test_a_quota() -> None:
    server = account(count=1, quota=30)
    line = await opened(server)
    for change in (CHANGES["COPY"](line), line.append("INBOX", 20, chunk(b"x" * 20))):
        with pytest.raises(ServerError) as refused:
            await change
        assert refused.value.code == "OVERQUOTA"
    await CHANGES["MOVE"](line)
    await CHANGES["APPEND"](line)


async def test_a_folder_that_is_read_only() -> None:
    server = account()
    server.folders["INBOX"].read_only = True
    line = await server.connect()
    assert (await line.select("INBOX")).read_only
    for word in ("STORE", "MOVE", "EXPUNGE"):
        with pytest.raises(ServerError) as refused:
            await CHANGES[word](line)
        assert refused.value.code == "NOPERM"
    await CHANGES["COPY"](line)


async def test_a_refused_folder_takes_nothing() -> None:
    server = account()
    line = await opened(server)
    server.faults.refuse.add("Archive")
    for word in ("MOVE", "COPY", "APPEND"):
        with pytest.raises(ServerError) as refused:
            await CHANGES[word](line)
        assert refused.value.code == "NOPERM"


async def test_folders_that_cannot_be_changed() -> None:
    server = account()
    line = await opened(server)
    for change in (line.delete_folder("INBOX"), line.rename_folder("INBOX", "Old")):
        with pytest.raises(ServerError) as refused:
            await change
        assert refused.value.code == "CANNOT"
    with pytest.raises(FolderGoneError):
        await line.rename_folder("Nowhere", "Somewhere")
    server.create_folder("Top", selectable=False)
    await line.create_folder("Top")
    assert server.folders["Top"].selectable


async def test_the_clock_of_the_server_dates_what_is_appended() -> None:
    server = account(now=77)
    await (await opened(server)).append("Archive", 1, chunk(b"x"))
    assert server.folders["Archive"].messages[1].internal_date == 77


async def test_every_change_is_written_down() -> None:
    server = account()
    line = await opened(server)
    await line.store_flags([2, 1], add=SEEN, remove=frozenset({"b", "a"}))
    await line.expunge([3])
    await line.rename_folder("Archive", "Old")
    assert server.commands[2:] == [
        "UID STORE 1,2 +FLAGS (\\Seen)",
        "UID STORE 1,2 -FLAGS (a b)",
        "UID STORE 3 +FLAGS (\\Deleted)",
        "UID EXPUNGE 3",
        "FETCH flags",
        "RENAME Archive Old",
    ]


async def test_what_an_expunge_leaves_is_told_and_is_not_left_marked() -> None:
    """Another client takes the mark off before the message is removed."""
    server = account()
    line = await opened(server)
    real = MemoryLine._step

    async def step(line: MemoryLine, command: str | None) -> None:
        if command == "UID EXPUNGE 1,2":
            server.store_flags("INBOX", 2, ["\\Seen"])
        await real(line, command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryLine, "_step", step)
        with pytest.raises(ServerError) as caught:
            await line.expunge([1, 2])
    assert (caught.value.code, caught.value.retry) == ("NOPERM", Retry.NEVER)
    assert {uid: m.flags for uid, m in server.folders["INBOX"].messages.items()} == {2: SEEN, 3: frozenset()}
